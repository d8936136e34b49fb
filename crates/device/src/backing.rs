//! A resource's backing: the guest's entries and their translation.

use protocol::MemEntry;
use protocol::ReplyError;
use vm_memory::VolatileSlice;

use crate::memory::{Memory, Place};

/// The guest pages behind a resource. Addresses are translated when first used and again whenever the memory table
/// is another one, so memory that was taken away is never read.
#[derive(Debug, Default)]
pub struct Backing {
    entries: Vec<MemEntry>,
    len: u64,
    /// The table that `pieces` belongs to.
    generation: Option<u64>,
    pieces: Vec<Piece>,
}

/// A run of bytes that lies in one region.
#[derive(Clone, Copy, Debug)]
struct Piece {
    place: Place,
    /// Position within the backing of the byte after the last one.
    end: u64,
    len: u64,
}

impl Backing {
    /// Bytes that each entry takes of ours: itself, and where it is in the table of memory.
    pub const ENTRY_COST: u64 = (size_of::<MemEntry>() + size_of::<Piece>()) as u64;

    /// A backing of the guest's `entries`, in order. Nothing is looked up yet.
    pub fn new(entries: Vec<MemEntry>) -> Self {
        let len = entries.iter().map(|entry| u64::from(entry.length)).sum();
        Self { entries, len, generation: None, pieces: Vec::new() }
    }

    /// The guest's entries.
    pub fn entries(&self) -> &[MemEntry] {
        &self.entries
    }

    /// Length of all entries in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every entry is in `memory`. Costs less than [`pages`](Self::pages), which many a backing never needs.
    pub fn check(&self, memory: &Memory) -> Result<(), ReplyError> {
        self.walk(memory, |_, _| {})
    }

    /// The pages as `memory` has them now. An entry that is not in guest memory is the guest's mistake.
    pub fn pages<'a>(&'a mut self, memory: &'a Memory) -> Result<Pages<'a>, ReplyError> {
        if self.generation != Some(memory.generation()) {
            self.generation = None;
            self.translate(memory)?;
            self.generation = Some(memory.generation());
        }
        Ok(Pages { memory, pieces: &self.pieces, len: self.len })
    }

    fn translate(&mut self, memory: &Memory) -> Result<(), ReplyError> {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        pieces.reserve(self.entries.len());
        let mut end = 0;
        let walked = self.walk(memory, |place, len| {
            end += len;
            match pieces.last_mut() {
                Some(last) if last.place.region == place.region && last.place.offset + last.len == place.offset => {
                    last.len += len;
                    last.end = end;
                }
                _ => pieces.push(Piece { place, end, len }),
            }
        });
        self.pieces = pieces;
        walked
    }

    /// Calls `each` for the runs of the entries that lie in one region.
    fn walk(&self, memory: &Memory, mut each: impl FnMut(Place, u64)) -> Result<(), ReplyError> {
        let mut hint = None;
        for entry in &self.entries {
            let mut addr = entry.addr;
            let mut left = u64::from(entry.length);
            while left > 0 {
                let (place, room) = memory.locate(addr, hint).ok_or(ReplyError::InvalidParameter)?;
                let len = left.min(room);
                hint = Some(place.region);
                each(place, len);
                left -= len;
                // Only the last byte of the address space has no successor, and then nothing is left.
                addr = addr.saturating_add(len);
            }
        }
        Ok(())
    }
}

/// A backing, translated for one command.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    memory: &'a Memory,
    pieces: &'a [Piece],
    len: u64,
}

impl<'a> Pages<'a> {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs that make up `len` bytes from `offset` on; `None` when they go past the end.
    pub fn runs(&self, offset: u64, len: u64) -> Option<Runs<'a>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        let next = self.pieces.partition_point(|piece| piece.end <= offset);
        Some(Runs { memory: self.memory, pieces: &self.pieces[next..], offset, left: len })
    }

    /// Copies from `offset` on into all of `target`. Each byte is read once. `None` when they go past the end.
    pub fn read(&self, offset: u64, mut target: &mut [u8]) -> Option<()> {
        for run in self.runs(offset, target.len() as u64)? {
            let (head, tail) = target.split_at_mut(run.len());
            run.copy_to(head);
            target = tail;
        }
        Some(())
    }

    /// Copies from `offset` on into all of `target`, which others may read or write at the same time.
    pub fn read_volatile(&self, offset: u64, mut target: VolatileSlice<'_>) -> Option<()> {
        for run in self.runs(offset, target.len() as u64)? {
            let (head, tail) = target.split_at(run.len()).ok()?;
            run.copy_to_volatile_slice(head);
            target = tail;
        }
        Some(())
    }
}

