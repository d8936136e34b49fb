//! The words of vfio-user: bytes to values and back. Little endian; no io.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use thiserror::Error;

use super::function::{Refusal, Window};

/// Bytes before each payload.
pub const HEADER_BYTES: usize = 16;
/// Data of one region access, and of one access to guest memory, that we take.
pub const MAX_DATA: usize = 1 << 20;
/// A payload beyond this is no message: it bounds what a front-end makes us allocate.
pub const MAX_PAYLOAD: usize = MAX_DATA + 4096;
/// File descriptors of one message: they bound what a front-end makes us hold open.
pub const MAX_FDS: usize = 16;
/// Bytes of JSON in a VERSION.
pub const MAX_CAPABILITIES: usize = 4096;
/// Writes in one WRITE_MULTI.
pub const MAX_WRITES: u64 = 256;

/// What a message is about.
pub mod command {
    /// The first message.
    pub const VERSION: u16 = 1;
    /// A window of guest memory.
    pub const DMA_MAP: u16 = 2;
    /// One less.
    pub const DMA_UNMAP: u16 = 3;
    /// VFIO_DEVICE_GET_INFO.
    pub const GET_INFO: u16 = 4;
    /// VFIO_DEVICE_GET_REGION_INFO.
    pub const GET_REGION_INFO: u16 = 5;
    /// VFIO_DEVICE_GET_IRQ_INFO.
    pub const GET_IRQ_INFO: u16 = 7;
    /// VFIO_DEVICE_SET_IRQS.
    pub const SET_IRQS: u16 = 8;
    /// The guest reads.
    pub const REGION_READ: u16 = 9;
    /// The guest writes.
    pub const REGION_WRITE: u16 = 10;
    /// The device reads guest memory.
    pub const DMA_READ: u16 = 11;
    /// The device writes guest memory.
    pub const DMA_WRITE: u16 = 12;
    /// VFIO_DEVICE_RESET.
    pub const RESET: u16 = 13;
    /// Several writes of the guest.
    pub const WRITE_MULTI: u16 = 15;
}

mod flag {
    pub const KIND: u32 = 0xf;
    pub const REQUEST: u32 = 0;
    pub const REPLY: u32 = 1;
    pub const NO_REPLY: u32 = 1 << 4;
    pub const ERROR: u32 = 1 << 5;
}

/// Flags of a device: it can be reset, and is a PCI function.
const DEVICE_FLAGS: u32 = 1 | 2;
/// Flags of a DMA_MAP.
const DMA_READABLE: u32 = 1;
const DMA_WRITABLE: u32 = 2;
/// Flag of a DMA_UNMAP: all there is.
const DMA_ALL: u32 = 2;

/// What is no message at all: the stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Its length.
    #[error("A message of {0} bytes cannot be")]
    Size(u32),
    /// Neither request nor reply.
    #[error("Flags {0:#x} of a message are unknown")]
    Flags(u32),
}

/// Request, or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something is asked.
    Request {
        /// .. and no answer is wanted.
        no_reply: bool,
    },
    /// The answer.
    Reply,
    /// The answer is an error number.
    Error(u32),
}

/// What each message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// By which a reply is matched; each side numbers its own requests.
    pub id: u16,
    /// Of [`command`].
    pub command: u16,
    /// Bytes of payload.
    pub size: usize,
    /// Which side speaks.
    pub kind: Kind,
}

