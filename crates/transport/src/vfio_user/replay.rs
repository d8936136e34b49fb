//! A VMM made of bytes, for fuzzing: messages in any order and shape, or a guest's accesses, carried out without threads or
//! sockets.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use device::VirtioDevice;
use device::vga::VgaPort;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;

use super::card::{Card, Identity};
use super::function::region;
use super::irqs::Irqs;
use super::pci::Shape;
use super::session::{Reaction, Session};
use super::wire::{Access, HEADER_BYTES, Header, Kind, MAX_WRITES, Message, Request, command};
use super::{DmaPort, PciFunction, Window};
use crate::engine::Engine;
use crate::worker::{Change, Gone, Worker, apply};

/// Length of the file that stands for guest memory.
pub const MEMORY: usize = 1 << 20;
/// Where the same file is once more, for who asks by messages only.
pub const FAR: u64 = 1 << 32;
/// Batches that are served after each message.
const BATCHES: usize = 4;
/// Chains that are served while the coarse clock moves by a millisecond: a batch ends, as one in earnest does.
const CHAINS: i64 = 8;

thread_local! {
    static CHAINS_SERVED: Cell<i64> = const { Cell::new(0) };
}

fn tick() -> i64 {
    CHAINS_SERVED.set(CHAINS_SERVED.get() + 1);
    CHAINS_SERVED.get() / CHAINS
}

/// What went wrong in a replay whose guest did nothing that a VMM would not do for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A guest's access was answered with an error: it could fill a VMM's log.
    #[error("{0:?} was answered with error {1}")]
    Refused(Access, u32),
    /// The answer has not the bytes that were asked for.
    #[error("{0:?} was answered with {1} bytes")]
    Length(Access, usize),
}

/// One function, and all around it.
pub struct Replay {
    card: Card<Inline>,
    inline: Inline,
    memory: OwnedFd,
}

impl Replay {
    /// `bytes` are the guest's memory, from its start on.
    pub fn new(device: Box<dyn VirtioDevice>, shape: Shape, boot: Option<VgaPort>, bytes: &[u8]) -> Option<Self> {
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&memory, MEMORY as u64).ok()?;
        rustix::io::pwrite(&memory, &bytes[..bytes.len().min(MEMORY)], 0).ok()?;
        let identity = Identity::of(&*device);
        let queues = identity.queue_sizes.len();
        let irqs = Arc::new(Irqs::new(queues));
        let now = Instant::now();
        let engine = Engine::new(device, irqs.clone(), tick);
        let inline = Inline(Rc::new(RefCell::new(Inner { engine, now, queues })));
        let mut card = Card::new(shape, identity, boot, None, inline.clone(), irqs).ok()?;
        let file = Mutex::new(memory.try_clone().ok()?);
        card.connected(Arc::new(Post { file, suspended: AtomicBool::new(false) }));
        Some(Self { card, inline, memory })
    }

    /// Feeds messages: one byte that says how many descriptors come along and how much time passes, the header, the payload.
    /// Returns how many there were before the connection would have ended.
    pub fn messages(&mut self, bytes: &[u8]) -> usize {
        let mut session = Session::new(&mut self.card);
        let mut rest = bytes;
        let mut obeyed = 0;
        while let Some((&first, next)) = rest.split_first()
            && let Some((head, next)) = next.split_first_chunk::<HEADER_BYTES>()
            && let Ok(header) = Header::parse(head)
            && let Some((payload, next)) = next.split_at_checked(header.size)
        {
            rest = next;
            let fd = || match header.command {
                command::DMA_MAP => self.memory.try_clone().ok(),
                _ => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
            };
            let fds = (0..first % 20).filter_map(|_| fd()).collect();
            if !matches!(session.handle(Message { header, payload, fds }), Ok(Reaction::Reply(..) | Reaction::Silent)) {
                break;
            }
            obeyed += 1;
            if session.function().flush().is_err() {
                break;
            }
            self.inline.serve(Duration::from_millis(u64::from(first >> 5) * 20));
        }
        let _ = self.card.hung_up();
        obeyed
    }

    /// What QEMU says before a guest's first instruction.
    fn realize(&mut self) -> Result<(), Gone> {
        let window = |iova| Window { iova, size: MEMORY as u64, offset: 0, readable: true, writable: true };
        // What it has to say of refusals is not for here.
        let _ = self.card.map(window(0), self.memory.try_clone().ok());
        let _ = self.card.map(window(FAR), None);
        let _ = self.card.ready();
        self.card.reset()
    }

    /// Feeds a guest's accesses, made of `bytes`. Each must be answered, without an error.
    pub fn accesses(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.realize().is_err() {
            return Ok(());
        }
        let sizes: [u64; region::COUNT] = std::array::from_fn(|index| self.card.region(index).size);
        let mut session = Session::new(&mut self.card);
        let greeting = Request::Version { major: 0, minor: 0, capabilities: &[] }.to_bytes(0, false);
        let _ = session.handle_bytes(&greeting);
        let mut bytes = Bytes(bytes);
        while let Some(kind) = bytes.u8() {
            match kind % 16 {
                0 => self.inline.serve(Duration::from_millis(u64::from(bytes.u8().unwrap_or(0)) * 4)),
                1 => {
                    // The guest's own memory.
                    let (at, len) = (u64::from(bytes.u16()) * 16, usize::from(bytes.u8().unwrap_or(0)));
                    let _ = rustix::io::pwrite(&self.memory, bytes.take(len), at % MEMORY as u64);
                }
                2 if bytes.u8() == Some(0) => {
                    if session.function().reset().is_err() {
                        break;
                    }
                }
                3 => {
                    let count = u64::from(bytes.u8().unwrap_or(0)) % MAX_WRITES;
                    let writes: Vec<u8> =
                        (0..count).flat_map(|_| small(access(&mut bytes, &sizes), &mut bytes)).collect();
                    let payload = [&count.to_le_bytes()[..], &writes].concat();
                    let header = Header {
                        id: 0,
                        command: command::WRITE_MULTI,
                        size: payload.len(),
                        kind: Kind::Request { no_reply: kind & 128 != 0 },
                    };
                    check(&mut session, Message { header, payload: &payload, fds: Vec::new() }, None)?;
                }
                4..10 => {
                    let access = access(&mut bytes, &sizes);
                    let mut data = bytes.take(access.count as usize).to_vec();
                    data.resize(access.count as usize, 0);
                    say(&mut session, &Request::RegionWrite(access, &data), kind & 128 != 0, Some((access, 0)))?;
                }
                _ => {
                    let access = access(&mut bytes, &sizes);
                    let expected = Some((access, access.count as usize));
                    say(&mut session, &Request::RegionRead(access), false, expected)?;
                }
            }
            if session.function().flush().is_err() {
                break;
            }
            self.inline.serve(Duration::from_millis(1));
        }
        let _ = self.card.hung_up();
        Ok(())
    }
}

