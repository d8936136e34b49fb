//! Pixels that a process reads back for a display.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use device::{Pixels, SharedImage};
use memmap2::MmapMut;
use protocol::{Rect, ReplyError, ResourceId};
use vm_memory::VolatileSlice;

use super::Isolated;
use super::wire::{Request, ToChild};

/// Images at one time: each takes file descriptors, here and in the process.
pub const IMAGES: usize = 64;
/// Bytes of all images.
pub const IMAGE_BYTES: u64 = 1 << 30;

/// One resource's.
#[derive(Debug)]
pub struct Image {
    /// As the process knows it. Never reused.
    pub number: u32,
    /// Its size in bytes.
    pub len: u64,
    /// When it was asked for last, by a count of that.
    pub used: u64,
    /// How many reads into it are under way: it stays until they are answered.
    readers: u32,
    shared: SharedImage,
    /// Somebody has read into it: nobody maps it to write any more, and it may be shown.
    sealed: bool,
}

impl Image {
    /// Black memory.
    pub fn new(number: u32, len: u64) -> io::Result<Self> {
        Ok(Self { number, len, used: 0, readers: 0, shared: SharedImage::unsealed(len)?, sealed: false })
    }

    /// Its file, for who is to read into it.
    pub fn file(&self) -> io::Result<OwnedFd> {
        self.shared.file().ok_or(io::ErrorKind::NotFound)?.as_fd().try_clone_to_owned()
    }

    /// All of its bytes.
    pub fn slice(&self) -> VolatileSlice<'_> {
        self.shared.slice()
    }

    /// A read into it was answered, and whether it has pixels of it.
    pub fn answered(&mut self, is_read: bool) {
        self.readers = self.readers.saturating_sub(1);
        // Who shows it looks at the seals itself.
        self.sealed = self.sealed || is_read && self.shared.seal().is_ok();
    }

    /// What it shows; none before pixels were read.
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        self.sealed.then(|| self.shared.pixels()).flatten()
    }
}

/// Copies the part of an image that a rectangle has to the same place of another; rows of both are packed at `width * 4` bytes.
/// `None` when one of them does not have it.
pub fn copy_part(pixels: &Pixels<'_>, target: VolatileSlice<'_>, width: u32, rect: Rect) -> Option<()> {
    const PIXEL: u64 = 4;
    let len = usize::try_from(u64::from(rect.width) * PIXEL).ok()?;
    for row in u64::from(rect.y)..rect.bottom() {
        let start = usize::try_from((row * u64::from(width) + u64::from(rect.x)) * PIXEL).ok()?;
        let target = target.subslice(start, len).ok()?;
        match pixels {
            Pixels::Private(bytes) => target.copy_from(bytes.get(start..start.checked_add(len)?)?),
            Pixels::Shared(shared) => shared.slice.subslice(start, len).ok()?.copy_to_volatile_slice(target),
            Pixels::Guest(pages) => pages.read_volatile(start as u64, target)?,
        }
    }
    Some(())
}

/// The image that was asked for longest ago, if one of `len` bytes more would be too many or too much. Of each image its resource, when
/// it was asked for last, and its bytes.
pub fn in_the_way(images: impl Iterator<Item = (ResourceId, u64, u64)>, len: u64) -> Option<ResourceId> {
    let (mut count, mut bytes, mut oldest) = (0, len, None);
    for (resource, used, len) in images {
        count += 1;
        bytes = bytes.saturating_add(len);
        oldest = oldest.filter(|(_, earlier)| *earlier <= used).or(Some((resource, used)));
    }
    oldest.map(|(resource, _)| resource).filter(|_| count >= IMAGES || bytes > IMAGE_BYTES)
}

/// Black pixels for whoever has no others, as many as were ever wanted.
#[derive(Debug, Default)]
pub struct Black(Option<MmapMut>);

impl Black {
    /// So many bytes.
    pub fn pixels(&mut self, len: u64) -> Option<Pixels<'_>> {
        let len = usize::try_from(len).ok()?;
        if self.0.as_ref().is_none_or(|bytes| bytes.len() < len) {
            self.0 = Some(MmapMut::map_anon(len.max(1)).ok()?);
        }
        Some(Pixels::Private(self.0.as_ref()?.get(..len)?))
    }
}

impl Isolated {
    /// The image that a resource is read into, known to its process, until that is answered. An old one of another makes room for it,
    /// unless all of them are being read.
    pub(super) fn image(&mut self, id: ResourceId) -> Result<u32, ReplyError> {
        let resource = self.resources.get_mut(&id).ok_or(ReplyError::InvalidResourceId)?;
        self.reads += 1;
        if let Some(image) = &mut resource.image {
            image.used = self.reads;
            image.readers += 1;
            return Ok(image.number);
        }
        let len = u64::from(resource.width) * u64::from(resource.height) * 4;
        let home = resource.home;
        if len == 0 || len > IMAGE_BYTES {
            return Err(ReplyError::OutOfMemory);
        }
        self.make_room(len)?;
        self.images += 1;
        let mut image = Image::new(self.images, len).map_err(|_| ReplyError::OutOfMemory)?;
        let file = image.file().map_err(|_| ReplyError::OutOfMemory)?;
        (image.used, image.readers) = (self.reads, 1);
        let number = image.number;
        let process = self.living(Some(home)).ok_or(ReplyError::Unspec)?;
        process.send(ToChild::Image { number, len }, file);
        if let Some(resource) = self.resources.get_mut(&id) {
            resource.image = Some(image);
        }
        Ok(number)
    }

    /// An image is of no use any more.
    pub(super) fn drop_image(&mut self, id: ResourceId) {
        let Some(resource) = self.resources.get_mut(&id) else { return };
        let (home, image) = (resource.home, resource.image.take());
        if let (Some(process), Some(image)) = (self.living(Some(home)), image) {
            process.tell(Request::DropImage { number: image.number });
        }
    }

    fn make_room(&mut self, len: u64) -> Result<(), ReplyError> {
        loop {
            let images = self.resources.iter().filter_map(|(id, resource)| Some((*id, resource.image.as_ref()?)));
            let used = |image: &Image| if image.readers > 0 { u64::MAX } else { image.used };
            let Some(oldest) = in_the_way(images.map(|(id, image)| (id, used(image), image.len)), len) else {
                return Ok(());
            };
            let image = self.resources.get(&oldest).and_then(|resource| resource.image.as_ref());
            if image.is_some_and(|image| image.readers > 0) {
                return Err(ReplyError::OutOfMemory);
            }
            self.drop_image(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_where_there_are_too_many_or_they_are_too_large() {
        let images = |count: u64, len| (0..count).map(move |id| (ResourceId(id as u32), (id + 3) % count, len));
        let most = IMAGES as u64;
        assert_eq!(in_the_way(images(0, 0), IMAGE_BYTES + 1), None, "nothing is there that could go");
        assert_eq!(in_the_way(images(most - 1, 1), 1), None);
        assert_eq!(in_the_way(images(most, 1), 1), Some(ResourceId(most as u32 - 3)));
        assert_eq!(in_the_way(images(4, IMAGE_BYTES / 8), IMAGE_BYTES / 2), None);
        assert_eq!(in_the_way(images(4, IMAGE_BYTES / 8), IMAGE_BYTES / 2 + 1), Some(ResourceId(1)));
        assert_eq!(in_the_way(images(4, u64::MAX), u64::MAX), Some(ResourceId(1)));
    }
}
