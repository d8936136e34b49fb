//! Drives a device: pops chains, executes them, gives them back, parks what is answered later.
//!
//! All of it happens on the thread that calls; nothing here blocks. A front-end's changes come as method calls between two
//! batches, and [`Engine::attention`] ends a batch early, so that a change waits for one command at most.

mod serve;
mod slot;
mod supply;
mod window;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use device::memory::Rest;
use device::{Incidents, Memory, Outbox, Start, Ticket, VirtioDevice, guest_log};

use crate::chain::{Segment, scatter};
use crate::interrupt::Interrupt;
use crate::ring::{Layout, Ring, RingError};
use serve::{Batch, Batcher, Scratch};
use slot::Slot;
use supply::Supplied;

/// How long a ring that stops waits for what it parked, before the device has to give it up.
pub const STOP_LIMIT: Duration = Duration::from_secs(1);

/// Panics that may escape the device in [`PANIC_WINDOW`] before its rings stop.
const PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// Times that a device is told at once of what became of its requests for the window, and may ask again.
const WINDOW_ROUNDS: usize = 4;

/// A device and its rings.
pub struct Engine<I> {
    device: Box<dyn VirtioDevice>,
    interrupt: I,
    memory: Arc<Memory>,
    features: u64,
    slots: Vec<Slot>,
    /// Which queues the device supplies.
    supplied: Vec<bool>,
    parked: HashMap<Ticket, Parked>,
    scratch: Scratch,
    outbox: Outbox,
    /// Answers of the front-end to requests for its window.
    answers: Vec<(Ticket, bool)>,
    /// When the front-end's answers are due.
    window_deadline: Option<Instant>,
    /// Whether the device was started and not stopped since.
    started: bool,
    stopped: Vec<Stopped>,
    panics: Vec<Instant>,
    stats: Option<Arc<dyn Incidents>>,
    attention: Arc<AtomicBool>,
    tick: fn() -> i64,
}

/// A chain whose reply comes later.
#[derive(Debug)]
struct Parked {
    queue: u16,
    incarnation: u64,
    head: u16,
    writable: Vec<Segment>,
}

/// A ring that came to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Its queue.
    pub queue: u16,
    /// The entry of the available ring at which it would go on.
    pub base: u16,
}

impl<I: Interrupt> Engine<I> {
    /// An engine without memory; every ring is stopped. `tick` is a coarse clock in milliseconds that
    /// ends long batches: [`coarse_clock`], or a constant where time is virtual.
    pub fn new(device: Box<dyn VirtioDevice>, interrupt: I, tick: fn() -> i64) -> Self {
        let queues = device.queue_sizes().len();
        let slots = std::iter::repeat_with(Slot::default).take(queues).collect();
        let supplied = (0..queues).map(|queue| device.supplies(queue as u16)).collect();
        Self {
            device,
            interrupt,
            memory: Arc::new(Memory::empty()),
            features: 0,
            slots,
            supplied,
            parked: HashMap::new(),
            scratch: Scratch::default(),
            outbox: Outbox::default(),
            answers: Vec::new(),
            window_deadline: None,
            started: false,
            stopped: Vec::new(),
            panics: Vec::new(),
            stats: None,
            attention: Arc::default(),
            tick,
        }
    }

    /// Counts caught panics in the device's own counters.
    pub fn count_in(&mut self, stats: Arc<dyn Incidents>) {
        self.stats = Some(stats);
    }

    /// Set by another thread to end the batch that is being served after its current command.
    pub fn attention(&self) -> Arc<AtomicBool> {
        self.attention.clone()
    }

    /// The device.
    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    /// The way to the driver.
    pub fn interrupt(&mut self) -> &mut I {
        &mut self.interrupt
    }

    /// The memory in use.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The next command reads and writes `memory`, and none still uses the table before it.
    pub fn set_memory(&mut self, memory: Arc<Memory>) {
        self.memory = memory;
        let Self { device, memory, .. } = self;
        guarded(&mut **device, |device| device.memory(memory));
    }

