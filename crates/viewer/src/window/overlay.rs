//! What is said over the picture: a question, or a notice.

use frames::Rect;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const SIZE: RasterHeight = RasterHeight::Size20;
const WEIGHT: FontWeight = FontWeight::Regular;

const GROUND: u32 = 0x0020_2428;
const EDGE: u32 = 0x0060_7080;
const TEXT: u32 = 0x00f0_f0f0;
const BUTTON: u32 = 0x003a_5f8a;

/// Between the edge and the text.
const MARGIN: u32 = 14;
const LINE: u32 = 24;

/// Characters of a line; a name of a VM may be longer.
const COLUMNS: usize = 60;

/// What a person answers to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Close,
    Keep,
}

/// A box over the picture, made once.
#[derive(Debug)]
pub(super) struct Overlay {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
    buttons: Vec<(Rect, Answer)>,
    centred: bool,
}

impl Overlay {
    /// Asks whether the window shall close. `scale`: pixels for each of the box's.
    pub(super) fn close(name: &str, scale: u32) -> Self {
        let name = if name.is_empty() { "The virtual machine" } else { name };
        let lines = ["Close this window?".to_owned(), format!("{name} goes on without it.")];
        let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(40);
        let mut overlay = Self::empty(columns, lines.len() + 2);
        overlay.centred = true;
        for (row, line) in (0..).zip(&lines) {
            overlay.text(line, MARGIN, MARGIN + row * LINE, GROUND);
        }
        let top = MARGIN + (lines.len() as u32 + 1) * LINE - LINE / 2;
        let mut left = MARGIN;
        for (label, answer) in [("Close: Enter", Answer::Close), ("Keep: Esc", Answer::Keep)] {
            let button = Rect::new(left, top, width(label) + MARGIN, LINE + 8);
            overlay.fill(button, BUTTON);
            overlay.text(label, left + MARGIN / 2, top + 4, BUTTON);
            overlay.buttons.push((button, answer));
            left = button.right() + MARGIN;
        }
        overlay.scaled(scale)
    }

    /// Says something for a while.
    pub(super) fn notice(text: &str, scale: u32) -> Self {
        let mut overlay = Self::empty(text.chars().count(), 1);
        overlay.text(text, MARGIN, MARGIN, GROUND);
        overlay.scaled(scale)
    }

    fn empty(columns: usize, lines: usize) -> Self {
        let columns = columns.min(COLUMNS) as u32;
        let width = columns * get_raster_width(WEIGHT, SIZE) as u32 + 2 * MARGIN;
        let height = lines as u32 * LINE + 2 * MARGIN;
        let pixels = vec![GROUND; (width * height) as usize];
        let mut overlay = Self { width, height, pixels, buttons: Vec::new(), centred: false };
        for edge in [
            Rect::new(0, 0, width, 1),
            Rect::new(0, height - 1, width, 1),
            Rect::new(0, 0, 1, height),
            Rect::new(width - 1, 0, 1, height),
        ] {
            overlay.fill(edge, EDGE);
        }
        overlay
    }

    fn fill(&mut self, rect: Rect, colour: u32) {
        let rect = rect.clipped(self.width, self.height);
        let rows = self.pixels.chunks_exact_mut(self.width as usize);
        for row in rows.skip(rect.y as usize).take(rect.height as usize) {
            row[rect.x as usize..rect.right() as usize].fill(colour);
        }
    }

    fn text(&mut self, text: &str, left: u32, top: u32, ground: u32) {
        let step = get_raster_width(WEIGHT, SIZE) as u32;
        for (column, letter) in (0..).zip(text.chars().take(COLUMNS)) {
            let Some(raster) = get_raster(letter, WEIGHT, SIZE).or_else(|| get_raster('?', WEIGHT, SIZE)) else {
                continue;
            };
            for (y, row) in (top..).zip(raster.rows()) {
                for (x, strength) in (left + column * step..).zip(row) {
                    if x < self.width
                        && let Some(pixel) = self.pixels.get_mut((y * self.width + x) as usize)
                    {
                        *pixel = shade(ground, TEXT, (*strength).into());
                    }
                }
            }
        }
    }

