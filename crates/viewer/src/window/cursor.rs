//! The pointer over a window: the guest's own cursor, an arrow, or none.

use std::sync::Arc;

use winit::window::{BadImage, CustomCursor, CustomCursorSource};

use crate::rfb::cursor::{CursorImage, straight};

/// An arrow that needs no file of a theme: black with a white edge.
const ARROW: [&str; 17] = [
    "##..........",
    "#-#.........",
    "#--#........",
    "#---#.......",
    "#----#......",
    "#-----#.....",
    "#------#....",
    "#-------#...",
    "#--------#..",
    "#---------#.",
    "#-----#####.",
    "#--#--#.....",
    "#-#.#--#....",
    "##..#--#....",
    ".....#--#...",
    ".....#--#...",
    "......##....",
];

/// The largest cursor in pixels of a window: what a zoomed one is cut down to.
const MAX_ZOOM: u32 = 4;

/// What is over the window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Pointer {
    #[default]
    Arrow,
    None,
    /// The guest's, each of its pixels a square of that side.
    Guest(Arc<CursorImage>, u32),
}

impl Pointer {
    /// The guest's cursor; none when it shows none.
    pub(super) fn of_guest(image: &Arc<CursorImage>, zoom: u32) -> Self {
        let visible = image.pixels.iter().any(|pixel| pixel >> 24 > 0);
        if visible { Self::Guest(image.clone(), zoom.clamp(1, MAX_ZOOM)) } else { Self::None }
    }

    /// Its picture, if it has one. An X server takes it with the alpha multiplied in, which winit leaves to us; for Wayland it
    /// does that itself.
    pub(super) fn source(&self, premultiplied: bool) -> Option<Result<CustomCursorSource, BadImage>> {
        match self {
            Self::None => None,
            Self::Arrow => Some(source(&arrow(), 1, premultiplied)),
            Self::Guest(image, zoom) => Some(source(image, *zoom, premultiplied)),
        }
    }
}

fn source(image: &CursorImage, zoom: u32, premultiplied: bool) -> Result<CustomCursorSource, BadImage> {
    let (width, height) = (image.width * zoom, image.height * zoom);
    let pixel = |x: u32, y: u32| {
        let pixel = image.pixels.get((y / zoom * image.width + x / zoom) as usize).copied().unwrap_or(0);
        let pixel = if premultiplied { pixel } else { straight(pixel) };
        pixel.rotate_left(8).to_be_bytes()
    };
    let rgba: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    let [width, height, hot_x, hot_y] =
        [width, height, image.hot_x * zoom, image.hot_y * zoom].map(|length| length.min(u32::from(u16::MAX)) as u16);
    CustomCursor::from_rgba(rgba, width, height, hot_x, hot_y)
}

fn arrow() -> CursorImage {
    let colour = |letter| match letter {
        b'#' => 0xffff_ffff,
        b'-' => 0xff00_0000,
        _ => 0,
    };
    let pixels = ARROW.iter().flat_map(|row| row.bytes().map(colour)).collect();
    CursorImage { width: 12, height: 17, hot_x: 0, hot_y: 0, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pointer_with_a_picture_is_one_that_winit_takes() {
        let image = CursorImage { width: 2, height: 1, hot_x: 1, hot_y: 0, pixels: vec![0x8040_2010, 0xff01_0203] };
        for zoom in [0, 1, 3, 999] {
            let pointer = Pointer::of_guest(&Arc::new(image.clone()), zoom);
            assert!(pointer.source(true).unwrap().is_ok() && pointer.source(false).unwrap().is_ok());
        }
        assert!(Pointer::Arrow.source(true).unwrap().is_ok());
        assert!(Pointer::None.source(true).is_none());
    }

    #[test]
    fn a_guest_that_hides_its_cursor_hides_ours() {
        assert_eq!(Pointer::of_guest(&Arc::new(crate::rfb::cursor::hidden()), 1), Pointer::None);
    }

    #[test]
    fn the_arrow_has_its_point_in_its_corner() {
        let arrow = arrow();
        assert_eq!(arrow.pixels.len(), (arrow.width * arrow.height) as usize);
        assert_eq!(arrow.pixels[0], 0xffff_ffff);
    }
}
