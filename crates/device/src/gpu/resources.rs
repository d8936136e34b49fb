//! Resources and their backing (virtio 1.3, section 5.7.6.8).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use protocol::command::CreateBlob;
use protocol::{Format, Header, MemEntry, Rect, Reply, ReplyError, ResourceId, feature};
use uuid::Uuid;

use super::blobs::{BLOB_FLAGS, BLOB_MEM_HOST3D, BLOB_MEM_HOST3D_GUEST, Blob};
use super::desc::{Cost, Desc, image_bytes};
use super::{Gpu, Step, Undo};
use crate::backing::Backing;
use crate::caps;
use crate::memory::Memory;
use crate::render::{Progress, ResourceDesc, Transfer};
use crate::stats::Stats;
use crate::virtio::Ticket;

/// `VIRTIO_GPU_BLOB_MEM_GUEST`.
const BLOB_MEM_GUEST: u32 = 1;

pub(super) struct Resource {
    pub desc: Desc,
    pub backing: Option<Backing>,
    /// The command that made it: a later one may give its name to another.
    created: Ticket,
    /// The command that gave it to the 3D renderer's last backing.
    pub attached: Ticket,
    pub uuid: Option<Uuid>,
    /// Bytes of pixels that were read of it.
    read: u64,
    /// Made by a driver that has stopped, and not used since.
    stale: bool,
    cost: Cost,
}

/// The table of resources, which holds the caps: what is in it has been charged.
pub(super) struct Resources {
    table: HashMap<ResourceId, Resource>,
    cap: Cost,
    used: Cost,
    entries_used: usize,
    stats: Arc<Stats>,
}

impl Resources {
    pub fn new(memory_cap: u64, stats: Arc<Stats>) -> Self {
        let cap = Cost { memory: memory_cap, rendered: memory_cap.saturating_mul(caps::RENDERED_SHARE), blobs: 0 };
        Self { table: HashMap::new(), cap, used: Cost::default(), entries_used: 0, stats }
    }

    /// Allows blobs of the host, as many as go with a window of so many bytes.
    pub fn allow_blobs(&mut self, window: u64) {
        self.cap.blobs = Blob::share(window);
    }

    pub fn get(&mut self, resource: ResourceId) -> Result<&mut Resource, ReplyError> {
        let found = self.table.get_mut(&resource).ok_or(ReplyError::InvalidResourceId)?;
        found.stale = false;
        Ok(found)
    }

    /// What a resource is, if there is one.
    pub fn desc(&self, resource: ResourceId) -> Option<&Desc> {
        self.table.get(&resource).map(|found| &found.desc)
    }

