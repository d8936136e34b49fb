//! What resources are, and what each is charged.

use protocol::{ContextId, Format, Resource3d};

use super::blobs::Blob;
use super::ledger::Cost;
use super::sizes::estimate;
use super::three_d::is_flat;
use crate::caps;
use crate::render::ResourceDesc;
use crate::stats::Kind;

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

/// What a resource is charged by itself.
pub(super) fn cost(desc: &Desc) -> Cost {
    let own = match desc {
        Desc::Image { width, height, .. } => Cost::of(Kind::Images, image_bytes(*width, *height)),
        Desc::Rendered(desc) => Cost::of(Kind::Textures, estimate(desc)),
        Desc::HostBlob(blob) => Cost::of(Kind::Blobs, blob.cost()),
        // The guest's own pages.
        Desc::GuestBlob { .. } | Desc::Lost => Cost::default(),
    };
    own.plus(Cost::of(Kind::Tables, caps::RESOURCE_COST))
}

/// Bytes of an image: at most 2^66, so saturated; the cap refuses it.
pub(super) fn image_bytes(width: u32, height: u32) -> u64 {
    (u64::from(width) * u64::from(height)).saturating_mul(u64::from(Format::BYTES_PER_PIXEL))
}
