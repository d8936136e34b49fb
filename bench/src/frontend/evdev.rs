//! The driver of a virtio-input device (virtio 1.3, section 5.8.6): it keeps the event queue full of room and reads what comes.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::driver::Driver;
use super::error::{Doing, Error, Result};
use super::memory::Memory;
use super::options::{Kind, Options};
use super::ring::{Buffer, Queue, Signals};
use super::session::FrontEnd;
use super::vfio_user::PciGuest;

/// Words of evdev.
#[allow(missing_docs)]
pub mod word {
    pub const EV_SYN: u16 = 0;
    pub const EV_KEY: u16 = 1;
    pub const EV_ABS: u16 = 3;
    pub const ABS_X: u16 = 0;
    pub const ABS_Y: u16 = 1;
    pub const KEY_A: u16 = 30;
}

/// Descriptors of each ring.
const SIZE: u16 = 64;
/// Bytes of an event.
const BYTES: u32 = 8;
/// The event queue.
const EVENTS: usize = 0;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputEvent {
    /// EV_*.
    pub kind: u16,
    /// KEY_*, ABS_*, ..
    pub code: u16,
    /// Down or up, a place, ..
    pub value: i32,
}

impl InputEvent {
    /// Is it the SYN_REPORT that ends a frame?
    pub fn ends_frame(&self) -> bool {
        self.kind == word::EV_SYN && self.code == 0
    }

    fn read(bytes: [u8; BYTES as usize]) -> Self {
        let [a, b, c, d, value @ ..] = bytes;
        let (kind, code) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        Self { kind, code, value: i32::from_le_bytes(value) }
    }
}

/// Room for events in a guest's memory: one piece for each descriptor of an event queue, in their order.
#[derive(Debug)]
pub struct EventRoom {
    memory: Arc<Memory>,
    start: u64,
}

impl EventRoom {
    /// Gives the device room for as many events as an empty queue has descriptors.
    pub fn fill(memory: &Arc<Memory>, queue: &mut Queue) -> Result<Self> {
        let start = memory.allocate(u64::from(queue.size()) * u64::from(BYTES), 64)?;
        let room = Self { memory: memory.clone(), start };
        for place in 0..queue.size() {
            let head = queue.prepare(&[Buffer::Writable(room.place(place), BYTES)])?;
            queue.offer(head)?;
        }
        queue.publish()?;
        Ok(room)
    }

    /// Takes all events that have come, and gives their room back.
    pub fn take(&self, queue: &mut Queue, events: &mut Vec<InputEvent>) -> Result<()> {
        let mut taken = false;
        while let Some(used) = queue.take()? {
            let head = u16::try_from(used.id).ok().filter(|head| *head < queue.size() && used.length == BYTES);
            let head = head.ok_or_else(|| Error::Protocol(format!("{used:?} instead of an event")))?;
            let mut bytes = [0; BYTES as usize];
            self.memory.read(self.place(head), &mut bytes)?;
            events.push(InputEvent::read(bytes));
            queue.offer(head)?;
            taken = true;
        }
        if taken { queue.publish() } else { Ok(()) }
    }

    fn place(&self, head: u16) -> u64 {
        self.start + u64::from(head) * u64::from(BYTES)
    }
}

/// The VMM and the guest's driver of an input device.
#[derive(Debug)]
pub struct InputDriver {
    guest: Box<dyn Driver>,
    room: EventRoom,
}

impl InputDriver {
    /// Connects, as QEMU's generic vhost-user device does, and gives the device room for 64 events.
    pub fn connect(path: &Path) -> Result<Self> {
        Self::over(Box::new(FrontEnd::ready(path, Self::options())?.0))
    }

    /// As [`connect`](Self::connect), where the device is a PCI function over vfio-user.
    pub fn connect_pci(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path).doing("connect to the device's socket")?;
        let mut guest = PciGuest::realize(socket, Self::options())?;
        guest.start(false)?;
        Self::over(Box::new(guest))
    }

    fn options() -> Options {
        Options { queue_size: SIZE, memory: vec![(0, 1 << 20)], ..Options::new(Kind::Generic) }
    }

    fn over(mut guest: Box<dyn Driver>) -> Result<Self> {
        let memory = guest.memory().clone();
        let room = EventRoom::fill(&memory, guest.queue(EVENTS)?)?;
        Ok(Self { guest, room })
    }

    /// Waits until so many events have come that were not taken.
    pub fn wait(&mut self, count: u16) -> Result<()> {
        self.guest.queue(EVENTS)?.wait_until_ready(count)
    }

    /// Takes all events that have come, and gives their room back.
    pub fn take(&mut self, events: &mut Vec<InputEvent>) -> Result<()> {
        self.room.take(self.guest.queue(EVENTS)?, events)
    }

    /// Kicks and interrupts of the event queue so far.
    pub fn signals(&mut self) -> Result<Signals> {
        Ok(self.guest.queue(EVENTS)?.signals())
    }
}