    pub fn iter(&mut self) -> impl Iterator<Item = (ResourceId, &mut Resource)> {
        self.table.iter_mut().map(|(id, resource)| (*id, resource))
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether a name may be given to a new resource: free, or of a driver that is gone.
    fn is_free(&self, resource: ResourceId) -> bool {
        resource.0 != 0 && self.table.get(&resource).is_none_or(|found| found.stale)
    }

    pub fn is_stale(&self, resource: ResourceId) -> bool {
        self.table.get(&resource).is_some_and(|found| found.stale)
    }

    /// What a driver that is gone left behind.
    fn stale(&self) -> Vec<ResourceId> {
        self.table.iter().filter(|(_, resource)| resource.stale).map(|(id, _)| *id).collect()
    }

    pub fn mark_stale(&mut self) {
        for resource in self.table.values_mut() {
            resource.stale = true;
        }
    }

    /// Records a new resource, if the caps have room for it.
    pub fn insert(&mut self, resource: ResourceId, desc: Desc, created: Ticket) -> Result<(), ReplyError> {
        let cost = Cost::of(&desc);
        let used = self.used.plus(cost);
        if !used.is_within(&self.cap) || self.table.len() >= caps::RESOURCES {
            return Err(ReplyError::OutOfMemory);
        }
        match self.table.entry(resource) {
            Entry::Occupied(_) => return Err(ReplyError::InvalidResourceId),
            Entry::Vacant(vacant) => vacant.insert(Resource {
                desc,
                backing: None,
                created,
                attached: created,
                uuid: None,
                read: 0,
                stale: false,
                cost,
            }),
        };
        self.used = used;
        self.publish();
        Ok(())
    }

    /// Charges a resource more than what it is, if the caps have room for it.
    pub fn charge(&mut self, resource: ResourceId, more: Cost) -> Result<(), ReplyError> {
        let found = self.table.get_mut(&resource).ok_or(ReplyError::InvalidResourceId)?;
        let used = self.used.plus(more);
        if !used.is_within(&self.cap) {
            return Err(ReplyError::OutOfMemory);
        }
        found.cost = found.cost.plus(more);
        self.used = used;
        self.publish();
        Ok(())
    }

    /// What a resource was [charged](Self::charge) is given back.
    pub fn credit(&mut self, resource: ResourceId, less: Cost) {
        if let Some(found) = self.table.get_mut(&resource) {
            found.cost = found.cost.minus(less);
            self.used = self.used.minus(less);
            self.publish();
        }
    }

    /// Charges a resource for its pixels, once.
    pub fn charge_pixels(&mut self, resource: ResourceId) -> Result<(), ReplyError> {
        let found = self.table.get(&resource).ok_or(ReplyError::InvalidResourceId)?;
        let Some((_, width, height)) = found.desc.image().filter(|_| found.read == 0) else { return Ok(()) };
        let memory = image_bytes(width, height);
        self.charge(resource, Cost { memory, ..Cost::default() })?;
        if let Some(found) = self.table.get_mut(&resource) {
            found.read = memory;
        }
        Ok(())
    }

    /// Its pixels are gone.
    pub fn credit_pixels(&mut self, resource: ResourceId) {
        let memory = self.table.get_mut(&resource).map_or(0, |found| std::mem::take(&mut found.read));
        self.credit(resource, Cost { memory, ..Cost::default() });
    }

    /// The resources that are charged for their pixels.
    pub fn with_pixels(&self) -> Vec<ResourceId> {
        self.table.iter().filter(|(_, found)| found.read > 0).map(|(id, _)| *id).collect()
    }

    pub fn remove(&mut self, resource: ResourceId) {
        if let Some(gone) = self.table.remove(&resource) {
            self.used = self.used.minus(gone.cost);
            self.entries_used -= gone.backing.map_or(0, |backing| backing.entries().len());
            self.publish();
        }
    }

    pub fn clear(&mut self) {
        self.table.clear();
        self.used = Cost::default();
        self.entries_used = 0;
        self.publish();
    }

    /// Whether `count` more entries keep to the caps.
    pub fn check_entries(&self, count: usize) -> Result<(), ReplyError> {
        let fits = count <= caps::BACKING_ENTRIES && self.entries_used + count <= caps::BACKING_ENTRIES_TOTAL;
        fits.then_some(()).ok_or(ReplyError::OutOfMemory)
    }

    /// Replaces a resource's backing, and gives the earlier one back by dropping or returning it.
    pub fn set_backing(&mut self, resource: ResourceId, backing: Option<Backing>) {
        self.swap_backing(resource, backing);
    }

    pub fn swap_backing(&mut self, resource: ResourceId, backing: Option<Backing>) -> Option<Backing> {
        let found = self.table.get_mut(&resource)?;
        self.entries_used += backing.as_ref().map_or(0, |backing| backing.entries().len());
        let earlier = std::mem::replace(&mut found.backing, backing);
        self.entries_used -= earlier.as_ref().map_or(0, |earlier| earlier.entries().len());
        earlier
    }

    fn publish(&self) {
        self.stats.resources.set(self.table.len() as u64);
        self.stats.image_bytes.set(self.used.memory);
        self.stats.rendered_bytes.set(self.used.rendered);
        self.stats.host_blob_bytes.set(self.used.blobs);
    }
}

impl Gpu {
    pub(super) fn create_2d(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        format: Format,
        width: u32,
        height: u32,
    ) -> Step {
        if width == 0 || height == 0 {
            return Step::error(ReplyError::InvalidParameter);
        }
        if width > caps::IMAGE_SIZE || height > caps::IMAGE_SIZE {
            return Step::error(ReplyError::OutOfMemory);
        }
        self.create(ticket, resource, ResourceDesc::Image { format, width, height }, None)
    }

    pub(super) fn create_blob(&mut self, memory: &Memory, ticket: Ticket, header: &Header, blob: CreateBlob) -> Step {
        if !self.has(feature::RESOURCE_BLOB) {
            return Step::error(ReplyError::Unspec);
        }
        if matches!(blob.blob_mem, BLOB_MEM_HOST3D | BLOB_MEM_HOST3D_GUEST) {
            return self.create_host_blob(memory, ticket, header, blob).unwrap_or_else(Step::error);
        }
        if blob.blob_mem != BLOB_MEM_GUEST || blob.blob_flags & !BLOB_FLAGS != 0 || blob.size == 0 {
            return Step::error(ReplyError::InvalidParameter);
        }
        let backing = match self.new_backing(memory, blob.entries) {
            Ok(backing) => backing,
            Err(error) => return Step::error(error),
        };
        // CVE-2026-66021: what a blob claims to be must be there.
        if !backing.is_empty() && backing.len() < blob.size {
            return Step::error(ReplyError::InvalidParameter);
        }
        let backing = (!backing.is_empty()).then_some(backing);
        self.create(ticket, blob.resource, ResourceDesc::GuestBlob { size: blob.size }, backing)
    }

    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc, backing: Option<Backing>) -> Step {
        if let Err(error) = self.make_room(resource, desc.into(), ticket) {
            return Step::error(error);
        }
        self.resources.set_backing(resource, backing);
        match self.renderer.create(ticket, resource, desc) {
            Progress::Done(result) => Step::Reply(self.conclude(Undo::Create(resource), result)),
            Progress::Later => Step::Later(Undo::Create(resource), Some(resource)),
        }
    }

