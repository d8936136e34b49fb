//! A device that does as the request's first byte says, and remembers what was asked of it; or one that talks by itself.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};

use device::{
    Answer, Completion, ConfigSpace, Front, HostMapping, MapRequest, Memory, Outbox, Request, Start, Ticket,
    UnmapRequest, VirtioDevice, WindowRequest,
};

/// Answered with its own bytes.
pub const ECHO: u8 = b'e';
/// Answered later, when the test says so, or when abandoned.
pub const LATER: u8 = b'l';
/// Answered later, at the next poll.
pub const SOON: u8 = b's';
/// Promised, never completed.
pub const FORGET: u8 = b'f';
/// Panics.
pub const PANIC: u8 = b'p';
/// The device gives up.
pub const BROKEN: u8 = b'b';
/// Answered with nothing.
pub const SILENT: u8 = b'n';
/// Answered with more than there is room for.
pub const TOO_MUCH: u8 = b't';

/// What a test and the device share.
#[derive(Debug, Default)]
pub struct Seen {
    pub calls: Vec<String>,
    pub requests: Vec<(u16, Vec<u8>, u64, u64)>,
    /// Promised replies, each completed with its request's bytes.
    pub open: Vec<(Ticket, Vec<u8>)>,
    /// To be completed at the next poll.
    pub ready: Vec<(Ticket, Vec<u8>)>,
    pub config_changed: bool,
    pub config: Vec<u8>,
    pub generation: u64,
    /// What the device wants to say; a message that begins with [`PANIC`] is not said.
    pub says: VecDeque<Vec<u8>>,
    /// For how many messages there was room, each time.
    pub rooms: Vec<usize>,
    /// It says everything, room or no room.
    pub rude: bool,
    /// The next question for a deadline panics: nobody expects that.
    pub panic_outside: bool,
    /// After so many requests of queue 0 it has no room for more.
    pub room: Option<usize>,
    /// What it wants of its window at the next poll.
    pub window: Vec<WindowRequest>,
    /// What became of that.
    pub mapped: Vec<(u64, bool)>,
    /// What the front-end can do.
    pub front: Front,
    /// How many regions each table had that it was told of.
    pub tables: Vec<usize>,
    /// It panics instead of giving up what it promised.
    pub panic_in_abandon: bool,
    next_ticket: u64,
}

#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Seen>>, Arc<OwnedFd>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets every promised reply come at the next poll, the last one first.
    pub fn release(&self) {
        let mut seen = self.lock();
        let open: Vec<_> = std::mem::take(&mut seen.open).into_iter().rev().collect();
        seen.ready.extend(open);
        drop(seen);
        self.wake();
    }

    /// Has the device polled.
    pub fn wake(&self) {
        rustix::io::write(&self.1, &1u64.to_ne_bytes()).unwrap();
    }

    /// Has the device say something in each chain.
    pub fn say<const N: usize>(&self, messages: [&[u8]; N]) {
        self.lock().says.extend(messages.map(<[u8]>::to_vec));
        self.wake();
    }

    /// Has the device show `len` bytes of a file of their own at `at`. Returns the file.
    pub fn map(&self, ticket: u64, at: u64, len: u64) -> Arc<File> {
        let file = Arc::new(File::from(memfd_create("shown", MemfdFlags::CLOEXEC).unwrap()));
        file.set_len(len).unwrap();
        self.map_file(ticket, at, len, file.clone());
        file
    }

    pub fn map_file(&self, ticket: u64, at: u64, len: u64, file: Arc<File>) {
        let mapping = HostMapping { file, offset: 0, len, caching: 1 };
        self.ask(WindowRequest::Map(MapRequest { ticket: Ticket(ticket), region: 1, at, mapping }));
    }

    pub fn unmap(&self, ticket: u64, at: u64, len: u64) {
        self.ask(WindowRequest::Unmap(UnmapRequest { ticket: Ticket(ticket), region: 1, at, len }));
    }

    fn ask(&self, request: WindowRequest) {
        self.lock().window.push(request);
        self.wake();
    }

    /// Returns once so many requests were answered, and what, since the last call.
    pub fn wait_mapped(&self, count: usize) -> Vec<(u64, bool)> {
        loop {
            let mut seen = self.lock();
            if seen.mapped.len() >= count {
                return std::mem::take(&mut seen.mapped);
            }
            drop(seen);
            std::thread::yield_now();
        }
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }
}

#[derive(Debug)]
pub struct Fake {
    pub seen: Shared,
    talks: bool,
    regions: Vec<u64>,
}

impl Fake {
    pub fn new() -> (Self, Shared) {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let seen = Shared(Arc::default(), Arc::new(wake));
        seen.lock().config = vec![0xc0; 20];
        (Self { seen: seen.clone(), talks: false, regions: Vec::new() }, seen)
    }

    /// One that fills queue 0 with what it has to say.
    pub fn talking() -> (Self, Shared) {
        let (fake, seen) = Self::new();
        (Self { talks: true, ..fake }, seen)
    }

