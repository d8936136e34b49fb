//! The seam between a host's 3D library and who calls it: the process of its own it lives in, or a bench.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::{HostBlob, Ticket, Way};
use protocol::{CapsetId, ContextId, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use serde::{Deserialize, Serialize};
use vm_memory::{MmapRegion, VolatileSlice};

/// Which of its libraries a process has: each is initialized once for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// OpenGL: capability sets virgl and virgl2.
    Gl,
    /// Vulkan: capability sets venus and drm.
    Vk,
}

impl Kind {
    /// Who serves a context of this kind.
    pub fn of(capset: CapsetId) -> Option<Self> {
        match capset {
            CapsetId::VIRGL | CapsetId::VIRGL2 => Some(Kind::Gl),
            CapsetId::VENUS | CapsetId::DRM => Some(Kind::Vk),
            _ => None,
        }
    }
}

/// Where a library tells that a fence is done. Called on threads of its own.
pub trait Sink: Send + Sync {
    /// The fence of that ticket is done.
    fn retired(&self, ticket: Ticket);
}

/// A piece of guest memory, mapped in this process for as long as anybody holds it.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The mapping.
    pub mapping: Arc<MmapRegion>,
    /// Where in the mapping it starts, in bytes.
    pub offset: usize,
    /// Its length in bytes; lies inside the mapping.
    pub len: usize,
}

/// Memory of a blob, as a library hands it out. Nothing of it is to be trusted.
#[derive(Debug)]
pub struct Exported {
    /// A memfd or a dma-buf.
    pub file: OwnedFd,
    /// `VIRTIO_GPU_MAP_CACHE_*`.
    pub caching: u32,
}

/// A 3D library, called on one thread. It does what it is told and waits for what it must; who calls it has checked nothing but
/// that ids are not used twice and exist.
pub trait Library {
    /// A new context.
    fn open(&mut self, context: ContextId, capset: CapsetId, name: &[u8]) -> Result<(), ReplyError>;
    /// It is gone.
    fn close(&mut self, context: ContextId);
    /// The context may use the resource.
    fn join(&mut self, context: ContextId, resource: ResourceId);
    /// The context may use it no longer.
    fn leave(&mut self, context: ContextId, resource: ResourceId);
    /// Commands that nobody changes meanwhile; a whole number of 32-bit words.
    fn submit(&mut self, context: ContextId, commands: &mut [u8]) -> Result<(), ReplyError>;
    /// The sink is told when all before it on this ring of the context is done. After an error it is not.
    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Result<(), ReplyError>;
    /// A new resource.
    fn create(&mut self, resource: ResourceId, desc: &Resource3d) -> Result<(), ReplyError>;
    /// A new blob, and its memory where it can be mapped.
    fn create_blob(&mut self, context: ContextId, blob: &HostBlob) -> Result<Option<Exported>, ReplyError>;
    /// It is gone, and the pieces it had are let go.
    fn destroy(&mut self, resource: ResourceId);
    /// The resource has these pages, until [`detach`](Self::detach).
    fn attach(&mut self, resource: ResourceId, pieces: Vec<Piece>) -> Result<(), ReplyError>;
    /// It has none; the library does not use them any more.
    fn detach(&mut self, resource: ResourceId);
    /// Copies between a resource and its pages.
    fn transfer(&mut self, context: ContextId, way: Way, transfer: &Transfer3d) -> Result<(), ReplyError>;
    /// Reads a part of a resource's first level, the upper row first, into `target`, whose rows have `stride` bytes.
    fn read(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        target: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError>;
    /// Replaces a part of a resource's first level by what `source` has, the upper row first, whose rows have `stride` bytes.
    fn write(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        source: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError>;
    /// Does what the library wants to be done now and then. Returns milliseconds until it is to be called again, if fences are
    /// open that nobody would tell of otherwise.
    fn poll(&mut self) -> Option<u32>;
}
