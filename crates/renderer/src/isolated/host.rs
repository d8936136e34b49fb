//! The device's end of one process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::Ticket;
use foldhash::{HashMap, HashMapExt};
use protocol::{ContextId, ReplyError, ResourceId};
use vm_memory::MmapRegion;

use super::Children;
use super::arena::Arena;
use super::memory::Run;
use super::shared::{self, Consumer, Producer, Shared, bell, ring_bell, stop_bell};
use super::socket::{self, Received, Sent};
use super::watch::Watch;
use super::wire::{self, Event, FromChild, Request, ToChild, UNANSWERED, at};
use crate::library::Kind;

/// How long a library may take to start, at least: a machine that is busy takes its time.
const STARTING: Duration = Duration::from_secs(30);
/// Things told that cannot be, until a process is ended.
const LIES: u32 = 1000;
/// Requests that wait for room in the ring, and their bytes, until the device is asked to keep the rest: enough to have the next
/// ones at hand when there is room. What is asked for all the same is bounded by what a guest has: what ends contexts and resources.
pub const QUEUED: usize = 1024;
/// See [`QUEUED`].
pub const QUEUED_BYTES: usize = 4 << 20;

/// What a ticket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Nothing that matters here.
    Plain,
    /// A fence.
    Fence,
    /// A context.
    Open(ContextId),
    /// A resource.
    Create(ResourceId),
    /// A blob, and its size.
    Blob(ResourceId, u64),
    /// Pixels, and the number of the image they go into.
    Read(ResourceId, u32),
}

/// Memory of a blob, as a process offers it.
#[derive(Debug)]
pub struct Offer {
    /// Whatever it is.
    pub file: OwnedFd,
    /// `VIRTIO_GPU_MAP_CACHE_*`, or anything else.
    pub caching: u32,
}

/// The one answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// Which.
    pub ticket: Ticket,
    /// What it was for.
    pub aim: Aim,
    /// What became of it.
    pub result: Result<Option<Offer>, ReplyError>,
}

/// What waits for room.
#[derive(Debug)]
enum Outgoing {
    Request { ticket: Ticket, request: Request, payload: Vec<u8> },
    Message { message: ToChild, file: OwnedFd },
}

#[derive(Debug)]
struct Promise {
    aim: Aim,
    /// It went into the ring, and an event is to come.
    sent: bool,
}

