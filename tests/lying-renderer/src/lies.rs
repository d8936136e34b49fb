//! What a renderer that a guest took over may say.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use renderer::isolated::wire::{self, FromChild, at};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::net::{Shutdown, shutdown};

use crate::memory_files;
use crate::relay::{Side, send};

/// How long answers are held back by whoever is late.
const LATE: Duration = Duration::from_secs(1);
/// The code of an event that says that a fence is done, and of one that there is memory for a blob.
const RETIRED: u64 = 3;
const EXPORTED: u64 = 2;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Each answer comes twice.
    Twice,
    /// With each answer come others: to tickets that are not this process's, to none, of kinds that there are not.
    Foreign,
    /// Answers come late, and the last one first.
    Late,
    /// No answer comes.
    Silent,
    /// No fence is ever done.
    Hold,
    /// The index of events is beyond the ring.
    Jump,
    /// More requests were taken than there are.
    Taken,
    /// Answers to nobody, as many as go.
    Flood,
    /// All of the shared memory is full of chance.
    Scribble,
    /// The socket says rubbish, and has files that nobody asked for.
    Rubbish,
    /// All memory of this process is cut off, whoever else has it.
    CutOff,
    /// The socket is closed.
    HangUp,
    /// The process ends in the middle of a command.
    Exit,
    /// Memory for a guest is something else.
    Offer(Offer),
}

/// What is offered as memory for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What it should be, and then it is cut off.
    Shrinking,
    /// Memory that can be cut off at any time.
    Unsealed,
    /// A page too little.
    Short,
    /// A folder.
    Folder,
    /// A bell.
    Bell,
    /// A socket.
    Socket,
    /// Nothing, although it is said to be there.
    Nothing,
    /// Two files.
    Two,
    /// It is cached in a way that there is not.
    Caching,
    /// It is for another ticket.
    Other,
}

const LIES: &[(&str, Lie)] = &[
    ("twice", Lie::Twice),
    ("foreign", Lie::Foreign),
    ("late", Lie::Late),
    ("silent", Lie::Silent),
    ("hold", Lie::Hold),
    ("jump", Lie::Jump),
    ("taken", Lie::Taken),
    ("flood", Lie::Flood),
    ("scribble", Lie::Scribble),
    ("rubbish", Lie::Rubbish),
    ("cut-off", Lie::CutOff),
    ("hang-up", Lie::HangUp),
    ("exit", Lie::Exit),
    ("shrinking", Lie::Offer(Offer::Shrinking)),
    ("unsealed", Lie::Offer(Offer::Unsealed)),
    ("short", Lie::Offer(Offer::Short)),
    ("folder", Lie::Offer(Offer::Folder)),
    ("bell", Lie::Offer(Offer::Bell)),
    ("socket", Lie::Offer(Offer::Socket)),
    ("nothing", Lie::Offer(Offer::Nothing)),
    ("two", Lie::Offer(Offer::Two)),
    ("caching", Lie::Offer(Offer::Caching)),
    ("other", Lie::Offer(Offer::Other)),
];

/// Whether there is more to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    Stop,
}

impl Lie {
    /// The lie that a context's name is.
    pub fn named(name: &[u8]) -> Option<Self> {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = name[..end].strip_prefix(b"lie-")?;
        LIES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, lie)| *lie)
    }

    /// Whether nothing is passed on after it.
    pub fn is_the_last(self) -> bool {
        matches!(self, Self::Jump | Self::Taken | Self::Flood | Self::Scribble | Self::HangUp | Self::Exit)
    }

    /// Whether the socket is closed with us.
    pub fn hangs_up(self) -> bool {
        self == Self::HangUp
    }

    /// What is said at once. `told` events were put in so far.
    pub fn begin(self, device: &Side, told: u32) -> Next {
        match self {
            Self::Jump => device.word(at::EVENTS_TAIL).store(told.wrapping_add(wire::EVENTS + 1), Ordering::SeqCst),
            Self::Taken => drop(device.word(at::REQUESTS_HEAD).fetch_add(wire::REQUESTS, Ordering::SeqCst)),
            Self::Flood => flood(device, told),
            Self::Scribble => scribble(device),
            Self::HangUp => drop(shutdown(&device.socket, Shutdown::Both)),
            Self::Exit => crate::end(),
            Self::Rubbish => rubbish(device),
            Self::CutOff => cut_off(),
            _ => return Next::GoOn,
        }
        device.ring();
        if self.is_the_last() { Next::Stop } else { Next::GoOn }
    }
}

/// Until nobody listens any more.
fn flood(device: &Side, mut told: u32) {
    for ticket in 1 << 40.. {
        let begin = Instant::now();
        while told.wrapping_sub(device.word(at::EVENTS_HEAD).load(Ordering::Acquire)) >= wire::EVENTS {
            if begin.elapsed() > Duration::from_secs(30) {
                return;
            }
            std::thread::yield_now();
        }
        let slot = at::EVENTS + (told % wire::EVENTS) as usize * wire::EVENT_BYTES;
        let words: [u64; 2] = [ticket, RETIRED];
        device.bytes(slot, wire::EVENT_BYTES).copy_from(bytemuck::bytes_of(&words));
        told = told.wrapping_add(1);
        device.word(at::EVENTS_TAIL).store(told, Ordering::Release);
        device.ring();
    }
}

