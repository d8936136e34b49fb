//! Contexts and who may use what in them (virtio 1.3, section 5.7.6.8).
//!
//! A driver makes a context as soon as a program opens the device, and most of them never do any work. So a context is cold at
//! first, known only here; its first work opens it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use protocol::{CapsetId, ContextId, Header, ReplyError, ResourceId, feature};

use super::Gpu;
use super::desc::Desc;
use super::three_d::Rendering;
use crate::caps;
use crate::render::Progress;
use crate::stats::Stats;
use crate::virtio::Ticket;

/// The part of CTX_CREATE's `context_init` that names a capability set.
const CAPSET_MASK: u32 = 0xff;

pub(super) struct Context {
    pub capset: CapsetId,
    name: Vec<u8>,
    members: BTreeSet<ResourceId>,
    pub is_open: bool,
    /// The number of the last work that it was given, counted over all contexts.
    pub last_work: u64,
    /// Something was submitted that no fence on the global timeline follows.
    pub is_unfenced: bool,
    /// Made by a driver that has stopped, and not used since.
    is_stale: bool,
}

/// The table of contexts, which holds the caps.
pub(super) struct Contexts {
    table: HashMap<ContextId, Context>,
    /// All pairs, to find a resource's contexts.
    members: BTreeSet<(ResourceId, ContextId)>,
    stats: Arc<Stats>,
}

impl Context {
    /// Whether it is one that uses twins.
    fn draws(&self) -> bool {
        self.is_open && is_gl(self.capset)
    }
}

fn is_gl(capset: CapsetId) -> bool {
    matches!(capset, CapsetId::VIRGL | CapsetId::VIRGL2)
}

impl Contexts {
    pub fn new(stats: Arc<Stats>) -> Self {
        Self { table: HashMap::new(), members: BTreeSet::new(), stats }
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn get(&mut self, context: ContextId) -> Result<&mut Context, ReplyError> {
        let found = self.table.get_mut(&context).ok_or(ReplyError::InvalidContextId)?;
        found.is_stale = false;
        Ok(found)
    }

    /// What a context is for, if there is one.
    pub fn capset(&self, context: ContextId) -> Option<CapsetId> {
        self.table.get(&context).map(|found| found.capset)
    }

    /// Whether images have twins for a context once it is open.
    pub fn has_twins(&self, context: ContextId) -> bool {
        self.capset(context).is_some_and(is_gl)
    }

    fn insert(&mut self, context: ContextId, capset: CapsetId, name: Vec<u8>) -> Result<(), ReplyError> {
        if self.table.len() >= caps::CONTEXTS {
            return Err(ReplyError::OutOfMemory);
        }
        match self.table.entry(context) {
            Entry::Occupied(_) => return Err(ReplyError::InvalidContextId),
            Entry::Vacant(vacant) => vacant.insert(Context {
                capset,
                name,
                members: BTreeSet::new(),
                is_open: false,
                last_work: 0,
                is_unfenced: false,
                is_stale: false,
            }),
        };
        self.stats.contexts.set(self.table.len() as u64);
        Ok(())
    }

    fn remove(&mut self, context: ContextId) -> Option<Context> {
        let gone = self.table.remove(&context)?;
        for resource in &gone.members {
            self.members.remove(&(*resource, context));
        }
        self.stats.contexts.set(self.table.len() as u64);
        Some(gone)
    }

    pub fn clear(&mut self) {
        self.table.clear();
        self.members.clear();
        self.stats.contexts.set(0);
    }

    pub fn mark_stale(&mut self) {
        for context in self.table.values_mut() {
            context.is_stale = true;
        }
    }

    fn is_stale(&self, context: ContextId) -> bool {
        self.table.get(&context).is_some_and(|found| found.is_stale)
    }

    /// Whether one more context of a kind may begin to work.
    fn may_open(&self, capset: CapsetId) -> bool {
        let open = self.table.values().filter(|other| other.is_open && is_gl(other.capset) == is_gl(capset)).count();
        open < if is_gl(capset) { caps::GL_CONTEXTS } else { caps::VK_CONTEXTS }
    }

    pub fn is_member(&self, context: ContextId, resource: ResourceId) -> bool {
        self.members.contains(&(resource, context))
    }

    /// The contexts of OpenGL that are open and may use a resource, and the last work of each.
    pub fn drawing(&self, resource: ResourceId) -> impl Iterator<Item = (ContextId, u64)> {
        let all = (resource, ContextId(0))..=(resource, ContextId(u32::MAX));
        self.members.range(all).filter_map(|(_, context)| {
            let found = self.table.get(context).filter(|found| found.draws())?;
            Some((*context, found.last_work))
        })
    }

    /// Returns whether it was none before.
    fn join(&mut self, context: ContextId, resource: ResourceId) -> Result<bool, ReplyError> {
        let found = self.table.get_mut(&context).ok_or(ReplyError::InvalidContextId)?;
        found.is_stale = false;
        if found.members.contains(&resource) {
            return Ok(false);
        }
        if self.members.len() >= caps::MEMBERS {
            return Err(ReplyError::OutOfMemory);
        }
        found.members.insert(resource);
        Ok(self.members.insert((resource, context)))
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) -> Result<(), ReplyError> {
        let was_member = self.get(context)?.members.remove(&resource);
        self.members.remove(&(resource, context));
        was_member.then_some(()).ok_or(ReplyError::InvalidResourceId)
    }

    /// A resource is gone: nobody uses it.
    pub fn forget(&mut self, resource: ResourceId) {
        let all = (resource, ContextId(0))..=(resource, ContextId(u32::MAX));
        for (resource, context) in self.members.extract_if(all, |_| true) {
            if let Some(context) = self.table.get_mut(&context) {
                context.members.remove(&resource);
            }
        }
    }
}

impl Gpu {
    pub(super) fn ctx_create(&mut self, header: &Header, init: u32, name: Vec<u8>) -> Result<(), ReplyError> {
        self.speaks_3d()?;
        let context = ContextId(header.ctx_id);
        let with_kind = self.has(feature::CONTEXT_INIT);
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        // The field was padding before there were kinds.
        let capset = match if with_kind { init } else { 0 } {
            0 => [CapsetId::VIRGL2, CapsetId::VIRGL].into_iter().find(|capset| three_d.offers(&self.config, *capset)),
            init if init & !CAPSET_MASK == 0 => Some(CapsetId(init)).filter(|id| three_d.offers(&self.config, *id)),
            _ => None,
        };
        let capset = capset.ok_or(ReplyError::InvalidParameter)?;
        if context.0 == 0 {
            return Err(ReplyError::InvalidContextId);
        }
        if three_d.contexts.is_stale(context) {
            self.close_context(context)?;
        }
        self.three_d.as_mut().ok_or(ReplyError::Unspec)?.contexts.insert(context, capset, name)
    }

