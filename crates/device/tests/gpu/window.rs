//! A machine around a GPU with contexts: guest memory, a screen, a library that insists on its promises, and a front-end that
//! shows memory of the host in a window.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{
    Answer, Front, Gpu, MapRequest, Memory, Outbox, Request, Start, Stats, ThreeD, Ticket, UnmapRequest, VirtioDevice,
    WindowRequest,
};
use renderer::Soft;

use crate::asks::{Ask, create_2d, display_info, flush, kind, scanout, unref};
use crate::machine::{PIECES, gpu, gpu_of};
use crate::screen::Screen;
use crate::strict::{PAGE, Pace, Strict};

/// Bytes of the window.
pub const WINDOW: u64 = 1024 * PAGE;
/// Its number.
const REGION: u8 = 1;
/// Every feature that the device has.
pub const FEATURES: u64 = 0b11111;

/// The front-end's window. A request that QEMU could not carry out panics.
#[derive(Debug, Default)]
pub struct Window {
    /// Length by position.
    pub seen: BTreeMap<u64, u64>,
    /// Requests whose answers are held back.
    pub held: VecDeque<WindowRequest>,
    /// Whether answers are held back, and what they will be.
    pub hold: bool,
    pub refuse: bool,
    /// The most that was seen at once.
    pub most: usize,
}

impl Window {
    fn carry_out(&mut self, request: &WindowRequest) -> (Ticket, bool) {
        match *request {
            WindowRequest::Map(MapRequest { ticket, region, at, ref mapping }) => {
                assert_eq!((region, at % PAGE, mapping.len % PAGE, mapping.offset % PAGE), (REGION, 0, 0, 0));
                assert!(mapping.len > 0 && at.checked_add(mapping.len).is_some_and(|end| end <= WINDOW), "{request:?}");
                let file = mapping.file.metadata().unwrap().len();
                // What follows a file's end in its last page is there, and zero; past that page nothing is.
                let end = mapping.offset + mapping.len;
                assert!(file.next_multiple_of(PAGE) >= end, "{file} bytes of {request:?}");
                let before = self.seen.range(..at + mapping.len).next_back();
                let free = before.is_none_or(|(start, len)| start + len <= at);
                assert!(free, "{request:?} over {before:?}");
                // QEMU wants whole pages.
                if self.refuse || file < end {
                    return (ticket, false);
                }
                self.seen.insert(at, mapping.len);
                self.most = self.most.max(self.seen.len());
                (ticket, true)
            }
            WindowRequest::Unmap(UnmapRequest { ticket, region, at, len }) => {
                assert_eq!(region, REGION);
                let was = self.seen.remove(&at);
                assert!(was.is_none_or(|was| was == len), "{request:?} of {was:?}");
                (ticket, was.is_some())
            }
        }
    }
}

/// The machine.
pub struct Guest {
    pub gpu: Gpu,
    pub screen: Screen,
    pub stats: Arc<Stats>,
    pub library: Strict,
    pub window: Window,
    pub memory: Memory,
    pub now: Instant,
    open: HashMap<Ticket, usize>,
    replies: Vec<Option<Vec<u8>>>,
}

impl Guest {
    /// Behind a front-end that can do everything.
    pub fn new(pace: Pace) -> Self {
        Self::behind(Front { maps: true, context_init: true }, pace)
    }

    /// Behind any front-end.
    pub fn behind(front: Front, pace: Pace) -> Self {
        let library = Strict::new(pace);
        let three_d = Box::new(library.clone());
        Self::around(library, three_d, front, Memory::new(PIECES.clone()).unwrap())
    }

    /// With any library, and memory of any kind; `library` knows nothing if it is another one.
    pub fn around(library: Strict, three_d: Box<dyn ThreeD>, front: Front, memory: Memory) -> Self {
        Self::with(gpu(Box::new(Soft::new()), false), library, three_d, front, memory)
    }

    /// That may have so many bytes.
    pub fn of(bytes: u64, pace: Pace) -> Self {
        let library = Strict::new(pace);
        let (three_d, memory) = (Box::new(library.clone()), Memory::new(PIECES.clone()).unwrap());
        let front = Front { maps: true, context_init: true };
        Self::with(gpu_of(bytes, Box::new(Soft::new()), false), library, three_d, front, memory)
    }

    fn with(
        (gpu, screen, stats): (Gpu, Screen, Arc<Stats>),
        library: Strict,
        three_d: Box<dyn ThreeD>,
        front: Front,
        memory: Memory,
    ) -> Self {
        let window = if front.maps { WINDOW } else { 0 };
        let mut gpu = gpu.with_three_d(three_d, window);
        gpu.config().front(front);
        gpu.memory(&memory);
        gpu.start(FEATURES, Start::Fresh);
        let (window, open, replies) = Default::default();
        Self { gpu, screen, stats, library, window, memory, now: Instant::now(), open, replies }
    }

    /// Sends a request and says how to ask for its reply.
    pub fn send(&mut self, ask: &Ask) -> usize {
        self.send_bytes(ask.queue(), &ask.bytes(), ask.room_or(4096))
    }