/// Chance everywhere, again and again.
fn scribble(device: &Side) {
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        for at in (0..at::END & !7).step_by(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            device.bytes(at, 8).copy_from(&word.to_ne_bytes());
        }
        device.ring();
    }
}

fn rubbish(device: &Side) {
    let Ok(folder) = File::open("/usr/lib") else { return };
    let fds = [folder.as_fd(), device.socket.as_fd(), device.bells[0].as_fd()];
    for _ in 0..20 {
        let _ = send(&device.socket, &[0xff; 1000], &fds);
        device.say(&FromChild::Blob { ticket: 1, caching: 1 }, &fds[..1]);
        device.say(&FromChild::Found, &[]);
        device.say(&FromChild::Failed("a lie".into()), &fds);
    }
}

fn cut_off() {
    let Ok(files) = memory_files() else { return };
    let theirs: Vec<_> = files.iter().filter(|(_, name)| !name.contains("decoy")).collect();
    let gone: Vec<_> = theirs.iter().filter(|(file, _)| ftruncate(file, 0).is_ok()).map(|(_, name)| name).collect();
    eprintln!("lying renderer: {} of {} memory files were cut off {gone:?}", gone.len(), theirs.len());
}

/// A lie under way.
pub struct Active {
    /// Which.
    pub lie: Lie,
    /// Whose.
    pub context: u32,
    held: Vec<[u64; 2]>,
    since: Option<Instant>,
    was_late: bool,
    /// Memory that was offered, to be cut off.
    offered: Option<(OwnedFd, Instant)>,
}

impl Active {
    pub fn new(lie: Lie, context: u32) -> Self {
        Self { lie, context, held: Vec::new(), since: None, was_late: false, offered: None }
    }

    /// What the device is told instead of `events`.
    pub fn events(&mut self, events: Vec<[u64; 2]>) -> Vec<[u64; 2]> {
        self.shrink();
        match self.lie {
            Lie::Twice => events.into_iter().flat_map(|event| [event, event]).collect(),
            Lie::Foreign => events.into_iter().flat_map(foreign).collect(),
            Lie::Silent => Vec::new(),
            Lie::Hold => events.into_iter().filter(|event| event[1] & 0xff != RETIRED).collect(),
            Lie::Late => self.late(events),
            _ => events,
        }
    }

    fn late(&mut self, events: Vec<[u64; 2]>) -> Vec<[u64; 2]> {
        if !events.is_empty() {
            self.since = Some(Instant::now());
            self.held.extend(events);
        }
        let patience = if self.was_late { LATE / 50 } else { LATE };
        match self.since {
            Some(since) if since.elapsed() >= patience => {
                self.was_late = true;
                self.left()
            }
            _ => Vec::new(),
        }
    }

    /// What was held back, the last one first.
    pub fn left(&mut self) -> Vec<[u64; 2]> {
        self.since = None;
        std::mem::take(&mut self.held).into_iter().rev().collect()
    }

    /// Memory of a blob on its way to the device: the message and its files, to be changed.
    pub fn offer(&mut self, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> Result<()> {
        let Lie::Offer(offer) = self.lie else { return Ok(()) };
        let Ok(FromChild::Blob { ticket, caching }) = postcard::from_bytes(bytes) else { return Ok(()) };
        let size = u64::try_from(fstat(&fds[0])?.st_size)?;
        let memory = |size: u64, flags| {
            let file = memfd_create("offer", MemfdFlags::CLOEXEC | flags)?;
            ftruncate(&file, size).map(|()| file)
        };
        let message = |ticket, caching| postcard::to_allocvec(&FromChild::Blob { ticket, caching });
        match offer {
            Offer::Shrinking => self.offered = Some((fds[0].try_clone()?, Instant::now())),
            Offer::Unsealed => fds[0] = memory(size, MemfdFlags::empty())?,
            Offer::Short => fds[0] = memory(size - 4096, MemfdFlags::ALLOW_SEALING)?,
            Offer::Folder => fds[0] = File::open("/usr/lib")?.into(),
            Offer::Bell => fds[0] = eventfd(0, EventfdFlags::CLOEXEC)?,
            Offer::Socket => fds[0] = std::os::unix::net::UnixStream::pair()?.0.into(),
            Offer::Nothing => bytes.clear(),
            Offer::Two => fds.push(fds[0].try_clone()?),
            Offer::Caching => *bytes = message(ticket, 77)?,
            Offer::Other => *bytes = message(ticket + 1, caching)?,
        }
        Ok(())
    }

    /// Cuts off what a guest has mapped by now.
    fn shrink(&mut self) {
        if let Some((file, _)) = self.offered.take_if(|(_, since)| since.elapsed() > LATE / 4) {
            match ftruncate(&file, 0) {
                Ok(()) => eprintln!("lying renderer: a guest's memory was cut off"),
                Err(error) => eprintln!("lying renderer: a guest's memory stays: {error}"),
            }
        }
    }
}

/// An answer, and some that are nobody's.
fn foreign([ticket, word]: [u64; 2]) -> Vec<[u64; 2]> {
    let others = [0, ticket + 1, ticket + 2, ticket.wrapping_sub(1), ticket ^ 1 << 40, u64::MAX];
    let mut events: Vec<[u64; 2]> = others.iter().flat_map(|other| [[*other, 1], [*other, RETIRED]]).collect();
    events.extend([[ticket, 0x77], [ticket, EXPORTED | 9 << 8], [ticket, word], [ticket, EXPORTED]]);
    events
}
