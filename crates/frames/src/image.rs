//! Memory for pictures: written by the device, read by the viewer.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::{Format, Geometry, MAX_IMAGE_BYTES};

/// Why memory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing to share, or more than [`MAX_IMAGE_BYTES`].
    #[error("A shared image of {0} bytes is outside 1 to {MAX_IMAGE_BYTES}")]
    Size(u64),
    /// The other side could truncate it under our mapping.
    #[error("Shared memory without the seal against shrinking")]
    Unsealed,
    /// The fd holds less than was said.
    #[error("Shared memory of {actual} bytes where {said} were announced")]
    Short {
        /// Announced by the peer.
        said: u64,
        /// Found.
        actual: u64,
    },
    /// The kernel refused.
    #[error("Cannot share memory")]
    System(#[from] rustix::io::Errno),
    /// The mapping failed.
    #[error("Cannot map shared memory")]
    Map(#[from] vm_memory::mmap::MmapRegionError),
}

/// Device side: memory of pictures that viewers may read. Cheap to clone; all clones are the same memory.
#[derive(Clone, Debug)]
pub struct SharedImage(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) size: u64,
    fd: OwnedFd,
    memory: Option<MmapRegion>,
}

impl SharedImage {
    /// New memory, all zero, mapped writable here; sealed so that nobody else can write it and nobody can change its size.
    pub fn create(size: u64) -> Result<Self, ImageError> {
        let length = checked(size)?;
        let fd = memfd_create("beamsplit-frame", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, size)?;
        let memory = map(&fd, length, libc::PROT_READ | libc::PROT_WRITE)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals)?;
        Ok(Self::of(fd, size, Some(memory)))
    }

    /// Memory that somebody else made and mapped. It must be sealed against shrinking, and **all** of it can be read by the viewer.
    pub fn adopt(fd: OwnedFd) -> Result<Self, ImageError> {
        let size = sealed_size(fd.as_fd())?;
        checked(size)?;
        Ok(Self::of(fd, size, None))
    }

    fn of(fd: OwnedFd, size: u64, memory: Option<MmapRegion>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Shared { id, size, fd, memory }))
    }

    /// Its number, never used twice in a process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// All bytes, to write pixels into; none when the memory was adopted.
    pub fn slice(&self) -> Option<VolatileSlice<'_>> {
        self.0.memory.as_ref().map(|memory| memory.as_volatile_slice())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

/// Viewer side: a picture, mapped read-only. The device may write into it at any time, so each pixel is read once.
#[derive(Clone, Debug)]
pub struct View {
    memory: Arc<MmapRegion>,
    geometry: Geometry,
}

impl View {
    pub(crate) fn new(memory: Arc<MmapRegion>, geometry: Geometry) -> Option<Self> {
        geometry.fits(memory.size() as u64).then_some(Self { memory, geometry })
    }

    /// Size and format.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Copies the bytes of `row` from column `x` on into `pixels`, as many pixels as both have; returns that number.
    pub fn read_row(&self, x: u32, row: u32, pixels: &mut [u8]) -> usize {
        let geometry = &self.geometry;
        if x >= geometry.width || row >= geometry.height {
            return 0;
        }
        let wanted = (pixels.len() / Format::BYTES as usize).min((geometry.width - x) as usize);
        let offset =
            geometry.offset + u64::from(row) * u64::from(geometry.stride) + u64::from(x) * u64::from(Format::BYTES);
        let bytes = wanted * Format::BYTES as usize;
        match self.memory.get_slice(offset as usize, bytes) {
            Ok(slice) => slice.copy_to(&mut pixels[..bytes]) / Format::BYTES as usize,
            Err(_) => 0,
        }
    }
}

/// Maps what a device announced, if it cannot vanish under the mapping.
pub(crate) fn map_announced(fd: OwnedFd, said: u64) -> Result<Arc<MmapRegion>, ImageError> {
    let length = checked(said)?;
    let actual = sealed_size(fd.as_fd())?;
    if actual < said {
        return Err(ImageError::Short { said, actual });
    }
    Ok(Arc::new(map(&fd, length, libc::PROT_READ)?))
}

