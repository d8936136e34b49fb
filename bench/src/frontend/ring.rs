//! The driver's side of a split virtqueue (virtio 1.3, section 2.7).
//!
//! Two ways in: [`Queue::prepare`], [`Queue::offer`], [`Queue::publish`], [`Queue::wait`] do what a driver does;
//! [`Queue::write_descriptor`], [`Queue::write_available`] and [`Queue::write_available_index`] write whatever a hostile
//! guest could write.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::command::Reply;
use super::error::{Doing, Error, Result};
use super::memory::Memory;
use super::vfio_user::Doorbell;

/// Another descriptor follows.
pub const NEXT: u16 = 1;
/// The device may write here.
pub const WRITE: u16 = 2;
/// The descriptor points at a table of descriptors.
pub const INDIRECT: u16 = 4;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// One descriptor, as it lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// The sixteen bytes.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// One piece of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    /// The device reads it.
    Readable(u64, u32),
    /// The device writes it.
    Writable(u64, u32),
}

/// A chain that the device gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain, as the device wrote it.
    pub id: u32,
    /// Bytes that the device says it wrote.
    pub length: u32,
}

/// How long to wait for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For ever, in one system call: for measurements, where a watch ends the wait of a dead device.
    Block,
    /// For at most so long.
    Timeout(Duration),
}

/// Guest addresses of a ring's three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
}

/// How often each side was woken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Kicks that the driver sent.
    pub kicks: u64,
    /// Kicks that the device's suppression saved.
    pub kicks_saved: u64,
    /// Interrupts that the driver saw (several may have merged into one).
    pub interrupts: u64,
}

/// A virtqueue, seen by its driver.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    size: u16,
    memory: Arc<Memory>,
    layout: Layout,
    events: Events,
    /// Where a kick goes instead of to the eventfd.
    doorbell: Option<Doorbell>,
    event_idx: bool,
    wait: Wait,
    free: VecDeque<u16>,
    chains: Vec<Vec<u16>>,
    next_available: u16,
    published: u16,
    next_used: u16,
    signals: Signals,
}

#[derive(Debug)]
struct Events {
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
    abandoned: Arc<AtomicBool>,
}

/// Ends a blocked [`Queue::wait`] from another thread.
#[derive(Debug)]
pub struct Abandon {
    call: OwnedFd,
    abandoned: Arc<AtomicBool>,
}

impl Abandon {
    /// Every wait on the queue fails from now on.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        // Nothing can be done when it fails, and nothing has to be: the waiter has its eventfd still.
        let _ = rustix::io::write(&self.call, &1u64.to_ne_bytes());
    }
}

impl Queue {
    /// Lays a ring of `size` descriptors out in the guest's memory.
    pub fn new(index: u16, size: u16, memory: Arc<Memory>, wait: Wait) -> Result<Self> {
        let entries = u64::from(size);
        let layout = Layout {
            descriptors: memory.allocate(16 * entries, 4096)?,
            available: memory.allocate(6 + 2 * entries, 4096)?,
            used: memory.allocate(6 + 8 * entries, 4096)?,
        };
        let events = Events {
            kick: eventfd()?,
            call: eventfd()?,
            error: eventfd()?,
            abandoned: Arc::new(AtomicBool::new(false)),
        };
        Ok(Self {
            index,
            size,
            memory,
            layout,
            events,
            doorbell: None,
            event_idx: false,
            wait,
            free: (0..size).collect(),
            chains: vec![Vec::new(); usize::from(size)],
            next_available: 0,
            published: 0,
            next_used: 0,
            signals: Signals::default(),
        })
    }

    /// Number of the queue: 0 is the control queue, 1 the cursor queue.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the ring lies.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Kicks and interrupts so far.
    pub fn signals(&self) -> Signals {
        self.signals
    }

    /// The eventfds kick, call and error, in this order.
    pub fn eventfds(&self) -> [BorrowedFd<'_>; 3] {
        [self.events.kick.as_fd(), self.events.call.as_fd(), self.events.error.as_fd()]
    }

    /// Follows what was negotiated: with EVENT_IDX the two sides say which index shall wake them.
    pub fn set_event_idx(&mut self, on: bool) {
        self.event_idx = on;
    }

    /// Kicks go to a register from now on.
    pub fn knock_at(&mut self, doorbell: Doorbell) {
        self.doorbell = Some(doorbell);
    }

