//! 2D images in memory of our own (virtio 1.3, section 5.7.6.8: RESOURCE_CREATE_2D, TRANSFER_TO_HOST_2D).
//!
//! An image costs an entry in a table until its first pixel is written or asked for. Its rows are packed, so it has
//! the layout that the specification gives its backing: a rectangle as wide as the image is one run of bytes.

use std::collections::hash_map::Entry;

use device::{Pages, Pixels, Progress, Renderer, ResourceDesc, Ticket, Transfer};
use foldhash::{HashMap, HashMapExt};
use protocol::{Format, MemEntry, ReplyError, ResourceId};

mod storage;
#[cfg(test)]
mod tests;

use storage::Storage;

/// Images that other processes can map at one time. Each takes file descriptors: a guest that shows thousands of
/// images would take those that its VMM needs. What is over the cap is kept private, and who shows it copies.
pub const SHARED_IMAGES: usize = 64;

/// Keeps 2D images and answers at once.
#[derive(Debug, Default)]
pub struct Soft {
    images: HashMap<ResourceId, Image>,
    shared: usize,
}

#[derive(Debug)]
struct Image {
    /// Bytes from one row to the next, in the image and in its backing.
    stride: u64,
    /// Bytes of all rows.
    len: u64,
    storage: Storage,
}

impl Soft {
    /// A renderer without images.
    pub fn new() -> Self {
        Self { images: HashMap::new(), shared: 0 }
    }

    fn transfer(&mut self, resource: ResourceId, transfer: Transfer, pages: &Pages<'_>) -> Result<(), ReplyError> {
        // A blob of the guest's pages has no pixels but those: there is nothing to copy.
        let Some(image) = self.images.get_mut(&resource) else { return Ok(()) };
        let rows = Rows::of(image, &transfer).ok_or(ReplyError::InvalidParameter)?;
        // No byte is copied unless all of them are there.
        let runs = pages.runs(transfer.offset, rows.whole).ok_or(ReplyError::InvalidParameter)?;
        image.storage.make(image.len)?;
        let mut target = image.storage.target(rows.target, rows.whole).ok_or(ReplyError::Unspec)?;
        let mut done = 0;
        for run in runs {
            let end = done + run.len();
            for (from, to) in rows.within(done, end) {
                let bytes = run.subslice(from - done, to - from).map_err(|_| ReplyError::Unspec)?;
                target.write(from, bytes).ok_or(ReplyError::Unspec)?;
            }
            done = end;
        }
        if done as u64 == rows.whole { Ok(()) } else { Err(ReplyError::Unspec) }
    }
}

impl Renderer for Soft {
    fn create(&mut self, _ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress {
        let ResourceDesc::Image { width, height, .. } = desc else { return Progress::Done(Ok(())) };
        let stride = u64::from(width) * u64::from(Format::BYTES_PER_PIXEL);
        let Some(len) = stride.checked_mul(u64::from(height)) else {
            return Progress::Done(Err(ReplyError::InvalidParameter));
        };
        match self.images.entry(resource) {
            Entry::Vacant(slot) => {
                slot.insert(Image { stride, len, storage: Storage::default() });
                Progress::Done(Ok(()))
            }
            Entry::Occupied(_) => Progress::Done(Err(ReplyError::InvalidResourceId)),
        }
    }

    fn destroy(&mut self, resource: ResourceId) {
        if let Some(image) = self.images.remove(&resource) {
            self.shared -= usize::from(image.storage.is_shared());
        }
    }

    fn attach(&mut self, _ticket: Ticket, _resource: ResourceId, _entries: &[MemEntry]) -> Progress {
        Progress::Done(Ok(()))
    }

    fn detach(&mut self, _ticket: Ticket, _resource: ResourceId) -> Progress {
        Progress::Done(Ok(()))
    }

    fn transfer_to_host(
        &mut self,
        _ticket: Ticket,
        resource: ResourceId,
        transfer: Transfer,
        pages: &Pages<'_>,
    ) -> Progress {
        Progress::Done(self.transfer(resource, transfer, pages))
    }

    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>> {
        let image = self.images.get_mut(&resource)?;
        // Sharing that fails (no descriptor is free) leaves the image as it was: it is shown all the same.
        if shared && !image.storage.is_shared() && self.shared < SHARED_IMAGES && image.storage.share(image.len) {
            self.shared += 1;
        }
        image.storage.make(image.len).ok()?;
        image.storage.pixels()
    }

    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError> {
        let image = self.images.get_mut(&resource).ok_or(ReplyError::InvalidResourceId)?;
        if pixels.len() as u64 != image.len {
            return Err(ReplyError::InvalidParameter);
        }
        image.storage.make(image.len)?;
        image.storage.put(pixels);
        Ok(())
    }

    fn reset(&mut self) {
        // A new table, so that a guest that filled the old one leaves no memory behind.
        *self = Self::new();
    }
}

/// The rows of a transfer. Image and backing have the same distance from row to row, so one position tells a byte's
/// place in both: counted from the rectangle's first pixel.
#[derive(Clone, Copy, Debug)]
struct Rows {
    /// Where in the image the first pixel is.
    target: u64,
    /// Bytes of one row.
    len: usize,
    /// Bytes from one row to the next.
    stride: usize,
    /// Bytes from the first pixel to the last, gaps included.
    whole: u64,
}

impl Rows {
    /// `None` when the rectangle does not lie inside the image.
    fn of(image: &Image, Transfer { rect, .. }: &Transfer) -> Option<Self> {
        let stride = image.stride;
        let left = u64::from(rect.x) * u64::from(Format::BYTES_PER_PIXEL);
        let row = u64::from(rect.width) * u64::from(Format::BYTES_PER_PIXEL);
        if left + row > stride || rect.bottom().checked_mul(stride)? > image.len {
            return None;
        }
        let whole = if rect.is_empty() { 0 } else { u64::from(rect.height - 1) * stride + row };
        // Rows without a gap between them are one long row.
        let (len, stride) = if row == stride { (whole, whole) } else { (row, stride) };
        let target = u64::from(rect.y) * image.stride + left;
        Some(Self { target, len: usize::try_from(len).ok()?, stride: usize::try_from(stride).ok()?, whole })
    }

    /// The parts of the rows that lie between two positions.
    fn within(self, start: usize, end: usize) -> impl Iterator<Item = (usize, usize)> {
        let first = start.checked_div(self.stride).unwrap_or(0) * self.stride;
        let rows = (first..end).step_by(self.stride.max(1));
        rows.map(move |row| (row.max(start), (row + self.len).min(end))).filter(|(from, to)| from < to)
    }
}
