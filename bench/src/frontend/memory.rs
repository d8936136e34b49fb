//! The guest's memory: memfds that the front-end shares with the device.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::error::{Doing, Error, Result};

/// What is added to a guest address to get the address that the "VMM" claims to have mapped it at. It differs from
/// both real mappings, so a device that mixes up the address spaces is found out.
pub const USER_OFFSET: u64 = 0x7a00_0000_0000;

/// One piece of guest memory.
#[derive(Debug)]
pub struct Region {
    /// Where the guest sees it.
    pub guest: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where it starts in its file.
    pub offset: u64,
    file: Arc<File>,
    map: MmapRegion<()>,
}

impl Region {
    /// The file behind it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The region as SET_MEM_TABLE and ADD_MEM_REG describe it: guest address, size, user address, offset.
    pub fn describe(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (at, word) in [self.guest, self.size, self.guest + USER_OFFSET, self.offset].into_iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// All memory of the guest, with an allocator that only moves forward.
#[derive(Debug)]
pub struct Memory {
    regions: Vec<Region>,
    next: AtomicU64,
}

impl Memory {
    /// Makes one memfd for each (guest address, size).
    pub fn new(regions: &[(u64, u64)]) -> Result<Self> {
        let regions = regions.iter().map(|&(guest, size)| make_region(guest, size)).collect::<Result<Vec<_>>>()?;
        // Address 0 stays unused, so that a forgotten address is noticed.
        let next = AtomicU64::new(regions.first().map_or(0, |first| first.guest + 0x1000));
        Ok(Self { regions, next })
    }

    /// The regions in the order of the memory table.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Takes `length` bytes of the first region; they read as zero at first use.
    pub fn allocate(&self, length: u64, align: u64) -> Result<u64> {
        let full = Error::MemoryFull(length);
        let Some(first) = self.regions.first() else { return Err(full) };
        let start = self.next.load(Ordering::Relaxed).next_multiple_of(align.max(1));
        let end = start.saturating_add(length);
        if end > first.guest + first.size {
            return Err(full);
        }
        self.next.store(end, Ordering::Relaxed);
        Ok(start)
    }

    /// Where the allocator stands: see [`Memory::release`].
    pub fn mark(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Gives back everything that was allocated since the [`Memory::mark`].
    pub fn release(&self, mark: u64) {
        self.next.store(mark, Ordering::Relaxed);
    }

    /// Writes bytes.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let (map, offset) = self.find(address, bytes.len() as u64)?;
        map.as_volatile_slice().write_slice(bytes, offset).map_err(|_| outside(address, bytes.len() as u64))
    }

    /// Reads bytes.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        let (map, offset) = self.find(address, into.len() as u64)?;
        map.as_volatile_slice().read_slice(into, offset).map_err(|_| outside(address, into.len() as u64))
    }

    /// Reads `length` bytes into a vector.
    pub fn read_vec(&self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a u16 that the device writes too.
    pub fn load_u16(&self, address: u64) -> Result<u16> {
        let (map, offset) = self.find(address, 2)?;
        map.as_volatile_slice().load(offset, Ordering::Acquire).map_err(|_| outside(address, 2))
    }

    /// Writes a u16 that the device reads too.
    pub fn store_u16(&self, address: u64, value: u16) -> Result<()> {
        let (map, offset) = self.find(address, 2)?;
        map.as_volatile_slice().store(value, offset, Ordering::Release).map_err(|_| outside(address, 2))
    }

    fn find(&self, address: u64, length: u64) -> Result<(&MmapRegion<()>, usize)> {
        for region in &self.regions {
            if let Some(offset) = address.checked_sub(region.guest)
                && offset.checked_add(length).is_some_and(|end| end <= region.size)
            {
                return Ok((&region.map, offset as usize));
            }
        }
        Err(outside(address, length))
    }
}

fn outside(address: u64, length: u64) -> Error {
    Error::OutsideMemory { address, length }
}

fn make_region(guest: u64, size: u64) -> Result<Region> {
    let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .doing("make a memfd for the guest's memory")?;
    rustix::fs::ftruncate(&fd, size).doing("size the guest's memory")?;
    let file = Arc::new(File::from(fd));
    let map = MmapRegion::from_file(FileOffset::from_arc(file.clone(), 0), size as usize)
        .map_err(|error| Error::Io { what: "map the guest's memory", source: std::io::Error::other(error) })?;
    Ok(Region { guest, size, offset: 0, file, map })
}
