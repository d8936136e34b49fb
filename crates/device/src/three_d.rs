//! The seam between the device and a host's library for OpenGL and Vulkan.
//!
//! The device keeps the tables of contexts, of who is a member of which, and of fences; it never asks the library whether an
//! id exists, and never hands it one twice. It calls [`open`](ThreeD::open) only for a context's first work.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};

use crate::display::Pixels;
use crate::memory::Memory;
use crate::render::{Progress, Rendered};
use crate::virtio::{Front, HostMapping, Ticket};

/// A capability set, as a guest is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capset {
    /// Which.
    pub id: CapsetId,
    /// The newest version.
    pub version: u32,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// How many timelines for fences a context of it has.
    pub rings: u8,
    /// Whether it needs memory of the host to be mapped into the guest.
    pub maps: bool,
}

impl Capset {
    /// Whether a driver behind such a front-end can use it.
    pub fn is_for(&self, front: Front) -> bool {
        let needs_kind = !matches!(self.id, CapsetId::VIRGL | CapsetId::VIRGL2);
        (front.maps || !self.maps) && (front.context_init || !needs_kind)
    }
}

/// Which way pixels go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the backing into the resource.
    ToHost,
    /// From the resource into the backing.
    FromHost,
}

/// A blob of RESOURCE_CREATE_BLOB that a context makes (virtio 1.3, section 5.7.6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostBlob {
    /// The guest's name for it.
    pub resource: ResourceId,
    /// `VIRTIO_GPU_BLOB_MEM_*`.
    pub mem: u32,
    /// `VIRTIO_GPU_BLOB_FLAG_USE_*`.
    pub flags: u32,
    /// The guest's name for what the context made.
    pub id: u64,
    /// Size in bytes.
    pub size: u64,
}

/// Contexts, their resources and blobs. No method blocks; what is not done at once is told by [`poll`](Self::poll), once for
/// each ticket.
///
/// Calls take effect in the order in which they were made, whatever the order of the answers: the device does not wait for one
/// answer before it makes the next call.
///
/// Whatever happens to the library, each ticket is answered. What was lost stays so: work on a lost context or resource fails
/// at once with `Unspec`, and closing or destroying it is always right.
pub trait ThreeD: Send {
    /// What a guest may be offered. The same for its life.
    fn capsets(&self) -> &[Capset];

    /// Whether work of contexts for this set, and what is made for them, is not to be asked for now: there is no room for it. What
    /// is asked for all the same is carried out in its turn. When there is room again, [`poll`](Self::poll) is due.
    fn is_full(&self, _capset: CapsetId) -> bool {
        false
    }

    /// A new context. `name` is the guest's, at most 64 bytes, of any kind.
    fn open(&mut self, ticket: Ticket, context: ContextId, capset: CapsetId, name: &[u8]) -> Progress;

    /// The context is gone. Takes effect at once, whatever is still under way in it.
    fn close(&mut self, context: ContextId);

    /// The context may use the resource.
    fn join(&mut self, context: ContextId, resource: ResourceId);

    /// The context may use it no longer.
    fn leave(&mut self, context: ContextId, resource: ResourceId);

    /// Commands of the context's own protocol; a whole number of 32-bit words.
    fn submit(&mut self, ticket: Ticket, context: ContextId, commands: &[u8]) -> Progress;

    /// Answers the ticket when all that was submitted to the context's ring before is done. A lost context's fences are
    /// answered at once.
    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Progress;

    /// A new resource of the library's.
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: &Resource3d) -> Progress;

    /// A new blob, which the context made or makes.
    fn create_blob(&mut self, ticket: Ticket, context: ContextId, blob: &HostBlob) -> Progress;

    /// The resource is gone. Takes effect at once, whatever is still under way on it.
    fn destroy(&mut self, resource: ResourceId);

    /// The guest gave the resource pages, all of which are in its memory.
    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress;

    /// The guest took them back: once this is answered, nobody uses them.
    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress;

    /// Copies between a resource and its backing.
    fn transfer(&mut self, ticket: Ticket, context: ContextId, way: Way, transfer: &Transfer3d) -> Progress;

    /// The memory of a blob that was created, if it can be mapped.
    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping>;

    /// Reads a part of a resource's first level into what [`pixels`](Self::pixels) shows, the upper row first.
    fn read(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect) -> Progress;

    /// Replaces a part of a resource's first level by the same part of `pixels`, the upper row first, whose rows are packed at
    /// `width * 4` bytes. They are used during this call only.
    fn write(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect, pixels: &Pixels<'_>) -> Progress;

    /// A resource's pixels as they were read last, black where they never were; rows packed at `width * 4` bytes.
    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>>;

    /// What was read of a resource is not looked at again before it is read anew: its memory may be given back.
    fn forget_pixels(&mut self, resource: ResourceId);

    /// Whether a context that was opened is there. Not if it could not be opened, or was lost, as far as is known by now.
    fn is_open(&self, context: ContextId) -> bool;

    /// Whether a resource that was made is there. Not if it could not be made, or was lost, as far as is known by now.
    fn has(&self, resource: ResourceId) -> bool;

    /// The next call is under this memory.
    fn memory(&mut self, memory: &Memory);

    /// No more calls for the moment: what was put together is sent.
    fn submit_all(&mut self) {}

    /// Every context and resource is gone.
    fn reset(&mut self);

    /// Readable when [`poll`](Self::poll) has something to tell. The same descriptor for its life.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Appends what was promised by [`Progress::Later`] and has come.
    fn poll(&mut self, _now: Instant, _done: &mut Vec<Rendered>) {}

    /// When [`poll`](Self::poll) is due although nothing is readable.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// What becomes of work on something that was lost.
pub const LOST: Progress = Progress::Done(Err(ReplyError::Unspec));