    fn scaled(self, scale: u32) -> Self {
        if scale <= 1 {
            return self;
        }
        let (width, height) = (self.width * scale, self.height * scale);
        let pixel = |x: u32, y: u32| self.pixels[(y / scale * self.width + x / scale) as usize];
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| pixel(x, y))).collect();
        let grown = |rect: Rect| Rect::new(rect.x * scale, rect.y * scale, rect.width * scale, rect.height * scale);
        let buttons = self.buttons.iter().map(|(button, answer)| (grown(*button), *answer)).collect();
        Self { width, height, pixels, buttons, ..self }
    }

    /// Where it lies in a window; what does not fit is cut off.
    pub(super) fn place(&self, width: u32, height: u32) -> Rect {
        let x = width.saturating_sub(self.width) / 2;
        let y = if self.centred { height.saturating_sub(self.height) / 2 } else { 0 };
        Rect::new(x, y, self.width.min(width), self.height.min(height))
    }

    /// Draws what of it lies on a part of a row of the window that begins at `left`.
    pub(super) fn draw(&self, place: Rect, left: u32, y: u32, line: &mut [u32]) {
        if y < place.y || y >= place.bottom() {
            return;
        }
        let start = ((y - place.y) * self.width) as usize;
        let row = self.pixels.get(start..start + self.width as usize).unwrap_or_default();
        for (x, pixel) in (left..).zip(line) {
            if x >= place.x
                && let Some(over) = row.get((x - place.x) as usize)
            {
                *pixel = *over;
            }
        }
    }

    /// What a click on it answers.
    pub(super) fn answer(&self, place: Rect, x: f64, y: f64) -> Option<Answer> {
        let (x, y) = (x - f64::from(place.x), y - f64::from(place.y));
        if x < 0. || y < 0. {
            return None;
        }
        let pixel = Rect::new(x as u32, y as u32, 1, 1);
        self.buttons.iter().find(|(button, _)| button.contains(&pixel)).map(|(_, answer)| *answer)
    }
}

fn width(text: &str) -> u32 {
    text.chars().count() as u32 * get_raster_width(WEIGHT, SIZE) as u32
}

fn shade(ground: u32, text: u32, strength: u32) -> u32 {
    let part = |shift: u32| {
        let (ground, text) = (ground >> shift & 255, text >> shift & 255);
        ((ground * (255 - strength) + text * strength) / 255) << shift
    };
    part(16) | part(8) | part(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_click_on_a_button_answers_and_one_beside_it_does_not() {
        for scale in [1, 2] {
            let overlay = Overlay::close("vm", scale);
            let place = overlay.place(1280, 800);
            let at = |(x, y): (u32, u32)| overlay.answer(place, f64::from(place.x + x), f64::from(place.y + y));
            assert_eq!(overlay.buttons.len(), 2);
            for (button, answer) in &overlay.buttons {
                assert_eq!(at((button.x, button.y)), Some(*answer));
                assert_eq!(at((button.right() - 1, button.bottom() - 1)), Some(*answer));
                assert_eq!(at((button.right(), button.y)), None);
                assert!(overlay.place(1280, 800).width >= button.right());
            }
            assert_eq!(at((0, 0)), None);
            assert_eq!(overlay.answer(place, 0., 0.), None);
        }
    }

    #[test]
    fn long_names_and_foreign_letters_do_no_harm() {
        for name in ["", "\u{1F600}ñ\u{0}", &"x".repeat(5000)] {
            let overlay = Overlay::close(name, 2);
            assert!(overlay.width <= 2 * (COLUMNS as u32 * 13 + 2 * MARGIN));
            let place = overlay.place(5, 3);
            assert_eq!((place.width, place.height), (5, 3));
            overlay.draw(place, 0, 1, &mut [0; 5]);
        }
    }

    #[test]
    fn text_can_be_read_as_light_on_dark() {
        let overlay = Overlay::notice("Take control", 1);
        let light = overlay.pixels.iter().filter(|pixel| **pixel & 255 > 0xa0).count();
        assert!((200..3000).contains(&light), "{light} light pixels");
    }
}
