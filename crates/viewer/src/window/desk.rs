//! What the windows have in the hub: a place for each head, and one seat for the person before them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frames::Input;

use crate::floor::{FloorNews, Outcome, Seat};
use crate::hub::{Hub, Joined};
use crate::tokens::Pass;

/// What the windows have in the hub. Whoever finds out that the windows are gone gives it back, in whichever thread.
#[derive(Debug)]
pub(super) struct Desk {
    hub: Arc<Hub>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None: the windows are gone.
    seat: Option<Seat>,
    places: BTreeMap<u8, Joined>,
}

impl Desk {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        let seat = hub.sit(Pass::of_the_owner(), "the window");
        Self { hub, state: Mutex::new(State { seat: Some(seat), places: BTreeMap::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Looks at a head from now on.
    pub(super) fn place(&self, head: u8, joined: Joined) {
        let mut state = self.lock();
        if state.seat.is_some() {
            state.places.insert(head, joined);
        }
    }

    /// Looks at a head no more.
    pub(super) fn leave(&self, head: u8) {
        let left = self.lock().places.remove(&head);
        drop(left);
    }

    /// The windows are gone: looks at nothing, holds nothing down, and has nothing to say.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        let left = (std::mem::take(&mut state.places), state.seat.take());
        drop(state);
        drop(left);
    }

    /// Acts at the place that looks at a head, if one does.
    pub(super) fn at<T>(&self, head: u8, act: impl FnOnce(&Joined) -> T) -> Option<T> {
        self.lock().places.get(&head).map(act)
    }

    pub(super) fn input(&self, head: u8, input: Input) -> Outcome {
        self.lock().seat.as_ref().map_or(Outcome::NoInput, |seat| seat.input(head, input))
    }

    /// Wishes for another size of a head.
    pub(super) fn resize(&self, head: u8, width: u32, height: u32) -> Outcome {
        self.lock().seat.as_ref().map_or(Outcome::MayNot, |seat| seat.resize(head, width, height))
    }

    pub(super) fn take_control(&self) {
        if let Some(seat) = &self.lock().seat {
            seat.take();
        }
    }

    /// True while somebody else controls.
    pub(super) fn is_watching(&self, news: &FloorNews) -> bool {
        let own = self.lock().seat.as_ref().map(Seat::id);
        news.holder.is_some() && news.holder != own
    }
}
