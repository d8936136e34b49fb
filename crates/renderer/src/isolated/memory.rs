//! The guest's memory, as far as another process can map it.

use std::sync::Arc;

use device::{Memory, Region};
use protocol::MemEntry;
use vm_memory::MmapRegion;

/// The regions that are files.
#[derive(Debug, Default)]
pub struct Guest {
    generation: Option<u64>,
    regions: Vec<Region>,
    /// Start and end of what is not to be written, in order.
    read_only: Vec<(u64, u64)>,
}

/// Bytes that lie next to each other in a mapping.
#[derive(Clone, Debug)]
pub struct Run {
    /// The mapping.
    pub mapping: Arc<MmapRegion>,
    /// Where in the mapping they start.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl Guest {
    /// The table that holds from now on. Whether it is another one.
    pub fn set(&mut self, memory: &Memory) -> bool {
        if self.generation == Some(memory.generation()) {
            return false;
        }
        self.generation = Some(memory.generation());
        let far = |region: &Region| memory.far().is_some_and(|far| Arc::ptr_eq(far.mirror(), &region.mapping));
        let is_file = |region: &Region| region.usable && region.mapping.file_offset().is_some() && !far(region);
        self.regions = memory.regions().iter().filter(|region| is_file(region)).cloned().collect();
        self.read_only = memory.read_only().to_vec();
        true
    }

    /// Whether it still has a mapping.
    pub fn has(&self, mapping: &Arc<MmapRegion>) -> bool {
        self.regions.iter().any(|region| Arc::ptr_eq(&region.mapping, mapping))
    }

    /// Where the entries' bytes are, in order. `None` when some are not there, or not for another process to write.
    pub fn runs(&self, entries: &[MemEntry]) -> Option<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::with_capacity(entries.len().min(1024));
        for entry in entries {
            let (mut addr, mut left) = (entry.addr, u64::from(entry.length));
            let end = addr.checked_add(left)?;
            let before = self.read_only.partition_point(|(start, _)| *start < end);
            if before.checked_sub(1).is_some_and(|last| self.read_only[last].1 > addr) {
                return None;
            }
            while left > 0 {
                let at = self.regions.partition_point(|region| region.start <= addr).checked_sub(1)?;
                let region = &self.regions[at];
                let within = addr - region.start;
                let len = left.min(region.len.checked_sub(within).filter(|room| *room > 0)?);
                let offset = within + region.offset as u64;
                match runs.last_mut() {
                    Some(last) if Arc::ptr_eq(&last.mapping, &region.mapping) && last.offset + last.len == offset => {
                        last.len += len;
                    }
                    _ => runs.push(Run { mapping: region.mapping.clone(), offset, len }),
                }
                addr += len;
                left -= len;
            }
        }
        Some(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vm_memory::FileOffset;

    fn region(start: u64, len: u64) -> Region {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len + 0x1000).unwrap();
        let mapping = MmapRegion::from_file(FileOffset::new(fd.into(), 0), len as usize + 0x1000).unwrap();
        Region { start, len, mapping: Arc::new(mapping), offset: 0x1000, usable: true }
    }

    fn runs(guest: &Guest, entries: &[(u64, u32)]) -> Option<Vec<(u64, u64)>> {
        let entries: Vec<_> = entries.iter().map(|(addr, length)| MemEntry { addr: *addr, length: *length }).collect();
        Some(guest.runs(&entries)?.iter().map(|run| (run.offset, run.len)).collect())
    }

    #[test]
    fn neighbours_are_one_run_and_what_is_not_there_is_none() {
        let mut guest = Guest::default();
        let private =
            Region { mapping: Arc::new(MmapRegion::new(0x1000).unwrap()), offset: 0, ..region(0x9000, 0x1000) };
        let foreign = Region { usable: false, ..region(0xa000, 0x1000) };
        let memory = Memory::new(vec![region(0x1000, 0x1000), region(0x2000, 0x1000), private, foreign]).unwrap();
        assert!(guest.set(&memory));
        assert!(!guest.set(&memory));
        assert_eq!(runs(&guest, &[(0x1000, 16), (0x1010, 16), (0x1040, 1)]), Some(vec![(0x1000, 32), (0x1040, 1)]));
        assert_eq!(runs(&guest, &[(0x1ff0, 32)]), Some(vec![(0x1ff0, 16), (0x1000, 16)]));
        for entry in [(0xfff, 1), (0x2fff, 2), (0x9000, 1), (0xa000, 1), (u64::MAX, 1), (u64::MAX, 2)] {
            assert_eq!(runs(&guest, &[entry]), None, "{entry:x?}");
        }
        assert!(guest.has(&memory.regions()[0].mapping));
        assert!(guest.set(&Memory::empty()));
        assert!(!guest.has(&memory.regions()[0].mapping));
    }

    #[test]
    fn what_is_not_to_be_written_is_not_given_to_a_process() {
        let mut guest = Guest::default();
        guest.set(&Memory::new(vec![region(0, 0x4000)]).unwrap().with_read_only(vec![(0x1000, 0x2000)]));
        for (entry, there) in
            [((0, 0x1000), true), ((0, 0x1001), false), ((0x1fff, 1), false), ((0x2000, 0x2000), true)]
        {
            assert_eq!(runs(&guest, &[entry]).is_some(), there, "{entry:x?}");
        }
    }
}
