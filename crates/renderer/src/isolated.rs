//! A library for OpenGL and Vulkan in processes of its own: whatever becomes of them, the device goes on.

pub mod child;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::three_d::LOST;
use device::{Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Rendered, Stats, ThreeD, Ticket, Way};
use protocol::{CapsetId, ContextId, MemEntry, Rect, Resource3d, ResourceId, Transfer3d};

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

/// How processes of a library are to be treated.
#[derive(Clone, Debug)]
pub struct Options {
    /// What a guest may be offered.
    pub capsets: Vec<Capset>,
    /// How long one may have work and do nothing before it counts as hung.
    pub patience: Duration,
    /// How often one of a kind may be started within a minute.
    pub restarts: u32,
    /// The guest's name, for a log.
    pub name: String,
    /// Where is counted what befalls them.
    pub stats: Arc<Stats>,
}

/// Contexts, resources and blobs that live in processes of their own, one for each [`Kind`] that a guest uses.
pub struct Isolated {
    options: Options,
    _children: Box<dyn Children>,
}

impl Isolated {
    /// Nothing is started before there is work.
    pub fn new(options: Options, children: Box<dyn Children>) -> io::Result<Self> {
        Ok(Self { options, _children: children })
    }
}

impl ThreeD for Isolated {
    fn capsets(&self) -> &[Capset] {
        &self.options.capsets
    }

    fn open(&mut self, _ticket: Ticket, _context: ContextId, _capset: CapsetId, _name: &[u8]) -> Progress {
        LOST
    }

    fn close(&mut self, _context: ContextId) {}

    fn join(&mut self, _context: ContextId, _resource: ResourceId) {}

    fn leave(&mut self, _context: ContextId, _resource: ResourceId) {}

    fn submit(&mut self, _ticket: Ticket, _context: ContextId, _commands: &[u8]) -> Progress {
        LOST
    }

    fn fence(&mut self, _ticket: Ticket, _context: ContextId, _ring: u8) -> Progress {
        LOST
    }

    fn create(&mut self, _ticket: Ticket, _resource: ResourceId, _desc: &Resource3d) -> Progress {
        LOST
    }

    fn create_blob(&mut self, _ticket: Ticket, _context: ContextId, _blob: &HostBlob) -> Progress {
        LOST
    }

    fn destroy(&mut self, _resource: ResourceId) {}

    fn attach(&mut self, _ticket: Ticket, _resource: ResourceId, _entries: &[MemEntry]) -> Progress {
        LOST
    }

    fn detach(&mut self, _ticket: Ticket, _resource: ResourceId) -> Progress {
        LOST
    }

    fn transfer(&mut self, _ticket: Ticket, _context: ContextId, _way: Way, _transfer: &Transfer3d) -> Progress {
        LOST
    }

    fn mapping(&mut self, _resource: ResourceId) -> Option<HostMapping> {
        None
    }

    fn read(&mut self, _ticket: Ticket, _resource: ResourceId, _rect: Rect) -> Progress {
        LOST
    }

    fn pixels(&mut self, _resource: ResourceId) -> Option<Pixels<'_>> {
        None
    }

    fn memory(&mut self, _memory: &Memory) {}

    fn reset(&mut self) {}

    fn poll(&mut self, _now: Instant, _done: &mut Vec<Rendered>) {}
}
