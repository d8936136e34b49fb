//! Commands that name the same resource, head or pointer complete in order; others need not.
//!
//! With a renderer that answers at once nothing is ever parked here, and a command pays for a look at three lengths. What is
//! parked is found again by what it waits for, so that thousands of commands cost each of them no more than one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

use protocol::command::ScanoutBlob;
use protocol::{Command, Header, ResourceId, ScanoutId};

use super::Undo;
use super::gates::Gate;
use crate::virtio::Ticket;

/// What commands are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Resource(ResourceId),
    /// What a 3D renderer is to do with an image of ours: only what begins and ends the image and its pages waits for it.
    Use(ResourceId),
    Scanout(ScanoutId),
    Cursor,
    /// Work in a context is never in its own way, but if it waits for a resource, what follows in its context waits too.
    Context(u32),
    /// The room that a 3D renderer has.
    Gate(Gate),
}

fn keys(header: &Header, command: &Command) -> impl Iterator<Item = Key> {
    let place = match command {
        Command::SetScanout { scanout, .. } | Command::SetScanoutBlob(ScanoutBlob { scanout, .. }) => {
            Some(Key::Scanout(*scanout))
        }
        Command::UpdateCursor { .. } | Command::MoveCursor { .. } => Some(Key::Cursor),
        Command::CtxCreate { .. }
        | Command::CtxDestroy
        | Command::CtxAttachResource { .. }
        | Command::CtxDetachResource { .. }
        | Command::TransferToHost3d(_)
        | Command::TransferFromHost3d(_)
        | Command::Submit3d { .. } => Some(Key::Context(header.ctx_id)),
        Command::ResourceCreateBlob(_) if header.ctx_id != 0 => Some(Key::Context(header.ctx_id)),
        Command::ResourceUnref { resource }
        | Command::ResourceAttachBacking { resource, .. }
        | Command::ResourceDetachBacking { resource } => Some(Key::Use(*resource)),
        _ => None,
    };
    command.resource().map(Key::Resource).into_iter().chain(place)
}

/// A command that the renderer works on.
pub(super) struct UnderWay {
    pub header: Header,
    pub undo: Undo,
    resource: Option<ResourceId>,
}

type Parked = (Ticket, Header, Command);

/// A command that waits.
struct Waiting {
    header: Header,
    command: Command,
    /// What it has to pass besides.
    gate: Option<Gate>,
    /// Whether it is only a [use](Key::Use) of the resource that it names.
    uses: bool,
}

impl Waiting {
    fn keys(&self) -> impl Iterator<Item = Key> {
        let keys = keys(&self.header, &self.command).map(|key| match key {
            Key::Resource(resource) if self.uses => Key::Use(resource),
            key => key,
        });
        keys.chain(self.gate.map(Key::Gate))
    }

    /// Bytes that it takes besides a few.
    fn bytes(&self) -> usize {
        match &self.command {
            Command::Submit3d { bytes } => bytes.len(),
            Command::ResourceAttachBacking { entries, .. } => size_of_val(entries.as_slice()),
            Command::ResourceCreateBlob(blob) => size_of_val(blob.entries.as_slice()),
            _ => 0,
        }
    }
}

/// Tickets, and the commands that have one open.
#[derive(Default)]
pub(super) struct Order {
    last: u64,
    under_way: HashMap<Ticket, UnderWay>,
    /// How many commands under way name each resource.
    busy: HashMap<ResourceId, usize>,
    /// Commands that wait for others, in the order in which they came.
    waiting: BTreeMap<Ticket, Waiting>,
    waiting_bytes: usize,
    /// Gates that nothing passes now.
    shut: HashSet<Gate>,
    /// Who waits for each key, in order; never empty.
    queues: HashMap<Key, VecDeque<Ticket>>,
    /// Waiting commands that came to the front of a queue. All that are runnable are among them.
    candidates: BTreeSet<Ticket>,
    for_modes: Vec<Parked>,
    pub modes_deadline: Option<Instant>,
    /// The command out of `waiting` that is being executed.
    running: Option<(Ticket, Header)>,
    /// How many bytes the reply of each open ticket may have.
    rooms: HashMap<Ticket, u64>,
    /// How many candidates were looked at.
    #[cfg(test)]
    looks: usize,
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

    /// Whether nothing is in anybody's way.
    pub fn is_idle(&self) -> bool {
        self.len() == 0 && self.busy.is_empty()
    }

    pub fn is_waiting_for_modes(&self) -> bool {
        !self.for_modes.is_empty()
    }

    /// Whether an earlier command must complete first.
    pub fn must_wait(&self, header: &Header, command: &Command) -> bool {
        keys(header, command).any(|key| self.is_busy(key) || self.queues.contains_key(&key))
    }

    fn is_busy(&self, key: Key) -> bool {
        match key {
            Key::Resource(resource) => self.busy.contains_key(&resource),
            Key::Gate(gate) => self.shut.contains(&gate),
            Key::Use(_) | Key::Scanout(_) | Key::Cursor | Key::Context(_) => false,
        }
    }

