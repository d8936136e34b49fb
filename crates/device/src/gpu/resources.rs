//! Resources and their backing (virtio 1.3, section 5.7.6.8).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use protocol::command::CreateBlob;
use protocol::{Format, Header, MemEntry, Rect, Reply, ReplyError, ResourceId, feature};
use uuid::Uuid;

use super::blobs::{BLOB_FLAGS, BLOB_MEM_HOST3D, BLOB_MEM_HOST3D_GUEST};
use super::desc::{Desc, cost, image_bytes};
use super::ledger::{Cost, Ledger};
use super::{Gpu, Step, Undo};
use crate::backing::Backing;
use crate::caps;
use crate::guest_log;
use crate::memory::Memory;
use crate::render::{Progress, ResourceDesc, Transfer};
use crate::stats::{Kind, Stats};
use crate::virtio::Ticket;

/// `VIRTIO_GPU_BLOB_MEM_GUEST`.
const BLOB_MEM_GUEST: u32 = 1;

pub(super) struct Resource {
    pub desc: Desc,
    pub backing: Option<Backing>,
    /// A 3D renderer gives the backing back: nobody else gets it meanwhile.
    pub is_leaving: bool,
    /// The command that made it: a later one may give its name to another.
    created: Ticket,
    /// The command that gave it to the 3D renderer's last backing.
    pub attached: Ticket,
    pub uuid: Option<Uuid>,
    /// Bytes of pixels that were read of it.
    read: u64,
    /// Made by a driver that has stopped, and not used since.
    stale: bool,
    /// What it is charged now, all that is had because of it.
    cost: Cost,
}

/// The table of resources, which holds the caps: what is in it has been charged.
pub(super) struct Resources {
    table: HashMap<ResourceId, Resource>,
    ledger: Ledger,
    /// What the pointer's picture is charged.
    cursor: Cost,
    stats: Arc<Stats>,
}

/// Whether a backing may have so many entries.
pub(super) fn check_entries(entries: &[MemEntry]) -> Result<(), ReplyError> {
    (entries.len() <= caps::BACKING_ENTRIES).then_some(()).ok_or(ReplyError::OutOfMemory)
}

/// What a backing is charged.
fn tables(backing: Option<&Backing>) -> Cost {
    Cost::of(Kind::Tables, backing.map_or(0, |backing| backing.entries().len() as u64 * Backing::ENTRY_COST))
}

impl Resources {
    /// With room for so many bytes of all kinds together.
    pub fn new(limit: u64, stats: Arc<Stats>) -> Self {
        let ledger = Ledger::new(limit, stats.clone());
        Self { table: HashMap::new(), ledger, cursor: Cost::default(), stats }
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
        let cost = cost(&desc);
        if self.table.len() >= caps::RESOURCES {
            return Err(ReplyError::OutOfMemory);
        }
        let Entry::Vacant(vacant) = self.table.entry(resource) else { return Err(ReplyError::InvalidResourceId) };
        self.ledger.charge(cost)?;
        vacant.insert(Resource {
            desc,
            backing: None,
            is_leaving: false,
            created,
            attached: created,
            uuid: None,
            read: 0,
            stale: false,
            cost,
        });
        self.publish();
        Ok(())
    }

    /// Whether so much more can be charged.
    pub fn has_room(&self, cost: Cost) -> bool {
        self.ledger.has_room(cost)
    }

    /// Charges a resource more than what it is, if there is room.
    pub fn charge(&mut self, resource: ResourceId, more: Cost) -> Result<(), ReplyError> {
        self.exchange(resource, Cost::default(), more)
    }

    /// What a resource was [charged](Self::charge) is given back.
    pub fn credit(&mut self, resource: ResourceId, less: Cost) {
        // Less always has room, and a resource that is gone has nothing.
        let _ = self.exchange(resource, less, Cost::default());
    }

    fn exchange(&mut self, resource: ResourceId, less: Cost, more: Cost) -> Result<(), ReplyError> {
        let found = self.table.get_mut(&resource).ok_or(ReplyError::InvalidResourceId)?;
        self.ledger.exchange(less, more)?;
        found.cost = found.cost.minus(less).plus(more);
        Ok(())
    }

    /// The pointer's picture has so many bytes from now on, if there is room.
    pub fn charge_cursor(&mut self, bytes: usize) -> Result<(), ReplyError> {
        let cost = Cost::of(Kind::Cursors, bytes as u64);
        self.ledger.exchange(self.cursor, cost)?;
        self.cursor = cost;
        Ok(())
    }

    /// What a pointer's picture of so many bytes would be charged more than the one that there is.
    pub fn more_for_cursor(&self, bytes: usize) -> Cost {
        Cost::of(Kind::Cursors, (bytes as u64).saturating_sub(self.cursor.bytes()))
    }

