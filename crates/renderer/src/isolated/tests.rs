//! Whole conversations with processes that are threads of the test: no library is needed.

mod alone;
mod chance;
mod deaths;
mod lies;
mod pressure;
mod rule;
mod script;
mod work;

use std::collections::HashMap as Map;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use device::{Capset, HostBlob, Memory, Pixels, Progress, Region, Rendered, Stats, ThreeD, Ticket, Way};
use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{Shutdown, shutdown};
use vm_memory::{FileOffset, MmapRegion};

use super::answers::MAPPINGS;
use super::attend::IDLE;
use super::images::IMAGES;
use super::lives::Starts;
use super::shared::{bell, ring_bell, stop_bell};
use super::wire::{Request, Span, ToChild};
use super::*;

/// What a process does with its socket.
type Play = Arc<dyn Fn(Kind, OwnedFd) + Send + Sync>;

/// Processes that are threads.
struct Threads {
    play: Play,
    bell: Arc<OwnedFd>,
    ended: Arc<Mutex<Vec<Ended>>>,
    /// To hang up in their name.
    sockets: Map<u32, OwnedFd>,
    killed: Arc<Mutex<Vec<u32>>>,
}

impl Children for Threads {
    fn start(&mut self, kind: Kind, socket: OwnedFd) -> io::Result<u32> {
        let id = self.sockets.len() as u32 + 1;
        self.sockets.insert(id, socket.try_clone()?);
        let (play, bell, ended) = (self.play.clone(), self.bell.clone(), self.ended.clone());
        thread::spawn(move || {
            play(kind, socket);
            ended.lock().unwrap().push(Ended { id, how: "returned".into() });
            ring_bell(&*bell);
        });
        Ok(id)
    }

    fn kill(&mut self, id: u32) {
        self.killed.lock().unwrap().push(id);
        if let Some(socket) = self.sockets.get(&id) {
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    fn ended(&mut self) -> Vec<Ended> {
        stop_bell(&*self.bell);
        let ended = std::mem::take(&mut *self.ended.lock().unwrap());
        for Ended { id, .. } in &ended {
            let _ = shutdown(&self.sockets[id], Shutdown::Both);
        }
        ended
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// A device that keeps account of what it was told.
struct Desk {
    isolated: Isolated,
    stats: Arc<Stats>,
    killed: Arc<Mutex<Vec<u32>>>,
    tickets: u64,
    open: Vec<Ticket>,
    answers: Map<Ticket, Result<(), ReplyError>>,
    /// In the order in which they came.
    order: Vec<Ticket>,
    /// Added to the clock.
    later: Duration,
}

const PATIENCE: Duration = Duration::from_secs(1000);

impl Desk {
    fn new(play: impl Fn(Kind, OwnedFd) + Send + Sync + 'static) -> Self {
        let (stats, killed) = (Arc::new(Stats::default()), Arc::default());
        let capset = |id, maps| Capset { id, version: 1, bytes: Arc::from(&b"bytes"[..]), rings: 1, maps };
        let options = Options {
            capsets: vec![capset(CapsetId::VIRGL2, false), capset(CapsetId::VENUS, true)],
            patience: PATIENCE,
            restarts: 1000,
            name: "test".into(),
            stats: stats.clone(),
        };
        let children = Threads {
            play: Arc::new(play),
            bell: Arc::new(bell().unwrap()),
            ended: Arc::default(),
            sockets: Map::new(),
            killed: Arc::clone(&killed),
        };
        let isolated = Isolated::new(options, Box::new(children)).unwrap();
        Self {
            isolated,
            stats,
            killed,
            tickets: 0,
            open: Vec::new(),
            answers: Map::new(),
            order: Vec::new(),
            later: Duration::ZERO,
        }
    }

    /// Asks for something.
    fn ask(&mut self, ask: impl FnOnce(&mut Isolated, Ticket) -> Progress) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        match ask(&mut self.isolated, ticket) {
            Progress::Done(result) => self.answer(ticket, result),
            Progress::Later => self.open.push(ticket),
        }
        ticket
    }

    fn answer(&mut self, ticket: Ticket, result: Result<(), ReplyError>) {
        self.open.retain(|open| *open != ticket);
        assert!(self.answers.insert(ticket, result).is_none(), "{ticket:?} was answered twice");
        self.order.push(ticket);
    }

    /// Sends what was asked for and takes the answers that are there.
    fn turn(&mut self) {
        self.isolated.submit_all();
        let mut done = Vec::new();
        self.isolated.poll(Instant::now() + self.later, &mut done);
        for Rendered { ticket, result } in done {
            assert!(self.open.contains(&ticket), "nobody asked for {ticket:?}, or it was answered before");
            self.answer(ticket, result);
        }
    }

    /// Lets time go by.
    fn pass(&mut self, time: Duration) {
        for _ in 0..8 {
            self.later += time / 8;
            self.turn();
        }
    }

    /// Waits until something is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(120);
        loop {
            self.turn();
            if is_so(self) {
                return;
            }
            let now = Instant::now();
            assert!(now < limit, "waited in vain for {what}; open: {:?}", self.open);
            let due = self.isolated.deadline().map(|at| at.saturating_duration_since(now + self.later));
            let wait = due.unwrap_or(Duration::MAX).min(Duration::from_secs(1));
            let wait = rustix::event::Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            poll(&mut [PollFd::from_borrowed_fd(self.isolated.poll_fd().unwrap(), PollFlags::IN)], Some(&wait))
                .unwrap();
        }
    }

    /// Waits for all answers.
    fn settle(&mut self) {
        self.until("all answers", |desk| desk.open.is_empty());
    }

    /// What became of one, waited for.
    fn result(&mut self, ask: impl FnOnce(&mut Isolated, Ticket) -> Progress) -> Result<(), ReplyError> {
        let ticket = self.ask(ask);
        self.until("an answer", |desk| desk.answers.contains_key(&ticket));
        self.answers[&ticket]
    }

    fn open(&mut self, context: u32, capset: CapsetId) -> Ticket {
        self.ask(|isolated, ticket| isolated.open(ticket, ContextId(context), capset, b"a \"name\"\n"))
    }

    fn submit(&mut self, context: u32, commands: &[u8]) -> Ticket {
        self.ask(|isolated, ticket| isolated.submit(ticket, ContextId(context), commands))
    }

    fn fence(&mut self, context: u32, ring: u8) -> Ticket {
        self.ask(|isolated, ticket| isolated.fence(ticket, ContextId(context), ring))
    }

    fn create(&mut self, resource: u32, width: u32, height: u32) -> Ticket {
        let desc = Resource3d { width, height, depth: 1, ..Resource3d::default() };
        self.ask(|isolated, ticket| isolated.create(ticket, ResourceId(resource), &desc))
    }

    fn create_blob(&mut self, context: u32, resource: u32, id: u64, size: u64) -> Ticket {
        let blob = HostBlob { resource: ResourceId(resource), mem: 2, flags: 1, id, size };
        self.ask(|isolated, ticket| isolated.create_blob(ticket, ContextId(context), &blob))
    }

    fn is_ok(&self, ticket: Ticket) -> bool {
        self.answers.get(&ticket) == Some(&Ok(()))
    }
}

/// A region of guest memory that another process can map.
fn region(start: u64, len: u64) -> Region {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    let mapping = MmapRegion::from_file(FileOffset::new(fd.into(), 0), len as usize).unwrap();
    Region { start, len, mapping: Arc::new(mapping), offset: 0, usable: true }
}

fn memory(regions: &[Region]) -> Memory {
    Memory::new(regions.to_vec()).unwrap()
}
