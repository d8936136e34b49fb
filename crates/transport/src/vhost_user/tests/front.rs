//! A front-end and its guest's driver, word by word.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use device::{Memory, Region, Stats};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vm_memory::{FileOffset, MmapRegion};

use super::super::message::code;
use super::super::{Endpoint, Options, ServeError, serve};
use crate::fake::{Fake, Shared};
use crate::feature;
use crate::loopback::{Descriptor, DriverQueue, Used, WRITE};
use crate::ring::Layout;

/// Where the front-end has the guest's memory in its own, and how much that is.
pub const USER: u64 = 0x7f00_0000_0000;
pub const MEMORY: u64 = 1 << 20;
const SIZE: u16 = 64;

/// A server on a thread of its own.
pub struct Served {
    pub seen: Shared,
    pub stats: Arc<Stats>,
    path: tempfile::TempDir,
    stop: OwnedFd,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Served {
    pub fn listening() -> Self {
        Self::new(Options::default())
    }

    pub fn new(options: Options) -> Self {
        Self::with(Fake::new(), options)
    }

    /// Fills queue 0 with what it has to say.
    pub fn talking(options: Options) -> Self {
        Self::with(Fake::talking(), options)
    }

    /// Shows memory of the host.
    pub fn showing() -> Self {
        Self::with(Fake::showing(), Options::default())
    }

    fn with((fake, seen): (Fake, Shared), options: Options) -> Self {
        let path = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(path.path().join("socket")).unwrap();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stats = Arc::new(Stats::default());
        let options = Options { stop: Some(stop.try_clone().unwrap()), stats: Some(stats.clone()), ..options };
        let thread = std::thread::spawn(|| serve(Endpoint::Listener(listener), Box::new(fake), options));
        Self { seen, stats, path, stop, thread: Some(thread) }
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path.path().join("socket")).unwrap()
    }

    /// Returns once the device has been called so; the call stays in the list.
    pub fn wait_for_call(&self, call: &str) {
        while !self.seen.lock().calls.iter().any(|seen| seen == call) {
            std::thread::yield_now();
        }
    }

    /// Returns once the device has seen so many requests, and not answered all of them.
    pub fn wait_for_requests(&self, count: usize) {
        while self.seen.lock().requests.len() < count {
            std::thread::yield_now();
        }
    }

    pub fn stop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

pub struct Front {
    pub socket: UnixStream,
    pub features: u64,
    pub fd: OwnedFd,
    pub memory: Memory,
    pub queues: Vec<Queue>,
    next_free: u64,
    /// Where the reply to what was offered last goes.
    reply_at: u64,
}

pub struct Queue {
    pub driver: DriverQueue,
    pub kick: OwnedFd,
    pub call: OwnedFd,
    pub error: OwnedFd,
}

impl Front {
    pub fn connect(served: &Served) -> Self {
        Self::over(served.connect())
    }

    /// Connected, and everything set up.
    pub fn ready(served: &Served) -> Self {
        let mut front = Self::connect(served);
        front.negotiate();
        front.set_up();
        front.enable(0, true);
        front.enable(1, true);
        front
    }

    pub fn over(socket: UnixStream) -> Self {
        let fd = memfd(MEMORY);
        let file = FileOffset::new(fd.try_clone().unwrap().into(), 0);
        let mapping = Arc::new(MmapRegion::from_file(file, MEMORY as usize).unwrap());
        let region = Region { start: 0, len: MEMORY, mapping, offset: 0, usable: true };
        let memory = Memory::new(vec![region]).unwrap();
        let features = 0b11 | feature::TRANSPORT | 1 << 30;
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let queues = [0x10000, 0x20000].map(|at| Queue {
            driver: DriverQueue::new(layout(at, SIZE), features),
            kick: event(),
            call: event(),
            error: event(),
        });
        Self { socket, features, fd, memory, queues: queues.into(), next_free: 0x40000, reply_at: 0 }
    }

    pub fn negotiate(&self) {
        self.accept(1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 15);
    }

    /// Protocol features.
    pub fn accept(&self, features: u64) {
        self.ask_word(code::GET_PROTOCOL_FEATURES);
        self.send(code::SET_PROTOCOL_FEATURES, 0, &features.to_ne_bytes(), &[]);
        self.send(code::SET_OWNER, 0, &[], &[]);
    }

    /// Features, memory, rings, in the order of QEMU.
    pub fn set_up(&mut self) {
        self.send(code::SET_FEATURES, 0, &self.features.to_ne_bytes(), &[]);
        self.share_memory();
        for queue in 0..2 {
            let layout = self.queues[queue].driver.layout();
            self.queues[queue].driver = DriverQueue::new(layout, self.features);
            self.start(queue as u32, 0);
        }
    }

