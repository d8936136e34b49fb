//! Rectangles, damage, and where a picture lies in its memory.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Format, MAX_DIMENSION};

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Rect {
    /// A rectangle from its four numbers.
    pub const fn new(x: u32, y: u32, width: u32, height: u32) -> Self {
        Self { x, y, width, height }
    }

    /// True when it holds no pixel.
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// The first column right of it.
    pub const fn right(&self) -> u32 {
        self.x.saturating_add(self.width)
    }

    /// The first row below it.
    pub const fn bottom(&self) -> u32 {
        self.y.saturating_add(self.height)
    }

    /// Number of pixels.
    pub const fn area(&self) -> u64 {
        self.width as u64 * self.height as u64
    }

    /// The part inside a picture of that size, whatever the numbers were.
    pub fn clipped(&self, width: u32, height: u32) -> Rect {
        let (x, y) = (self.x.min(width), self.y.min(height));
        Rect { x, y, width: self.right().min(width) - x, height: self.bottom().min(height) - y }
    }

    /// The smallest rectangle around both; an empty one adds nothing.
    pub fn union(&self, other: &Rect) -> Rect {
        if self.is_empty() {
            return *other;
        }
        if other.is_empty() {
            return *self;
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let (right, bottom) = (self.right().max(other.right()), self.bottom().max(other.bottom()));
        Rect { x, y, width: right - x, height: bottom - y }
    }

    /// True when every pixel of `other` is in this one.
    pub fn contains(&self, other: &Rect) -> bool {
        self.x <= other.x && self.y <= other.y && self.right() >= other.right() && self.bottom() >= other.bottom()
    }
}

/// What changed: a few rectangles, so that a blinking cursor and a clock do not add up to the whole screen.
///
/// It never loses a pixel; when the rectangles run out, two become the one around both.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Damage {
    rects: [Rect; Damage::MAX],
    count: u8,
}

impl Damage {
    /// Most rectangles it holds.
    pub const MAX: usize = 8;

    /// Nothing changed.
    pub const fn none() -> Self {
        Self { rects: [Rect::new(0, 0, 0, 0); Self::MAX], count: 0 }
    }

    /// That rectangle changed.
    pub fn of(rect: Rect) -> Self {
        let mut damage = Self::none();
        damage.add(rect);
        damage
    }

    /// True when nothing changed.
    pub fn is_empty(&self) -> bool {
        self.rects().is_empty()
    }

    /// The rectangles.
    pub fn rects(&self) -> &[Rect] {
        let count = usize::from(self.count).min(Self::MAX);
        self.rects.get(..count).unwrap_or_default()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds a rectangle.
    pub fn add(&mut self, rect: Rect) {
        if rect.is_empty() {
            return;
        }
        let count = self.rects().len();
        let rects = &mut self.rects[..count];
        if rects.iter().any(|have| have.contains(&rect)) {
            return;
        }
        let growth = |have: &Rect| have.union(&rect).area().saturating_sub(have.area());
        match rects.iter_mut().min_by_key(|have| growth(have)) {
            Some(nearest) if count == Self::MAX || growth(nearest) <= rect.area() => *nearest = nearest.union(&rect),
            _ => {
                self.rects[count] = rect;
                self.count = count as u8 + 1;
            }
        }
    }
}

impl PartialEq for Damage {
    fn eq(&self, other: &Self) -> bool {
        self.rects() == other.rects()
    }
}

impl Eq for Damage {}

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rects()).finish()
    }
}

/// Where a picture lies in its memory, and how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Byte of the first pixel.
    pub offset: u64,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Byte order of a pixel.
    pub format: Format,
}

impl Geometry {
    /// A picture without gaps at the start of its memory.
    pub const fn packed(width: u32, height: u32, format: Format) -> Self {
        Self { offset: 0, width, height, stride: width.saturating_mul(Format::BYTES), format }
    }

    /// All of its pixels.
    pub const fn rect(&self) -> Rect {
        Rect::new(0, 0, self.width, self.height)
    }

    /// True when it is a picture of sane size and every pixel lies in `size` bytes.
    pub fn fits(&self, size: u64) -> bool {
        let sane = |length| (1..=MAX_DIMENSION).contains(&length);
        if !sane(self.width) || !sane(self.height) || self.stride < self.width * Format::BYTES {
            return false;
        }
        let rows = u64::from(self.height - 1) * u64::from(self.stride);
        let bytes = rows + u64::from(self.width) * u64::from(Format::BYTES);
        self.offset.checked_add(bytes).is_some_and(|end| end <= size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn any_rect() -> impl Strategy<Value = Rect> {
        (0..40u32, 0..40u32, 0..12u32, 0..12u32).prop_map(|(x, y, width, height)| Rect::new(x, y, width, height))
    }

    proptest! {
        #[test]
        fn damage_never_loses_a_pixel(rects in prop::collection::vec(any_rect(), 0..40)) {
            let mut damage = Damage::none();
            for rect in &rects {
                damage.add(*rect);
            }
            prop_assert!(damage.rects().len() <= Damage::MAX);
            for rect in rects.iter().filter(|rect| !rect.is_empty()) {
                for (x, y) in (rect.x..rect.right()).flat_map(|x| (rect.y..rect.bottom()).map(move |y| (x, y))) {
                    prop_assert!(damage.rects().iter().any(|have| have.contains(&Rect::new(x, y, 1, 1))));
                }
            }
        }

        #[test]
        fn a_geometry_that_fits_has_its_last_pixel_inside(offset in any::<u64>(), width in any::<u32>(),
            height in any::<u32>(), stride in any::<u32>(), size in any::<u64>()) {
            let geometry = Geometry { offset, width, height, stride, format: Format::B8G8R8X8 };
            if geometry.fits(size) {
                let last = u128::from(offset) + u128::from(height - 1) * u128::from(stride) + u128::from(width) * 4;
                prop_assert!(last <= u128::from(size));
            }
        }
    }

    #[test]
    fn far_apart_damage_stays_apart_and_neighbours_merge() {
        let mut damage = Damage::of(Rect::new(0, 0, 8, 8));
        damage.add(Rect::new(1000, 700, 8, 8));
        assert_eq!(damage.rects().len(), 2);
        damage.add(Rect::new(8, 0, 8, 8));
        assert_eq!(damage.rects(), [Rect::new(0, 0, 16, 8), Rect::new(1000, 700, 8, 8)]);
    }

    #[test]
    fn clipping_survives_numbers_that_wrap() {
        assert_eq!(Rect::new(u32::MAX, 5, u32::MAX, u32::MAX).clipped(100, 100), Rect::new(100, 5, 0, 95));
        assert_eq!(Rect::new(90, 0, u32::MAX, 10).clipped(100, 100), Rect::new(90, 0, 10, 10));
    }

    #[test]
    fn cve_2017_2633_a_line_of_65535_pixels_or_a_short_stride_does_not_fit() {
        let fits = |width, height, stride| {
            Geometry { offset: 0, width, height, stride, format: Format::B8G8R8X8 }.fits(u64::MAX)
        };
        assert!(fits(8192, 8192, 32768));
        assert!(!fits(65535, 1, 65535 * 4));
        assert!(!fits(0, 1, 4));
        assert!(!fits(2, 2, 7));
        assert!(!fits(0x4000_0001, 1, 4));
    }
}
