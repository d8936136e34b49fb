//! Descriptor chains (virtio 1.3, section 2.7.5), read once into private memory.
//!
//! A guest may change its descriptors while they are followed, so nothing is looked at twice. Sums are made in 64 bits.

use device::Memory;
use device::caps::REQUEST_BYTES;
use thiserror::Error;
use vm_memory::{VolatileMemory, VolatileSlice};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Size of a descriptor in memory.
pub const DESCRIPTOR_BYTES: u64 = 16;

/// Descriptors that one table may have. The specification allows no more than the queue's size, but Linux does not keep
/// to it: the entries of a large backing come page by page. So much carries the largest request there is, and a guest
/// cannot make us walk further.
pub const INDIRECT_DESCRIPTORS: u64 = (REQUEST_BYTES as u64).div_ceil(4096) + 64;

/// Why a chain cannot be followed. It is given back with length 0; the ring goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// More descriptors than the table has: a loop.
    #[error("Descriptor chain is longer than its table of {0}")]
    Loop(u64),
    /// The next descriptor is outside the table.
    #[error("Descriptor {next} is outside its table of {len}")]
    Next {
        /// Its index.
        next: u16,
        /// Descriptors in the table.
        len: u64,
    },
    /// A table inside a table, beside other descriptors, not negotiated, or of a size that no table has.
    #[error("Indirect descriptor is not allowed here or has the wrong length {0}")]
    Indirect(u32),
    /// A device-readable descriptor after a device-writable one.
    #[error("Readable descriptor follows a writable one")]
    Order,
    /// An address that is not guest memory.
    #[error("Descriptor of {len} bytes at {addr:#x} is not in guest memory")]
    Unmapped {
        /// Its address.
        addr: u64,
        /// Its length.
        len: u32,
    },
}

/// A run of guest-physical memory, as a descriptor named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes, not 0.
    pub len: u32,
}

/// A chain: what it carries and where its reply goes. Made once and used for every chain; it allocates only to grow.
#[derive(Debug, Default)]
pub struct Chain {
    /// The device-readable bytes, `..filled` of them valid. Kept long, so that nothing is zeroed twice.
    bytes: Vec<u8>,
    filled: usize,
    carried: u64,
    writable: Vec<Segment>,
    room: u64,
}

/// Bytes of a request that stay allocated for the next one.
const KEPT_BYTES: usize = 1 << 17;

impl Chain {
    /// Reads the chain that starts at `head` of a ring's table of descriptors.
    pub(crate) fn read<'m>(
        &mut self,
        memory: &'m Memory,
        table: VolatileSlice<'m>,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        self.filled = 0;
        self.carried = 0;
        self.room = 0;
        self.writable.clear();
        let mut table = table;
        let mut left = table.len() as u64 / DESCRIPTOR_BYTES;
        let mut nested = false;
        let mut descriptor = Descriptor::load(table, head)?;
        loop {
            if left == 0 {
                return Err(ChainError::Loop(table.len() as u64 / DESCRIPTOR_BYTES));
            }
            left -= 1;
            if descriptor.flags & INDIRECT != 0 {
                if nested || !indirect || descriptor.flags & NEXT != 0 {
                    return Err(ChainError::Indirect(descriptor.len));
                }
                table = descriptor.table(memory)?;
                left = table.len() as u64 / DESCRIPTOR_BYTES;
                nested = true;
                descriptor = Descriptor::load(table, 0)?;
                continue;
            }
            self.take(memory, descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            descriptor = Descriptor::load(table, descriptor.next)?;
        }
    }

