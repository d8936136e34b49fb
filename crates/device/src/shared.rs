//! Images in memory that another process can map.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::display::{Pixels, Shared};

/// A memfd and our mapping of it. Whoever gets the file can neither write it nor change its size.
#[derive(Debug)]
pub struct SharedImage {
    id: u64,
    region: MmapRegion,
}

impl SharedImage {
    /// New memory, all zero.
    pub fn new(len: u64) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // The last moment at which a writable mapping can be made.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        let region = map_new("beamsplit-image", len, seals)?;
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), region })
    }

    /// All of its bytes.
    pub fn slice(&self) -> VolatileSlice<'_> {
        self.region.as_volatile_slice()
    }

    /// What a frame says of it.
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        let file = self.region.file_offset()?.file();
        Some(Pixels::Shared(Shared { id: self.id, file, slice: self.slice() }))
    }
}

/// A new memfd of `len` zero bytes, mapped and then sealed.
pub(crate) fn map_new(name: &str, len: u64, seals: SealFlags) -> io::Result<MmapRegion> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len)?;
    let size = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let region = MmapRegion::from_file(FileOffset::new(File::from(fd), 0), size).map_err(io::Error::other)?;
    if let Some(file) = region.file_offset() {
        fcntl_add_seals(file.file(), seals)?;
    }
    Ok(region)
}
