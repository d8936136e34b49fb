//! The messages of vhost-user, parsed: bytes in, [`Request`] out.
//!
//! Everything is in the byte order of the host. Nothing is believed: lengths and the number of descriptors are compared
//! with what the request has by its nature.

use thiserror::Error;

/// Size of a header.
pub const HEADER_BYTES: usize = 12;
/// The longest payload that is read; the longest of a known request is 264 bytes, or a write of the configuration.
pub const MAX_PAYLOAD: usize = 4096;
/// The most descriptors that a message carries: one for each region of a table.
pub const MAX_FDS: usize = 8;

pub(super) const VERSION: u32 = 1;
pub(super) const VERSION_MASK: u32 = 3;
pub(super) const REPLY: u32 = 1 << 2;
pub(super) const NEED_REPLY: u32 = 1 << 3;

/// Numbers of the front-end's requests.
pub mod code {
    #![allow(missing_docs)]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GPU_SET_SOCKET: u32 = 33;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const GET_SHMEM_CONFIG: u32 = 44;
    /// The same in words of crosvm's, from before it was specified.
    pub const GET_SHARED_MEMORY_REGIONS: u32 = 1004;
    /// The back-end's own request: the configuration changed.
    pub const BACKEND_CONFIG_CHANGE: u32 = 2;
    /// The back-end's own request: an object that it shares with other devices is gone.
    pub const BACKEND_SHARED_OBJECT_REMOVE: u32 = 7;
    /// The back-end's own request: a file is to be seen in a shared memory region.
    pub const BACKEND_SHMEM_MAP: u32 = 9;
    /// The back-end's own request: it is to be seen there no longer.
    pub const BACKEND_SHMEM_UNMAP: u32 = 10;
    /// [`BACKEND_SHMEM_MAP`] in words of crosvm's, from before it was specified.
    pub const BACKEND_EARLY_SHMEM_MAP: u32 = 1000;
    /// [`BACKEND_SHMEM_UNMAP`], likewise.
    pub const BACKEND_EARLY_SHMEM_UNMAP: u32 = 1001;
}

/// Why a message is not one. The connection cannot go on after most of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Not version 1, or a reply where a request belongs.
    #[error("Message {request} has the impossible flags {flags:#x}")]
    Flags {
        /// Its number.
        request: u32,
        /// Its flags.
        flags: u32,
    },
    /// A payload that is too long for any message.
    #[error("Message {request} announces {size} bytes, more than any has")]
    Oversized {
        /// Its number.
        request: u32,
        /// What it announces.
        size: u32,
    },
    /// A payload that is too short or too long for this message.
    #[error("Message {request} cannot have a payload of {size} bytes")]
    Size {
        /// Its number.
        request: u32,
        /// Length of its payload.
        size: usize,
    },
    /// Descriptors that do not belong to it, or missing ones.
    #[error("Message {request} cannot have {fds} file descriptors")]
    Fds {
        /// Its number.
        request: u32,
        /// How many it has.
        fds: usize,
    },
    /// A request that is not known, or was not offered.
    #[error("Message {0} is not known or was not negotiated")]
    Unknown(u32),
}

/// The twelve bytes before each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub request: u32,
    /// Whether the front-end waits for an answer.
    pub need_reply: bool,
    /// Length of the payload.
    pub size: usize,
}

impl Header {
    /// Takes a request's header apart.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, MessageError> {
        let mut words = Words(bytes);
        let (request, flags, size) = (words.u32(), words.u32(), words.u32());
        if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
            return Err(MessageError::Flags { request, flags });
        }
        let fits = usize::try_from(size).ok().filter(|size| *size <= MAX_PAYLOAD);
        let size = fits.ok_or(MessageError::Oversized { request, size })?;
        Ok(Self { request, need_reply: flags & NEED_REPLY != 0, size })
    }
}

/// A region of guest memory, as the front-end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionDescription {
    /// Guest-physical address.
    pub guest: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address in the front-end's own memory, in which it names rings.
    pub user: u64,
    /// Where the region starts in its file.
    pub offset: u64,
}

/// Addresses of a ring in the front-end's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The used ring.
    pub used: u64,
    /// The available ring.
    pub available: u64,
}

/// What a front-end asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request<'a> {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<RegionDescription>),
    SetVringNum { queue: u32, size: u32 },
    SetVringAddr { queue: u32, addresses: RingAddresses },
    SetVringBase { queue: u32, base: u32 },
    GetVringBase { queue: u32 },
    SetVringKick { queue: u32 },
    SetVringCall { queue: u32 },
    SetVringErr { queue: u32 },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable { queue: u32, enable: bool },
    SetBackendReqFd,
    GetConfig { offset: u32, size: u32, flags: u32 },
    SetConfig { offset: u32, bytes: &'a [u8] },
    GpuSetSocket,
    GetMaxMemSlots,
    AddMemReg(RegionDescription),
    RemMemReg(RegionDescription),
    GetShmemConfig,
    GetSharedMemoryRegions,
}

