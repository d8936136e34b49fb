//! The DISPI registers and the mode that they set.

use protocol::Format;

use crate::caps;

/// DISPI registers by number.
pub mod index {
    /// Which interface this is.
    pub const ID: usize = 0;
    /// Width.
    pub const X: usize = 1;
    /// Height.
    pub const Y: usize = 2;
    /// Bits of a pixel.
    pub const BPP: usize = 3;
    /// Whether the mode is set, and how.
    pub const ENABLE: usize = 4;
    /// Where the window of old programs begins: kept, and nothing else.
    #[cfg(test)]
    pub const BANK: usize = 5;
    /// Pixels of a row in memory.
    pub const VIRT_WIDTH: usize = 6;
    /// First column that is seen.
    pub const X_OFFSET: usize = 8;
    /// First row that is seen.
    pub const Y_OFFSET: usize = 9;
    /// The framebuffer, in units of 64 KiB.
    pub const MEMORY: usize = 10;
    /// How many there are.
    pub const COUNT: usize = 11;
}

/// What firmware looks for: the interface with 32 bits a pixel and any width.
const ID: u16 = 0xb0c5;
/// Of [`index::ENABLE`]: a mode is set.
const ENABLED: u16 = 0x01;
/// Of [`index::ENABLE`]: the largest mode is read in the place of the one that is set.
const GETCAPS: u16 = 0x02;
/// The least width and height of a mode.
const LEAST: u32 = 64;

/// The DISPI registers. They keep what was written; what that means is asked by [`Mode::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dispi {
    framebuffer: u64,
    values: [u16; index::COUNT],
    /// Order of a pixel's bytes.
    pub big_endian: bool,
}

impl Dispi {
    pub fn new(framebuffer: u64) -> Self {
        Self { framebuffer, values: [0; index::COUNT], big_endian: false }
    }

    pub fn reset(&mut self) {
        *self = Self::new(self.framebuffer);
    }

    pub fn is_enabled(&self) -> bool {
        self.values[index::ENABLE] & ENABLED != 0
    }

    /// What a guest reads. Registers that do not exist read 0.
    pub fn read(&self, register: usize) -> u16 {
        let largest = self.values[index::ENABLE] & GETCAPS != 0;
        match register {
            index::ID => ID,
            index::X | index::Y if largest => caps::IMAGE_SIZE as u16,
            index::BPP if largest => 32,
            index::MEMORY => u16::try_from(self.framebuffer >> 16).unwrap_or(u16::MAX),
            _ => self.stored(register),
        }
    }

    /// What was written.
    pub fn stored(&self, register: usize) -> u16 {
        self.values.get(register).copied().unwrap_or(0)
    }

    /// Takes what a guest writes.
    pub fn write(&mut self, register: usize, value: u16) {
        if let Some(kept) = self.values.get_mut(register) {
            *kept = value;
        }
    }
}

/// How a pixel lies in the framebuffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Four bytes, shown as they are.
    Four(Format),
    /// Two bytes of 5, 6 and 5 bits.
    Two {
        /// Order of the two.
        big_endian: bool,
    },
}

impl Depth {
    /// Bytes of a pixel in the framebuffer.
    pub fn bytes(self) -> u64 {
        match self {
            Depth::Four(_) => 4,
            Depth::Two { .. } => 2,
        }
    }

    /// Order of a pixel's bytes in the image that is shown.
    pub fn format(self) -> Format {
        match self {
            Depth::Four(format) => format,
            Depth::Two { .. } => Format::B8G8R8X8,
        }
    }
}

/// A mode of which every pixel lies in the framebuffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub width: u32,
    pub height: u32,
    pub depth: Depth,
    /// Bytes from one row to the next.
    pub stride: u64,
    /// Position of the first byte that is seen.
    pub offset: u64,
}

impl Mode {
    /// The mode that the registers set; none when the screen is dark. Everything here is a guest's number: no sum or product
    /// of them reaches 2^64.
    pub fn of(dispi: &Dispi) -> Option<Self> {
        let value = |register: usize| u64::from(dispi.stored(register));
        let depth = match (dispi.stored(index::BPP), dispi.big_endian) {
            (32, false) => Depth::Four(Format::B8G8R8X8),
            (32, true) => Depth::Four(Format::X8R8G8B8),
            (16, big_endian) => Depth::Two { big_endian },
            _ => return None,
        };
        let (width, height) = (u32::from(dispi.stored(index::X)), u32::from(dispi.stored(index::Y)));
        let sizes = LEAST..=caps::IMAGE_SIZE;
        if !dispi.is_enabled() || !sizes.contains(&width) || !sizes.contains(&height) {
            return None;
        }
        let stride = value(index::VIRT_WIDTH).max(u64::from(width)) * depth.bytes();
        let offset = value(index::Y_OFFSET) * stride + value(index::X_OFFSET) * depth.bytes();
        let mode = Self { width, height, depth, stride, offset };
        (mode.end() <= dispi.framebuffer).then_some(mode)
    }

