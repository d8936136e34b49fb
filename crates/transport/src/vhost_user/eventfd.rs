//! Interrupts over vhost-user: eventfds for rings; and the channel for what takes words.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::exports::Shared;
use super::window::BackendChannel;
use crate::interrupt::{Interrupt, never_blocking, signal};
use crate::window::Mapper;
use crate::worker::Wired;

/// Where a front-end wants to be told.
#[derive(Debug)]
pub struct Eventfds {
    calls: Vec<Option<OwnedFd>>,
    errors: Vec<Option<OwnedFd>>,
    channel: BackendChannel,
}

impl Eventfds {
    /// For so many queues; nobody is told anything yet.
    pub fn new(queues: usize, shared: Arc<Shared>) -> Result<Self, Errno> {
        let none = || std::iter::repeat_with(|| None).take(queues).collect();
        Ok(Self { calls: none(), errors: none(), channel: BackendChannel::new(shared)? })
    }
}

/// What a front-end says of where it wants to be told.
#[derive(Debug)]
pub enum Wire {
    /// SET_VRING_CALL.
    Call(u16, Option<OwnedFd>),
    /// SET_VRING_ERR.
    Error(u16, Option<OwnedFd>),
    /// SET_BACKEND_REQ_FD, or a reason not to use it: a front-end that does not want to hear of its configuration.
    Channel(Option<OwnedFd>),
}

impl Wired for Eventfds {
    type Change = Wire;

    fn change(&mut self, change: Wire) {
        match change {
            Wire::Call(queue, fd) => set(&mut self.calls, queue, fd),
            Wire::Error(queue, fd) => set(&mut self.errors, queue, fd),
            Wire::Channel(channel) => self.channel.connect(channel),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.channel.descriptor())
    }

    fn look(&mut self) {
        self.channel.look();
    }

    fn reset(&mut self) {
        self.calls.fill_with(|| None);
        self.errors.fill_with(|| None);
        self.channel.reset();
    }
}

impl Interrupt for Eventfds {
    fn queue(&mut self, queue: u16) {
        tell(&self.calls, queue);
    }

    fn config(&mut self) {
        self.channel.tell_config();
    }

    fn broken(&mut self, queue: u16) {
        tell(&self.errors, queue);
    }

    fn mapper(&mut self) -> Option<&mut dyn Mapper> {
        Some(&mut self.channel)
    }
}

fn set(fds: &mut [Option<OwnedFd>], queue: u16, fd: Option<OwnedFd>) {
    if let Some(place) = fds.get_mut(usize::from(queue)) {
        *place = fd.map(never_blocking);
    }
}

fn tell(fds: &[Option<OwnedFd>], queue: u16) {
    fds.get(usize::from(queue)).into_iter().flatten().for_each(signal);
}
