//! The byte orders of a pixel.

use serde::{Deserialize, Serialize};

/// A 32-bit pixel format, named by its bytes in memory order (the eight of virtio-gpu).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// Blue first, alpha last.
    B8G8R8A8,
    /// Blue first, padding last.
    B8G8R8X8,
    /// Alpha first, blue last.
    A8R8G8B8,
    /// Padding first, blue last.
    X8R8G8B8,
    /// Red first, alpha last.
    R8G8B8A8,
    /// Padding first, red last.
    X8B8G8R8,
    /// Alpha first, red last.
    A8B8G8R8,
    /// Red first, padding last.
    R8G8B8X8,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 8] = [
        Format::B8G8R8A8,
        Format::B8G8R8X8,
        Format::A8R8G8B8,
        Format::X8R8G8B8,
        Format::R8G8B8A8,
        Format::X8B8G8R8,
        Format::A8B8G8R8,
        Format::R8G8B8X8,
    ];

    /// Bytes of a pixel.
    pub const BYTES: u32 = 4;

    /// True when the fourth byte is alpha, false when it is padding that carries nothing.
    pub const fn has_alpha(self) -> bool {
        matches!(self, Format::B8G8R8A8 | Format::A8R8G8B8 | Format::R8G8B8A8 | Format::A8B8G8R8)
    }

    /// Turns a row of bytes into 0x00RRGGBB words; the fourth byte, whatever it held, becomes zero.
    ///
    /// Converts as many pixels as both sides have room for.
    pub fn unpack_xrgb(self, bytes: &[u8], row: &mut [u32]) {
        match self {
            Format::B8G8R8A8 | Format::B8G8R8X8 => each(bytes, row, |word| word & 0x00ff_ffff),
            Format::A8R8G8B8 | Format::X8R8G8B8 => each(bytes, row, |word| word.swap_bytes() & 0x00ff_ffff),
            Format::R8G8B8A8 | Format::R8G8B8X8 => each(bytes, row, |word| word.swap_bytes() >> 8),
            Format::A8B8G8R8 | Format::X8B8G8R8 => each(bytes, row, |word| word >> 8),
        }
    }

    /// Turns a row of bytes into 0xAARRGGBB words; a format without alpha is opaque.
    pub fn unpack_argb(self, bytes: &[u8], row: &mut [u32]) {
        match self {
            Format::B8G8R8A8 => each(bytes, row, |word| word),
            Format::A8R8G8B8 => each(bytes, row, u32::swap_bytes),
            Format::R8G8B8A8 => each(bytes, row, |word| word.swap_bytes().rotate_right(8)),
            Format::A8B8G8R8 => each(bytes, row, |word| word.rotate_right(8)),
            Format::B8G8R8X8 | Format::X8R8G8B8 | Format::R8G8B8X8 | Format::X8B8G8R8 => {
                self.unpack_xrgb(bytes, row);
                row.iter_mut().for_each(|pixel| *pixel |= 0xff00_0000);
            }
        }
    }
}

/// One pass without branches, which the compiler vectorises.
#[inline]
fn each(bytes: &[u8], row: &mut [u32], convert: impl Fn(u32) -> u32) {
    for (pixel, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *pixel = convert(u32::from_le_bytes(*bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that `format` has for red 0x11, green 0x22, blue 0x33, fourth byte 0x44, spelt from its name.
    fn bytes_by_name(format: Format) -> Vec<u8> {
        let name = format!("{format:?}");
        let letters = name.chars().filter(|c| c.is_alphabetic());
        letters
            .map(|letter| match letter {
                'R' => 0x11,
                'G' => 0x22,
                'B' => 0x33,
                _ => 0x44,
            })
            .collect()
    }

    #[test]
    fn every_format_unpacks_as_its_name_says() {
        for format in Format::ALL {
            let bytes = bytes_by_name(format);
            let (mut xrgb, mut argb) = ([0], [0]);
            format.unpack_xrgb(&bytes, &mut xrgb);
            format.unpack_argb(&bytes, &mut argb);
            assert_eq!(xrgb[0], 0x0011_2233, "{format:?}");
            let alpha = if format.has_alpha() { 0x44 } else { 0xff };
            assert_eq!(argb[0], alpha << 24 | 0x0011_2233, "{format:?}");
        }
    }

    #[test]
    fn a_short_row_converts_what_fits() {
        let mut row = [7; 3];
        Format::B8G8R8X8.unpack_xrgb(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0], &mut row);
        assert_eq!(row, [1, 2, 7]);
    }
}
