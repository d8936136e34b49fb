//! A machine around a GPU: guest memory, a screen, and a transport that only hands bytes over.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use device::{
    Answer, Gpu, GpuOptions, Memory, Outbox, Region, Renderer, Start, Stats, Ticket, Vga, VgaOptions, VgaPort,
    VirtioDevice,
};
use protocol::edid::Mode;
use renderer::{Late, Mood, Soft};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::conversation::Interlocutor;
use crate::screen::Screen;
use crate::script::{Request, describe};

/// Guest memory, by address: two pieces of RAM that are far apart and two that touch, and memory of the device's own.
/// The four bytes at address A are A.
pub const RAM: [(u64, u64); 4] = [(0, 0x8_0000), (0x8_0000, 0x8_0000), (0x20_0000, 0x1_0000), (OWN, 0x1000)];
/// Where memory that the device exported came back as guest memory.
pub const OWN: u64 = 0x40_0000;

/// Every feature that the device offers.
const FEATURES: u64 = 0b1110;

pub struct Machine {
    pub gpu: Gpu,
    pub screen: Screen,
    pub stats: Arc<Stats>,
    pub memory: Memory,
    /// Virtual time.
    pub now: Instant,
    /// Whether requests are sent without waiting for the replies of earlier ones.
    pub hasty: bool,
    open: HashMap<Ticket, usize>,
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    room: u64,
    reply: Option<Vec<u8>>,
}

impl Machine {
    /// With any renderer.
    pub fn with(renderer: Box<dyn Renderer>, shared: bool) -> Self {
        Self::around(gpu(renderer, shared))
    }

    /// With images of our own and a boot display; without a virtio-gpu if so wished.
    pub fn boot(virtio: bool) -> (Self, VgaPort) {
        let (gpu, screen, stats) = gpu(Box::new(Soft::new()), false);
        let (vga, port) = Vga::new(VgaOptions { virtio, ..VgaOptions::default() }).unwrap();
        (Self::around((gpu.with_boot(vga), screen, stats)), port)
    }

    fn around((mut gpu, screen, stats): (Gpu, Screen, Arc<Stats>)) -> Self {
        gpu.start(FEATURES, Start::Fresh);
        let memory = Memory::new(PIECES.clone()).unwrap();
        let (open, sent) = Default::default();
        Self { gpu, screen, stats, memory, now: Instant::now(), hasty: false, open, sent }
    }

    /// With images of our own.
    pub fn soft() -> Self {
        Self::with(Box::new(Soft::new()), false)
    }

    /// With a renderer that answers late, and requests sent in haste.
    pub fn late(mood: Mood, shared: bool) -> Self {
        let late = Late::new(Soft::new(), mood).unwrap();
        Self { hasty: true, ..Self::with(Box::new(late), shared) }
    }

    /// Sends a request and says how to ask for its reply.
    pub fn send(&mut self, request: &Request) -> usize {
        let mut reply = Vec::new();
        let Request { bytes, queue, carried, room } = request;
        let asked = device::Request { bytes, carried: *carried, writable: *room };
        let answer = self.gpu.request(&self.memory, *queue, asked, &mut reply);
        let index = self.sent.len();
        self.sent.push(Sent { room: *room, reply: None });
        match answer {
            Answer::Done => self.take_reply(index, reply),
            Answer::Later(ticket) => assert_eq!(self.open.insert(ticket, index), None, "a ticket that is open already"),
            Answer::Broken => panic!("The device stopped its queues"),
        }
        index
    }

    /// The reply as text, if it is there.
    pub fn reply(&self, index: usize) -> Option<String> {
        self.sent[index].reply.as_deref().map(describe)
    }

    /// The reply's bytes, if it is there.
    pub fn reply_bytes(&self, index: usize) -> Option<&[u8]> {
        self.sent[index].reply.as_deref()
    }

    fn take_reply(&mut self, index: usize, reply: Vec<u8>) {
        let sent = &mut self.sent[index];
        assert!(reply.len() as u64 <= sent.room, "{} bytes where there is room for {}", reply.len(), sent.room);
        assert_eq!(sent.reply.replace(reply), None, "a second reply");
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&mut self, line: &str) -> String {
        let index = self.send(&Request::parse(line));
        self.wait();
        self.reply(index).unwrap()
    }

    /// Sends a request that must succeed.
    #[track_caller]
    pub fn must(&mut self, line: &str) {
        assert_eq!(self.ask(line), "ok", "{line}");
    }

