//! What a window shows: a copy of a head's picture, an overlay, and what of both is not on the screen yet.

use std::collections::VecDeque;

use frames::{Damage, Rect};

use super::overlay::Overlay;
use super::placement::Placement;

/// Pixels that are copied at a time: they stay in a core's cache on their way, and others wait for the hub so long.
const STRIP: u32 = 128 << 10;

/// Buffers that a window takes turns with, at most; what is older than that is drawn anew.
const BUFFERS: usize = 3;

/// What was done, for tests: work is what these numbers say, not how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Pixels of the head that were copied.
    pub(super) copied: u64,
    /// Pixels of the window that were made.
    pub(super) drawn: u64,
    /// Times that something was.
    pub(super) shown: u64,
}

/// A window's picture.
#[derive(Debug)]
pub(super) struct Picture {
    size: (u32, u32),
    pixels: Vec<u32>,
    placement: Placement,
    overlay: Option<(Overlay, Rect)>,
    /// What must be drawn, in pixels of the window.
    dirty: Damage,
    /// What was drawn the last times, the newest first.
    drawn: VecDeque<Damage>,
    strip: Vec<u32>,
    pub(super) counts: Counts,
}

impl Picture {
    /// Black.
    pub(super) fn new(size: (u32, u32), window: (u32, u32)) -> Self {
        let mut picture = Self {
            size,
            pixels: Vec::new(),
            placement: Placement::new(size, window),
            overlay: None,
            dirty: Damage::none(),
            drawn: VecDeque::new(),
            strip: Vec::new(),
            counts: Counts::default(),
        };
        picture.change_size(size);
        picture
    }

    pub(super) fn size(&self) -> (u32, u32) {
        self.size
    }

    pub(super) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// True when something is not on the screen.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The head has another size; it is black until its pixels come.
    pub(super) fn change_size(&mut self, size: (u32, u32)) {
        self.size = size;
        self.pixels.clear();
        self.pixels.resize(size.0 as usize * size.1 as usize, 0);
        self.place(self.placement.window());
    }

    /// The window has another size.
    pub(super) fn change_window(&mut self, width: u32, height: u32) {
        if self.placement.window() != Rect::new(0, 0, width, height) {
            self.place(Rect::new(0, 0, width, height));
        }
    }

    fn place(&mut self, window: Rect) {
        self.placement = Placement::new(self.size, (window.width, window.height));
        if let Some((overlay, place)) = &mut self.overlay {
            *place = overlay.place(window.width, window.height);
        }
        self.dirty = Damage::of(window);
    }

    /// Something lies over the picture from now on, or nothing.
    pub(super) fn set_overlay(&mut self, overlay: Option<Overlay>) {
        if let Some((_, place)) = self.overlay.take() {
            self.spoil(place);
        }
        if let Some(overlay) = overlay {
            let window = self.placement.window();
            let place = overlay.place(window.width, window.height);
            self.spoil(place);
            self.overlay = Some((overlay, place));
        }
    }

    /// The overlay and where it is.
    pub(super) fn overlay(&self) -> Option<(&Overlay, Rect)> {
        self.overlay.as_ref().map(|(overlay, place)| (overlay, *place))
    }

    /// A part of the window must be drawn.
    pub(super) fn spoil(&mut self, part: Rect) {
        let window = self.placement.window();
        self.dirty.add(part.clipped(window.width, window.height));
    }

    /// Takes in parts of the head that changed; `copy` gives the pixels of a rectangle.
    pub(super) fn take(&mut self, rects: &[Rect], mut copy: impl FnMut(Rect, &mut Vec<u32>)) {
        let (width, height) = self.size;
        for rect in rects.iter().map(|rect| rect.clipped(width, height)) {
            if rect.is_empty() {
                continue;
            }
            let rows = (STRIP / rect.width).max(1);
            for y in (rect.y..rect.bottom()).step_by(rows as usize) {
                let strip = Rect { y, height: rows.min(rect.bottom() - y), ..rect };
                copy(strip, &mut self.strip);
                let lines = self.strip.chunks_exact(strip.width as usize);
                for (line, into) in lines.zip(self.pixels.chunks_exact_mut(width as usize).skip(y as usize)) {
                    into[rect.x as usize..rect.right() as usize].copy_from_slice(line);
                }
                self.counts.copied += strip.area();
            }
            self.spoil(self.placement.covers(rect));
        }
    }

    /// What must be drawn into a buffer that was shown `age` pictures ago, 0 for one that holds nothing of ours. Empty: there is
    /// no news.
    pub(super) fn begin(&mut self, age: u8) -> Damage {
        if self.dirty.is_empty() {
            return Damage::none();
        }
        self.drawn.truncate(BUFFERS);
        self.drawn.push_front(std::mem::take(&mut self.dirty));
        self.counts.shown += 1;
        let window = self.placement.window();
        let newest = self.drawn.iter().take(usize::from(age));
        if age == 0 || newest.len() < usize::from(age) {
            return Damage::of(window);
        }
        let mut damage = Damage::none();
        let rects = newest.flat_map(Damage::rects);
        rects.for_each(|rect| damage.add(rect.clipped(window.width, window.height)));
        damage
    }