    pub fn share_memory(&self) {
        let table = [&1u64.to_ne_bytes()[..], &region(0, MEMORY, USER, 0)].concat();
        self.send(code::SET_MEM_TABLE, 0, &table, &[self.fd.as_fd()]);
    }

    pub fn start(&self, queue: u32, base: u32) {
        let Queue { driver, kick, call, error } = &self.queues[queue as usize];
        self.send(code::SET_VRING_NUM, 0, &pair(queue, driver.layout().size.into()), &[]);
        self.send(code::SET_VRING_BASE, 0, &pair(queue, base), &[]);
        self.send(code::SET_VRING_ADDR, 0, &addresses(queue, driver.layout()), &[]);
        let number = u64::from(queue).to_ne_bytes();
        self.send(code::SET_VRING_CALL, 0, &number, &[call.as_fd()]);
        self.send(code::SET_VRING_ERR, 0, &number, &[error.as_fd()]);
        self.send(code::SET_VRING_KICK, 0, &number, &[kick.as_fd()]);
    }

    /// In force when this returns, if acknowledgements were negotiated.
    pub fn enable(&self, queue: u32, on: bool) {
        assert_eq!(self.acknowledged(code::SET_VRING_ENABLE, &pair(queue, on.into()), &[]), 0);
    }

    pub fn stop(&self, queue: u32) -> u32 {
        let reply = self.ask(code::GET_VRING_BASE, &pair(queue, 0));
        assert_eq!(reply[..4], queue.to_ne_bytes());
        u32::from_ne_bytes(*reply[4..].first_chunk().unwrap())
    }

