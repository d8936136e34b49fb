//! A library for OpenGL and Vulkan in processes of its own: whatever becomes of them, the device goes on.
//!
//! ```text
//!  Isolated (implements ThreeD) ── one Process for each Kind ── shared memory, two bells, a socket ── child::run ── Library
//! ```
//!
//! Each process has a life: a number that no other has. A context or resource belongs to the life it was made in, and is lost
//! when that is over. Each request that is answered by a ticket is a promise of its process; when the process goes, whatever the
//! reason, its promises are kept with errors.

mod arena;
pub mod child;
mod host;
mod images;
mod lives;
mod memory;
mod offered;
mod shared;
mod socket;
#[cfg(test)]
mod tests;
mod watch;
#[doc(hidden)]
pub mod wire;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::three_d::LOST;
use device::{
    Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Rendered, Stats, ThreeD, Ticket, Way, guest_log,
};
use foldhash::{HashMap, HashMapExt};
use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use self::host::{Aim, Answer, Process, printable};
use self::images::{Black, IMAGE_BYTES, IMAGES, Image};
use self::lives::{Departure, Departures, Starts};
use self::memory::Guest;
use self::wire::{Request, Span, ToChild};
use crate::library::Kind;

/// How long a process may have nothing before it is ended.
const IDLE: Duration = Duration::from_secs(10);
/// Blobs whose memory is held for a guest to map at one time: each takes a file descriptor.
const MAPPINGS: usize = 512;
/// How often a process is listened to before others have their turn.
const ROUNDS: usize = 4;
/// What [`Isolated::poll_fd`] watches besides processes.
const CHILDREN: u64 = u64::MAX;

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

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Gl => "OpenGL",
        Kind::Vk => "Vulkan",
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

    /// The process of a kind, started if there is none.
    fn started(&mut self, kind: Kind) -> Option<&mut Process> {
        let slot = at(kind);
        if self.processes[slot].is_none() {
            self.processes[slot] = self.start(kind, Instant::now());
        }
        self.processes[slot].as_mut()
    }

    fn start(&mut self, kind: Kind, now: Instant) -> Option<Process> {
        let (guest, what) = (&self.options.name, title(kind));
        let slot = at(kind);
        if !self.starts[slot].permit(now) {
            self.options.stats.renderer_refused.add(1);
            let most = self.options.restarts;
            guest_log!(
                warn,
                "Guest {guest}: the {what} renderer was started again {most} times within a minute, no more"
            );
            return None;
        }
        self.lives += 1;
        let started = Process::start(kind, self.lives, self.options.patience, &mut *self.children);
        let process = started.and_then(|process| {
            for (fd, data) in process.fds().into_iter().zip([slot * 2, slot * 2 + 1]) {
                epoll::add(&self.epoll, fd, EventData::new_u64(data as u64), EventFlags::IN)?;
            }
            Ok(process)
        });
        match process {
            Ok(process) => {
                self.options.stats.renderer_starts.add(1);
                guest_log!(info, "Guest {guest}: the {what} renderer starts");
                Some(process)
            }
            Err(error) => {
                self.options.stats.renderer_refused.add(1);
                guest_log!(error, "Guest {guest}: the {what} renderer cannot be started: {error}");
                None
            }
        }
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

    /// Tells the device, and does what follows from it here.
    fn finish(&mut self, answer: Answer) {
        let Answer { ticket, aim, mut result } = answer;
        match (aim, &mut result) {
            (Aim::Open(context), Err(_)) if self.contexts.get(&context).is_some_and(|c| c.home.made == ticket) => {
                self.remove_context(context);
            }
            (Aim::Create(resource) | Aim::Blob(resource, _), Err(_)) if self.is_made_by(resource, ticket) => {
                self.remove_resource(resource);
            }
            (Aim::Blob(resource, size), Ok(offer)) => {
                if let Some(offer) = offer.take()
                    && self.is_made_by(resource, ticket)
                    && let Err(error) = self.take_offer(resource, size, offer)
                {
                    result = Err(error);
                    if let Some(process) = self.remove_resource(resource) {
                        process.tell(Request::Destroy { resource });
                    }
                }
            }
            (Aim::Read(resource, number), Ok(_)) => {
                let image = self.resources.get_mut(&resource).and_then(|resource| resource.image.as_mut());
                if let Some(image) = image.filter(|image| image.number == number) {
                    image.was_read();
                }
            }
            _ => {}
        }
        self.finished.push(Rendered { ticket, result: result.map(|_| ()) });
    }

    fn is_made_by(&self, resource: ResourceId, ticket: Ticket) -> bool {
        self.resources.get(&resource).is_some_and(|resource| resource.home.made == ticket)
    }

    /// Memory that a process offers for a blob is looked at before anybody sees it.
    fn take_offer(&mut self, resource: ResourceId, size: u64, offer: host::Offer) -> Result<(), ReplyError> {
        let mapped = self.resources.values().filter(|resource| resource.mapping.is_some()).count();
        if mapped >= MAPPINGS {
            return Err(ReplyError::OutOfMemory);
        }
        let refused = match offered::take(offer.file, size) {
            Ok(file) if (1..=3).contains(&offer.caching) => {
                let len = size.next_multiple_of(offered::PAGE);
                let mapping = HostMapping { file: Arc::new(file), offset: 0, len, caching: offer.caching };
                if let Some(resource) = self.resources.get_mut(&resource) {
                    resource.mapping = Some(mapping);
                }
                return Ok(());
            }
            Ok(_) => format!("Nobody knows how to cache it: {}", offer.caching),
            Err(refusal) => refusal.to_string(),
        };
        self.options.stats.renderer_lies.add(1);
        let guest = &self.options.name;
        guest_log!(warn, "Guest {guest}: memory of blob {} is not shown to the guest: {refused}", resource.0);
        Err(ReplyError::Unspec)
    }

    /// The image that a resource is read into, known to its process. An old one of another makes room for it.
    fn image(&mut self, id: ResourceId) -> Result<u32, ReplyError> {
        let resource = self.resources.get_mut(&id).ok_or(ReplyError::InvalidResourceId)?;
        self.reads += 1;
        if let Some(image) = &mut resource.image {
            image.used = self.reads;
            return Ok(image.number);
        }
        let len = u64::from(resource.width) * u64::from(resource.height) * 4;
        let home = resource.home;
        if len == 0 || len > IMAGE_BYTES {
            return Err(ReplyError::OutOfMemory);
        }
        self.make_room(len);
        self.images += 1;
        let mut image = Image::new(self.images, len).map_err(|_| ReplyError::OutOfMemory)?;
        let file = image.file().map_err(|_| ReplyError::OutOfMemory)?;
        image.used = self.reads;
        let number = image.number;
        let process = self.living(Some(home)).ok_or(ReplyError::Unspec)?;
        process.send(ToChild::Image { number, len }, file);
        if let Some(resource) = self.resources.get_mut(&id) {
            resource.image = Some(image);
        }
        Ok(number)
    }

    fn make_room(&mut self, len: u64) {
        loop {
            let images = || self.resources.iter().filter_map(|(id, resource)| Some((*id, resource.image.as_ref()?)));
            let bytes: u64 = images().map(|(_, image)| image.len).sum();
            let oldest = images().min_by_key(|(_, image)| image.used).map(|(id, _)| id);
            let Some(oldest) = oldest.filter(|_| images().count() >= IMAGES || bytes + len > IMAGE_BYTES) else {
                return;
            };
            let Some(resource) = self.resources.get_mut(&oldest) else { return };
            let (home, image) = (resource.home, resource.image.take());
            if let (Some(process), Some(image)) = (self.living(Some(home)), image) {
                process.tell(Request::DropImage { number: image.number });
            }
        }
    }

    /// Does all that can be done now.
    fn attend(&mut self, now: Instant) {
        self.again = false;
        if self.lives == 0 {
            return;
        }
        let mut room = [MaybeUninit::uninit(); 8];
        // Without an answer, what there is to see is seen the next time.
        let ready = epoll::wait(&self.epoll, &mut room, Some(&Timespec::default()));
        for event in ready.map_or(&[][..], |(events, _)| &*events) {
            let data = event.data.u64();
            if data == CHILDREN {
                self.bury(now);
            } else if let Some(process) = self.processes.get_mut((data / 2) as usize).and_then(Option::as_mut) {
                match data % 2 {
                    0 => process.receive(),
                    _ => {
                        process.stop_bell();
                        self.wakes.heard += 1;
                    }
                }
            }
        }
        for kind in KINDS {
            self.serve(kind, now);
        }
        for departure in self.departures.overdue(now) {
            match departure {
                Departure::Kill(id) => self.children.kill(id),
                Departure::Say(obituary) => guest_log!(warn, "{obituary}"),
            }
        }
    }

    fn serve(&mut self, kind: Kind, now: Instant) {
        let Some(process) = &mut self.processes[at(kind)] else { return };
        let mut answers = std::mem::take(&mut self.answers);
        let was_blocked = process.is_blocked();
        let mut asleep = false;
        for _ in 0..ROUNDS {
            process.take_events(&mut answers);
            process.flush();
            asleep = process.sleep();
            if asleep {
                break;
            }
        }
        process.announce();
        self.again |= !asleep;
        if process.is_blocked() != was_blocked {
            let room = if process.is_blocked() { EventFlags::OUT } else { EventFlags::empty() };
            let data = EventData::new_u64(at(kind) as u64 * 2);
            let _ = epoll::modify(&self.epoll, process.fds()[0], data, EventFlags::IN | room);
        }
        self.options.stats.renderer_lies.add(process.new_lies());
        let verdict = process.verdict(now);
        for answer in answers.drain(..) {
            self.finish(answer);
        }
        self.answers = answers;
        if let Some(how) = verdict {
            self.lose(kind, &how, now);
            return;
        }
        let Some(process) = &mut self.processes[at(kind)] else { return };
        match process.is_at_rest() {
            true if now.saturating_duration_since(*process.idle.get_or_insert(now)) >= IDLE => self.dismiss(kind, now),
            true => {}
            false => process.idle = None,
        }
    }

    /// Takes a process out, and answers what it has not.
    fn remove(&mut self, kind: Kind) -> Option<Process> {
        let mut process = self.processes[at(kind)].take()?;
        for fd in process.fds() {
            let _ = epoll::delete(&self.epoll, fd);
        }
        self.wakes.rang += process.rang;
        for answer in process.give_up() {
            self.finish(answer);
        }
        // What it held for a guest that has not mapped it is of no use any more.
        let lost = |resource: &&mut Resource| resource.home.life == process.life;
        self.resources.values_mut().filter(lost).for_each(|resource| resource.mapping = None);
        Some(process)
    }

    /// A process is of no use any more.
    fn lose(&mut self, kind: Kind, how: &str, now: Instant) {
        let last = self.processes[at(kind)].as_ref().and_then(Process::last);
        let last = last.map(|(command, context)| match self.contexts.get(&context) {
            Some(Context { name, .. }) => format!("{command} of context {} \"{}\"", context.0, printable(name)),
            None => command.to_owned(),
        });
        let Some(process) = self.remove(kind) else { return };
        self.options.stats.renderer_deaths.add(1);
        let (guest, what, last) = (&self.options.name, title(kind), last.unwrap_or("nothing".into()));
        let (used, most) = self.starts[at(kind)].used();
        let obituary =
            format!("Guest {guest}: the {what} renderer {how}; last command: {last}; {used} of {most} restarts used");
        self.children.kill(process.id);
        self.departures.ended(process.id, now, obituary);
        self.bury(now);
    }

    /// A process has nothing to do.
    fn dismiss(&mut self, kind: Kind, now: Instant) {
        let Some(mut process) = self.remove(kind) else { return };
        process.tell(Request::Quit);
        process.announce();
        self.departures.asked(process.id, now);
    }

    /// Takes note of those that have ended.
    fn bury(&mut self, now: Instant) {
        for Ended { id, how } in self.children.ended() {
            if let Some(obituary) = self.departures.gone(id, &how) {
                if let Some(obituary) = obituary {
                    guest_log!(warn, "{obituary}");
                }
                continue;
            }
            let of = |kind: &Kind| self.processes[at(*kind)].as_ref().is_some_and(|process| process.id == id);
            if let Some(kind) = KINDS.into_iter().find(of) {
                // What it told until then counts.
                self.serve(kind, now);
                self.lose(kind, "died", now);
                if let Some(Some(obituary)) = self.departures.gone(id, &how) {
                    guest_log!(warn, "{obituary}");
                }
            }
        }
    }
}

