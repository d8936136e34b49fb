//! Blobs that a context makes in memory of the host, and their place in the guest's window (virtio 1.3, section 5.7.6.8).

use protocol::command::CreateBlob;
use protocol::{ContextId, Header, ReplyError, ResourceId, feature};

use super::desc::Desc;
use super::window::{Answer, pages};
use super::{Gpu, Step, Undo};
use crate::backing::Backing;
use crate::memory::Memory;
use crate::three_d::HostBlob;
use crate::virtio::Ticket;

/// `VIRTIO_GPU_BLOB_MEM_HOST3D`.
pub(super) const BLOB_MEM_HOST3D: u32 = 2;
/// `VIRTIO_GPU_BLOB_MEM_HOST3D_GUEST`.
pub(super) const BLOB_MEM_HOST3D_GUEST: u32 = 3;
/// `VIRTIO_GPU_BLOB_FLAG_USE_MAPPABLE`.
const MAPPABLE: u32 = 1 << 0;
/// `VIRTIO_GPU_BLOB_FLAG_USE_*`, all of them.
pub(super) const BLOB_FLAGS: u32 = 0b111;

/// A blob of the host as the device knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub context: ContextId,
    pub host: HostBlob,
    /// Whether it is there: what is asked of it before waits.
    pub is_made: bool,
}

impl Gpu {
    pub(super) fn create_host_blob(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        header: &Header,
        blob: CreateBlob,
    ) -> Result<Step, ReplyError> {
        let CreateBlob { resource, blob_mem: mem, blob_flags: flags, blob_id: id, size, entries } = blob;
        let three_d = self.three_d.as_mut().ok_or(ReplyError::InvalidParameter)?;
        let context = ContextId(header.ctx_id);
        three_d.contexts.get(context)?;
        let is_backed = mem == BLOB_MEM_HOST3D_GUEST;
        if flags & !BLOB_FLAGS != 0 || size == 0 || is_backed == entries.is_empty() {
            return Err(ReplyError::InvalidParameter);
        }
        if size > three_d.window.size() {
            return Err(ReplyError::OutOfMemory);
        }
        let backing = self.new_backing(memory, entries)?;
        if is_backed && backing.len() < size {
            return Err(ReplyError::InvalidParameter);
        }
        let host = HostBlob { resource, mem, flags, id, size };
        let backing = is_backed.then_some(backing);
        self.record(resource, Desc::HostBlob(Blob { context, host, is_made: false }), backing, ticket)?;
        if let Err(error) = self.open_context(context) {
            self.resources.remove(resource);
            return Err(error);
        }
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let progress = three_d.renderer.create_blob(ticket, context, &host);
        let step = self.step(ticket, progress, Undo::Blob(resource, ticket));
        if is_backed {
            self.back_blob(resource);
        }
        Ok(step)
    }

    /// The guest's pages follow the blob. Nobody waits for the answer: the renderer without them fails what needs them.
    fn back_blob(&mut self, resource: ResourceId) {
        let ticket = self.order.ticket();
        // A blob that failed at once is gone already.
        let (Some(three_d), Ok(found)) = (&mut self.three_d, self.resources.get(resource)) else { return };
        found.attached = ticket;
        let entries = found.backing.as_ref().map_or(&[][..], Backing::entries);
        three_d.renderer.attach(ticket, resource, entries);
    }

    /// A blob is there, and so may be who waits to see it.
    pub(super) fn blob_made(&mut self, resource: ResourceId) {
        let Ok(found) = self.resources.get(resource) else { return };
        let Desc::HostBlob(blob) = &mut found.desc else { return };
        blob.is_made = true;
        self.show_blob(resource);
    }

    pub(super) fn map_blob(&mut self, ticket: Ticket, resource: ResourceId, at: u64) -> Result<Step, ReplyError> {
        let three_d = self.three_d.as_mut().filter(|_| self.features & feature::RESOURCE_BLOB != 0);
        let three_d = three_d.ok_or(ReplyError::Unspec)?;
        let Desc::HostBlob(blob) = self.resources.get(resource)?.desc else { return Err(ReplyError::InvalidParameter) };
        if blob.host.flags & MAPPABLE == 0 {
            return Err(ReplyError::InvalidParameter);
        }
        three_d.window.place(ticket, resource, at, blob.host.size)?;
        let over = if blob.is_made { self.try_show_blob(resource) } else { None };
        Ok(match over {
            Some((_, reply)) => Step::Reply(reply),
            None => Step::Later(Undo::Nothing, None),
        })
    }

    fn show_blob(&mut self, resource: ResourceId) {
        if let Some((ticket, reply)) = self.try_show_blob(resource) {
            self.complete(ticket, reply);
        }
    }

    /// Has the front-end show a blob that has a place. Returns who waited in vain.
    fn try_show_blob(&mut self, resource: ResourceId) -> Option<Answer> {
        let three_d = self.three_d.as_mut().filter(|three_d| three_d.window.is_wanted(resource))?;
        match three_d.renderer.mapping(resource) {
            Some(mapping) => three_d.window.show(resource, mapping),
            None => three_d.window.take_away(resource),
        }
    }

    pub(super) fn unmap_blob(&mut self, resource: ResourceId) -> Result<(), ReplyError> {
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        self.resources.get(resource)?;
        if !three_d.window.has(resource) {
            return Err(ReplyError::InvalidParameter);
        }
        // Linux frees a blob without waiting until it is seen.
        if let Some((ticket, reply)) = three_d.window.take_away(resource) {
            self.complete(ticket, reply);
        }
        Ok(())
    }

    /// The front-end did what it was asked, or could not.
    pub(super) fn take_mapped(&mut self, request: Ticket, ok: bool) {
        let Some(three_d) = &mut self.three_d else { return };
        if let Some((ticket, reply)) = three_d.window.answered(request, ok) {
            self.complete(ticket, reply);
        }
    }
}

impl Blob {
    /// What it takes of the guest's memory.
    pub fn cost(&self) -> u64 {
        pages(self.host.size)
    }

    /// A blob without a name is memory of the context's process, which no other can use.
    pub fn may_join(&self, context: ContextId) -> bool {
        self.host.id != 0 || self.context == context
    }
}
