//! Finds out what a guest drew: nobody says, so rows are looked at.
//!
//! The image that is shown is also what is compared with. A look reads each row of the framebuffer once, so what is compared is
//! what is shown, whatever the guest writes meanwhile.

#[cfg(test)]
mod tests;

use std::io;

use protocol::{Format, Rect};

use super::Framebuffer;
use super::mode::{Depth, Mode};
use crate::display::Frame;
use crate::shared::SharedImage;

/// Every so many rows are looked at when nothing calls for more. Letters are higher than that.
const EVERY: u32 = 8;
/// Rectangles that are told of one look.
const RUNS: usize = 16;
/// Bytes of a row that count as one when it is told what changed.
const BLOCK: usize = 64;

/// How much of a picture is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    All,
    /// One of [`EVERY`] rows, the next ones each time; all of them when one of those differs.
    Some,
}

/// What looks cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Rows of the framebuffer that were read.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the image that were written.
    pub copied: u64,
}

/// The picture of a mode, as it was found in the framebuffer.
#[derive(Debug)]
pub(crate) struct Picture {
    mode: Mode,
    image: SharedImage,
    /// Which of [`EVERY`] rows are looked at next.
    phase: u32,
    /// First block that changed of each row, and the one after the last; empty when nothing did.
    changed: Vec<(usize, usize)>,
    runs: Vec<Rect>,
    // For one row: as it is in the framebuffer, as it is to be shown, as it is shown.
    raw: Vec<u8>,
    row: Vec<u8>,
    shown: Vec<u8>,
}

impl Picture {
    /// A black picture, of which nothing was looked at yet.
    pub fn new(mode: Mode) -> io::Result<Self> {
        let row = vec![0; mode.width as usize * Format::BYTES_PER_PIXEL as usize];
        Ok(Self {
            mode,
            image: SharedImage::new(mode.image_bytes())?,
            phase: 0,
            changed: vec![(0, 0); mode.height as usize],
            runs: Vec::new(),
            raw: vec![0; mode.row_bytes() as usize],
            shown: row.clone(),
            row,
        })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Another mode, if its pictures look the same in memory: the guest shows another part of its framebuffer.
    pub fn turn_to(&mut self, mode: Mode) -> bool {
        let kind = |mode: &Mode| (mode.width, mode.height, mode.depth.format(), mode.row_bytes());
        let same = kind(&self.mode) == kind(&mode);
        if same {
            self.mode = mode;
        }
        same
    }

    /// What is shown.
    pub fn frame(&self) -> Option<Frame<'_>> {
        let Mode { width, height, depth, .. } = self.mode;
        let stride = width * Format::BYTES_PER_PIXEL;
        Some(Frame { format: depth.format(), width, height, stride, offset: 0, pixels: self.image.pixels()? })
    }

    /// What the last look found changed.
    pub fn runs(&self) -> &[Rect] {
        &self.runs
    }

    /// Looks for what changed since the last look.
    pub fn look(&mut self, framebuffer: &Framebuffer, rows: Rows, cost: &mut Cost) {
        let mode = self.mode;
        self.changed.fill((0, 0));
        let phase = self.phase;
        let mut any = false;
        if rows == Rows::Some {
            self.phase = (phase + 1) % EVERY;
            for row in (phase..mode.height).step_by(EVERY as usize) {
                any |= self.look_at(framebuffer, row, cost);
            }
        }
        if any || rows == Rows::All {
            for row in (0..mode.height).filter(|row| rows == Rows::All || row % EVERY != phase) {
                any |= self.look_at(framebuffer, row, cost);
            }
        }
        self.runs.clear();
        if any {
            self.collect_runs();
        }
    }

    /// Looks at one row, and returns whether it changed.
    fn look_at(&mut self, framebuffer: &Framebuffer, row: u32, cost: &mut Cost) -> bool {
        let Self { mode, image, raw, shown, .. } = self;
        framebuffer.read(mode.offset + u64::from(row) * mode.stride, raw);
        cost.rows += 1;
        cost.bytes += raw.len() as u64;
        let new = match mode.depth {
            Depth::Four(_) => &raw[..],
            Depth::Two { big_endian } => {
                widen(raw, big_endian, &mut self.row);
                &self.row[..]
            }
        };
        let Ok(target) = image.slice().subslice(row as usize * new.len(), new.len()) else { return false };
        target.copy_to(shown);
        if new == &shown[..] {
            return false;
        }
        let mut blocks = new.chunks(BLOCK).zip(shown.chunks(BLOCK));
        let first = blocks.position(|(new, shown)| new != shown).unwrap_or(0);
        let last = (first..new.len().div_ceil(BLOCK)).rev().find(|block| {
            let range = block * BLOCK..((block + 1) * BLOCK).min(new.len());
            new[range.clone()] != shown[range]
        });
        let end = last.unwrap_or(first) + 1;
        let range = first * BLOCK..(end * BLOCK).min(new.len());
        if let Ok(target) = target.subslice(range.start, range.len()) {
            target.copy_from(&new[range.clone()]);
        }
        cost.copied += range.len() as u64;
        self.changed[row as usize] = (first, end);
        true
    }

    /// Makes rectangles of the rows that changed: one for each run of them, or one around all when there are many.
    fn collect_runs(&mut self) {
        let pixels = BLOCK as u32 / Format::BYTES_PER_PIXEL;
        let mut around = Rect::default();
        for (y, (first, end)) in (0..).zip(&self.changed).filter(|(_, (first, end))| first < end) {
            let (x, right) = (*first as u32 * pixels, (*end as u32 * pixels).min(self.mode.width));
            let row = Rect::new(x, y, right - x, 1);
            around = around.union(&row);
            let room = self.runs.len() <= RUNS;
            match self.runs.last_mut().filter(|run| run.bottom() == u64::from(y)) {
                Some(run) => *run = run.union(&row),
                None if room => self.runs.push(row),
                None => {}
            }
        }
        if self.runs.len() > RUNS {
            self.runs.clear();
            self.runs.push(around);
        }
    }
}

/// Pixels of 5, 6 and 5 bits as four bytes: the largest value of a colour stays the largest.
fn widen(raw: &[u8], big_endian: bool, row: &mut [u8]) {
    for (two, four) in raw.as_chunks::<2>().0.iter().zip(row.as_chunks_mut::<4>().0) {
        let pixel = if big_endian { u16::from_be_bytes(*two) } else { u16::from_le_bytes(*two) };
        let (red, green, blue) = (pixel >> 11, pixel >> 5 & 0x3f, pixel & 0x1f);
        *four = [blue << 3 | blue >> 2, green << 2 | green >> 4, red << 3 | red >> 2, 0].map(|colour| colour as u8);
    }
}
