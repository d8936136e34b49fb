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
        if rows.source_end > pages.len() {
            return Err(ReplyError::InvalidParameter);
        }
        image.storage.make(image.len)?;
        for (source, target, len) in rows {
            image.storage.fill(target, len, pages, source).ok_or(ReplyError::Unspec)?;
        }
        Ok(())
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

/// The copies of a transfer: where from, where to and how many bytes.
#[derive(Clone, Copy, Debug)]
struct Rows {
    source: u64,
    target: u64,
    /// Bytes of each copy.
    len: u64,
    /// Bytes from one copy to the next, the same in the backing and in the image.
    stride: u64,
    count: u32,
    /// Position in the backing after the last byte of all.
    source_end: u64,
}

impl Rows {
    /// `None` when the rectangle does not lie inside the image, or no backing could be as long as it would have to be.
    fn of(image: &Image, Transfer { rect, offset }: &Transfer) -> Option<Self> {
        let stride = image.stride;
        let left = u64::from(rect.x) * u64::from(Format::BYTES_PER_PIXEL);
        let row = u64::from(rect.width) * u64::from(Format::BYTES_PER_PIXEL);
        if left + row > stride || rect.bottom().checked_mul(stride)? > image.len {
            return None;
        }
        let whole = if rect.is_empty() { 0 } else { u64::from(rect.height - 1) * stride + row };
        let (len, count) = match whole {
            0 => (0, 0),
            _ if row == stride => (whole, 1), // No gap between the rows: one copy.
            _ => (row, rect.height),
        };
        let target = u64::from(rect.y) * stride + left;
        Some(Self { source: *offset, target, len, stride, count, source_end: offset.checked_add(whole)? })
    }
}

impl Iterator for Rows {
    type Item = (u64, u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let row = (self.source, self.target, self.len);
        // Past the last row these may lie outside; nobody asks for them then.
        self.source = self.source.wrapping_add(self.stride);
        self.target = self.target.wrapping_add(self.stride);
        Some(row)
    }
}
