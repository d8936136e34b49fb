//! A guest behind a VMM: its driver sets the function up by registers and sends requests by rings.

use super::served::Served;
use super::vmm::{MEMORY, Vmm};
use crate::feature;
use crate::loopback::{Descriptor, DriverQueue, Used, WRITE};
use crate::ring::Layout;

/// Registers of virtio's common configuration, in BAR 2.
pub mod reg {
    pub const DRIVER_FEATURE_SELECT: u64 = 0x1008;
    pub const DRIVER_FEATURE: u64 = 0x100c;
    pub const CONFIG_VECTOR: u64 = 0x1010;
    pub const STATUS: u64 = 0x1014;
    pub const QUEUE_SELECT: u64 = 0x1016;
    pub const QUEUE_SIZE: u64 = 0x1018;
    pub const QUEUE_VECTOR: u64 = 0x101a;
    pub const QUEUE_ENABLE: u64 = 0x101c;
    pub const QUEUE_DESC: u64 = 0x1020;
    pub const QUEUE_DRIVER: u64 = 0x1028;
    pub const QUEUE_DEVICE: u64 = 0x1030;
    pub const QUEUE_RESET: u64 = 0x103a;
    pub const NOTIFY: u64 = 0x3000;
}

/// Where BARs are, as far as the guest is concerned.
pub const BAR0: u64 = 0xe000_0000;
pub const BAR2: u64 = 0xe100_0000;

/// DEVICE_NEEDS_RESET.
pub const NEEDS_RESET: u64 = 0x40;
const SIZE: u16 = 16;

pub struct Guest {
    pub vmm: Vmm,
    pub queues: [DriverQueue; 2],
    pub features: u64,
    next: u64,
    /// Where the reply to what was offered last goes.
    reply_at: u64,
    /// Where all of the guest's memory begins.
    pub base: u64,
}

impl Guest {
    /// A guest whose driver is at work, with a vector for the configuration and one for each queue.
    pub fn ready(served: &Served) -> Self {
        let mut guest = Self::new(served);
        guest.vmm.map(0, MEMORY, true, Some(0)).unwrap();
        guest.realize();
        guest.start();
        guest
    }

    /// Connected, without memory.
    pub fn new(served: &Served) -> Self {
        let features = feature::VERSION_1 | 3;
        let queues = [0x10_0000, 0x20_0000].map(|at| DriverQueue::new(layout(at, SIZE), features));
        Self { vmm: served.greeted(), queues, features, next: 0, reply_at: 0, base: 0 }
    }

    /// What a VMM and firmware do.
    pub fn realize(&mut self) {
        let vmm = &mut self.vmm;
        vmm.info().unwrap();
        vmm.reset();
        vmm.write_word(7, 0x10, 4, BAR0);
        vmm.write_word(7, 0x18, 4, BAR2);
        vmm.write_word(7, 0x04, 2, 0x507);
        if vmm.irq(2).1 == 3 {
            // The capability of MSI-X: its control register enables it.
            let at = capability(vmm, 0x11);
            vmm.write_word(7, at + 2, 2, 0x8002);
            vmm.set_irqs(0x24, 2, 0, 3, 3).unwrap();
        }
    }

    /// What a driver does, as if nothing had been before.
    pub fn start(&mut self) {
        self.negotiate();
        for queue in 0..2 {
            let layout = self.queues[queue].layout();
            self.queues[queue] = DriverQueue::new(layout, self.features);
            for (at, len) in [(layout.descriptors, 0x400), (layout.available, 0x400), (layout.used, 0x400)] {
                self.vmm.put(at - self.base, &vec![0; len]);
            }
            self.set_queue(queue as u64, layout);
        }
        self.vmm.write_word(2, reg::STATUS, 1, 0xf);
    }

    pub fn negotiate(&mut self) {
        let vmm = &self.vmm;
        vmm.write_word(2, reg::STATUS, 1, 0);
        while vmm.read_word(2, reg::STATUS, 1) != 0 {
            std::thread::yield_now();
        }
        vmm.write_word(2, reg::STATUS, 1, 3);
        for word in 0..2 {
            vmm.write_word(2, reg::DRIVER_FEATURE_SELECT, 4, word);
            vmm.write_word(2, reg::DRIVER_FEATURE, 4, self.features >> (32 * word) & 0xffff_ffff);
        }
        vmm.write_word(2, reg::STATUS, 1, 0xb);
        assert_eq!(vmm.read_word(2, reg::STATUS, 1), 0xb);
        vmm.write_word(2, reg::CONFIG_VECTOR, 2, 0);
    }

