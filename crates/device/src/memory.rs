//! Guest memory as a VMM shared it: a table of regions with a generation.
//!
//! A table never changes; a new one replaces it. Whoever reads guest memory holds the table for one command only, so
//! taking memory away waits for one command at most.
//!
//! Some memory cannot be mapped: a VMM that does not share it can only be asked for its bytes. Such regions lie in a mirror
//! of our own ([`Far`]), which is filled as it is looked at; who reads guest memory does not notice, who writes it has to
//! say so ([`Memory::written`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// One piece of guest-physical memory.
#[derive(Clone, Debug)]
pub struct Region {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Our mapping of it.
    pub mapping: Arc<MmapRegion>,
    /// Where in the mapping the region starts, in bytes.
    pub offset: usize,
    /// Whether rings and backings may lie in it. What we exported ourselves comes back as guest memory and may not.
    pub usable: bool,
}

impl Region {
    fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }
}

/// Guest memory that is not mapped: its bytes come and go by messages, which takes long and may fail.
pub trait Far: Send + Sync + fmt::Debug {
    /// Memory of our own in which the far regions of a table lie.
    fn mirror(&self) -> &Arc<MmapRegion>;
    /// Fills `target`, which is a part of the mirror, with what the guest has at `addr`. False: it could not be had.
    fn fetch(&self, addr: u64, target: VolatileSlice<'_>) -> bool;
    /// Writes `source`, which is a part of the mirror, to `addr`. False: it could not be done.
    fn store(&self, addr: u64, source: VolatileSlice<'_>) -> bool;
    /// How often a [`fetch`](Self::fetch) failed only because it came at a bad moment: it would not a little later.
    fn interruptions(&self) -> u64;
    /// Nobody has a slice of the mirror now.
    fn rest(&self) -> Rest;
    /// What still waits is not written any more: the guest uses its memory for something else.
    fn forget(&self);
}

/// What became of bytes that were written at a bad moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There are none.
    Quiet,
    /// They are in guest memory now: whoever was told of them before did not see them.
    Delivered,
    /// They still wait.
    Waiting,
}

/// A table of regions that do not overlap, ordered by address.
#[derive(Debug)]
pub struct Memory {
    generation: u64,
    regions: Vec<Region>,
    /// What the regions lie in that are not mapped.
    far: Option<Arc<dyn Far>>,
    /// Start and end of what is not to be written, in order.
    read_only: Vec<(u64, u64)>,
}

/// Why regions do not make a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// A region of no bytes, or one that wraps around the address space.
    #[error("Memory region at {start:#x} has the impossible length {len:#x}")]
    Length {
        /// Its address.
        start: u64,
        /// Its length.
        len: u64,
    },
    /// A region that is larger than its mapping.
    #[error("Memory region at {0:#x} is larger than what was mapped for it")]
    Mapping(u64),
    /// Two regions share an address.
    #[error("Memory regions at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
}

/// A place in a table: valid only with the table of the same generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub region: u32,
    pub offset: u64,
}

