use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 1 << 20;

fn mode(width: u32, height: u32, depth: Depth) -> Mode {
    // Rows that are longer than what is seen of them, which does not begin at 0.
    let stride = (u64::from(width) + 3) * depth.bytes();
    Mode { width, height, depth, stride, offset: 5 * stride + 2 * depth.bytes() }
}

/// A framebuffer, its picture, and what a screen that is only told of damage shows.
struct Bed {
    framebuffer: Framebuffer,
    picture: Picture,
    screen: Vec<u8>,
    cost: Cost,
}

impl Bed {
    fn new(mode: Mode) -> Self {
        let screen = vec![0; mode.image_bytes() as usize];
        let framebuffer = Framebuffer::new(MEMORY).unwrap();
        Self { framebuffer, picture: Picture::new(mode).unwrap(), screen, cost: Cost::default() }
    }

    /// Of 70 times 50 pixels of four bytes: neither number is a multiple of anything.
    fn small() -> Self {
        Self::new(mode(70, 50, Depth::Four(Format::B8G8R8X8)))
    }

    /// Draws a rectangle.
    fn draw(&self, rect: Rect, pixel: &[u8]) {
        let mode = self.picture.mode();
        let bytes = pixel.repeat(rect.width as usize);
        for row in rect.y..rect.y + rect.height {
            let at = mode.offset + u64::from(row) * mode.stride + u64::from(rect.x) * mode.depth.bytes();
            self.framebuffer.write(at, &bytes);
        }
    }

    /// Looks, and shows what is told. Returns how much was read.
    fn look(&mut self, rows: Rows) -> Cost {
        self.cost = Cost::default();
        self.picture.look(&self.framebuffer, rows, &mut self.cost);
        let frame = self.picture.frame().unwrap();
        let stride = frame.stride as usize;
        for run in self.picture.runs() {
            assert!(!run.is_empty() && run.is_within(frame.width, frame.height), "{run:?}");
            for row in 0..run.height {
                let at = (run.y + row) as usize * stride + run.x as usize * 4;
                frame.read_row(run, row, &mut self.screen[at..at + run.width as usize * 4]);
            }
        }
        self.cost
    }

    /// What the framebuffer holds of the mode.
    fn truth(&self) -> Vec<u8> {
        let mode = self.picture.mode();
        let mut rows = Vec::new();
        for row in 0..u64::from(mode.height) {
            let mut raw = vec![0; mode.row_bytes() as usize];
            self.framebuffer.read(mode.offset + row * mode.stride, &mut raw);
            match mode.depth {
                Depth::Four(_) => rows.append(&mut raw),
                Depth::Two { big_endian } => {
                    let mut row = vec![0; mode.width as usize * 4];
                    widen(&raw, big_endian, &mut row);
                    rows.append(&mut row);
                }
            }
        }
        rows
    }

    #[track_caller]
    fn assert_shown(&self) {
        assert!(self.screen == self.truth(), "the screen is not what was drawn");
    }
}

#[test]
fn a_picture_that_does_not_change_costs_an_eighth_of_its_rows() {
    let mut bed = Bed::new(mode(64, 80, Depth::Four(Format::B8G8R8X8)));
    bed.look(Rows::All);
    for _ in 0..20 {
        assert_eq!(bed.look(Rows::Some), Cost { rows: 10, bytes: 10 * 64 * 4, copied: 0 });
        assert_eq!(bed.picture.runs(), []);
    }
}

/// A letter is found by the next look, and all that was drawn with it.
#[test]
fn what_is_eight_rows_high_is_seen_at_once_with_all_that_was_drawn() {
    for y in 0..42 {
        let mut bed = Bed::small();
        (0..y % 8).for_each(|_| _ = bed.look(Rows::Some));
        bed.draw(Rect::new(20, y, 8, 8), &[1, 2, 3, 4]);
        bed.draw(Rect::new(3, (y + 20) % 50, 1, 1), &[5, 6, 7, 8]);
        assert_eq!(bed.look(Rows::Some).rows, 50, "{y}");
        bed.assert_shown();
    }
}

#[test]
fn a_row_is_read_once_in_a_look_and_its_bytes_are_written_only_where_they_changed() {
    let mut bed = Bed::small();
    bed.draw(Rect::new(17, 9, 2, 30), &[1, 2, 3, 4]);
    assert_eq!(bed.look(Rows::All), Cost { rows: 50, bytes: 50 * 280, copied: 30 * 64 });
    assert_eq!(bed.picture.runs(), [Rect::new(16, 9, 16, 30)]);
    bed.draw(Rect::new(0, 9, 70, 1), &[9, 2, 3, 4]);
    assert_eq!(bed.look(Rows::All).copied, 280);
    assert_eq!(bed.picture.runs(), [Rect::new(0, 9, 70, 1)], "the last block is a part of one");
}

