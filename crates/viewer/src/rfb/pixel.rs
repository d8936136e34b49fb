//! The pixel format that a client asked for, and the way from 0x00RRGGBB to it.

/// A client's pixel format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PixelFormat {
    /// 8, 16 or 32.
    bits: u8,
    depth: u8,
    big_endian: bool,
    /// False: the value is an index into a table of colours, which we define as 3 bits red, 3 green, 2 blue.
    true_colour: bool,
    max: [u16; 3],
    shift: [u8; 3],
}

impl PixelFormat {
    /// What we offer: blue first, one byte of padding last.
    pub(crate) const NATIVE: Self =
        Self { bits: 32, depth: 24, big_endian: false, true_colour: true, max: [255; 3], shift: [16, 8, 0] };

    /// Colours of the table that clients without true colour get.
    const TABLE: Self =
        Self { bits: 8, depth: 8, big_endian: false, true_colour: false, max: [7, 7, 3], shift: [0, 3, 6] };

    /// Reads the 16 bytes of a SetPixelFormat; none when no pixel can look like that.
    pub(crate) fn parse(bytes: &[u8; 16]) -> Option<Self> {
        let &[bits, depth, big_endian, true_colour, r1, r0, g1, g0, b1, b0, red, green, blue, ..] = bytes;
        if !matches!(bits, 8 | 16 | 32) {
            return None;
        }
        if true_colour == 0 {
            return (bits == 8).then_some(Self::TABLE);
        }
        let max = [u16::from_be_bytes([r1, r0]), u16::from_be_bytes([g1, g0]), u16::from_be_bytes([b1, b0])];
        let shift = [red, green, blue];
        let fits = |(max, shift): (&u16, &u8)| {
            *shift < bits && u64::from(*max) << shift < 1 << bits && (u32::from(*max) + 1).is_power_of_two()
        };
        if !max.iter().zip(&shift).all(fits) {
            return None;
        }
        Some(Self { bits, depth, big_endian: big_endian != 0, true_colour: true, max, shift })
    }

    /// The 16 bytes of it.
    pub(crate) fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[self.bits, self.depth, self.big_endian.into(), self.true_colour.into()]);
        for (index, max) in self.max.iter().enumerate() {
            bytes[4 + 2 * index..][..2].copy_from_slice(&max.to_be_bytes());
        }
        bytes[10..13].copy_from_slice(&self.shift);
        bytes
    }

    /// True when the client must be told the table of colours.
    pub(crate) fn needs_table(&self) -> bool {
        !self.true_colour
    }

    /// True for 24 bits of colour in 32: what Tight and ZRLE pack into three bytes.
    fn is_rgb888(&self) -> bool {
        self.true_colour && self.bits == 32 && self.depth <= 24 && self.max == [255; 3]
    }
}

/// Red, green and blue, 16 bits each, of the table's 256 colours.
pub(crate) fn table() -> impl Iterator<Item = [u16; 3]> {
    (0..=255u8).map(|index| {
        let part = |max: u16, shift: u8| {
            let value = u32::from(u16::from(index >> shift) & max);
            (value * 65535 / u32::from(max)) as u16
        };
        let ([red, green, blue], [r, g, b]) = (PixelFormat::TABLE.max, PixelFormat::TABLE.shift);
        [part(red, r), part(green, g), part(blue, b)]
    })
}

/// How 32-bit pixels are made; nearly all clients want one of the two that need no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direct {
    Bgrx,
    Rgbx,
    No,
}

/// Where the three bytes of a compact pixel are in its four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compact {
    First3,
    Last3,
    All,
}

/// Turns 0x00RRGGBB words into a client's bytes. Padding is all ones, so that a careless client's alpha is opaque.
pub(crate) struct Translator {
    format: PixelFormat,
    /// The client's bits for each value of red, green and blue.
    parts: Box<[[u32; 256]; 3]>,
    padding: u32,
    direct: Direct,
    compact: Compact,
}