impl ThreeD for Isolated {
    fn capsets(&self) -> &[Capset] {
        &self.options.capsets
    }

    fn open(&mut self, ticket: Ticket, context: ContextId, capset: CapsetId, name: &[u8]) -> Progress {
        let Some(kind) = Kind::of(capset) else { return Progress::Done(Err(ReplyError::InvalidParameter)) };
        let Some(process) = self.started(kind) else { return LOST };
        let request = Request::Open { context, capset, name: Span::default() };
        process.ask(ticket, Aim::Open(context), request, name);
        process.members += 1;
        let home = Home { kind, life: process.life, made: ticket };
        self.contexts.insert(context, Context { home, name: name.into() });
        Progress::Later
    }

    fn close(&mut self, context: ContextId) {
        if let Some(process) = self.remove_context(context) {
            process.tell(Request::Close { context });
        }
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        if let Some(process) = self.both(context, resource) {
            process.tell(Request::Join { context, resource });
        }
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        if let Some(process) = self.both(context, resource) {
            process.tell(Request::Leave { context, resource });
        }
    }

    fn submit(&mut self, ticket: Ticket, context: ContextId, commands: &[u8]) -> Progress {
        let Some(process) = self.context(context) else { return LOST };
        process.ask(ticket, Aim::Plain, Request::Submit { context, commands: Span::default() }, commands);
        Progress::Later
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Progress {
        let Some(process) = self.context(context) else { return LOST };
        process.ask(ticket, Aim::Fence, Request::Fence { context, ring }, &[]);
        Progress::Later
    }

    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: &Resource3d) -> Progress {
        let Some(process) = self.started(Kind::Gl) else { return LOST };
        process.ask(ticket, Aim::Create(resource), Request::Create { resource, desc: *desc }, &[]);
        self.insert_resource(ticket, Kind::Gl, resource, desc.width, desc.height);
        Progress::Later
    }