/// Bit of a ring's descriptor message that says that there is none.
const NO_FD: u64 = 1 << 8;

impl<'a> Request<'a> {
    /// Takes a payload apart that came with `fds` file descriptors.
    pub fn parse(request: u32, payload: &'a [u8], fds: usize) -> Result<Self, MessageError> {
        use Request::*;
        let size = payload.len();
        let mut words = Words(payload);
        let wrong_size = MessageError::Size { request, size };
        let sized = |wanted: usize, parsed: Self| if size == wanted { Ok(parsed) } else { Err(wrong_size) };
        let parsed = match request {
            code::GET_FEATURES => sized(0, GetFeatures),
            code::SET_FEATURES => sized(8, SetFeatures(words.u64())),
            code::SET_OWNER => sized(0, SetOwner),
            code::RESET_OWNER => sized(0, ResetOwner),
            code::SET_MEM_TABLE => {
                let count = words.u32() as usize;
                words.u32();
                if count > MAX_FDS || size != 8 + count * RegionDescription::BYTES {
                    return Err(wrong_size);
                }
                Ok(SetMemTable((0..count).map(|_| RegionDescription::parse(&mut words)).collect()))
            }
            code::SET_VRING_NUM => sized(8, SetVringNum { queue: words.u32(), size: words.u32() }),
            code::SET_VRING_ADDR => {
                let queue = words.u32();
                // Flags: the only one asks to log, which is not offered.
                words.u32();
                let addresses = RingAddresses { descriptors: words.u64(), used: words.u64(), available: words.u64() };
                sized(40, SetVringAddr { queue, addresses })
            }
            code::SET_VRING_BASE => sized(8, SetVringBase { queue: words.u32(), base: words.u32() }),
            code::GET_VRING_BASE => sized(8, GetVringBase { queue: words.u32() }),
            code::SET_VRING_KICK | code::SET_VRING_CALL | code::SET_VRING_ERR => {
                let word = words.u64();
                if size == 8 && fds != usize::from(word & NO_FD == 0) {
                    return Err(MessageError::Fds { request, fds });
                }
                let queue = (word & 0xff) as u32;
                let parsed = match request {
                    code::SET_VRING_KICK => SetVringKick { queue },
                    code::SET_VRING_CALL => SetVringCall { queue },
                    _ => SetVringErr { queue },
                };
                sized(8, parsed)
            }
            code::GET_PROTOCOL_FEATURES => sized(0, GetProtocolFeatures),
            code::SET_PROTOCOL_FEATURES => sized(8, SetProtocolFeatures(words.u64())),
            code::GET_QUEUE_NUM => sized(0, GetQueueNum),
            code::SET_VRING_ENABLE => sized(8, SetVringEnable { queue: words.u32(), enable: words.u32() != 0 }),
            code::SET_BACKEND_REQ_FD => sized(0, SetBackendReqFd),
            code::GET_CONFIG | code::SET_CONFIG => {
                let (offset, length, flags) = (words.u32(), words.u32(), words.u32());
                let bytes = payload.get(12..).ok_or(wrong_size)?;
                if bytes.len() != length as usize {
                    return Err(wrong_size);
                }
                Ok(match request {
                    code::GET_CONFIG => GetConfig { offset, size: length, flags },
                    _ => SetConfig { offset, bytes },
                })
            }
            code::GPU_SET_SOCKET => sized(0, GpuSetSocket),
            code::GET_MAX_MEM_SLOTS => sized(0, GetMaxMemSlots),
            code::ADD_MEM_REG | code::REM_MEM_REG => {
                words.u64();
                let region = RegionDescription::parse(&mut words);
                sized(40, if request == code::ADD_MEM_REG { AddMemReg(region) } else { RemMemReg(region) })
            }
            code::GET_SHMEM_CONFIG => sized(0, GetShmemConfig),
            code::GET_SHARED_MEMORY_REGIONS => sized(0, GetSharedMemoryRegions),
            _ => return Err(MessageError::Unknown(request)),
        }?;
        if parsed.takes(fds) { Ok(parsed) } else { Err(MessageError::Fds { request, fds }) }
    }

    fn takes(&self, fds: usize) -> bool {
        match self {
            Request::SetMemTable(regions) => fds == regions.len(),
            Request::AddMemReg(_) | Request::SetBackendReqFd | Request::GpuSetSocket => fds == 1,
            // Some front-ends send the region's descriptor again; it is closed.
            Request::RemMemReg(_) => fds <= 1,
            // Looked at with the bit that says whether there is one.
            Request::SetVringKick { .. } | Request::SetVringCall { .. } | Request::SetVringErr { .. } => true,
            _ => fds == 0,
        }
    }
}

