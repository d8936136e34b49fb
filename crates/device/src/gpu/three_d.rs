//! Work of a 3D renderer: capability sets, resources, transfers, command streams (virtio 1.3, section 5.7.6.8).

use std::sync::Arc;

use protocol::reply::Reply;
use protocol::{Box3d, CapsetId, ContextId, Header, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use protocol::{feature, three_d::FLAG_Y_0_TOP};

use super::config::GpuConfigSpace;
use super::contexts::Contexts;
use super::desc::Desc;
use super::reads::Reads;
use super::sizes::estimate;
use super::timelines::{Line, Timelines};
use super::twins::{self, Twins};
use super::views::Views;
use super::window::Window;
use super::{Gpu, Step, Undo};
use crate::caps;
use crate::memory::Memory;
use crate::render::Progress;
use crate::stats::Stats;
use crate::three_d::{Capset, ThreeD, Way};
use crate::virtio::Ticket;

/// Everything that a GPU with a 3D renderer has and one without does not.
pub(super) struct Rendering {
    pub renderer: Box<dyn ThreeD>,
    pub contexts: Contexts,
    pub timelines: Timelines,
    pub reads: Reads,
    pub twins: Twins,
    pub views: Views,
    pub window: Window,
}

impl Rendering {
    pub fn new(renderer: Box<dyn ThreeD>, window: u64, stats: &Arc<Stats>) -> Self {
        Self {
            renderer,
            contexts: Contexts::new(stats.clone()),
            timelines: Timelines::default(),
            reads: Reads::default(),
            twins: Twins::default(),
            views: Views::default(),
            window: Window::new(window, stats.clone()),
        }
    }

    /// The capability sets that the driver is told of.
    pub fn offered(&self, config: &GpuConfigSpace) -> impl Iterator<Item = &Capset> {
        let front = config.front();
        self.renderer.capsets().iter().filter(move |capset| capset.is_for(front))
    }

    pub fn offers(&self, config: &GpuConfigSpace, id: CapsetId) -> bool {
        self.offered(config).any(|capset| capset.id == id)
    }

    /// All that the guest made is gone.
    pub fn forget_guest(&mut self) {
        self.contexts.clear();
        self.reads = Reads::default();
        self.window.take_all_away();
        self.renderer.reset();
        self.views.clear();
        self.twins.clear();
    }
}

/// Targets of Gallium (`enum pipe_texture_target`).
pub(super) mod target {
    pub const BUFFER: u32 = 0;
    pub const TEXTURE_2D: u32 = 2;
    pub const TEXTURE_3D: u32 = 3;
    pub const TEXTURE_RECT: u32 = 5;
    pub const TEXTURE_1D_ARRAY: u32 = 6;
    pub const LAST: u32 = 8;
}

/// One more than the largest number of a format.
const FORMATS: u32 = 512;

/// Whether a resource is one that a renderer may be asked for.
fn check(desc: &Resource3d) -> Result<(), ReplyError> {
    let Resource3d { target, format, width, height, depth, array_size, last_level, nr_samples, .. } = *desc;
    // Mesa's driver counts no layers of a buffer that is its fence where the kernel has none.
    let layers = if target == target::BUFFER { array_size.max(1) } else { array_size };
    let is_empty = [width, height, depth, layers].contains(&0);
    if is_empty || target > target::LAST || format >= FORMATS || desc.flags & !FLAG_Y_0_TOP != 0 {
        return Err(ReplyError::InvalidParameter);
    }
    let is_small = if target == target::BUFFER {
        u64::from(width) <= caps::RENDERED_BYTES && height == 1 && depth == 1 && layers == 1 && last_level == 0
    } else {
        width.max(height) <= caps::IMAGE_SIZE
            && depth.max(array_size) <= caps::IMAGE_LAYERS
            && last_level <= caps::IMAGE_LEVELS
    };
    let is_possible = is_small && nr_samples <= caps::IMAGE_SAMPLES && estimate(desc) <= caps::RENDERED_BYTES;
    is_possible.then_some(()).ok_or(ReplyError::OutOfMemory)
}

/// Whether a head can show it.
pub(super) fn is_flat(desc: &Resource3d) -> bool {
    matches!(desc.target, target::TEXTURE_2D | target::TEXTURE_RECT) && desc.nr_samples <= 1
}

/// Whether a part lies in a level of a resource.
fn contains(desc: &Resource3d, level: u32, area: &Box3d) -> bool {
    let at_level = |side: u32| u64::from((side >> level.min(31)).max(1));
    let ends = |start: u32, len: u32| u64::from(start) + u64::from(len);
    let layers = match desc.target {
        target::TEXTURE_3D => at_level(desc.depth),
        target::BUFFER => 1,
        _ => u64::from(desc.array_size),
    };
    // Some count the layers of a row as its height.
    let height = match desc.target {
        target::TEXTURE_1D_ARRAY => at_level(desc.height).max(layers),
        _ => at_level(desc.height),
    };
    level <= desc.last_level
        && ends(area.x, area.width) <= at_level(desc.width)
        && ends(area.y, area.height) <= height
        && ends(area.z, area.depth) <= layers
}

impl Gpu {
    /// Whether the driver may speak of contexts.
    pub(super) fn speaks_3d(&self) -> Result<(), ReplyError> {
        (self.three_d.is_some() && self.has(feature::VIRGL)).then_some(()).ok_or(ReplyError::Unspec)
    }

    pub(super) fn get_capset_info(&self, index: u32) -> Reply {
        let three_d = self.three_d.as_ref();
        let capset = three_d.and_then(|three_d| three_d.offered(&self.config).nth(index as usize));
        match capset {
            Some(capset) => Reply::CapsetInfo {
                id: capset.id.0,
                max_version: capset.version,
                max_size: u32::try_from(capset.bytes.len()).unwrap_or(u32::MAX),
            },
            None => Reply::Error(ReplyError::InvalidParameter),
        }
    }

    pub(super) fn get_capset(&self, id: u32, version: u32) -> Reply {
        let three_d = self.three_d.as_ref();
        let capset = three_d.and_then(|three_d| three_d.offered(&self.config).find(|capset| capset.id.0 == id));
        match capset.filter(|capset| version <= capset.version) {
            Some(capset) => Reply::Capset(capset.bytes.to_vec()),
            None => Reply::Error(ReplyError::InvalidParameter),
        }
    }

    pub(super) fn create_3d(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        desc: Resource3d,
    ) -> Result<Step, ReplyError> {
        self.speaks_3d()?;
        check(&desc)?;
        self.record(resource, Desc::Rendered(desc), None, ticket)?;
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let progress = three_d.renderer.create(ticket, resource, &desc);
        Ok(self.step(ticket, progress, Undo::Rendered(resource, ticket)))
    }

    /// Gives a resource of the 3D renderer's the backing that was recorded for it.
    pub(super) fn attach_rendered(&mut self, ticket: Ticket, resource: ResourceId) -> Result<Step, ReplyError> {
        let found = self.resources.get(resource)?;
        found.attached = ticket;
        let entries: &[MemEntry] = found.backing.as_ref().map_or(&[], |backing| backing.entries());
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let progress = three_d.renderer.attach(ticket, resource, entries);
        Ok(self.step(ticket, progress, Undo::Pages(resource, ticket)))
    }

    /// The pages are the guest's again once the renderer says so. Until then they are the resource's, and what names it waits.
    pub(super) fn detach_rendered(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        undo: Undo,
    ) -> Result<Step, ReplyError> {
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        self.resources.set_leaving(resource, true);
        Ok(match three_d.renderer.detach(ticket, resource) {
            Progress::Done(result) => self.conclude(ticket, undo, result),
            Progress::Later => Step::Later(undo, Some(resource)),
        })
    }

    /// Gives the 3D renderer pages that it was asked to give back: the guest was told that it still has them.
    pub(super) fn attach_rendered_again(&mut self, resource: ResourceId) {
        self.resources.set_leaving(resource, false);
        match self.resources.get(resource) {
            Ok(found) if found.backing.is_some() && found.desc.is_rendered() => {
                let ticket = self.order.ticket();
                let _ = self.attach_rendered(ticket, resource);
            }
            _ => self.attach_twin(resource),
        }
    }

    pub(super) fn transfer_3d(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        header: &Header,
        way: Way,
        transfer: Transfer3d,
    ) -> Result<Step, ReplyError> {
        self.speaks_3d()?;
        let (context, resource) = (ContextId(header.ctx_id), transfer.resource);
        let (desc, is_twin) = match self.resources.get(resource)?.desc {
            Desc::Rendered(desc) => (desc, false),
            Desc::Image { width, .. } if way == Way::ToHost => {
                let rect = flat_part(&transfer, width).ok_or(ReplyError::InvalidParameter)?;
                return Ok(self.transfer_to_host_2d(memory, ticket, resource, rect, transfer.offset));
            }
            // What was drawn is in its twin.
            Desc::Image { format, width, height } if context.0 != 0 => (twins::desc(format, width, height), true),
            Desc::GuestBlob { .. } if way == Way::ToHost => return Ok(Step::Reply(Reply::OkNoData)),
            _ => return Err(ReplyError::InvalidParameter),
        };
        let room = self.resources.get(resource)?.backing.as_ref().ok_or(ReplyError::Unspec)?.len();
        if !contains(&desc, transfer.level, &transfer.area) || transfer.offset > room {
            return Err(ReplyError::InvalidParameter);
        }
        if context.0 != 0 {
            self.check_ring(header, context)?;
            self.check_member(context, resource)?;
            if is_twin && !self.three_d.as_ref().is_some_and(|three_d| three_d.contexts.has_twins(context)) {
                return Err(ReplyError::InvalidResourceId);
            }
            // The context's first work makes its twins.
            self.open_context(context)?;
        }
        if is_twin && self.twin_of(context, resource).is_none() {
            return Err(ReplyError::InvalidResourceId);
        }
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let Box3d { width, height, depth, .. } = transfer.area;
        let progress = match [width, height, depth].contains(&0) {
            true => Progress::Done(Ok(())),
            false => three_d.renderer.transfer(ticket, context, way, &transfer),
        };
        three_d.twins.uses_pages(resource);
        self.fence(ticket, header, context);
        Ok(self.step(ticket, progress, Undo::Nothing))
    }

    pub(super) fn submit_3d(&mut self, ticket: Ticket, header: &Header, commands: &[u8]) -> Result<Step, ReplyError> {
        self.speaks_3d()?;
        if commands.len() > caps::SUBMIT_BYTES {
            return Err(ReplyError::OutOfMemory);
        }
        if !commands.len().is_multiple_of(size_of::<u32>()) {
            return Err(ReplyError::InvalidParameter);
        }
        let context = ContextId(header.ctx_id);
        self.check_ring(header, context)?;
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        if commands.is_empty() && !three_d.contexts.get(context)?.is_open {
            // Nothing can be under way.
            return Ok(Step::Reply(Reply::OkNoData));
        }
        self.open_context(context)?;
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let progress = if commands.is_empty() {
            Progress::Done(Ok(()))
        } else {
            let found = three_d.contexts.get(context)?;
            found.is_unfenced = true;
            found.last_work = three_d.twins.work();
            self.stats.submits.add(1);
            three_d.renderer.submit(ticket, context, commands)
        };
        self.fence(ticket, header, context);
        Ok(self.step(ticket, progress, Undo::Nothing))
    }

    /// Whether a context has the timeline that a fence names.
    fn check_ring(&mut self, header: &Header, context: ContextId) -> Result<(), ReplyError> {
        let line = self.line(header);
        let Rendering { renderer, contexts, .. } = &mut **self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let capset = contexts.get(context)?.capset;
        let Some(Line::Ring(_, ring)) = line else { return Ok(()) };
        let has = renderer.capsets().iter().any(|other| other.id == capset && ring < other.rings);
        has.then_some(()).ok_or(ReplyError::InvalidParameter)
    }

    /// Whether a context may use a resource.
    fn check_member(&self, context: ContextId, resource: ResourceId) -> Result<(), ReplyError> {
        let is_member = self.three_d.as_ref().is_some_and(|three_d| three_d.contexts.is_member(context, resource));
        is_member.then_some(()).ok_or(ReplyError::InvalidResourceId)
    }

    /// Has the renderer tell when the command with this header is complete, if more than the command itself may be under way.
    fn fence(&mut self, ticket: Ticket, header: &Header, context: ContextId) {
        let line = self.line(header);
        let Some(three_d) = &mut self.three_d else { return };
        let Ok(found) = three_d.contexts.get(context) else { return };
        let ring = match line {
            None => return,
            Some(Line::Global) if !std::mem::take(&mut found.is_unfenced) => return,
            Some(Line::Global) => 0,
            Some(Line::Ring(_, ring)) => ring,
        };
        let fence = self.order.ticket();
        if three_d.renderer.fence(fence, context, ring) == Progress::Later {
            three_d.timelines.wait_for(ticket, fence);
            self.stats.fences.add(1);
        }
    }

    /// The timeline of a command with this header, if it has a fence.
    pub(super) fn line(&self, header: &Header) -> Option<Line> {
        let fence = header.fence()?;
        match fence.ring.filter(|_| self.has(feature::CONTEXT_INIT)) {
            Some(ring) => Some(Line::Ring(fence.ctx, ring)),
            None => Some(Line::Global),
        }
    }

    /// What the 3D renderer began is in nobody's way: it keeps to the order of the calls.
    pub(super) fn step(&mut self, ticket: Ticket, progress: Progress, undo: Undo) -> Step {
        match progress {
            Progress::Done(result) => self.conclude(ticket, undo, result),
            Progress::Later => Step::Later(undo, None),
        }
    }
}

/// The part of an image that is no 3D renderer's, if the transfer says no more than a 2D one could.
fn flat_part(transfer: &Transfer3d, width: u32) -> Option<Rect> {
    let Transfer3d { area, level, stride, layer_stride, .. } = *transfer;
    let is_flat = level == 0 && area.z == 0 && area.depth == 1 && layer_stride == 0;
    let is_packed = stride == 0 || u64::from(stride) == u64::from(width) * 4;
    (is_flat && is_packed).then_some(Rect::new(area.x, area.y, area.width, area.height))
}
