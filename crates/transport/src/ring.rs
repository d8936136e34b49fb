//! The device's side of a split virtqueue (virtio 1.3, section 2.7).
//!
//! A [`Ring`] remembers where it stands; [`Ring::open`] looks its three parts up in guest memory for one batch.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use device::Memory;
use thiserror::Error;
use vm_memory::{Bytes, VolatileMemory, VolatileSlice};

use crate::chain::{Chain, ChainError, DESCRIPTOR_BYTES};
use crate::feature;

/// The largest queue (virtio 1.3, section 2.7).
pub const MAX_SIZE: u16 = 1 << 15;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;
/// Offset of the index in the available and the used ring, and of their first entries.
const INDEX: usize = 2;
const ENTRIES: usize = 4;

/// Where a ring lies in guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of descriptors.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring, which the driver writes.
    pub available: u64,
    /// The used ring, which the device writes.
    pub used: u64,
}

/// Why a ring cannot be followed. It is stopped until the driver sets it up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// A size that is 0, not a power of two, or above 32768.
    #[error("Ring has the impossible size {0}")]
    Size(u16),
    /// A part that is not aligned as the specification wants it.
    #[error("Part of a ring at {0:#x} is not aligned")]
    Unaligned(u64),
    /// A part that is not in guest memory.
    #[error("Part of a ring at {0:#x} is not in guest memory")]
    Unmapped(u64),
    /// A part that cannot be had just now. The ring is as it was, and is looked at again.
    #[error("A ring cannot be looked at now")]
    Away,
    /// The driver's index is further ahead than the ring is long.
    #[error("Available index {available} is not within {size} of {next}")]
    Index {
        /// What the driver wrote.
        available: u16,
        /// The next entry to be popped.
        next: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// The head of a chain is no descriptor of the ring.
    #[error("Chain starts at descriptor {head} of {size}")]
    Head {
        /// Its index.
        head: u16,
        /// Descriptors of the ring.
        size: u16,
    },
}

/// What [`View::pop`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped {
    /// A chain, which was read.
    Chain {
        /// Its first descriptor.
        head: u16,
    },
    /// A chain that cannot be followed.
    Bad {
        /// Its first descriptor.
        head: u16,
        /// What is wrong.
        why: ChainError,
    },
}

/// A split virtqueue and where the device stands in it.
#[derive(Debug)]
pub struct Ring {
    layout: Layout,
    event_idx: bool,
    indirect: bool,
    next_available: u16,
    next_used: u16,
    /// Whether chains were given back since [`View::wants_interrupt`] was last asked.
    news: bool,
    /// The used index when it was last asked. `None`: the driver is told in any case.
    told: Option<u16>,
}

impl Ring {
    /// A ring that goes on at entry `base` of the available ring. What the used ring says is taken as it is: after a pause
    /// the driver knows it.
    pub fn new(layout: Layout, base: u16, features: u64, memory: &Memory) -> Result<Self, RingError> {
        if !layout.size.is_power_of_two() || layout.size > MAX_SIZE {
            return Err(RingError::Size(layout.size));
        }
        for (part, align) in [(layout.descriptors, 16), (layout.available, 2), (layout.used, 4)] {
            if part % align != 0 {
                return Err(RingError::Unaligned(part));
            }
        }
        let mut ring = Self {
            layout,
            event_idx: features & feature::EVENT_IDX != 0,
            indirect: features & feature::INDIRECT_DESC != 0,
            next_available: base,
            next_used: 0,
            news: false,
            told: None,
        };
        let view = ring.open(memory)?;
        ring.next_used =
            match view.fetch(Part::Used, INDEX, 2).and_then(|()| view.load(Part::Used, INDEX, Ordering::Relaxed)) {
                // All chains of a ring at rest were given back.
                Err(RingError::Away) => base,
                used => used?,
            };
        Ok(ring)
    }

