//! Twins: what a 3D renderer has of images that are not its own.
//!
//! An image of RESOURCE_CREATE_2D is ours, pixels and all, so that it outlives the renderer. A context of OpenGL that is open and
//! may use it gets a resource of the renderer's with the same name, size and pixels: its twin. What a guest copies into the image
//! is written to the twin as well, in the order of the commands. What contexts may have drawn into the twin is read back into the
//! image when that is flushed while a head shows it, and when the last context goes that could have drawn.
//!
//! While a twin is written or read, commands that name the image wait. A twin that fails is dropped; the image stays as it is.

use std::collections::HashMap;

use protocol::{ContextId, Format, MemEntry, Rect, ReplyError, Resource3d, ResourceId};

use super::desc::{Cost, Desc, image_bytes};
use super::three_d::{Rendering, estimate};
use super::{Gpu, Step, Undo};
use crate::caps;
use crate::display::Pixels;
use crate::memory::Memory;
use crate::render::Progress;
use crate::virtio::Ticket;

/// `PIPE_TEXTURE_2D`.
const TEXTURE_2D: u32 = 2;
/// `PIPE_BIND_RENDER_TARGET` and `PIPE_BIND_SAMPLER_VIEW`: a guest's driver that finds an image takes it for either.
const DRAWN_AND_SAMPLED: u32 = 1 << 1 | 1 << 3;

/// A twin as the device knows it.
#[derive(Debug)]
struct Twin {
    /// The request that made it: tells it from an earlier one of the same image.
    made: Ticket,
    /// The work up to which the image shows what was drawn.
    seen: u64,
    /// The last work of contexts that are gone.
    left: u64,
}