    /// Records a new resource.
    pub(super) fn make_room(&mut self, resource: ResourceId, desc: Desc, ticket: Ticket) -> Result<(), ReplyError> {
        if !self.resources.is_free(resource) {
            return Err(ReplyError::InvalidResourceId);
        }
        if self.resources.is_stale(resource) {
            self.drop_resource(resource);
        }
        match self.resources.insert(resource, desc, ticket) {
            Err(ReplyError::OutOfMemory) => {
                // What an earlier driver left behind may not starve this one.
                for stale in self.resources.stale() {
                    self.drop_resource(stale);
                }
                self.resources.insert(resource, desc, ticket)
            }
            inserted => inserted,
        }
    }

    pub(super) fn unref(&mut self, memory: &Memory, ticket: Ticket, resource: ResourceId) -> Result<Step, ReplyError> {
        let has_twin = self.twin(resource).is_some();
        let found = self.resources.get(resource)?;
        let has_pages = (found.desc.is_rendered() || has_twin) && found.backing.is_some();
        self.catch_up_on(memory, resource);
        let step = match has_pages {
            true => self.detach_rendered(ticket, resource, Undo::Gone)?,
            false => Step::Reply(Reply::OkNoData),
        };
        self.drop_resource(resource);
        Ok(step)
    }

    /// The heads that show it show nothing, before its pixels are gone. Whoever waits for something of it waits no more.
    fn drop_resource(&mut self, resource: ResourceId) {
        for scanout in self.scanouts.remove(resource) {
            self.display.set_scanout(scanout, None);
        }
        let is_rendered = self.resources.get(resource).is_ok_and(|found| found.desc.is_rendered());
        self.resources.remove(resource);
        let Some(three_d) = &mut self.three_d else { return self.renderer.destroy(resource) };
        three_d.contexts.forget(resource);
        if !is_rendered {
            if three_d.twins.remove(resource) {
                three_d.renderer.destroy(resource);
            }
            return self.renderer.destroy(resource);
        }
        three_d.renderer.destroy(resource);
        let mapped = three_d.window.take_away(resource);
        // Nothing is to be seen of it any more, and that is so.
        let flushes = three_d.reads.forget(resource).into_iter().map(|flush| (flush, Reply::OkNoData));
        let shown = three_d.views.forget(resource).map(|ticket| (ticket, Reply::Error(ReplyError::InvalidResourceId)));
        for (ticket, reply) in flushes.chain(mapped).chain(shown) {
            self.complete(ticket, reply);
        }
    }

    /// What the 3D renderer could not make is not there, unless its name is another's by now.
    pub(super) fn forget_failed(&mut self, resource: ResourceId, created: Ticket) {
        if self.resources.table.get(&resource).is_some_and(|found| found.created == created) {
            self.drop_resource(resource);
        }
    }

    /// As [`forget_failed`](Self::forget_failed), of a blob that could be made.
    pub(super) fn keep_made(&mut self, resource: ResourceId, created: Ticket) {
        if self.resources.table.get(&resource).is_some_and(|found| found.created == created) {
            self.blob_made(resource);
        }
    }

    /// The 3D renderer did not take a backing, if it has not another one by now.
    pub(super) fn forget_pages(&mut self, resource: ResourceId, attached: Ticket) {
        let ticket = self.order.ticket();
        let Some(three_d) = &mut self.three_d else { return };
        if self.resources.table.get(&resource).is_some_and(|found| found.attached == attached) {
            three_d.renderer.detach(ticket, resource);
            self.resources.set_backing(resource, None);
        }
    }

    /// A backing whose every entry lies in guest memory now.
    pub(super) fn new_backing(&self, memory: &Memory, entries: Vec<MemEntry>) -> Result<Backing, ReplyError> {
        self.resources.check_entries(entries.len())?;
        let backing = Backing::new(entries);
        backing.check(memory)?;
        Ok(backing)
    }

