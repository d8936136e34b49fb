//! Pixels that a process reads back for a display.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use device::{Pixels, SharedImage};
use memmap2::MmapMut;

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
    shared: SharedImage,
    /// Somebody has read into it: nobody maps it to write any more, and it may be shown.
    sealed: bool,
}

impl Image {
    /// Black memory.
    pub fn new(number: u32, len: u64) -> io::Result<Self> {
        Ok(Self { number, len, used: 0, shared: SharedImage::unsealed(len)?, sealed: false })
    }

    /// Its file, for who is to read into it.
    pub fn file(&self) -> io::Result<OwnedFd> {
        self.shared.file().ok_or(io::ErrorKind::NotFound)?.as_fd().try_clone_to_owned()
    }

    /// Pixels were read into it.
    pub fn was_read(&mut self) {
        // Who shows it looks at the seals itself.
        self.sealed = self.sealed || self.shared.seal().is_ok();
    }

    /// What it shows; none before pixels were read.
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        self.sealed.then(|| self.shared.pixels()).flatten()
    }
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
