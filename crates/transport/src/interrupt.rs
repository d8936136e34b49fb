//! How the driver is told.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::window::Mapper;

/// The way from a device to its driver.
pub trait Interrupt {
    /// The used ring of `queue` has news that the driver wants to hear of.
    fn queue(&mut self, queue: u16);
    /// The configuration changed.
    fn config(&mut self);
    /// The ring of `queue` cannot be followed and has been stopped.
    fn broken(&mut self, queue: u16);
    /// Who maps memory of the host for the guest; every request fails when there is nobody.
    fn mapper(&mut self) -> Option<&mut dyn Mapper> {
        None
    }
}

/// An eventfd by which a front-end wants to be told. Writing to a full one would block, so it is switched over when it comes.
pub(crate) fn never_blocking(fd: OwnedFd) -> OwnedFd {
    if let Ok(flags) = fcntl_getfl(&fd)
        && !flags.contains(OFlags::NONBLOCK)
    {
        let _ = fcntl_setfl(&fd, flags | OFlags::NONBLOCK);
    }
    fd
}

/// Tells it.
pub(crate) fn signal(fd: &OwnedFd) {
    // What cannot be told need not be: a full counter wakes the driver as well, and a closed pipe wakes nobody.
    let _ = rustix::io::write(fd.as_fd(), &1u64.to_ne_bytes());
}
