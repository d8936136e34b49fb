//! What the heads and the pointer show, as the guest set it, and what of it a display knows.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{Format, Rect, ResourceId, ScanoutId};
use serde::{Deserialize, Serialize};

/// What a head shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scanout {
    pub resource: ResourceId,
    /// The part of the image that is shown.
    pub rect: Rect,
    pub format: Format,
    /// Bytes from one row of the image to the next.
    pub stride: u32,
    /// Bytes before the image's first row.
    pub offset: u32,
}

impl Scanout {
    /// Position of the first byte that is shown.
    pub fn start(&self) -> u64 {
        u64::from(self.offset)
            + u64::from(self.rect.y) * u64::from(self.stride)
            + u64::from(self.rect.x) * u64::from(Format::BYTES_PER_PIXEL)
    }

    /// Position after the last byte that is shown.
    pub fn end(&self) -> u64 {
        let last_row = u64::from(self.rect.height.saturating_sub(1)) * u64::from(self.stride);
        self.start() + last_row + u64::from(self.rect.width) * u64::from(Format::BYTES_PER_PIXEL)
    }

    /// The part of `rect`, in the image, that the head shows, in the head's own pixels.
    pub fn shown(&self, rect: &Rect) -> Option<Rect> {
        let shown = self.rect.intersection(rect)?;
        Some(Rect { x: shown.x - self.rect.x, y: shown.y - self.rect.y, ..shown })
    }
}

/// The pointer, with a copy of its picture: the guest may drop the resource at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    pub scanout: ScanoutId,
    pub x: u32,
    pub y: u32,
    pub hot_x: u32,
    pub hot_y: u32,
    pub image: Option<PointerImage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PointerImage {
    pub format: Format,
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
}

/// What the heads show.
#[derive(Default)]
pub(super) struct Scanouts {
    pub shown: BTreeMap<ScanoutId, Scanout>,
    pub pointer: Option<Pointer>,
    /// The heads that the display knows to be on: pixels may come later than the command.
    pub lit: BTreeSet<ScanoutId>,
    /// The heads whose pixels the 3D renderer was not asked for yet: until it gave them, they show what they did before.
    pub awaited: BTreeSet<ScanoutId>,
}

impl Scanouts {
    /// A head that the display knows, with the pixels that it knows.
    pub fn lit(&self, id: ScanoutId) -> Option<&Scanout> {
        self.shown.get(&id).filter(|_| self.lit.contains(&id) && !self.awaited.contains(&id))
    }

    /// The part of a resource that heads need when `rect` of it changed.
    pub fn to_read(&self, resource: ResourceId, rect: &Rect) -> Option<Rect> {
        let heads = self.shown.iter().filter(|(_, scanout)| scanout.resource == resource);
        let parts = heads.filter_map(|(id, scanout)| match self.awaited.contains(id) {
            true => Some(scanout.rect),
            false => scanout.rect.intersection(rect),
        });
        parts.reduce(|all, part| all.union(&part))
    }

    /// The 3D renderer gave a part of a resource: heads that waited for it are to be shown anew.
    pub fn pixels_came(&mut self, resource: ResourceId, area: &Rect) {
        let Self { shown, lit, awaited, .. } = self;
        awaited.retain(|id| {
            let came = shown.get(id).is_none_or(|scanout| {
                scanout.resource == resource && scanout.rect.intersection(area) == Some(scanout.rect)
            });
            if came {
                lit.remove(id);
            }
            !came
        });
    }

    /// Whether a head shows a resource.
    pub fn shows(&self, resource: ResourceId) -> bool {
        self.shown.values().any(|scanout| scanout.resource == resource)
    }

    /// Bytes of the pointer's picture.
    pub fn pointer_bytes(&self) -> usize {
        let image = self.pointer.as_ref().and_then(|pointer| pointer.image.as_ref());
        image.map_or(0, |image| image.pixels.len())
    }

    pub fn showing(&self, what: impl Fn(&Scanout) -> bool) -> Vec<ScanoutId> {
        self.shown.iter().filter(|(_, scanout)| what(scanout)).map(|(id, _)| *id).collect()
    }

    /// Switches the heads off that show a resource. Returns those that a display knows to be on.
    pub fn remove(&mut self, resource: ResourceId) -> Vec<ScanoutId> {
        let gone: Vec<_> = self.shown.extract_if(.., |_, scanout| scanout.resource == resource).collect();
        gone.into_iter().map(|(id, _)| id).filter(|id| self.forget(*id)).collect()
    }

    /// Nothing is shown. Returns whether a display knows the head to be on.
    pub fn forget(&mut self, id: ScanoutId) -> bool {
        self.awaited.remove(&id);
        self.lit.remove(&id)
    }

    /// Switches all heads off. Returns those that a display knows to be on.
    pub fn clear(&mut self) -> BTreeSet<ScanoutId> {
        self.shown.clear();
        self.awaited.clear();
        self.darken()
    }

    /// The display is to know of no head that is on. Returns those that it knows of.
    pub fn darken(&mut self) -> BTreeSet<ScanoutId> {
        std::mem::take(&mut self.lit)
    }
}
