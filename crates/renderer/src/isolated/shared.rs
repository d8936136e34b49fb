//! The memory that a device shares with the process of a library. Whatever is read from it is copied once, then judged.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::wire::{self, at};

/// The mapping.
#[derive(Debug)]
pub struct Shared {
    region: MmapRegion,
}

impl Shared {
    /// New memory, all zero, whose size nobody changes.
    pub fn new() -> io::Result<Self> {
        let fd = memfd_create("beamsplit-renderer", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, at::END as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd)
    }

    /// Memory that somebody else made.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        if fstat(&fd)?.st_size != at::END as i64 {
            return Err(io::Error::other("The shared memory has another size"));
        }
        let region = MmapRegion::from_file(FileOffset::new(File::from(fd), 0), at::END).map_err(io::Error::other)?;
        Ok(Self { region })
    }

    /// The memory's file.
    pub fn file(&self) -> io::Result<BorrowedFd<'_>> {
        let file = self.region.file_offset().ok_or(io::ErrorKind::NotFound)?;
        Ok(file.file().as_fd())
    }

    /// One of the words of [`at`].
    pub fn word(&self, at: usize) -> &AtomicU32 {
        self.region.get_atomic_ref(at).expect("The words lie inside the memory")
    }

    fn bytes(&self, at: usize, len: usize) -> VolatileSlice<'_> {
        self.region.get_slice(at, len).expect("The rings lie inside the memory")
    }

    /// Copies into the arena. The span lies inside it.
    pub fn put(&self, span: wire::Span, bytes: &[u8]) {
        self.bytes(at::ARENA + span.offset as usize, span.len as usize).copy_from(bytes);
    }

    /// Appends a copy of a part of the arena to `target`. False when there is no such part.
    pub fn take(&self, span: wire::Span, target: &mut Payload) -> bool {
        let end = u64::from(span.offset) + u64::from(span.len);
        let fits = end <= u64::from(wire::ARENA_BYTES) && span.len as usize <= wire::PART_BYTES;
        if fits && span.len > 0 {
            self.bytes(at::ARENA + span.offset as usize, span.len as usize).copy_to(target.room(span.len as usize));
        }
        fits
    }

    /// The side that waits at `sleeps` is about to sleep, and was woken by what came before.
    pub fn going_to_sleep(&self, sleeps: usize) {
        self.word(sleeps).store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The side that waits at `sleeps` does not.
    pub fn awake(&self, sleeps: usize) {
        self.word(sleeps).store(0, Ordering::SeqCst);
    }

    /// Whether the side that waits at `sleeps` is to be woken, by whom asks first.
    pub fn must_wake(&self, sleeps: usize) -> bool {
        fence(Ordering::SeqCst);
        let word = self.word(sleeps);
        word.load(Ordering::SeqCst) != 0 && word.swap(0, Ordering::SeqCst) != 0
    }
}

/// Bytes of requests, aligned for 64-bit words, kept from one to the next.
#[derive(Debug, Default)]
pub struct Payload {
    words: Vec<u64>,
    len: usize,
}

impl Payload {
    /// What is kept when it is emptied, in bytes.
    const KEPT: usize = 1 << 20;

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// There are none.
    pub fn clear(&mut self) {
        self.len = 0;
        if self.words.len() > Self::KEPT / 8 {
            self.words = Vec::new();
        }
    }

    /// More bytes at the end, to be written.
    fn room(&mut self, more: usize) -> &mut [u8] {
        let start = self.len;
        self.len += more;
        if self.words.len() * 8 < self.len {
            self.words.resize(self.len.div_ceil(8), 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.words)[start..self.len]
    }
}

/// One of the two rings.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    tail: usize,
    head: usize,
    entries: usize,
    count: u32,
    size: usize,
}

/// The requests, from the device to the process.
pub const REQUESTS: Ring = Ring {
    tail: at::REQUESTS_TAIL,
    head: at::REQUESTS_HEAD,
    entries: at::REQUESTS,
    count: wire::REQUESTS,
    size: wire::REQUEST_BYTES,
};

/// The events, from the process to the device.
pub const EVENTS: Ring = Ring {
    tail: at::EVENTS_TAIL,
    head: at::EVENTS_HEAD,
    entries: at::EVENTS,
    count: wire::EVENTS,
    size: wire::EVENT_BYTES,
};

/// The other side's index is where it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jumped;

impl Ring {
    fn entry<'a>(&self, shared: &'a Shared, index: u32) -> VolatileSlice<'a> {
        shared.bytes(self.entries + (index % self.count) as usize * self.size, self.size)
    }
}

/// The side that puts entries in.
#[derive(Debug)]
pub struct Producer {
    ring: Ring,
    tail: u32,
    head: u32,
}

impl Producer {
    /// An empty ring.
    pub fn new(ring: Ring) -> Self {
        Self { ring, tail: 0, head: 0 }
    }

    /// Looks how far the other side is: how many entries it took out since the beginning.
    pub fn look(&mut self, shared: &Shared) -> Result<u32, Jumped> {
        let head = shared.word(self.ring.head).load(Ordering::Acquire);
        if head.wrapping_sub(self.head) > self.tail.wrapping_sub(self.head) {
            return Err(Jumped);
        }
        self.head = head;
        Ok(head)
    }

    /// How many were put in.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// How many were taken out when somebody looked.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Whether there is room, as far as is known.
    pub fn has_room(&self) -> bool {
        self.tail.wrapping_sub(self.head) < self.ring.count
    }

    /// Puts one in. There is room.
    pub fn push(&mut self, shared: &Shared, bytes: &[u8]) {
        self.ring.entry(shared, self.tail).copy_from(bytes);
        self.tail = self.tail.wrapping_add(1);
        shared.word(self.ring.tail).store(self.tail, Ordering::Release);
    }
}

/// The side that takes entries out.
#[derive(Debug)]
pub struct Consumer {
    ring: Ring,
    head: u32,
    tail: u32,
}

impl Consumer {
    /// An empty ring.
    pub fn new(ring: Ring) -> Self {
        Self { ring, head: 0, tail: 0 }
    }

    /// Whether there is an entry.
    pub fn look(&mut self, shared: &Shared) -> Result<bool, Jumped> {
        if self.head == self.tail {
            self.tail = shared.word(self.ring.tail).load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head) > self.ring.count {
                return Err(Jumped);
            }
        }
        Ok(self.head != self.tail)
    }

    /// Copies the next entry out. It stays in the ring until [`done`](Self::done).
    pub fn peek(&mut self, shared: &Shared, bytes: &mut [u8]) -> Result<bool, Jumped> {
        let there = self.look(shared)?;
        if there {
            self.ring.entry(shared, self.head).copy_to(bytes);
        }
        Ok(there)
    }

    /// The entry is not needed any more, and what it has in the arena neither.
    pub fn done(&mut self, shared: &Shared) {
        self.head = self.head.wrapping_add(1);
        shared.word(self.ring.head).store(self.head, Ordering::Release);
    }
}

/// A new bell.
pub fn bell() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Rings one. A full counter is readable all the same.
pub fn ring_bell(bell: impl AsFd) {
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// Stops it.
pub fn stop_bell(bell: impl AsFd) {
    let _ = rustix::io::read(bell, &mut [0u8; 8]);
}

#[cfg(test)]
mod tests;
