//! Interrupts over vhost-user: eventfds for rings, a message for the configuration.

use std::os::fd::OwnedFd;

use device::guest_log;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::message::{code, notice};
use crate::interrupt::{Interrupt, never_blocking, signal};
use crate::worker::Wired;

/// Where a front-end wants to be told.
#[derive(Debug, Default)]
pub struct Eventfds {
    calls: Vec<Option<OwnedFd>>,
    errors: Vec<Option<OwnedFd>>,
    channel: Option<OwnedFd>,
}

impl Eventfds {
    /// For so many queues; nobody is told anything yet.
    pub fn new(queues: usize) -> Self {
        let none = || std::iter::repeat_with(|| None).take(queues).collect();
        Self { calls: none(), errors: none(), channel: None }
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
            Wire::Channel(channel) => self.channel = channel,
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.calls.len());
    }
}

impl Interrupt for Eventfds {
    fn queue(&mut self, queue: u16) {
        tell(&self.calls, queue);
    }

    /// An answer is not asked for: while the front-end waits for us it would not come.
    fn config(&mut self) {
        let Some(channel) = &self.channel else { return };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match send(channel, &notice(code::BACKEND_CONFIG_CHANGE), flags) {
            // A full socket holds many such messages already, and one is enough.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => guest_log!(warn, "Front-end cannot be told of a new configuration: {error}"),
        }
    }

    fn broken(&mut self, queue: u16) {
        tell(&self.errors, queue);
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
