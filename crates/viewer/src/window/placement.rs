//! Where a picture lies in a window, and how its pixels become the window's.

use frames::Rect;

use crate::hub;

/// Colour of what is beside the picture.
const BESIDE: u32 = 0;

/// Sixteenths of the window's length that may stay black for the sake of whole pixels.
const SLACK: u32 = 1;

/// Where a picture lies in a window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placement {
    window: (u32, u32),
    picture: (u32, u32),
    /// The picture's place in the window.
    target: Rect,
    way: Way,
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Each pixel becomes a square of that side.
    Whole(u32),
    /// Pixels are mixed of their neighbours.
    Smooth(Axis, Axis),
}

impl Placement {
    pub(super) fn new(picture: (u32, u32), window: (u32, u32)) -> Self {
        let picture = (picture.0.max(1), picture.1.max(1));
        let whole = (window.0 / picture.0).min(window.1 / picture.1);
        let slack = |window: u32, picture: u32| (window - picture * whole).saturating_mul(16) <= window * SLACK;
        let (size, way) = if whole > 0 && (slack(window.0, picture.0) || slack(window.1, picture.1)) {
            ((picture.0 * whole, picture.1 * whole), Way::Whole(whole))
        } else {
            let size = fit(picture, window);
            (size, Way::Smooth(Axis::new(picture.0, size.0), Axis::new(picture.1, size.1)))
        };
        let target = Rect::new((window.0 - size.0) / 2, (window.1 - size.1) / 2, size.0, size.1);
        Self { window, picture, target, way }
    }

    /// All of the window.
    pub(super) fn window(&self) -> Rect {
        Rect::new(0, 0, self.window.0, self.window.1)
    }

    /// Window pixels for each pixel of the picture, rounded, at least one.
    pub(super) fn zoom(&self) -> u32 {
        ((self.target.width + self.picture.0 / 2) / self.picture.0).max(1)
    }

    /// The part of the window that a part of the picture has to do with.
    pub(super) fn covers(&self, part: Rect) -> Rect {
        let part = part.clipped(self.picture.0, self.picture.1);
        if part.is_empty() {
            return Rect::default();
        }
        let (x, y) = match &self.way {
            Way::Whole(side) => ((part.x * side, part.right() * side), (part.y * side, part.bottom() * side)),
            Way::Smooth(columns, rows) => (columns.covers(part.x, part.right()), rows.covers(part.y, part.bottom())),
        };
        Rect::new(self.target.x + x.0, self.target.y + y.0, x.1 - x.0, y.1 - y.0)
    }

    /// The share of the head at a place of the window; beside the picture it is its nearest edge.
    pub(super) fn share(&self, x: f64, y: f64) -> (u16, u16) {
        let along = |at: f64, start: u32, length: u32, picture: u32| {
            let part = (at - f64::from(start)) / f64::from(length.max(1));
            // As a pixel of the picture: what is not a number, or below zero, is the first.
            hub::share((part * f64::from(picture)) as u32, picture)
        };
        let Rect { x: left, y: top, width, height } = self.target;
        (along(x, left, width, self.picture.0), along(y, top, height, self.picture.1))
    }

    /// True when a place of the window shows the picture.
    pub(super) fn is_inside(&self, x: f64, y: f64) -> bool {
        let within = |at: f64, start: u32, end: u32| at >= f64::from(start) && at < f64::from(end);
        within(x, self.target.x, self.target.right()) && within(y, self.target.y, self.target.bottom())
    }

    /// Makes a part of the window, row by row, of the picture's pixels.
    pub(super) fn draw(&self, pixels: &[u32], part: Rect, row: &mut dyn FnMut(u32, &[u32])) {
        let part = part.clipped(self.window.0, self.window.1);
        let target = self.target;
        let (left, right) = (part.x.max(target.x), part.right().min(target.right()));
        let mut line = vec![BESIDE; part.width as usize];
        let mut mixed = Vec::new();
        for y in part.y..part.bottom() {
            if y < target.y || y >= target.bottom() || left >= right {
                line.fill(BESIDE);
                row(y, &line);
                continue;
            }
            let inside = (left - part.x) as usize..(right - part.x) as usize;
            let (from, to) = (left - target.x, right - target.x);
            match &self.way {
                Way::Whole(1) if inside.len() == line.len() => {
                    let source = self.row(pixels, y - target.y);
                    row(y, source.get(from as usize..to as usize).unwrap_or(&line));
                    continue;
                }
                Way::Whole(side) => {
                    let source = self.row(pixels, (y - target.y) / side);
                    repeat(source, from, *side, &mut line[inside]);
                }
                Way::Smooth(columns, rows) => {
                    let (above, below, weight) = rows.mix(y - target.y);
                    let (above, below) = (self.row(pixels, above), self.row(pixels, below));
                    columns.fill(above, below, weight, from, &mut mixed, &mut line[inside]);
                }
            }
            row(y, &line);
        }
    }