    /// Features for rings and a device that start from now on.
    pub fn set_features(&mut self, features: u64) {
        self.features = features;
    }

    /// Sets a ring up and starts it. `layout` is `None` when it cannot be in guest memory. It goes on at `base`, or where
    /// it stood. A ring that runs as asked is left alone; any other change makes it a new ring, and what was parked for
    /// the old one is not given back into it.
    pub fn start_ring(&mut self, queue: u16, layout: Option<Layout>, base: Option<u16>) {
        let Some(slot) = self.slots.get_mut(usize::from(queue)) else { return };
        slot.ready = true;
        if slot.runs_as(layout, base) {
            return;
        }
        let base = base.unwrap_or_else(|| slot.base());
        slot.incarnation += 1;
        slot.parked = 0;
        slot.stopping = None;
        slot.started_at = Some(base);
        let ring = layout
            .ok_or(RingError::Unmapped(0))
            .and_then(|layout| Ring::new(layout, base, self.features, &self.memory));
        match ring {
            Ok(ring) => {
                slot.ring = Some(ring);
                slot.broken = false;
            }
            Err(why) => {
                slot.ring = None;
                slot.broken = false;
                self.break_ring(queue, why);
            }
        }
        self.start_device();
    }

    /// Whether chains of the ring are popped.
    pub fn enable_ring(&mut self, queue: u16, enabled: bool) {
        let Some(slot) = self.slots.get_mut(usize::from(queue)) else { return };
        slot.enabled = enabled;
        slot.ready = true;
        self.start_device();
    }

    /// Pops no chain of the ring any more. When nothing of it is parked it has [stopped](Self::take_stopped); else it will
    /// have, at the latest [`STOP_LIMIT`] after `now`.
    pub fn stop_ring(&mut self, queue: u16, now: Instant) {
        let Some(slot) = self.slots.get_mut(usize::from(queue)) else { return };
        slot.stopping = Some(now + STOP_LIMIT);
        self.finish_stops();
    }

