//! A library for OpenGL and Vulkan in processes of its own: whatever becomes of them, the device goes on.
//!
//! ```text
//!  Isolated (implements ThreeD) ── one Process for each Kind ── shared memory, two bells, a socket ── child::run ── Library
//! ```
//!
//! Each process has a life: a number that no other has. A context or resource belongs to the life it was made in, and is lost
//! when that is over. Each request that is answered by a ticket is a promise of its process; when the process goes, whatever the
//! reason, its promises are kept with errors.
//!
//! - `three_d` turns calls of the device into requests, `answers` does what follows from what comes back;
//! - `attend` starts, hears and ends processes; `lives`, `watch` and `clock` say when; `host` is the device's end of one;
//! - `wire` is what goes between the two, `shared` and `socket` by which ways, `arena` where its bytes lie;
//! - [`arbiter`] grants time;
//! - `memory` is the guest's, `images` are read back for a display, `offered` is memory that a process has for a guest;
//! - [`child`] is the other end.

mod answers;
pub mod arbiter;
mod arena;
mod attend;
pub mod child;
mod clock;
mod host;
mod images;
mod lives;
pub(crate) mod memory;
pub(crate) mod offered;
mod shared;
mod socket;
#[cfg(test)]
mod tests;
mod three_d;
mod watch;
#[doc(hidden)]
pub mod wire;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{Capset, HostMapping, Rendered, Stats, Ticket};
use foldhash::{HashMap, HashMapExt};
use protocol::{ContextId, ResourceId};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

pub use self::answers::MAPPINGS;
use self::arbiter::{Arbiter, Grant};
use self::clock::Clock;
use self::host::{Answer, Process};
use self::images::Image;
pub(crate) use self::images::{Black, copy_part, in_the_way};
pub use self::images::{IMAGE_BYTES, IMAGES};
use self::lives::{Departures, Starts};
use self::memory::Guest;
use self::wire::Request;
use crate::library::Kind;

/// What [`poll_fd`](device::ThreeD::poll_fd) watches besides processes.
const CHILDREN: u64 = u64::MAX;
const ARBITER: u64 = CHILDREN - 1;

/// A process that has ended, or was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub id: u32,
    /// How, for a log.
    pub how: String,
}

/// Who starts and ends processes for us: a device that locked itself in cannot. No method waits.
pub trait Children: Send {
    /// Starts one that serves `socket`, and names it. Never reused.
    fn start(&mut self, kind: Kind, socket: OwnedFd) -> io::Result<u32>;
    /// Ends one at once, with all that it started.
    fn kill(&mut self, id: u32);
    /// Those that have ended since it was asked last.
    fn ended(&mut self) -> Vec<Ended>;
    /// Readable when one has ended.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// How processes of a library are to be treated.
#[derive(Clone, Debug)]
pub struct Options {
    /// What a guest may be offered.
    pub capsets: Vec<Capset>,
    /// How long one may have work and do nothing before it counts as hung.
    pub patience: Duration,
    /// How often one of a kind may be started again within a minute.
    pub restarts: u32,
    /// The guest's name, for a log.
    pub name: String,
    /// Where is counted what befalls them.
    pub stats: Arc<Stats>,
}

/// How often the two sides woke each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes {
    /// We woke a process.
    pub rang: u64,
    /// A process woke us.
    pub heard: u64,
}

