//! Where an image's pixels are.

use std::fs::File;

use device::{Pages, Pixels, Shared};
use frames::SharedImage;
use memmap2::MmapMut;
use protocol::ReplyError;

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
    /// Moved to where another process can map it. The file is the image's, for who passes it on.
    Shared(SharedImage, File),
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
        let Ok(image) = SharedImage::create(len) else { return false };
        let (Some(slice), Ok(file)) = (image.slice(), image.fd().try_clone_to_owned()) else { return false };
        match self {
            Storage::Unmade => {}
            Storage::Heap(bytes) => slice.copy_from(&bytes[..]),
            Storage::Mapped(bytes) => slice.copy_from(&bytes[..]),
            Storage::Shared(..) => return true,
        }
        *self = Storage::Shared(image, File::from(file));
        true
    }

    /// Whether another process can map it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Storage::Shared(..))
    }

    /// The bytes; none before [`make`](Self::make).
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        match self {
            Storage::Unmade => None,
            Storage::Heap(bytes) => Some(Pixels::Private(bytes)),
            Storage::Mapped(bytes) => Some(Pixels::Private(bytes)),
            Storage::Shared(image, file) => {
                Some(Pixels::Shared(Shared { id: image.id(), file, slice: image.slice()? }))
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
            Storage::Shared(image, _) => pages.read_volatile(source, image.slice()?.subslice(target, len).ok()?),
        }
    }

    /// Replaces the bytes by as many others.
    pub fn put(&mut self, pixels: &[u8]) {
        match self {
            Storage::Unmade => {}
            Storage::Heap(bytes) => bytes.copy_from_slice(pixels),
            Storage::Mapped(bytes) => bytes.copy_from_slice(pixels),
            Storage::Shared(image, _) => {
                if let Some(slice) = image.slice() {
                    slice.copy_from(pixels);
                }
            }
        }
    }
}
