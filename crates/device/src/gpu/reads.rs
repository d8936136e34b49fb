//! Pixels of a 3D renderer on their way to heads and pointer: they are read back, only what changed, and at most once at a
//! time for each resource.

use std::collections::{HashMap, HashSet};

use protocol::command::CursorPosition;
use protocol::{Format, Rect, Reply, ReplyError, ResourceId};

use super::ledger::Cost;
use super::shown::{Pointer, PointerImage};
use super::{Gpu, Step, Undo};
use crate::caps;
use crate::display::Pixels;
use crate::memory::Memory;
use crate::render::Progress;
use crate::virtio::Ticket;

/// A part of a resource that is read, and the flushes that wait for it.
#[derive(Debug)]
struct Read {
    area: Rect,
    flushes: Vec<Ticket>,
}

/// A resource that is being read.
#[derive(Debug)]
struct Reading {
    ticket: Ticket,
    now: Read,
    /// What was flushed meanwhile: it is read next, all of it at once.
    next: Option<Read>,
}

/// A pointer whose picture is being read. It is shown when that is there: until then the pointer is as it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub ticket: Ticket,
    resource: ResourceId,
    /// Where it is to be then.
    pub position: CursorPosition,
    hot: (u32, u32),
}

/// The resources that are being read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    under_way: HashMap<ResourceId, Reading>,
    tickets: HashMap<Ticket, ResourceId>,
    /// Those that are charged for pixels of which none have come yet.
    unread: HashSet<ResourceId>,
    /// The newest pointer that was asked for.
    pub pointer: Option<Wanted>,
}

impl Reads {
    /// Whether pixels of a resource are on their way.
    fn is_awaited(&self, resource: ResourceId) -> bool {
        self.under_way.contains_key(&resource) || self.pointer.is_some_and(|wanted| wanted.resource == resource)
    }

    /// The resource is gone. Returns the pointer that waits for its picture.
    pub fn forget_pointer_of(&mut self, resource: ResourceId) -> Option<Wanted> {
        self.pointer.take_if(|wanted| wanted.resource == resource)
    }

    /// The resource is gone. Returns the flushes that waited for it.
    pub fn forget(&mut self, resource: ResourceId) -> Vec<Ticket> {
        self.unread.remove(&resource);
        let Some(Reading { ticket, now, next }) = self.under_way.remove(&resource) else { return Vec::new() };
        self.tickets.remove(&ticket);
        now.flushes.into_iter().chain(next.into_iter().flat_map(|next| next.flushes)).collect()
    }
}

impl Gpu {
    /// Heads see what changed in a resource once it was read. `rect` lies inside the resource.
    pub(super) fn flush_rendered(&mut self, memory: &Memory, ticket: Ticket, resource: ResourceId, rect: Rect) -> Step {
        let area = match self.scanouts.to_read(resource, &rect) {
            Some(area) if self.shows_driver() => area,
            _ => return Step::Reply(Reply::OkNoData),
        };
        if let Err(error) = self.charge_pixels(resource, Cost::default()) {
            return Step::error(error);
        }
        let Some(three_d) = &mut self.three_d else { return Step::error(ReplyError::Unspec) };
        if let Some(reading) = three_d.reads.under_way.get_mut(&resource) {
            let next = reading.next.get_or_insert(Read { area, flushes: Vec::new() });
            next.area = next.area.union(&area);
            next.flushes.push(ticket);
            return Step::Later(Undo::Nothing, None);
        }
        match self.read(resource, Read { area, flushes: vec![ticket] }) {
            Some((_, result)) => Step::from(self.take_read(memory, resource, &area, result)),
            None => Step::Later(Undo::Nothing, None),
        }
    }

    /// The pixels that are read of a resource take memory of ours from the first time on, and the pointer's picture `more` than now.
    fn charge_pixels(&mut self, resource: ResourceId, more: Cost) -> Result<(), ReplyError> {
        let cost = self.resources.cost_of_pixels(resource)?;
        self.make_room(resource, cost.plus(more))?;
        if let Some(three_d) = self.three_d.as_mut().filter(|_| cost.bytes() > 0) {
            three_d.reads.unread.insert(resource);
        }
        self.resources.charge_pixels(resource)
    }