    /// Where it lies.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The next entry of the available ring that will be popped.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Looks the ring up in `memory`, for one batch.
    pub fn open<'a>(&'a mut self, memory: &'a Memory) -> Result<View<'a>, RingError> {
        let Layout { size, descriptors, available, used } = self.layout;
        let size = u64::from(size);
        // Of far memory, what is needed is fetched when it is.
        let part = |addr, len| memory.unfetched(addr, len).ok_or(RingError::Unmapped(addr));
        // The two bytes after the entries are the other side's event index.
        let event = if self.event_idx { 2 } else { 0 };
        Ok(View {
            descriptors: part(descriptors, DESCRIPTOR_BYTES * size)?,
            available: part(available, ENTRIES as u64 + 2 * size + event)?,
            used: memory.target(used, ENTRIES as u64 + 8 * size + event).ok_or(RingError::Unmapped(used))?,
            memory,
            ring: self,
            fenced: false,
        })
    }
}

#[derive(Clone, Copy)]
enum Part {
    Descriptors,
    Available,
    Used,
}

/// A ring while one batch of its chains is served.
#[derive(Debug)]
pub struct View<'a> {
    ring: &'a mut Ring,
    memory: &'a Memory,
    descriptors: VolatileSlice<'a>,
    available: VolatileSlice<'a>,
    used: VolatileSlice<'a>,
    /// Whether what we wrote is visible before anything that is read from now on.
    fenced: bool,
}