/// The runs of a range; see [`Pages::runs`].
#[derive(Debug)]
pub struct Runs<'a> {
    memory: &'a Memory,
    pieces: &'a [Piece],
    offset: u64,
    left: u64,
}

impl<'a> Iterator for Runs<'a> {
    type Item = VolatileSlice<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (piece, rest) = self.pieces.split_first()?;
        let skip = self.offset - (piece.end - piece.len);
        let len = self.left.min(piece.len - skip);
        self.pieces = rest;
        self.offset += len;
        self.left -= len;
        self.memory.at(Place { region: piece.place.region, offset: piece.place.offset + skip }, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::region;
    use vm_memory::{Bytes, VolatileMemory};

    fn backing(entries: &[(u64, u32)]) -> Backing {
        Backing::new(entries.iter().map(|(addr, length)| MemEntry { addr: *addr, length: *length }).collect())
    }

    fn memory() -> Memory {
        let memory = Memory::new(vec![region(0, 0x1000), region(0x1000, 0x1000), region(0x8000, 0x1000)]).unwrap();
        for region in memory.regions() {
            let pattern: Vec<u8> = (0..region.len).map(|at| ((region.start + at) / 16) as u8).collect();
            region.mapping.as_volatile_slice().write_slice(&pattern, 0).unwrap();
        }
        memory
    }

    #[test]
    fn bytes_come_in_the_order_of_the_entries() {
        let memory = memory();
        let mut backing = backing(&[(0x8010, 16), (0x20, 16), (0x30, 8)]);
        let mut bytes = [0; 40];
        backing.pages(&memory).unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(bytes[..16], [1; 16]);
        assert_eq!(bytes[16..32], [2; 16]);
        assert_eq!(bytes[32..], [3; 8]);
        let mut middle = [0; 2];
        backing.pages(&memory).unwrap().read(15, &mut middle).unwrap();
        assert_eq!(middle, [1, 2]);
    }

    #[test]
    fn neighbours_are_one_run() {
        let memory = memory();
        let mut backing = backing(&[(0, 16), (16, 16), (64, 16)]);
        let pages = backing.pages(&memory).unwrap();
        assert_eq!(pages.runs(0, 48).unwrap().map(|run| run.len()).collect::<Vec<_>>(), [32, 16]);
    }

    #[test]
    fn an_entry_may_cross_from_one_region_into_the_next() {
        let memory = memory();
        let mut backing = backing(&[(0xff0, 32)]);
        let mut bytes = [0; 32];
        backing.pages(&memory).unwrap().read(0, &mut bytes).unwrap();
        assert_eq!((bytes[15], bytes[16]), (0xff, 0x00));
    }

    #[test]
    fn acrn_unknown_guest_addresses_are_refused() {
        for entry in [(0x2000, 1), (0x1fff, 2), (0x8fff, 0x1000), (u64::MAX, 1), (u64::MAX - 1, 16)] {
            assert_eq!(backing(&[entry]).pages(&memory()).unwrap_err(), ReplyError::InvalidParameter, "{entry:x?}");
        }
    }

    #[test]
    fn reading_past_the_end_reads_nothing() {
        let memory = memory();
        let mut backing = backing(&[(0, 16)]);
        let pages = backing.pages(&memory).unwrap();
        let mut target = [0xee; 17];
        assert!(pages.read(0, &mut target).is_none());
        assert!(pages.read(u64::MAX, &mut target[..1]).is_none());
        assert_eq!(target, [0xee; 17]);
        assert!(pages.read(16, &mut []).is_some());
    }

    #[test]
    fn a_new_table_is_looked_up_anew_and_a_failure_is_not_remembered() {
        let mut backing = backing(&[(0x8000, 16)]);
        assert!(backing.pages(&memory()).is_ok());
        assert!(backing.pages(&Memory::empty()).is_err());
        let again = memory();
        assert_eq!(backing.pages(&again).unwrap().runs(0, 16).unwrap().count(), 1);
    }
}
