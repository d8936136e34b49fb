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
