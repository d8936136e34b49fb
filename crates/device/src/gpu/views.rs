//! Memory of the host's that heads show: a blob that a context made, and that a guest shows as a picture (SET_SCANOUT_BLOB).
//!
//! Whoever made the memory may write it at any time, also after its process was ended: it is looked at as guest memory is, each
//! pixel once for each look. It stays for as long as a head shows it, and no head shows a resource that is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use protocol::command::ScanoutBlob;
use protocol::{MemEntry, Reply, ReplyError, ResourceId, ScanoutId};
use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::{FileOffset, MmapRegion};

use super::blobs::Blob;
use super::desc::Desc;
use super::scanouts::blob_image;
use super::shown::Scanout;
use super::{Gpu, Step, Undo};
use crate::backing::{Backing, Pages};
use crate::guest_log;
use crate::memory::{Memory, Region};
use crate::virtio::{HostMapping, Ticket};

/// Told of a mapping before anything of it is read: whether touching a page that is not there any more will not end the process.
pub type Guard = fn(&Arc<MmapRegion>) -> bool;

/// Length of an entry; those of guests have 32 bits.
const ENTRY: u64 = 1 << 30;

/// A blob's memory, mapped to be read.
#[derive(Debug)]
struct View {
    memory: Memory,
    backing: Backing,
}

impl View {
    fn new(mapping: &HostMapping, guard: Option<Guard>) -> Option<Self> {
        let file = FileOffset::from_arc(mapping.file.clone(), mapping.offset);
        let (read, shared) = (ProtFlags::READ.bits(), MapFlags::SHARED.bits());
        let len = usize::try_from(mapping.len).ok()?;
        let region = MmapRegion::build(Some(file), len, read.cast_signed(), shared.cast_signed()).ok()?;
        let region = Arc::new(region);
        if guard.is_some_and(|guard| !guard(&region)) {
            return None;
        }
        let region = Region { start: 0, len: mapping.len, mapping: region, offset: 0, usable: true };
        let entries = (0..mapping.len).step_by(ENTRY as usize);
        let entries = entries.map(|addr| MemEntry { addr, length: (mapping.len - addr).min(ENTRY) as u32 });
        Some(Self { memory: Memory::new(vec![region]).ok()?, backing: Backing::new(entries.collect()) })
    }
}

/// What is mapped, and who waits for a blob that is being made.
#[derive(Debug, Default)]
pub(super) struct Views {
    table: HashMap<ResourceId, View>,
    awaited: HashMap<ResourceId, (Ticket, ScanoutId, Scanout)>,
    pub guard: Option<Guard>,
}

impl Views {
    /// A blob's memory, if a head shows it.
    pub fn pages(&mut self, resource: ResourceId) -> Option<Pages<'_>> {
        let View { memory, backing } = self.table.get_mut(&resource)?;
        backing.pages(memory).ok()
    }

    /// Only these are shown from now on.
    pub fn keep(&mut self, is_shown: impl Fn(ResourceId) -> bool) {
        self.table.retain(|resource, _| is_shown(*resource));
    }

    /// The blob is gone. Returns who waited for it.
    pub fn forget(&mut self, resource: ResourceId) -> Option<Ticket> {
        self.table.remove(&resource);
        self.awaited.remove(&resource).map(|(ticket, ..)| ticket)
    }

    /// Nobody waits for anything any more.
    pub fn abandon(&mut self) {
        self.awaited.clear();
    }

    /// All of them are gone.
    pub fn clear(&mut self) {
        self.table.clear();
        self.awaited.clear();
    }
}

impl Gpu {
    /// Has vanished pages of what is mapped here guarded.
    pub fn guarded_by(mut self, guard: Guard) -> Self {
        if let Some(three_d) = &mut self.three_d {
            three_d.views.guard = Some(guard);
        }
        self
    }

    /// Shows a blob of the host's once it is there. Commands that name it wait until then.
    pub(super) fn show_host_blob(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        blob: ScanoutBlob,
    ) -> Result<Step, ReplyError> {
        let Desc::HostBlob(host) = self.resources.get(blob.resource)?.desc else {
            return Err(ReplyError::InvalidParameter);
        };
        let image = blob_image(&blob, host.host.size)?;
        if host.is_made {
            return self.show_made_blob(memory, blob.scanout, image).map(|()| Step::Reply(Reply::OkNoData));
        }
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        three_d.views.awaited.insert(blob.resource, (ticket, blob.scanout, image));
        Ok(Step::Later(Undo::Nothing, Some(blob.resource)))
    }

    fn show_made_blob(&mut self, memory: &Memory, head: ScanoutId, image: Scanout) -> Result<(), ReplyError> {
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        if let Entry::Vacant(slot) = three_d.views.table.entry(image.resource) {
            let mapping = three_d.renderer.mapping(image.resource);
            let view = mapping.and_then(|mapping| View::new(&mapping, three_d.views.guard));
            let Some(view) = view else {
                guest_log!(warn, "Blob {} is not shown on head {}: nobody can map it", image.resource.0, head.0);
                return Err(ReplyError::InvalidParameter);
            };
            slot.insert(view);
        }
        let shown = self.show(memory, head, image);
        self.drop_unseen_views();
        shown
    }

    /// Who waited to show blobs that are there by now does so.
    pub(super) fn show_made_blobs(&mut self, memory: &Memory) {
        let Self { three_d: Some(three_d), resources, .. } = self else { return };
        let is_made = |resource: &ResourceId| {
            matches!(resources.desc(*resource), Some(Desc::HostBlob(Blob { is_made: true, .. })))
        };
        let made: Vec<_> = three_d.views.awaited.extract_if(|resource, _| is_made(resource)).collect();
        for (_, (ticket, head, image)) in made {
            let shown = self.show_made_blob(memory, head, image);
            self.complete(ticket, shown.into());
        }
    }

    /// What no head shows any more is not mapped.
    pub(super) fn drop_unseen_views(&mut self) {
        let Self { three_d, scanouts, .. } = self;
        if let Some(three_d) = three_d {
            three_d.views.keep(|resource| scanouts.shown.values().any(|scanout| scanout.resource == resource));
        }
    }
}
