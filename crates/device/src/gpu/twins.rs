//! Twins: what a 3D renderer has of images that are not its own.
//!
//! An image of RESOURCE_CREATE_2D is ours, pixels and all, so that it outlives the renderer. A context of OpenGL that is open and
//! may use it gets a resource of the renderer's with the same name, size and pixels: its twin. What a guest copies into the image
//! is written to the twin as well, in the order of the commands. What contexts may have drawn into the twin is read back into the
//! image when that is flushed while a head shows it, and when the last context goes that could have drawn.
//!
//! Commands of 2D never wait for the renderer. A twin that is being read or written, or whose renderer has no room, is *stale* where
//! its image changes meanwhile: that is written later, after the work that came before the change and before the work that came
//! after it, which waits at its gate. A twin that fails is dropped; the image stays as it is.

mod table;

use protocol::{CapsetId, ContextId, Format, MemEntry, Rect, ReplyError, Resource3d, ResourceId};

use super::Gpu;
use super::desc::{Desc, image_bytes};
use super::gates::Gate;
use super::ledger::Cost;
use super::sizes::estimate;
use super::three_d::Rendering;
use crate::caps;
use crate::display::{Frame, Pixels};
use crate::memory::Memory;
use crate::render::Progress;
use crate::stats::Kind;
use crate::virtio::Ticket;
pub(super) use table::Twins;
use table::{Job, Look, Twin, What, is_before};

/// `PIPE_TEXTURE_2D`.
const TEXTURE_2D: u32 = 2;
/// `PIPE_BIND_RENDER_TARGET` and `PIPE_BIND_SAMPLER_VIEW`: a guest's driver that finds an image takes it for either.
const DRAWN_AND_SAMPLED: u32 = 1 << 1 | 1 << 3;

/// What a renderer is to make of an image. Its first row is the first one in memory, as of any resource that a guest's driver
/// makes.
pub(super) fn desc(format: Format, width: u32, height: u32) -> Resource3d {
    Resource3d {
        target: TEXTURE_2D,
        format: format as u32,
        bind: DRAWN_AND_SAMPLED,
        width,
        height,
        depth: 1,
        array_size: 1,
        ..Resource3d::default()
    }
}

/// What a twin is charged: what the renderer has, and the pixels once more on their way there and back.
fn twin_cost(format: Format, width: u32, height: u32) -> Cost {
    let twin = Cost::of(Kind::Twins, estimate(&desc(format, width, height)));
    twin.plus(Cost::of(Kind::Shadows, image_bytes(width, height)))
}

/// The first `len` bytes of pixels that a renderer, which may still write to them, has read.
fn copy_of(pixels: &Pixels<'_>, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).ok()?;
    match pixels {
        Pixels::Private(from) => bytes.extend_from_slice(from.get(..len)?),
        Pixels::Shared(shared) if shared.slice.len() >= len => {
            bytes.resize(len, 0);
            shared.slice.copy_to(&mut bytes);
        }
        Pixels::Shared(_) | Pixels::Guest(_) => return None,
    }
    Some(bytes)
}

/// Puts a part of an image over the same part of `bytes`, whose rows are packed.
fn keep_part(image: &Frame<'_>, rect: &Rect, bytes: &mut [u8]) {
    let len = |pixels: u32| pixels as usize * Format::BYTES_PER_PIXEL as usize;
    for row in 0..rect.height {
        let start = (rect.y + row) as usize * image.stride as usize + len(rect.x);
        if let Some(part) = bytes.get_mut(start..start + len(rect.width)) {
            image.read_row(rect, row, part);
        }
    }
}

impl Rendering {
    /// Whether a context that is open uses the twin of an image.
    fn uses_twin(&self, resource: ResourceId) -> bool {
        self.contexts.drawing(resource).next().is_some()
    }

    /// Whether more may have been drawn into a twin than its image shows.
    fn is_ahead(&self, resource: ResourceId) -> bool {
        let Some(Twin { seen, left, .. }) = self.twins.table.get(&resource) else { return false };
        left > seen || self.contexts.drawing(resource).any(|(_, work)| work > *seen)
    }
}

