//! A library for OpenGL and Vulkan in processes of its own: whatever becomes of them, the device goes on.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::library::Kind;

/// A process that has ended, or was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub id: u32,
    /// How, for a log.
    pub how: String,
}

/// Who starts and ends processes for us: a device that locked itself in cannot. No method waits.
pub trait Children: Send {
    /// Starts one that serves `socket`, and names it. Never reused.
    fn start(&mut self, kind: Kind, socket: OwnedFd) -> io::Result<u32>;
    /// Ends one at once, with all that it started.
    fn kill(&mut self, id: u32);
    /// Those that have ended since it was asked last.
    fn ended(&mut self) -> Vec<Ended>;
    /// Readable when one has ended.
    fn fd(&self) -> BorrowedFd<'_>;
}
