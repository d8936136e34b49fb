//! Our copy of a head's picture: what all its viewers are shown.

use frames::{Damage, Format, Rect, View};

use crate::tiles::{TILE, Tiles};

/// Pixels of a picture; an 8K screen has as many. Stops a guest that makes a viewer hold and pack gigabytes
/// (CVE-2017-2633 was such a display server).
pub(crate) const MAX_PIXELS: u64 = 7680 * 4320;

/// A copy of a picture, as 0x00RRGGBB. All of it was read from the device or is black.
#[derive(Debug)]
pub(crate) struct Screen {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
    /// A row as it came, and as words; kept for their room.
    bytes: Vec<u8>,
    row: Vec<u32>,
}

impl Screen {
    /// Black; none when it would be too large to show.
    pub(crate) fn black(width: u32, height: u32) -> Option<Self> {
        let area = u64::from(width) * u64::from(height);
        let room = || vec![0; width as usize];
        (area <= MAX_PIXELS).then(|| Self {
            width,
            height,
            pixels: vec![0; area as usize],
            bytes: vec![0; width as usize * Format::BYTES as usize],
            row: room(),
        })
    }

    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Reads what was damaged, each pixel once, and marks the tiles that really changed.
    pub(crate) fn read(&mut self, view: &View, damage: &Damage, changed: &mut Tiles) {
        for rect in damage.rects() {
            let rect = rect.clipped(self.width, self.height);
            for y in rect.y..rect.bottom() {
                self.read_row(view, y, rect.x, rect.right(), changed);
            }
        }
    }

    fn read_row(&mut self, view: &View, y: u32, left: u32, right: u32, changed: &mut Tiles) {
        let width = (right - left) as usize;
        let bytes = &mut self.bytes[..width * Format::BYTES as usize];
        let read = view.read_row(left, y, bytes);
        let row = &mut self.row[..read];
        view.geometry().format.unpack_xrgb(bytes, row);
        let start = y as usize * self.width as usize + left as usize;
        let old = &mut self.pixels[start..start + read];
        if old == row {
            return;
        }
        let mut x = left;
        let (mut old, mut new) = (old, &row[..]);
        while !new.is_empty() {
            let length = ((TILE - x % TILE) as usize).min(new.len());
            let (old_part, old_rest) = old.split_at_mut(length);
            let (new_part, new_rest) = new.split_at(length);
            if old_part != new_part {
                old_part.copy_from_slice(new_part);
                changed.mark_pixel(x, y);
            }
            x += length as u32;
            (old, new) = (old_rest, new_rest);
        }
    }

    /// Appends the pixels of a rectangle; what lies outside the picture is black.
    pub(crate) fn copy(&self, rect: Rect, out: &mut Vec<u32>) {
        let inside = rect.clipped(self.width, self.height);
        for y in rect.y..rect.bottom() {
            let start = out.len();
            if y < self.height && !inside.is_empty() {
                let at = y as usize * self.width as usize + inside.x as usize;
                out.extend_from_slice(&self.pixels[at..at + inside.width as usize]);
            }
            out.resize(start + rect.width as usize, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2017_2633_sizes_that_would_eat_the_memory_are_not_shown() {
        assert!(Screen::black(8192, 8192).is_none());
        assert!(Screen::black(u32::MAX, u32::MAX).is_none());
        assert!(Screen::black(16384, 1).is_some());
        assert_eq!(Screen::black(7680, 4320).unwrap().size(), (7680, 4320));
    }

    #[test]
    fn what_is_copied_from_outside_is_black() {
        let mut screen = Screen::black(3, 2).unwrap();
        screen.pixels = vec![1, 2, 3, 4, 5, 6];
        let copy = |rect| {
            let mut out = Vec::new();
            screen.copy(rect, &mut out);
            out
        };
        assert_eq!(copy(Rect::new(1, 0, 2, 2)), [2, 3, 5, 6]);
        assert_eq!(copy(Rect::new(2, 1, 2, 2)), [6, 0, 0, 0]);
        assert_eq!(copy(Rect::new(9, 9, 2, 1)), [0, 0]);
    }
}