    // Words.

    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let head = [request, 1 | flags, payload.len() as u32];
        let message: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).chain(payload.iter().copied()).collect();
        self.send_raw(&message, fds);
    }

    /// Whatever bytes; a server that has hung up does not mind.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let _ = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    }

    pub fn ask(&self, request: u32, payload: &[u8]) -> Vec<u8> {
        self.send(request, 0, payload, &[]);
        self.reply(request).unwrap()
    }

    pub fn ask_word(&self, request: u32) -> u64 {
        u64::from_ne_bytes(*self.ask(request, &[]).first_chunk().unwrap())
    }

    pub fn acknowledged(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        self.send(request, 8, payload, fds);
        u64::from_ne_bytes(*self.reply(request).unwrap().first_chunk().unwrap())
    }

    /// `None` when the server hung up.
    pub fn reply(&self, request: u32) -> Option<Vec<u8>> {
        let &[code, flags, size] = words(&self.socket, 3).as_slice() else { return None };
        assert_eq!((code, flags), (request, 5));
        let mut payload = vec![0; size as usize];
        (&self.socket).read_exact(&mut payload).unwrap();
        Some(payload)
    }

    /// The server hangs up, without a word.
    pub fn is_disconnected(&self) -> bool {
        words(&self.socket, 1).is_empty()
    }

    /// The same request until the socket takes no more; no reply is read.
    pub fn flood(&self, request: u32) {
        self.socket.set_nonblocking(true).unwrap();
        let message: Vec<u8> = [request, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut full = 0;
        while full < 100 {
            if (&self.socket).write(&message).is_err() {
                full += 1;
                std::thread::yield_now();
            }
        }
    }

    // The guest.

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.memory.slice(addr, bytes.len() as u64).unwrap().copy_from(bytes);
    }

    pub fn allocate(&mut self, len: usize) -> u64 {
        let at = self.next_free;
        let next = (at + len as u64).next_multiple_of(16);
        // Long tests go round; nothing stays in use for so long.
        self.next_free = if next > MEMORY - 0x1000 { 0x40000 } else { next };
        at
    }

    pub fn offer(&mut self, queue: usize, bytes: &[u8], room: u32) -> u16 {
        let request = self.allocate(bytes.len());
        let reply = self.allocate(room as usize);
        self.reply_at = reply;
        self.write(request, bytes);
        let buffers = [
            Descriptor { addr: request, len: bytes.len() as u32, ..Descriptor::default() },
            Descriptor { addr: reply, len: room, flags: WRITE, next: 0 },
        ];
        let driver = &mut self.queues[queue].driver;
        let head = driver.chain(&self.memory, &buffers).unwrap();
        driver.offer(&self.memory, head);
        head
    }

    /// Room for so many messages of 16 bytes; where each of them goes.
    pub fn post(&mut self, queue: usize, count: usize) -> Vec<u64> {
        let addresses: Vec<u64> = (0..count).map(|_| self.allocate(16)).collect();
        for addr in &addresses {
            let buffer = Descriptor { addr: *addr, len: 16, flags: WRITE, next: 0 };
            let driver = &mut self.queues[queue].driver;
            let head = driver.chain(&self.memory, &[buffer]).unwrap();
            driver.offer(&self.memory, head);
        }
        self.publish(queue);
        addresses
    }

    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.slice(addr, len as u64).unwrap().copy_to(&mut bytes);
        bytes
    }

    /// A request whose bytes, and whose reply's place, were cut off their file; 16 bytes each.
    pub fn request_in_vanished_memory(&mut self, queue: usize) {
        let extra = memfd(0x10000);
        let guest = 1u64 << 32;
        let region = single(guest, 0x10000, USER + guest, 0);
        assert_eq!(self.acknowledged(code::ADD_MEM_REG, &region, &[extra.as_fd()]), 0);
        ftruncate(&extra, 0).unwrap();
        let buffers = [(guest, 16, 0), (guest + 0x8000, 16, WRITE)].map(|(addr, len, flags)| Descriptor {
            addr,
            len,
            flags,
            next: 0,
        });
        let driver = &mut self.queues[queue].driver;
        let head = driver.chain(&self.memory, &buffers).unwrap();
        driver.offer(&self.memory, head);
        self.publish(queue);
    }

    pub fn publish(&mut self, queue: usize) {
        let Queue { driver, kick, .. } = &mut self.queues[queue];
        if driver.publish(&self.memory) {
            rustix::io::write(kick, &1u64.to_ne_bytes()).unwrap();
        }
    }

    pub fn used(&mut self, queue: usize) -> Option<Used> {
        self.queues[queue].driver.take(&self.memory)
    }

    /// Sleeps until the next chain is given back; the interrupts stay counted.
    pub fn wait_used(&mut self, queue: usize) -> Used {
        loop {
            if let Some(used) = self.used(queue) {
                return used;
            }
            let mut fds = [PollFd::new(&self.queues[queue].call, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
        }
    }

    pub fn request(&mut self, queue: usize, bytes: &[u8], room: u32) -> Vec<u8> {
        self.offer(queue, bytes, room);
        let reply = self.reply_at;
        self.publish(queue);
        let used = self.wait_used(queue);
        let mut bytes = vec![0; used.len as usize];
        self.memory.slice(reply, used.len.into()).unwrap().copy_to(&mut bytes);
        bytes
    }

    /// Interrupts since the last call.
    pub fn interrupts(&self, queue: usize) -> u64 {
        counter(&self.queues[queue].call)
    }

    /// Sleeps until there is an interrupt, which comes some time after the used ring was written.
    /// Returns how many there were since the last call.
    pub fn wait_interrupts(&self, queue: usize) -> u64 {
        poll(&mut [PollFd::new(&self.queues[queue].call, PollFlags::IN)], None).unwrap();
        self.interrupts(queue)
    }

    /// Kicks since the last call, if nobody read them.
    pub fn kicks(&self, queue: usize) -> u64 {
        counter(&self.queues[queue].kick)
    }

    /// Sleeps until the ring is reported as broken.
    pub fn wait_broken(&self, queue: usize) {
        poll(&mut [PollFd::new(&self.queues[queue].error, PollFlags::IN)], None).unwrap();
        assert_eq!(counter(&self.queues[queue].error), 1);
    }
}

pub fn memfd(len: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

pub fn layout(at: u64, size: u16) -> Layout {
    Layout { size, descriptors: at, available: at + 0x4000, used: at + 0x8000 }
}

pub fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

pub fn region(guest: u64, size: u64, user: u64, offset: u64) -> Vec<u8> {
    [guest, size, user, offset].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// ADD_MEM_REG and REM_MEM_REG.
pub fn single(guest: u64, size: u64, user: u64, offset: u64) -> Vec<u8> {
    [vec![0; 8], region(guest, size, user, offset)].concat()
}

pub fn addresses(queue: u32, layout: Layout) -> Vec<u8> {
    let words = [layout.descriptors, layout.used, layout.available].map(|addr| addr.wrapping_add(USER));
    let words = words.iter().chain(&[0]).flat_map(|word| word.to_ne_bytes());
    pair(queue, 0).into_iter().chain(words).collect()
}

/// So many words, or fewer when the other side hung up.
pub fn words(mut socket: &UnixStream, count: usize) -> Vec<u32> {
    let mut bytes = Vec::new();
    let _ = Read::by_ref(&mut socket).take(4 * count as u64).read_to_end(&mut bytes);
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(*word.first_chunk().unwrap())).collect()
}

fn counter(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}
