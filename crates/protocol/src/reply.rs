//! What a guest is told: a [`Reply`] becomes bytes (virtio 1.3, section 5.7.6.7). Padding is always zero.

use thiserror::Error;

use crate::MAX_SCANOUTS;
use crate::command::{DecodeError, Header};
use crate::value::Rect;
use crate::wire::{FLAG_FENCE, FLAG_RING_IDX, kind};

/// The room that `virtio_gpu_resp_edid` has for an EDID, in bytes.
pub const EDID_ROOM: usize = 1024;

/// A head as GET_DISPLAY_INFO tells it (`virtio_gpu_display_one`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DisplayOne {
    /// Preferred position and size in pixels.
    pub rect: Rect,
    /// Whether a monitor is there.
    pub enabled: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done, and nothing to tell.
    OkNoData,
    /// The heads, the first sixteen of which are told.
    DisplayInfo(Vec<DisplayOne>),
    /// A head's EDID, at most [`EDID_ROOM`] bytes of it.
    Edid(Vec<u8>),
    /// A capability set's name and sizes.
    CapsetInfo {
        /// `VIRTIO_GPU_CAPSET_*`.
        id: u32,
        /// The newest version.
        max_version: u32,
        /// Size in bytes.
        max_size: u32,
    },
    /// A capability set.
    Capset(Vec<u8>),
    /// A resource's UUID.
    ResourceUuid([u8; 16]),
    /// How a mapped blob is cached: `VIRTIO_GPU_MAP_CACHE_*`.
    MapInfo(u32),
    /// Not done.
    Error(ReplyError),
}

/// An error as a guest sees it (`VIRTIO_GPU_RESP_ERR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[repr(u32)]
pub enum ReplyError {
    /// Unknown, or our own failure.
    #[error("Unspecified")]
    Unspec = kind::ERR_UNSPEC,
    /// Over a cap, or the host has no memory.
    #[error("Out of memory")]
    OutOfMemory = kind::ERR_OUT_OF_MEMORY,
    /// No such head.
    #[error("Invalid scanout id")]
    InvalidScanoutId = kind::ERR_INVALID_SCANOUT_ID,
    /// No such resource, or one that exists already.
    #[error("Invalid resource id")]
    InvalidResourceId = kind::ERR_INVALID_RESOURCE_ID,
    /// No such context.
    #[error("Invalid context id")]
    InvalidContextId = kind::ERR_INVALID_CONTEXT_ID,
    /// A size, offset, rectangle or format that cannot be.
    #[error("Invalid parameter")]
    InvalidParameter = kind::ERR_INVALID_PARAMETER,
}

impl From<DecodeError> for ReplyError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::NoHeader(_) | DecodeError::UnknownKind(_) => ReplyError::Unspec,
            DecodeError::Short { .. } | DecodeError::UnknownFormat(_) => ReplyError::InvalidParameter,
        }
    }
}

impl From<Result<(), ReplyError>> for Reply {
    fn from(result: Result<(), ReplyError>) -> Self {
        match result {
            Ok(()) => Reply::OkNoData,
            Err(error) => Reply::Error(error),
        }
    }
}

impl Reply {
    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// `VIRTIO_GPU_RESP_*`.
    pub fn kind(&self) -> u32 {
        match self {
            Reply::OkNoData => kind::OK_NODATA,
            Reply::DisplayInfo(_) => kind::OK_DISPLAY_INFO,
            Reply::Edid(_) => kind::OK_EDID,
            Reply::CapsetInfo { .. } => kind::OK_CAPSET_INFO,
            Reply::Capset(_) => kind::OK_CAPSET,
            Reply::ResourceUuid(_) => kind::OK_RESOURCE_UUID,
            Reply::MapInfo(_) => kind::OK_MAP_INFO,
            Reply::Error(error) => *error as u32,
        }
    }