    /// Bytes of a row that are seen.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.width) * self.depth.bytes()
    }

    /// Position after the last byte that is seen.
    pub fn end(&self) -> u64 {
        self.offset + self.stride * u64::from(self.height - 1) + self.row_bytes()
    }

    /// Bytes of the image that is shown.
    pub fn image_bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * u64::from(Format::BYTES_PER_PIXEL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: u64 = 16 << 20;

    /// X, Y, bits, virtual width, X offset, Y offset, enable.
    fn dispi([x, y, bpp, virt_width, x_offset, y_offset, enable]: [u16; 7], big_endian: bool) -> Dispi {
        let mut dispi = Dispi { big_endian, ..Dispi::new(MEMORY) };
        for (register, value) in [
            (index::X, x),
            (index::Y, y),
            (index::BPP, bpp),
            (index::VIRT_WIDTH, virt_width),
            (index::X_OFFSET, x_offset),
            (index::Y_OFFSET, y_offset),
            (index::ENABLE, enable),
        ] {
            dispi.write(register, value);
        }
        dispi
    }

    fn mode(values: [u16; 7]) -> Option<Mode> {
        Mode::of(&dispi(values, false))
    }

    /// SeaBIOS switches on with 1, OVMF and Linux with 0x41; the virtual size may never have been written.
    #[test]
    fn modes_as_firmware_sets_them() {
        let expected =
            |width, height, stride| Mode { width, height, depth: Depth::Four(Format::B8G8R8X8), stride, offset: 0 };
        assert_eq!(mode([1280, 800, 32, 0, 0, 0, 0x01]), Some(expected(1280, 800, 5120)));
        assert_eq!(mode([640, 480, 32, 640, 0, 0, 0x41]), Some(expected(640, 480, 2560)));
        assert_eq!(mode([640, 480, 32, 800, 0, 0, 0xe1]), Some(expected(640, 480, 3200)));
    }

    #[test]
    fn what_cannot_be_shown_is_dark() {
        let good = [1024, 768, 32, 1024, 0, 0, 0x41];
        let with = |at: usize, value: u16| {
            let mut values = good;
            values[at] = value;
            mode(values)
        };
        assert!(mode(good).is_some());
        for (at, value) in [(0, 63), (0, 0), (0, 16385), (0, 65535), (1, 63), (1, 16385), (1, 65535)] {
            assert_eq!(with(at, value), None, "size");
        }
        for bits in [0, 1, 4, 8, 15, 24, 33, 65535] {
            assert_eq!(with(2, bits), None, "{bits} bits");
        }
        for enable in [0, 0x40, 0xfffe] {
            assert_eq!(with(6, enable), None, "{enable:#x}");
        }
    }

    /// CVE-2017-13672, CVE-2026-16271: the first row and the width of a row in memory may be anything.
    #[test]
    fn cve_2017_13672_the_last_pixel_is_in_the_framebuffer_or_there_is_none() {
        // 16 MiB are 4096 rows of 1024 pixels.
        for (virt_width, x_offset, y_offset, is_lit) in [
            (1024, 0, 3328, true),
            (1024, 1, 3328, false),
            (1024, 0, 3329, false),
            (1024, 0, 65535, false),
            (1024, 65535, 0, true),
            (2048, 1024, 1280, true),
            (2048, 1025, 1280, false),
            (5461, 0, 0, true),
            (5467, 0, 0, true),
            (5468, 0, 0, false),
            (65535, 65535, 65535, false),
        ] {
            let mode = mode([1024, 768, 32, virt_width, x_offset, y_offset, 1]);
            assert_eq!(mode.is_some(), is_lit, "{virt_width} {x_offset} {y_offset}");
        }
    }

    #[test]
    fn the_order_of_bytes_is_that_of_the_pixels() {
        let depth = |bpp, big_endian| {
            Mode::of(&dispi([640, 480, bpp, 0, 0, 0, 1], big_endian)).map(|mode| (mode.depth, mode.depth.format()))
        };
        assert_eq!(depth(32, false), Some((Depth::Four(Format::B8G8R8X8), Format::B8G8R8X8)));
        assert_eq!(depth(32, true), Some((Depth::Four(Format::X8R8G8B8), Format::X8R8G8B8)));
        assert_eq!(depth(16, false), Some((Depth::Two { big_endian: false }, Format::B8G8R8X8)));
        assert_eq!(depth(16, true), Some((Depth::Two { big_endian: true }, Format::B8G8R8X8)));
    }

    fn any_value() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(64), Just(u16::MAX), 0u16..2048, any::<u16>()]
    }

    fn any_values() -> impl Strategy<Value = [u16; 7]> {
        let bits = prop_oneof![Just(16), Just(32), Just(24)];
        let all = (any_value(), any_value(), bits, any_value(), any_value(), any_value(), 0u16..4);
        all.prop_map(|(x, y, bpp, width, x_offset, y_offset, enable)| [x, y, bpp, width, x_offset, y_offset, enable])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The same in numbers that cannot wrap.
        #[test]
        fn every_pixel_of_a_mode_lies_in_the_framebuffer(values in any_values(), big_endian: bool) {
            let [x, y, bpp, virt_width, x_offset, y_offset, enable] = values.map(u128::from);
            let bytes = bpp / 8;
            let stride = virt_width.max(x) * bytes;
            let offset = y_offset * stride + x_offset * bytes;
            let end = offset + stride * y.saturating_sub(1) + x * bytes;
            let sizes = 64..=16384;
            let is_mode = enable & 1 == 1 && bpp != 24 && sizes.contains(&x) && sizes.contains(&y);
            let mode = Mode::of(&dispi(values, big_endian));
            prop_assert_eq!(mode.is_some(), is_mode && end <= u128::from(MEMORY));
            if let Some(mode) = mode {
                prop_assert_eq!([u128::from(mode.offset), u128::from(mode.stride), u128::from(mode.end())], [offset, stride, end]);
                prop_assert!(mode.image_bytes() <= 2 * MEMORY);
            }
        }
    }
}