    /// Changes how long [`Queue::wait`] waits.
    pub fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// A way to end a blocked wait.
    pub fn abandoner(&self) -> Result<Abandon> {
        let call = self.events.call.try_clone().doing("duplicate an eventfd")?;
        Ok(Abandon { call, abandoned: self.events.abandoned.clone() })
    }

    /// Forgets all that was in flight: the ring as it is after the driver allocated it.
    pub fn reset(&mut self) -> Result<()> {
        self.memory.write(self.layout.available, &vec![0; 6 + 2 * usize::from(self.size)])?;
        self.memory.write(self.layout.used, &vec![0; 6 + 8 * usize::from(self.size)])?;
        self.free = (0..self.size).collect();
        self.chains.fill(Vec::new());
        (self.next_available, self.published, self.next_used) = (0, 0, 0);
        Ok(())
    }

    /// Index of the next entry of the available ring that the device will look at: what SET_VRING_BASE says.
    pub fn base(&self) -> u16 {
        self.next_used
    }

    // What a driver does.

    /// Writes the descriptors of a chain and returns its head. The chain stays written until [`Queue::recycle`], so it can
    /// be offered many times.
    pub fn prepare(&mut self, buffers: &[Buffer]) -> Result<u16> {
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return Err(Error::RingFull);
        }
        let indices: Vec<u16> = self.free.drain(..buffers.len()).collect();
        for (at, buffer) in buffers.iter().enumerate() {
            let next = indices.get(at + 1).copied();
            self.write_descriptor(indices[at], linked(buffer, next))?;
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        Ok(head)
    }

    /// As [`Queue::prepare`], through one descriptor that points at a table in the guest's memory.
    pub fn prepare_indirect(&mut self, buffers: &[Buffer]) -> Result<u16> {
        let head = self.free.pop_front().ok_or(Error::RingFull)?;
        let mut table = Vec::with_capacity(16 * buffers.len());
        for (at, buffer) in buffers.iter().enumerate() {
            let next = (at + 1 < buffers.len()).then_some(at as u16 + 1);
            table.extend(linked(buffer, next).bytes());
        }
        let address = self.memory.allocate(table.len() as u64, 16)?;
        self.memory.write(address, &table)?;
        let length = table.len() as u32;
        self.write_descriptor(head, Descriptor { address, length, flags: INDIRECT, next: 0 })?;
        self.chains[usize::from(head)] = vec![head];
        Ok(head)
    }

    /// Puts a chain into the available ring; the device sees it at the next [`Queue::publish`].
    pub fn offer(&mut self, head: u16) -> Result<()> {
        self.write_available(self.next_available, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(())
    }

    /// Shows the device what was offered, and kicks it if it wants that.
    pub fn publish(&mut self) -> Result<()> {
        let before = std::mem::replace(&mut self.published, self.next_available);
        self.write_available_index(self.next_available)?;
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.memory.load_u16(self.layout.used + 4 + 8 * u64::from(self.size))?;
            passes(event, before, self.next_available)
        } else {
            self.memory.load_u16(self.layout.used)? & NO_NOTIFY == 0
        };
        if !wanted {
            self.signals.kicks_saved += 1;
            return Ok(());
        }
        self.kick()
    }

    /// Kicks the device.
    pub fn kick(&mut self) -> Result<()> {
        self.signals.kicks += 1;
        if let Some(doorbell) = &self.doorbell {
            return doorbell.ring(self.index);
        }
        rustix::io::write(&self.events.kick, &1u64.to_ne_bytes()).doing("kick the device")?;
        Ok(())
    }

    /// How many chains the device gave back that were not taken yet.
    pub fn ready(&self) -> Result<u16> {
        Ok(self.memory.load_u16(self.layout.used + 2)?.wrapping_sub(self.next_used))
    }

    /// Takes a chain that the device gave back, if there is one.
    pub fn take(&mut self) -> Result<Option<Used>> {
        if self.ready()? == 0 {
            return Ok(None);
        }
        let entry = self.layout.used + 4 + 8 * u64::from(self.next_used % self.size);
        let mut bytes = [0; 8];
        self.memory.read(entry, &mut bytes)?;
        self.next_used = self.next_used.wrapping_add(1);
        let [id, length] =
            [0, 4].map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        Ok(Some(Used { id, length }))
    }

    /// Waits for the next chain that the device gives back and takes it.
    pub fn wait(&mut self) -> Result<Used> {
        self.wait_until_ready(1)?;
        self.take()?.ok_or(Error::Order("The used ring shrank"))
    }