    /// What a resource has to be charged for its pixels: nothing more than once.
    pub fn cost_of_pixels(&self, resource: ResourceId) -> Result<Cost, ReplyError> {
        let found = self.table.get(&resource).ok_or(ReplyError::InvalidResourceId)?;
        let image = found.desc.image().filter(|_| found.read == 0);
        Ok(Cost::of(Kind::Shadows, image.map_or(0, |(_, width, height)| image_bytes(width, height))))
    }

    /// Charges a resource for its pixels.
    pub fn charge_pixels(&mut self, resource: ResourceId) -> Result<(), ReplyError> {
        let cost = self.cost_of_pixels(resource)?;
        self.charge(resource, cost)?;
        if let Some(found) = self.table.get_mut(&resource) {
            found.read += cost.bytes();
        }
        Ok(())
    }

    /// Its pixels are gone.
    pub fn credit_pixels(&mut self, resource: ResourceId) {
        let bytes = self.table.get_mut(&resource).map_or(0, |found| std::mem::take(&mut found.read));
        self.credit(resource, Cost::of(Kind::Shadows, bytes));
    }

    /// The resources that are charged for their pixels.
    pub fn with_pixels(&self) -> Vec<ResourceId> {
        self.table.iter().filter(|(_, found)| found.read > 0).map(|(id, _)| *id).collect()
    }

    pub fn remove(&mut self, resource: ResourceId) {
        if let Some(gone) = self.table.remove(&resource) {
            self.ledger.credit(gone.cost);
            self.publish();
        }
    }

    pub fn clear(&mut self) {
        self.table.clear();
        self.ledger.clear();
        self.cursor = Cost::default();
        self.publish();
    }

    /// Gives a resource another backing, or none, if there is room for its table.
    pub fn set_backing(&mut self, resource: ResourceId, backing: Option<Backing>) -> Result<(), ReplyError> {
        let found = self.table.get(&resource).ok_or(ReplyError::InvalidResourceId)?;
        self.exchange(resource, tables(found.backing.as_ref()), tables(backing.as_ref()))?;
        if let Some(found) = self.table.get_mut(&resource) {
            (found.backing, found.is_leaving) = (backing, false);
        }
        Ok(())
    }

    /// Whether a resource's pages are being given back.
    pub fn set_leaving(&mut self, resource: ResourceId, leaving: bool) {
        if let Some(found) = self.table.get_mut(&resource) {
            found.is_leaving = leaving;
        }
    }

    /// A resource's backing is gone: nobody uses its pages any more.
    pub fn drop_backing(&mut self, resource: ResourceId) {
        // None always has room.
        let _ = self.set_backing(resource, None);
    }

    fn publish(&self) {
        self.stats.resources.set(self.table.len() as u64);
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
        if let Err(error) = self.record(resource, desc.into(), backing, ticket) {
            return Step::error(error);
        }
        match self.renderer.create(ticket, resource, desc) {
            Progress::Done(result) => self.conclude(ticket, Undo::Create(resource), result),
            Progress::Later => Step::Later(Undo::Create(resource), Some(resource)),
        }
    }

    /// Records a new resource, with its backing if it has one already.
    pub(super) fn record(
        &mut self,
        resource: ResourceId,
        desc: Desc,
        backing: Option<Backing>,
        ticket: Ticket,
    ) -> Result<(), ReplyError> {
        if !self.resources.is_free(resource) {
            return Err(ReplyError::InvalidResourceId);
        }
        let is_full = self.resources.table.len() >= caps::RESOURCES;
        if is_full && self.resources.stale().is_empty() {
            return Err(ReplyError::OutOfMemory);
        }
        self.make_room(resource, cost(&desc).plus(tables(backing.as_ref())))?;
        if self.resources.is_stale(resource) {
            self.drop_resource(resource);
        } else if is_full {
            self.drop_stale();
        }
        self.resources.insert(resource, desc, ticket)?;
        // There is room for it.
        self.resources.set_backing(resource, backing)
    }

    /// Sees to it that a resource can be charged so much more, or says that it cannot: pixels of others that nobody sees are read anew
    /// when somebody does, and what an earlier driver left behind may not starve this one. Nothing goes where that is not enough.
    pub(super) fn make_room(&mut self, resource: ResourceId, cost: Cost) -> Result<(), ReplyError> {
        if self.resources.has_room(cost) {
            return Ok(());
        }
        let (limit, used, wanted) = (self.resources.ledger.limit(), self.resources.ledger.used(), cost.bytes());
        let kept = used.saturating_sub(self.dispensable(resource));
        if kept.saturating_add(wanted) > limit {
            guest_log!(
                warn,
                "The guest has {used} of {limit} bytes and wants {wanted} more: it needs a larger --memory"
            );
            return Err(ReplyError::OutOfMemory);
        }
        self.forget_unseen(resource, cost);
        if !self.resources.has_room(cost) && self.resources.is_stale(resource) {
            self.drop_resource(resource);
        }
        if !self.resources.has_room(cost) {
            self.drop_stale();
        }
        Ok(())
    }