#[test]
fn at_most_sixteen_rectangles_are_told_else_one_around_all() {
    for (count, expected) in [(16, 16), (17, 1), (25, 1)] {
        let mut bed = Bed::small();
        for line in 0..count {
            bed.draw(Rect::new(line, 2 * line, 1, 1), &[1; 4]);
        }
        bed.look(Rows::All);
        assert_eq!(bed.picture.runs().len(), expected, "{count}");
        bed.assert_shown();
    }
    let mut bed = Bed::small();
    (0..25).for_each(|line| bed.draw(Rect::new(line, 2 * line, 1, 1), &[1; 4]));
    bed.look(Rows::All);
    assert_eq!(bed.picture.runs(), [Rect::new(0, 0, 32, 49)]);
}

#[test]
fn another_part_of_the_framebuffer_is_shown_in_the_same_memory() {
    let mut bed = Bed::small();
    let id = |bed: &Bed| match bed.picture.frame().unwrap().pixels {
        crate::Pixels::Shared(shared) => shared.id,
        _ => panic!("It cannot be shared"),
    };
    let before = id(&bed);
    let mode = bed.picture.mode();
    bed.framebuffer.write(0x4_0000, &[7; 0x4_0000]);
    assert!(bed.picture.turn_to(Mode { offset: 0x4_0000, stride: 1000, ..mode }));
    bed.look(Rows::All);
    bed.assert_shown();
    assert_eq!((bed.screen[0], id(&bed)), (7, before));
    for other in [
        Mode { width: 71, ..mode },
        Mode { height: 51, ..mode },
        Mode { depth: Depth::Four(Format::X8R8G8B8), ..mode },
        Mode { depth: Depth::Two { big_endian: false }, ..mode },
    ] {
        assert!(!bed.picture.turn_to(other), "{other:?}");
    }
}

/// The darkest and the brightest of each colour stay that, in both orders of bytes.
#[test]
fn pixels_of_two_bytes_have_their_colours() {
    for (pixel, colour) in [
        (0x0000u16, [0, 0, 0, 0]),
        (0xffff, [0xff, 0xff, 0xff, 0]),
        (0xf800, [0, 0, 0xff, 0]),
        (0x07e0, [0, 0xff, 0, 0]),
        (0x001f, [0xff, 0, 0, 0]),
        (0x8410, [0x84, 0x82, 0x84, 0]),
    ] {
        for big_endian in [false, true] {
            let mut bed = Bed::new(mode(64, 64, Depth::Two { big_endian }));
            let bytes = if big_endian { pixel.to_be_bytes() } else { pixel.to_le_bytes() };
            bed.draw(Rect::of_size(64, 64), &bytes);
            bed.look(Rows::All);
            assert_eq!(bed.screen, colour.repeat(64 * 64), "{pixel:#x}");
        }
    }
}

#[test]
fn a_framebuffer_without_memory_is_black() {
    let mut bed = Bed::small();
    bed.draw(Rect::of_size(70, 50), &[1; 4]);
    bed.look(Rows::All);
    bed.framebuffer = Framebuffer::absent(MEMORY);
    bed.look(Rows::All);
    assert!(bed.screen.iter().all(|byte| *byte == 0));
}

fn any_drawing() -> impl Strategy<Value = Vec<(Rect, u8)>> {
    let rect = (0u32..70, 0u32..50, 1u32..70, 1u32..50);
    let rect = rect.prop_map(|(x, y, width, height)| Rect::new(x, y, width.min(70 - x), height.min(50 - y)));
    prop::collection::vec((rect, any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is drawn between looks, eight of them later it is seen, and no rectangle was left out.
    #[test]
    fn whatever_is_drawn_is_seen_after_eight_looks(
        drawings in prop::collection::vec(any_drawing(), 1..5),
        two_bytes: bool,
        big_endian: bool,
    ) {
        let depth = if two_bytes { Depth::Two { big_endian } } else { Depth::Four(Format::B8G8R8X8) };
        let mut bed = Bed::new(mode(70, 50, depth));
        for drawing in drawings {
            for (rect, shade) in drawing {
                bed.draw(rect, &vec![shade; depth.bytes() as usize]);
            }
            bed.look(Rows::Some);
        }
        for _ in 0..EVERY {
            bed.look(Rows::Some);
        }
        prop_assert!(bed.screen == bed.truth());
    }
}
