//! How a new side socket reaches the display: the transport that receives it names no display.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Gives side sockets to a [`super::VhostUserGpu`], from any thread. The newest counts: one that was not taken yet is closed.
#[derive(Clone, Debug)]
pub struct GpuSocketSender(Arc<Mailbox>);

/// One socket at most.
#[derive(Debug)]
pub(super) struct Mailbox {
    socket: Mutex<Option<OwnedFd>>,
    full: AtomicBool,
    hung_up: AtomicBool,
    wake: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            socket: Mutex::new(None),
            full: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
            wake,
        }))
    }

    /// Whether a socket is there. Costs nothing.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// The socket, if there is one, and whether the earlier one hung up.
    pub(super) fn take(&self) -> (Option<OwnedFd>, bool) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // Empty already is as good.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.full.store(false, Ordering::Release);
        (socket.take(), self.hung_up.swap(false, Ordering::AcqRel))
    }

    /// Has the next poll know that the socket in use hung up.
    pub(super) fn tell_hung_up(&self) {
        self.hung_up.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        // A counter that is full is readable, which is what counts.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl AsFd for Mailbox {
    /// Readable when a socket is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl GpuSocketSender {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self(mailbox)
    }

    /// The VMM's newest side socket.
    pub fn send(&self, socket: OwnedFd) {
        let mut place = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(socket);
        self.0.full.store(true, Ordering::Release);
        self.0.ring();
    }
}
