//! Commands that name the same resource, head or pointer complete in order; others need not.
//!
//! With a renderer that answers at once nothing is ever parked here, and a command pays for a look at three lengths.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use protocol::command::ScanoutBlob;
use protocol::{Command, Header, ResourceId, ScanoutId};

use super::Undo;
use crate::caps;
use crate::virtio::Ticket;

/// What commands are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Resource(ResourceId),
    Scanout(ScanoutId),
    Cursor,
}

fn keys(command: &Command) -> impl Iterator<Item = Key> {
    let place = match command {
        Command::SetScanout { scanout, .. } | Command::SetScanoutBlob(ScanoutBlob { scanout, .. }) => {
            Some(Key::Scanout(*scanout))
        }
        Command::UpdateCursor { .. } | Command::MoveCursor { .. } => Some(Key::Cursor),
        _ => None,
    };
    command.resource().map(Key::Resource).into_iter().chain(place)
}

/// A command that the renderer works on.
pub(super) struct UnderWay {
    pub header: Header,
    pub undo: Undo,
    resource: ResourceId,
}

type Parked = (Ticket, Header, Command);

/// Tickets, and the commands that have one open.
#[derive(Default)]
pub(super) struct Order {
    last: u64,
    under_way: HashMap<Ticket, UnderWay>,
    waiting: VecDeque<Parked>,
    for_modes: Vec<Parked>,
    pub modes_deadline: Option<Instant>,
    /// The command out of `waiting` that is being executed.
    running: Option<(Ticket, Header)>,
    /// How many bytes the reply of each open ticket may have.
    rooms: HashMap<Ticket, u64>,
}

impl Order {
    /// A ticket that nobody has.
    pub fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// How many tickets are open.
    pub fn len(&self) -> usize {
        self.under_way.len() + self.waiting.len() + self.for_modes.len()
    }

    pub fn is_idle(&self) -> bool {
        self.len() == 0
    }

    pub fn is_full(&self) -> bool {
        self.len() >= caps::PARKED
    }

    pub fn is_waiting_for_modes(&self) -> bool {
        !self.for_modes.is_empty()
    }

    /// Whether an earlier command must complete first.
    pub fn must_wait(&self, command: &Command) -> bool {
        keys(command).any(|key| {
            self.under_way.values().any(|other| Key::Resource(other.resource) == key)
                || self.waiting.iter().any(|(_, _, other)| keys(other).any(|other| other == key))
        })
    }

    pub fn wait(&mut self, ticket: Ticket, header: Header, command: Command) {
        self.waiting.push_back((ticket, header, command));
    }

    pub fn wait_for_modes(&mut self, ticket: Ticket, header: Header, command: Command) {
        self.for_modes.push((ticket, header, command));
    }

    pub fn under_way(&mut self, ticket: Ticket, header: Header, undo: Undo, resource: ResourceId) {
        self.under_way.insert(ticket, UnderWay { header, undo, resource });
    }

    /// The command of a ticket, the first time it is asked for.
    pub fn finish(&mut self, ticket: Ticket) -> Option<UnderWay> {
        self.under_way.remove(&ticket)
    }

    /// A reply that comes later has no more room than one that comes at once.
    pub fn set_room(&mut self, ticket: Ticket, room: u64) {
        self.rooms.insert(ticket, room);
    }

    pub fn take_room(&mut self, ticket: Ticket) -> u64 {
        self.rooms.remove(&ticket).unwrap_or(u64::MAX)
    }

    /// Nobody waits for replies any more.
    pub fn forget_rooms(&mut self) {
        self.rooms.clear();
    }

    /// The first waiting command that nothing stands in the way of. It is open until the next one is asked for.
    pub fn next_runnable(&mut self) -> Option<Parked> {
        self.running = None;
        let mut taken: HashSet<Key> = self.under_way.values().map(|other| Key::Resource(other.resource)).collect();
        let index = self.waiting.iter().position(|(_, _, command)| {
            let blocked = keys(command).any(|key| taken.contains(&key));
            taken.extend(keys(command));
            !blocked
        })?;
        let next = self.waiting.remove(index);
        self.running = next.as_ref().map(|(ticket, header, _)| (*ticket, *header));
        next
    }

    pub fn take_waiting_for_modes(&mut self) -> Vec<Parked> {
        self.modes_deadline = None;
        std::mem::take(&mut self.for_modes)
    }

    /// Every open ticket in order, none of which is open afterwards, and what to undo for it.
    pub fn take_all(&mut self) -> Vec<(Ticket, Header, Undo)> {
        self.modes_deadline = None;
        let under_way = self.under_way.drain().map(|(ticket, other)| (ticket, other.header, other.undo));
        let waiting =
            self.waiting.drain(..).chain(self.for_modes.drain(..)).map(|(ticket, header, _)| (ticket, header));
        let waiting = waiting.chain(self.running.take()).map(|(ticket, header)| (ticket, header, Undo::Nothing));
        let mut all: Vec<_> = under_way.chain(waiting).collect();
        all.sort_by_key(|(ticket, ..)| *ticket);
        all.dedup_by_key(|(ticket, ..)| *ticket);
        all
    }
}