    fn take(&mut self, memory: &Memory, descriptor: Descriptor) -> Result<(), ChainError> {
        let Descriptor { addr, len, flags, .. } = descriptor;
        let unmapped = ChainError::Unmapped { addr, len };
        if flags & WRITE != 0 {
            if len > 0 {
                runs(memory, Memory::target, addr, len, |_| {}).ok_or(unmapped)?;
                self.writable.push(Segment { addr, len });
                self.room += u64::from(len);
            }
            return Ok(());
        }
        if !self.writable.is_empty() {
            return Err(ChainError::Order);
        }
        self.carried += u64::from(len);
        let end = usize::try_from(self.carried).unwrap_or(usize::MAX).min(REQUEST_BYTES);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let (bytes, filled) = (&mut self.bytes, &mut self.filled);
        runs(memory, Memory::slice, addr, len, |run| {
            let part = run.len().min(end - *filled);
            *filled += run.copy_to(&mut bytes[*filled..*filled + part]);
        })
        .ok_or(unmapped)
    }

    /// The device-readable bytes, at most [`REQUEST_BYTES`] of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// How many device-readable bytes there are in the chain.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// How many bytes the reply may have.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Where the reply goes.
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// Gives memory back that an uncommonly large request took.
    pub(crate) fn trim(&mut self) {
        if self.bytes.len() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }
}

/// Writes `reply` into `segments` and returns how many bytes were written: 0 when a segment is no longer in memory.
pub(crate) fn scatter(memory: &Memory, segments: &[Segment], mut reply: &[u8]) -> u32 {
    let mut written = 0;
    for segment in segments {
        if reply.is_empty() {
            break;
        }
        let len = segment.len.min(u32::try_from(reply.len()).unwrap_or(u32::MAX));
        let copied = runs(memory, Memory::target, segment.addr, len, |run| {
            let (head, tail) = reply.split_at(run.len().min(reply.len()));
            run.copy_from(head);
            reply = tail;
        });
        if copied.is_none() || !memory.written(segment.addr, len.into()) {
            return 0;
        }
        written += len;
    }
    written
}

/// Calls `each` for the pieces of guest memory that make up `len` bytes at `addr`, as `look` finds them. `None` when a byte
/// is not in memory; then `each` may have been called for what comes before it.
fn runs<'m>(
    memory: &'m Memory,
    look: impl Fn(&'m Memory, u64, u64) -> Option<VolatileSlice<'m>>,
    addr: u64,
    len: u32,
    mut each: impl FnMut(VolatileSlice<'m>),
) -> Option<()> {
    if len == 0 {
        return Some(());
    }
    if let Some(run) = look(memory, addr, u64::from(len)) {
        each(run);
        return Some(());
    }
    if memory.far().is_some() && memory.unfetched(addr, u64::from(len)).is_some() {
        // It is far and cannot be had.
        return None;
    }
    // It lies in two regions that touch, or not in memory.
    let end = addr.checked_add(u64::from(len))?;
    let mut at = addr;
    while at < end {
        let index = memory.regions().partition_point(|region| region.start <= at).checked_sub(1)?;
        let region = &memory.regions()[index];
        let region_end = region.start.checked_add(region.len)?;
        let part = end.min(region_end).checked_sub(at).filter(|part| *part > 0)?;
        each(look(memory, at, part)?);
        at += part;
    }
    Some(())
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Reads 16 bytes at once: whatever the guest does meanwhile, all that follows sees one value.
    fn load(table: VolatileSlice<'_>, index: u16) -> Result<Self, ChainError> {
        let words = table.get_ref::<[u64; 2]>(usize::from(index) * DESCRIPTOR_BYTES as usize);
        let outside = ChainError::Next { next: index, len: table.len() as u64 / DESCRIPTOR_BYTES };
        let [addr, rest] = words.map_err(|_| outside)?.load().map(u64::from_le);
        Ok(Self { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 })
    }

    /// The table that an indirect descriptor points at.
    fn table<'m>(&self, memory: &'m Memory) -> Result<VolatileSlice<'m>, ChainError> {
        let len = u64::from(self.len);
        if len == 0 || len % DESCRIPTOR_BYTES != 0 || len / DESCRIPTOR_BYTES > INDIRECT_DESCRIPTORS {
            return Err(ChainError::Indirect(self.len));
        }
        memory.slice(self.addr, len).ok_or(ChainError::Unmapped { addr: self.addr, len: self.len })
    }
}
