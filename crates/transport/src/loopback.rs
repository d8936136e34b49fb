//! An in-process guest for tests and fuzzing.
//!
//! It owns a memory, drives a device through the same rings as a VMM would, and has its own time. Everything happens on the
//! calling thread, in a fixed order. It counts what costs: kicks, wake-ups of the device, interrupts.
//!
//! ```
//! use transport::loopback::{Echo, Loopback};
//!
//! let mut guest = Loopback::new(Echo);
//! let reply = guest.request(0, b"hello", 64).unwrap();
//! assert_eq!(reply.bytes, b"hello");
//! ```

mod driver;
mod echo;
mod far;
mod table;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{Front, Incidents, Memory, Region, VirtioDevice};
use rustix::event::{PollFd, PollFlags, poll};

use crate::engine::{Engine, Stopped};
use crate::feature;
use crate::interrupt::Interrupt;
use crate::ring::Layout;
use crate::window::Mapper;

pub use driver::{Descriptor, DriverQueue, INDIRECT, NEXT, Used, WRITE};
pub use echo::Echo;
use far::Elsewhere;
pub use table::{table, with};
pub use window::{Habit, Happened, Window};

/// Events that [`Loopback::request`] waits for before it believes that no reply will come.
const PATIENCE: usize = 10_000;

/// When this environment variable is set, no guest's memory is shared with its device: all that is tested with shared memory
/// is tested again.
pub const FAR: &str = "BEAMSPLIT_LOOPBACK_FAR";

/// How the guest is built.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Guest-physical address and length of each region. Rings and buffers are laid out in the first one.
    pub memory: Vec<(u64, u64)>,
    /// Size of every queue; what the device wants when `None`.
    pub queue_size: Option<u16>,
    /// What the driver accepts of the transport's and the device's features.
    pub features: u64,
    /// Whether requests go through a table of descriptors.
    pub indirect: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { memory: vec![(0, 64 << 20)], queue_size: None, features: u64::MAX, indirect: false }
    }
}

/// How often each side bothered the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kicks that the device had asked for.
    pub kicks: u64,
    /// Kicks that it was spared.
    pub kicks_saved: u64,
    /// Times that the device's thread would have woken.
    pub wake_ups: u64,
    /// Interrupts of each queue.
    pub interrupts: Vec<u64>,
    /// Interrupts that say the configuration changed.
    pub config_interrupts: u64,
    /// Times that each queue was reported as broken.
    pub broken: Vec<u64>,
}

/// Interrupts, counted, and the guest's window to the host's memory.
#[derive(Debug, Default)]
pub struct Counted(Counts, Window);

impl Interrupt for Counted {
    fn queue(&mut self, queue: u16) {
        self.0.interrupts[usize::from(queue)] += 1;
    }

    fn config(&mut self) {
        self.0.config_interrupts += 1;
    }

    fn broken(&mut self, queue: u16) {
        self.0.broken[usize::from(queue)] += 1;
    }

    fn mapper(&mut self) -> Option<&mut dyn Mapper> {
        Some(&mut self.1)
    }
}

/// The reply to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the device wrote: `used_len` bytes, or as many as there was room for.
    pub bytes: Vec<u8>,
    /// How many bytes the device said it wrote.
    pub used_len: u32,
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    queue: u16,
    head: u16,
    writable: Vec<(u64, u32)>,
}

/// The in-process guest.
pub struct Loopback {
    engine: Engine<Counted>,
    queues: Vec<DriverQueue>,
    indirect: bool,
    features: u64,
    start: Instant,
    now: Instant,
    next_free: u64,
    end: u64,
    given_back: Vec<Vec<Used>>,
    bases: Vec<u16>,
    /// Where the guest's memory is when the device has it by messages only.
    elsewhere: Option<Elsewhere>,
}

