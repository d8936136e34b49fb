//! An input device between a hand and the rings of a guest.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use device::{
    ConfigSpace, Desktop, Input, InputKind, InputOptions, InputSource, InputStats, Leds, SourceEvent, VirtioDevice,
};
use rustix::event::{EventfdFlags, eventfd};
use transport::loopback::{Descriptor, Loopback, Shape, WRITE};

/// Bytes of a virtio_input_event.
pub const EVENT: u32 = 8;

/// Somebody at the keyboard.
#[derive(Clone)]
pub struct Hand(Arc<Inner>);

struct Inner {
    does: Mutex<VecDeque<SourceEvent>>,
    leds: Mutex<Vec<Leds>>,
    fd: OwnedFd,
}

impl Hand {
    fn new() -> Self {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self(Arc::new(Inner { does: Mutex::default(), leds: Mutex::default(), fd }))
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<SourceEvent>> {
        self.0.does.lock().unwrap()
    }

    pub fn does(&self, events: impl IntoIterator<Item = SourceEvent>) {
        self.queue().extend(events);
        rustix::io::write(&self.0.fd, &1u64.to_ne_bytes()).unwrap();
    }

    /// The lamps, as they were told since the last call.
    pub fn leds(&self) -> Vec<Leds> {
        std::mem::take(&mut *self.0.leds.lock().unwrap())
    }

    /// Whether all was taken.
    pub fn is_done(&self) -> bool {
        self.queue().is_empty()
    }
}

impl InputSource for Hand {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    fn poll(&mut self, events: &mut Vec<SourceEvent>) {
        let mut queue = self.queue();
        events.extend(queue.drain(..));
        let _ = rustix::io::read(&self.0.fd, &mut [0; 8]);
    }

    fn leds(&mut self, leds: Leds) {
        self.0.leds.lock().unwrap().push(leds);
    }
}

/// The machine.
pub struct Machine {
    pub guest: Loopback,
    pub hand: Hand,
    pub config: Arc<dyn ConfigSpace>,
    pub desktop: Arc<Desktop>,
    pub stats: Arc<InputStats>,
    pub size: u16,
    /// Whether the driver makes each chain available again once it was read, as all drivers do.
    pub refills: bool,
    /// Where the rings stopped.
    paused: Option<Vec<u16>>,
    /// Where the buffer of each chain is.
    lent: HashMap<u32, u64>,
    free: Vec<u64>,
}

impl Machine {
    /// A guest whose driver has set up its rings, and made nothing available.
    pub fn new(kind: InputKind, size: u16, features: u64) -> Self {
        let (hand, desktop, stats) = (Hand::new(), Arc::new(Desktop::new()), Arc::new(InputStats::default()));
        let options = InputOptions { name: "Console of a test".into(), serial: "0815".into(), kind };
        let device = Input::new(options, Box::new(hand.clone()), desktop.clone(), stats.clone());
        let config = device.config();
        let shape = Shape { memory: vec![(0, 1 << 16)], queue_size: Some(size), features, ..Shape::default() };
        let mut guest = Loopback::with_shape(Box::new(device), &shape);
        guest.count_in(stats.clone());
        let free = (0..size).map(|_| guest.allocate(EVENT.into()).unwrap()).collect();
        Self { guest, hand, config, desktop, stats, size, refills: true, paused: None, lent: HashMap::new(), free }
    }

    /// As QEMU's generic vhost-user device has it, with a driver that takes all it gets.
    pub fn usual(kind: InputKind) -> Self {
        let mut machine = Self::new(kind, 64, u64::MAX);
        machine.fill();
        machine
    }

    /// The driver makes so many more chains available, or as many as it has.
    pub fn post(&mut self, count: usize) {
        for _ in 0..count {
            let Some(addr) = self.free.pop() else { break };
            self.guest.write(addr, &[0xee; EVENT as usize]);
            let buffer = Descriptor { addr, len: EVENT, flags: WRITE, next: 0 };
            let head = self.guest.offer_chain(0, &[buffer]).unwrap();
            self.lent.insert(head.into(), addr);
        }
        self.guest.publish(0);
    }

    pub fn fill(&mut self) {
        self.post(self.size.into());
    }

    /// Events that the device put into the ring since the last call.
    pub fn collect(&mut self) -> Vec<[u8; EVENT as usize]> {
        let mut events = Vec::new();
        while let Some(used) = self.guest.used(0) {
            let addr = self.lent.remove(&used.head).expect("a chain that was lent");
            assert_eq!(used.len, EVENT, "an event is whole");
            events.push(*self.guest.read(addr, EVENT as usize).first_chunk().unwrap());
            self.free.push(addr);
        }
        events
    }

    /// The device and its driver work until neither has anything to do.
    pub fn settle(&mut self) -> Vec<[u8; EVENT as usize]> {
        let mut events = Vec::new();
        loop {
            self.guest.run();
            let more = self.collect();
            if more.is_empty() {
                return events;
            }
            if self.refills {
                self.post(more.len());
            }
            events.extend(more);
        }
    }

    /// Somebody does this, all at once.
    pub fn does(&mut self, events: impl IntoIterator<Item = SourceEvent>) -> Vec<[u8; EVENT as usize]> {
        self.hand.does(events);
        self.settle()
    }

    /// The driver reports a lamp, or whatever.
    pub fn status(&mut self, bytes: &[u8]) {
        let mark = self.guest.allocate(0).unwrap();
        let sent = self.guest.send(1, &[bytes], &[]).unwrap();
        self.guest.run();
        assert_eq!(self.guest.reply(&sent).unwrap().used_len, 0);
        self.guest.release(mark);
    }

    /// The VMM pauses the guest; where its rings stopped.
    pub fn pause(&mut self) -> Vec<u16> {
        let bases: Vec<_> = self.guest.pause().iter().map(|stopped| stopped.base).collect();
        self.paused.get_or_insert(bases).clone()
    }

    /// It lets the guest go on, if it is paused. Returns whether the device can tell: rings that begin at their first entry
    /// are those of a new driver.
    pub fn resume(&mut self) -> bool {
        let Some(bases) = self.paused.take() else { return true };
        self.guest.resume();
        bases.iter().any(|base| *base != 0)
    }

    /// The driver goes, with all that it lent, and the next one sets its rings up.
    pub fn reboot(&mut self) {
        self.guest.reboot();
        self.forget_lent();
    }

    /// The VMM goes, and another one comes.
    pub fn reconnect(&mut self) {
        self.guest.reconnect();
        self.forget_lent();
    }

    fn forget_lent(&mut self) {
        self.paused = None;
        self.free.extend(self.lent.drain().map(|(_, addr)| addr));
    }
}
