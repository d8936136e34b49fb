//! Memory of the host in the guest's address space: which blob is where in the window (virtio 1.3, section 5.7.6.8).
//!
//! The front-end does what it is asked in order, so a place is free again as soon as its unmapping was asked for, and what came
//! too late is undone by a request right behind it. Nobody needs to remember answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Reply, ReplyError, ResourceId};

use crate::caps;
use crate::stats::Stats;
use crate::virtio::{HostMapping, MapRequest, Ticket, UnmapRequest, WindowRequest};

/// The window's number among the shared memory regions (`VIRTIO_GPU_SHM_ID_HOST_VISIBLE`).
pub(super) const REGION: u8 = 1;

/// The unit of everything in it.
pub(super) const PAGE: u64 = 4096;

/// So long a guest waits to see a blob: a Linux guest waits without a limit and cannot be killed meanwhile.
const PATIENCE: Duration = Duration::from_secs(4);

/// Length of a blob in the window.
pub(super) fn pages(size: u64) -> u64 {
    size.next_multiple_of(PAGE)
}

/// A command that is over, and its reply.
pub(super) type Answer = (Ticket, Reply);

const FAILED: Reply = Reply::Error(ReplyError::Unspec);

#[derive(Debug)]
struct Mapping {
    at: u64,
    len: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The blob is not there yet.
    Wanted { command: Ticket, deadline: Option<Instant> },
    /// The front-end was asked.
    Asked { command: Ticket, deadline: Option<Instant>, request: Ticket, caching: u32 },
    /// The guest sees it.
    Mapped,
}

/// The window: at most one mapping of each blob, none of which overlap.
pub(super) struct Window {
    size: u64,
    mappings: HashMap<ResourceId, Mapping>,
    /// Where each mapping starts and ends.
    taken: BTreeMap<u64, u64>,
    /// Whom each request is about that was not answered.
    asked: HashMap<Ticket, ResourceId>,
    /// Mappings that are not [`State::Mapped`].
    open: usize,
    last: u64,
    requests: Vec<WindowRequest>,
    stats: Arc<Stats>,
}

impl Window {
    pub fn new(size: u64, stats: Arc<Stats>) -> Self {
        let (mappings, taken, asked, requests) = Default::default();
        Self { size, mappings, taken, asked, open: 0, last: 0, requests, stats }
    }

    /// Its size in bytes; 0: there is none.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives a blob a place, if it is free. The blob is shown there once [`show`](Self::show) is called.
    pub fn place(&mut self, command: Ticket, resource: ResourceId, at: u64, size: u64) -> Result<(), ReplyError> {
        let len = pages(size);
        let end = at.checked_add(len).filter(|end| *end <= self.size && at.is_multiple_of(PAGE));
        let end = end.ok_or(ReplyError::InvalidParameter)?;
        if self.mappings.contains_key(&resource) {
            return Err(ReplyError::Unspec);
        }
        if self.taken.range(..end).next_back().is_some_and(|(_, before)| *before > at) {
            return Err(ReplyError::InvalidParameter);
        }
        if self.mappings.len() >= caps::MAPPED_BLOBS {
            return Err(ReplyError::OutOfMemory);
        }
        self.taken.insert(at, end);
        self.mappings.insert(resource, Mapping { at, len, state: State::Wanted { command, deadline: None } });
        self.open += 1;
        Ok(())
    }

    /// Whether a blob has a place and its memory is to be shown there.
    pub fn is_wanted(&self, resource: ResourceId) -> bool {
        matches!(self.mappings.get(&resource), Some(Mapping { state: State::Wanted { .. }, .. }))
    }

    /// Asks the front-end to show a blob at the place that it was given.
    pub fn show(&mut self, resource: ResourceId, mapping: HostMapping) -> Option<Answer> {
        let found = self.mappings.get_mut(&resource)?;
        let State::Wanted { command, deadline } = found.state else { return None };
        if mapping.len < found.len || !mapping.offset.is_multiple_of(PAGE) {
            return self.take_away(resource);
        }
        self.last += 1;
        let request = Ticket(self.last);
        let (at, len) = (found.at, found.len);
        found.state = State::Asked { command, deadline, request, caching: mapping.caching };
        self.asked.insert(request, resource);
        let mapping = HostMapping { len, ..mapping };
        self.requests.push(WindowRequest::Map(MapRequest { ticket: request, region: REGION, at, mapping }));
        None
    }