    pub fn set_queue(&self, queue: u64, layout: Layout) {
        let vmm = &self.vmm;
        vmm.write_word(2, reg::QUEUE_SELECT, 2, queue);
        vmm.write_word(2, reg::QUEUE_SIZE, 2, layout.size.into());
        vmm.write_word(2, reg::QUEUE_VECTOR, 2, 1 + queue);
        vmm.write_word(2, reg::QUEUE_DESC, 8, layout.descriptors);
        vmm.write_word(2, reg::QUEUE_DRIVER, 8, layout.available);
        vmm.write_word(2, reg::QUEUE_DEVICE, 8, layout.used);
        vmm.write_word(2, reg::QUEUE_ENABLE, 2, 1);
    }

    pub fn status(&self) -> u64 {
        self.vmm.read_word(2, reg::STATUS, 1)
    }

    /// Returns once the device says that it cannot go on.
    pub fn wait_broken(&self) {
        while self.status() & NEEDS_RESET == 0 {
            std::thread::yield_now();
        }
    }

    pub fn notify(&self, queue: usize) {
        self.vmm.write_word(2, reg::NOTIFY + 4 * queue as u64, 2, queue as u64);
    }

    fn allocate(&mut self) -> u64 {
        let at = self.base + 0x100_0000 + 0x1000 * (self.next % 1024);
        self.next += 1;
        at
    }

    /// Offers a request, which nobody sees yet.
    pub fn offer(&mut self, queue: usize, bytes: &[u8], room: u32) {
        let (request, reply) = (self.allocate(), self.allocate());
        self.reply_at = reply;
        self.vmm.put(request - self.base, bytes);
        let buffers = [
            Descriptor { addr: request, len: bytes.len() as u32, ..Descriptor::default() },
            Descriptor { addr: reply, len: room, flags: WRITE, next: 0 },
        ];
        self.offer_chain(queue, &buffers);
    }

    pub fn offer_chain(&mut self, queue: usize, buffers: &[Descriptor]) {
        let driver = &mut self.queues[queue];
        let head = driver.chain(&self.vmm.memory, buffers).expect("descriptors");
        driver.offer(&self.vmm.memory, head);
    }

    pub fn publish(&mut self, queue: usize) {
        self.queues[queue].publish(&self.vmm.memory);
        self.notify(queue);
    }

    pub fn used(&mut self, queue: usize) -> Option<Used> {
        self.queues[queue].take(&self.vmm.memory)
    }

    /// Returns once the next chain is given back; answers the device meanwhile.
    pub fn wait_used(&mut self, queue: usize) -> Used {
        let mut used = None;
        let (driver, memory) = (&mut self.queues[queue], &self.vmm.memory);
        assert!(self.vmm.serve_until(|| {
            used = used.or_else(|| driver.take(memory));
            used.is_some()
        }));
        used.unwrap()
    }

    pub fn request(&mut self, queue: usize, bytes: &[u8], room: u32) -> Vec<u8> {
        self.offer(queue, bytes, room);
        let reply = self.reply_at;
        self.publish(queue);
        let used = self.wait_used(queue);
        self.vmm.get(reply - self.base, used.len as usize)
    }

    #[track_caller]
    pub fn check_queue_0(&mut self) {
        assert_eq!(self.request(0, b"echo", 16), b"echo");
    }

    /// It still works.
    #[track_caller]
    pub fn check(&mut self) {
        assert_eq!(self.request(0, b"echo", 16), b"echo");
        assert_eq!(self.request(1, b"eh", 16), b"eh");
    }
}

pub fn layout(at: u64, size: u16) -> Layout {
    Layout { size, descriptors: at, available: at + 0x8_0000, used: at + 0xc_0000 }
}

/// Where the first capability of a kind is in the configuration space.
pub fn capability(vmm: &Vmm, kind: u64) -> u64 {
    let mut at = vmm.read_word(7, 0x34, 1);
    let mut seen = 0;
    while at != 0 && vmm.read_word(7, at, 1) != kind {
        at = vmm.read_word(7, at + 1, 1);
        seen += 1;
        assert!(seen < 48, "a chain without end");
    }
    assert_ne!(at, 0, "no capability {kind:#x}");
    at
}