    /// Waits until the device has given `count` chains back. With EVENT_IDX it is asked for one interrupt, at the last.
    pub fn wait_until_ready(&mut self, count: u16) -> Result<()> {
        if self.event_idx {
            let event = self.next_used.wrapping_add(count - 1);
            self.memory.store_u16(self.layout.available + 4 + 2 * u64::from(self.size), event)?;
            fence(Ordering::SeqCst);
        }
        let deadline = match self.wait {
            Wait::Block => None,
            Wait::Timeout(limit) => Some(Instant::now() + limit),
        };
        while self.ready()? < count {
            self.wait_for_interrupt(deadline)?;
        }
        Ok(())
    }

    /// Sends any bytes in any number of readable and writable buffers, and waits for what the device makes of them.
    pub fn exchange(&mut self, memory: &Memory, readable: &[&[u8]], writable: &[u32], indirect: bool) -> Result<Reply> {
        let mark = memory.mark();
        let reply = self.exchange_from(memory, readable, writable, indirect);
        memory.release(mark);
        reply
    }

    fn exchange_from(
        &mut self,
        memory: &Memory,
        readable: &[&[u8]],
        writable: &[u32],
        indirect: bool,
    ) -> Result<Reply> {
        let mut buffers = Vec::with_capacity(readable.len() + writable.len());
        for bytes in readable.iter().filter(|bytes| !bytes.is_empty()) {
            let address = memory.allocate(bytes.len() as u64, 16)?;
            memory.write(address, bytes)?;
            buffers.push(Buffer::Readable(address, bytes.len() as u32));
        }
        let mut areas = Vec::with_capacity(writable.len());
        for &length in writable.iter().filter(|&&length| length != 0) {
            let address = memory.allocate(u64::from(length), 16)?;
            memory.write(address, &vec![0; length as usize])?;
            buffers.push(Buffer::Writable(address, length));
            areas.push((address, length));
        }
        let head = if indirect { self.prepare_indirect(&buffers)? } else { self.prepare(&buffers)? };
        self.offer(head)?;
        self.publish()?;
        let used = self.wait()?;
        if used.id != u32::from(head) {
            return Err(Error::Protocol(format!("chain {} given back instead of {head}", used.id)));
        }
        self.recycle(head);
        let mut bytes = Vec::new();
        for (address, length) in areas {
            bytes.extend(memory.read_vec(address, length as usize)?);
        }
        Ok(Reply { used_length: used.length, bytes })
    }

    /// Gives the descriptors of a chain back to the ring.
    pub fn recycle(&mut self, head: u16) {
        if let Some(chain) = self.chains.get_mut(usize::from(head)) {
            self.free.extend(chain.drain(..));
        }
    }

    /// Tells the device that no interrupt is wanted, by the flag that counts when EVENT_IDX is off.
    pub fn set_no_interrupt(&mut self, on: bool) -> Result<()> {
        self.memory.store_u16(self.layout.available, if on { NO_INTERRUPT } else { 0 })
    }

    /// True when the device reported a broken ring by the error eventfd; waits for it as the queue waits.
    pub fn wait_for_error(&self) -> Result<bool> {
        let limit = match self.wait {
            Wait::Block => None,
            Wait::Timeout(limit) => Some(limit),
        };
        readable(self.events.error.as_fd(), limit)
    }

    // What a hostile guest does.

    /// Writes any descriptor.
    pub fn write_descriptor(&mut self, index: u16, descriptor: Descriptor) -> Result<()> {
        self.memory.write(self.layout.descriptors + 16 * u64::from(index), &descriptor.bytes())
    }

    /// Writes any head into a slot of the available ring.
    pub fn write_available(&mut self, slot: u16, head: u16) -> Result<()> {
        self.memory.store_u16(self.layout.available + 4 + 2 * u64::from(slot % self.size), head)
    }

    /// Writes any index of the available ring.
    pub fn write_available_index(&mut self, index: u16) -> Result<()> {
        self.memory.store_u16(self.layout.available + 2, index)
    }

    fn make_call_blocking(&self) -> Result<()> {
        rustix::fs::fcntl_setfl(&self.events.call, rustix::fs::OFlags::RDWR).doing("make an eventfd block")
    }

    fn wait_for_interrupt(&mut self, deadline: Option<Instant>) -> Result<()> {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if !readable(self.events.call.as_fd(), Some(left))? {
                return Err(Error::TimedOut("a command"));
            }
        }
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.events.call, &mut count[..])) {
            // The device may have made the eventfd non-blocking: that is a property of the file, which both sides share.
            Err(rustix::io::Errno::AGAIN) => return self.make_call_blocking(),
            other => other.doing("wait for an interrupt")?,
        };
        self.signals.interrupts += 1;
        if self.events.abandoned.load(Ordering::SeqCst) {
            return Err(Error::HungUp);
        }
        Ok(())
    }
}