impl Translator {
    pub(crate) fn new(format: PixelFormat) -> Self {
        let mut parts = Box::new([[0; 256]; 3]);
        for (part, (max, shift)) in parts.iter_mut().zip(format.max.iter().zip(format.shift)) {
            for (value, bits) in part.iter_mut().enumerate() {
                *bits = ((value as u32 * u32::from(*max) + 127) / 255) << shift;
            }
        }
        let used = parts.iter().map(|part| part[255]).fold(0, |used, bits| used | bits);
        let padding = if format.bits == 32 { !used } else { 0 };
        let direct = match (format.is_rgb888() && !format.big_endian, format.shift) {
            (true, [16, 8, 0]) => Direct::Bgrx,
            (true, [0, 8, 16]) => Direct::Rgbx,
            _ => Direct::No,
        };
        // RFC 6143, 7.7.5: which three of the four bytes carry colour depends on where the bits are and on the byte order.
        let (low, high) = (used & 0xff00_0000 == 0, used & 0xff == 0);
        let compact = match (format.is_rgb888(), low, high, format.big_endian) {
            (true, true, _, false) | (true, false, true, true) => Compact::First3,
            (true, true, _, true) | (true, false, true, false) => Compact::Last3,
            _ => Compact::All,
        };
        Self { format, parts, padding, direct, compact }
    }

    /// Bytes of a pixel.
    pub(crate) fn bytes(&self) -> usize {
        usize::from(self.format.bits / 8)
    }

    /// Bytes of a compact pixel.
    pub(crate) fn compact_bytes(&self) -> usize {
        if self.compact == Compact::All { self.bytes() } else { 3 }
    }

    fn value(&self, pixel: u32) -> u32 {
        let [_, red, green, blue] = pixel.to_be_bytes().map(usize::from);
        self.parts[0][red] | self.parts[1][green] | self.parts[2][blue] | self.padding
    }

    /// Appends pixels.
    pub(crate) fn append(&self, pixels: &[u32], out: &mut Vec<u8>) {
        match (self.direct, self.format.bits, self.format.big_endian) {
            (Direct::Bgrx, ..) => append_words(pixels, out, |pixel| (pixel | 0xff00_0000).to_le_bytes()),
            (Direct::Rgbx, ..) => append_words(pixels, out, |pixel| (pixel << 8 | 0xff).to_be_bytes()),
            (_, 8, _) => append_words(pixels, out, |pixel| [self.value(pixel) as u8]),
            (_, 16, false) => append_words(pixels, out, |pixel| (self.value(pixel) as u16).to_le_bytes()),
            (_, 16, true) => append_words(pixels, out, |pixel| (self.value(pixel) as u16).to_be_bytes()),
            (_, _, false) => append_words(pixels, out, |pixel| self.value(pixel).to_le_bytes()),
            (_, _, true) => append_words(pixels, out, |pixel| self.value(pixel).to_be_bytes()),
        }
    }

    /// Appends compact pixels (CPIXEL of ZRLE).
    pub(crate) fn append_compact(&self, pixels: &[u32], out: &mut Vec<u8>) {
        if self.direct == Direct::Bgrx {
            return append_words(pixels, out, |pixel| {
                let [blue, green, red, _] = pixel.to_le_bytes();
                [blue, green, red]
            });
        }
        let word = |pixel| match self.format.big_endian {
            true => self.value(pixel).to_be_bytes(),
            false => self.value(pixel).to_le_bytes(),
        };
        match self.compact {
            Compact::All => self.append(pixels, out),
            Compact::First3 => append_words(pixels, out, |pixel| {
                let [a, b, c, _] = word(pixel);
                [a, b, c]
            }),
            Compact::Last3 => append_words(pixels, out, |pixel| {
                let [_, b, c, d] = word(pixel);
                [b, c, d]
            }),
        }
    }
}

