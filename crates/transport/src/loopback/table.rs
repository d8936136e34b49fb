//! Tables of memory for tests.

use std::sync::Arc;

use device::{Memory, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

/// A table of shared memory, as a VMM gives it. Panics when it cannot be had.
pub fn table(shape: &[(u64, u64)]) -> Memory {
    with(&Memory::empty(), shape)
}

/// What `memory` has, and more. Panics when it cannot be had.
pub fn with(memory: &Memory, shape: &[(u64, u64)]) -> Memory {
    let more = shape.iter().map(|&(start, len)| {
        let mapping = shared(len).unwrap_or_else(|error| panic!("No memory for the guest: {error}"));
        Region { start, len, mapping: Arc::new(mapping), offset: 0, usable: true }
    });
    Memory::new(memory.regions().iter().cloned().chain(more).collect()).unwrap_or_else(|error| panic!("{error}"))
}

fn shared(len: u64) -> std::io::Result<MmapRegion> {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len)?;
    let len = usize::try_from(len).map_err(std::io::Error::other)?;
    MmapRegion::from_file(FileOffset::new(fd.into(), 0), len).map_err(std::io::Error::other)
}