impl View<'_> {
    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.ring.layout.size
    }

    /// How many chains the driver has made available.
    pub fn pending(&self) -> Result<u16, RingError> {
        self.fetch(Part::Available, INDEX, 2)?;
        // Acquire: the entries and descriptors that were written before the index are seen.
        let available = self.load(Part::Available, INDEX, Ordering::Acquire)?;
        let (next, size) = (self.ring.next_available, self.ring.layout.size);
        let pending = available.wrapping_sub(next);
        if pending > size {
            return Err(RingError::Index { available, next, size });
        }
        if pending > 0 && self.is_far() {
            // After the index, as the driver wrote them before it.
            self.fetch(Part::Available, ENTRIES, 2 * usize::from(size))?;
            self.fetch(Part::Descriptors, 0, self.descriptors.len())?;
        }
        Ok(pending)
    }

    /// Takes the next chain, of which [`pending`](Self::pending) told, and reads it into `chain`.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Popped, RingError> {
        let size = self.ring.layout.size;
        let slot = usize::from(self.ring.next_available & (size - 1));
        let head = self.load(Part::Available, ENTRIES + 2 * slot, Ordering::Relaxed)?;
        if head >= size {
            return Err(RingError::Head { head, size });
        }
        let before = self.interruptions();
        let read = chain.read(self.memory, self.descriptors, head, self.ring.indirect);
        if read.is_err() && self.interruptions() != before {
            return Err(RingError::Away);
        }
        self.ring.next_available = self.ring.next_available.wrapping_add(1);
        Ok(match read {
            Ok(()) => Popped::Chain { head },
            Err(why) => Popped::Bad { head, why },
        })
    }

    /// Gives the chain that starts at `head` back, with `len` bytes written.
    pub fn push(&mut self, head: u16, len: u32) -> Result<(), RingError> {
        let slot = usize::from(self.ring.next_used & (self.ring.layout.size - 1));
        let entry = u64::from(head) | u64::from(len) << 32;
        let stored = self.used.get_ref::<u64>(ENTRIES + 8 * slot);
        stored.map_err(|_| RingError::Unmapped(self.ring.layout.used))?.store(entry.to_le());
        self.written(ENTRIES + 8 * slot, 8)?;
        self.ring.next_used = self.ring.next_used.wrapping_add(1);
        self.ring.news = true;
        self.fenced = false;
        // Release: whoever sees the index sees the entry and the reply.
        self.store(INDEX, self.ring.next_used, Ordering::Release)
    }

    /// Asks for no kicks while chains are popped anyway. With EVENT_IDX nothing is needed: the index that the driver
    /// compares stays where it is.
    pub fn silence(&mut self) -> Result<(), RingError> {
        if self.ring.event_idx { Ok(()) } else { self.store(0, NO_NOTIFY, Ordering::Relaxed) }
    }

    /// Asks for a kick at the next chain; returns how many have become available meanwhile, for which none may come.
    pub fn listen(&mut self) -> Result<u16, RingError> {
        self.listen_past(0)
    }

    /// Asks for a kick at the next chain after the `known` ones that are available; returns how many are now.
    pub fn listen_past(&mut self, known: u16) -> Result<u16, RingError> {
        if self.ring.event_idx {
            let event = ENTRIES + 8 * usize::from(self.ring.layout.size);
            self.store(event, self.ring.next_available.wrapping_add(known), Ordering::Relaxed)?;
        } else {
            self.store(0, 0, Ordering::Relaxed)?;
        }
        // The driver writes its index and then reads what we wrote; we do it the other way round. Both fence.
        fence(Ordering::SeqCst);
        self.fenced = true;
        self.pending()
    }

    /// Whether the driver wants to be told of what was given back since the last time.
    pub fn wants_interrupt(&mut self) -> Result<bool, RingError> {
        if !std::mem::take(&mut self.ring.news) {
            return Ok(false);
        }
        // As above: our index is written before the driver's wish is read.
        if !std::mem::replace(&mut self.fenced, true) {
            fence(Ordering::SeqCst);
        }
        let new = self.ring.next_used;
        let told = self.ring.told.replace(new);
        let event = match self.ring.event_idx {
            true => ENTRIES + 2 * usize::from(self.ring.layout.size),
            false => 0,
        };
        match self.fetch(Part::Available, event, 2) {
            // One interrupt too many harms nobody.
            Err(RingError::Away) => return Ok(true),
            fetched => fetched?,
        }
        if !self.ring.event_idx {
            return Ok(self.load(Part::Available, event, Ordering::Relaxed)? & NO_INTERRUPT == 0);
        }
        let event = self.load(Part::Available, event, Ordering::Relaxed)?;
        Ok(told.is_none_or(|told| passes(event, told, new)))
    }

    fn load(&self, part: Part, offset: usize, order: Ordering) -> Result<u16, RingError> {
        let (slice, addr) = self.part(part);
        slice.load::<u16>(offset, order).map(u16::from_le).map_err(|_| RingError::Unmapped(addr))
    }

    fn store(&self, offset: usize, value: u16, order: Ordering) -> Result<(), RingError> {
        let stored = self.used.store(value.to_le(), offset, order);
        stored.map_err(|_| RingError::Unmapped(self.ring.layout.used))?;
        self.written(offset, 2)
    }

    fn part(&self, part: Part) -> (&VolatileSlice<'_>, u64) {
        match part {
            Part::Descriptors => (&self.descriptors, self.ring.layout.descriptors),
            Part::Available => (&self.available, self.ring.layout.available),
            Part::Used => (&self.used, self.ring.layout.used),
        }
    }

    fn is_far(&self) -> bool {
        self.memory.far().is_some()
    }

    /// How often far memory could not be had although it is there.
    fn interruptions(&self) -> u64 {
        self.memory.far().map_or(0, |far| far.interruptions())
    }

    /// Has a part of the ring show what the driver wrote. Nothing to do where it is mapped.
    #[inline]
    fn fetch(&self, part: Part, offset: usize, len: usize) -> Result<(), RingError> {
        if !self.is_far() {
            return Ok(());
        }
        let (_, addr) = self.part(part);
        let before = self.interruptions();
        match self.memory.fetch(addr + offset as u64, len as u64) {
            true => Ok(()),
            false if self.interruptions() != before => Err(RingError::Away),
            false => Err(RingError::Unmapped(addr)),
        }
    }

    /// Shows the driver what we wrote into the used ring. Nothing to do where it is mapped.
    #[inline]
    fn written(&self, offset: usize, len: usize) -> Result<(), RingError> {
        let addr = self.ring.layout.used;
        match self.memory.written(addr + offset as u64, len as u64) {
            true => Ok(()),
            false => Err(RingError::Unmapped(addr)),
        }
    }
}

/// Whether an index that moved from `old` to `new` passed `event` (virtio 1.3, section 2.7.7).
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

// An index is loaded and stored whole, never torn (RUSTSEC-2020-0157): u16 has an atomic type of the same size.
const _: () = assert!(size_of::<AtomicU16>() == size_of::<u16>());

#[cfg(test)]
mod tests;