    /// A read failed: what was charged for pixels that never came is given back.
    fn credit_unread(&mut self, resource: ResourceId) {
        let Self { resources, three_d: Some(three_d), .. } = self else { return };
        if !three_d.reads.is_awaited(resource) && three_d.reads.unread.remove(&resource) {
            three_d.renderer.forget_pixels(resource);
            resources.credit_pixels(resource);
        }
    }

    /// Whether pixels that were read of a resource can go for the sake of another one: no head shows them, and nobody awaits them.
    pub(super) fn is_unseen(&self, resource: ResourceId, other: ResourceId) -> bool {
        let is_awaited = self.three_d.as_ref().is_none_or(|three_d| three_d.reads.is_awaited(resource));
        resource != other && !is_awaited && !self.scanouts.shows(resource)
    }

    /// Gives up pixels that were read of other resources and that no head shows, until there is room for `cost`.
    pub(super) fn forget_unseen(&mut self, resource: ResourceId, cost: Cost) {
        for other in self.resources.with_pixels() {
            if self.resources.has_room(cost) {
                return;
            }
            if self.is_unseen(other, resource)
                && let Some(three_d) = &mut self.three_d
            {
                three_d.reads.unread.remove(&other);
                three_d.renderer.forget_pixels(other);
                self.resources.credit_pixels(other);
            }
        }
    }

    /// Begins to read. Returns how it went if it is over already.
    fn read(&mut self, resource: ResourceId, read: Read) -> Option<(Read, Result<(), ReplyError>)> {
        let three_d = self.three_d.as_mut()?;
        let ticket = self.order.ticket();
        if let Progress::Done(result) = three_d.renderer.read(ticket, resource, read.area) {
            return Some((read, result));
        }
        three_d.reads.tickets.insert(ticket, resource);
        three_d.reads.under_way.insert(resource, Reading { ticket, now: read, next: None });
        None
    }

    /// The renderer told of a ticket: if it was a read, its pixels are shown, its flushes answered, and the next one begins.
    pub(super) fn finish_read(&mut self, memory: &Memory, ticket: Ticket, result: Result<(), ReplyError>) {
        let Some(three_d) = &mut self.three_d else { return };
        let Some(resource) = three_d.reads.tickets.remove(&ticket) else { return };
        let Some(Reading { now, mut next, .. }) = three_d.reads.under_way.remove(&resource) else { return };
        let mut over = Some((now, result));
        while let Some((read, result)) = over {
            let shown = result.and_then(|()| self.present(memory, resource, &read.area));
            for flush in read.flushes {
                self.complete(flush, shown.into());
            }
            over = next.take().and_then(|next| self.read(resource, next));
            if result.is_err() {
                self.credit_unread(resource);
            }
        }
    }

    /// Pixels came at once, or did not.
    fn take_read(
        &mut self,
        memory: &Memory,
        resource: ResourceId,
        area: &Rect,
        result: Result<(), ReplyError>,
    ) -> Result<(), ReplyError> {
        match result {
            Ok(()) => self.present(memory, resource, area),
            Err(error) => {
                self.credit_unread(resource);
                Err(error)
            }
        }
    }

    /// Shows pixels that were read on every head that has the resource.
    fn present(&mut self, memory: &Memory, resource: ResourceId, area: &Rect) -> Result<(), ReplyError> {
        let bytes = u64::from(area.width) * u64::from(area.height) * u64::from(Format::BYTES_PER_PIXEL);
        self.stats.readback_bytes.add(bytes);
        self.pixels_came(resource);
        self.scanouts.pixels_came(resource, area);
        if self.shows_driver() { self.show_damage(memory, resource, area) } else { Ok(()) }
    }

    /// Something was read of a resource.
    fn pixels_came(&mut self, resource: ResourceId) {
        if let Some(three_d) = &mut self.three_d {
            three_d.reads.unread.remove(&resource);
        }
    }