fn linked(buffer: &Buffer, next: Option<u16>) -> Descriptor {
    let (address, length, flags) = match *buffer {
        Buffer::Readable(address, length) => (address, length, 0),
        Buffer::Writable(address, length) => (address, length, WRITE),
    };
    let flags = if next.is_some() { flags | NEXT } else { flags };
    Descriptor { address, length, flags, next: next.unwrap_or(0) }
}

/// Did the index pass `event` on its way from `before` to `now`? (virtio 1.3, section 2.7.7.2)
fn passes(event: u16, before: u16, now: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

fn eventfd() -> Result<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).doing("make an eventfd")
}

/// Waits until something can be read; false when the time is over.
pub(crate) fn readable(fd: BorrowedFd<'_>, limit: Option<Duration>) -> Result<bool> {
    let limit =
        limit.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) });
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, limit.as_ref())).doing("wait")?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        let memory = Arc::new(Memory::new(&[(0, 1 << 20)]).expect("memory"));
        Queue::new(0, 8, memory, Wait::Timeout(Duration::from_millis(1))).expect("queue")
    }

    #[test]
    fn an_event_index_is_passed_once_and_across_the_wrap() {
        assert!(passes(4, 4, 5));
        assert!(!passes(5, 4, 5));
        assert!(!passes(3, 4, 5));
        assert!(passes(0xffff, 0xfffe, 1));
        assert!(passes(0, 0xfffe, 1));
        assert!(!passes(1, 0xfffe, 1));
    }

    #[test]
    fn a_chain_links_its_descriptors_and_ends() {
        let mut queue = queue();
        let head = queue.prepare(&[Buffer::Readable(0x10, 24), Buffer::Writable(0x20, 8)]).expect("chain");
        let table = queue.memory.read_vec(queue.layout.descriptors, 32).expect("table");
        assert_eq!(head, 0);
        assert_eq!(table[..16], Descriptor { address: 0x10, length: 24, flags: NEXT, next: 1 }.bytes());
        assert_eq!(table[16..], Descriptor { address: 0x20, length: 8, flags: WRITE, next: 0 }.bytes());
    }

    #[test]
    fn a_full_ring_refuses_and_recycling_makes_room() {
        let mut queue = queue();
        let heads: Vec<u16> =
            (0..4).map(|_| queue.prepare(&[Buffer::Readable(0, 1), Buffer::Writable(0, 1)]).expect("chain")).collect();
        assert!(matches!(queue.prepare(&[Buffer::Readable(0, 1)]), Err(Error::RingFull)));
        queue.recycle(heads[2]);
        assert!(queue.prepare(&[Buffer::Readable(0, 1), Buffer::Writable(0, 1)]).is_ok());
    }

    #[test]
    fn a_kick_is_saved_when_the_device_asks_for_none() {
        let mut queue = queue();
        let head = queue.prepare(&[Buffer::Readable(0x10, 24)]).expect("chain");
        queue.memory.store_u16(queue.layout.used, NO_NOTIFY).expect("flag");
        queue.offer(head).expect("offer");
        queue.publish().expect("publish");
        assert_eq!(queue.signals(), Signals { kicks: 0, kicks_saved: 1, interrupts: 0 });
    }

    #[test]
    fn a_silent_device_ends_the_wait_with_a_timeout() {
        assert!(matches!(queue().wait(), Err(Error::TimedOut(_))));
    }

    #[test]
    fn an_eventfd_that_the_device_made_non_blocking_still_wakes_the_driver() {
        let mut queue = queue();
        queue.set_wait(Wait::Block);
        rustix::fs::fcntl_setfl(&queue.events.call, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK)
            .expect("flag");
        let abandoner = queue.abandoner().expect("abandoner");
        let ended = std::thread::spawn(move || queue.wait());
        abandoner.abandon();
        assert!(matches!(ended.join().expect("thread"), Err(Error::HungUp)));
    }

    #[test]
    fn an_abandoned_wait_ends() {
        let mut queue = queue();
        queue.set_wait(Wait::Block);
        queue.abandoner().expect("abandoner").abandon();
        assert!(matches!(queue.wait(), Err(Error::HungUp)));
    }
}