    fn row<'a>(&self, pixels: &'a [u32], y: u32) -> &'a [u32] {
        let start = y as usize * self.picture.0 as usize;
        pixels.get(start..start + self.picture.0 as usize).unwrap_or_default()
    }
}

/// The largest size of that shape that fits.
fn fit(picture: (u32, u32), window: (u32, u32)) -> (u32, u32) {
    let scaled = |length: u32, to: u32, of: u32| {
        let scaled = (u64::from(length) * u64::from(to) + u64::from(of) / 2) / u64::from(of);
        scaled.max(1) as u32
    };
    if u64::from(window.0) * u64::from(picture.1) <= u64::from(window.1) * u64::from(picture.0) {
        (window.0, scaled(picture.1, window.0, picture.0).min(window.1))
    } else {
        (scaled(picture.0, window.1, picture.1).min(window.0), window.1)
    }
}

/// Each pixel `side` times, from window pixel `from` of the row on.
fn repeat(source: &[u32], from: u32, side: u32, line: &mut [u32]) {
    for (at, pixel) in (from..).zip(line) {
        *pixel = source.get((at / side) as usize).copied().unwrap_or(BESIDE);
    }
}

/// One axis of a smooth picture: between which two pixels each of the window's lies, and how near to the second, in 256ths.
#[derive(Debug, PartialEq, Eq)]
struct Axis(Vec<(u32, u32, u32)>);

impl Axis {
    fn new(picture: u32, length: u32) -> Self {
        let last = picture - 1;
        let place = |at: u32| {
            // The middle of a window's pixel, on the picture's scale with 8 bits behind the point; a pixel's middle is its place.
            let middle = (2 * u64::from(at) + 1) * u64::from(picture) * 128 / u64::from(length);
            let place = middle.saturating_sub(128).min(u64::from(last) << 8);
            let first = (place >> 8) as u32;
            (first, (first + 1).min(last), (place & 255) as u32)
        };
        Self((0..length).map(place).collect())
    }

    fn mix(&self, at: u32) -> (u32, u32, u32) {
        self.0.get(at as usize).copied().unwrap_or_default()
    }

    /// The window's pixels that are mixed of the picture's from `start` to `end`.
    fn covers(&self, start: u32, end: u32) -> (u32, u32) {
        let first = self.0.partition_point(|(_, second, _)| *second < start);
        let last = self.0.partition_point(|(first, ..)| *first < end);
        (first as u32, last.max(first) as u32)
    }

    /// Mixes two rows of the picture, then neighbours in what came of it.
    fn fill(&self, above: &[u32], below: &[u32], weight: u32, from: u32, mixed: &mut Vec<u32>, line: &mut [u32]) {
        let Some(columns) = self.0.get(from as usize..from as usize + line.len()) else { return };
        let (Some((first, ..)), Some((_, last, _))) = (columns.first(), columns.last()) else { return };
        let span = *first as usize..*last as usize + 1;
        let (Some(above), Some(below)) = (above.get(span.clone()), below.get(span)) else { return };
        mixed.clear();
        mixed.extend(above.iter().zip(below).map(|(above, below)| mix(*above, *below, weight)));
        for (pixel, (left, right, weight)) in line.iter_mut().zip(columns) {
            let (left, right) = ((left - first) as usize, (right - first) as usize);
            if let (Some(left), Some(right)) = (mixed.get(left), mixed.get(right)) {
                *pixel = mix(*left, *right, *weight);
            }
        }
    }
}