    /// Rings that came to rest since the last call.
    pub fn take_stopped(&mut self) -> impl Iterator<Item = Stopped> + '_ {
        self.stopped.drain(..)
    }

    /// The front-end is gone: no ring, no memory, no trace of its guest.
    pub fn reset(&mut self, now: Instant) {
        self.catch_up();
        self.clear_window();
        self.forget_parked();
        for slot in &mut self.slots {
            *slot = Slot { incarnation: slot.incarnation + 1, ..Slot::default() };
        }
        self.memory = Arc::new(Memory::empty());
        self.features = 0;
        self.started = false;
        self.stopped.clear();
        if guarded(&mut *self.device, |device| device.reset()).is_none() {
            self.panicked(now);
        }
    }

    /// The driver reset the device: every ring is gone at once, and nothing that is parked is given back into it. The device
    /// stops; whose guest it is does not change.
    pub fn halt(&mut self) {
        self.catch_up();
        for queue in 0..self.slots.len() {
            self.take_away(queue);
        }
        self.give_up_parked();
        self.memory.forget();
        if std::mem::take(&mut self.started) {
            // A device that cannot even stop is dealt with when it is called next.
            guarded(&mut *self.device, |device| device.stop());
        }
    }

    /// The driver reset one queue: its ring is gone at once. The others run on, and so does the device, even if there are
    /// none.
    pub fn drop_ring(&mut self, queue: u16) {
        // Nothing that was given back already may come later: the driver uses the ring's memory for something else.
        self.rest();
        self.take_away(usize::from(queue));
    }

    /// What is parked for the ring is not given back into it. Who waits for it to stop waits no longer.
    fn take_away(&mut self, queue: usize) {
        let Some(slot) = self.slots.get_mut(queue) else { return };
        if slot.stopping.is_some() {
            self.stopped.push(Stopped { queue: queue as u16, base: slot.base() });
        }
        *slot = Slot { incarnation: slot.incarnation + 1, ..Slot::default() };
    }

    /// What is parked is completed into rings that are gone.
    fn give_up_parked(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let Self { device, outbox, .. } = self;
        guarded(&mut **device, |device| device.abandon(outbox));
        self.deliver();
        self.forget_parked();
    }

    /// The driver kicked the queue: [`run`](Self::run) will look at its ring.
    pub fn kick(&mut self, queue: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(queue)) {
            slot.ready = true;
        }
    }

    /// The configuration was read or written.
    pub fn config_accessed(&mut self, now: Instant) {
        if guarded(&mut *self.device, |device| device.config_accessed()).is_none() {
            self.panicked(now);
        }
    }

    /// Serves one batch of each ring that was kicked, polls the device, has it supply what it supplies, tells the driver.
    /// Returns whether there is more to do at once.
    pub fn run(&mut self, now: Instant) -> bool {
        for queue in 0..self.slots.len() {
            if self.slots[queue].serves() && self.slots[queue].ready && !self.supplied[queue] {
                self.serve(queue as u16, now);
            }
        }
        self.poll(now);
        for (queue, slot) in self.slots.iter_mut().enumerate() {
            if slot.held && !self.device.is_full(queue as u16) {
                (slot.held, slot.ready) = (false, true);
            }
        }
        for queue in 0..self.slots.len() {
            if self.supplied[queue] && self.slots[queue].serves() {
                self.supply(queue as u16, now);
            }
        }
        let waiting = self.rest();
        waiting || !self.answers.is_empty() || self.slots.iter().any(|slot| slot.serves() && slot.ready)
    }

    /// No command runs. Returns whether the driver was told of what it cannot see yet.
    fn rest(&mut self) -> bool {
        match self.memory.rest() {
            Rest::Quiet => false,
            Rest::Waiting => true,
            Rest::Delivered => {
                for (queue, slot) in self.slots.iter().enumerate() {
                    if slot.ring.is_some() {
                        self.interrupt.queue(queue as u16);
                    }
                }
                false
            }
        }
    }

    /// When [`run`](Self::run) is due although nobody kicked.
    pub fn deadline(&self) -> Option<Instant> {
        let stops = self.slots.iter().filter_map(|slot| slot.stopping);
        stops.chain(self.device.deadline()).chain(self.window_deadline).min()
    }

    /// One batch of a ring, and one word to the driver.
    fn serve(&mut self, queue: u16, now: Instant) {
        let Self { device, memory, slots, parked, scratch, attention, tick, interrupt, .. } = self;
        let slot = &mut slots[usize::from(queue)];
        let Some(ring) = &mut slot.ring else { return };
        let mut ring = match ring.open(memory) {
            Ok(ring) => ring,
            Err(why) => return self.break_ring(queue, why),
        };
        let incarnation = slot.incarnation;
        let (device, tick) = (&mut **device, *tick);
        let signal = &mut || interrupt.queue(queue);
        let mut batcher =
            Batcher { device, memory, queue, incarnation, parked, scratch, attention, tick, signal, newly_parked: 0 };
        let batch = batcher.run(&mut ring);
        slot.parked += batcher.newly_parked;
        let wanted = ring.wants_interrupt();
        slot.ready = !matches!(batch, Ok(Batch::Drained | Batch::Full));
        slot.held = matches!(batch, Ok(Batch::Full));
        scratch.chain.trim();
        if let Ok(true) = wanted {
            self.interrupt.queue(queue);
        }
        match batch {
            Ok(Batch::Panicked) => self.panicked(now),
            Ok(Batch::Broken) => self.break_all(),
            Ok(Batch::Drained | Batch::Interrupted | Batch::Full) => {}
            Err(why) => self.break_ring(queue, why),
        }
        if let Err(why) = wanted {
            self.break_ring(queue, why);
        }
    }

    /// One batch of what the device has to say, and one word to the driver.
    fn supply(&mut self, queue: u16, now: Instant) {
        let Self { device, memory, slots, scratch, .. } = self;
        let slot = &mut slots[usize::from(queue)];
        let Some(ring) = &mut slot.ring else { return };
        let mut ring = match ring.open(memory) {
            Ok(ring) => ring,
            Err(why) => return self.break_ring(queue, why),
        };
        let supplied = supply::supply(&mut **device, memory, queue, &mut ring, &mut scratch.chain);
        let wanted = ring.wants_interrupt();
        slot.ready = matches!(supplied, Ok(Supplied::More));
        scratch.chain.trim();
        if let Ok(true) = wanted {
            self.interrupt.queue(queue);
        }
        match supplied {
            Ok(Supplied::Panicked) => self.panicked(now),
            Ok(Supplied::Settled | Supplied::More) => {}
            Err(why) => self.break_ring(queue, why),
        }
        if let Err(why) = wanted {
            self.break_ring(queue, why);
        }
    }

    /// Tells the driver what was given back, when it wants to hear of it.
    fn signal(&mut self, queue: u16) {
        let slot = &mut self.slots[usize::from(queue)];
        let Some(ring) = &mut slot.ring else { return };
        match ring.open(&self.memory).and_then(|mut ring| ring.wants_interrupt()) {
            Ok(true) => self.interrupt.queue(queue),
            Ok(false) => {}
            Err(why) => self.break_ring(queue, why),
        }
    }

    fn poll(&mut self, now: Instant) {
        self.poll_window(now);
        self.poll_device(now);
        // What is refused at once is heard of at once.
        for _ in 0..WINDOW_ROUNDS {
            if !self.poll_window(now) {
                break;
            }
            self.poll_device(now);
        }
        if self.slots.iter().any(|slot| slot.stopping.is_some_and(|limit| limit <= now)) {
            self.abandon(now);
        }
    }

    fn poll_device(&mut self, now: Instant) {
        let Self { device, memory, outbox, .. } = self;
        let polled = guarded(&mut **device, |device| device.poll(memory, now, outbox));
        if polled.is_none() {
            self.panicked(now);
        }
        self.deliver();
    }

    /// Gives back what the outbox completes and does what else it says.
    fn deliver(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let mut completions = std::mem::take(&mut self.outbox.completions);
        for completion in completions.drain(..) {
            match self.parked.remove(&completion.ticket) {
                Some(parked) => self.give_back(parked, &completion.reply),
                None => guest_log!(debug, "The chain of {:?} is gone", completion.ticket),
            }
        }
        // An empty list with room for the next ones.
        self.outbox.completions = completions;
        for queue in 0..self.slots.len() {
            self.signal(queue as u16);
        }
        self.ask_window();
        if std::mem::take(&mut self.outbox.config_changed) {
            self.interrupt.config();
        }
        if std::mem::take(&mut self.outbox.broken) {
            self.break_all();
        }
        self.finish_stops();
    }

    fn give_back(&mut self, parked: Parked, reply: &[u8]) {
        let slot = &mut self.slots[usize::from(parked.queue)];
        if slot.incarnation == parked.incarnation {
            slot.parked = slot.parked.saturating_sub(1);
            if let Some(ring) = &mut slot.ring {
                let len = scatter(&self.memory, &parked.writable, reply);
                let pushed = ring.open(&self.memory).and_then(|mut ring| ring.push(parked.head, len));
                if let Err(why) = pushed {
                    self.break_ring(parked.queue, why);
                }
            }
        }
        self.scratch.spare.push(parked.writable);
    }

    /// A ring waited long enough: the device gives up all that is parked, and what it forgets is given back empty.
    fn abandon(&mut self, now: Instant) {
        let Self { device, outbox, .. } = self;
        if guarded(&mut **device, |device| device.abandon(outbox)).is_none() {
            self.panicked(now);
        }
        self.deliver();
        let stopping = |parked: &Parked| self.slots[usize::from(parked.queue)].stopping.is_some();
        let left: Vec<Ticket> = self.parked.iter().filter(|(_, parked)| stopping(parked)).map(|(t, _)| *t).collect();
        for ticket in left {
            if let Some(parked) = self.parked.remove(&ticket) {
                let queue = parked.queue;
                self.give_back(parked, &[]);
                self.signal(queue);
            }
        }
        self.finish_stops();
    }

    fn finish_stops(&mut self) {
        let mut stopped = false;
        for (queue, slot) in self.slots.iter_mut().enumerate() {
            if slot.stopping.is_some() && slot.parked == 0 {
                let base = slot.stop();
                self.stopped.push(Stopped { queue: queue as u16, base });
                stopped = true;
            }
        }
        if stopped && self.started && self.slots.iter().all(|slot| slot.started_at.is_none()) {
            self.started = false;
            self.catch_up();
            // A device that cannot even stop is dealt with when it is called next.
            guarded(&mut *self.device, |device| device.stop());
        }
    }

    /// The guest may change its memory, or take it away, without another word.
    fn catch_up(&mut self) {
        let Self { device, memory, .. } = self;
        guarded(&mut **device, |device| device.catch_up(memory));
    }

    fn start_device(&mut self) {
        if self.started || !self.slots.iter().any(Slot::serves) {
            return;
        }
        self.started = true;
        let mut set_up = self.slots.iter().filter(|slot| slot.started_at.is_some()).peekable();
        let progress = set_up.clone().any(|slot| slot.started_at != Some(0));
        let start = match progress && set_up.all(Slot::goes_on) {
            true => Start::Resumed,
            false => Start::Fresh,
        };
        let features = self.features;
        guarded(&mut *self.device, |device| device.start(features, start));
    }

    /// A ring that cannot be followed stops until it is set up again.
    fn break_ring(&mut self, queue: u16, why: RingError) {
        if why == RingError::Away {
            // It is looked at again.
            self.slots[usize::from(queue)].ready = true;
            return;
        }
        if !std::mem::replace(&mut self.slots[usize::from(queue)].broken, true) {
            guest_log!(warn, "Queue {queue} stops: {why}");
            self.interrupt.broken(queue);
        }
    }

    fn break_all(&mut self) {
        guest_log!(error, "The device stops: it failed too often");
        for (queue, slot) in self.slots.iter_mut().enumerate() {
            if slot.started_at.is_some() && !slot.broken {
                slot.broken = true;
                self.interrupt.broken(queue as u16);
            }
        }
    }

    /// A panic came out of the device, which catches its own: what it knows of its guest is dropped as by a reset.
    fn panicked(&mut self, now: Instant) {
        guest_log!(error, "The device panicked; it is reset");
        if let Some(stats) = &self.stats {
            stats.panicked();
        }
        self.panics.retain(|at| now.saturating_duration_since(*at) < PANIC_WINDOW);
        self.panics.push(now);
        self.outbox = Outbox::default();
        self.clear_window();
        for (_, parked) in std::mem::take(&mut self.parked) {
            let queue = parked.queue;
            self.give_back(parked, &[]);
            self.signal(queue);
        }
        let (started, features) = (self.started, self.features);
        let restarted = guarded(&mut *self.device, |device| {
            device.reset();
            if started {
                device.start(features, Start::Fresh);
            }
        });
        if restarted.is_none() || self.panics.len() >= PANICS {
            self.break_all();
        }
        self.finish_stops();
    }

    /// An invariant of our own is broken: every ring stops until it is set up again, and nothing is waited for.
    pub fn fail(&mut self) {
        self.outbox = Outbox::default();
        self.forget_parked();
        for slot in &mut self.slots {
            slot.parked = 0;
        }
        self.break_all();
        self.finish_stops();
    }

    fn forget_parked(&mut self) {
        let Self { parked, scratch, .. } = self;
        scratch.spare.extend(parked.drain().map(|(_, chain)| chain.writable));
    }
}

/// Milliseconds of a clock that costs a few nanoseconds to read and moves every few milliseconds.
pub fn coarse_clock() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec.wrapping_mul(1000).wrapping_add(now.tv_nsec / 1_000_000)
}

/// Calls the device; `None` when it panicked.
fn guarded<T>(device: &mut dyn VirtioDevice, call: impl FnOnce(&mut dyn VirtioDevice) -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(|| call(device))).ok()
}

#[cfg(test)]
mod tests;
