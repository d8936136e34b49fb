//! What a process offers as memory for a guest is looked at before anybody maps it: a VMM that maps a file which shrinks later
//! dies with its guest.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{
    FileType, OFlags, SealFlags, SeekFrom, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat, fstatfs, seek,
};
use rustix::io::Errno;
use thiserror::Error;

/// Memory is mapped in pieces of it.
pub const PAGE: u64 = 4096;
const DMA_BUF: u64 = 0x444d_4142;
const TMPFS: u64 = 0x0102_1994;

/// Why memory of a process is not shown to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A guest writes it.
    #[error("It cannot be written")]
    ReadOnly,
    /// A file that is neither.
    #[error("It is neither a memfd nor a dma-buf")]
    Kind,
    /// Whoever has it can cut it off under its users.
    #[error("It can shrink and cannot be sealed against that")]
    Shrinks,
    /// It ends before the blob does.
    #[error("It has {has:#x} bytes of {needed:#x}")]
    Short {
        /// Its size.
        has: u64,
        /// The blob's.
        needed: u64,
    },
    /// The kernel said no.
    #[error("It cannot be looked at: {0}")]
    Kernel(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// Takes memory for a blob of `size` bytes, if it stays that large whatever its owner does.
pub fn take(file: OwnedFd, size: u64) -> Result<File, Refusal> {
    if fcntl_getfl(&file)? & OFlags::ACCMODE != OFlags::RDWR {
        return Err(Refusal::ReadOnly);
    }
    let has = match fstatfs(&file)?.f_type as u64 {
        DMA_BUF => seek(&file, SeekFrom::End(0))?,
        TMPFS => {
            seal(&file)?;
            // Only now does it count.
            u64::try_from(fstat(&file)?.st_size).unwrap_or(0)
        }
        _ => return Err(Refusal::Kind),
    };
    // The rest of a file's last page is there, and zero.
    match size.checked_next_multiple_of(PAGE) {
        Some(needed) if needed > 0 && has.next_multiple_of(PAGE) >= needed => Ok(File::from(file)),
        _ => Err(Refusal::Short { has, needed: size }),
    }
}

fn seal(file: &OwnedFd) -> Result<(), Refusal> {
    if FileType::from_raw_mode(fstat(file)?.st_mode) != FileType::RegularFile {
        return Err(Refusal::Kind);
    }
    let seals = fcntl_get_seals(file).map_err(|_| Refusal::Kind)?;
    if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(Refusal::ReadOnly);
    }
    if !seals.contains(SealFlags::SHRINK) {
        fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW).map_err(|_| Refusal::Shrinks)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, Mode, ftruncate, memfd_create, open};

    fn memfd(len: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    #[test]
    fn a_memfd_is_taken_and_cannot_shrink_afterwards() {
        let file = take(memfd(4097), 4097).unwrap();
        assert_eq!(ftruncate(&file, 4096), Err(Errno::PERM));
        // Who seals it against more leaves us nothing to seal, and that is as good.
        let sealed = memfd(4096);
        fcntl_add_seals(&sealed, SealFlags::SHRINK | SealFlags::SEAL).unwrap();
        take(sealed, 4096).unwrap();
    }

    #[test]
    fn what_may_go_away_under_a_guest_is_refused() {
        let unsealable = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&unsealable, 4096).unwrap();
        assert_eq!(take(unsealable, 4096).unwrap_err(), Refusal::Shrinks);
        assert_eq!(take(memfd(4096), 4097).unwrap_err(), Refusal::Short { has: 4096, needed: 4097 });
        assert_eq!(take(memfd(4096), 0).unwrap_err(), Refusal::Short { has: 4096, needed: 0 });
        assert_eq!(take(memfd(4096), u64::MAX).unwrap_err(), Refusal::Short { has: 4096, needed: u64::MAX });
    }

    #[test]
    fn what_a_guest_cannot_write_is_refused() {
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            let sealed = memfd(4096);
            fcntl_add_seals(&sealed, seal | SealFlags::SHRINK).unwrap();
            assert_eq!(take(sealed, 4096).unwrap_err(), Refusal::ReadOnly);
        }
        let read_only = open("/dev/zero", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(take(read_only, 4096).unwrap_err(), Refusal::ReadOnly);
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let device = open("/dev/zero", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(take(device, 4096).is_err());
        let (end, _other) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        assert_eq!(take(end, 4096).unwrap_err(), Refusal::Kind);
        let directory = open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(take(directory, 4096).unwrap_err(), Refusal::ReadOnly);
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert_eq!(take(read, 4096).unwrap_err(), Refusal::ReadOnly);
        assert_eq!(take(write, 4096).unwrap_err(), Refusal::ReadOnly);
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(take(bell, 4096).unwrap_err(), Refusal::Kind);
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(matches!(take(file.into(), 4096).unwrap_err(), Refusal::Kind | Refusal::Shrinks));
    }
}