impl Memory {
    /// A table of `regions` in any order, with a generation that no other table has.
    pub fn new(mut regions: Vec<Region>) -> Result<Self, MemoryError> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        regions.sort_by_key(|region| region.start);
        for region in &regions {
            if region.len == 0 || region.end().is_none() {
                return Err(MemoryError::Length { start: region.start, len: region.len });
            }
            let mapped = region.mapping.size().checked_sub(region.offset);
            if mapped.is_none_or(|mapped| (mapped as u64) < region.len) {
                return Err(MemoryError::Mapping(region.start));
            }
        }
        for (low, high) in regions.iter().zip(regions.iter().skip(1)) {
            if low.end().is_none_or(|end| end > high.start) {
                return Err(MemoryError::Overlap(low.start, high.start));
            }
        }
        Ok(Self { generation: GENERATION.fetch_add(1, Ordering::Relaxed), regions, far: None, read_only: Vec::new() })
    }

    /// A table of `regions`, of which those that lie in the mirror of `far` are far.
    pub fn with_far(regions: Vec<Region>, far: Arc<dyn Far>) -> Result<Self, MemoryError> {
        Ok(Self { far: Some(far), ..Self::new(regions)? })
    }

    /// The same table, of which some is not to be written: start and end of each part, in order. [`target`](Self::target) has
    /// none of it.
    pub fn with_read_only(self, parts: Vec<(u64, u64)>) -> Self {
        Self { read_only: parts, ..self }
    }

    /// Start and end of what is not to be written, in order.
    pub fn read_only(&self) -> &[(u64, u64)] {
        &self.read_only
    }

    /// A table without regions.
    pub fn empty() -> Self {
        Self { generation: 0, regions: Vec::new(), far: None, read_only: Vec::new() }
    }

    /// Differs from every other table's but the empty ones'.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The regions by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// What the regions lie in that are not mapped; most tables have none.
    #[inline]
    pub fn far(&self) -> Option<&dyn Far> {
        self.far.as_deref()
    }

    /// `len` bytes at `addr`, when they lie inside one usable region.
    pub fn slice(&self, addr: u64, len: u64) -> Option<VolatileSlice<'_>> {
        let (place, room) = self.locate(addr, None)?;
        (len <= room).then(|| self.at(place, len)).flatten()
    }

    /// As [`slice`](Self::slice), for someone who reads it after a [`fetch`](Self::fetch) only.
    pub fn unfetched(&self, addr: u64, len: u64) -> Option<VolatileSlice<'_>> {
        let (place, room) = self.locate(addr, None)?;
        (len <= room).then(|| self.mapped(place, len)).flatten()
    }

    /// As [`unfetched`](Self::unfetched), for someone who writes it and says so; `None` where some of it is not to be written.
    pub fn target(&self, addr: u64, len: u64) -> Option<VolatileSlice<'_>> {
        let before = self.read_only.partition_point(|(start, _)| *start < addr.saturating_add(len));
        let protected = before.checked_sub(1).is_some_and(|last| self.read_only[last].1 > addr);
        self.unfetched(addr, len).filter(|_| !protected)
    }

    /// Slices of `len` bytes at `addr` show what the guest has there now, as those of mapped memory always do.
    #[inline]
    pub fn fetch(&self, addr: u64, len: u64) -> bool {
        self.far.is_none() || self.each_far(addr, len, |far, at, slice| far.fetch(at, slice)).is_some()
    }

    /// The guest sees what was written into slices of `len` bytes at `addr`, as it does at once in mapped memory.
    #[inline]
    pub fn written(&self, addr: u64, len: u64) -> bool {
        self.far.is_none() || self.each_far(addr, len, |far, at, slice| far.store(at, slice)).is_some()
    }

    /// Nobody uses a slice of this table now.
    #[inline]
    pub fn rest(&self) -> Rest {
        self.far.as_ref().map_or(Rest::Quiet, |far| far.rest())
    }

    /// What was written at a bad moment and still waits is not written any more.
    pub fn forget(&self) {
        if let Some(far) = &self.far {
            far.forget();
        }
    }

    /// Calls `each` for the far pieces of `len` bytes at `addr`. `None` when it says no, or when a byte is not in memory.
    fn each_far(
        &self,
        mut addr: u64,
        mut len: u64,
        mut each: impl FnMut(&dyn Far, u64, VolatileSlice<'_>) -> bool,
    ) -> Option<()> {
        while len > 0 {
            let (place, room) = self.locate(addr, None)?;
            let part = len.min(room);
            let (slice, far) = (self.mapped(place, part)?, self.far()?);
            if Arc::ptr_eq(far.mirror(), &self.regions.get(place.region as usize)?.mapping) {
                each(far, addr, slice).then_some(())?;
            }
            // Only the last byte of the address space has no successor, and then nothing is left.
            addr = addr.saturating_add(part);
            len -= part;
        }
        Some(())
    }

    /// The region of `addr` and the bytes from there to the region's end. `hint` is a region to try first.
    #[inline]
    pub(crate) fn locate(&self, addr: u64, hint: Option<u32>) -> Option<(Place, u64)> {
        let place = |index: u32| {
            let region = self.regions.get(index as usize)?;
            let offset = addr.checked_sub(region.start).filter(|offset| *offset < region.len)?;
            region.usable.then_some((Place { region: index, offset }, region.len - offset))
        };
        hint.and_then(place).or_else(|| {
            let index = self.regions.partition_point(|region| region.start <= addr).checked_sub(1)?;
            place(u32::try_from(index).ok()?)
        })
    }

    /// `len` bytes at a place of this table; `None` past the region's end.
    #[inline]
    pub(crate) fn at(&self, place: Place, len: u64) -> Option<VolatileSlice<'_>> {
        let slice = self.mapped(place, len)?;
        match &self.far {
            None => Some(slice),
            Some(far) => self.fetched(&**far, place, slice),
        }
    }

    /// As [`at`](Self::at), without asking for bytes that are far.
    #[inline]
    fn mapped(&self, place: Place, len: u64) -> Option<VolatileSlice<'_>> {
        let region = self.regions.get(place.region as usize)?;
        let end = place.offset.checked_add(len)?;
        if end > region.len {
            return None;
        }
        let offset = region.offset.checked_add(usize::try_from(place.offset).ok()?)?;
        region.mapping.get_slice(offset, usize::try_from(len).ok()?).ok()
    }

    #[cold]
    fn fetched<'m>(&'m self, far: &dyn Far, place: Place, slice: VolatileSlice<'m>) -> Option<VolatileSlice<'m>> {
        let region = self.regions.get(place.region as usize)?;
        if Arc::ptr_eq(far.mirror(), &region.mapping) {
            far.fetch(region.start.checked_add(place.offset)?, slice).then_some(())?;
        }
        Some(slice)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A region of private memory at `start`.
    pub fn region(start: u64, len: u64) -> Region {
        let mapping = Arc::new(MmapRegion::new(len.max(1) as usize).unwrap());
        Region { start, len, mapping, offset: 0, usable: true }
    }

    #[test]
    fn a_slice_lies_inside_one_region() {
        let memory = Memory::new(vec![region(0x4000, 0x1000), region(0x1000, 0x1000)]).unwrap();
        assert_eq!(memory.slice(0x1000, 0x1000).unwrap().len(), 0x1000);
        assert_eq!(memory.slice(0x4fff, 1).unwrap().len(), 1);
        for (addr, len) in [(0xfff, 1), (0x1001, 0x1000), (0x2000, 1), (0x4fff, 2), (u64::MAX, 1), (0x4000, u64::MAX)] {
            assert!(memory.slice(addr, len).is_none(), "{len:#x} bytes at {addr:#x}");
        }
    }

    #[test]
    fn impossible_tables_are_refused() {
        let overlap = Memory::new(vec![region(0, 0x1001), region(0x1000, 1)]);
        assert_eq!(overlap.unwrap_err(), MemoryError::Overlap(0, 0x1000));
        assert_eq!(Memory::new(vec![region(0, 0)]).unwrap_err(), MemoryError::Length { start: 0, len: 0 });
        let wraps = Region { start: u64::MAX, ..region(0, 2) };
        assert_eq!(Memory::new(vec![wraps]).unwrap_err(), MemoryError::Length { start: u64::MAX, len: 2 });
        let short = Region { offset: 1, ..region(0, 0x1000) };
        assert_eq!(Memory::new(vec![short]).unwrap_err(), MemoryError::Mapping(0));
    }

    #[test]
    fn a_region_of_our_own_is_never_read() {
        let own = Region { usable: false, ..region(0, 0x1000) };
        assert!(Memory::new(vec![own]).unwrap().slice(0, 1).is_none());
    }

    #[test]
    fn generations_differ() {
        let first = Memory::new(vec![region(0, 1)]).unwrap().generation();
        assert_ne!(first, Memory::new(vec![region(0, 1)]).unwrap().generation());
        assert_ne!(first, Memory::empty().generation());
    }

    #[test]
    fn what_is_read_only_is_no_target() {
        let memory = Memory::new(vec![region(0x1000, 0x4000)]).unwrap();
        let memory = memory.with_read_only(vec![(0x2000, 0x3000), (0x4000, 0x4800)]);
        for (addr, len, there) in [
            (0x1000, 0x1000, true),
            (0x1000, 0x1001, false),
            (0x2fff, 1, false),
            (0x2fff, 2, false),
            (0x3000, 0x1000, true),
            (0x3000, 0x1001, false),
            (0x4800, 0x800, true),
            (0x1000, 0x4000, false),
        ] {
            assert_eq!(memory.target(addr, len).is_some(), there, "{len:#x} bytes at {addr:#x}");
            assert!(memory.slice(addr, len).is_some());
        }
    }
}
