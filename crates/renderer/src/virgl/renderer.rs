//! The library as the seam wants it: what it keeps wrongly is kept here, and it is asked only what it answers rightly.

use std::os::fd::OwnedFd;

use device::{HostBlob, Ticket, Way};
use foldhash::{HashMap, HashMapExt, HashSet};
use protocol::{CapsetId, ContextId, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use vm_memory::VolatileSlice;

use super::ring;
use super::rules::{self, Copy};
use crate::library::{Exported, Kind, Library, Piece};

#[cfg(test)]
mod tests;

/// Milliseconds between two looks at fences that nobody would tell of otherwise.
const POLL: u32 = 1;
/// `VIRTIO_GPU_BLOB_MEM_*`
const MEM_HOST3D: u32 = 2;
/// `VIRTIO_GPU_BLOB_FLAG_USE_MAPPABLE`, and all flags that there are.
const USE_MAPPABLE: u32 = 1;
const USE_FLAGS: u32 = 7;

/// What a blob's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    DmaBuf,
    Shared,
}

/// The library's calls: numbers as it knows them, 0 where all went well.
pub(super) trait Calls {
    fn open(&mut self, context: u32, capset: u32, name: &[u8]) -> i32;
    /// Waits until all fences of a context were told, but not for ever.
    fn settle(&mut self, context: u32);
    fn close(&mut self, context: u32);
    fn join(&mut self, context: u32, resource: u32);
    fn leave(&mut self, context: u32, resource: u32);
    fn submit(&mut self, context: u32, commands: &mut [u8]) -> i32;
    fn fence(&mut self, context: u32, ring: u32, id: u64) -> i32;
    fn create(&mut self, resource: u32, desc: &Resource3d) -> i32;
    fn create_blob(&mut self, context: u32, blob: &HostBlob) -> i32;
    fn export(&mut self, resource: u32) -> Option<(Memory, OwnedFd)>;
    fn map_info(&mut self, resource: u32) -> Option<u32>;
    /// Its pages are let go first.
    fn unref(&mut self, resource: u32);
    fn attach(&mut self, resource: u32, pieces: Vec<Piece>) -> i32;
    fn detach(&mut self, resource: u32);
    fn transfer(&mut self, context: u32, way: Way, transfer: &Transfer3d) -> i32;
    fn read(&mut self, resource: u32, rect: Rect, target: VolatileSlice<'_>, stride: u32) -> i32;
    fn write(&mut self, resource: u32, rect: Rect, source: VolatileSlice<'_>, stride: u32) -> i32;
    fn capset(&mut self, id: u32) -> Option<(u32, Vec<u8>)>;
    fn needs_polling(&self) -> bool;
    fn open_fences(&self) -> bool;
    fn poll(&mut self, contexts: &mut dyn Iterator<Item = u32>);
}

#[derive(Debug)]
struct Context {
    kind: Kind,
    rings: u8,
    members: HashSet<ResourceId>,
    /// What it does next depends on which context the library had in hand last, or its process is gone.
    poisoned: bool,
}

#[derive(Debug)]
enum What {
    /// A resource of the library's own.
    Made(Resource3d),
    /// Memory that a context made; without a dma-buf, no other can use it.
    Blob { kind: Kind, owner: ContextId, memory: Option<Memory> },
}

#[derive(Debug)]
struct Resource {
    what: What,
    /// Bytes of the pages that it has.
    backing: Option<u64>,
}

/// The library, started for one kind of context, or for both.
#[derive(Debug)]
pub(super) struct Renderer<C> {
    kind: Kind,
    serves_both: bool,
    calls: C,
    contexts: HashMap<ContextId, Context>,
    resources: HashMap<ResourceId, Resource>,
    polled: bool,
}

impl<C: Calls> Renderer<C> {
    pub(super) fn new(kind: Kind, calls: C) -> Self {
        // Vulkan's contexts have a thread each that tells of fences.
        let polled = kind == Kind::Gl && calls.needs_polling();
        Self { kind, serves_both: false, calls, contexts: HashMap::new(), resources: HashMap::new(), polled }
    }

    /// It was started for Vulkan besides.
    pub(super) fn with_vulkan(self) -> Self {
        Self { serves_both: true, ..self }
    }

    pub(super) fn capset(&mut self, id: CapsetId) -> Option<(u32, Vec<u8>)> {
        self.calls.capset(id.0)
    }

    fn context(&mut self, context: ContextId) -> Result<&mut Context, ReplyError> {
        let context = self.contexts.get_mut(&context).ok_or(ReplyError::InvalidContextId)?;
        if context.poisoned { Err(ReplyError::Unspec) } else { Ok(context) }
    }

    /// What the library answered to work of a context. After an error the context does no more.
    fn judge(&mut self, context: ContextId, code: i32) -> Result<(), ReplyError> {
        if code == 0 {
            return Ok(());
        }
        if let Some(context) = self.contexts.get_mut(&context) {
            context.poisoned = true;
        }
        Err(ReplyError::Unspec)
    }

    /// Whether a part of a resource's first level has pixels, and lies in `bytes` of rows that are `stride` apart.
    fn fits(&self, resource: ResourceId, rect: Rect, bytes: usize, stride: u32) -> Result<bool, ReplyError> {
        let there = self.resources.get(&resource).ok_or(ReplyError::InvalidResourceId)?;
        let What::Made(desc) = &there.what else { return Err(ReplyError::Unspec) };
        let area = protocol::Box3d { x: rect.x, y: rect.y, z: 0, width: rect.width, height: rect.height, depth: 1 };
        let transfer = Transfer3d { area, offset: 0, resource, level: 0, stride, layer_stride: 0 };
        match rules::copy(desc, &transfer, bytes as u64) {
            Copy::Nothing => Ok(false),
            Copy::Outside => Err(ReplyError::InvalidParameter),
            Copy::Fits => Ok(true),
        }
    }

    /// Whether the library can let a context use a resource. What it cannot do, it would not say.
    fn can_join(&self, context: ContextId, resource: &Resource) -> bool {
        let Some(Context { kind, .. }) = self.contexts.get(&context) else { return false };
        match (kind, &resource.what) {
            (_, What::Blob { owner, .. }) if *owner == context => true,
            (kind, What::Blob { kind: of, memory, .. }) => kind == of && *memory == Some(Memory::DmaBuf),
            (Kind::Gl, What::Made(_)) => true,
            (Kind::Vk, What::Made(_)) => false,
        }
    }
}

impl<C: Calls> Library for Renderer<C> {
    fn open(&mut self, context: ContextId, capset: CapsetId, name: &[u8]) -> Result<(), ReplyError> {
        if context.0 == 0 || self.contexts.contains_key(&context) {
            return Err(ReplyError::InvalidContextId);
        }
        let kind = Kind::of(capset).filter(|kind| *kind == self.kind || self.serves_both);
        let kind = kind.ok_or(ReplyError::InvalidParameter)?;
        let name = &name[..name.len().min(rules::NAME)];
        if self.calls.open(context.0, capset.0, name) != 0 {
            return Err(ReplyError::Unspec);
        }
        let new = Context { kind, rings: rules::rings(capset), members: HashSet::default(), poisoned: false };
        self.contexts.insert(context, new);
        Ok(())
    }

    fn close(&mut self, context: ContextId) {
        let Some(gone) = self.contexts.remove(&context) else { return };
        // Up to 1.1 at least, the thread that tells of OpenGL's fences calls the context of one that it waited for, there or not.
        // Vulkan's contexts end their threads themselves, and their fences may wait for a guest.
        if gone.kind == Kind::Gl {
            self.calls.settle(context.0);
        }
        self.calls.close(context.0);
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        let can = self.resources.get(&resource).is_some_and(|resource| self.can_join(context, resource));
        let Some(there) = self.contexts.get_mut(&context).filter(|_| can) else { return };
        if there.members.insert(resource) {
            self.calls.join(context.0, resource.0);
        }
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        let Some(there) = self.contexts.get_mut(&context) else { return };
        if there.members.remove(&resource) {
            self.calls.leave(context.0, resource.0);
        }
    }

    fn submit(&mut self, context: ContextId, commands: &mut [u8]) -> Result<(), ReplyError> {
        let kind = self.context(context)?.kind;
        if !commands.len().is_multiple_of(4) {
            return Err(ReplyError::InvalidParameter);
        }
        if commands.is_empty() {
            return Ok(());
        }
        if kind == Kind::Vk {
            ring::show_life(commands);
        }
        let code = self.calls.submit(context.0, commands);
        self.judge(context, code)
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Result<(), ReplyError> {
        if ring >= self.context(context)?.rings {
            return Err(ReplyError::InvalidParameter);
        }
        let code = self.calls.fence(context.0, u32::from(ring), ticket.0);
        self.judge(context, code)
    }

    fn create(&mut self, resource: ResourceId, desc: &Resource3d) -> Result<(), ReplyError> {
        if resource.0 == 0 || self.resources.contains_key(&resource) {
            return Err(ReplyError::InvalidResourceId);
        }
        if self.kind != Kind::Gl || !rules::possible(desc) {
            return Err(ReplyError::InvalidParameter);
        }
        match self.calls.create(resource.0, desc) {
            0 => {
                self.resources.insert(resource, Resource { what: What::Made(*desc), backing: None });
                Ok(())
            }
            code if code.abs() == rustix::io::Errno::NOMEM.raw_os_error() => Err(ReplyError::OutOfMemory),
            _ => Err(ReplyError::InvalidParameter),
        }
    }

    fn create_blob(&mut self, context: ContextId, blob: &HostBlob) -> Result<Option<Exported>, ReplyError> {
        let kind = self.context(context)?.kind;
        if blob.resource.0 == 0 || self.resources.contains_key(&blob.resource) {
            return Err(ReplyError::InvalidResourceId);
        }
        if blob.mem != MEM_HOST3D || blob.size == 0 || blob.flags & !USE_FLAGS != 0 {
            return Err(ReplyError::InvalidParameter);
        }
        match self.calls.create_blob(context.0, blob) {
            0 => {}
            // The process behind the context is gone.
            -1 => return self.judge(context, -1).map(|()| None),
            _ => return Err(ReplyError::InvalidParameter),
        }
        let exported = self.calls.export(blob.resource.0);
        let memory = exported.as_ref().map(|(memory, _)| *memory);
        let mappable = blob.flags & USE_MAPPABLE != 0;
        let caching = if mappable { self.calls.map_info(blob.resource.0) } else { None };
        let exported = exported.zip(caching).map(|((_, file), caching)| Exported { file, caching });
        if mappable && exported.is_none() {
            self.calls.unref(blob.resource.0);
            return Err(ReplyError::Unspec);
        }
        let what = What::Blob { kind, owner: context, memory };
        self.resources.insert(blob.resource, Resource { what, backing: None });
        Ok(exported)
    }

    fn destroy(&mut self, resource: ResourceId) {
        if self.resources.remove(&resource).is_none() {
            return;
        }
        for context in self.contexts.values_mut() {
            context.members.remove(&resource);
        }
        self.calls.unref(resource.0);
    }

    fn attach(&mut self, resource: ResourceId, pieces: Vec<Piece>) -> Result<(), ReplyError> {
        let there = self.resources.get_mut(&resource).ok_or(ReplyError::InvalidResourceId)?;
        if there.backing.is_some() {
            return Err(ReplyError::Unspec);
        }
        let bytes = pieces.iter().map(|piece| piece.len as u64).fold(0, u64::saturating_add);
        if self.calls.attach(resource.0, pieces) != 0 {
            return Err(ReplyError::Unspec);
        }
        there.backing = Some(bytes);
        Ok(())
    }

    fn detach(&mut self, resource: ResourceId) {
        let Some(there) = self.resources.get_mut(&resource) else { return };
        if there.backing.take().is_some() {
            self.calls.detach(resource.0);
        }
    }

    fn transfer(&mut self, context: ContextId, way: Way, transfer: &Transfer3d) -> Result<(), ReplyError> {
        // Context 0 is the library's own: what the guest's kernel copies for itself.
        let member = context.0 == 0 || self.context(context)?.members.contains(&transfer.resource);
        let resource = self.resources.get(&transfer.resource).ok_or(ReplyError::InvalidResourceId)?;
        let (What::Made(desc), Some(backing), true) = (&resource.what, resource.backing, member) else {
            return Err(ReplyError::Unspec);
        };
        match rules::copy(desc, transfer, backing) {
            Copy::Nothing => return Ok(()),
            Copy::Outside => return Err(ReplyError::InvalidParameter),
            Copy::Fits => {}
        }
        let code = self.calls.transfer(context.0, way, transfer);
        self.judge(context, code)
    }

    fn read(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        target: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError> {
        if !self.fits(resource, rect, target.len(), stride)? {
            return Ok(());
        }
        if self.calls.read(resource.0, rect, target, stride) == 0 { Ok(()) } else { Err(ReplyError::Unspec) }
    }

    fn write(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        source: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError> {
        if !self.fits(resource, rect, source.len(), stride)? {
            return Ok(());
        }
        if self.calls.write(resource.0, rect, source, stride) == 0 { Ok(()) } else { Err(ReplyError::Unspec) }
    }

    fn poll(&mut self) -> Option<u32> {
        if !self.polled || !self.calls.open_fences() {
            return None;
        }
        self.calls.poll(&mut self.contexts.keys().map(|context| context.0));
        self.calls.open_fences().then_some(POLL)
    }
}
