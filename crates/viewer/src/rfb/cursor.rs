//! A cursor as a client's rectangle, or drawn into the picture. Ours are 0xAARRGGBB with premultiplied alpha.

use frames::Rect;

use super::encodings::{self, CursorKind};
use super::message;
use super::pixel::Translator;

/// A cursor's picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CursorImage {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) hot_x: u32,
    pub(crate) hot_y: u32,
    /// 0xAARRGGBB, premultiplied.
    pub(crate) pixels: Vec<u32>,
}

impl CursorImage {
    /// From the bytes of the seam.
    pub(crate) fn new(cursor: frames::Cursor) -> Self {
        let frames::Cursor { width, height, hot_x, hot_y, pixels: bytes } = cursor;
        let mut pixels = vec![0; (width * height) as usize];
        frames::Format::B8G8R8A8.unpack_argb(&bytes, &mut pixels);
        Self { width, height, hot_x, hot_y, pixels }
    }

    /// The pixels it covers when its first one is at (x, y), as far as they are on a screen of that size.
    pub(crate) fn covers(&self, x: i32, y: i32, width: u32, height: u32) -> Rect {
        let span = |at: i32, length: u32, limit: u32| {
            let (start, limit) = (i64::from(at), i64::from(limit));
            let (from, to) = (start.clamp(0, limit), (start + i64::from(length)).clamp(0, limit));
            (from as u32, (to - from) as u32)
        };
        let (left, columns) = span(x, self.width, width);
        let (top, rows) = span(y, self.height, height);
        Rect::new(left, top, columns, rows)
    }

    /// Draws the part of the cursor that lies in `rect` of the screen over `pixels`, the picture of that rectangle.
    pub(crate) fn draw(&self, x: i32, y: i32, rect: Rect, pixels: &mut [u32]) {
        let covered = self.covers(x, y, rect.right(), rect.bottom());
        for row in covered.y.max(rect.y)..covered.bottom() {
            for column in covered.x.max(rect.x)..covered.right() {
                let (dx, dy) = (i64::from(column) - i64::from(x), i64::from(row) - i64::from(y));
                let over = self.pixels.get((dy * i64::from(self.width) + dx) as usize);
                let under = pixels.get_mut(((row - rect.y) * rect.width + column - rect.x) as usize);
                if let (Some(over), Some(under)) = (over, under) {
                    *under = blend(*over, *under);
                }
            }
        }
    }

    /// Appends the rectangle that tells it to a client.
    pub(crate) fn append(&self, kind: CursorKind, translator: &Translator, out: &mut Vec<u8>) {
        let encoding = match kind {
            CursorKind::Drawn => return,
            CursorKind::Mask => encodings::CURSOR,
            CursorKind::Alpha => encodings::CURSOR_WITH_ALPHA,
            CursorKind::Vmware => encodings::VMWARE_CURSOR,
        };
        message::rect(Rect::new(self.hot_x, self.hot_y, self.width, self.height), encoding, out);
        match kind {
            CursorKind::Drawn => {}
            CursorKind::Alpha => {
                out.extend(encodings::RAW.to_be_bytes());
                self.pixels.iter().for_each(|pixel| out.extend(pixel.rotate_left(8).to_be_bytes()));
            }
            CursorKind::Vmware => {
                out.extend([1, 0]);
                self.pixels.iter().for_each(|pixel| out.extend(straight(*pixel).rotate_left(8).to_be_bytes()));
            }
            CursorKind::Mask => {
                let colours: Vec<u32> = self.pixels.iter().map(|pixel| straight(*pixel) & 0x00ff_ffff).collect();
                translator.append(&colours, out);
                for row in self.pixels.chunks(self.width.max(1) as usize) {
                    for pixels in row.chunks(8) {
                        let bit = |(at, pixel): (usize, &u32)| u8::from(pixel >> 24 >= 0x80) << (7 - at);
                        out.push(pixels.iter().enumerate().map(bit).fold(0, |mask, bit| mask | bit));
                    }
                }
            }
        }
    }
}

/// A cursor that cannot be seen, for clients that have one.
pub(crate) fn hidden() -> CursorImage {
    CursorImage { width: 1, height: 1, hot_x: 0, hot_y: 0, pixels: vec![0] }
}

fn parts(pixel: u32) -> [u32; 4] {
    pixel.to_be_bytes().map(u32::from)
}

fn pixel(parts: [u32; 4]) -> u32 {
    u32::from_be_bytes(parts.map(|part| part.min(255) as u8))
}

/// Premultiplied `over` on opaque `under`.
fn blend(over: u32, under: u32) -> u32 {
    let ([alpha, r, g, b], [_, red, green, blue]) = (parts(over), parts(under));
    let through = |part: u32| (part * (255 - alpha) + 127) / 255;
    pixel([0, r + through(red), g + through(green), b + through(blue)])
}

/// Colour and alpha, no longer multiplied.
pub(crate) fn straight(premultiplied: u32) -> u32 {
    match parts(premultiplied) {
        [0, ..] => 0,
        [alpha, red, green, blue] => {
            let divide = |part: u32| (part * 255 + alpha / 2) / alpha;
            pixel([alpha, divide(red), divide(green), divide(blue)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::rfb::pixel::PixelFormat;

    /// Two pixels: half of white, and opaque red; it points at the second.
    fn cursor() -> CursorImage {
        CursorImage { width: 2, height: 1, hot_x: 1, hot_y: 0, pixels: vec![0x8080_8080, 0xffff_0000] }
    }

    #[test]
    fn a_half_transparent_cursor_is_blended_where_it_is() {
        let mut pixels = vec![0; 4 * 2];
        cursor().draw(11, 21, Rect::new(10, 20, 4, 2), &mut pixels);
        assert_eq!(pixels, [0, 0, 0, 0, 0, 0x0080_8080, 0x00ff_0000, 0]);
        let mut white = vec![0x00ff_ffff];
        cursor().draw(0, 0, Rect::new(0, 0, 1, 1), &mut white);
        assert_eq!(white, [0x00ff_ffff]);
    }

    #[test]
    fn a_cursor_far_outside_draws_nothing() {
        let mut pixels = vec![7; 4];
        for (x, y) in [(i32::MIN, 0), (i32::MAX, i32::MAX), (0, i32::MIN), (-2, 0), (3, 0)] {
            cursor().draw(x, y, Rect::new(0, 0, 2, 2), &mut pixels);
            assert!(cursor().covers(x, y, 2, 2).is_empty());
        }
        assert_eq!(pixels, [7; 4]);
        assert_eq!(cursor().covers(-1, 0, 2, 2), Rect::new(0, 0, 1, 1), "half of it");
    }

    #[test]
    fn every_kind_has_its_bytes() {
        let bytes = |kind| {
            let mut out = Vec::new();
            cursor().append(kind, &Translator::new(PixelFormat::NATIVE), &mut out);
            out.split_off(out.len().min(12))
        };
        assert!(bytes(CursorKind::Drawn).is_empty());
        assert_eq!(bytes(CursorKind::Mask), [255, 255, 255, 255, 0, 0, 255, 255, 0b1100_0000]);
        assert_eq!(bytes(CursorKind::Alpha), [0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 255, 0, 0, 255]);
        assert_eq!(bytes(CursorKind::Vmware), [1, 0, 255, 255, 255, 0x80, 255, 0, 0, 255]);
    }
}
