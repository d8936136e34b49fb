//! Contexts and who may use what in them (virtio 1.3, section 5.7.6.8).
//!
//! A driver makes a context as soon as a program opens the device, and most of them never do any work. So a context is cold at
//! first, known only here; its first work opens it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use protocol::{CapsetId, ContextId, Header, ReplyError, ResourceId, feature};

use super::Gpu;
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
            three_d.close(context)?;
        }
        three_d.contexts.insert(context, capset, name)
    }

    pub(super) fn ctx_destroy(&mut self, header: &Header) -> Result<(), ReplyError> {
        self.speaks_3d()?;
        self.three_d.as_mut().ok_or(ReplyError::Unspec)?.close(ContextId(header.ctx_id))
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
        if three_d.contexts.join(context, resource)? && desc.is_rendered() && three_d.contexts.get(context)?.is_open {
            three_d.renderer.join(context, resource);
        }
        Ok(())
    }

    pub(super) fn ctx_detach(&mut self, header: &Header, resource: ResourceId) -> Result<(), ReplyError> {
        self.speaks_3d()?;
        let context = ContextId(header.ctx_id);
        let three_d = self.three_d.as_mut().ok_or(ReplyError::Unspec)?;
        three_d.contexts.leave(context, resource)?;
        if self.resources.get(resource)?.desc.is_rendered() && three_d.contexts.get(context)?.is_open {
            three_d.renderer.leave(context, resource);
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
        for resource in &found.members {
            if self.resources.get(*resource).is_ok_and(|found| found.desc.is_rendered()) {
                renderer.join(context, *resource);
            }
        }
        Ok(())
    }
}

impl Rendering {
    fn close(&mut self, context: ContextId) -> Result<(), ReplyError> {
        let gone = self.contexts.remove(context).ok_or(ReplyError::InvalidContextId)?;
        if gone.is_open {
            self.renderer.close(context);
        }
        Ok(())
    }
}
