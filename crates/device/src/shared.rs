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
        let image = Self::unsealed(len)?;
        image.seal()?;
        Ok(image)
    }

    /// As [`new`](Self::new), but until [`seal`](Self::seal) whoever gets the file can map it for writing: who draws into it.
    pub fn unsealed(len: u64) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let region = map_new("beamsplit-image", len, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), region })
    }

    /// No new writable mapping can be made from now on. Those that there are stay.
    pub fn seal(&self) -> io::Result<()> {
        let file = self.file().ok_or(io::ErrorKind::NotFound)?;
        Ok(fcntl_add_seals(file, SealFlags::FUTURE_WRITE | SealFlags::SEAL)?)
    }

    /// The memfd.
    pub fn file(&self) -> Option<&File> {
        Some(self.region.file_offset()?.file())
    }

    /// All of its bytes.
    pub fn slice(&self) -> VolatileSlice<'_> {
        self.region.as_volatile_slice()
    }

    /// What a frame says of it.
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        let file = self.file()?;
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
