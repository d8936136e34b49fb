//! Memory that viewers read: the renderer's own, or a copy of ours.

use std::collections::BTreeMap;

use device::{Frame, Pixels, Shared};
use frames::{Geometry, ImageError, SharedImage};
use protocol::{Format, Rect, ScanoutId};

/// Images that were shown a moment ago and may be shown again: a guest that flips pages shows two or three in turn, and
/// each would cost the viewer a mapping each time. They are memory that the guest may have given up.
const KEPT: usize = 4;
/// Bytes of them.
const KEPT_BYTES: u64 = 64 << 20;

/// Images of the renderer, by its number.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// The one shown last stands last.
    images: Vec<(u64, SharedImage)>,
    shown: BTreeMap<ScanoutId, u64>,
}

impl Adopted {
    /// The image that a head shows from now on.
    pub(super) fn get(&mut self, scanout: ScanoutId, shared: &Shared<'_>) -> Result<SharedImage, ImageError> {
        let image = match self.images.iter().position(|(id, _)| *id == shared.id) {
            Some(at) => self.images.remove(at).1,
            None => {
                let file = shared.file.try_clone().map_err(|error| {
                    ImageError::System(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::MFILE))
                })?;
                SharedImage::adopt(file.into())?
            }
        };
        self.images.push((shared.id, image.clone()));
        self.shown.insert(scanout, shared.id);
        self.trim();
        Ok(image)
    }

    /// Whether a head shows that image.
    pub(super) fn is_shown(&self, scanout: ScanoutId, id: u64) -> bool {
        self.shown.get(&scanout) == Some(&id)
    }

    /// A head shows none of them. Whether it did.
    pub(super) fn drop_head(&mut self, scanout: ScanoutId) -> bool {
        let did = self.shown.remove(&scanout).is_some();
        if did {
            let shown = &self.shown;
            self.images.retain(|(id, _)| shown.values().any(|shown| shown == id));
        }
        did
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    /// Lets the oldest go that no head shows.
    fn trim(&mut self) {
        let (mut kept, mut bytes) = (0, 0);
        let shown = &self.shown;
        let mut newest_first: Vec<_> = self.images.drain(..).rev().collect();
        newest_first.retain(|(id, image)| {
            if shown.values().any(|shown| shown == id) {
                return true;
            }
            (kept, bytes) = (kept + 1, bytes + image.size());
            kept <= KEPT && bytes <= KEPT_BYTES
        });
        self.images.extend(newest_first.into_iter().rev());
    }
}

/// Why pixels cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Over the cap.
    #[error("It takes {size} bytes and {room} are left: raise --memory")]
    Memory { size: u64, room: u64 },
    /// The host has no memory, or no descriptor.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A copy of what a head shows.
#[derive(Debug)]
pub(super) struct Fetched {
    image: SharedImage,
    geometry: Geometry,
}

impl Fetched {
    /// Room for a picture, if it takes no more than `room` bytes.
    pub(super) fn new(geometry: Geometry, room: u64) -> Result<Self, FetchError> {
        let size = u64::from(geometry.stride) * u64::from(geometry.height);
        if size > room {
            return Err(FetchError::Memory { size, room });
        }
        Ok(Self { image: SharedImage::create(size)?, geometry })
    }

    /// Whether pictures of that kind fit.
    pub(super) fn has(&self, geometry: &Geometry) -> bool {
        self.geometry == *geometry
    }

    /// The memory.
    pub(super) fn image(&self) -> &SharedImage {
        &self.image
    }

    /// Copies the pixels of `rect`, each of them once. What is not there stays as it was.
    pub(super) fn fetch(&self, frame: &Frame<'_>, rect: &Rect) {
        let Some(memory) = self.image.slice() else { return };
        let stride = self.geometry.stride as usize;
        let (left, row_bytes) =
            ((rect.x * Format::BYTES_PER_PIXEL) as usize, (rect.width * Format::BYTES_PER_PIXEL) as usize);
        for row in 0..rect.height {
            let start = (rect.y + row) as usize * stride + left;
            let Ok(target) = memory.subslice(start, row_bytes) else { return };
            let source = frame.row_offset(rect, row);
            match &frame.pixels {
                Pixels::Private(bytes) => {
                    let source = usize::try_from(source).unwrap_or(usize::MAX);
                    if let Some(bytes) = source.checked_add(row_bytes).and_then(|end| bytes.get(source..end)) {
                        target.copy_from(bytes);
                    }
                }
                Pixels::Shared(shared) => {
                    let source = usize::try_from(source).unwrap_or(usize::MAX);
                    if let Ok(bytes) = shared.slice.subslice(source, row_bytes) {
                        bytes.copy_to_volatile_slice(target);
                    }
                }
                Pixels::Guest(pages) => {
                    let _ = pages.read_volatile(source, target);
                }
            }
        }
    }
}
