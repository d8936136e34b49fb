//! The driver's side of a split virtqueue, for the in-process guest.

use device::Memory;
use std::sync::atomic::{Ordering, fence};
use vm_memory::Bytes;

use crate::feature;
use crate::ring::Layout;

/// Another descriptor follows.
pub const NEXT: u16 = 1;
/// The device may write here.
pub const WRITE: u16 = 2;
/// The descriptor points at a table of descriptors.
pub const INDIRECT: u16 = 4;

/// A descriptor as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// The 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        let rest = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..].copy_from_slice(&rest.to_le_bytes());
        bytes
    }
}

/// A chain that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain's first descriptor, as the device wrote it.
    pub head: u32,
    /// Bytes written, as the device wrote it.
    pub len: u32,
}

/// A queue as its driver sees it.
#[derive(Clone, Debug)]
pub struct DriverQueue {
    layout: Layout,
    event_idx: bool,
    free: Vec<u16>,
    /// Descriptors of the chain that starts at each head.
    chains: Vec<Vec<u16>>,
    next_available: u16,
    next_used: u16,
}

impl DriverQueue {
    /// A queue at `layout`, with nothing made available.
    pub fn new(layout: Layout, features: u64) -> Self {
        Self {
            layout,
            event_idx: features & feature::EVENT_IDX != 0,
            free: (0..layout.size).rev().collect(),
            chains: vec![Vec::new(); usize::from(layout.size)],
            next_available: 0,
            next_used: 0,
        }
    }

    /// Where the ring lies.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Writes a chain's descriptors; `None` when there are not enough.
    pub fn chain(&mut self, memory: &Memory, buffers: &[Descriptor]) -> Option<u16> {
        let start = self.free.len().checked_sub(buffers.len())?;
        let indices = self.free.split_off(start);
        let head = *indices.first()?;
        for (at, (buffer, index)) in buffers.iter().zip(&indices).enumerate() {
            let mut descriptor = *buffer;
            if let Some(next) = indices.get(at + 1) {
                descriptor.flags |= NEXT;
                descriptor.next = *next;
            }
            self.write_descriptor(memory, *index, descriptor);
        }
        self.chains[usize::from(head)] = indices;
        Some(head)
    }

    /// Makes a chain available, not yet visible.
    pub fn offer(&mut self, memory: &Memory, head: u16) {
        self.write_available(memory, self.next_available, head);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Makes what was offered visible; returns whether the device wants a kick.
    pub fn publish(&mut self, memory: &Memory) -> bool {
        let Layout { size, used, .. } = self.layout;
        let old = self.read(memory, self.layout.available + 2);
        self.write_index(memory, self.next_available);
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return self.read(memory, used) & 1 == 0;
        }
        let event = self.read(memory, used + 4 + 8 * u64::from(size));
        let new = self.next_available;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Takes the next chain that was given back, and asks to be told of the one after it.
    pub fn take(&mut self, memory: &Memory) -> Option<Used> {
        let Layout { size, available, used, .. } = self.layout;
        let index = self.read(memory, used + 2);
        fence(Ordering::Acquire);
        if index == self.next_used {
            return None;
        }
        let mut entry = [0; 8];
        let slot = u64::from(self.next_used % size);
        memory.slice(used + 4 + 8 * slot, 8)?.copy_to(&mut entry);
        self.next_used = self.next_used.wrapping_add(1);
        if self.event_idx {
            self.write(memory, available + 4 + 2 * u64::from(size), self.next_used);
            fence(Ordering::SeqCst);
        }
        let [head, len] = [0, 4].map(|at| entry[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word)));
        if let Some(chain) = self.chains.get_mut(head as usize) {
            self.free.append(chain);
        }
        Some(Used { head, len })
    }

    /// Overwrites one descriptor of the table.
    pub fn write_descriptor(&self, memory: &Memory, index: u16, descriptor: Descriptor) {
        let at = self.layout.descriptors + 16 * u64::from(index);
        if let Some(slice) = memory.slice(at, 16) {
            slice.copy_from(&descriptor.to_bytes());
        }
    }

    /// Overwrites one entry of the available ring.
    pub fn write_available(&self, memory: &Memory, slot: u16, head: u16) {
        self.write(memory, self.layout.available + 4 + 2 * u64::from(slot % self.layout.size.max(1)), head);
    }

    /// Overwrites the available ring's index.
    pub fn write_index(&self, memory: &Memory, index: u16) {
        fence(Ordering::Release);
        self.write(memory, self.layout.available + 2, index);
    }

    /// Overwrites the available ring's flags: 1 asks for no interrupts.
    pub fn write_flags(&self, memory: &Memory, flags: u16) {
        self.write(memory, self.layout.available, flags);
    }

    /// The next entry that the device will look at, if it has looked at all before it.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    fn read(&self, memory: &Memory, addr: u64) -> u16 {
        let loaded = memory.slice(addr, 2).and_then(|slice| slice.load::<u16>(0, Ordering::Acquire).ok());
        loaded.map_or(0, u16::from_le)
    }

    fn write(&self, memory: &Memory, addr: u64, value: u16) {
        if let Some(slice) = memory.slice(addr, 2) {
            // A misaligned ring is what some tests want; nothing is written then.
            let _ = slice.store(value.to_le(), 0, Ordering::Release);
        }
    }
}
