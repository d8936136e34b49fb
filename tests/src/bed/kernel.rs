//! The kernel that guests boot.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ruzstd::decoding::StreamingDecoder;

use crate::bed::Tree;
use crate::bed::cache::{self, Key};
use crate::progress::say;

/// Raise it when this file makes another file of the same kernel.
const VERSION: u64 = 1;

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The kernel's file as Debian has it. Its first instructions ask the BIOS what is there, then it unpacks itself.
pub fn packed(tree: &Tree) -> Result<PathBuf> {
    let modules = modules_folder(tree)?;
    let release = modules.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let places = [modules.join("vmlinuz"), tree.file(&format!("boot/vmlinuz-{release}"))];
    places.into_iter().find(|path| path.exists()).context("The bed has no kernel")
}

/// The kernel as an ELF file, which QEMU starts where it says (PVH): a translated processor spends a fifth of a boot on
/// unpacking.
pub fn unpacked(tree: &Tree) -> Result<PathBuf> {
    let packed = packed(tree)?;
    let image = fs::read(&packed).with_context(|| format!("Cannot read {}", packed.display()))?;
    match payload(&image) {
        Some(payload) if payload.starts_with(&ZSTD) => {
            let key = Key::new(VERSION).with(packed.as_os_str().as_encoded_bytes());
            cache::ensure("vmlinux", key, |path| unpack(payload, path))
        }
        _ => Ok(packed),
    }
}

/// The folder of a kernel's modules, which is named after its release.
pub fn modules_folder(tree: &Tree) -> Result<PathBuf> {
    let folder = tree.file("usr/lib/modules");
    let mut entries = fs::read_dir(&folder).with_context(|| format!("Cannot read {}", folder.display()))?;
    Ok(entries.next().context("The bed has no kernel modules")??.path())
}

fn unpack(payload: &[u8], path: &Path) -> Result<()> {
    say("bed: unpacking the kernel");
    let mut decoder = StreamingDecoder::new(payload).context("Cannot read the kernel's payload")?;
    io::copy(&mut decoder, &mut File::create(path)?).context("Cannot unpack the kernel")?;
    Ok(())
}

/// What a bzImage unpacks, by the header of Linux's x86 boot protocol (payload_offset, payload_length).
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let is_image = image.get(0x202..0x206)? == b"HdrS";
    let start = (usize::from(*image.get(0x1f1)?) + 1) * 512 + word(0x248)?;
    // The size of what comes out follows.
    let end = (start + word(0x24c)?).checked_sub(4)?;
    image.get(start..end).filter(|_| is_image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_behind_the_setup_sectors_without_its_size() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 3;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24c] = 12;
        image[4 * 512 + 16..4 * 512 + 28].copy_from_slice(b"payload!\x08\0\0\0");
        assert_eq!(payload(&image), Some(b"payload!".as_slice()));
        image[0x202] = 0;
        assert_eq!(payload(&image), None);
        assert_eq!(payload(&[]), None);
        assert_eq!(payload(&[0xff; 0x300]), None);
    }
}
