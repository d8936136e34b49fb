//! Reads an EDID that somebody else wrote: a user's file or the VMM's answer.

use super::base::{DESCRIPTORS, HEADER};
use super::{BLOCK, Edid, MAX_BYTES, Mode, display_id};

/// Why bytes are no EDID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdidError {
    /// Not a whole number of blocks, none, or too many.
    #[error("EDID has {0} bytes: it must be 128 to 1024, a multiple of 128")]
    Length(usize),
    /// A dump in text form.
    #[error("EDID is hexadecimal text: make bytes of it first (xxd -r -p)")]
    Text,
    /// No EDID at all.
    #[error("EDID does not start with 00 ff ff ff ff ff ff 00: is it the binary file?")]
    Header,
    /// EDID 2.x or damaged.
    #[error("EDID is of version {0}.{1}: only 1.x is known")]
    Version(u8, u8),
    /// Cut off, or something follows it.
    #[error("EDID announces {announced} extension blocks and has {present}")]
    Extensions {
        /// In the base block.
        announced: usize,
        /// In the file.
        present: usize,
    },
    /// Damaged.
    #[error("EDID block {0} has a wrong checksum: the file is damaged")]
    Checksum(usize),
}

impl Edid {
    /// Takes a whole EDID of 1 to 8 blocks.
    pub fn parse(bytes: &[u8]) -> Result<Self, EdidError> {
        if !bytes.starts_with(&HEADER) && looks_like_text(bytes) {
            return Err(EdidError::Text);
        }
        if bytes.is_empty() || bytes.len() > MAX_BYTES || !bytes.len().is_multiple_of(BLOCK) {
            return Err(EdidError::Length(bytes.len()));
        }
        if !bytes.starts_with(&HEADER) {
            return Err(EdidError::Header);
        }
        if bytes[18] != 1 {
            return Err(EdidError::Version(bytes[18], bytes[19]));
        }
        let (announced, present) = (usize::from(bytes[126]), bytes.len() / BLOCK - 1);
        if announced != present {
            return Err(EdidError::Extensions { announced, present });
        }
        let sum = |block: &[u8]| block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        match bytes.chunks_exact(BLOCK).position(|block| sum(block) != 0) {
            Some(block) => Err(EdidError::Checksum(block)),
            None => Ok(Self(bytes.to_vec())),
        }
    }

    /// Takes the EDID that a field of fixed size starts with: what follows the announced blocks is padding.
    pub fn parse_padded(field: &[u8]) -> Result<Self, EdidError> {
        let extensions = field.get(126).copied().unwrap_or(0);
        Self::parse(field.get(..(usize::from(extensions) + 1) * BLOCK).unwrap_or(field))
    }

    /// The mode that the monitor likes best: one that a DisplayID extension marks as preferred, else the first detailed timing.
    pub fn preferred_mode(&self) -> Option<Mode> {
        let extensions = self.0.chunks_exact(BLOCK).skip(1);
        extensions.filter_map(display_id_preferred).next().or_else(|| self.first_detailed())
    }

    fn first_detailed(&self) -> Option<Mode> {
        let timing = self.0.get(DESCRIPTORS..)?.first_chunk::<18>()?;
        let clock = u32::from(u16::from_le_bytes([timing[0], timing[1]]));
        let wide = |low: usize, high: u8| u32::from(timing[low]) | u32::from(high) << 8;
        let (width, h_blank) = (wide(2, timing[4] >> 4), wide(3, timing[4] & 0xf));
        let (height, v_blank) = (wide(5, timing[7] >> 4), wide(6, timing[7] & 0xf));
        mode(clock, width, h_blank, height, v_blank)
    }
}

fn display_id_preferred(block: &[u8]) -> Option<Mode> {
    if block.first() != Some(&display_id::TAG) || block.get(1)? >> 4 != 1 {
        return None;
    }
    let end = display_id::DATA + usize::from(*block.get(2)?).min(display_id::DATA_BYTES);
    let mut rest = block.get(display_id::DATA..end)?;
    while let [tag, _, length, data @ ..] = rest {
        let data = data.get(..usize::from(*length))?;
        if *tag == display_id::TIMINGS {
            let preferred = data.chunks_exact(display_id::TIMING).find(|timing| timing[3] & 0x80 != 0);
            if let Some(mode) = preferred.and_then(type_i) {
                return Some(mode);
            }
        }
        rest = &rest[3 + data.len()..];
    }
    None
}

fn type_i(timing: &[u8]) -> Option<Mode> {
    let word = |at: usize| u32::from(u16::from_le_bytes([timing[at], timing[at + 1]]));
    let clock = u32::from_le_bytes([timing[0], timing[1], timing[2], 0]) + 1;
    mode(clock, word(4) + 1, word(6) + 1, word(12) + 1, word(14) + 1)
}

fn mode(clock_10khz: u32, width: u32, h_blank: u32, height: u32, v_blank: u32) -> Option<Mode> {
    let pixels = u64::from(width + h_blank) * u64::from(height + v_blank);
    if clock_10khz == 0 || width == 0 || height == 0 {
        return None;
    }
    let refresh = (u64::from(clock_10khz) * 10_000 + pixels / 2) / pixels;
    Some(Mode { width, height, refresh: u32::try_from(refresh).ok()? })
}

fn looks_like_text(bytes: &[u8]) -> bool {
    let hex = bytes.iter().filter(|byte| byte.is_ascii_hexdigit()).count();
    hex >= 2 * BLOCK && bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}