impl Gpu {
    /// The twin of an image as a resource of the renderer's, if it has one.
    pub(super) fn twin(&self, resource: ResourceId) -> Option<Resource3d> {
        let three_d = self.three_d.as_ref().filter(|three_d| three_d.twins.has(resource))?;
        match self.resources.desc(resource)? {
            Desc::Image { format, width, height } if three_d.renderer.has(resource) => {
                Some(desc(*format, *width, *height))
            }
            _ => None,
        }
    }

    /// The same, as a context finds it.
    pub(super) fn twin_of(&self, context: ContextId, resource: ResourceId) -> Option<Resource3d> {
        let three_d = self.three_d.as_ref()?;
        let draws = three_d.contexts.drawing(resource).any(|(other, _)| other == context);
        self.twin(resource).filter(|_| draws)
    }

    /// A context that is open may use an image. Where there is no room for a twin it finds none.
    pub(super) fn join_twin(&mut self, context: ContextId, resource: ResourceId) -> Result<(), ReplyError> {
        let three_d = self.three_d.as_ref().ok_or(ReplyError::Unspec)?;
        if !three_d.renderer.is_open(context) {
            // It was lost: it draws nothing any more.
            return Ok(());
        }
        if self.twin(resource).is_none() {
            self.drop_twin(resource);
            return self.make_twin(resource);
        }
        if let Some(three_d) = &mut self.three_d {
            three_d.renderer.join(context, resource);
        }
        Ok(())
    }

    /// Makes a twin for all contexts that are open and may use the image.
    fn make_twin(&mut self, resource: ResourceId) -> Result<(), ReplyError> {
        let made = self.order.ticket();
        let found = self.resources.get(resource)?;
        let Desc::Image { format, width, height } = found.desc else { return Ok(()) };
        let desc = desc(format, width, height);
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        if three_d.twins.table.len() >= caps::TWINS {
            return Err(ReplyError::OutOfMemory);
        }
        let cost = twin_cost(format, width, height);
        self.make_room(resource, cost)?;
        self.resources.charge(resource, cost)?;
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let progress = three_d.renderer.create(made, resource, &desc);
        if let Progress::Done(Err(error)) = progress {
            self.resources.credit(resource, cost);
            return Err(error);
        }
        let seen = three_d.twins.work;
        three_d.twins.table.insert(resource, Twin::new(made, seen));
        if progress == Progress::Later {
            three_d.twins.jobs.insert(made, Job { what: What::Make, resource, made });
        }
        self.attach_twin(resource);
        self.write_part(resource, Rect::of_size(width, height));
        if let Some(three_d) = self.three_d.as_mut().filter(|three_d| three_d.twins.has(resource)) {
            let Rendering { contexts, renderer, .. } = &mut **three_d;
            for (context, _) in contexts.drawing(resource) {
                if renderer.is_open(context) {
                    renderer.join(context, resource);
                }
            }
        }
        Ok(())
    }

    /// The twin has the pages that the image has. Without them, who copies between the two fails.
    pub(super) fn attach_twin(&mut self, resource: ResourceId) {
        if self.twin(resource).is_none() {
            return;
        }
        let ticket = self.order.ticket();
        let Ok(found) = self.resources.get(resource) else { return };
        let backing = found.backing.as_ref().filter(|_| !found.is_leaving);
        let entries: &[MemEntry] = backing.map_or(&[], |backing| backing.entries());
        if let Some(three_d) = self.three_d.as_mut().filter(|_| !entries.is_empty()) {
            three_d.renderer.attach(ticket, resource, entries);
        }
    }