    /// Opens or shuts a gate. Who waits first at one that opens may be runnable.
    pub fn set_gate(&mut self, gate: Gate, shut: bool) {
        if shut {
            self.shut.insert(gate);
        } else if self.shut.remove(&gate) {
            self.nominate(Key::Gate(gate));
        }
    }

    /// Whether who comes to a gate has to wait: nothing passes, or others came before.
    pub fn is_shut(&self, gate: Gate) -> bool {
        self.shut.contains(&gate) || self.queues.contains_key(&Key::Gate(gate))
    }

    /// The first command that waits to pass a gate.
    pub fn first_at(&self, gate: Gate) -> Option<Ticket> {
        self.queues.get(&Key::Gate(gate)).and_then(VecDeque::front).copied()
    }

    /// The last one.
    pub fn last_at(&self, gate: Gate) -> Option<Ticket> {
        self.queues.get(&Key::Gate(gate)).and_then(VecDeque::back).copied()
    }

    /// Bytes that the commands which wait take.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn wait(&mut self, ticket: Ticket, header: Header, command: Command, gate: Option<Gate>) {
        self.enqueue(ticket, Waiting { header, command, gate, uses: false });
    }

    /// As [`wait`](Self::wait), of what a 3D renderer is to do with an image of ours: commands of 2D pass it, unless it waits for one.
    pub fn wait_to_use(&mut self, ticket: Ticket, header: Header, command: Command, gate: Gate) {
        let resource = command.resource().map(Key::Resource);
        let uses = !resource.is_some_and(|key| self.is_busy(key) || self.queues.contains_key(&key));
        self.enqueue(ticket, Waiting { header, command, gate: Some(gate), uses });
    }

    fn enqueue(&mut self, ticket: Ticket, waiting: Waiting) {
        for key in waiting.keys() {
            self.queues.entry(key).or_default().push_back(ticket);
        }
        self.waiting_bytes += waiting.bytes();
        self.waiting.insert(ticket, waiting);
    }

    pub fn wait_for_modes(&mut self, ticket: Ticket, header: Header, command: Command) {
        self.for_modes.push((ticket, header, command));
    }

    /// A command goes on by itself. Later ones that name `resource` wait for it; none: it is in nobody's way.
    pub fn under_way(&mut self, ticket: Ticket, header: Header, undo: Undo, resource: Option<ResourceId>) {
        if let Some(resource) = resource {
            *self.busy.entry(resource).or_default() += 1;
        }
        self.under_way.insert(ticket, UnderWay { header, undo, resource });
    }

    /// The command of a ticket, the first time it is asked for.
    pub fn finish(&mut self, ticket: Ticket) -> Option<UnderWay> {
        let done = self.under_way.remove(&ticket)?;
        if let Some(resource) = done.resource {
            self.release(resource);
        }
        Some(done)
    }

    /// A command that named a resource is done.
    fn release(&mut self, resource: ResourceId) {
        let Some(count) = self.busy.get_mut(&resource) else { return };
        *count -= 1;
        if *count == 0 {
            self.busy.remove(&resource);
            self.nominate(Key::Resource(resource));
        }
    }

    /// Whoever waits first for a key may be runnable.
    fn nominate(&mut self, key: Key) {
        self.candidates.extend(self.queues.get(&key).and_then(VecDeque::front));
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
        while let Some(ticket) = self.candidates.pop_first() {
            #[cfg(test)]
            {
                self.looks += 1;
            }
            let Some(waiting) = self.waiting.get(&ticket) else { continue };
            let is_first = |key| self.queues.get(&key).and_then(VecDeque::front) == Some(&ticket);
            // Who is not runnable is nominated again when what stands in its way is done.
            if waiting.keys().any(|key| self.is_busy(key) || !is_first(key)) {
                continue;
            }
            let Some(waiting) = self.waiting.remove(&ticket) else { continue };
            self.waiting_bytes -= waiting.bytes();
            for key in waiting.keys() {
                self.leave_queue(key);
            }
            let Waiting { header, command, .. } = waiting;
            self.running = Some((ticket, header));
            return Some((ticket, header, command));
        }
        None
    }

    /// The first one waits no longer.
    fn leave_queue(&mut self, key: Key) {
        let Some(queue) = self.queues.get_mut(&key) else { return };
        queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        self.nominate(key);
    }

    pub fn take_waiting_for_modes(&mut self) -> Vec<Parked> {
        self.modes_deadline = None;
        std::mem::take(&mut self.for_modes)
    }

    /// Every open ticket in order, none of which is open afterwards, and what to undo for it.
    pub fn take_all(&mut self) -> Vec<(Ticket, Header, Undo)> {
        self.modes_deadline = None;
        self.busy.clear();
        self.queues.clear();
        self.candidates.clear();
        let under_way = self.under_way.drain().map(|(ticket, other)| (ticket, other.header, other.undo));
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|(ticket, other)| (ticket, other.header));
        let for_modes = self.for_modes.drain(..).map(|(ticket, header, _)| (ticket, header));
        let waiting =
            waiting.chain(for_modes).chain(self.running.take()).map(|(ticket, header)| (ticket, header, Undo::Nothing));
        let mut all: Vec<_> = under_way.chain(waiting).collect();
        all.sort_by_key(|(ticket, ..)| *ticket);
        all.dedup_by_key(|(ticket, ..)| *ticket);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps;
    use protocol::Rect;

    fn header() -> Header {
        Command::decode(&[]).0
    }

    fn unref(resource: u32) -> Command {
        Command::ResourceUnref { resource: ResourceId(resource) }
    }

    fn scanout(scanout: u32, resource: u32) -> Command {
        let (scanout, resource) = (ScanoutId(scanout), ResourceId(resource));
        Command::SetScanout { rect: Rect::default(), scanout, resource }
    }

    /// A renderer that is late works on a resource; returns its ticket.
    fn occupy(order: &mut Order, resource: u32) -> Ticket {
        let ticket = order.ticket();
        order.under_way(ticket, header(), Undo::Nothing, Some(ResourceId(resource)));
        ticket
    }

    /// Parks a command if it must wait.
    fn park(order: &mut Order, command: Command) -> Ticket {
        let ticket = order.ticket();
        assert!(order.must_wait(&header(), &command));
        order.wait(ticket, header(), command, None);
        ticket
    }

    fn runnable(order: &mut Order) -> Vec<Ticket> {
        std::iter::from_fn(|| order.next_runnable()).map(|(ticket, ..)| ticket).collect()
    }

    #[test]
    fn a_command_waits_for_everything_it_names_and_the_oldest_goes_first() {
        let mut order = Order::default();
        let [one, two] = [1, 2].map(|resource| occupy(&mut order, resource));
        let first = park(&mut order, scanout(0, 1));
        let second = park(&mut order, scanout(0, 2));
        let third = park(&mut order, unref(2));
        let fourth = park(&mut order, unref(1));
        assert!(runnable(&mut order).is_empty());
        assert!(order.finish(two).is_some());
        assert!(runnable(&mut order).is_empty(), "the head is waited for, and the resource behind it");
        assert!(order.finish(two).is_none());
        assert!(order.finish(one).is_some());
        assert_eq!(runnable(&mut order), [first, second, third, fourth]);
        assert!(order.is_idle());
        assert!(!order.must_wait(&header(), &scanout(0, 1)));
    }

    #[test]
    fn a_command_that_goes_under_way_again_holds_back_those_behind_it() {
        let mut order = Order::default();
        let before = occupy(&mut order, 1);
        let [first, second] = [1, 1].map(|resource| park(&mut order, unref(resource)));
        order.finish(before);
        let (ticket, header, _) = order.next_runnable().unwrap();
        assert_eq!(ticket, first);
        order.under_way(ticket, header, Undo::Nothing, Some(ResourceId(1)));
        assert!(runnable(&mut order).is_empty());
        order.finish(first);
        assert_eq!(runnable(&mut order), [second]);
    }

    #[test]
    fn nothing_is_left_when_all_is_taken() {
        let mut order = Order::default();
        occupy(&mut order, 1);
        let finished = occupy(&mut order, 2);
        park(&mut order, unref(1));
        park(&mut order, unref(2));
        order.finish(finished);
        assert!(order.next_runnable().is_some());
        assert_eq!(order.take_all().len(), 3, "the one that runs is among them");
        assert!(order.is_idle() && runnable(&mut order).is_empty());
        assert!(!order.must_wait(&header(), &unref(1)) && !order.must_wait(&header(), &unref(2)));
    }

    #[test]
    fn thousands_of_parked_commands_are_each_looked_at_once() {
        const COUNT: usize = caps::PARKED;
        // All behind one resource, and released together.
        let mut order = Order::default();
        let one = occupy(&mut order, 1);
        let tickets: Vec<_> = (0..COUNT).map(|_| park(&mut order, unref(1))).collect();
        order.finish(one);
        assert_eq!(runnable(&mut order), tickets);
        assert_eq!(order.looks, COUNT);

        // Each goes under way in its turn.
        let mut order = Order::default();
        let mut open = occupy(&mut order, 1);
        let tickets: Vec<_> = (0..COUNT).map(|_| park(&mut order, unref(1))).collect();
        for expected in tickets {
            order.finish(open);
            let (ticket, header, _) = order.next_runnable().unwrap();
            assert_eq!(ticket, expected);
            order.under_way(ticket, header, Undo::Nothing, Some(ResourceId(1)));
            assert!(order.next_runnable().is_none());
            open = ticket;
        }
        assert!(order.looks <= 2 * COUNT, "{}", order.looks);

        // Two keys each: a resource of their own, and one head for all.
        let mut order = Order::default();
        let under_way: Vec<_> = (1..=COUNT as u32).map(|resource| occupy(&mut order, resource)).collect();
        let tickets: Vec<_> = (1..=COUNT as u32).map(|resource| park(&mut order, scanout(0, resource))).collect();
        let mut ran = Vec::new();
        for ticket in under_way.into_iter().rev() {
            order.finish(ticket);
            ran.extend(runnable(&mut order));
        }
        assert_eq!(ran, tickets);
        assert!(order.looks <= 2 * COUNT, "{}", order.looks);
    }
}