    /// One that shows memory of the host, in region 1.
    pub fn showing() -> (Self, Shared) {
        let (fake, seen) = Self::new();
        (Self { regions: vec![0, 1 << 30], ..fake }, seen)
    }
}

impl ConfigSpace for Shared {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let seen = self.lock();
        for (at, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(at as u64);
            *byte = usize::try_from(at).ok().and_then(|at| seen.config.get(at)).copied().unwrap_or(0);
        }
    }

    fn front(&self, front: Front) {
        self.lock().front = front;
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut seen = self.lock();
        for (at, byte) in data.iter().enumerate() {
            let at = usize::try_from(offset.saturating_add(at as u64)).unwrap_or(usize::MAX);
            if let Some(field) = seen.config.get_mut(at) {
                *field = *byte;
            }
        }
    }
}

impl VirtioDevice for Fake {
    fn shared_memory(&self) -> Vec<u64> {
        self.regions.clone()
    }

    fn memory(&mut self, memory: &Memory) {
        self.seen.lock().tables.push(memory.regions().len());
    }

    fn mapped(&mut self, ticket: Ticket, ok: bool) {
        self.seen.lock().mapped.push((ticket.0, ok));
    }

    fn device_id(&self) -> u32 {
        16
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 16]
    }

    fn features(&self) -> u64 {
        0b11
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(self.seen.clone())
    }

    fn start(&mut self, features: u64, start: Start) {
        self.seen.lock().calls.push(format!("start {features:#x} {start:?}"));
    }

    fn stop(&mut self) {
        self.seen.lock().calls.push("stop".into());
    }

    fn reset(&mut self) {
        let mut seen = self.seen.lock();
        seen.open.clear();
        seen.ready.clear();
        seen.calls.push("reset".into());
    }

    fn request(&mut self, memory: &Memory, queue: u16, request: Request<'_>, reply: &mut Vec<u8>) -> Answer {
        let mut seen = self.seen.lock();
        seen.generation = memory.generation();
        seen.requests.push((queue, request.bytes.to_vec(), request.carried, request.writable));
        seen.next_ticket += 1;
        let ticket = Ticket(seen.next_ticket);
        let later = (ticket, request.bytes.to_vec());
        match request.bytes.first() {
            Some(&LATER) => seen.open.push(later),
            Some(&SOON) => seen.ready.push(later),
            Some(&FORGET) => {}
            Some(&BROKEN) => return Answer::Broken,
            Some(&SILENT) => return Answer::Done,
            Some(&PANIC) => {
                drop(seen);
                panic!("as asked");
            }
            Some(&TOO_MUCH) => {
                reply.resize(request.writable as usize + 100, TOO_MUCH);
                return Answer::Done;
            }
            _ => {
                reply.extend_from_slice(request.bytes);
                reply.truncate(request.writable as usize);
                return Answer::Done;
            }
        }
        Answer::Later(ticket)
    }

    fn is_full(&self, queue: u16) -> bool {
        let seen = self.seen.lock();
        queue == 0 && seen.room.is_some_and(|room| seen.requests.len() >= room)
    }

    fn poll(&mut self, _memory: &Memory, _now: Instant, out: &mut Outbox) {
        let _ = rustix::io::read(&self.seen.1, &mut [0; 8]);
        let mut seen = self.seen.lock();
        out.completions.extend(seen.ready.drain(..).map(|(ticket, reply)| Completion { ticket, reply }));
        out.config_changed |= std::mem::take(&mut seen.config_changed);
        out.window.append(&mut seen.window);
    }

    fn supplies(&self, queue: u16) -> bool {
        self.talks && queue == 0
    }

    fn supply(&mut self, queue: u16, mut free: usize, put: &mut dyn FnMut(&[u8])) -> bool {
        assert_eq!(queue, 0);
        let mut seen = self.seen.lock();
        seen.rooms.push(free);
        while let Some(message) = seen.says.front() {
            if free == 0 && !seen.rude {
                return true;
            }
            let message = message.clone();
            seen.says.pop_front();
            if message.first() == Some(&PANIC) {
                drop(seen);
                panic!("as asked");
            }
            free = free.saturating_sub(1);
            put(&message);
        }
        false
    }

    fn abandon(&mut self, out: &mut Outbox) {
        let mut seen = self.seen.lock();
        seen.calls.push("abandon".into());
        if std::mem::take(&mut seen.panic_in_abandon) {
            drop(seen);
            panic!("as asked");
        }
        let open = std::mem::take(&mut seen.open);
        out.completions.extend(open.into_iter().map(|(ticket, _)| Completion { ticket, reply: b"abandoned".to_vec() }));
    }

    fn config_accessed(&mut self) {
        self.seen.lock().calls.push("config accessed".into());
    }

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.seen.1.as_fd()]
    }

    fn deadline(&self) -> Option<Instant> {
        if std::mem::take(&mut self.seen.lock().panic_outside) {
            panic!("as asked");
        }
        None
    }
}
