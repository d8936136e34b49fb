//! Pixels in the orders that the sinks want.

use protocol::Format;

/// Whether a format's four bytes are x8r8g8b8 (or a8r8g8b8) in the machine's order: what a VMM takes as it is.
pub(crate) const fn is_xrgb(format: Format) -> bool {
    match format {
        Format::B8G8R8A8 | Format::B8G8R8X8 => cfg!(target_endian = "little"),
        Format::A8R8G8B8 | Format::X8R8G8B8 => cfg!(target_endian = "big"),
        Format::R8G8B8A8 | Format::R8G8B8X8 | Format::A8B8G8R8 | Format::X8B8G8R8 => false,
    }
}

/// Turns pixels into x8r8g8b8 words in the machine's order; the fourth byte carries nothing.
pub(crate) fn to_xrgb(format: Format, pixels: &mut [u8]) {
    match format {
        _ if is_xrgb(format) => {}
        Format::B8G8R8A8 | Format::B8G8R8X8 => each(pixels, |word| word),
        Format::A8R8G8B8 | Format::X8R8G8B8 => each(pixels, u32::swap_bytes),
        Format::R8G8B8A8 | Format::R8G8B8X8 => each(pixels, |word| word.swap_bytes() >> 8),
        Format::A8B8G8R8 | Format::X8B8G8R8 => each(pixels, |word| word >> 8),
    }
}

/// Turns pixels into a8r8g8b8 words in the machine's order; those without alpha are opaque.
pub(crate) fn to_argb(format: Format, pixels: &mut [u8]) {
    match format {
        Format::B8G8R8A8 => each(pixels, |word| word),
        Format::A8R8G8B8 => each(pixels, u32::swap_bytes),
        Format::R8G8B8A8 => each(pixels, |word| word.swap_bytes().rotate_right(8)),
        Format::A8B8G8R8 => each(pixels, |word| word.rotate_right(8)),
        Format::B8G8R8X8 => each(pixels, |word| word | OPAQUE),
        Format::X8R8G8B8 => each(pixels, |word| word.swap_bytes() | OPAQUE),
        Format::R8G8B8X8 => each(pixels, |word| word.swap_bytes() >> 8 | OPAQUE),
        Format::X8B8G8R8 => each(pixels, |word| word >> 8 | OPAQUE),
    }
}

const OPAQUE: u32 = 0xff00_0000;

/// Appends pixels as red, green, blue.
pub(crate) fn append_rgb(format: Format, pixels: &[u8], out: &mut Vec<u8>) {
    let channels = format.channels();
    let (red, green, blue) = (channels.red & 3, channels.green & 3, channels.blue & 3);
    out.extend(pixels.as_chunks::<4>().0.iter().flat_map(|pixel| [pixel[red], pixel[green], pixel[blue]]));
}

/// The same format by the name that viewers know it by.
pub(crate) const fn of_frames(format: Format) -> frames::Format {
    match format {
        Format::B8G8R8A8 => frames::Format::B8G8R8A8,
        Format::B8G8R8X8 => frames::Format::B8G8R8X8,
        Format::A8R8G8B8 => frames::Format::A8R8G8B8,
        Format::X8R8G8B8 => frames::Format::X8R8G8B8,
        Format::R8G8B8A8 => frames::Format::R8G8B8A8,
        Format::X8B8G8R8 => frames::Format::X8B8G8R8,
        Format::A8B8G8R8 => frames::Format::A8B8G8R8,
        Format::R8G8B8X8 => frames::Format::R8G8B8X8,
    }
}

/// One pass without branches, which the compiler vectorises.
#[inline]
fn each(pixels: &mut [u8], convert: impl Fn(u32) -> u32) {
    for pixel in pixels.as_chunks_mut::<4>().0 {
        *pixel = convert(u32::from_le_bytes(*pixel)).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that `format` has for red 0x11, green 0x22, blue 0x33, fourth byte 0x44, spelt from its name.
    fn bytes_by_name(format: Format) -> Vec<u8> {
        let letter = |letter| match letter {
            'R' => Some(0x11),
            'G' => Some(0x22),
            'B' => Some(0x33),
            'A' | 'X' => Some(0x44),
            _ => None,
        };
        format!("{format:?}").chars().filter_map(letter).collect()
    }

    #[test]
    fn every_format_is_converted_as_its_name_says() {
        for format in Format::ALL {
            let bytes = bytes_by_name(format);
            let (mut xrgb, mut argb, mut rgb) = (bytes.clone(), bytes.clone(), Vec::new());
            to_xrgb(format, &mut xrgb);
            to_argb(format, &mut argb);
            append_rgb(format, &bytes, &mut rgb);
            let word = |bytes: &[u8]| u32::from_ne_bytes(*bytes.first_chunk().unwrap());
            assert_eq!(word(&xrgb) & 0x00ff_ffff, 0x0011_2233, "{format:?}");
            let alpha = if format.channels().alpha.is_some() { 0x44 } else { 0xff };
            assert_eq!(word(&argb), alpha << 24 | 0x0011_2233, "{format:?}");
            assert_eq!(rgb, [0x11, 0x22, 0x33], "{format:?}");
            assert_eq!(is_xrgb(format), word(&bytes) & 0x00ff_ffff == 0x0011_2233, "{format:?}");
            assert_eq!(format!("{format:?}"), format!("{:?}", of_frames(format)));
        }
    }
}