    /// The pointer gets a picture of a 3D renderer's, and its place, once that was read. The room for it is charged before.
    pub(super) fn read_pointer(
        &mut self,
        ticket: Ticket,
        position: CursorPosition,
        resource: ResourceId,
        hot: (u32, u32),
    ) -> Result<Step, ReplyError> {
        let (_, width, height) = self.resources.get(resource)?.desc.image().ok_or(ReplyError::InvalidParameter)?;
        if width.max(height) > caps::CURSOR_SIZE {
            return Err(ReplyError::InvalidParameter);
        }
        // The picture that there is stays until the other one is there.
        let bytes = picture_bytes(width, height).max(self.scanouts.pointer_bytes());
        self.charge_pixels(resource, self.resources.more_for_cursor(bytes))?;
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let progress = three_d.renderer.read(ticket, resource, Rect::of_size(width, height));
        if let Progress::Done(Err(error)) = progress {
            self.credit_unread(resource);
            return Err(error);
        }
        three_d.reads.pointer = Some(Wanted { ticket, resource, position, hot });
        self.resources.charge_cursor(bytes)?;
        Ok(self.step(ticket, progress, Undo::Pointer(resource)))
    }

    /// What was read of a resource is the pointer's picture, unless there is a newer one.
    pub(super) fn take_pointer(&mut self, ticket: Ticket, resource: ResourceId) {
        let Some(wanted) = self.take_wanted(ticket) else { return };
        self.pixels_came(resource);
        let image = self.pointer_image(resource);
        self.set_pointer(&wanted, image);
    }

    /// Nothing was read of it: the pointer stays as it is.
    pub(super) fn forget_pointer(&mut self, ticket: Ticket, resource: ResourceId) {
        if self.take_wanted(ticket).is_some() {
            self.charge_pointer();
        }
        self.credit_unread(resource);
    }

    fn take_wanted(&mut self, ticket: Ticket) -> Option<Wanted> {
        self.three_d.as_mut()?.reads.pointer.take_if(|wanted| wanted.ticket == ticket)
    }

    /// The pixels of a resource that were read.
    fn pointer_image(&mut self, resource: ResourceId) -> Option<PointerImage> {
        let (format, width, height) = self.resources.get(resource).ok()?.desc.image()?;
        let bytes = picture_bytes(width, height);
        let mut pixels = vec![0; bytes];
        match self.three_d.as_mut()?.renderer.pixels(resource)? {
            Pixels::Private(from) => pixels.copy_from_slice(from.get(..bytes)?),
            Pixels::Shared(shared) if shared.slice.len() >= bytes => {
                shared.slice.copy_to(&mut pixels);
            }
            Pixels::Shared(_) | Pixels::Guest(_) => return None,
        }
        self.stats.readback_bytes.add(pixels.len() as u64);
        Some(PointerImage { format, width, height, pixels })
    }

    /// Shows the pointer that was asked for. Without a picture of its own it keeps the one that there is.
    pub(super) fn set_pointer(&mut self, wanted: &Wanted, image: Option<PointerImage>) {
        let CursorPosition { scanout, x, y } = wanted.position;
        let pointer = match (image, self.scanouts.pointer.take()) {
            (None, Some(earlier)) => Pointer { scanout, x, y, ..earlier },
            (image, _) => Pointer { scanout, x, y, hot_x: wanted.hot.0, hot_y: wanted.hot.1, image },
        };
        self.scanouts.pointer = Some(pointer);
        self.charge_pointer();
        self.show_pointer();
    }

    /// The pointer's picture is charged, and no other one.
    fn charge_pointer(&mut self) {
        // It was charged before, or has taken the place of what was.
        let _ = self.resources.charge_cursor(self.scanouts.pointer_bytes());
    }
}

/// Bytes of a picture of the pointer.
fn picture_bytes(width: u32, height: u32) -> usize {
    width as usize * height as usize * Format::BYTES_PER_PIXEL as usize
}