    /// Makes a part of the window, row by row.
    pub(super) fn draw(&mut self, part: Rect, row: &mut dyn FnMut(u32, &[u32])) {
        let window = self.placement.window();
        let part = part.clipped(window.width, window.height);
        self.counts.drawn += part.area();
        let Some((overlay, place)) = &self.overlay else { return self.placement.draw(&self.pixels, part, row) };
        let mut line = Vec::new();
        self.placement.draw(&self.pixels, part, &mut |y, pixels| {
            line.clear();
            line.extend_from_slice(pixels);
            overlay.draw(*place, part.x, y, &mut line);
            row(y, &line);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen with some buffers, like a compositor's.
    struct Screen {
        width: u32,
        buffers: Vec<(Vec<u32>, u8)>,
        seen: Vec<u32>,
    }

    impl Screen {
        fn new(width: u32, height: u32, buffers: usize) -> Self {
            let pixels = vec![0xdead_beef; (width * height) as usize];
            Self { width, buffers: vec![(pixels.clone(), 0); buffers], seen: pixels }
        }

        fn show(&mut self, picture: &mut Picture) -> Damage {
            let (mut pixels, age) = self.buffers.remove(0);
            let damage = picture.begin(age);
            if damage.is_empty() {
                self.buffers.insert(0, (pixels, age));
                return damage;
            }
            for rect in damage.rects() {
                picture.draw(*rect, &mut |y, row| {
                    let start = (y * self.width + rect.x) as usize;
                    pixels[start..start + row.len()].copy_from_slice(row);
                });
            }
            self.seen = pixels.clone();
            self.buffers.iter_mut().for_each(|(_, age)| *age += u8::from(*age > 0));
            self.buffers.push((pixels, 1));
            damage
        }
    }

    fn fill(colour: u32) -> impl FnMut(Rect, &mut Vec<u32>) {
        move |rect, pixels| {
            pixels.clear();
            pixels.resize(rect.area() as usize, colour);
        }
    }

    #[test]
    fn what_changed_is_copied_and_drawn_and_nothing_else() {
        let mut picture = Picture::new((640, 480), (640, 480));
        let mut screen = Screen::new(640, 480, 1);
        picture.take(&[Rect::new(0, 0, 640, 480)], fill(1));
        screen.show(&mut picture);
        assert_eq!(picture.counts, Counts { copied: 640 * 480, drawn: 640 * 480, shown: 1 });
        picture.take(&[Rect::new(32, 32, 32, 32), Rect::new(608, 448, 64, 64)], fill(2));
        let damage = screen.show(&mut picture);
        assert_eq!(damage.rects(), [Rect::new(32, 32, 32, 32), Rect::new(608, 448, 32, 32)]);
        assert_eq!(picture.counts, Counts { copied: 640 * 480 + 2 * 1024, drawn: 640 * 480 + 2 * 1024, shown: 2 });
        assert_eq!(screen.seen.iter().filter(|pixel| **pixel == 2).count(), 2 * 1024);
    }

    #[test]
    fn without_news_nothing_is_done() {
        let mut picture = Picture::new((640, 480), (800, 600));
        let mut screen = Screen::new(800, 600, 2);
        screen.show(&mut picture);
        let before = picture.counts;
        for _ in 0..10 {
            assert!(!picture.is_dirty() && screen.show(&mut picture).is_empty());
            picture.take(&[], fill(9));
            picture.change_window(800, 600);
            picture.set_overlay(None);
        }
        assert_eq!(picture.counts, before);
    }

    #[test]
    fn buffers_that_take_turns_all_show_the_newest() {
        for buffers in 1..=5 {
            let mut picture = Picture::new((64, 64), (64, 64));
            let mut screen = Screen::new(64, 64, buffers);
            for turn in 0..20 {
                let part = Rect::new(turn * 7 % 60, turn * 11 % 60, 3, 2);
                picture.take(&[part], fill(turn + 1));
                screen.show(&mut picture);
                assert_eq!(screen.seen, picture.pixels, "{buffers} buffers, turn {turn}");
            }
        }
    }

    #[test]
    fn an_overlay_comes_and_goes_and_leaves_nothing_behind() {
        let mut picture = Picture::new((640, 480), (700, 500));
        let mut screen = Screen::new(700, 500, 2);
        picture.take(&[Rect::new(0, 0, 640, 480)], fill(0x11_2233));
        screen.show(&mut picture);
        let before = screen.seen.clone();
        picture.set_overlay(Some(Overlay::notice("Somebody else controls", 1)));
        let place = picture.overlay().unwrap().1;
        let damage = screen.show(&mut picture);
        assert_ne!(screen.seen, before);
        assert!(damage.rects().len() == 1 || screen.buffers[0].1 == 0);
        picture.take(&[Rect::new(0, 0, 640, 480)], fill(0x44_5566));
        screen.show(&mut picture);
        let shown = (place.y * 700 + place.x) as usize;
        assert_ne!(screen.seen[shown], 0x44_5566, "it lies over what moves below");
        picture.take(&[Rect::new(0, 0, 640, 480)], fill(0x11_2233));
        picture.set_overlay(None);
        screen.show(&mut picture);
        assert_eq!(screen.seen, before);
    }

    #[test]
    fn another_size_is_drawn_anew() {
        let mut picture = Picture::new((64, 48), (64, 48));
        let mut screen = Screen::new(64, 48, 1);
        picture.take(&[Rect::new(0, 0, 64, 48)], fill(5));
        screen.show(&mut picture);
        picture.change_size((32, 24));
        picture.take(&[Rect::new(0, 0, 32, 24)], fill(6));
        assert_eq!(screen.show(&mut picture).rects(), [Rect::new(0, 0, 64, 48)]);
        assert!(screen.seen.iter().all(|pixel| *pixel == 6));
        let mut larger = Screen::new(128, 48, 1);
        picture.change_window(128, 48);
        larger.show(&mut picture);
        assert_eq!(larger.seen.iter().filter(|pixel| **pixel == 6).count(), 64 * 48);
    }
}