    /// As [`send`](Self::send), of any bytes.
    pub fn send_bytes(&mut self, queue: u16, bytes: &[u8], room: u64) -> usize {
        let mut reply = Vec::new();
        let request = Request { bytes, carried: bytes.len() as u64, writable: room };
        let answer = self.gpu.request(&self.memory, queue, request, &mut reply);
        let index = self.replies.len();
        self.replies.push(None);
        match answer {
            Answer::Done => self.take(index, reply, room),
            Answer::Later(ticket) => assert_eq!(self.open.insert(ticket, index), None, "a ticket that is open already"),
            Answer::Broken => panic!("The device stopped its queues"),
        }
        index
    }

    fn take(&mut self, index: usize, reply: Vec<u8>, room: u64) {
        assert!(reply.len() as u64 <= room, "{} bytes where there is room for {room}", reply.len());
        assert_eq!(self.replies[index].replace(reply), None, "a second reply");
    }

    /// The reply's type as its name, if it is there.
    pub fn reply(&self, index: usize) -> Option<&'static str> {
        self.replies[index].as_deref().map(kind)
    }

    /// The reply's bytes, if it is there.
    pub fn reply_bytes(&self, index: usize) -> Option<&[u8]> {
        self.replies[index].as_deref()
    }

    /// Sends a request and waits for its reply.
    #[track_caller]
    pub fn ask(&mut self, ask: &Ask) -> &'static str {
        let index = self.send(ask);
        self.wait();
        self.reply(index).unwrap()
    }

    /// Sends a request and says what it is answered without waiting.
    pub fn ask_now(&mut self, ask: &Ask) -> Option<&'static str> {
        let index = self.send(ask);
        self.settle();
        self.reply(index)
    }

    /// Sends a request that must succeed.
    #[track_caller]
    pub fn must(&mut self, ask: &Ask) {
        let reply = self.ask(ask);
        assert!(["ok", "map_info"].contains(&reply), "{reply} to {ask:x?}");
    }

    /// Sends requests that must be answered so.
    #[track_caller]
    pub fn all(&mut self, expected: &str, asks: &[Ask]) {
        for ask in asks {
            assert_eq!(self.ask(ask), expected, "{ask:x?}");
        }
    }

    /// Takes what the device has to tell, and carries it out.
    pub fn poll(&mut self) -> bool {
        let mut out = Outbox::default();
        self.gpu.poll(&self.memory, self.now, &mut out);
        assert!(!out.broken, "The device stopped its queues");
        let idle = out.is_empty();
        self.take_out(out);
        let held = if self.window.hold { Vec::new() } else { self.window.held.drain(..).collect() };
        let moved = !held.is_empty();
        for request in held {
            let (ticket, ok) = self.window.carry_out(&request);
            self.gpu.mapped(ticket, ok);
        }
        !idle || moved
    }

    fn take_out(&mut self, out: Outbox) {
        self.window.held.extend(out.window);
        for completion in out.completions {
            let index = self.open.remove(&completion.ticket).expect("a ticket that is open");
            self.take(index, completion.reply, u64::MAX);
        }
    }

    /// Waits until every request has its reply and nothing happens any more.
    pub fn wait(&mut self) {
        for _ in 0..10_000 {
            if !self.poll() && self.open.is_empty() {
                return;
            }
        }
        panic!("{} replies never came", self.open.len());
    }

    /// Lets the device do what it can do at once.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.poll() {
                return;
            }
        }
        panic!("It never comes to rest");
    }

    /// How many requests have no reply yet.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// As a transport that stops its last ring: nothing may stay parked.
    pub fn stop(&mut self) {
        let mut out = Outbox::default();
        self.gpu.abandon(&mut out);
        self.take_out(out);
        assert_eq!((self.open.len(), self.gpu.parked()), (0, 0));
        self.gpu.catch_up(&self.memory);
        self.gpu.stop();
    }

    pub fn start(&mut self, start: Start) {
        self.gpu.start(FEATURES, start);
    }

    /// The front-end goes, and its window with it; the next one is the same.
    pub fn reset(&mut self) {
        self.stop();
        self.gpu.reset();
        self.window = Window::default();
        self.gpu.config().front(Front { maps: true, context_init: true });
        self.gpu.memory(&self.memory);
        self.start(Start::Fresh);
    }

    /// The device is well: it says what its heads are, and shows an image of the guest's.
    #[track_caller]
    pub fn is_well(&mut self) {
        const ID: u32 = 0xfff_0000;
        assert_eq!(self.ask(&display_info()), "display_info");
        let before = self.screen.seen().flushes;
        self.all("ok", &[create_2d(ID, 8, 8), scanout(0, ID, 8, 8), flush(ID, 8, 8), scanout(0, 0, 0, 0), unref(ID)]);
        assert_eq!(self.screen.seen().flushes, before + 1);
        assert_eq!(self.stats.panics.get(), 0);
        let faults = self.library.known().faults.clone();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    /// Nothing may be left of a guest that is gone.
    #[track_caller]
    pub fn finish(&mut self) {
        self.is_well();
        self.stop();
        self.gpu.reset();
        let stats = self.stats.snapshot();
        let left = (stats.resources, stats.contexts, stats.charged_bytes, stats.blob_bytes, stats.panics);
        assert_eq!(left, (0, 0, 0, 0, 0), "what a guest left behind");
        let known = self.library.known();
        assert!(known.resources.is_empty() && known.contexts.is_empty(), "{known:?}");
        assert!(self.screen.seen().heads.is_empty());
        assert!(self.replies.iter().all(Option::is_some));
    }
}
