//! Where an image's pixels are.

use device::{Pixels, SharedImage};
use memmap2::{Advice, MmapMut};
use protocol::ReplyError;
use vm_memory::VolatileSlice;

/// From this size on an image is mapped on its own: zeroed by the kernel page by page when first touched, and given
/// back to the kernel when it goes.
const MAPPED_FROM: usize = 64 << 10;

/// From this size on large pages are asked for: rows of a picture are pages apart, and each page costs a walk of the tables.
const LARGE_PAGES_FROM: usize = 2 << 20;

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
    Shared(SharedImage),
}

impl Storage {
    /// Makes room for `len` zero bytes if there is none yet.
    pub fn make(&mut self, len: u64) -> Result<(), ReplyError> {
        if !matches!(self, Storage::Unmade) {
            return Ok(());
        }
        let len = usize::try_from(len).map_err(|_| ReplyError::OutOfMemory)?;
        *self = if len >= MAPPED_FROM {
            let bytes = MmapMut::map_anon(len).map_err(|_| ReplyError::OutOfMemory)?;
            if len >= LARGE_PAGES_FROM {
                // A kernel that has none gives small ones.
                let _ = bytes.advise(Advice::HugePage);
            }
            Storage::Mapped(bytes)
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
        let Ok(shared) = SharedImage::new(len) else { return false };
        let slice = shared.slice();
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
            Storage::Shared(shared) => shared.pixels(),
        }
    }

    /// The `len` bytes at `start`, to be written; `None` when they are not there.
    pub fn target(&mut self, start: u64, len: u64) -> Option<Target<'_>> {
        let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
        let range = start..start.checked_add(len)?;
        match self {
            Storage::Unmade => None,
            Storage::Heap(bytes) => Some(Target::Private(bytes.get_mut(range)?)),
            Storage::Mapped(bytes) => Some(Target::Private(bytes.get_mut(range)?)),
            Storage::Shared(shared) => Some(Target::Shared(shared.slice().subslice(start, len).ok()?)),
        }
    }

    /// Replaces the bytes by as many others.
    pub fn put(&mut self, pixels: &[u8]) {
        match self {
            Storage::Unmade => {}
            Storage::Heap(bytes) => bytes.copy_from_slice(pixels),
            Storage::Mapped(bytes) => bytes.copy_from_slice(pixels),
            Storage::Shared(shared) => shared.slice().copy_from(pixels),
        }
    }
}

/// Bytes of an image that are written.
pub enum Target<'a> {
    /// Nobody else sees them.
    Private(&'a mut [u8]),
    /// Others may read them at the same time.
    Shared(VolatileSlice<'a>),
}

impl Target<'_> {
    /// Copies guest memory to position `at`, each byte read once. `None`, and nothing done, past the end.
    #[inline]
    pub fn write(&mut self, at: usize, bytes: VolatileSlice<'_>) -> Option<()> {
        match self {
            Target::Private(target) => {
                bytes.copy_to(target.get_mut(at..at.checked_add(bytes.len())?)?);
            }
            Target::Shared(target) => bytes.copy_to_volatile_slice(target.subslice(at, bytes.len()).ok()?),
        }
        Some(())
    }
}