fn checked(size: u64) -> Result<usize, ImageError> {
    match usize::try_from(size) {
        Ok(length) if (1..=MAX_IMAGE_BYTES).contains(&size) => Ok(length),
        _ => Err(ImageError::Size(size)),
    }
}

/// The size, which the seal keeps from shrinking. The seal is looked at first: afterwards the size can only grow.
fn sealed_size(fd: BorrowedFd) -> Result<u64, ImageError> {
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => Ok(fstat(fd)?.st_size.max(0) as u64),
        _ => Err(ImageError::Unsealed),
    }
}

fn map(fd: &OwnedFd, length: usize, protection: i32) -> Result<MmapRegion, ImageError> {
    // The mapping keeps the memory alive: the duplicate that the builder wants is closed with the region's file offset.
    let file = File::from(
        fd.try_clone().map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::MFILE))?,
    );
    let region = MmapRegionBuilder::new(length)
        .with_mmap_prot(protection)
        .with_mmap_flags(libc::MAP_SHARED)
        .with_file_offset(FileOffset::new(file, 0))
        .build()?;
    Ok(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn new_memory_is_zero_and_its_size_and_content_are_ours_alone() {
        let image = SharedImage::create(4096).unwrap();
        let mut bytes = [1u8; 4096];
        image.slice().unwrap().copy_to(&mut bytes[..]);
        assert!(bytes == [0; 4096]);
        assert!(ftruncate(image.fd(), 0).is_err());
        assert!(ftruncate(image.fd(), 8192).is_err());
        let fd = image.fd().try_clone_to_owned().unwrap();
        assert!(map(&fd, 4096, libc::PROT_READ | libc::PROT_WRITE).is_err(), "a viewer could write the pixels");
        assert!(rustix::io::write(&fd, b"x").is_err());
    }

    #[test]
    fn what_the_device_writes_the_viewer_reads() {
        let image = SharedImage::create(64).unwrap();
        let geometry = Geometry { offset: 8, width: 2, height: 2, stride: 16, format: Format::B8G8R8X8 };
        let memory = map_announced(image.fd().try_clone_to_owned().unwrap(), 64).unwrap();
        let view = View::new(memory, geometry).unwrap();
        image.slice().unwrap().offset(8 + 16 + 4).unwrap().copy_from(&[1u8, 2, 3, 4]);
        let mut row = [9; 12];
        assert_eq!(view.read_row(0, 1, &mut row), 2);
        assert_eq!(row, [0, 0, 0, 0, 1, 2, 3, 4, 9, 9, 9, 9]);
        assert_eq!(view.read_row(0, 2, &mut row), 0);
        assert_eq!(view.read_row(2, 0, &mut row), 0);
    }

    #[test]
    fn memory_that_could_be_truncated_under_the_viewer_is_refused() {
        let map = |fd, said| map_announced(fd, said).map(drop);
        assert!(matches!(map(memfd(4096, SealFlags::GROW), 4096), Err(ImageError::Unsealed)));
        assert!(matches!(map(memfd(4096, SealFlags::SHRINK), 4097), Err(ImageError::Short { .. })));
        assert!(matches!(map(memfd(4096, SealFlags::SHRINK), 0), Err(ImageError::Size(0))));
        assert!(matches!(map(memfd(1, SealFlags::SHRINK), u64::MAX), Err(ImageError::Size(_))));
        let file = tempfile();
        assert!(matches!(map(file, 1), Err(ImageError::Unsealed)));
        assert!(matches!(SharedImage::adopt(tempfile()), Err(ImageError::Unsealed)));
    }

    /// Something that is no memfd.
    fn tempfile() -> OwnedFd {
        rustix::pipe::pipe().unwrap().0
    }

    #[test]
    fn a_view_outside_its_memory_does_not_exist() {
        let memory = map_announced(memfd(64, SealFlags::SHRINK), 64).unwrap();
        assert!(View::new(memory.clone(), Geometry::packed(4, 4, Format::R8G8B8A8)).is_some());
        assert!(View::new(memory, Geometry::packed(4, 5, Format::R8G8B8A8)).is_none());
    }
}
