//! Files of guest memory, mapped: guarded against being cut short, and each mapped once.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{FileType, SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;
use thiserror::Error;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

use crate::sigbus;

/// The smallest piece that a file has or has not.
const PAGE: u64 = 4096;

/// Why a piece of a file cannot be mapped.
#[derive(Debug, Error)]
pub(crate) enum MapFailure {
    /// Sums that no address space holds.
    #[error("It is impossibly large")]
    Huge,
    /// The file ends before the piece does.
    #[error("It needs {needed:#x} bytes of a file that has {has:#x}")]
    Short {
        /// Where the piece ends in the file.
        needed: u64,
        /// Where the file ends.
        has: u64,
    },
    /// What the descriptor is of has no pages, or cannot be shared.
    #[error("{0}")]
    Refused(String),
    /// More mappings than can be guarded.
    #[error("There are too many mappings")]
    TooMany,
}

impl From<Errno> for MapFailure {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno.to_string())
    }
}

impl From<MmapRegionError> for MapFailure {
    fn from(error: MmapRegionError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// A piece of a file in our address space.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub mapping: Arc<MmapRegion>,
    /// Where in the mapping the piece begins, in bytes.
    pub offset: usize,
}

impl Mapped {
    /// Whether the page at `offset` of the piece is not in the file: nobody wrote to it, neither through this mapping nor
    /// through another shared one. To be asked before it is read, which may put it there.
    pub fn is_hole(&self, offset: u64) -> bool {
        let Some(file) = self.mapping.file_offset() else { return false };
        let at = file.start() + self.offset as u64 + offset;
        match seek(file.file(), SeekFrom::Data(at)) {
            Ok(data) => data / PAGE > at / PAGE,
            Err(error) => error == Errno::NXIO,
        }
    }
}

/// Maps `size` bytes from `offset` on, shared and writable.
pub(crate) fn map(fd: OwnedFd, offset: u64, size: u64) -> Result<Mapped, MapFailure> {
    let stat = fstat(&fd)?;
    check(&stat, offset, size)?;
    map_checked(fd, &stat, offset, size)
}

/// Devices have no length; whether they can be mapped the kernel says.
fn check(stat: &Stat, offset: u64, size: u64) -> Result<(), MapFailure> {
    let needed = offset.checked_add(size).ok_or(MapFailure::Huge)?;
    let has = u64::try_from(stat.st_size).unwrap_or(0);
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && has < needed {
        return Err(MapFailure::Short { needed, has });
    }
    Ok(())
}

fn map_checked(fd: OwnedFd, stat: &Stat, offset: u64, size: u64) -> Result<Mapped, MapFailure> {
    // A file of huge pages can be mapped at its own block size only.
    let page = rustix::param::page_size() as u64;
    let block = u64::try_from(stat.st_blksize).ok().filter(|size| size.is_power_of_two());
    let block = block.map_or(page, |size| size.max(page));
    let before = offset % block;
    let len = before.checked_add(size).and_then(|len| len.checked_next_multiple_of(block));
    let len = len.and_then(|len| usize::try_from(len).ok()).ok_or(MapFailure::Huge)?;
    let mapping = Arc::new(MmapRegion::from_file(FileOffset::new(File::from(fd), offset - before), len)?);
    if !sigbus::guard(&mapping, block as usize) {
        return Err(MapFailure::TooMany);
    }
    Ok(Mapped { mapping, offset: before as usize })
}

/// Device and inode of a file.
type Name = (u64, u64);

/// Files that are mapped, each as a whole and once, for as long as somebody uses the mapping: a VMM that shares one file in
/// thousands of pieces costs one mapping, and one that takes its memory apart and puts it together again none at all.
#[derive(Clone, Debug, Default)]
pub struct Files(Arc<Mutex<HashMap<Name, Weak<MmapRegion>>>>);

impl Files {
    /// Maps the file and returns where `size` bytes from `offset` on are.
    pub(crate) fn map(&self, fd: OwnedFd, offset: u64, size: u64) -> Result<Mapped, MapFailure> {
        let stat = fstat(&fd)?;
        check(&stat, offset, size)?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return map_checked(fd, &stat, offset, size);
        }
        let (Ok(at), Ok(end)) = (usize::try_from(offset), usize::try_from(offset + size)) else {
            return Err(MapFailure::Huge);
        };
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (stat.st_dev, stat.st_ino);
        // A file that grew since is mapped anew.
        if let Some(mapping) = files.get(&name).and_then(Weak::upgrade).filter(|mapping| mapping.size() >= end) {
            return Ok(Mapped { mapping, offset: at });
        }
        files.retain(|_, mapping| mapping.strong_count() > 0);
        match map_checked(rustix::io::fcntl_dupfd_cloexec(&fd, 0)?, &stat, 0, length) {
            Ok(Mapped { mapping, .. }) => {
                files.insert(name, Arc::downgrade(&mapping));
                Ok(Mapped { mapping, offset: at })
            }
            // More than the address space holds, most of which nobody asked for.
            Err(MapFailure::Refused(_) | MapFailure::Huge) => map_checked(fd, &stat, offset, size),
            Err(why) => Err(why),
        }
    }
}
