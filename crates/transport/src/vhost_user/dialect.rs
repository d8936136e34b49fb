//! How front-ends want to be asked to map memory: the same wish in other words.
//!
//! The words are specified since vhost-user of 2026 (SHMEM). crosvm had its own before, and where QEMU 11.1 has to be spoken
//! to with care, crosvm must be spoken to plainly: what it does not know, or cannot do, ends its VM.

use device::WindowRequest;

use super::control::protocol_feature::{
    BACKEND_REQ, BACKEND_SEND_FD, REPLY_ACK, SHARED_MEMORY_REGIONS, SHARED_OBJECT, SHMEM,
};
use super::message::{HEADER_BYTES, NEED_REPLY, REPLY, VERSION, VERSION_MASK, Words, code, frame};
use crate::window::place;

/// Whom a request to map is for, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As specified, and with the care that QEMU 11.1 needs: a request is sent in two steps, and what was mapped is in force when
    /// something of ours has come back as memory of the guest, or the [`fence`] behind it is answered.
    #[default]
    Careful,
    /// As specified: crosvm since August 2026.
    Plain,
    /// crosvm's own words, from July 2024 to December 2025.
    Early,
}

impl Dialect {
    /// What a front-end understands that acknowledged these protocol features; `None` when it cannot be asked, or would not
    /// answer.
    pub fn of(features: u64) -> Option<Self> {
        let all = |needed: u64| features & needed == needed;
        if all(SHMEM | BACKEND_REQ | REPLY_ACK) {
            // QEMU acknowledges whatever it is offered and knows. crosvm and others take descriptors without a word of it.
            return Some(if all(BACKEND_SEND_FD | SHARED_OBJECT) { Self::Careful } else { Self::Plain });
        }
        // It is always answered.
        all(SHARED_MEMORY_REGIONS | BACKEND_REQ).then_some(Self::Early)
    }

    /// Whether a request is to follow its first byte only when that was taken.
    pub fn in_two_steps(self) -> bool {
        self == Self::Careful
    }

    /// Whether this request has a [`fence`] behind it, because its own answer comes too early.
    pub fn is_fenced(self, request: &WindowRequest) -> bool {
        self == Self::Careful && matches!(request, WindowRequest::Map(_))
    }

    /// The number of such a request.
    pub fn number(self, request: &WindowRequest) -> u32 {
        match (self, request) {
            (Self::Careful | Self::Plain, WindowRequest::Map(_)) => code::BACKEND_SHMEM_MAP,
            (Self::Careful | Self::Plain, WindowRequest::Unmap(_)) => code::BACKEND_SHMEM_UNMAP,
            (Self::Early, WindowRequest::Map(_)) => code::BACKEND_EARLY_SHMEM_MAP,
            (Self::Early, WindowRequest::Unmap(_)) => code::BACKEND_EARLY_SHMEM_UNMAP,
        }
    }

    /// The whole request; the descriptor of what is mapped goes along with its first byte. What is mapped can be written; how
    /// it is cached no dialect has a word for.
    pub fn request(self, request: &WindowRequest) -> Vec<u8> {
        let (region, at, len) = place(request);
        let offset = match request {
            WindowRequest::Map(map) => map.mapping.offset,
            WindowRequest::Unmap(_) => 0,
        };
        let writable = match request {
            WindowRequest::Map(_) => MAP_READ_WRITE,
            WindowRequest::Unmap(_) => 0,
        };
        let (flags, words) = match (self, request) {
            (Self::Careful | Self::Plain, _) => {
                (VERSION | NEED_REPLY, vec![word(&[region]), offset, at, len, writable])
            }
            (Self::Early, WindowRequest::Map(_)) => {
                (VERSION, vec![word(&[EARLY_READ | EARLY_WRITE, region]), at, offset, len])
            }
            (Self::Early, WindowRequest::Unmap(_)) => (VERSION, vec![word(&[region]), at, len]),
        };
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        frame(self.number(request), flags, &payload)
    }

    /// A message that means nothing, wants no answer and begins with the same byte.
    pub fn taken_back(self, request: &WindowRequest) -> Vec<u8> {
        frame(self.number(request) | UNKNOWN, VERSION, &[])
    }
}

/// A request that changes nothing and is answered when all before it was carried out: that an object is gone which nobody has.
/// QEMU 11.1 survives it also when it takes it after it stopped the device.
pub fn fence() -> Vec<u8> {
    frame(code::BACKEND_SHARED_OBJECT_REMOVE, VERSION | NEED_REPLY, &NOTHING)
}

/// No object has it: whoever makes UUIDs today sets the first bit of the ninth byte.
const NOTHING: [u8; 16] = *b"beamsplit\0fence\0";

/// The guest may write.
const MAP_READ_WRITE: u64 = 1;
/// The guest may read, in crosvm's words.
const EARLY_READ: u8 = 1;
/// It may write.
const EARLY_WRITE: u8 = 2;
/// Makes the number of a request one that is of none.
const UNKNOWN: u32 = 0x100;

