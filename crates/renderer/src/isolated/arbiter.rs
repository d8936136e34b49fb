//! Who grants a guest its time, if anybody does: asked before anything is begun, told how it gets on.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use device::guest_log;
use protocol::ContextId;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::{ARBITER, Isolated, KINDS};

/// What is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Whatever the guest wants.
    #[default]
    Open,
    /// What is under way goes on; what is asked for now waits.
    Gated,
    /// Its processes are ended, and none is started: its work is answered with errors.
    Held,
}

/// How it gets on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests that are not answered; while gated, of those that were begun.
    pub waiting: u32,
    /// Requests taken and answers given since the device started, modulo 2^32.
    pub done: u32,
    /// The last request that a process began, and its context.
    pub last: Option<(&'static str, ContextId)>,
}

/// One who grants time. No method waits.
pub trait Arbiter: Send {
    /// Readable when [`poll`](Self::poll) is due. The same for its life.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes in what it has to say.
    fn poll(&mut self);
    /// What is granted now.
    fn granted(&self) -> Grant;
    /// For how long processes were kept from running until now, by it or with its knowledge. Never falls.
    fn stopped(&mut self) -> Duration;
    /// Is told how the guest gets on.
    fn report(&mut self, progress: Progress);
}

impl Isolated {
    /// From now on, time is granted by this one.
    pub fn under(mut self, arbiter: Box<dyn Arbiter>) -> std::io::Result<Self> {
        epoll::add(&self.epoll, arbiter.fd(), EventData::new_u64(ARBITER), EventFlags::IN)?;
        self.arbiter = Some(arbiter);
        Ok(self)
    }

    /// Whether nothing may be begun until somebody says otherwise.
    pub(super) fn is_held(&self) -> bool {
        self.granted == Grant::Held
    }

    /// Learns what is granted now, and does what follows from it.
    pub(super) fn obey(&mut self, now: Instant) {
        let Some(arbiter) = &mut self.arbiter else { return };
        self.clock.set_stopped(arbiter.stopped(), now);
        let granted = arbiter.granted();
        if granted == self.granted {
            return;
        }
        let guest = &self.options.name;
        match (granted, self.granted) {
            (Grant::Held, _) => {
                guest_log!(warn, "Guest {guest}: its 3D is held: what it draws fails until it is released")
            }
            (_, Grant::Held) => guest_log!(info, "Guest {guest}: its 3D is released"),
            _ => {}
        }
        self.granted = granted;
        for process in self.processes.iter_mut().flatten() {
            process.set_gate(granted == Grant::Gated);
        }
        if granted == Grant::Held {
            for kind in KINDS {
                self.lose(kind, "is held", now);
            }
        }
    }

    /// Tells how it gets on.
    pub(super) fn report(&mut self) {
        let Some(arbiter) = &mut self.arbiter else { return };
        let mut progress = Progress { done: self.done, ..Progress::default() };
        for process in self.processes.iter().flatten() {
            progress.waiting = progress.waiting.saturating_add(process.waiting());
            progress.done = progress.done.wrapping_add(process.done());
            progress.last = process.last().or(progress.last);
        }
        progress.last = progress.last.or(self.last);
        self.last = progress.last;
        arbiter.report(progress);
    }
}
