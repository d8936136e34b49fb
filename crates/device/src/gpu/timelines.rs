//! Fences (virtio 1.3, section 5.7.6.7): when a guest may hear that a command is complete.
//!
//! A driver that hears of one fence takes all earlier ones of the same timeline for complete. So replies to commands with a
//! fence are given in the order in which the commands came: those with a ring each on a timeline of their context's ring, all
//! others on one timeline, whatever their context.

use std::collections::{HashMap, VecDeque};

use protocol::{ContextId, Header, Reply};

use crate::virtio::Ticket;

/// Whose order a fence keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Line {
    /// That of all commands that name no ring.
    Global,
    /// A context's ring.
    Ring(ContextId, u8),
}

/// What a command waits for before its reply may be given.
#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    header: Header,
    /// The renderer is to tell of this one.
    fence: Option<Ticket>,
    reply: Option<Reply>,
}

impl Entry {
    fn is_complete(&self) -> bool {
        self.fence.is_none() && self.reply.is_some()
    }
}

pub(super) type Released = Vec<(Ticket, Header, Reply)>;

/// Commands with a fence whose reply was not given yet.
#[derive(Debug, Default)]
pub(super) struct Timelines {
    /// Ordered by ticket; never empty.
    lines: HashMap<Line, VecDeque<Entry>>,
    places: HashMap<Ticket, Line>,
    /// Whom each of the renderer's fences is for.
    fences: HashMap<Ticket, Ticket>,
    /// Commands that are done and wait for a fence or for their turn.
    held: usize,
}

impl Timelines {
    /// A command came; its ticket is newer than all others.
    pub fn enter(&mut self, line: Line, ticket: Ticket, header: Header) {
        self.places.insert(ticket, line);
        let entry = Entry { ticket, header, fence: None, reply: None };
        self.lines.entry(line).or_default().push_back(entry);
    }

    /// How many commands are done whose reply is held back.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The command is complete no sooner than the renderer tells of `fence`.
    pub fn wait_for(&mut self, ticket: Ticket, fence: Ticket) {
        if let Some(entry) = self.entry(ticket) {
            entry.fence = Some(fence);
            self.fences.insert(fence, ticket);
        }
    }

    /// The command is done. Appends the replies that may be given now; that of a command without a fence may be at once.
    pub fn done(&mut self, ticket: Ticket, header: Header, reply: Reply, released: &mut Released) {
        match self.entry(ticket) {
            Some(entry) => {
                entry.reply = Some(reply);
                self.held += 1;
                self.release(ticket, released);
            }
            None => released.push((ticket, header, reply)),
        }
    }

    /// The renderer told of a fence. Returns whether it was one of these.
    pub fn retired(&mut self, fence: Ticket, released: &mut Released) -> bool {
        let Some(ticket) = self.fences.remove(&fence) else { return false };
        if let Some(entry) = self.entry(ticket) {
            entry.fence = None;
            self.release(ticket, released);
        }
        true
    }

    /// Every timeline ends. Returns the commands that are done, in order.
    pub fn take_all(&mut self) -> Released {
        let Self { lines, .. } = std::mem::take(self);
        let entries = lines.into_values().flatten();
        let mut done: Released =
            entries.filter_map(|entry| entry.reply.map(|reply| (entry.ticket, entry.header, reply))).collect();
        done.sort_by_key(|(ticket, ..)| *ticket);
        done
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        let line = self.lines.get_mut(self.places.get(&ticket)?)?;
        let at = line.binary_search_by_key(&ticket, |entry| entry.ticket).ok()?;
        line.get_mut(at)
    }

    /// Something changed at `ticket`: it may be its turn, and then that of those behind it.
    fn release(&mut self, ticket: Ticket, released: &mut Released) {
        let Some(line) = self.places.get(&ticket).copied() else { return };
        let Some(entries) = self.lines.get_mut(&line) else { return };
        while let Some(entry) = entries.pop_front_if(|entry| entry.is_complete()) {
            self.places.remove(&entry.ticket);
            self.held -= 1;
            released.extend(entry.reply.map(|reply| (entry.ticket, entry.header, reply)));
        }
        if entries.is_empty() {
            self.lines.remove(&line);
        }
    }
}

#[cfg(test)]
mod tests;
