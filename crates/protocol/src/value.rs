//! The values that flow through the stack: identifiers, rectangles, formats, fences.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A guest's name for a resource; 0 names none.
    ResourceId
}
id! {
    /// A guest's name for a rendering context; 0 is the 2D context.
    ContextId
}
id! {
    /// The index of a head, 0 to 15.
    ScanoutId
}

/// A rectangle in pixels (`virtio_gpu_rect`). As it comes from a guest it need not lie inside anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Rect {
    /// A rectangle at (`x`, `y`).
    pub const fn new(x: u32, y: u32, width: u32, height: u32) -> Self {
        Self { x, y, width, height }
    }

    /// A rectangle at the origin.
    pub const fn of_size(width: u32, height: u32) -> Self {
        Self::new(0, 0, width, height)
    }

    /// Whether it covers no pixel.
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// The column after the last one; 64 bits wide because a guest chooses the summands.
    pub const fn right(&self) -> u64 {
        self.x as u64 + self.width as u64
    }

    /// The row after the last one.
    pub const fn bottom(&self) -> u64 {
        self.y as u64 + self.height as u64
    }

    /// Whether it lies inside an image of the given size.
    pub const fn is_within(&self, width: u32, height: u32) -> bool {
        self.right() <= width as u64 && self.bottom() <= height as u64
    }

    /// The part that both rectangles cover, if any.
    pub fn intersection(&self, other: &Rect) -> Option<Rect> {
        let x = self.x.max(other.x);
        let y = self.y.max(other.y);
        let right = self.right().min(other.right());
        let bottom = self.bottom().min(other.bottom());
        // Neither difference exceeds a width or height, so both fit.
        (u64::from(x) < right && u64::from(y) < bottom)
            .then(|| Rect::new(x, y, (right - u64::from(x)) as u32, (bottom - u64::from(y)) as u32))
    }

    /// The smallest rectangle that covers both; saturates at the 32-bit edge.
    pub fn union(&self, other: &Rect) -> Rect {
        if self.is_empty() {
            return *other;
        }
        if other.is_empty() {
            return *self;
        }
        let x = self.x.min(other.x);
        let y = self.y.min(other.y);
        let extent = |end: u64, start: u32| u32::try_from(end - u64::from(start)).unwrap_or(u32::MAX);
        Rect::new(x, y, extent(self.right().max(other.right()), x), extent(self.bottom().max(other.bottom()), y))
    }
}

/// One piece of a resource's backing in guest memory (`virtio_gpu_mem_entry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemEntry {
    /// Guest-physical address in bytes.
    pub addr: u64,
    /// Length in bytes.
    pub length: u32,
}

/// A fence as a guest asks for it: echoed in the reply once the command is complete (section 5.7.6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The guest's number.
    pub id: u64,
    /// The context that the command names.
    pub ctx: ContextId,
    /// The ring within the context, when the guest says one.
    pub ring: Option<u8>,
}

/// A pixel format (`virtio_gpu_formats`): the order in which the four bytes of a pixel lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum Format {
    /// Blue, green, red, alpha.
    B8G8R8A8 = 1,
    /// Blue, green, red, unused.
    B8G8R8X8 = 2,
    /// Alpha, red, green, blue.
    A8R8G8B8 = 3,
    /// Unused, red, green, blue.
    X8R8G8B8 = 4,
    /// Red, green, blue, alpha.
    R8G8B8A8 = 67,
    /// Unused, blue, green, red.
    X8B8G8R8 = 68,
    /// Alpha, blue, green, red.
    A8B8G8R8 = 121,
    /// Red, green, blue, unused.
    R8G8B8X8 = 134,
}

impl Format {
    /// Every format that the specification names.
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

    /// Bytes that one pixel takes: all formats have 32 bits.
    pub const BYTES_PER_PIXEL: u32 = 4;

    /// The format of a number on the wire, if the specification names it.
    pub fn from_wire(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| *format as u32 == number)
    }

    /// Where red, green, blue and alpha stand among a pixel's bytes; no alpha means opaque.
    pub const fn channels(self) -> Channels {
        let (red, green, blue, alpha) = match self {
            Format::B8G8R8A8 => (2, 1, 0, Some(3)),
            Format::B8G8R8X8 => (2, 1, 0, None),
            Format::A8R8G8B8 => (1, 2, 3, Some(0)),
            Format::X8R8G8B8 => (1, 2, 3, None),
            Format::R8G8B8A8 => (0, 1, 2, Some(3)),
            Format::X8B8G8R8 => (3, 2, 1, None),
            Format::A8B8G8R8 => (3, 2, 1, Some(0)),
            Format::R8G8B8X8 => (0, 1, 2, None),
        };
        Channels { red, green, blue, alpha }
    }
}

/// Byte positions within a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Position of red.
    pub red: usize,
    /// Position of green.
    pub green: usize,
    /// Position of blue.
    pub blue: usize,
    /// Position of alpha, where the format has one.
    pub alpha: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_at_the_32_bit_edge_is_outside_every_image() {
        let rect = Rect::new(u32::MAX, 0, 2, 1);
        assert_eq!(rect.right(), u64::from(u32::MAX) + 2);
        assert!(!rect.is_within(u32::MAX, u32::MAX));
    }

    #[test]
    fn intersection_and_union_agree_with_the_pixels() {
        let a = Rect::new(0, 0, 4, 4);
        let b = Rect::new(2, 3, 10, 10);
        assert_eq!(a.intersection(&b), Some(Rect::new(2, 3, 2, 1)));
        assert_eq!(a.union(&b), Rect::new(0, 0, 12, 13));
        assert_eq!(a.intersection(&Rect::new(4, 0, 1, 1)), None);
        assert_eq!(Rect::default().union(&b), b);
    }

    #[test]
    fn every_format_survives_the_wire_and_no_other_number_is_one() {
        let known: Vec<u32> = (0..1000).filter(|n| Format::from_wire(*n).is_some()).collect();
        assert_eq!(known, [1, 2, 3, 4, 67, 68, 121, 134]);
    }
}