fn say(
    session: &mut Session<'_, Card<Inline>>,
    request: &Request<'_>,
    no_reply: bool,
    expected: Option<(Access, usize)>,
) -> Result<(), Broken> {
    let bytes = request.to_bytes(7, no_reply);
    let Some((head, payload)) = bytes.split_first_chunk() else { return Ok(()) };
    let Ok(header) = Header::parse(head) else { return Ok(()) };
    check(session, Message { header, payload, fds: Vec::new() }, expected)
}

/// Obeys a message and looks at the answer: how many bytes follow the access in it.
fn check(
    session: &mut Session<'_, Card<Inline>>,
    message: Message<'_>,
    expected: Option<(Access, usize)>,
) -> Result<(), Broken> {
    let nowhere = Access { region: 0, offset: 0, count: 0 };
    let (access, data) = expected.unwrap_or((nowhere, 0));
    let Ok(Reaction::Reply(reply, _)) = session.handle(message) else { return Ok(()) };
    let Some((head, payload)) = reply.split_first_chunk() else { return Err(Broken::Length(access, reply.len())) };
    match Header::parse(head).map(|header| header.kind) {
        Ok(Kind::Reply) if expected.is_none() || payload.len() == 16 + data => Ok(()),
        Ok(Kind::Error(errno)) => Err(Broken::Refused(access, errno)),
        _ => Err(Broken::Length(access, payload.len())),
    }
}