    /// Appends the reply to the request with `header`: its fence, context and ring come back if it had a fence.
    pub fn encode(&self, header: &Header, out: &mut Vec<u8>) {
        let echoed = header.flags & (FLAG_FENCE | FLAG_RING_IDX);
        let (flags, fence_id, ctx_id, ring_idx) = match header.fence() {
            Some(fence) => (echoed, fence.id, fence.ctx.0, fence.ring.unwrap_or(0)),
            None => (0, 0, 0, 0),
        };
        words(out, &[self.kind(), flags]);
        out.extend_from_slice(&fence_id.to_le_bytes());
        words(out, &[ctx_id, u32::from(ring_idx)]);
        match self {
            Reply::OkNoData | Reply::Error(_) => {}
            Reply::DisplayInfo(heads) => {
                for index in 0..MAX_SCANOUTS as usize {
                    let DisplayOne { rect, enabled } = heads.get(index).copied().unwrap_or_default();
                    words(out, &[rect.x, rect.y, rect.width, rect.height, u32::from(enabled), 0]);
                }
            }
            Reply::Edid(edid) => {
                let edid = &edid[..edid.len().min(EDID_ROOM)];
                words(out, &[edid.len() as u32, 0]);
                out.extend_from_slice(edid);
                out.resize(out.len() + EDID_ROOM - edid.len(), 0);
            }
            Reply::CapsetInfo { id, max_version, max_size } => words(out, &[*id, *max_version, *max_size, 0]),
            Reply::Capset(bytes) => out.extend_from_slice(bytes),
            Reply::ResourceUuid(uuid) => out.extend_from_slice(uuid),
            Reply::MapInfo(info) => words(out, &[*info, 0]),
        }
    }
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(reply: Reply, header: &Header) -> Vec<u8> {
        let mut out = Vec::new();
        reply.encode(header, &mut out);
        out
    }

    #[test]
    fn a_fence_comes_back_with_its_context_and_ring() {
        let header = Header { kind: 1, flags: 0xffff_ff03, fence_id: 7, ctx_id: 8, ring_idx: 9 };
        let bytes = encode(Reply::OkNoData, &header);
        assert_eq!(bytes, [0, 0x11, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn without_a_fence_flag_nothing_is_echoed() {
        let header = Header { kind: 1, flags: 2, fence_id: 7, ctx_id: 8, ring_idx: 9 };
        assert_eq!(encode(Reply::Error(ReplyError::Unspec), &header)[4..], [0; 20]);
    }

    #[test]
    fn cve_2016_9845_every_reply_has_its_full_size_and_zeroed_padding() {
        let header = Header::default();
        let one = DisplayOne { rect: Rect::of_size(640, 480), enabled: true };
        assert_eq!(encode(Reply::DisplayInfo(vec![one]), &header).len(), 24 + 16 * 24);
        assert!(encode(Reply::DisplayInfo(vec![one]), &header)[24 + 24..].iter().all(|byte| *byte == 0));
        assert_eq!(encode(Reply::DisplayInfo(vec![one; 20]), &header).len(), 24 + 16 * 24);
        let edid = encode(Reply::Edid(vec![0xaa; 128]), &header);
        assert_eq!(edid.len(), 24 + 8 + 1024);
        assert_eq!(edid[24..28], 128u32.to_le_bytes());
        assert!(edid[24 + 8 + 128..].iter().all(|byte| *byte == 0));
        assert_eq!(encode(Reply::Edid(vec![0xaa; 5000]), &header).len(), 24 + 8 + 1024);
        assert_eq!(encode(Reply::ResourceUuid([1; 16]), &header).len(), 40);
        assert_eq!(encode(Reply::MapInfo(3), &header)[24..], [3, 0, 0, 0, 0, 0, 0, 0]);
        let info = Reply::CapsetInfo { id: 4, max_version: 1, max_size: 2 };
        assert_eq!(encode(info, &header)[24..], [4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(Reply::Capset(vec![9; 5]), &header)[24..], [9; 5]);
    }
}