    /// The front-end answered.
    pub fn answered(&mut self, request: Ticket, ok: bool) -> Option<Answer> {
        let resource = self.asked.remove(&request)?;
        let found = self.mappings.get_mut(&resource)?;
        let State::Asked { command, caching, .. } = found.state else { return None };
        self.open -= 1;
        if ok {
            found.state = State::Mapped;
            self.stats.blob_maps.add(1);
            self.stats.blob_bytes.add(found.len);
            return Some((command, Reply::MapInfo(caching)));
        }
        self.taken.remove(&found.at);
        self.mappings.remove(&resource);
        Some((command, FAILED))
    }

    /// Whether a blob has a place.
    pub fn has(&self, resource: ResourceId) -> bool {
        self.mappings.contains_key(&resource)
    }

    /// A blob is to be seen no more. Returns the command that waited to see it.
    pub fn take_away(&mut self, resource: ResourceId) -> Option<Answer> {
        let Mapping { at, len, state } = self.mappings.remove(&resource)?;
        self.taken.remove(&at);
        match state {
            State::Wanted { command, .. } => {
                self.open -= 1;
                Some((command, FAILED))
            }
            State::Asked { command, request, .. } => {
                self.open -= 1;
                self.asked.remove(&request);
                self.unmap(at, len);
                Some((command, FAILED))
            }
            State::Mapped => {
                self.stats.blob_bytes.set(self.stats.blob_bytes.get().saturating_sub(len));
                self.unmap(at, len);
                None
            }
        }
    }

    fn unmap(&mut self, at: u64, len: u64) {
        self.last += 1;
        let request = UnmapRequest { ticket: Ticket(self.last), region: REGION, at, len };
        self.requests.push(WindowRequest::Unmap(request));
    }

    /// Time passes: who waited too long waits no more.
    pub fn pass(&mut self, now: Instant, answers: &mut Vec<Answer>) {
        if self.open == 0 {
            return;
        }
        let mut late = Vec::new();
        for (resource, mapping) in &mut self.mappings {
            if let State::Wanted { deadline, .. } | State::Asked { deadline, .. } = &mut mapping.state
                && *deadline.get_or_insert(now + PATIENCE) <= now
            {
                late.push(*resource);
            }
        }
        answers.extend(late.into_iter().filter_map(|resource| self.take_away(resource)));
    }

    /// When [`pass`](Self::pass) is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.open == 0 {
            return None;
        }
        let deadlines = self.mappings.values().filter_map(|mapping| match mapping.state {
            State::Wanted { deadline, .. } | State::Asked { deadline, .. } => deadline,
            State::Mapped => None,
        });
        deadlines.min()
    }

    /// Nobody waits any more: what was asked for and not answered is undone. No request for a new mapping is left.
    pub fn abandon(&mut self) {
        let open = self.mappings.iter().filter(|(_, mapping)| !matches!(mapping.state, State::Mapped));
        let open: Vec<_> = open.map(|(resource, _)| *resource).collect();
        for resource in open {
            self.take_away(resource);
        }
        self.requests.retain(|request| matches!(request, WindowRequest::Unmap(_)));
    }

    /// The guest is to see nothing more.
    pub fn take_all_away(&mut self) {
        self.abandon();
        let mapped: Vec<_> = self.mappings.keys().copied().collect();
        for resource in mapped {
            self.take_away(resource);
        }
    }

    /// The front-end is gone, and its window with it.
    pub fn forget(&mut self) {
        *self = Self { last: self.last, ..Self::new(self.size, self.stats.clone()) };
        self.stats.blob_bytes.set(0);
    }

    /// What the front-end is to do, in order.
    pub fn requests(&mut self, out: &mut Vec<WindowRequest>) {
        out.append(&mut self.requests);
    }
}

#[cfg(test)]
mod tests;
