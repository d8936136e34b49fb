//! The words of QEMU's vhost-user-gpu side protocol (`docs/interop/vhost-user-gpu.rst`): a device shows its pixels to the
//! VMM and asks it for modes and EDIDs, over a stream socket of its own (`VHOST_USER_GPU_SET_SOCKET`).
//!
//! A [`Message`] goes from the device to the VMM, a [`Reply`] the other way. Both can be written and read, so that a
//! test or a load generator can play the VMM. Numbers are in the machine's order; the structures that the protocol
//! borrows from virtio-gpu are little-endian.

mod message;
mod reply;
#[cfg(test)]
mod tests;

pub use message::{Cursor, DmabufScanout, Message, Position, update_prefix};
pub use reply::{Reply, ReplyReader};

/// Bytes of a header.
pub const HEADER_SIZE: usize = 12;
/// Bytes of an UPDATE before its pixels, the header included.
pub const UPDATE_PREFIX_SIZE: usize = HEADER_SIZE + 20;
/// Width and height of a cursor's picture.
pub const CURSOR_SIDE: usize = 64;
/// Bytes of a cursor's picture: a8r8g8b8 in the machine's order.
pub const CURSOR_BYTES: usize = CURSOR_SIDE * CURSOR_SIDE * 4;
/// Bytes of the longest reply's payload, an EDID. Stops a peer that announces four gigabytes.
pub const MAX_REPLY: usize = 24 + 8 + crate::edid::MAX_BYTES;

/// Marks a reply (`VHOST_USER_GPU_MSG_FLAG_REPLY`).
pub const FLAG_REPLY: u32 = 1 << 2;

/// Bits of GET_PROTOCOL_FEATURES.
pub mod protocol_feature {
    /// GET_EDID is answered.
    pub const EDID: u64 = 1 << 0;
    /// DMABUF_SCANOUT2 is known.
    pub const DMABUF2: u64 = 1 << 1;
}

/// What a message is about (`VhostUserGpuRequest`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request(pub u32);

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl Request {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }

        impl std::fmt::Debug for Request {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    Self(number) => write!(f, "request {number}"),
                }
            }
        }
    };
}

requests! {
    /// Which extensions does the VMM know?
    GET_PROTOCOL_FEATURES = 1,
    /// These are used.
    SET_PROTOCOL_FEATURES = 2,
    /// Which heads are there?
    GET_DISPLAY_INFO = 3,
    /// The cursor is there, and visible.
    CURSOR_POS = 4,
    /// The cursor is there, and hidden.
    CURSOR_POS_HIDE = 5,
    /// The cursor has that picture and place.
    CURSOR_UPDATE = 6,
    /// A head has that size.
    SCANOUT = 7,
    /// Those pixels of a head changed.
    UPDATE = 8,
    /// A head shows that dma-buf.
    DMABUF_SCANOUT = 9,
    /// Pixels of a head's dma-buf changed.
    DMABUF_UPDATE = 10,
    /// What does a head's monitor say of itself?
    GET_EDID = 11,
    /// A head shows that dma-buf with that modifier.
    DMABUF_SCANOUT2 = 12,
}

/// What stands in front of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is about.
    pub request: Request,
    /// [`FLAG_REPLY`] or nothing.
    pub flags: u32,
    /// Bytes that follow.
    pub size: u32,
}

impl Header {
    /// The header as it is sent.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..4].copy_from_slice(&self.request.0.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }

    /// The header that `bytes` are.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let [request, flags, size] = [0, 4, 8].map(|at| word(bytes, at));
        Self { request: Request(request), flags, size }
    }
}

/// Why bytes are no message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SideError {
    /// Nothing that this end can receive.
    #[error("Side socket: {0:?} with flags {1:#x} is unknown")]
    Unknown(Request, u32),
    /// A payload that is too short, or too long.
    #[error("Side socket: {0:?} cannot have {1} bytes")]
    Size(Request, u32),
    /// The VMM answers with an error of virtio-gpu.
    #[error("Side socket: {0:?} was answered with type {1:#x}")]
    Refused(Request, u32),
}

/// The word at `at`, in the machine's order; zero past the end, which callers have checked.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_ne_bytes(*word))
}
