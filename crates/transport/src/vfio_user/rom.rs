//! The expansion ROM: SeaBIOS' vgabios for bochs-display, as a distribution installs it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::pci::Model;

/// Its name, in each of [`FOLDERS`].
const NAME: &str = "vgabios-bochs-display.bin";
/// Where distributions put it.
const FOLDERS: [&str; 5] =
    ["/usr/share/seabios", "/usr/share/seavgabios", "/usr/share/qemu", "/usr/local/share/qemu", "/usr/share/qemu-kvm"];
/// What we take of a file; what distributions ship has 28 KiB.
const LARGEST: usize = 128 << 10;
/// A ROM counts its length in these.
const BLOCK: usize = 512;
/// Where its checksum is mended. The first three bytes are the signature and the length, the next three a jump.
const CHECKSUM: usize = 6;
/// Where it says where its PCI data structure is.
const POINTER: usize = 0x18;
/// Bytes of that structure.
const STRUCTURE: usize = 0x18;

/// Why there is no expansion ROM.
#[derive(Debug, Error)]
pub enum RomError {
    /// It is not installed.
    #[error(
        "There is no {NAME}: install the package seabios (Debian, Arch) or seavgabios-bin (Fedora), or name a file"
    )]
    NotFound,
    /// It cannot be read.
    #[error("Cannot read {0}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// It is something else.
    #[error("{0} is no expansion ROM for a PC: {1}")]
    NotARom(PathBuf, &'static str),
}

/// A verified expansion ROM of this function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rom {
    bytes: Vec<u8>,
}

impl Rom {
    /// The one that is installed.
    pub fn find(model: Model) -> Result<Self, RomError> {
        Self::find_in(FOLDERS.iter().map(Path::new), model)
    }

    fn find_in<'a>(folders: impl Iterator<Item = &'a Path>, model: Model) -> Result<Self, RomError> {
        for folder in folders {
            match Self::load(&folder.join(NAME), model) {
                Err(RomError::Unreadable(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
                found => return found,
            }
        }
        Err(RomError::NotFound)
    }

    /// The one in a file.
    pub fn load(path: &Path, model: Model) -> Result<Self, RomError> {
        let unreadable = |error| RomError::Unreadable(path.to_owned(), error);
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::parse(bytes, model).map_err(|why| RomError::NotARom(path.to_owned(), why))
    }

    /// Verifies it and makes it one of this function: its ids are compared by SeaBIOS.
    fn parse(mut bytes: Vec<u8>, model: Model) -> Result<Self, &'static str> {
        if bytes.len() > LARGEST {
            return Err("it is too large");
        }
        if bytes.get(..2) != Some(&[0x55, 0xaa]) {
            return Err("its signature is wrong");
        }
        let length = bytes.get(2).map_or(0, |blocks| usize::from(*blocks) * BLOCK);
        let image = bytes.get_mut(..length).filter(|image| !image.is_empty()).ok_or("it is cut off")?;
        if sum(image) != 0 {
            return Err("its checksum is wrong");
        }
        let start = usize::from(u16::from_le_bytes([image[POINTER], image[POINTER + 1]]));
        let structure = image.get_mut(start..start + STRUCTURE).ok_or("its PCI data are not in it")?;
        if &structure[..4] != b"PCIR" {
            return Err("it has no PCI data");
        }
        if structure[0x14] != 0 {
            return Err("it is not for a PC's BIOS");
        }
        let (vendor, device) = model.ids();
        structure[4..6].copy_from_slice(&vendor.to_le_bytes());
        structure[6..8].copy_from_slice(&device.to_le_bytes());
        image[CHECKSUM] = image[CHECKSUM].wrapping_sub(sum(image));
        let size = bytes.len().next_power_of_two().max(2048);
        bytes.resize(size, 0xff);
        Ok(Self { bytes })
    }

    /// Its length, a power of two.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Fills `data` from `offset` on.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let Some(rest) = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)) else { return };
        let length = rest.len().min(data.len());
        data[..length].copy_from_slice(&rest[..length]);
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests;