    /// Bytes that can go for the sake of a resource.
    fn dispensable(&self, resource: ResourceId) -> u64 {
        let unseen = |id: ResourceId, found: &Resource| if self.is_unseen(id, resource) { found.read } else { 0 };
        let bytes = |(id, found): (&ResourceId, &Resource)| match found.stale {
            true => found.cost.bytes(),
            false => unseen(*id, found),
        };
        self.resources.table.iter().map(bytes).sum()
    }

    /// As [`make_room`](Self::make_room), for a picture of the pointer in the place of the one that there is: it is charged then.
    pub(super) fn make_room_for_pointer(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.make_room(ResourceId(0), self.resources.more_for_cursor(bytes))?;
        self.resources.charge_cursor(bytes)
    }

    fn drop_stale(&mut self) {
        for stale in self.resources.stale() {
            self.drop_resource(stale);
        }
    }

    pub(super) fn unref(&mut self, memory: &Memory, ticket: Ticket, resource: ResourceId) -> Result<Step, ReplyError> {
        let has_twin = self.twin(resource).is_some();
        let found = self.resources.get(resource)?;
        let has_pages = (found.desc.is_rendered() || has_twin) && found.backing.is_some();
        self.catch_up_on(memory, resource);
        if has_pages {
            // It goes when nobody uses its pages any more.
            return self.detach_rendered(ticket, resource, Undo::Unref(resource));
        }
        self.drop_resource(resource);
        Ok(Step::Reply(Reply::OkNoData))
    }

    /// The heads that show it show nothing, before its pixels are gone. Whoever waits for something of it waits no more.
    pub(super) fn drop_resource(&mut self, resource: ResourceId) {
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
        let pointer = three_d.reads.forget_pointer_of(resource);
        // Nothing is to be seen of it any more, and that is so.
        let flushes = three_d.reads.forget(resource).into_iter().map(|flush| (flush, Reply::OkNoData));
        let shown = three_d.views.forget(resource).map(|ticket| (ticket, Reply::Error(ReplyError::InvalidResourceId)));
        for (ticket, reply) in flushes.chain(mapped).chain(shown) {
            self.complete(ticket, reply);
        }
        if let Some(wanted) = pointer {
            // Without its picture it moves all the same.
            self.set_pointer(&wanted, None);
            self.complete(wanted.ticket, Reply::OkNoData);
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
            self.resources.drop_backing(resource);
        }
    }

    /// The renderer did not take a backing: nobody is to have it.
    pub(super) fn forget_backing(&mut self, resource: ResourceId) {
        let ticket = self.order.ticket();
        if self.twin(resource).is_some()
            && let Some(three_d) = &mut self.three_d
        {
            three_d.renderer.detach(ticket, resource);
        }
        self.resources.drop_backing(resource);
    }

    /// Gives the renderer pages that it was asked to give back: the guest was told that it still has them.
    pub(super) fn attach_again(&mut self, resource: ResourceId) {
        let ticket = self.order.ticket();
        let Ok(Resource { desc, backing: Some(backing), .. }) = self.resources.get(resource) else { return };
        if !desc.is_rendered() {
            self.renderer.attach(ticket, resource, backing.entries());
        }
    }

    /// A backing whose every entry lies in guest memory now.
    pub(super) fn new_backing(&self, memory: &Memory, entries: Vec<MemEntry>) -> Result<Backing, ReplyError> {
        check_entries(&entries)?;
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
            Progress::Done(result) => self.conclude(ticket, Undo::Attach(resource), result),
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
        self.make_room(resource, tables(Some(&backing)))?;
        self.resources.set_backing(resource, Some(backing))
    }

    pub(super) fn detach_backing(&mut self, memory: &Memory, ticket: Ticket, resource: ResourceId) -> Step {
        let is_rendered = match self.resources.get(resource) {
            Ok(found) if found.backing.is_some() => found.desc.is_rendered(),
            Ok(_) => return Step::error(ReplyError::Unspec),
            Err(error) => return Step::error(error),
        };
        self.catch_up_on(memory, resource);
        if is_rendered {
            return self.detach_rendered(ticket, resource, Undo::Release(resource)).unwrap_or_else(Step::error);
        }
        match self.renderer.detach(ticket, resource) {
            Progress::Done(result) => self.conclude(ticket, Undo::Detach(resource), result),
            Progress::Later => Step::Later(Undo::Detach(resource), Some(resource)),
        }
    }

    /// The renderer gave pages back. An image's twin may have them too.
    pub(super) fn detach_further(&mut self, ticket: Ticket, resource: ResourceId) -> Step {
        if self.twin(resource).is_some() {
            return self.detach_rendered(ticket, resource, Undo::Release(resource)).unwrap_or_else(Step::error);
        }
        self.resources.drop_backing(resource);
        Step::Reply(Reply::OkNoData)
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
            Progress::Done(result) => self.conclude(ticket, Undo::Transfer { resource, rect }, result),
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
