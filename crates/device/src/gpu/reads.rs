//! Pixels of a 3D renderer on their way to heads and pointer: they are read back, only what changed, and at most once at a
//! time for each resource.

use std::collections::HashMap;

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

/// The resources that are being read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    under_way: HashMap<ResourceId, Reading>,
    tickets: HashMap<Ticket, ResourceId>,
    /// The newest picture for the pointer that was asked for.
    pub pointer: Option<Ticket>,
}

impl Reads {
    /// The resource is gone. Returns the flushes that waited for it.
    pub fn forget(&mut self, resource: ResourceId) -> Vec<Ticket> {
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
        if let Err(error) = self.charge_pixels(resource) {
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
            Some((_, result)) => Step::from(result.and_then(|()| self.present(memory, resource, &area))),
            None => Step::Later(Undo::Nothing, None),
        }
    }

    /// The pixels that are read of a resource take memory of ours from the first time on.
    fn charge_pixels(&mut self, resource: ResourceId) -> Result<(), ReplyError> {
        self.make_room(resource, self.resources.cost_of_pixels(resource)?)?;
        self.resources.charge_pixels(resource)
    }

    /// Gives up pixels that were read of other resources and that no head shows, until there is room for `cost`.
    pub(super) fn forget_unseen(&mut self, resource: ResourceId, cost: Cost) {
        let Self { resources, three_d: Some(three_d), scanouts, .. } = self else { return };
        for other in resources.with_pixels() {
            if resources.has_room(cost) {
                return;
            }
            let is_shown = scanouts.shown.values().any(|scanout| scanout.resource == other);
            if other != resource && !is_shown && !three_d.reads.under_way.contains_key(&other) {
                three_d.renderer.forget_pixels(other);
                resources.credit_pixels(other);
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
        }
    }

    /// Shows pixels that were read on every head that has the resource.
    fn present(&mut self, memory: &Memory, resource: ResourceId, area: &Rect) -> Result<(), ReplyError> {
        let bytes = u64::from(area.width) * u64::from(area.height) * u64::from(Format::BYTES_PER_PIXEL);
        self.stats.readback_bytes.add(bytes);
        self.scanouts.pixels_came(resource, area);
        if self.shows_driver() { self.show_damage(memory, resource, area) } else { Ok(()) }
    }

    /// The pointer gets a picture of a 3D renderer's once it was read.
    pub(super) fn read_pointer(&mut self, ticket: Ticket, resource: ResourceId, hot: (u32, u32)) -> Step {
        let size = self.resources.get(resource).ok().and_then(|found| found.desc.image());
        let Some((_, width, height)) = size.filter(|(_, width, height)| *width.max(height) <= caps::CURSOR_SIZE) else {
            return Step::error(ReplyError::InvalidParameter);
        };
        if let Err(error) = self.charge_pixels(resource) {
            return Step::error(error);
        }
        let Some(three_d) = &mut self.three_d else { return Step::error(ReplyError::Unspec) };
        three_d.reads.pointer = Some(ticket);
        let progress = three_d.renderer.read(ticket, resource, Rect::of_size(width, height));
        self.step(progress, Undo::Pointer { ticket, resource, hot })
    }

    /// The pointer's picture was read; a newer one takes precedence.
    pub(super) fn take_pointer(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        hot: (u32, u32),
    ) -> Result<(), ReplyError> {
        let Some(three_d) = self.three_d.as_mut().filter(|three_d| three_d.reads.pointer == Some(ticket)) else {
            return Ok(());
        };
        let Some((format, width, height)) = self.resources.get(resource).ok().and_then(|found| found.desc.image())
        else {
            return Ok(());
        };
        let mut pixels = vec![0; width as usize * height as usize * Format::BYTES_PER_PIXEL as usize];
        match three_d.renderer.pixels(resource) {
            Some(Pixels::Private(bytes)) if bytes.len() >= pixels.len() => {
                let len = pixels.len();
                pixels.copy_from_slice(&bytes[..len]);
            }
            Some(Pixels::Shared(shared)) if shared.slice.len() >= pixels.len() => {
                shared.slice.copy_to(&mut pixels);
            }
            _ => return Ok(()),
        }
        self.stats.readback_bytes.add(pixels.len() as u64);
        // It may have gone meanwhile.
        if self.scanouts.pointer.is_none() {
            return Ok(());
        }
        // Without room for it the pointer keeps the picture it has, or none.
        self.make_room_for_pointer(pixels.len())?;
        if let Some(pointer) = &mut self.scanouts.pointer {
            (pointer.hot_x, pointer.hot_y) = hot;
            pointer.image = Some(PointerImage { format, width, height, pixels });
        }
        self.show_pointer();
        Ok(())
    }
}

impl Pointer {
    /// A pointer that moved, whose next picture is on its way.
    pub(super) fn moved(earlier: Option<Self>, scanout: protocol::ScanoutId, x: u32, y: u32) -> Self {
        match earlier {
            Some(earlier) => Self { scanout, x, y, ..earlier },
            None => Self { scanout, x, y, hot_x: 0, hot_y: 0, image: None },
        }
    }
}