/// One that lies inside its region, most often among the registers.
fn access(bytes: &mut Bytes<'_>, sizes: &[u64; region::COUNT]) -> Access {
    let choice = bytes.u8().unwrap_or(0);
    let index = [2, 2, 2, 2, 2, 7, 7, 0, 4, 5, 6, 2, 2, 2, 2, 2][usize::from(choice & 15)];
    let index = if sizes[index] == 0 { region::CONFIG } else { index };
    // Where the registers of a display, of virtio, and of a queue's notifications are.
    let offset = match choice & 15 {
        0..=2 => 0x1000 + u64::from(bytes.u8().unwrap_or(0) % 0x44),
        3 => 0x3000 + u64::from(bytes.u8().unwrap_or(0) % 16),
        4 | 11 => 0x500 + u64::from(bytes.u8().unwrap_or(0) % 24),
        12 => 0x400 + u64::from(bytes.u8().unwrap_or(0) % 32),
        13 => 0x2000 + u64::from(bytes.u8().unwrap_or(0)),
        7 => u64::from(bytes.u16()) << 8 | u64::from(bytes.u8().unwrap_or(0)),
        _ => u64::from(bytes.u16()),
    } % sizes[index].max(1);
    let count = [1, 2, 4, 8, 1, 2, 4, 3][usize::from(choice >> 4 & 7)];
    let count = if choice & 128 != 0 { count * (1 + u64::from(bytes.u8().unwrap_or(0))) } else { count };
    let count = count.min(sizes[index].saturating_sub(offset)).max(1);
    Access { region: index as u32, offset, count: count as u32 }
}

/// A write of at most eight bytes, as WRITE_MULTI has it.
fn small(access: Access, bytes: &mut Bytes<'_>) -> [u8; 24] {
    let mut write = [0; 24];
    write[..8].copy_from_slice(&access.offset.to_le_bytes());
    write[8..12].copy_from_slice(&access.region.to_le_bytes());
    write[12..16].copy_from_slice(&access.count.min(8).to_le_bytes());
    let data = bytes.take(8);
    write[16..16 + data.len()].copy_from_slice(data);
    write
}

/// What is left of the input.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8().unwrap_or(0), self.u8().unwrap_or(0)])
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// The gpu thread's part, done by the caller.
#[derive(Clone)]
struct Inline(Rc<RefCell<Inner>>);

struct Inner {
    engine: Engine<Arc<Irqs>>,
    now: Instant,
    queues: usize,
}

impl Inline {
    fn serve(&self, time: Duration) {
        let mut inner = self.0.borrow_mut();
        inner.now += time;
        let now = inner.now;
        for queue in 0..inner.queues {
            inner.engine.kick(queue as u16);
        }
        for _ in 0..BATCHES {
            if !inner.engine.run(now) {
                break;
            }
        }
    }
}

impl Worker<Infallible> for Inline {
    fn change(&mut self, change: Change<Infallible>) -> Result<(), Gone> {
        let mut inner = self.0.borrow_mut();
        let now = inner.now;
        // What is left has to do with threads and epoll only.
        apply(&mut inner.engine, change, now);
        drop(inner);
        self.serve(Duration::ZERO);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Gone> {
        self.serve(Duration::ZERO);
        Ok(())
    }

    fn stop_ring(&mut self, queue: u16) -> Result<u16, Gone> {
        let mut inner = self.0.borrow_mut();
        let now = inner.now;
        inner.engine.stop_ring(queue, now);
        loop {
            if let Some(stopped) = inner.engine.take_stopped().find(|stopped| stopped.queue == queue) {
                return Ok(stopped.base);
            }
            inner.now = inner.engine.deadline().ok_or(Gone)?.max(inner.now);
            let now = inner.now;
            inner.engine.run(now);
        }
    }
}

/// Memory by messages, without messages.
#[derive(Debug)]
struct Post {
    file: Mutex<OwnedFd>,
    suspended: AtomicBool,
}

impl Post {
    /// Where in the file.
    fn place(&self, address: u64, len: usize) -> Option<u64> {
        let at = address.checked_sub(FAR)?;
        let inside = at.checked_add(len as u64).is_some_and(|end| end <= MEMORY as u64);
        (inside && !self.suspended.load(Ordering::Relaxed)).then_some(at)
    }

    fn with(&self, call: impl FnOnce(&OwnedFd) -> Result<usize, Errno>) -> bool {
        call(&self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner())).is_ok()
    }
}

impl DmaPort for Post {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.place(address, data.len()).is_some_and(|at| self.with(|file| rustix::io::pread(file, data, at)))
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.place(address, data.len()).is_some_and(|at| self.with(|file| rustix::io::pwrite(file, data, at)))
    }

    fn suspend(&self) {
        self.suspended.store(true, Ordering::Relaxed);
    }

    fn resume(&self) {
        self.suspended.store(false, Ordering::Relaxed);
    }
}