impl Header {
    /// Reads one.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [i0, i1, c0, c1, s0, s1, s2, s3, f0, f1, f2, f3, e0, e1, e2, e3] = *bytes;
        let total = u32::from_le_bytes([s0, s1, s2, s3]);
        let size = (total as usize).checked_sub(HEADER_BYTES).filter(|size| *size <= MAX_PAYLOAD);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let kind = match flags & flag::KIND {
            flag::REQUEST => Kind::Request { no_reply: flags & flag::NO_REPLY != 0 },
            flag::REPLY if flags & flag::ERROR != 0 => Kind::Error(u32::from_le_bytes([e0, e1, e2, e3])),
            flag::REPLY => Kind::Reply,
            _ => return Err(WireError::Flags(flags)),
        };
        Ok(Self {
            id: u16::from_le_bytes([i0, i1]),
            command: u16::from_le_bytes([c0, c1]),
            size: size.ok_or(WireError::Size(total))?,
            kind,
        })
    }

    /// Writes it.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let (flags, errno) = match self.kind {
            Kind::Request { no_reply: false } => (flag::REQUEST, 0),
            Kind::Request { no_reply: true } => (flag::REQUEST | flag::NO_REPLY, 0),
            Kind::Reply => (flag::REPLY, 0),
            Kind::Error(errno) => (flag::REPLY | flag::ERROR, errno),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..2].copy_from_slice(&self.id.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.command.to_le_bytes());
        bytes[4..8].copy_from_slice(&((HEADER_BYTES + self.size) as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[12..].copy_from_slice(&errno.to_le_bytes());
        bytes
    }
}

/// A message, its payload not yet parsed.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: &'a [u8],
    /// The file descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// What a front-end asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Which protocol it speaks.
    Version {
        /// Must be 0.
        major: u16,
        /// Any.
        minor: u16,
        /// JSON, with its NUL.
        capabilities: &'a [u8],
    },
    /// A window of guest memory: with its file, if it has one.
    DmaMap(Window),
    /// One less, by address and size; `None` for all.
    DmaUnmap(Option<(u64, u64)>),
    /// What the device is.
    GetInfo,
    /// What a region is.
    GetRegionInfo {
        /// Bytes that the answer may have.
        room: u32,
        /// Which.
        index: u32,
    },
    /// What a kind of interrupt is.
    GetIrqInfo {
        /// Which.
        index: u32,
    },
    /// How interrupts are told.
    SetIrqs {
        /// Action and kind of data.
        flags: u32,
        /// Kind of interrupt.
        index: u32,
        /// The first vector.
        start: u32,
        /// How many.
        count: u32,
        /// A byte for each, where the flags say so.
        data: &'a [u8],
    },
    /// The guest reads.
    RegionRead(Access),
    /// The guest writes: as many bytes as it says.
    RegionWrite(Access, &'a [u8]),
    /// The device's reset.
    Reset,
    /// Several writes of the guest.
    WriteMulti(Writes<'a>),
}

/// A place in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which region.
    pub region: u32,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub count: u32,
}

/// The writes of a WRITE_MULTI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writes<'a>(&'a [[u8; WRITE_BYTES]]);

/// One of them: 16 bytes of access, 8 of data.
const WRITE_BYTES: usize = 24;

impl<'a> Iterator for Writes<'a> {
    type Item = (Access, &'a [u8; 8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let mut words = Words(first);
        Some((words.access()?, words.0.try_into().ok()?))
    }
}

const LENGTH: Refusal = Refusal { errno: Errno::INVAL, why: "a payload of the wrong length" };
const UNKNOWN: Refusal = Refusal { errno: Errno::NOTSUP, why: "not a command that is obeyed" };

impl<'a> Request<'a> {
    /// Reads the payload of a command.
    pub fn parse(command: u16, payload: &'a [u8]) -> Result<Self, Refusal> {
        let mut words = Words(payload);
        let request = match command {
            command::VERSION => words.version(),
            command::DMA_MAP => words.dma_map(),
            command::DMA_UNMAP => words.dma_unmap(),
            command::GET_INFO => words.info().map(|_: [u32; 4]| Request::GetInfo),
            command::GET_REGION_INFO => {
                words.info().map(|[room, _, index, ..]: [u32; 8]| Request::GetRegionInfo { room, index })
            }
            command::GET_IRQ_INFO => words.info().map(|[_, _, index, _]: [u32; 4]| Request::GetIrqInfo { index }),
            command::SET_IRQS => words.set_irqs(),
            command::REGION_READ => words.access().map(Request::RegionRead),
            command::REGION_WRITE => words.region_write(),
            command::RESET => Some(Request::Reset),
            command::WRITE_MULTI => words.write_multi(),
            _ => return Err(UNKNOWN),
        };
        request.filter(|_| words.0.is_empty()).ok_or(LENGTH)
    }