/// One pass into room made beforehand, which the compiler vectorises.
#[inline]
fn append_words<const N: usize>(pixels: &[u32], out: &mut Vec<u8>, word: impl Fn(u32) -> [u8; N]) {
    let start = out.len();
    out.resize(start + pixels.len() * N, 0);
    for (bytes, pixel) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(pixels) {
        *bytes = word(*pixel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn format(bits: u8, depth: u8, big_endian: bool, max: [u16; 3], shift: [u8; 3]) -> PixelFormat {
        let format = PixelFormat { bits, depth, big_endian, true_colour: true, max, shift };
        assert_eq!(PixelFormat::parse(&format.bytes()), Some(format));
        format
    }

    fn translated(format: PixelFormat, pixel: u32) -> (Vec<u8>, Vec<u8>) {
        let translator = Translator::new(format);
        let (mut whole, mut compact) = (Vec::new(), Vec::new());
        translator.append(&[pixel], &mut whole);
        translator.append_compact(&[pixel], &mut compact);
        assert_eq!((whole.len(), compact.len()), (translator.bytes(), translator.compact_bytes()));
        (whole, compact)
    }

    #[test]
    fn the_formats_that_clients_ask_for() {
        let pixel = 0x0011_8844;
        let rgb888 = |big_endian, shift| format(32, 24, big_endian, [255; 3], shift);
        assert_eq!(translated(PixelFormat::NATIVE, pixel), (vec![0x44, 0x88, 0x11, 0xff], vec![0x44, 0x88, 0x11]));
        assert_eq!(
            translated(rgb888(false, [0, 8, 16]), pixel),
            (vec![0x11, 0x88, 0x44, 0xff], vec![0x11, 0x88, 0x44])
        );
        assert_eq!(translated(rgb888(true, [16, 8, 0]), pixel), (vec![0xff, 0x11, 0x88, 0x44], vec![0x11, 0x88, 0x44]));
        assert_eq!(translated(rgb888(true, [0, 8, 16]), pixel), (vec![0xff, 0x44, 0x88, 0x11], vec![0x44, 0x88, 0x11]));
        assert_eq!(
            translated(rgb888(false, [8, 16, 24]), pixel),
            (vec![0xff, 0x11, 0x88, 0x44], vec![0x11, 0x88, 0x44])
        );
        assert_eq!(
            translated(rgb888(true, [24, 16, 8]), pixel),
            (vec![0x11, 0x88, 0x44, 0xff], vec![0x11, 0x88, 0x44])
        );
        let rgb565 = |big_endian| format(16, 16, big_endian, [31, 63, 31], [11, 5, 0]);
        let value = 2u16 << 11 | 34 << 5 | 8;
        assert_eq!(translated(rgb565(false), pixel), (value.to_le_bytes().into(), value.to_le_bytes().into()));
        assert_eq!(translated(rgb565(true), pixel), (value.to_be_bytes().into(), value.to_be_bytes().into()));
        let bgr233 = format(8, 8, false, [7, 7, 3], [0, 3, 6]);
        assert_eq!(translated(bgr233, pixel), (vec![4 << 3 | 1 << 6], vec![4 << 3 | 1 << 6]));
        assert_eq!(translated(PixelFormat::TABLE, 0x00ff_ffff), (vec![0xff], vec![0xff]));
        let depth30 = format(32, 30, false, [1023; 3], [20, 10, 0]);
        assert_eq!(translated(depth30, 0x00ff_ffff), (vec![0xff; 4], vec![0xff; 4]));
    }

    #[test]
    fn the_table_of_colours_ends_in_white() {
        assert_eq!(table().count(), 256);
        assert_eq!(table().last(), Some([65535; 3]));
        assert_eq!(table().nth(1), Some([65535 / 7, 0, 0]));
    }

    proptest! {
        #[test]
        fn no_format_that_is_accepted_makes_the_translator_panic(bytes in any::<[u8; 16]>(), pixel in any::<u32>()) {
            if let Some(format) = PixelFormat::parse(&bytes) {
                translated(format, pixel & 0x00ff_ffff);
            }
        }
    }
}