    /// A part of an image changed: so does its twin, now or later.
    pub(super) fn write_twin(&mut self, resource: ResourceId, rect: Rect) {
        let fence = self.order.last_at(Gate::Gl);
        let Some(three_d) = &mut self.three_d else { return };
        let Some(twin) = three_d.twins.table.get_mut(&resource).filter(|_| !rect.is_empty()) else { return };
        twin.mark_stale(self.order.ticket(), rect, fence);
        three_d.twins.behind.insert(resource);
        self.look_at_gates();
    }

    /// Writes what twins lack, as far as the work that is next at the gate has to see it. Returns whether that work may pass.
    pub(super) fn write_stale(&mut self) -> bool {
        let Some(three_d) = self.three_d.as_ref().filter(|three_d| !three_d.twins.behind.is_empty()) else {
            return true;
        };
        let next = self.order.first_at(Gate::Gl);
        let Twins { behind, table, .. } = &three_d.twins;
        let is_due = |resource: &&ResourceId| table.get(resource).is_some_and(|twin| twin.is_due(next));
        if three_d.renderer.is_full(CapsetId::VIRGL2) {
            // The first that is due says it for all of them.
            return !behind.iter().any(|resource| is_due(&resource));
        }
        let due: Vec<_> = behind.iter().filter(is_due).copied().collect();
        let mut may_pass = true;
        for resource in due {
            let Some(three_d) = &mut self.three_d else { break };
            let Some(twin) = three_d.twins.table.get_mut(&resource) else { continue };
            if twin.owed > 0 || three_d.renderer.is_full(CapsetId::VIRGL2) {
                may_pass = false;
                continue;
            }
            for (_, rect) in twin.stale.extract_if(.., |(changed, _)| is_before(*changed, next)).collect::<Vec<_>>() {
                self.write_part(resource, rect);
            }
            self.forget_if_level(resource);
        }
        may_pass
    }

    /// Writes a part of an image to its twin.
    fn write_part(&mut self, resource: ResourceId, rect: Rect) {
        let ticket = self.order.ticket();
        let Some(three_d) = self.three_d.as_mut().filter(|three_d| three_d.twins.has(resource)) else { return };
        let written = match self.renderer.pixels(resource, false) {
            Some(pixels) if three_d.renderer.has(resource) => three_d.renderer.write(ticket, resource, rect, &pixels),
            _ => Progress::Done(Err(ReplyError::Unspec)),
        };
        match written {
            Progress::Done(Ok(())) => {}
            Progress::Done(Err(_)) => self.drop_twin(resource),
            Progress::Later => three_d.twins.owe(ticket, resource, What::Write),
        }
    }

    /// Whether there is nothing left to do about a twin.
    fn forget_if_level(&mut self, resource: ResourceId) {
        let Some(Rendering { twins, .. }) = self.three_d.as_deref_mut() else { return };
        if twins.table.get(&resource).is_none_or(|twin| twin.stale.is_empty() && twin.look.is_none()) {
            twins.behind.remove(&resource);
        }
    }

    /// Whether more may have been drawn into the twin of an image that is flushed, or is about to be.
    pub(super) fn must_read_twin(&mut self, resource: ResourceId) -> bool {
        let is_shown = self.scanouts.shown.values().any(|scanout| scanout.resource == resource);
        let Some(three_d) = self.three_d.as_ref().filter(|three_d| three_d.twins.has(resource)) else { return false };
        is_shown && self.shows_driver() && (three_d.is_ahead(resource) || self.order.first_at(Gate::Gl).is_some())
    }

    /// What is flushed of an image is shown as it is, and once more when all of its twin was read: nobody says what was drawn.
    pub(super) fn flush_twin(&mut self, memory: &Memory, resource: ResourceId, rect: Rect) -> Result<(), ReplyError> {
        let now = self.order.ticket();
        if let Some(Rendering { twins, .. }) = self.three_d.as_deref_mut()
            && let Some(twin) = twins.table.get_mut(&resource)
        {
            twin.want_look(now, rect);
            twins.behind.insert(resource);
        }
        match self.look_at_twin(memory, resource) {
            true => Ok(()),
            false => self.show_damage(memory, resource, &rect),
        }
    }

