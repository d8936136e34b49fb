//! Where an image's pixels are.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use device::{Pages, Pixels, Shared};
use memmap2::MmapMut;
use protocol::ReplyError;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// From this size on an image is mapped on its own: zeroed by the kernel page by page when first touched, and given
/// back to the kernel when it goes.
const MAPPED_FROM: usize = 64 << 10;

/// An image's bytes. No guest can make an allocation fail so that the process ends: each reports its failure.
#[derive(Debug, Default)]
pub enum Storage {
    /// Nobody has written or read a pixel yet: all of them are zero.
    #[default]
    Unmade,
    /// Small.
    Heap(Vec<u8>),
    /// Large.
    Mapped(MmapMut),
    /// Moved to where another process can map it.
    Shared(SharedMemory),
}

impl Storage {
    /// Makes room for `len` zero bytes if there is none yet.
    pub fn make(&mut self, len: u64) -> Result<(), ReplyError> {
        if !matches!(self, Storage::Unmade) {
            return Ok(());
        }
        let len = usize::try_from(len).map_err(|_| ReplyError::OutOfMemory)?;
        *self = if len >= MAPPED_FROM {
            Storage::Mapped(MmapMut::map_anon(len).map_err(|_| ReplyError::OutOfMemory)?)
        } else {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| ReplyError::OutOfMemory)?;
            bytes.resize(len, 0);
            Storage::Heap(bytes)
        };
        Ok(())
    }

    /// Moves the bytes, `len` of them, to where another process can map them. Whether that went well; if not, they
    /// are where they were.
    pub fn share(&mut self, len: u64) -> bool {
        let Some(shared) = SharedMemory::new(len) else { return false };
        let slice = shared.region.as_volatile_slice();
        match self {
            Storage::Unmade => {}
            Storage::Heap(bytes) => slice.copy_from(&bytes[..]),
            Storage::Mapped(bytes) => slice.copy_from(&bytes[..]),
            Storage::Shared(_) => return true,
        }
        *self = Storage::Shared(shared);
        true
    }

    /// Whether another process can map it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Storage::Shared(_))
    }

    /// The bytes; none before [`make`](Self::make).
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        match self {
            Storage::Unmade => None,
            Storage::Heap(bytes) => Some(Pixels::Private(bytes)),
            Storage::Mapped(bytes) => Some(Pixels::Private(bytes)),
            Storage::Shared(SharedMemory { id, region }) => {
                let file = region.file_offset()?.file();
                Some(Pixels::Shared(Shared { id: *id, file, slice: region.as_volatile_slice() }))
            }
        }
    }

    /// Copies `len` bytes at `source` of `pages` to `target`. `None`, and nothing done, when either range is not
    /// there.
    pub fn fill(&mut self, target: u64, len: u64, pages: &Pages<'_>, source: u64) -> Option<()> {
        let (target, len) = (usize::try_from(target).ok()?, usize::try_from(len).ok()?);
        let range = target..target.checked_add(len)?;
        match self {
            Storage::Unmade => None,
            Storage::Heap(bytes) => pages.read(source, bytes.get_mut(range)?),
            Storage::Mapped(bytes) => pages.read(source, bytes.get_mut(range)?),
            Storage::Shared(shared) => pages.read_volatile(source, shared.region.get_slice(target, len).ok()?),
        }
    }

    /// Replaces the bytes by as many others.
    pub fn put(&mut self, pixels: &[u8]) {
        match self {
            Storage::Unmade => {}
            Storage::Heap(bytes) => bytes.copy_from_slice(pixels),
            Storage::Mapped(bytes) => bytes.copy_from_slice(pixels),
            Storage::Shared(shared) => shared.region.as_volatile_slice().copy_from(pixels),
        }
    }
}

/// A memfd and our mapping of it.
#[derive(Debug)]
pub struct SharedMemory {
    id: u64,
    region: MmapRegion,
}

impl SharedMemory {
    /// New memory, all zero. Whoever gets the file can neither write it nor change its size.
    fn new(len: u64) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let fd = memfd_create("beamsplit-image", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
        ftruncate(&fd, len).ok()?;
        let region = MmapRegion::from_file(FileOffset::new(File::from(fd), 0), usize::try_from(len).ok()?).ok()?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        fcntl_add_seals(region.file_offset()?.file(), seals).ok()?;
        Some(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), region })
    }
}