/// A process that runs.
pub struct Process {
    /// As who started it names it.
    pub id: u32,
    /// Differs from every other process's.
    pub life: u64,
    /// How many contexts and resources live in it.
    pub members: usize,
    /// Since when it has had nothing.
    pub idle: Option<Instant>,
    /// How often the other side was woken.
    pub rang: u64,
    /// Whether its socket is watched for room.
    pub watched: bool,
    socket: OwnedFd,
    memory: Shared,
    bell: OwnedFd,
    child_bell: OwnedFd,
    requests: Producer,
    events: Consumer,
    /// Answers that it gave.
    heard: u32,
    arena: Arena,
    /// What the requests are that lie in the ring.
    lying: VecDeque<(&'static str, ContextId)>,
    last: Option<(&'static str, ContextId)>,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    /// Things told that cannot be, and how many of them were counted.
    lies: u32,
    counted: u32,
    promises: HashMap<Ticket, Promise>,
    /// Of them, those that an event is to come for.
    awaited: u32,
    /// Of them, those that are not fences.
    work: usize,
    offers: HashMap<Ticket, Offer>,
    /// Mappings of guest memory that it has, and their numbers.
    regions: Vec<(Arc<MmapRegion>, u32)>,
    numbers: u32,
    found: bool,
    patience: Duration,
    watch: Watch,
    /// Requests were put in, and it was not woken since.
    unannounced: bool,
    /// The socket has no room.
    blocked: bool,
    /// Nothing more is begun for the time being.
    gated: bool,
    /// Why it is to be ended.
    end: Option<String>,
}

impl Process {
    /// Starts one.
    pub fn start(kind: Kind, life: u64, patience: Duration, children: &mut dyn Children) -> io::Result<Self> {
        let (socket, theirs) = socket::pair()?;
        let (memory, bell, child_bell) = (Shared::new()?, bell()?, bell()?);
        let fds = [memory.file()?, child_bell.as_fd(), bell.as_fd()];
        if socket::send(socket.as_fd(), &ToChild::Hello, &fds) != Sent::Whole {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        memory.going_to_sleep(at::DEVICE_SLEEPS);
        Ok(Self {
            id: children.start(kind, theirs)?,
            life,
            members: 0,
            idle: None,
            lies: 0,
            counted: 0,
            rang: 0,
            watched: false,
            socket,
            memory,
            bell,
            child_bell,
            requests: Producer::new(shared::REQUESTS),
            events: Consumer::new(shared::EVENTS),
            heard: 0,
            arena: Arena::default(),
            lying: VecDeque::new(),
            last: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            promises: HashMap::new(),
            awaited: 0,
            work: 0,
            offers: HashMap::new(),
            regions: Vec::new(),
            numbers: 0,
            found: false,
            patience,
            watch: Watch::new(patience.max(STARTING)),
            unannounced: false,
            blocked: false,
            gated: false,
            end: None,
        })
    }

    /// Readable when it has something to tell: the socket and the bell.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.bell.as_fd()]
    }

    /// The bell was heard.
    pub fn stop_bell(&self) {
        stop_bell(&self.bell);
    }

    /// Whether the socket is to be watched for room.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether so much waits for room that more is to be kept elsewhere.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= QUEUED || self.queued_bytes >= QUEUED_BYTES
    }

    /// Whether what is asked for from now on waits.
    pub fn set_gate(&mut self, shut: bool) {
        self.gated = shut;
    }

    /// How many of the requests are not answered; behind a gate, of those that had passed it.
    pub fn waiting(&self) -> u32 {
        if self.gated { self.awaited } else { u32::try_from(self.promises.len()).unwrap_or(u32::MAX) }
    }

    /// Requests that it has taken and answers that it gave, modulo 2^32.
    pub fn done(&self) -> u32 {
        self.requests.head().wrapping_add(self.heard)
    }

    /// Asks for something that is answered by its ticket.
    pub fn ask(&mut self, ticket: Ticket, aim: Aim, request: Request, payload: &[u8]) {
        self.promises.insert(ticket, Promise { aim, sent: false });
        self.work += usize::from(aim != Aim::Fence);
        self.put(ticket, request, payload);
    }

    /// Asks for something that is not answered.
    pub fn tell(&mut self, request: Request) {
        self.put(UNANSWERED, request, &[]);
    }

    /// Sends a file, ahead of the requests that need it.
    pub fn send(&mut self, message: ToChild, file: OwnedFd) {
        self.queue.push_back(Outgoing::Message { message, file });
        self.flush();
    }

    /// The pieces of guest memory as it knows them. What it does not have of the guest's memory yet is sent.
    pub fn pieces(&mut self, runs: &[Run]) -> io::Result<Vec<wire::PieceWords>> {
        /// What a piece has at most: whole pages.
        const LONGEST: u64 = 1 << 31;
        let mut pieces = Vec::with_capacity(runs.len());
        for run in runs {
            let number = self.region(&run.mapping)?;
            let (mut offset, mut left) = (run.offset, run.len);
            while left > 0 {
                let len = left.min(LONGEST);
                pieces.push(wire::encode_piece(number, offset, len as u32));
                offset += len;
                left -= len;
            }
        }
        Ok(pieces)
    }

    fn region(&mut self, mapping: &Arc<MmapRegion>) -> io::Result<u32> {
        if let Some((_, number)) = self.regions.iter().find(|(known, _)| Arc::ptr_eq(known, mapping)) {
            return Ok(*number);
        }
        let file = mapping.file_offset().ok_or(io::ErrorKind::NotFound)?;
        let number = self.numbers;
        self.numbers += 1;
        let message = ToChild::Region { number, offset: file.start(), len: mapping.size() as u64 };
        self.send(message, file.file().as_fd().try_clone_to_owned()?);
        self.regions.push((mapping.clone(), number));
        Ok(number)
    }

    /// Only these mappings are used from now on.
    pub fn keep_regions(&mut self, keep: impl Fn(&Arc<MmapRegion>) -> bool) {
        let gone: Vec<_> = self.regions.extract_if(.., |(mapping, _)| !keep(mapping)).collect();
        for (_, number) in gone {
            self.tell(Request::DropRegion { number });
        }
    }

    fn put(&mut self, ticket: Ticket, request: Request, mut payload: &[u8]) {
        while let Some((part, rest)) = payload.split_at_checked(wire::PART_BYTES)
            && !rest.is_empty()
        {
            self.put_whole(UNANSWERED, Request::Part { bytes: wire::Span::default() }, part);
            payload = rest;
        }
        self.put_whole(ticket, request, payload);
    }

    fn put_whole(&mut self, ticket: Ticket, request: Request, payload: &[u8]) {
        if self.queue.is_empty() && self.push(ticket, &request, payload) {
            return;
        }
        if self.end.is_some() {
            return;
        }
        self.queued_bytes += payload.len();
        self.queue.push_back(Outgoing::Request { ticket, request, payload: payload.to_vec() });
    }

    /// Puts a request into the ring, if there is room for it.
    fn push(&mut self, ticket: Ticket, request: &Request, payload: &[u8]) -> bool {
        let answered = ticket != UNANSWERED;
        if self.end.is_some() || self.gated || answered && self.awaited >= wire::EVENTS {
            return false;
        }
        if !(self.requests.has_room() || self.look() && self.requests.has_room()) {
            return false;
        }
        let span = match payload.len() {
            0 => Some(wire::Span::default()),
            len => self
                .arena
                .take(self.requests.tail(), len)
                .or_else(|| self.look().then(|| self.arena.take(self.requests.tail(), len)).flatten()),
        };
        let Some(span) = span else { return false };
        self.memory.put(span, payload);
        let words = wire::encode(ticket, &request.with_payload(span));
        self.requests.push(&self.memory, bytemuck::bytes_of(&words));
        self.lying.push_back((request.name(), request.context()));
        self.unannounced = true;
        if let Some(promise) = self.promises.get_mut(&ticket).filter(|_| answered) {
            promise.sent = true;
            self.awaited += 1;
        }
        true
    }

    /// Looks how far it is. False when it is where it cannot be.
    fn look(&mut self) -> bool {
        let before = self.requests.head();
        let Ok(head) = self.requests.look(&self.memory) else {
            self.fail("has taken more requests than there were");
            return false;
        };
        let taken = head.wrapping_sub(before) as usize;
        if let Some(last) = self.lying.drain(..taken.min(self.lying.len())).next_back() {
            self.last = Some(last);
        }
        self.arena.give_back(head, self.requests.tail());
        true
    }

    /// Puts in what waits, as far as there is room.
    pub fn flush(&mut self) {
        self.blocked = false;
        while let Some(front) = self.queue.pop_front() {
            let gone = match &front {
                Outgoing::Request { ticket, request, payload } => {
                    let gone = self.push(*ticket, request, payload);
                    self.queued_bytes -= if gone { payload.len() } else { 0 };
                    gone
                }
                Outgoing::Message { message, file } => {
                    let sent = socket::send(self.socket.as_fd(), message, &[file.as_fd()]);
                    self.blocked = sent == Sent::Full;
                    if sent == Sent::Closed {
                        self.fail("hung up");
                    }
                    sent == Sent::Whole
                }
            };
            if !gone {
                self.queue.push_front(front);
                return;
            }
        }
    }

    /// Wakes it, if it sleeps and there is something for it.
    pub fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced) && self.memory.must_wake(at::CHILD_SLEEPS) {
            ring_bell(&self.child_bell);
            self.rang += 1;
        }
    }

    /// Takes what came through the socket.
    pub fn receive(&mut self) {
        while self.end.is_none() {
            match socket::receive(self.socket.as_fd()) {
                Received::Message(message, fds) => self.hear(message, fds),
                Received::Garbage => self.lie(),
                Received::Nothing => return,
                Received::Closed => self.fail("hung up"),
            }
        }
    }

    fn hear(&mut self, message: FromChild, mut fds: Vec<OwnedFd>) {
        match (message, fds.pop(), fds.is_empty()) {
            (FromChild::Found, None, _) if !self.found => {
                self.found = true;
                self.watch.set_patience(self.patience);
            }
            (FromChild::Failed(why), None, _) if !self.found => {
                self.fail(&format!("could not start: {}", printable(why.as_bytes())));
            }
            (FromChild::Blob { ticket, caching }, Some(file), true) => {
                let ticket = Ticket(ticket);
                let waits = self.promises.get(&ticket).is_some_and(|promise| {
                    promise.sent && matches!(promise.aim, Aim::Blob(..)) && !self.offers.contains_key(&ticket)
                });
                match waits {
                    true => drop(self.offers.insert(ticket, Offer { file, caching })),
                    false => self.lie(),
                }
            }
            _ => self.lie(),
        }
    }

    /// Takes the events that there are, not more than there is room for. What one told before it hung up counts.
    pub fn take_events(&mut self, answers: &mut Vec<Answer>) {
        let mut words = [0u64; 2];
        for _ in 0..wire::EVENTS {
            match self.events.peek(&self.memory, bytemuck::bytes_of_mut(&mut words)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.fail("has told more than there was room for"),
            }
            self.events.done(&self.memory);
            match self.judge(words) {
                Some(answer) => {
                    self.heard = self.heard.wrapping_add(1);
                    answers.push(answer);
                }
                None => self.lie(),
            }
        }
    }

    /// An event, if it can be.
    fn judge(&mut self, words: [u64; 2]) -> Option<Answer> {
        let (ticket, event) = wire::decode_event(words);
        let aim = self.promises.get(&ticket).filter(|promise| promise.sent)?.aim;
        let result = match (event?, aim) {
            (Event::Done(Ok(())), Aim::Fence) => return None,
            (Event::Done(result), _) => result.map(|()| None),
            (Event::Retired, Aim::Fence) => Ok(None),
            (Event::Exported, Aim::Blob(..)) => {
                // It was sent before the event was told.
                self.receive();
                match self.offers.remove(&ticket) {
                    Some(offer) => Ok(Some(offer)),
                    None => {
                        self.lie();
                        Err(ReplyError::Unspec)
                    }
                }
            }
            (Event::Retired | Event::Exported, _) => return None,
        };
        self.offers.remove(&ticket);
        self.promises.remove(&ticket);
        self.awaited -= 1;
        self.work -= usize::from(aim != Aim::Fence);
        Some(Answer { ticket, aim, result })
    }

    /// Whether nothing is to be taken now. It wakes us when there is.
    pub fn sleep(&mut self) -> bool {
        if self.end.is_some() {
            return true;
        }
        if !self.queue.is_empty() && !self.blocked && !self.gated {
            self.memory.going_to_sleep(at::DEVICE_WAITS);
            let before = self.queue.len();
            self.flush();
            if self.queue.len() < before {
                return false;
            }
        }
        self.memory.going_to_sleep(at::DEVICE_SLEEPS);
        match self.events.look(&self.memory) {
            Ok(false) => true,
            Ok(true) | Err(_) => {
                self.memory.awake(at::DEVICE_SLEEPS);
                false
            }
        }
    }

    /// Why it is to be ended, if it is. `now` by its own clock.
    pub fn verdict(&mut self, now: Instant) -> Option<String> {
        self.look();
        let taken = self.requests.head();
        let busy = self.work > 0 || taken != self.requests.tail() || !self.queue.is_empty();
        // Behind a gate it has nothing to do; whoever shut it knows what is under way.
        let busy = busy && !self.gated;
        if self.watch.hangs(now, busy || !self.found, (taken, self.heard)) {
            let what = if self.found { "hung for" } else { "did not start within" };
            let limit = if self.found { self.patience } else { self.patience.max(STARTING) };
            self.fail(&format!("{what} {} s", limit.as_secs()));
        }
        self.end.clone()
    }

    /// When it is to be looked at although it tells nothing, by its own clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.watch.deadline()
    }

    /// Whether it has nothing to do and nothing to tell.
    pub fn is_at_rest(&self) -> bool {
        self.members == 0 && self.promises.is_empty() && self.queue.is_empty()
    }

    /// The last request that it began, and its context.
    pub fn last(&self) -> Option<(&'static str, ContextId)> {
        self.last
    }

    /// What is not answered now never is, in the order in which it was asked for.
    pub fn give_up(&mut self) -> Vec<Answer> {
        let mut lost: Vec<_> = std::mem::take(&mut self.promises).into_iter().collect();
        lost.sort_unstable_by_key(|(ticket, _)| *ticket);
        let answer =
            |(ticket, promise): (Ticket, Promise)| Answer { ticket, aim: promise.aim, result: Err(ReplyError::Unspec) };
        lost.into_iter().map(answer).collect()
    }

    /// How many things that cannot be were told since the last call.
    pub fn new_lies(&mut self) -> u64 {
        let new = self.lies - self.counted;
        self.counted = self.lies;
        u64::from(new)
    }

    fn lie(&mut self) {
        self.lies = self.lies.saturating_add(1);
        if self.lies > LIES {
            self.fail("told too much that cannot be");
        }
    }

    fn fail(&mut self, how: &str) {
        self.end.get_or_insert_with(|| how.to_owned());
    }
}

/// Bytes of a guest or a process, for a log.
pub fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes[..end.min(256)].escape_ascii().to_string()
}