    /// Reads a twin if something of it is to be shown, and what came before that was passed on. Returns whether it was shown.
    fn look_at_twin(&mut self, memory: &Memory, resource: ResourceId) -> bool {
        let next = self.order.first_at(Gate::Gl);
        let Some(three_d) = &mut self.three_d else { return false };
        let is_ahead = three_d.is_ahead(resource);
        let is_full = three_d.renderer.is_full(CapsetId::VIRGL2);
        let Some(twin) = three_d.twins.table.get_mut(&resource).filter(|twin| twin.owed == 0) else { return false };
        let Some(look) = twin.look.filter(|look| !is_full && is_before(look.since, next)) else { return false };
        let rest = Look { since: look.until, ..look };
        twin.look = Some(rest).filter(|rest| !is_before(rest.until, next));
        self.forget_if_level(resource);
        let is_read = is_ahead && self.read_twin(resource, Some(look.rect));
        // Who could not see it by now is shown it when the pixels are asked for.
        !is_read && self.shows_driver() && self.show_damage(memory, resource, &look.rect).is_ok()
    }

    /// Begins to read a twin into its image. Returns whether that takes its time.
    fn read_twin(&mut self, resource: ResourceId, flush: Option<Rect>) -> bool {
        let (Some(desc), Some(three_d)) = (self.twin(resource), &mut self.three_d) else {
            self.drop_twin(resource);
            return false;
        };
        let (ticket, work) = (self.order.ticket(), three_d.twins.work);
        match three_d.renderer.read(ticket, resource, Rect::of_size(desc.width, desc.height)) {
            Progress::Done(Ok(())) => self.take_twin(resource, work),
            Progress::Done(Err(_)) => self.drop_twin(resource),
            Progress::Later => {
                three_d.twins.owe(ticket, resource, What::Read { work, flush });
                return true;
            }
        }
        false
    }

    /// The renderer told of a ticket. Returns whether it was one of these.
    pub(super) fn finish_twin(&mut self, memory: &Memory, ticket: Ticket, result: Result<(), ReplyError>) -> bool {
        let Some((Job { what, resource, .. }, is_there)) =
            self.three_d.as_mut().and_then(|three_d| three_d.twins.answered(ticket))
        else {
            return false;
        };
        match (what, result) {
            _ if !is_there => return true,
            // The image was shown as it is.
            (_, Err(_)) => self.drop_twin(resource),
            (What::Read { work, flush }, Ok(())) => {
                self.take_twin(resource, work);
                if let Some(rect) = flush.filter(|_| self.shows_driver()) {
                    // Who flushed was answered.
                    let _ = self.show_damage(memory, resource, &rect);
                }
            }
            (What::Make | What::Write | What::Abandoned, Ok(())) => {}
        }
        self.catch_up_each(memory, &[resource]);
        self.settle_twin(resource);
        true
    }

    /// Does what is left to do about all twins that are behind, as [`catch_up_each`](Self::catch_up_each).
    pub(super) fn catch_up_twins(&mut self, memory: &Memory) {
        let Some(three_d) = self.three_d.as_ref().filter(|three_d| self.runs && !three_d.twins.behind.is_empty())
        else {
            return;
        };
        let behind: Vec<_> = three_d.twins.behind.iter().copied().collect();
        self.catch_up_each(memory, &behind);
    }

    /// Does what is left to do about twins, as far as that is possible, of each in the order in which it came.
    fn catch_up_each(&mut self, memory: &Memory, resources: &[ResourceId]) {
        for resource in resources {
            if self.is_look_first(*resource) {
                self.look_at_twin(memory, *resource);
            }
        }
        // It goes through all that are behind: once is enough.
        self.look_at_gates();
        for resource in resources {
            self.look_at_twin(memory, *resource);
        }
    }

    /// Whether a twin is to be shown once more as it was before its image changed.
    fn is_look_first(&self, resource: ResourceId) -> bool {
        let Some(twin) = self.three_d.as_ref().and_then(|three_d| three_d.twins.table.get(&resource)) else {
            return false;
        };
        twin.look.is_some_and(|look| twin.stale.first().is_none_or(|(changed, _)| look.since < *changed))
    }