    fn create_blob(&mut self, ticket: Ticket, context: ContextId, blob: &HostBlob) -> Progress {
        let Some(kind) = self.contexts.get(&context).map(|context| context.home.kind) else { return LOST };
        let Some(process) = self.context(context) else { return LOST };
        let aim = Aim::Blob(blob.resource, blob.size);
        process.ask(ticket, aim, Request::CreateBlob { context, blob: *blob }, &[]);
        self.insert_resource(ticket, kind, blob.resource, 0, 0);
        Progress::Later
    }

    fn destroy(&mut self, resource: ResourceId) {
        if let Some(process) = self.remove_resource(resource) {
            process.tell(Request::Destroy { resource });
        }
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        let Some(runs) = self.guest.runs(entries) else {
            let guest = &self.options.name;
            guest_log!(
                warn,
                "Guest {guest}: pages of resource {} are not in memory that is shared with us",
                resource.0
            );
            return LOST;
        };
        let Some(process) = self.resource(resource) else { return LOST };
        let Ok(pieces) = process.pieces(&runs) else { return LOST };
        let request = Request::Attach { resource, pieces: Span::default() };
        process.ask(ticket, Aim::Plain, request, bytemuck::cast_slice(&pieces));
        Progress::Later
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        // With the process went all its use of them.
        let Some(process) = self.resource(resource) else { return Progress::Done(Ok(())) };
        process.ask(ticket, Aim::Plain, Request::Detach { resource }, &[]);
        Progress::Later
    }