    pub(super) fn attach_backing(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        resource: ResourceId,
        entries: Vec<MemEntry>,
    ) -> Step {
        if let Err(error) = self.record_backing(memory, resource, entries) {
            return Step::error(error);
        }
        if self.resources.get(resource).is_ok_and(|found| found.desc.is_rendered()) {
            return self.attach_rendered(ticket, resource).unwrap_or_else(Step::error);
        }
        let backing = self.resources.get(resource).ok().and_then(|found| found.backing.as_ref());
        let entries = backing.map_or(&[][..], Backing::entries);
        let attached = self.renderer.attach(ticket, resource, entries);
        self.attach_twin(resource);
        match attached {
            Progress::Done(result) => Step::Reply(self.conclude(Undo::Attach(resource), result)),
            Progress::Later => Step::Later(Undo::Attach(resource), Some(resource)),
        }
    }

    fn record_backing(
        &mut self,
        memory: &Memory,
        resource: ResourceId,
        entries: Vec<MemEntry>,
    ) -> Result<(), ReplyError> {
        let found = self.resources.get(resource)?;
        // CVE-2017-5578: a second backing leaked the first.
        if found.backing.is_some() {
            return Err(ReplyError::Unspec);
        }
        if found.desc == Desc::Lost {
            return Err(ReplyError::Unspec);
        }
        let least = found.desc.least_backing();
        let backing = self.new_backing(memory, entries)?;
        if backing.len() < least {
            return Err(ReplyError::InvalidParameter);
        }
        self.resources.set_backing(resource, Some(backing));
        Ok(())
    }

    pub(super) fn detach_backing(&mut self, memory: &Memory, ticket: Ticket, resource: ResourceId) -> Step {
        if let Err(error) = self.resources.get(resource) {
            return Step::error(error);
        }
        self.catch_up_on(memory, resource);
        let Some(backing) = self.resources.swap_backing(resource, None) else {
            return Step::error(ReplyError::Unspec);
        };
        if self.resources.get(resource).is_ok_and(|found| found.desc.is_rendered()) {
            return self.detach_rendered(ticket, resource, Undo::Nothing).unwrap_or_else(Step::error);
        }
        let detached = self.renderer.detach(ticket, resource);
        if self.twin(resource).is_some() && detached != Progress::Later {
            return self.detach_rendered(ticket, resource, Undo::Nothing).unwrap_or_else(Step::error);
        }
        match detached {
            Progress::Done(result) => Step::Reply(self.conclude(Undo::Detach(resource, backing), result)),
            Progress::Later => Step::Later(Undo::Detach(resource, backing), Some(resource)),
        }
    }

    pub(super) fn transfer_to_host_2d(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        resource: ResourceId,
        rect: Rect,
        offset: u64,
    ) -> Step {
        let found = match self.resources.get(resource) {
            Ok(found) => found,
            Err(error) => return Step::error(error),
        };
        match found.desc {
            Desc::Image { width, height, .. } if rect.is_within(width, height) => {}
            // The guest's pages are the blob: there is nothing to copy.
            Desc::GuestBlob { .. } => return Step::Reply(Reply::OkNoData),
            Desc::Image { .. } | Desc::Rendered(_) | Desc::HostBlob(_) | Desc::Lost => {
                return Step::error(ReplyError::InvalidParameter);
            }
        }
        let pages = match found.backing.as_mut().ok_or(ReplyError::Unspec).and_then(|backing| backing.pages(memory)) {
            Ok(pages) => pages,
            Err(error) => return Step::error(error),
        };
        match self.renderer.transfer_to_host(ticket, resource, Transfer { rect, offset }, &pages) {
            Progress::Done(result) => Step::Reply(self.conclude(Undo::Transfer { resource, rect }, result)),
            Progress::Later => Step::Later(Undo::Transfer { resource, rect }, Some(resource)),
        }
    }

    /// A part of an image was copied.
    pub(super) fn copied_in(&mut self, resource: ResourceId, rect: Rect) {
        self.stats.bytes_copied.add(image_bytes(rect.width, rect.height));
        self.write_twin(resource, rect);
    }

    pub(super) fn assign_uuid(&mut self, resource: ResourceId) -> Reply {
        if !self.has(feature::RESOURCE_UUID) {
            return Reply::Error(ReplyError::Unspec);
        }
        match self.resources.get(resource) {
            Ok(found) => Reply::ResourceUuid(found.uuid.get_or_insert_with(Uuid::new_v4).into_bytes()),
            Err(error) => Reply::Error(error),
        }
    }
}