impl RegionDescription {
    const BYTES: usize = 32;

    fn parse(words: &mut Words<'_>) -> Self {
        Self { guest: words.u64(), size: words.u64(), user: words.u64(), offset: words.u64() }
    }
}

/// Reads words one after the other; zeros past the end, where the length is checked besides.
pub(super) struct Words<'a>(pub &'a [u8]);

impl Words<'_> {
    pub fn u32(&mut self) -> u32 {
        self.take().map_or(0, u32::from_ne_bytes)
    }

    pub fn u64(&mut self) -> u64 {
        self.take().map_or(0, u64::from_ne_bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*word)
    }
}

/// The whole reply to `request`.
pub fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
    frame(request, VERSION | REPLY, payload)
}

/// A request of the back-end that wants no answer.
pub fn notice(request: u32) -> Vec<u8> {
    frame(request, VERSION, &[])
}

/// A whole message.
pub(super) fn frame(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let head = [request, flags, payload.len() as u32];
    head.iter().flat_map(|word| word.to_ne_bytes()).chain(payload.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(request: u32, flags: u32, size: u32) -> Result<Header, MessageError> {
        let bytes: Vec<u8> = [request, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Header::parse(bytes.first_chunk().unwrap())
    }

    #[test]
    fn a_header_is_a_request_of_version_1() {
        assert_eq!(header(1, 1, 8), Ok(Header { request: 1, need_reply: false, size: 8 }));
        assert_eq!(header(1, 9, 0), Ok(Header { request: 1, need_reply: true, size: 0 }));
        for flags in [0, 2, 3, 5, 13] {
            assert_eq!(header(1, flags, 0), Err(MessageError::Flags { request: 1, flags }));
        }
        for size in [4097, u32::MAX] {
            assert_eq!(header(1, 1, size), Err(MessageError::Oversized { request: 1, size }));
        }
    }

    #[test]
    fn vhost_user_wrong_lengths_are_refused() {
        let fds = |request| match request {
            code::SET_VRING_KICK | code::SET_VRING_CALL | code::SET_VRING_ERR => 1,
            code::ADD_MEM_REG | code::SET_BACKEND_REQ_FD | code::GPU_SET_SOCKET => 1,
            _ => 0,
        };
        for request in (0..64).chain(990..1010) {
            let accepted: Vec<usize> =
                (0..300).filter(|len| Request::parse(request, &vec![0; *len], fds(request)).is_ok()).collect();
            let expected: &[usize] = match request {
                1 | 3 | 4 | 15 | 17 | 21 | 33 | 36 | 44 | 1004 => &[0],
                2 | 8 | 10..=14 | 16 | 18 | 5 => &[8],
                9 | 37 | 38 => &[40],
                24 | 25 => &[12],
                _ => &[],
            };
            assert_eq!(accepted, expected, "request {request}");
        }
    }

    #[test]
    fn vhost_user_wrong_numbers_of_descriptors_are_refused() {
        let table = |count: u32| [&u64::from(count).to_ne_bytes()[..], &vec![0; 32 * count as usize]].concat();
        let cases = [
            (code::GET_FEATURES, vec![], vec![0]),
            (code::SET_MEM_TABLE, table(0), vec![0]),
            (code::SET_MEM_TABLE, table(3), vec![3]),
            (code::SET_MEM_TABLE, table(8), vec![8]),
            (code::SET_MEM_TABLE, table(9), vec![]),
            (code::SET_VRING_KICK, 1u64.to_ne_bytes().to_vec(), vec![1]),
            (code::SET_VRING_CALL, 0x101u64.to_ne_bytes().to_vec(), vec![0]),
            (code::ADD_MEM_REG, vec![0; 40], vec![1]),
            (code::REM_MEM_REG, vec![0; 40], vec![0, 1]),
            (code::GPU_SET_SOCKET, vec![], vec![1]),
        ];
        for (request, payload, expected) in cases {
            let accepted: Vec<_> = (0..12).filter(|fds| Request::parse(request, &payload, *fds).is_ok()).collect();
            assert_eq!(accepted, expected, "request {request} with {} bytes", payload.len());
        }
    }

    #[test]
    fn a_count_of_regions_is_compared_with_the_bytes() {
        for count in [1u32, 2, 8, 9, u32::MAX] {
            let payload = [&count.to_ne_bytes()[..], &[0; 4]].concat();
            let refused = Request::parse(code::SET_MEM_TABLE, &payload, 0);
            assert_eq!(refused, Err(MessageError::Size { request: 5, size: 8 }));
        }
    }
}