    /// Its command and, appended to `payload`, the rest: what a front-end sends.
    pub fn encode(&self, payload: &mut Vec<u8>) -> u16 {
        match self {
            Request::Version { major, minor, capabilities } => {
                payload.extend([major.to_le_bytes(), minor.to_le_bytes()].concat());
                payload.extend(*capabilities);
                command::VERSION
            }
            Request::DmaMap(Window { iova, size, offset, readable, writable }) => {
                let flags = if *readable { DMA_READABLE } else { 0 } | if *writable { DMA_WRITABLE } else { 0 };
                put32(payload, &[32, flags]);
                put64(payload, &[*offset, *iova, *size]);
                command::DMA_MAP
            }
            Request::DmaUnmap(range) => {
                put32(payload, &[24, if range.is_none() { DMA_ALL } else { 0 }]);
                let (iova, size) = range.unwrap_or_default();
                put64(payload, &[iova, size]);
                command::DMA_UNMAP
            }
            Request::GetInfo => {
                put32(payload, &[16, 0, 0, 0]);
                command::GET_INFO
            }
            Request::GetRegionInfo { room, index } => {
                put32(payload, &[*room, 0, *index, 0, 0, 0, 0, 0]);
                command::GET_REGION_INFO
            }
            Request::GetIrqInfo { index } => {
                put32(payload, &[16, 0, *index, 0]);
                command::GET_IRQ_INFO
            }
            Request::SetIrqs { flags, index, start, count, data } => {
                put32(payload, &[20 + data.len() as u32, *flags, *index, *start, *count]);
                payload.extend(*data);
                command::SET_IRQS
            }
            Request::RegionRead(access) => {
                access.encode(payload);
                command::REGION_READ
            }
            Request::RegionWrite(access, data) => {
                access.encode(payload);
                payload.extend(*data);
                command::REGION_WRITE
            }
            Request::Reset => command::RESET,
            Request::WriteMulti(Writes(writes)) => {
                put64(payload, &[writes.len() as u64]);
                payload.extend(writes.as_flattened());
                command::WRITE_MULTI
            }
        }
    }

    /// The whole message.
    pub fn to_bytes(&self, id: u16, no_reply: bool) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let command = self.encode(&mut bytes);
        let header = Header { id, command, size: bytes.len() - HEADER_BYTES, kind: Kind::Request { no_reply } };
        bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        bytes
    }
}

impl Access {
    /// As it stands in requests and their replies.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, &[self.offset]);
        put32(out, &[self.region, self.count]);
    }
}

/// The answer to GET_INFO.
pub fn put_info(out: &mut Vec<u8>, regions: usize, irqs: usize) {
    put32(out, &[16, DEVICE_FLAGS, regions as u32, irqs as u32]);
}

/// The answer to GET_REGION_INFO, with the pieces that may be mapped if there is `room` for them.
pub fn put_region_info(out: &mut Vec<u8>, room: u32, flags: u32, index: u32, size: u64, areas: &[(u64, u64)]) {
    const FIXED: u32 = 32;
    const SPARSE_HEADER: u32 = 16;
    const WITH_CAPABILITIES: u32 = 8;
    const SPARSE_MMAP: u32 = 1 | 1 << 16;
    if areas.is_empty() {
        put32(out, &[FIXED, flags, index, 0]);
        return put64(out, &[size, 0]);
    }
    let needed = FIXED + SPARSE_HEADER + 16 * areas.len() as u32;
    let fits = room >= needed;
    put32(out, &[needed, flags | WITH_CAPABILITIES, index, if fits { FIXED } else { 0 }]);
    put64(out, &[size, 0]);
    if fits {
        put32(out, &[SPARSE_MMAP, 0, areas.len() as u32, 0]);
        for (offset, length) in areas {
            put64(out, &[*offset, *length]);
        }
    }
}

