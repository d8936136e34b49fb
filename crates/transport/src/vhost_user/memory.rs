//! Guest memory as a front-end shares it: files, mapped.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::{Memory, MemoryError, Region};
use thiserror::Error;

use super::exports::Shared;
use super::message::RegionDescription;
use crate::mapped::{self, MapFailure, Mapped};

/// Regions that a front-end may share, one ADD_MEM_REG for each: as many as QEMU ever has.
pub const MAX_REGIONS: usize = 512;

/// Why memory cannot be shared with us. The table stays as it was.
#[derive(Debug, Error)]
pub enum MapError {
    /// More regions than [`MAX_REGIONS`].
    #[error("More than {MAX_REGIONS} memory regions")]
    TooMany,
    /// A file that ends before the region does.
    #[error("Memory region at {guest:#x} needs {needed:#x} bytes of a file that has {has:#x}")]
    Short {
        /// Its address.
        guest: u64,
        /// Where it ends in its file.
        needed: u64,
        /// Where the file ends.
        has: u64,
    },
    /// Sums that no address space holds.
    #[error("Memory region at {0:#x} is impossibly large")]
    Huge(u64),
    /// The kernel refused.
    #[error("Memory region at {guest:#x} cannot be mapped: {why}; memory must be shared (share=on)")]
    Map {
        /// Its address.
        guest: u64,
        /// What the kernel said.
        why: String,
    },
    /// Regions that do not make a table.
    #[error(transparent)]
    Table(#[from] MemoryError),
    /// REM_MEM_REG of what was never added.
    #[error("There is no memory region at {0:#x} to remove")]
    Absent(u64),
}

/// What is shared now.
#[derive(Debug, Default)]
pub struct SharedMemory {
    shared: Arc<Shared>,
    regions: Vec<SharedRegion>,
    /// What we showed to the guest comes back as its memory, and is none: no ring and no picture lies in it.
    ours: Vec<RegionDescription>,
}

#[derive(Clone, Debug)]
struct SharedRegion {
    description: RegionDescription,
    region: Region,
}

impl SharedMemory {
    /// Nothing, of a front-end to which we show what `shared` knows.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ..Self::default() }
    }

    /// Replaces everything: SET_MEM_TABLE.
    pub fn replace(&mut self, regions: Vec<RegionDescription>, fds: Vec<OwnedFd>) -> Result<Arc<Memory>, MapError> {
        let (ours, theirs): (Vec<_>, Vec<_>) =
            regions.into_iter().zip(fds).partition(|(_, fd)| self.shared.is_exported(fd));
        let regions = theirs.into_iter().map(|(region, fd)| SharedRegion::map(region, fd));
        let table = self.install(regions.collect::<Result<_, _>>()?)?;
        self.ours = ours.into_iter().map(|(region, _)| region).collect();
        Ok(table)
    }

    /// Adds a region: ADD_MEM_REG. `None` when the table stays as it is.
    pub fn add(&mut self, region: RegionDescription, fd: OwnedFd) -> Result<Option<Arc<Memory>>, MapError> {
        if self.regions.len() + self.ours.len() >= MAX_REGIONS {
            return Err(MapError::TooMany);
        }
        if self.shared.is_exported(&fd) {
            self.ours.push(region);
            return Ok(None);
        }
        let mut regions = self.regions.clone();
        regions.push(SharedRegion::map(region, fd)?);
        self.install(regions).map(Some)
    }

    /// Takes a region away: REM_MEM_REG. The file offset does not count. `None` when the table stays as it is.
    pub fn remove(&mut self, region: RegionDescription) -> Result<Option<Arc<Memory>>, MapError> {
        let is_it = |shared: &RegionDescription| {
            RegionDescription { offset: 0, ..*shared } == RegionDescription { offset: 0, ..region }
        };
        if let Some(at) = self.ours.iter().position(is_it) {
            self.ours.remove(at);
            return Ok(None);
        }
        let at = self.regions.iter().position(|shared| is_it(&shared.description));
        let mut regions = self.regions.clone();
        regions.remove(at.ok_or(MapError::Absent(region.guest))?);
        self.install(regions).map(Some)
    }

    /// Whether there is something of ours among it.
    pub fn has_ours(&self) -> bool {
        !self.ours.is_empty()
    }

    fn install(&mut self, regions: Vec<SharedRegion>) -> Result<Arc<Memory>, MapError> {
        let table = Memory::new(regions.iter().map(|shared| shared.region.clone()).collect())?;
        self.regions = regions;
        Ok(Arc::new(table))
    }

    /// The guest-physical address of what the front-end has at `user` in its own memory.
    pub fn translate(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|SharedRegion { description, .. }| {
            let offset = user.checked_sub(description.user).filter(|offset| *offset < description.size)?;
            description.guest.checked_add(offset)
        })
    }
}