    /// Takes what the device has to tell.
    pub fn poll(&mut self) -> Outbox {
        let mut out = Outbox::default();
        self.gpu.poll(&self.memory, self.now, &mut out);
        self.take_completions(&mut out);
        out
    }

    fn take_completions(&mut self, out: &mut Outbox) {
        for completion in out.completions.drain(..) {
            let index = self.open.remove(&completion.ticket).expect("a ticket that is open");
            self.take_reply(index, completion.reply);
        }
    }

    /// Waits until every request has its reply.
    pub fn wait(&mut self) {
        for _ in 0..100_000 {
            if self.open.is_empty() {
                assert_eq!(self.gpu.parked(), 0);
                return;
            }
            self.poll();
        }
        panic!("{} replies never came", self.open.len());
    }

    /// How many requests have no reply yet.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// As a transport that stops its last ring: nothing may stay parked.
    pub fn stop(&mut self) {
        let mut out = Outbox::default();
        self.gpu.abandon(&mut out);
        self.take_completions(&mut out);
        assert_eq!((self.open.len(), self.gpu.parked()), (0, 0));
        self.gpu.catch_up(&self.memory);
        self.gpu.stop();
    }

    pub fn start(&mut self, start: Start) {
        self.gpu.start(FEATURES, start);
    }

    pub fn reset(&mut self) {
        self.stop();
        self.gpu.reset();
    }

    /// Replaces the table of memory by one of the given pieces of [`RAM`].
    pub fn set_memory(&mut self, pieces: &[usize]) {
        self.memory = Memory::new(pieces.iter().map(|piece| PIECES[*piece].clone()).collect()).unwrap();
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Nothing may be left of a guest that is gone.
    #[track_caller]
    pub fn finish(&mut self) {
        self.reset();
        let stats = self.stats.snapshot();
        assert_eq!((stats.resources, stats.charged_bytes), (0, 0), "what a guest left behind");
        assert!(self.screen.seen().heads.is_empty());
        assert!(self.sent.iter().all(|sent| sent.reply.is_some()));
    }
}

/// A GPU with 64 MiB whose heads are 64x48 and 32x24, what is seen of it and what it counts.
pub fn gpu(renderer: Box<dyn Renderer>, shared: bool) -> (Gpu, Screen, Arc<Stats>) {
    gpu_of(64 << 20, renderer, shared)
}

/// The same with so many bytes.
pub fn gpu_of(memory: u64, renderer: Box<dyn Renderer>, shared: bool) -> (Gpu, Screen, Arc<Stats>) {
    let heads = [(64, 48), (32, 24)].map(|(width, height)| Mode { width, height, refresh: 60 });
    let options = GpuOptions { heads: heads.to_vec(), edid: None, memory };
    let screen = Screen { shared, ..Screen::default() };
    let stats = Arc::new(Stats::default());
    (Gpu::new(options, renderer, Box::new(screen.clone()), stats.clone()), screen, stats)
}

impl Interlocutor for Machine {
    fn send(&mut self, request: &Request) -> Option<usize> {
        Some(Machine::send(self, request))
    }

    fn nudge(&mut self) {
        self.poll();
    }

    fn wait(&mut self) {
        Machine::wait(self);
    }

    fn reply(&self, index: usize) -> Option<String> {
        Machine::reply(self, index)
    }

    fn is_hasty(&self) -> bool {
        self.hasty
    }

    fn set_memory(&mut self, pieces: &[usize]) {
        Machine::set_memory(self, pieces);
    }

    fn stop(&mut self) {
        Machine::stop(self);
    }

    fn start(&mut self, start: Start) {
        Machine::start(self, start);
    }

    fn reset(&mut self) {
        Machine::reset(self);
        Machine::start(self, Start::Fresh);
    }

    fn screen(&self) -> Screen {
        self.screen.clone()
    }

    fn resources(&self) -> u64 {
        self.stats.resources.get()
    }

    fn finish(&mut self) {
        Machine::finish(self);
    }
}

/// Nobody writes to them, so all machines have the same ones.
pub static PIECES: LazyLock<Vec<Region>> =
    LazyLock::new(|| RAM.into_iter().map(|(start, len)| region(start, len)).collect());

fn region(start: u64, len: u64) -> Region {
    let mapping = Arc::new(MmapRegion::new(len as usize).unwrap());
    let words: Vec<u8> = (start..start + len).step_by(4).flat_map(|addr| (addr as u32).to_le_bytes()).collect();
    mapping.as_volatile_slice().write_slice(&words, 0).unwrap();
    Region { start, len, mapping, offset: 0, usable: start != OWN }
}