impl Loopback {
    /// A guest with 64 MiB at address 0 whose driver has set up every ring.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::with_shape(Box::new(device), &Shape::default())
    }

    /// A guest of any shape. Panics when the shape is impossible: it comes from a test.
    pub fn with_shape(device: Box<dyn VirtioDevice>, shape: &Shape) -> Self {
        Self::build(device, shape, std::env::var_os(FAR).is_some())
    }

    /// One whose memory is not shared with the device.
    pub fn far(device: impl VirtioDevice + 'static) -> Self {
        Self::build(Box::new(device), &Shape::default(), true)
    }

    fn build(device: Box<dyn VirtioDevice>, shape: &Shape, far: bool) -> Self {
        let sizes = device.queue_sizes().to_vec();
        let offered = device.features() | feature::TRANSPORT;
        let counts = Counts { interrupts: vec![0; sizes.len()], broken: vec![0; sizes.len()], ..Counts::default() };
        device.config().front(Front { maps: true, context_init: true });
        let mut engine = Engine::new(device, Counted(counts, Window::default()), || 0);
        let features = shape.features & offered;
        engine.set_features(features);
        let mut elsewhere = far.then(Elsewhere::new);
        let memory = Arc::new(table(&shape.memory));
        engine.set_memory(match &mut elsewhere {
            Some(elsewhere) => elsewhere.set(memory),
            None => memory,
        });
        let (first, len) = shape.memory.first().copied().unwrap_or_default();
        let now = Instant::now();
        let mut guest = Self {
            engine,
            queues: Vec::new(),
            indirect: shape.indirect && features & feature::INDIRECT_DESC != 0,
            features,
            start: now,
            now,
            // Address 0 is left free: nothing in a guest lies there.
            next_free: first + 4096,
            end: first + len,
            given_back: vec![Vec::new(); sizes.len()],
            bases: vec![0; sizes.len()],
            elsewhere,
        };
        for size in sizes {
            let size = shape.queue_size.unwrap_or(size);
            let layout = guest.lay_out(size);
            guest.queues.push(DriverQueue::new(layout, features));
        }
        guest.resume();
        guest
    }

    /// Counts caught panics in the device's own counters.
    pub fn count_in(&mut self, stats: Arc<dyn Incidents>) {
        self.engine.count_in(stats);
    }

    // One request.

    /// Sends `bytes` with `room` bytes for the reply, and lets the device work, its descriptors come and time pass until
    /// the chain is given back. `None` when it never is.
    pub fn request(&mut self, queue: u16, bytes: &[u8], room: u32) -> Option<Reply> {
        let mark = self.next_free;
        let sent = self.send(queue, &[bytes], &[room])?;
        let reply = self.wait(&sent);
        self.next_free = mark;
        reply
    }

    /// Sends a request in as many descriptors as there are slices and rooms, and kicks if the device wants it. The device
    /// has not looked at it yet: [`run`](Self::run). `None` when the ring or the memory is full.
    pub fn send(&mut self, queue: u16, readable: &[&[u8]], rooms: &[u32]) -> Option<Sent> {
        let sent = self.offer(queue, readable, rooms)?;
        self.publish(queue);
        Some(sent)
    }

    /// As [`send`](Self::send), but the device cannot see it before [`publish`](Self::publish).
    pub fn offer(&mut self, queue: u16, readable: &[&[u8]], rooms: &[u32]) -> Option<Sent> {
        let mut buffers = Vec::new();
        let mut writable = Vec::new();
        for bytes in readable {
            let addr = self.allocate(bytes.len() as u64)?;
            self.write(addr, bytes);
            buffers.push(Descriptor { addr, len: bytes.len() as u32, ..Descriptor::default() });
        }
        for room in rooms {
            let addr = self.allocate(u64::from(*room))?;
            buffers.push(Descriptor { addr, len: *room, flags: WRITE, next: 0 });
            writable.push((addr, *room));
        }
        let head = self.offer_chain(queue, &buffers)?;
        Some(Sent { queue, head, writable })
    }

    /// Offers a chain of any descriptors; NEXT is set as needed.
    pub fn offer_chain(&mut self, queue: u16, buffers: &[Descriptor]) -> Option<u16> {
        let mut buffers = buffers.to_vec();
        if self.indirect {
            let len = buffers.len();
            for (at, buffer) in buffers.iter_mut().enumerate().take(len.saturating_sub(1)) {
                buffer.flags |= NEXT;
                buffer.next = at as u16 + 1;
            }
            let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_bytes()).collect();
            let addr = self.allocate(bytes.len() as u64)?;
            self.write(addr, &bytes);
            buffers = vec![Descriptor { addr, len: bytes.len() as u32, flags: INDIRECT, next: 0 }];
        }
        let memory = self.memory().clone();
        let driver = self.queues.get_mut(usize::from(queue))?;
        let head = driver.chain(&memory, &buffers)?;
        driver.offer(&memory, head);
        Some(head)
    }

    /// Shows the device what was offered, and kicks it if it wants that.
    pub fn publish(&mut self, queue: u16) {
        let memory = self.memory().clone();
        if self.queues[usize::from(queue)].publish(&memory) {
            self.kick(queue);
        } else {
            self.engine.interrupt().0.kicks_saved += 1;
        }
    }

    /// Kicks the device, wanted or not.
    pub fn kick(&mut self, queue: u16) {
        self.engine.interrupt().0.kicks += 1;
        self.engine.kick(queue);
    }

    /// Lets the device work, and time pass to its deadlines, until `sent` is given back or nothing more can happen.
    pub fn wait(&mut self, sent: &Sent) -> Option<Reply> {
        for _ in 0..PATIENCE {
            self.run();
            if let Some(reply) = self.reply(sent) {
                return Some(reply);
            }
            if self.readable(Duration::ZERO) {
                continue;
            }
            match self.engine.deadline() {
                Some(deadline) => self.now = self.now.max(deadline),
                None if self.readable(Duration::from_millis(100)) => {}
                None => return None,
            }
        }
        None
    }

    /// The reply to `sent`, if it was given back; once.
    pub fn reply(&mut self, sent: &Sent) -> Option<Reply> {
        self.collect();
        let given_back = &mut self.given_back[usize::from(sent.queue)];
        let at = given_back.iter().position(|used| used.head == u32::from(sent.head))?;
        let used = given_back.remove(at);
        let mut bytes = Vec::new();
        for (addr, len) in &sent.writable {
            let left = (used.len as usize).saturating_sub(bytes.len());
            bytes.extend(self.read(*addr, left.min(*len as usize)));
        }
        Some(Reply { bytes, used_len: used.len })
    }

    /// The next chain that was given back on a queue, whatever it was.
    pub fn used(&mut self, queue: u16) -> Option<Used> {
        self.collect();
        let given_back = self.given_back.get_mut(usize::from(queue))?;
        (!given_back.is_empty()).then(|| given_back.remove(0))
    }

    // The device's thread.

    /// One wake-up: the device serves what was kicked and polls. Returns once nothing is left to do at once.
    pub fn run(&mut self) {
        self.engine.interrupt().0.wake_ups += 1;
        while self.engine.run(self.now) {}
    }

    /// One pass only: with a guest that never stops making chains available, [`run`](Self::run) would not return.
    pub fn run_once(&mut self) -> bool {
        self.engine.interrupt().0.wake_ups += 1;
        self.engine.run(self.now)
    }

    /// Whether one of the device's descriptors is readable, after at most `limit` of real time.
    pub fn readable(&self, limit: Duration) -> bool {
        let fds = self.engine.device().poll_fds();
        let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        if fds.is_empty() {
            return false;
        }
        let limit = rustix::event::Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    /// Lets time pass. Nothing happens until the next [`run`](Self::run).
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// The guest's time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Time since the guest was made.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// When the device wants to be polled next.
    pub fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    /// The guest's shared memory regions, in which the device shows memory of the host.
    pub fn window(&mut self) -> &mut Window {
        &mut self.engine.interrupt().1
    }

    /// Tells the device what its front-end can do. A new guest's can do everything.
    pub fn front(&mut self, front: Front) {
        self.engine.device().config().front(front);
        self.window().set_present(front.maps);
    }

    /// The device, to look at.
    pub fn device(&self) -> &dyn VirtioDevice {
        self.engine.device()
    }

    // Pause, reset, memory.

    /// The VMM pauses the guest: every ring is disabled and stops; time passes when something is parked.
    pub fn pause(&mut self) -> Vec<Stopped> {
        self.window().shut();
        for queue in 0..self.queues.len() {
            self.engine.enable_ring(queue as u16, false);
        }
        let mut stopped = Vec::new();
        for queue in 0..self.queues.len() as u16 {
            stopped.extend(self.stop_ring(queue));
        }
        stopped
    }

    /// GET_VRING_BASE of one ring.
    pub fn stop_ring(&mut self, queue: u16) -> Option<Stopped> {
        self.window().shut();
        self.engine.stop_ring(queue, self.now);
        for _ in 0..PATIENCE {
            if let Some(stopped) = self.engine.take_stopped().next() {
                self.bases[usize::from(stopped.queue)] = stopped.base;
                return Some(stopped);
            }
            self.engine.interrupt().0.wake_ups += 1;
            self.engine.run(self.now);
            if !self.readable(Duration::ZERO) {
                self.now = self.engine.deadline().unwrap_or(self.now).max(self.now);
            }
        }
        None
    }

    /// The VMM lets the guest go on: every ring starts where it stopped. As QEMU does it, all are set up before one is
    /// enabled.
    pub fn resume(&mut self) {
        self.window().open();
        for (queue, driver) in self.queues.iter().enumerate() {
            self.engine.start_ring(queue as u16, Some(driver.layout()), Some(self.bases[queue]));
        }
        for queue in 0..self.queues.len() {
            self.engine.enable_ring(queue as u16, true);
        }
    }

    /// Starts one ring anywhere, as a hostile driver may.
    pub fn start_ring(&mut self, queue: u16, layout: Layout, base: u16) {
        self.window().open();
        self.engine.start_ring(queue, Some(layout), Some(base));
        self.engine.enable_ring(queue, true);
    }

    /// Pops chains of a ring, or leaves it alone.
    pub fn enable_ring(&mut self, queue: u16, enabled: bool) {
        self.engine.enable_ring(queue, enabled);
    }

    /// The guest reboots: rings stop and start anew, the VMM stays.
    pub fn reboot(&mut self) {
        self.pause();
        self.renew();
    }

    /// The driver resets the device. Its rings are gone until the next [`renew`](Self::renew).
    pub fn halt(&mut self) {
        self.window().shut();
        self.engine.halt();
    }

    /// The driver resets one queue, and sets it up again later if at all.
    pub fn drop_ring(&mut self, queue: u16) {
        self.engine.drop_ring(queue);
    }

    /// The driver sets its rings up as new ones.
    pub fn renew(&mut self) {
        self.renew_rings();
        self.resume();
    }

    /// The VMM goes away and another one comes, with a memory of the same shape.
    pub fn reconnect(&mut self) {
        let memory: Vec<_> = self.memory().regions().iter().map(|region| (region.start, region.len)).collect();
        self.engine.reset(self.now);
        self.engine.interrupt().1 = Window::default();
        self.engine.set_features(self.features);
        self.set_memory(table(&memory));
        self.renew();
    }

    /// The guest's memory, as far as the device has it now.
    pub fn memory(&self) -> &Arc<Memory> {
        self.elsewhere.as_ref().map_or(self.engine.memory(), |elsewhere| &elsewhere.memory)
    }

    /// Gives the device another table, at once.
    pub fn set_memory(&mut self, memory: Memory) {
        let memory = Arc::new(memory);
        self.engine.set_memory(match &mut self.elsewhere {
            Some(elsewhere) => elsewhere.set(memory),
            None => memory,
        });
    }

    /// The same mappings under a new generation, without the regions that `keep` refuses.
    pub fn change_memory(&mut self, keep: impl Fn(&Region) -> bool) {
        let regions: Vec<Region> = self.memory().regions().iter().filter(|region| keep(region)).cloned().collect();
        if let Ok(memory) = Memory::new(regions) {
            self.set_memory(memory);
        }
    }

    /// Frees what was [allocated](Self::allocate) since `mark` was.
    pub fn release(&mut self, mark: u64) {
        self.next_free = mark;
    }

    /// Takes guest memory that nothing else uses; from the first region, aligned to 16 bytes.
    pub fn allocate(&mut self, len: u64) -> Option<u64> {
        let addr = self.next_free;
        let next = addr.checked_add(len)?.checked_next_multiple_of(16)?;
        if next > self.end {
            return None;
        }
        self.next_free = next;
        Some(addr)
    }

    /// Writes guest memory; what is not in memory is not written.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        if let Some(slice) = self.memory().slice(addr, bytes.len() as u64) {
            slice.copy_from(bytes);
        }
    }

    /// Reads guest memory; what is not in memory reads as zeros.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if let Some(slice) = self.memory().slice(addr, len as u64) {
            slice.copy_to(&mut bytes);
        }
        bytes
    }

    /// A queue as its driver sees it, to write what no driver would.
    pub fn driver(&self, queue: u16) -> &DriverQueue {
        &self.queues[usize::from(queue)]
    }

    /// What was counted.
    pub fn counts(&mut self) -> Counts {
        self.engine.interrupt().0.clone()
    }

    /// Where a ring of `size` would lie in fresh memory.
    pub fn lay_out(&mut self, size: u16) -> Layout {
        let entries = u64::from(size);
        let mut part = |len| self.allocate(len).unwrap_or_default();
        Layout { size, descriptors: part(16 * entries), available: part(6 + 2 * entries), used: part(6 + 8 * entries) }
    }

    /// Whether the device has to do without answers, when its memory is far.
    pub fn suspend(&mut self, suspended: bool) {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.suspend(suspended);
        }
    }

    /// Nothing of far memory can be had any more, although nobody said so.
    pub fn lose_memory(&mut self) {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.lose();
        }
    }

    /// Messages that the device's memory took so far.
    pub fn messages(&self) -> u64 {
        self.elsewhere.as_ref().map_or(0, Elsewhere::asked)
    }

    #[cfg(test)]
    pub(crate) fn engine(&self) -> &Engine<Counted> {
        &self.engine
    }

    #[cfg(test)]
    pub(crate) fn engine_mut(&mut self) -> &mut Engine<Counted> {
        &mut self.engine
    }

    fn renew_rings(&mut self) {
        let memory = self.memory().clone();
        for (queue, driver) in self.queues.iter_mut().enumerate() {
            let Layout { size, available, used, .. } = driver.layout();
            for (addr, len) in [(available, 6 + 2 * u64::from(size)), (used, 6 + 8 * u64::from(size))] {
                if let Some(slice) = memory.slice(addr, len) {
                    slice.copy_from(&vec![0; len as usize]);
                }
            }
            *driver = DriverQueue::new(driver.layout(), self.features);
            self.bases[queue] = 0;
            self.given_back[queue].clear();
        }
    }

    fn collect(&mut self) {
        let memory = self.memory().clone();
        for (driver, given_back) in self.queues.iter_mut().zip(&mut self.given_back) {
            while let Some(used) = driver.take(&memory) {
                given_back.push(used);
                // A hostile index would make this endless.
                if given_back.len() > usize::from(u16::MAX) {
                    break;
                }
            }
        }
    }
}