/// A word that begins with these bytes; the others are 0.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// The answer to GET_SHMEM_CONFIG: lengths of the regions of shared memory, by their numbers.
pub fn shmem_config(regions: &[u64]) -> Vec<u8> {
    let regions = &regions[..regions.len().min(SHMEM_REGIONS)];
    let mut answer = vec![0; 8 + 8 * SHMEM_REGIONS];
    answer[..4].copy_from_slice(&(regions.len() as u32).to_ne_bytes());
    for (region, place) in regions.iter().zip(answer[8..].chunks_exact_mut(8)) {
        place.copy_from_slice(&region.to_ne_bytes());
    }
    answer
}

/// The answer to GET_SHARED_MEMORY_REGIONS: how many there are, and of each the number and the length.
pub fn shared_memory_regions(regions: &[u64]) -> Vec<u8> {
    let regions = (0..=u8::MAX).zip(regions).filter(|(_, len)| **len > 0);
    let words: Vec<u64> = regions.flat_map(|(number, len)| [word(&[number]), *len]).collect();
    let count = words.len() as u64 / 2;
    [count].iter().chain(&words).flat_map(|word| word.to_ne_bytes()).collect()
}

/// Regions of shared memory that GET_SHMEM_CONFIG speaks of.
const SHMEM_REGIONS: usize = 256;

/// What the front-end answers to a request of the back-end, in any dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's number.
    pub request: u32,
    /// Whether it was done.
    pub done: bool,
}

impl Answer {
    /// Length of all of it.
    pub const BYTES: usize = HEADER_BYTES + 8;

    /// Takes one apart; `None` when it is none.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut words = Words(bytes);
        let (request, flags, size, code) = (words.u32(), words.u32(), words.u32(), words.u64());
        let right = flags & (VERSION_MASK | REPLY) == VERSION | REPLY && size == 8;
        right.then_some(Self { request, done: code == 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use device::{HostMapping, MapRequest, Ticket, UnmapRequest};

    use super::*;

    #[test]
    fn the_features_that_a_front_end_acknowledges_say_how_it_is_spoken_to() {
        let qemu = 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 15 | 1 << 18 | 1 << 22;
        let crosvm = 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 22;
        let crosvm_of_2025 = 1 | 1 << 5 | 1 << 9 | 1 << 31;
        let cases = [
            (qemu, Some(Dialect::Careful)),
            (crosvm, Some(Dialect::Plain)),
            (crosvm_of_2025, Some(Dialect::Early)),
            (qemu | 1 << 31, Some(Dialect::Careful)),
            (qemu & !(1 << 10), Some(Dialect::Plain)),
            (qemu & !(1 << 18), Some(Dialect::Plain)),
            (crosvm | 1 << 31, Some(Dialect::Plain)),
            // What is specified is answered only where that was agreed on.
            (crosvm & !(1 << 3), None),
            (crosvm & !(1 << 3) | 1 << 31, Some(Dialect::Early)),
            (crosvm & !(1 << 5), None),
            (crosvm_of_2025 & !(1 << 5), None),
            (crosvm & !(1 << 22), None),
            // crosvm from December 2025 to August 2026: bits that mean something else now.
            (crosvm & !(1 << 22) | 1 << 20 | 1 << 21, None),
            (0, None),
        ];
        for (features, dialect) in cases {
            assert_eq!(Dialect::of(features), dialect, "{features:#x}");
        }
    }

    #[test]
    fn each_dialect_has_its_own_order_of_words() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mapping = HostMapping { file, offset: 0x3000, len: 0x2000, caching: 2 };
        let map = WindowRequest::Map(MapRequest { ticket: Ticket(1), region: 7, at: 0x5000, mapping });
        let unmap = WindowRequest::Unmap(UnmapRequest { ticket: Ticket(2), region: 7, at: 0x5000, len: 0x2000 });
        let message = |head: [u32; 3], words: &[u64]| {
            let words = words.iter().flat_map(|word| word.to_ne_bytes());
            head.iter().flat_map(|word| word.to_ne_bytes()).chain(words).collect::<Vec<u8>>()
        };
        for dialect in [Dialect::Careful, Dialect::Plain] {
            assert_eq!(dialect.request(&map), message([9, 9, 40], &[7, 0x3000, 0x5000, 0x2000, 1]));
            assert_eq!(dialect.request(&unmap), message([10, 9, 40], &[7, 0, 0x5000, 0x2000, 0]));
        }
        let early = Dialect::Early;
        let flags_and_region = u64::from_ne_bytes([3, 7, 0, 0, 0, 0, 0, 0]);
        assert_eq!(early.request(&map), message([1000, 1, 32], &[flags_and_region, 0x5000, 0x3000, 0x2000]));
        assert_eq!(early.request(&unmap), message([1001, 1, 24], &[7, 0x5000, 0x2000]));
    }

    #[test]
    fn regions_without_a_length_are_none() {
        let words = |bytes: Vec<u8>| -> Vec<u64> {
            bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
        };
        assert_eq!(words(shared_memory_regions(&[0, 0x4000, 0, 0x8000])), [2, 1, 0x4000, 3, 0x8000]);
        assert_eq!(words(shared_memory_regions(&[])), [0]);
        assert_eq!(words(shared_memory_regions(&[1; 300])).len(), 1 + 2 * 256);
        let config = words(shmem_config(&[0, 0x4000]));
        assert_eq!((config.len(), &config[..4]), (257, &[2, 0, 0x4000, 0][..]));
    }
}