/// Two colours, `weight` 256ths of the second; red and blue at once.
#[inline]
fn mix(one: u32, two: u32, weight: u32) -> u32 {
    let both = |mask: u32| {
        let sum = (one & mask).wrapping_mul(256 - weight).wrapping_add((two & mask).wrapping_mul(weight));
        sum >> 8 & mask
    };
    both(0x00ff_00ff) | both(0x0000_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn picture(width: u32, height: u32) -> Vec<u32> {
        (0..width * height).map(|at| at.wrapping_mul(0x9e37_79b9) >> 8).collect()
    }

    fn draw(placement: &Placement, pixels: &[u32], part: Rect, out: &mut [u32]) {
        let (width, part) = (placement.window.0, part.clipped(placement.window.0, placement.window.1));
        placement.draw(pixels, part, &mut |y, row| {
            assert_eq!(row.len(), part.width as usize);
            let start = (y * width + part.x) as usize;
            out[start..start + row.len()].copy_from_slice(row);
        });
    }

    fn all(placement: &Placement, pixels: &[u32]) -> Vec<u32> {
        let mut out = vec![0xdead_beef; (placement.window.0 * placement.window.1) as usize];
        draw(placement, pixels, placement.window(), &mut out);
        out
    }

    #[test]
    fn a_picture_of_the_windows_size_is_shown_as_it_is() {
        let placement = Placement::new((7, 5), (7, 5));
        assert_eq!(placement.way, Way::Whole(1));
        assert_eq!(all(&placement, &picture(7, 5)), picture(7, 5));
    }

    #[test]
    fn a_window_that_is_a_little_larger_keeps_whole_pixels_in_its_middle() {
        let placement = Placement::new((1280, 800), (1283, 820));
        assert_eq!((&placement.way, placement.target), (&Way::Whole(1), Rect::new(1, 10, 1280, 800)));
        let twice = Placement::new((1280, 800), (2560, 1700));
        assert_eq!((&twice.way, twice.target), (&Way::Whole(2), Rect::new(0, 50, 2560, 1600)));
        assert_eq!(twice.zoom(), 2);
    }

    #[test]
    fn other_windows_show_all_of_it_in_its_shape() {
        for (window, target) in [
            ((1600, 1200), Rect::new(0, 100, 1600, 1000)),
            ((640, 1000), Rect::new(0, 300, 640, 400)),
            ((2000, 500), Rect::new(600, 0, 800, 500)),
            ((1, 1), Rect::new(0, 0, 1, 1)),
        ] {
            let placement = Placement::new((1280, 800), window);
            assert_eq!(placement.target, target, "{window:?}");
            assert!(matches!(placement.way, Way::Smooth(..)));
        }
    }

    #[test]
    fn whole_pixels_become_squares_and_what_is_beside_them_is_black() {
        let placement = Placement::new((2, 1), (4, 4));
        assert_eq!(all(&placement, &[1, 2]), [0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn half_the_size_is_the_mean_of_four() {
        let pixels = [0x10_2030, 0x30_4050, 0x50_6070, 0x70_8090];
        assert_eq!(all(&Placement::new((2, 2), (1, 1)), &pixels), [0x40_5060]);
    }

    #[test]
    fn the_pointer_is_where_the_picture_is() {
        let placement = Placement::new((100, 50), (200, 200));
        assert_eq!(placement.target, Rect::new(0, 50, 200, 100));
        assert_eq!(placement.share(0., 50.), (0, 0));
        assert_eq!(placement.share(199.9, 149.9), (u16::MAX, u16::MAX));
        assert_eq!(placement.share(100., 100.), (hub::share(50, 100), hub::share(25, 50)));
        assert_eq!(placement.share(-7., 1e9), (0, u16::MAX));
        assert_eq!(placement.share(f64::NAN, f64::NEG_INFINITY), (0, 0));
        assert!(placement.is_inside(0., 50.) && !placement.is_inside(0., 49.9) && !placement.is_inside(200., 60.));
    }

    proptest! {
        #[test]
        fn a_part_that_changed_leaves_the_window_as_if_all_were_drawn(
            (width, height) in (1..40u32, 1..40u32),
            window in (1..90u32, 1..90u32),
            (x, y, w, h) in (0..40u32, 0..40u32, 0..40u32, 0..40u32),
        ) {
            let placement = Placement::new((width, height), window);
            let before = picture(width, height);
            let changed = Rect::new(x, y, w, h).clipped(width, height);
            let mut after = before.clone();
            for row in changed.y..changed.bottom() {
                (changed.x..changed.right()).for_each(|column| after[(row * width + column) as usize] ^= 0x00ff_ffff);
            }
            let mut out = all(&placement, &before);
            draw(&placement, &after, placement.covers(changed), &mut out);
            prop_assert_eq!(out, all(&placement, &after));
        }

        #[test]
        fn the_picture_lies_in_the_window_and_touches_two_edges_nearly(
            picture in (1..20_000u32, 1..20_000u32), window in (1..20_000u32, 1..20_000u32),
        ) {
            let fitted = fit(picture, window);
            prop_assert!(fitted.0 <= window.0 && fitted.1 <= window.1);
            prop_assert!(fitted.0 == window.0 || fitted.1 == window.1);
            prop_assert!(fitted.0 > 0 && fitted.1 > 0);
        }

        #[test]
        fn a_mixture_lies_between_its_parts(one in 0..0x0100_0000u32, two in 0..0x0100_0000u32, weight in 0..256u32) {
            let mixed = mix(one, two, weight);
            for shift in [0, 8, 16] {
                let part = |pixel: u32| pixel >> shift & 255;
                let (low, high) = (part(one).min(part(two)), part(one).max(part(two)));
                prop_assert!((low..=high).contains(&part(mixed)));
            }
            prop_assert_eq!(mixed >> 24, 0);
        }
    }
}