    fn transfer(&mut self, ticket: Ticket, context: ContextId, way: Way, transfer: &Transfer3d) -> Progress {
        let Some(process) = self.resource(transfer.resource) else { return LOST };
        process.ask(ticket, Aim::Plain, Request::Transfer { context, way, transfer: *transfer }, &[]);
        Progress::Later
    }

    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping> {
        self.resources.get(&resource)?.mapping.clone()
    }

    fn read(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect) -> Progress {
        if self.resource(resource).is_none() {
            return LOST;
        }
        let image = match self.image(resource) {
            Ok(image) => image,
            Err(error) => return Progress::Done(Err(error)),
        };
        let stride = self.resources.get(&resource).map_or(0, |resource| resource.width.saturating_mul(4));
        let Some(process) = self.resource(resource) else { return LOST };
        process.ask(ticket, Aim::Read(resource, image), Request::Read { resource, rect, image, stride }, &[]);
        Progress::Later
    }

    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>> {
        let Resource { width, height, image, .. } = self.resources.get(&resource)?;
        let len = u64::from(*width) * u64::from(*height) * 4;
        image.as_ref().and_then(Image::pixels).or_else(|| self.black.pixels(len))
    }

    fn memory(&mut self, memory: &Memory) {
        if self.guest.set(memory) {
            for process in self.processes.iter_mut().flatten() {
                process.keep_regions(|mapping| self.guest.has(mapping));
            }
        }
    }

    fn submit_all(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            process.flush();
            process.announce();
        }
    }

    fn reset(&mut self) {
        let now = Instant::now();
        for kind in KINDS {
            self.dismiss(kind, now);
        }
        self.contexts.clear();
        self.resources.clear();
        self.black = Black::default();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn poll(&mut self, now: Instant, done: &mut Vec<Rendered>) {
        self.attend(now);
        done.append(&mut self.finished);
    }

    fn deadline(&self) -> Option<Instant> {
        if self.again || !self.finished.is_empty() {
            return Some(Instant::now());
        }
        let processes = self.processes.iter().flatten();
        let idle = processes.clone().filter_map(|process| process.idle?.checked_add(IDLE));
        processes.filter_map(Process::deadline).chain(idle).chain(self.departures.deadline()).min()
    }
}