    pub(super) fn ctx_destroy(&mut self, header: &Header) -> Result<(), ReplyError> {
        self.speaks_3d()?;
        self.close_context(ContextId(header.ctx_id))
    }

    fn close_context(&mut self, context: ContextId) -> Result<(), ReplyError> {
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let gone = three_d.contexts.remove(context).ok_or(ReplyError::InvalidContextId)?;
        if gone.is_open {
            three_d.renderer.close(context);
        }
        if gone.draws() && !three_d.twins.is_empty() {
            self.leave_twins(gone.members, gone.last_work);
        }
        Ok(())
    }

    pub(super) fn ctx_attach(&mut self, header: &Header, resource: ResourceId) -> Result<(), ReplyError> {
        self.speaks_3d()?;
        let context = ContextId(header.ctx_id);
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        three_d.contexts.get(context)?;
        let desc = &self.resources.get(resource)?.desc;
        if !desc.may_join(context) {
            return Err(ReplyError::InvalidParameter);
        }
        let is_new = three_d.contexts.join(context, resource)?;
        let found = three_d.contexts.get(context)?;
        match desc {
            Desc::Image { .. } if is_new && found.draws() => {
                // Where there is no room for a twin, it is told at once.
                self.join_twin(context, resource).inspect_err(|_| self.forget_member(context, resource))
            }
            desc => {
                if is_new && found.is_open && desc.is_rendered() {
                    three_d.renderer.join(context, resource);
                }
                Ok(())
            }
        }
    }

    fn forget_member(&mut self, context: ContextId, resource: ResourceId) {
        if let Some(three_d) = &mut self.three_d {
            let _ = three_d.contexts.leave(context, resource);
        }
    }

    pub(super) fn ctx_detach(&mut self, header: &Header, resource: ResourceId) -> Result<(), ReplyError> {
        self.speaks_3d()?;
        let context = ContextId(header.ctx_id);
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        three_d.contexts.leave(context, resource)?;
        let is_image = matches!(self.resources.get(resource)?.desc, Desc::Image { .. });
        let is_rendered = self.resources.get(resource)?.desc.is_rendered();
        let found = three_d.contexts.get(context)?;
        let (has_twin, work) = (is_image && found.draws() && three_d.twins.has(resource), found.last_work);
        if found.is_open && is_rendered || has_twin && three_d.renderer.has(resource) {
            three_d.renderer.leave(context, resource);
        }
        if has_twin {
            self.leave_twins([resource], work);
        }
        Ok(())
    }

    /// There is work for a context: it is open after this.
    pub(super) fn open_context(&mut self, context: ContextId) -> Result<(), ReplyError> {
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        let Rendering { renderer, contexts, .. } = &mut **three_d;
        let capset = match contexts.get(context)? {
            found if found.is_open => return Ok(()),
            found => found.capset,
        };
        if !contexts.may_open(capset) {
            return Err(ReplyError::OutOfMemory);
        }
        let found = contexts.get(context)?;
        // Nobody waits for the answer: work in a context that could not be opened fails.
        let ticket: Ticket = self.order.ticket();
        if let Progress::Done(result) = renderer.open(ticket, context, capset, &found.name) {
            result?;
        }
        found.is_open = true;
        let draws = found.draws();
        let mut images = Vec::new();
        for resource in &found.members {
            match self.resources.desc(*resource) {
                Some(desc) if desc.is_rendered() => renderer.join(context, *resource),
                Some(Desc::Image { .. }) if draws => images.push(*resource),
                _ => {}
            }
        }
        for image in images {
            // One without room for a twin is not there for the context: drawing with it fails, and nothing else.
            let _ = self.join_twin(context, image);
        }
        Ok(())
    }
}
