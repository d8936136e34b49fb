//! The words of virtio-gpu (virtio 1.3, section 5.7) and of QEMU's vhost-user-gpu side protocol as Rust values, and EDID.
//!
//! Bytes in, [`Command`] out; [`Reply`] in, bytes out. Lengths are checked here and only here: a [`Command`] holds
//! nothing that the guest's bytes did not carry. Ranges and identifiers are checked by the device.

#![forbid(unsafe_code)]

pub mod command;
pub mod edid;
pub mod names;
pub mod reply;
pub mod three_d;
pub mod value;
pub mod vhost_user_gpu;
mod wire;

pub use command::{Command, DecodeError, Header};
pub use reply::{Reply, ReplyError};
pub use three_d::{Box3d, CapsetId, Resource3d, Transfer3d};
pub use value::{ContextId, Fence, Format, MemEntry, Rect, ResourceId, ScanoutId};

/// The most heads a virtio-gpu can have (`VIRTIO_GPU_MAX_SCANOUTS`, section 5.7.6.8).
pub const MAX_SCANOUTS: u32 = 16;

/// Feature bits of the device (section 5.7.3).
pub mod feature {
    /// virgl 3D mode is supported.
    pub const VIRGL: u64 = 1 << 0;
    /// GET_EDID is supported.
    pub const EDID: u64 = 1 << 1;
    /// RESOURCE_ASSIGN_UUID is supported.
    pub const RESOURCE_UUID: u64 = 1 << 2;
    /// Blob resources are supported.
    pub const RESOURCE_BLOB: u64 = 1 << 3;
    /// Several context types and fence rings are supported.
    pub const CONTEXT_INIT: u64 = 1 << 4;
}
