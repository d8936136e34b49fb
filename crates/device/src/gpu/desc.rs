//! What resources are, and what they are charged.

use protocol::{ContextId, Format, Resource3d};

use super::blobs::Blob;
use super::three_d::{estimate, is_flat};
use crate::caps;
use crate::render::ResourceDesc;

/// What a resource is, and thereby who has its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Desc {
    /// As [`ResourceDesc::Image`].
    Image { format: Format, width: u32, height: u32 },
    /// As [`ResourceDesc::GuestBlob`].
    GuestBlob { size: u64 },
    /// The 3D renderer's.
    Rendered(Resource3d),
    /// The 3D renderer's.
    HostBlob(Blob),
    /// It was the 3D renderer's before this device was restored.
    Lost,
}

impl Desc {
    /// Whether the 3D renderer has it.
    pub fn is_rendered(&self) -> bool {
        matches!(self, Desc::Rendered(_) | Desc::HostBlob(_))
    }

    /// What a head or a pointer has to know to show it as an image.
    pub fn image(&self) -> Option<(Format, u32, u32)> {
        match self {
            Desc::Image { format, width, height } => Some((*format, *width, *height)),
            Desc::Rendered(desc) if is_flat(desc) => {
                Format::from_wire(desc.format).map(|format| (format, desc.width, desc.height))
            }
            _ => None,
        }
    }

    /// Whether a context may use it.
    pub fn may_join(&self, context: ContextId) -> bool {
        match self {
            Desc::HostBlob(blob) => blob.may_join(context),
            _ => true,
        }
    }

    /// The fewest bytes that a backing has.
    pub fn least_backing(&self) -> u64 {
        match self {
            Desc::GuestBlob { size } => *size,
            Desc::HostBlob(blob) => blob.host.size,
            Desc::Image { .. } | Desc::Rendered(_) | Desc::Lost => 1,
        }
    }
}

impl From<ResourceDesc> for Desc {
    fn from(desc: ResourceDesc) -> Self {
        match desc {
            ResourceDesc::Image { format, width, height } => Desc::Image { format, width, height },
            ResourceDesc::GuestBlob { size } => Desc::GuestBlob { size },
        }
    }
}

/// What a resource is charged against each cap.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Memory of our own.
    pub memory: u64,
    /// The 3D renderer's, as far as it can be estimated.
    pub rendered: u64,
    /// Of the 3D renderer's blobs.
    pub blobs: u64,
}

impl Cost {
    pub fn of(desc: &Desc) -> Self {
        let none = Self { memory: caps::RESOURCE_COST, ..Self::default() };
        match desc {
            Desc::Image { width, height, .. } => {
                Self { memory: image_bytes(*width, *height).saturating_add(caps::RESOURCE_COST), ..none }
            }
            Desc::Rendered(desc) => Self { rendered: estimate(desc), ..none },
            Desc::HostBlob(blob) => Self { blobs: blob.cost(), ..none },
            Desc::GuestBlob { .. } | Desc::Lost => none,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            rendered: self.rendered.saturating_add(other.rendered),
            blobs: self.blobs.saturating_add(other.blobs),
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self {
            memory: self.memory - other.memory,
            rendered: self.rendered - other.rendered,
            blobs: self.blobs - other.blobs,
        }
    }

    pub fn is_within(&self, cap: &Self) -> bool {
        self.memory <= cap.memory && self.rendered <= cap.rendered && self.blobs <= cap.blobs
    }
}

/// Bytes of an image: at most 2^66, so saturated; the cap refuses it.
pub(super) fn image_bytes(width: u32, height: u32) -> u64 {
    (u64::from(width) * u64::from(height)).saturating_mul(u64::from(Format::BYTES_PER_PIXEL))
}