/// What the renderer was asked for.
#[derive(Clone, Copy, Debug)]
enum What {
    Make,
    Write,
    Read {
        /// The work that it shows.
        work: u64,
        /// Who waits for it, and what is to be shown then.
        flush: Option<(Ticket, Rect)>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Job {
    what: What,
    resource: ResourceId,
    made: Ticket,
    /// Whether commands that name the image wait for it.
    holds: bool,
}

/// The table of twins, which holds the cap.
#[derive(Debug, Default)]
pub(super) struct Twins {
    table: HashMap<ResourceId, Twin>,
    jobs: HashMap<Ticket, Job>,
    /// Counts what contexts were given to do.
    work: u64,
}

impl Twins {
    /// Whether an image has one, as far as is known.
    pub fn has(&self, resource: ResourceId) -> bool {
        self.table.contains_key(&resource)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The images that have one.
    pub fn images(&self) -> Vec<ResourceId> {
        self.table.keys().copied().collect()
    }

    /// A context is given work. Returns its number.
    pub fn work(&mut self) -> u64 {
        self.work += 1;
        self.work
    }

    /// The image is gone, or its twin. Returns whether it had one.
    pub fn remove(&mut self, resource: ResourceId) -> bool {
        self.table.remove(&resource).is_some()
    }

    /// A context that may have drawn into it uses it no more.
    fn left(&mut self, resource: ResourceId, work: u64) {
        if let Some(twin) = self.table.get_mut(&resource) {
            twin.left = twin.left.max(work);
        }
    }

    /// Nobody waits for anything any more: what is read now is not used.
    pub fn abandon(&mut self) {
        self.jobs.retain(|_, job| !matches!(job.what, What::Read { .. }));
        self.jobs.values_mut().for_each(|job| job.holds = false);
    }

    /// All are gone. Returns the images that were held.
    pub fn clear(&mut self) -> Vec<ResourceId> {
        let Self { jobs, .. } = std::mem::take(self);
        jobs.into_values().filter(|job| job.holds).map(|job| job.resource).collect()
    }
}

/// What a renderer is to make of an image. Its first row is the first one in memory, as of any resource that a guest's driver
/// makes.
fn desc(format: Format, width: u32, height: u32) -> Resource3d {
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
        // Its pixels are held once more on their way.
        let cost = Cost { memory: image_bytes(width, height), rendered: estimate(&desc), ..Cost::default() };
        self.resources.charge(resource, cost)?;
        let progress = three_d.renderer.create(made, resource, &desc);
        if let Progress::Done(Err(error)) = progress {
            self.resources.credit(resource, cost);
            return Err(error);
        }
        let seen = three_d.twins.work;
        three_d.twins.table.insert(resource, Twin { made, seen, left: 0 });
        if progress == Progress::Later {
            three_d.twins.jobs.insert(made, Job { what: What::Make, resource, made, holds: false });
        }
        self.attach_twin(resource);
        self.write_twin(resource, Rect::of_size(width, height));
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
        let entries: &[MemEntry] = found.backing.as_ref().map_or(&[], |backing| backing.entries());
        if let Some(three_d) = self.three_d.as_mut().filter(|_| !entries.is_empty()) {
            three_d.renderer.attach(ticket, resource, entries);
        }
    }

    /// A part of an image changed: so does its twin.
    pub(super) fn write_twin(&mut self, resource: ResourceId, rect: Rect) {
        let Some(three_d) = self.three_d.as_mut().filter(|three_d| three_d.twins.has(resource)) else { return };
        let Some(Twin { made, .. }) = three_d.twins.table.get(&resource) else { return };
        let (made, ticket) = (*made, self.order.ticket());
        if rect.is_empty() {
            return;
        }
        let written = match self.renderer.pixels(resource, false) {
            Some(pixels) if three_d.renderer.has(resource) => three_d.renderer.write(ticket, resource, rect, &pixels),
            _ => Progress::Done(Err(ReplyError::Unspec)),
        };
        match written {
            Progress::Done(Ok(())) => {}
            Progress::Done(Err(_)) => self.drop_twin(resource),
            Progress::Later => {
                three_d.twins.jobs.insert(ticket, Job { what: What::Write, resource, made, holds: true });
                self.order.hold(resource);
            }
        }
    }

    /// Whether a flush of an image has to see first what was drawn into its twin.
    pub(super) fn must_read_twin(&mut self, resource: ResourceId) -> bool {
        let is_shown = self.scanouts.shown.values().any(|scanout| scanout.resource == resource);
        is_shown && self.shows_driver() && self.three_d.as_ref().is_some_and(|three_d| three_d.is_ahead(resource))
    }

    /// What is flushed of an image is shown once all of its twin was read: nobody says what was drawn.
    pub(super) fn flush_twin(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        resource: ResourceId,
        rect: Rect,
    ) -> Result<Step, ReplyError> {
        if self.read_twin(resource, Some((ticket, rect))) {
            return Ok(Step::Later(Undo::Nothing, Some(resource)));
        }
        self.show_damage(memory, resource, &rect)?;
        Ok(Step::Reply(protocol::Reply::OkNoData))
    }

    /// Begins to read a twin into its image. Returns whether that takes its time.
    fn read_twin(&mut self, resource: ResourceId, flush: Option<(Ticket, Rect)>) -> bool {
        let (Some(desc), Some(three_d)) = (self.twin(resource), &mut self.three_d) else {
            self.drop_twin(resource);
            return false;
        };
        let Some(Twin { made, .. }) = three_d.twins.table.get(&resource) else { return false };
        let (made, ticket, work) = (*made, self.order.ticket(), three_d.twins.work);
        match three_d.renderer.read(ticket, resource, Rect::of_size(desc.width, desc.height)) {
            Progress::Done(Ok(())) => self.take_twin(resource, work),
            Progress::Done(Err(_)) => self.drop_twin(resource),
            Progress::Later => {
                let what = What::Read { work, flush };
                let holds = flush.is_none();
                three_d.twins.jobs.insert(ticket, Job { what, resource, made, holds });
                if holds {
                    self.order.hold(resource);
                }
                return true;
            }
        }
        false
    }

    /// The renderer told of a ticket. Returns whether it was one of these.
    pub(super) fn finish_twin(&mut self, memory: &Memory, ticket: Ticket, result: Result<(), ReplyError>) -> bool {
        let Some(three_d) = &mut self.three_d else { return false };
        let Some(Job { what, resource, made, holds }) = three_d.twins.jobs.remove(&ticket) else { return false };
        let is_same = three_d.twins.table.get(&resource).is_some_and(|twin| twin.made == made);
        match (what, result) {
            _ if !is_same => {}
            (_, Err(_)) => self.drop_twin(resource),
            (What::Read { work, .. }, Ok(())) => self.take_twin(resource, work),
            (What::Make | What::Write, Ok(())) => {}
        }
        if holds {
            self.order.release(resource);
        }
        if let What::Read { flush: Some((ticket, rect)), .. } = what {
            // Without a twin the image is shown as it was.
            let shown = if self.shows_driver() { self.show_damage(memory, resource, &rect) } else { Ok(()) };
            self.complete(ticket, shown.into());
        }
        self.settle_twin(resource);
        true
    }

    /// What was read of a twin is the image's.
    fn take_twin(&mut self, resource: ResourceId, work: u64) {
        let Some(three_d) = &mut self.three_d else { return };
        let Some(Desc::Image { width, height, .. }) = self.resources.desc(resource) else { return };
        let len = usize::try_from(image_bytes(*width, *height)).unwrap_or(usize::MAX);
        if let Some(twin) = three_d.twins.table.get_mut(&resource) {
            twin.seen = work;
        }
        let restored = match three_d.renderer.pixels(resource) {
            Some(Pixels::Private(bytes)) => bytes.get(..len).map(|bytes| self.renderer.restore(resource, bytes)),
            // Whose process may still write to it.
            Some(Pixels::Shared(shared)) if shared.slice.len() >= len => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(len).ok().map(|()| {
                    bytes.resize(len, 0);
                    shared.slice.copy_to(&mut bytes);
                    self.renderer.restore(resource, &bytes)
                })
            }
            _ => None,
        };
        if restored == Some(Ok(())) {
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
    fn drop_twin(&mut self, resource: ResourceId) {
        let Some(three_d) = &mut self.three_d else { return };
        if !three_d.twins.remove(resource) {
            return;
        }
        three_d.renderer.destroy(resource);
        if let Some(Desc::Image { format, width, height }) = self.resources.desc(resource) {
            let rendered = estimate(&desc(*format, *width, *height));
            let cost = Cost { memory: image_bytes(*width, *height), rendered, ..Cost::default() };
            self.resources.credit(resource, cost);
        }
    }
}
