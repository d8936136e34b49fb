//! The memory behind BAR 0, which a guest maps and writes as it likes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::SealFlags;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::shared::map_new;

/// A framebuffer: a memfd of which nobody can change the size, for one session of a front-end.
#[derive(Debug)]
pub struct Framebuffer {
    len: u64,
    memory: Option<(Arc<File>, MmapRegion)>,
}

impl Framebuffer {
    /// New memory, all zero.
    pub fn new(len: u64) -> io::Result<Self> {
        // Not against writing: the front-end maps it for its guest.
        let region = map_new("beamsplit-vga", len, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = match region.file_offset() {
            Some(file) => Arc::new(file.file().try_clone()?),
            None => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { len, memory: Some((file, region)) })
    }

    /// One without memory, for when there is none: reads zeros, and cannot be mapped. Better than a front-end that sees what
    /// the guest before it drew.
    pub(super) fn absent(len: u64) -> Self {
        Self { len, memory: None }
    }

    /// What a front-end can map, all of it; none when the memory could not be had.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.memory.as_ref().map(|(file, _)| file)
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the host's memory that it takes.
    pub(crate) fn memory(&self) -> u64 {
        if self.memory.is_some() { self.len } else { 0 }
    }

    /// A guest's read that came as a message. What is past the end reads 0.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let copied = self.slice(offset, data.len()).map_or(0, |slice| slice.copy_to(data));
        data[copied..].fill(0);
    }

    /// A guest's write that came as a message. What is past the end is ignored.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(slice) = self.slice(offset, data.len()) {
            slice.copy_from(data);
        }
    }

    /// At most `len` bytes from `offset` on: fewer at the end.
    fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let (_, region) = self.memory.as_ref()?;
        let start = usize::try_from(offset).ok()?;
        let room = region.size().checked_sub(start)?;
        region.get_slice(start, len.min(room)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_past_the_end_read_zeros_and_write_nothing() {
        let framebuffer = Framebuffer::new(0x1_0000).unwrap();
        framebuffer.write(0xfffe, &[1, 2, 3, 4]);
        for (offset, expected) in [
            (0xfffc, [0, 0, 1, 2]),
            (0xfffe, [1, 2, 0, 0]),
            (0x1_0000, [0; 4]),
            (0x1_0001, [0; 4]),
            (u64::MAX - 1, [0; 4]),
            (u64::MAX, [0; 4]),
        ] {
            let mut data = [0xee; 4];
            framebuffer.read(offset, &mut data);
            assert_eq!(data, expected, "{offset:#x}");
            framebuffer.write(offset.max(0x1_0000), &[9; 4]);
        }
        assert_eq!(framebuffer.file().unwrap().metadata().unwrap().len(), 0x1_0000);
    }

    #[test]
    fn nobody_can_change_its_size() {
        let framebuffer = Framebuffer::new(0x1_0000).unwrap();
        let file = framebuffer.file().unwrap();
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(0x2_0000).is_err());
        let seals = rustix::fs::fcntl_get_seals(file).unwrap();
        assert_eq!(seals, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    }

    #[test]
    fn one_without_memory_reads_zeros() {
        let framebuffer = Framebuffer::absent(0x1_0000);
        framebuffer.write(0, &[1; 8]);
        let mut data = [0xee; 8];
        framebuffer.read(0, &mut data);
        assert_eq!((data, framebuffer.file().is_none(), framebuffer.len()), ([0; 8], true, 0x1_0000));
    }
}