/// Contexts, resources and blobs that live in processes of their own, one for each [`Kind`] that a guest uses.
pub struct Isolated {
    options: Options,
    children: Box<dyn Children>,
    epoll: OwnedFd,
    clock: Clock,
    arbiter: Option<Box<dyn Arbiter>>,
    granted: Grant,
    /// What processes did that are gone.
    done: u32,
    last: Option<(&'static str, ContextId)>,
    processes: [Option<Process>; 2],
    starts: [Starts; 2],
    departures: Departures,
    lives: u64,
    contexts: HashMap<ContextId, Context>,
    resources: HashMap<ResourceId, Resource>,
    guest: Guest,
    black: Black,
    images: u32,
    reads: u64,
    /// Answers that nobody has been told yet.
    finished: Vec<Rendered>,
    /// Room for answers on their way there.
    answers: Vec<Answer>,
    /// There is more to be done at once.
    again: bool,
    wakes: Wakes,
}

/// Where something is.
#[derive(Clone, Copy, Debug)]
struct Home {
    kind: Kind,
    life: u64,
    /// The ticket that made it: tells it from others of the same name.
    made: Ticket,
}

#[derive(Debug)]
struct Context {
    home: Home,
    name: Box<[u8]>,
}

#[derive(Debug)]
struct Resource {
    home: Home,
    /// Size of its first level.
    width: u32,
    height: u32,
    image: Option<Image>,
    mapping: Option<HostMapping>,
}

const KINDS: [Kind; 2] = [Kind::Gl, Kind::Vk];

fn at(kind: Kind) -> usize {
    match kind {
        Kind::Gl => 0,
        Kind::Vk => 1,
    }
}

impl Isolated {
    /// Nothing is started before there is work.
    pub fn new(options: Options, children: Box<dyn Children>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // Once for each time that one ends: should nobody be left to tell of them, that is told once.
        epoll::add(&epoll, children.fd(), EventData::new_u64(CHILDREN), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            starts: KINDS.map(|_| Starts::new(options.restarts)),
            options,
            children,
            epoll,
            clock: Clock::new(Instant::now()),
            arbiter: None,
            granted: Grant::Open,
            done: 0,
            last: None,
            processes: [None, None],
            departures: Departures::default(),
            lives: 0,
            contexts: HashMap::new(),
            resources: HashMap::new(),
            guest: Guest::default(),
            black: Black::default(),
            images: 0,
            reads: 0,
            finished: Vec::new(),
            answers: Vec::new(),
            again: false,
            wakes: Wakes::default(),
        })
    }

    /// How often the two sides woke each other until now.
    pub fn wakes(&self) -> Wakes {
        let running = self.processes.iter().flatten().map(|process| process.rang).sum::<u64>();
        Wakes { rang: self.wakes.rang + running, ..self.wakes }
    }

    /// Whether what has its home there is not lost.
    fn lives(&self, home: Home) -> bool {
        self.processes[at(home.kind)].as_ref().is_some_and(|process| process.life == home.life)
    }

    /// The process in which something lives, unless that is lost.
    fn living(&mut self, home: Option<Home>) -> Option<&mut Process> {
        let home = home?;
        self.processes[at(home.kind)].as_mut().filter(|process| process.life == home.life)
    }

    fn context(&mut self, context: ContextId) -> Option<&mut Process> {
        self.living(self.contexts.get(&context).map(|context| context.home))
    }

    fn resource(&mut self, resource: ResourceId) -> Option<&mut Process> {
        self.living(self.resources.get(&resource).map(|resource| resource.home))
    }

    /// The process in which both live.
    fn both(&mut self, context: ContextId, resource: ResourceId) -> Option<&mut Process> {
        let life = self.resources.get(&resource)?.home.life;
        self.context(context).filter(|process| process.life == life)
    }

    fn insert_resource(&mut self, ticket: Ticket, kind: Kind, resource: ResourceId, width: u32, height: u32) {
        let Some(process) = &mut self.processes[at(kind)] else { return };
        process.members += 1;
        let home = Home { kind, life: process.life, made: ticket };
        let resource_ = Resource { home, width, height, image: None, mapping: None };
        self.resources.insert(resource, resource_);
    }

    fn remove_context(&mut self, context: ContextId) -> Option<&mut Process> {
        let home = self.contexts.remove(&context)?.home;
        let process = self.living(Some(home))?;
        process.members -= 1;
        Some(process)
    }

    fn remove_resource(&mut self, resource: ResourceId) -> Option<&mut Process> {
        let gone = self.resources.remove(&resource)?;
        let process = self.living(Some(gone.home))?;
        process.members -= 1;
        if let Some(image) = gone.image {
            process.tell(Request::DropImage { number: image.number });
        }
        Some(process)
    }
}
