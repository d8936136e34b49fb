//! Events on their way to the device, from the thread that serves it and from the library's own.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::Ticket;
use foldhash::{HashMap, HashMapExt};
use protocol::ContextId;

use crate::isolated::shared::{self, Producer, Shared, ring_bell};
use crate::isolated::wire::{Event, at, encode_event};
use crate::library::Sink;

/// Puts events into their ring, and wakes the device if it sleeps.
pub struct Events {
    memory: Arc<Shared>,
    bell: OwnedFd,
    state: Mutex<State>,
}

struct State {
    events: Producer,
    /// Fences that the library has.
    fences: HashMap<Ticket, ContextId>,
}

impl Events {
    pub fn new(memory: Arc<Shared>, bell: OwnedFd) -> Self {
        let state = State { events: Producer::new(shared::EVENTS), fences: HashMap::new() };
        Self { memory, bell, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the device.
    pub fn tell(&self, ticket: Ticket, event: Event) {
        self.push(&mut self.state(), ticket, event);
        if self.memory.must_wake(at::DEVICE_SLEEPS) {
            self.wake();
        }
    }

    /// Tells the device when it looks for another reason.
    pub fn tell_quietly(&self, ticket: Ticket, event: Event) {
        self.push(&mut self.state(), ticket, event);
    }

    fn push(&self, state: &mut State, ticket: Ticket, event: Event) {
        // A device does not ask for more than there is room for; one that does waits in vain.
        if state.events.has_room() || state.events.look(&self.memory).is_ok() && state.events.has_room() {
            state.events.push(&self.memory, bytemuck::bytes_of(&encode_event(ticket, event)));
        }
    }

    /// The device is to look.
    pub fn wake(&self) {
        ring_bell(&self.bell);
    }

    /// The library is about to be given a fence.
    pub fn expect(&self, ticket: Ticket, context: ContextId) {
        self.state().fences.insert(ticket, context);
    }

    /// It did not take it. Whether it has told nothing of it either.
    pub fn forget(&self, ticket: Ticket) -> bool {
        self.state().fences.remove(&ticket).is_some()
    }

    /// A context is gone, and its fences with it.
    pub fn retire_all(&self, context: ContextId) {
        let mut state = self.state();
        let mut gone: Vec<Ticket> = state.fences.extract_if(|_, of| *of == context).map(|(ticket, _)| ticket).collect();
        gone.sort_unstable();
        for ticket in &gone {
            self.push(&mut state, *ticket, Event::Retired);
        }
        drop(state);
        if !gone.is_empty() && self.memory.must_wake(at::DEVICE_SLEEPS) {
            self.wake();
        }
    }
}

impl Sink for Events {
    fn retired(&self, ticket: Ticket) {
        let mut state = self.state();
        if state.fences.remove(&ticket).is_none() {
            return;
        }
        self.push(&mut state, ticket, Event::Retired);
        drop(state);
        if self.memory.must_wake(at::DEVICE_SLEEPS) {
            self.wake();
        }
    }
}