    /// What was read of a twin is the image's, but for what is newer in the image.
    fn take_twin(&mut self, resource: ResourceId, work: u64) {
        let Some(three_d) = &mut self.three_d else { return };
        let Some(Desc::Image { format, width, height }) = self.resources.desc(resource).copied() else { return };
        let Some(twin) = three_d.twins.table.get_mut(&resource) else { return };
        twin.seen = work;
        let len = usize::try_from(image_bytes(width, height)).unwrap_or(usize::MAX);
        let bytes = match three_d.renderer.pixels(resource) {
            Some(Pixels::Private(bytes)) if twin.stale.is_empty() => {
                bytes.get(..len).map(|bytes| self.renderer.restore(resource, bytes))
            }
            Some(pixels) => copy_of(&pixels, len).map(|mut bytes| {
                if let Some(pixels) = self.renderer.pixels(resource, false).filter(|_| !twin.stale.is_empty()) {
                    let stride = width * Format::BYTES_PER_PIXEL;
                    let image = Frame { format, width, height, stride, offset: 0, pixels };
                    for (_, rect) in &twin.stale {
                        keep_part(&image, rect, &mut bytes);
                    }
                }
                self.renderer.restore(resource, &bytes)
            }),
            None => None,
        };
        if bytes == Some(Ok(())) {
            self.stats.readback_bytes.add(len as u64);
        }
    }

    /// A context uses some images no more; `work` is the last that it did.
    pub(super) fn leave_twins(&mut self, resources: impl IntoIterator<Item = ResourceId>, work: u64) {
        for resource in resources {
            if let Some(three_d) = &mut self.three_d {
                three_d.twins.left(resource, work);
            }
            self.settle_twin(resource);
        }
    }

    /// A twin that no context uses goes, once the image has what was drawn into it.
    fn settle_twin(&mut self, resource: ResourceId) {
        let Some(three_d) = self.three_d.as_mut().filter(|three_d| three_d.twins.has(resource)) else { return };
        let reads = |job: &Job| job.resource == resource && matches!(job.what, What::Read { .. });
        if three_d.uses_twin(resource) || three_d.twins.jobs.values().any(reads) {
            return;
        }
        let is_owed = three_d.twins.table.get(&resource).is_some_and(|twin| twin.owed > 0);
        if is_owed && three_d.is_ahead(resource) {
            // It comes here again when that is answered.
            return;
        }
        if !three_d.is_ahead(resource) || !self.read_twin(resource, None) {
            self.drop_twin(resource);
        }
    }

    /// As [`settle_twin`](Self::settle_twin), of all.
    pub(super) fn settle_twins(&mut self) {
        let images = self.three_d.as_ref().map_or_else(Vec::new, |three_d| three_d.twins.images());
        for image in images {
            self.settle_twin(image);
        }
    }

    /// The twin is gone, whatever was drawn into it.
    ///
    /// The image's pages, which it had too, are not taken back first, and nobody waits until it is destroyed, also not who takes them
    /// back a moment later. Nothing of the renderer's uses them any more by then: what may copy between them and the twin is work, and
    /// a twin goes when a read that was asked for after all work was answered ([`settle_twin`](Self::settle_twin)), when nothing was
    /// asked for that could have used it, or with the process. The exception is a renderer that fails at once, for want of memory or
    /// descriptors of the host: work on its way may then write pages that the guest has put to another use.
    fn drop_twin(&mut self, resource: ResourceId) {
        let Some(three_d) = &mut self.three_d else { return };
        if !three_d.twins.remove(resource) {
            return;
        }
        three_d.renderer.destroy(resource);
        if let Some(Desc::Image { format, width, height }) = self.resources.desc(resource) {
            let cost = twin_cost(*format, *width, *height);
            self.resources.credit(resource, cost);
        }
    }
}
