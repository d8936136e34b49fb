//! The table of twins: which there are, what is owed of them, and what each lacks.

use std::collections::{BTreeSet, HashMap};

use protocol::{Rect, ResourceId};

use crate::caps;
use crate::virtio::Ticket;

/// A twin as the device knows it.
#[derive(Debug)]
pub(super) struct Twin {
    /// The request that made it: tells it from an earlier one of the same image.
    pub(super) made: Ticket,
    /// The work up to which the image shows what was drawn.
    pub(super) seen: u64,
    /// The last work of contexts that are gone.
    pub(super) left: u64,
    /// Reads and writes that are not answered. One at a time: both use the same memory, which may not be overtaken.
    pub(super) owed: usize,
    /// Parts of the image that changed and were not written yet, and when. All are newer than all work that was passed on.
    pub(super) stale: Vec<(Ticket, Rect)>,
    /// What is to be shown once more when what was drawn was read.
    pub(super) look: Option<Look>,
}

/// Flushes whose answer did not wait for what was drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The first of them.
    pub(super) since: Ticket,
    /// The last of them.
    pub(super) until: Ticket,
    pub(super) rect: Rect,
}

impl Twin {
    pub(super) fn new(made: Ticket, seen: u64) -> Self {
        Self { made, seen, left: 0, owed: 0, stale: Vec::new(), look: None }
    }

    /// A part of the image changed. `fence` is the last work that came before and was not passed on.
    pub(super) fn mark_stale(&mut self, now: Ticket, rect: Rect, fence: Option<Ticket>) {
        let is_last = |changed: &Ticket| fence.is_none_or(|fence| *changed > fence);
        if self.stale.iter().any(|(changed, other)| is_last(changed) && contains(other, &rect)) {
            return;
        }
        self.stale.retain(|(changed, other)| !is_last(changed) || !contains(&rect, other));
        self.stale.push((now, rect));
        if self.stale.len() > caps::STALE_PARTS {
            // The work that waits may have to see some of it before, and all that is the image's is above it afterwards.
            let all = self.stale.iter().fold(rect, |all, (_, part)| all.union(part));
            let first = self.stale[0].0;
            self.stale = match is_last(&first) {
                true => vec![(now, all)],
                false => vec![(first, all), (now, all)],
            };
        }
    }

    /// Whether a part has to be written before the work `next`, or at all if there is none.
    pub(super) fn is_due(&self, next: Option<Ticket>) -> bool {
        self.stale.iter().any(|(changed, _)| is_before(*changed, next))
    }

    /// What was flushed is to be shown once more.
    pub(super) fn want_look(&mut self, now: Ticket, rect: Rect) {
        self.look = Some(match self.look {
            Some(Look { since, until, rect: earlier }) => {
                Look { since, until: until.max(now), rect: earlier.union(&rect) }
            }
            None => Look { since: now, until: now, rect },
        });
    }
}

pub(super) fn is_before(ticket: Ticket, next: Option<Ticket>) -> bool {
    next.is_none_or(|next| ticket < next)
}

fn contains(outer: &Rect, inner: &Rect) -> bool {
    outer.union(inner) == *outer
}

/// What the renderer was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Make,
    Write,
    Read {
        /// The work that it shows.
        work: u64,
        /// What is to be shown then.
        flush: Option<Rect>,
    },
    /// A read whose result nobody uses.
    Abandoned,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) what: What,
    pub(super) resource: ResourceId,
    pub(super) made: Ticket,
}

/// The table of twins, which holds the cap.
#[derive(Debug, Default)]
pub(in crate::gpu) struct Twins {
    pub(super) table: HashMap<ResourceId, Twin>,
    pub(super) jobs: HashMap<Ticket, Job>,
    /// Those that are stale, or that something of is to be shown once more.
    pub(super) behind: BTreeSet<ResourceId>,
    /// Counts what contexts were given to do.
    pub(super) work: u64,
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
        self.behind.remove(&resource);
        self.table.remove(&resource).is_some()
    }

    /// A context that may have drawn into it uses it no more.
    pub(super) fn left(&mut self, resource: ResourceId, work: u64) {
        if let Some(twin) = self.table.get_mut(&resource) {
            twin.left = twin.left.max(work);
        }
    }

    /// The renderer is to copy between the twin of an image, if it has one, and its pages: the twin does not go before that is done.
    pub fn uses_pages(&mut self, resource: ResourceId) {
        if self.has(resource) {
            let work = self.work();
            self.left(resource, work);
        }
    }

    /// A request about one goes to the renderer.
    pub(super) fn owe(&mut self, ticket: Ticket, resource: ResourceId, what: What) {
        let Some(twin) = self.table.get_mut(&resource) else { return };
        twin.owed += 1;
        self.jobs.insert(ticket, Job { what, resource, made: twin.made });
    }

    /// A request was answered. Returns it if it is of a twin that is there.
    pub(super) fn answered(&mut self, ticket: Ticket) -> Option<(Job, bool)> {
        let job = self.jobs.remove(&ticket)?;
        let twin = self.table.get_mut(&job.resource).filter(|twin| twin.made == job.made);
        let is_there = twin.is_some();
        if let Some(twin) = twin.filter(|_| !matches!(job.what, What::Make)) {
            twin.owed = twin.owed.saturating_sub(1);
        }
        Some((job, is_there))
    }

    /// The device stops: what is read now is not used. It is read anew afterwards.
    pub fn abandon(&mut self) {
        for job in self.jobs.values_mut() {
            let What::Read { flush, .. } = job.what else { continue };
            job.what = What::Abandoned;
            let twin = self.table.get_mut(&job.resource).filter(|twin| twin.made == job.made);
            if let (Some(twin), Some(rect)) = (twin, flush) {
                twin.want_look(Ticket(0), rect);
                self.behind.insert(job.resource);
            }
        }
    }

    /// All are gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