impl SharedRegion {
    fn map(description: RegionDescription, fd: OwnedFd) -> Result<Self, MapError> {
        let RegionDescription { guest, size, offset, .. } = description;
        if size == 0 {
            return Err(MemoryError::Length { start: guest, len: 0 }.into());
        }
        let Mapped { mapping, offset } = mapped::map(fd, offset, size).map_err(|why| match why {
            MapFailure::Huge => MapError::Huge(guest),
            MapFailure::Short { needed, has } => MapError::Short { guest, needed, has },
            MapFailure::Refused(why) => MapError::Map { guest, why },
            MapFailure::TooMany => MapError::TooMany,
        })?;
        let region = Region { start: guest, len: size, mapping, offset, usable: true };
        Ok(Self { description, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::fs::File;
    use std::io::Write;

    fn memfd(len: u64) -> OwnedFd {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    fn region(guest: u64, size: u64, offset: u64) -> RegionDescription {
        RegionDescription { guest, size, user: 0x7000_0000_0000u64.wrapping_add(guest), offset }
    }

    #[test]
    fn a_region_starts_at_its_offset_in_the_file() {
        let fd = memfd(3 * 4096);
        let mut file = File::from(fd.try_clone().unwrap());
        file.write_all(&[[1; 4096], [2; 4096], [3; 4096]].concat()).unwrap();
        for offset in [4096, 4096 + 8, 2 * 4096 - 16] {
            let table = SharedMemory::default().add(region(0, 4096, offset), fd.try_clone().unwrap()).unwrap().unwrap();
            let mut bytes = [0u8; 2];
            table.slice(0, 2).unwrap().copy_to(&mut bytes);
            assert_eq!(bytes, [2, 2], "{offset}");
            table.slice(4094, 2).unwrap().copy_to(&mut bytes);
            assert_eq!(bytes, [if offset == 4096 { 2 } else { 3 }; 2], "{offset}");
        }
    }

    #[test]
    fn vhost_user_impossible_regions_are_refused_and_change_nothing() {
        let mut shared = SharedMemory::default();
        shared.add(region(0x10000, 0x10000, 0), memfd(0x10000)).unwrap();
        let cases = [
            ("empty", region(0, 0, 0), memfd(4096)),
            ("longer than its file", region(0, 4097, 0), memfd(4096)),
            ("offset past its file", region(0, 4096, 1), memfd(4096)),
            ("an offset that wraps", region(0, 4096, u64::MAX - 4095), memfd(4096)),
            ("an address that wraps", region(u64::MAX - 4095, 8192, 0), memfd(8192)),
            ("the same region", region(0x10000, 0x10000, 0), memfd(0x10000)),
            ("overlaps its end", region(0x1f000, 0x2000, 0), memfd(0x2000)),
            ("overlaps its start", region(0xf000, 0x1001, 0), memfd(0x2000)),
            ("a socket", region(0, 4096, 0), std::os::unix::net::UnixStream::pair().unwrap().0.into()),
            ("a directory", region(0, 4096, 0), File::open("/").unwrap().into()),
            ("a read-only file", region(0, 16, 0), File::open("/proc/self/exe").unwrap().into()),
        ];
        for (name, region, fd) in cases {
            assert!(shared.add(region, fd.try_clone().unwrap()).is_err(), "{name}");
            if name != "the same region" && !name.starts_with("overlaps") {
                assert!(shared.replace(vec![region], vec![fd]).is_err(), "{name}");
            }
            assert_eq!(shared.translate(0x7000_0001_0000), Some(0x10000), "{name}");
        }
        let twice = vec![region(0, 4096, 0), region(4095, 4096, 0)];
        assert!(shared.replace(twice, vec![memfd(4096), memfd(4096)]).is_err());
        assert!(shared.remove(region(0x10000, 0x1000, 0)).is_err());
    }

    #[test]
    fn a_regular_file_will_do() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        assert!(SharedMemory::default().add(region(0, 8192, 0), file.into()).is_ok());
    }

    #[test]
    fn as_many_regions_as_were_promised_and_no_more() {
        let mut shared = SharedMemory::default();
        let fd = memfd(4096);
        for index in 0..MAX_REGIONS as u64 {
            shared.add(region(index << 20, 4096, 0), fd.try_clone().unwrap()).unwrap();
        }
        assert!(shared.add(region(1 << 40, 4096, 0), fd.try_clone().unwrap()).is_err());
        let table = shared.remove(region(5 << 20, 4096, 77)).unwrap().unwrap();
        assert_eq!(table.regions().len(), MAX_REGIONS - 1);
        assert!(shared.add(region(1 << 40, 4096, 0), fd).is_ok());
    }

    #[test]
    fn addresses_of_the_front_end_become_the_guests() {
        let mut shared = SharedMemory::default();
        shared.add(RegionDescription { user: u64::MAX - 4095, ..region(0x5000, 4096, 0) }, memfd(4096)).unwrap();
        assert_eq!(shared.translate(u64::MAX), Some(0x5fff));
        assert_eq!((shared.translate(u64::MAX - 4096), shared.translate(0)), (None, None));
    }
}
