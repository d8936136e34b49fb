//! Which parts of a picture somebody has not seen yet: one bit for each tile of 32 by 32 pixels.

use std::ops::Range;

use frames::Rect;

/// Side of a tile. A typed character costs one or two of them; a screen of 1080p has 2040.
pub(crate) const TILE: u32 = 32;

/// A set of tiles of a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tiles {
    width: u32,
    height: u32,
    columns: u32,
    marked: Vec<bool>,
    count: usize,
}

impl Tiles {
    /// None of the tiles of a picture of that size.
    pub(crate) fn none(width: u32, height: u32) -> Self {
        let columns = width.div_ceil(TILE);
        let marked = vec![false; (columns * height.div_ceil(TILE)) as usize];
        Self { width, height, columns, marked, count: 0 }
    }

    /// Marks everything.
    pub(crate) fn mark_all(&mut self) {
        self.marked.fill(true);
        self.count = self.marked.len();
    }

    /// Marks the tile that holds a pixel.
    pub(crate) fn mark_pixel(&mut self, x: u32, y: u32) {
        self.mark_tile(x / TILE, y / TILE);
    }

    /// Marks every tile that a rectangle touches.
    pub(crate) fn mark(&mut self, rect: Rect) {
        let rect = rect.clipped(self.width, self.height);
        if rect.is_empty() {
            return;
        }
        for row in rect.y / TILE..rect.bottom().div_ceil(TILE) {
            for column in rect.x / TILE..rect.right().div_ceil(TILE) {
                self.mark_tile(column, row);
            }
        }
    }

    /// Marks what is marked in `other`, as far as this picture reaches.
    pub(crate) fn add(&mut self, other: &Tiles) {
        if other.columns == self.columns && other.marked.len() == self.marked.len() {
            self.marked.iter_mut().zip(&other.marked).for_each(|(mine, other)| *mine |= other);
            self.count = self.marked.iter().filter(|marked| **marked).count();
        } else if other.columns > 0 {
            for (row, tiles) in (0..).zip(other.marked.chunks(other.columns as usize)) {
                for (column, _) in (0..).zip(tiles).filter(|(_, marked)| **marked) {
                    self.mark_tile(column, row);
                }
            }
        }
    }

    fn mark_tile(&mut self, column: u32, row: u32) {
        if column < self.columns
            && let Some(marked) = self.marked.get_mut((row * self.columns + column) as usize)
            && !*marked
        {
            *marked = true;
            self.count += 1;
        }
    }

    /// Unmarks the tiles that touch the region and returns them as rectangles: runs of tiles, equal runs below each other
    /// joined. There are never more of them than tiles.
    pub(crate) fn take(&mut self, region: Rect) -> Vec<Rect> {
        let mut rects: Vec<Rect> = Vec::new();
        // The rectangles that end where the row begins, from left to right.
        let mut above: Vec<usize> = Vec::new();
        for row in self.rows(region) {
            let mut here = Vec::new();
            let mut open = above.into_iter().peekable();
            for run in self.take_runs(row, self.columns(region)) {
                while open.next_if(|at| rects[*at].x < run.x).is_some() {}
                match open.next_if(|at| rects[*at].x == run.x && rects[*at].width == run.width) {
                    Some(at) => {
                        rects[at].height += run.height;
                        here.push(at);
                    }
                    None => {
                        here.push(rects.len());
                        rects.push(run);
                    }
                }
            }
            above = here;
        }
        rects
    }

    /// Unmarks the tiles of a row and returns them as runs, cut at the picture's edge.
    fn take_runs(&mut self, row: u32, columns: Range<u32>) -> Vec<Rect> {
        let mut runs: Vec<Rect> = Vec::new();
        for column in columns {
            if !self.is_marked(column, row) {
                continue;
            }
            self.marked[(row * self.columns + column) as usize] = false;
            self.count -= 1;
            let tile = Rect::new(column * TILE, row * TILE, TILE, TILE).clipped(self.width, self.height);
            match runs.last_mut() {
                Some(run) if run.right() == tile.x => run.width += tile.width,
                _ => runs.push(tile),
            }
        }
        runs
    }

    fn is_marked(&self, column: u32, row: u32) -> bool {
        self.marked[(row * self.columns + column) as usize]
    }

    fn rows(&self, region: Rect) -> Range<u32> {
        let region = region.clipped(self.width, self.height);
        if region.is_empty() { 0..0 } else { region.y / TILE..region.bottom().div_ceil(TILE) }
    }

    fn columns(&self, region: Rect) -> Range<u32> {
        let region = region.clipped(self.width, self.height);
        region.x / TILE..region.right().div_ceil(TILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn runs_join_across_and_down() {
        let mut tiles = Tiles::none(200, 100);
        tiles.mark(Rect::new(40, 10, 60, 60));
        tiles.mark_pixel(199, 99);
        assert_eq!(tiles.take(Rect::new(0, 0, 200, 100)), [Rect::new(32, 0, 96, 96), Rect::new(192, 96, 8, 4)]);
        assert_eq!(tiles.count, 0);
    }

    #[test]
    fn only_the_region_is_taken() {
        let mut tiles = Tiles::none(200, 100);
        tiles.mark(Rect::new(0, 0, 200, 100));
        assert_eq!(tiles.take(Rect::new(33, 33, 10, 10)), [Rect::new(32, 32, 32, 32)]);
        assert!(tiles.take(Rect::new(33, 33, 10, 10)).is_empty());
        assert_eq!(tiles.take(Rect::new(0, 0, 1, 1)), [Rect::new(0, 0, 32, 32)]);
        assert!(tiles.take(Rect::new(500, 500, 10, 10)).is_empty());
    }

    #[test]
    fn a_picture_of_another_size_adds_what_fits() {
        let (mut small, mut large) = (Tiles::none(64, 64), Tiles::none(128, 128));
        large.mark(Rect::new(0, 0, 128, 128));
        small.add(&large);
        assert_eq!(small.take(Rect::new(0, 0, 64, 64)), [Rect::new(0, 0, 64, 64)]);
        small.add(&Tiles::none(128, 128));
        assert_eq!(small.count, 0);
        small.add(&Tiles::default());
        Tiles::default().add(&small);
    }

    proptest! {
        #[test]
        fn what_is_taken_covers_what_was_marked_once(marks in prop::collection::vec((0..300u32, 0..300u32, 0..80u32, 0..80u32), 0..20)) {
            let mut tiles = Tiles::none(290, 170);
            let mut wanted = vec![false; 290 * 170];
            for (x, y, width, height) in marks {
                let rect = Rect::new(x, y, width, height);
                tiles.mark(rect);
                let rect = rect.clipped(290, 170);
                for y in rect.y..rect.bottom() {
                    (rect.x..rect.right()).for_each(|x| wanted[(y * 290 + x) as usize] = true);
                }
            }
            let mut seen = vec![0u8; 290 * 170];
            for rect in tiles.take(Rect::new(0, 0, 290, 170)) {
                for y in rect.y..rect.bottom() {
                    (rect.x..rect.right()).for_each(|x| seen[(y * 290 + x) as usize] += 1);
                }
            }
            prop_assert_eq!(tiles.count, 0);
            prop_assert!(seen.iter().zip(&wanted).all(|(seen, wanted)| *seen <= 1 && (*seen == 1 || !wanted)));
        }
    }
}