/// The answer to GET_IRQ_INFO.
pub fn put_irq_info(out: &mut Vec<u8>, flags: u32, index: u32, count: u32) {
    put32(out, &[16, flags, index, count]);
}

/// What DMA_READ and DMA_WRITE begin with after their header, and so do their replies.
pub const DMA_BYTES: usize = 16;

/// The beginning of a request to the front-end, which `data` bytes follow.
pub fn dma_request(id: u16, command: u16, address: u64, count: u64, data: usize) -> [u8; HEADER_BYTES + DMA_BYTES] {
    let header = Header { id, command, size: DMA_BYTES + data, kind: Kind::Request { no_reply: false } };
    let mut bytes = [0; HEADER_BYTES + DMA_BYTES];
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    bytes[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&address.to_le_bytes());
    bytes[HEADER_BYTES + 8..].copy_from_slice(&count.to_le_bytes());
    bytes
}

/// Address, count and data of a DMA_READ or DMA_WRITE, or of the reply to one.
pub fn parse_dma(payload: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut words = Words(payload);
    Some((words.u64()?, words.u64()?, words.0))
}

fn put32(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend(word.to_le_bytes()));
}

fn put64(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend(word.to_le_bytes()));
}

/// What is left to read of a payload.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Words of which the first says that there is room for all of them in the answer.
    fn info<const N: usize>(&mut self) -> Option<[u32; N]> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.u32()?;
        }
        (words[0] as usize >= 4 * N).then_some(words)
    }

    fn version(&mut self) -> Option<Request<'a>> {
        Some(Request::Version { major: self.u16()?, minor: self.u16()?, capabilities: self.rest() })
    }

    /// The size in it is not looked at: front-ends differ in what they count.
    fn dma_map(&mut self) -> Option<Request<'a>> {
        let [_, flags] = [self.u32()?, self.u32()?];
        let [offset, iova, size] = [self.u64()?, self.u64()?, self.u64()?];
        let (readable, writable) = (flags & DMA_READABLE != 0, flags & DMA_WRITABLE != 0);
        Some(Request::DmaMap(Window { iova, size, offset, readable, writable }))
    }

    fn dma_unmap(&mut self) -> Option<Request<'a>> {
        let [_, flags] = [self.u32()?, self.u32()?];
        let range = (self.u64()?, self.u64()?);
        match (flags, range) {
            (0, range) => Some(Request::DmaUnmap(Some(range))),
            (DMA_ALL, (0, 0)) => Some(Request::DmaUnmap(None)),
            _ => None,
        }
    }

    fn set_irqs(&mut self) -> Option<Request<'a>> {
        let argsz = self.u32()?;
        let [flags, index, start, count] = [self.u32()?, self.u32()?, self.u32()?, self.u32()?];
        (argsz >= 20).then(|| Request::SetIrqs { flags, index, start, count, data: self.rest() })
    }

    fn access(&mut self) -> Option<Access> {
        let offset = self.u64()?;
        Some(Access { offset, region: self.u32()?, count: self.u32()? })
    }

    fn region_write(&mut self) -> Option<Request<'a>> {
        let access = self.access()?;
        let data = self.rest();
        (data.len() == access.count as usize).then_some(Request::RegionWrite(access, data))
    }

    fn write_multi(&mut self) -> Option<Request<'a>> {
        let count = self.u64().filter(|count| *count <= MAX_WRITES)?;
        let (writes, rest) = self.rest().as_chunks();
        (rest.is_empty() && writes.len() as u64 == count).then_some(Request::WriteMulti(Writes(writes)))
    }
}

#[cfg(test)]
mod tests;
