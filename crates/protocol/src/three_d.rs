//! The values of 3D commands (virtio 1.3, sections 5.7.6.8 and 5.7.7).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::value::ResourceId;

/// A capability set: which protocol a context's commands are of (`VIRTIO_GPU_CAPSET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CapsetId(pub u32);

impl CapsetId {
    /// OpenGL as Gallium commands, the first version: what a context without a kind is of.
    pub const VIRGL: Self = Self(1);
    /// OpenGL as Gallium commands.
    pub const VIRGL2: Self = Self(2);
    /// Vulkan.
    pub const VENUS: Self = Self(4);
    /// A host driver's own commands.
    pub const DRM: Self = Self(6);

    /// As options and logs name it, where it has a name.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::VIRGL => Some("virgl"),
            Self::VIRGL2 => Some("virgl2"),
            Self::VENUS => Some("venus"),
            Self::DRM => Some("drm"),
            _ => None,
        }
    }
}

impl fmt::Display for CapsetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "capset {}", self.0),
        }
    }
}

/// A part of a resource in its own units: texels, layers, or bytes (`virtio_gpu_box`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are the specification's.
pub struct Box3d {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub width: u32,
    pub height: u32,
    pub depth: u32,
}

/// What RESOURCE_CREATE_3D makes. Targets, formats and binds are Gallium's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are the specification's.
pub struct Resource3d {
    pub target: u32,
    pub format: u32,
    pub bind: u32,
    pub width: u32,
    pub height: u32,
    pub depth: u32,
    pub array_size: u32,
    pub last_level: u32,
    pub nr_samples: u32,
    pub flags: u32,
}

/// `VIRTIO_GPU_RESOURCE_FLAG_Y_0_TOP`: the first row is the upper one.
pub const FLAG_Y_0_TOP: u32 = 1 << 0;

/// What TRANSFER_TO_HOST_3D and TRANSFER_FROM_HOST_3D copy between a resource and its backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transfer3d {
    /// The part of the resource.
    pub area: Box3d,
    /// Position of the part's first byte in the backing.
    pub offset: u64,
    /// The resource.
    pub resource: ResourceId,
    /// Which of its levels of detail.
    pub level: u32,
    /// Bytes from one row to the next in the backing; 0: packed.
    pub stride: u32,
    /// Bytes from one layer to the next in the backing; 0: packed.
    pub layer_stride: u32,
}
