//! ZRLE, RFC 6143 section 7.7.6: tiles of 64 by 64 pixels, each as a colour, a palette, runs or pixels, then zlib.

use super::pixel::Translator;
use super::zlib::Stream;

const TILE: usize = 64;

/// Colours that a packed palette can hold.
const MAX_PALETTE: usize = 16;

/// One client's ZRLE.
pub(crate) struct Zrle {
    stream: Stream,
    /// What goes into zlib; kept for its room.
    plain: Vec<u8>,
    tile: Vec<u32>,
}

impl Zrle {
    pub(crate) fn new() -> Self {
        Self { stream: Stream::new(), plain: Vec::new(), tile: Vec::new() }
    }

    /// Appends a rectangle's data: `pixels` are its rows, each `width` long.
    pub(crate) fn append(&mut self, pixels: &[u32], width: usize, translator: &Translator, out: &mut Vec<u8>) {
        self.plain.clear();
        for band in pixels.chunks(width * TILE) {
            for left in (0..width).step_by(TILE) {
                let right = width.min(left + TILE);
                self.tile.clear();
                for row in band.chunks_exact(width) {
                    self.tile.extend_from_slice(&row[left..right]);
                }
                append_tile(&self.tile, right - left, translator, &mut self.plain);
            }
        }
        let start = out.len();
        out.extend([0; 4]);
        self.stream.append(&self.plain, out);
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// The colours of a tile, as far as a palette can hold them, and how often the colour changes.
struct Survey {
    palette: [u32; MAX_PALETTE],
    colours: usize,
    too_many: bool,
    runs: usize,
}

impl Survey {
    fn of(tile: &[u32]) -> Self {
        let mut survey = Self { palette: [0; MAX_PALETTE], colours: 0, too_many: false, runs: 0 };
        // No pixel has this value.
        let mut last = u32::MAX;
        for pixel in tile {
            if *pixel == last {
                continue;
            }
            last = *pixel;
            survey.runs += 1;
            if survey.too_many || survey.palette[..survey.colours].contains(pixel) {
                continue;
            }
            match survey.palette.get_mut(survey.colours) {
                Some(slot) => {
                    *slot = *pixel;
                    survey.colours += 1;
                }
                None => survey.too_many = true,
            }
        }
        survey
    }

    fn palette(&self) -> &[u32] {
        &self.palette[..self.colours]
    }

    fn index(&self, pixel: u32) -> u8 {
        self.palette().iter().position(|colour| *colour == pixel).unwrap_or_default() as u8
    }
}

fn append_tile(tile: &[u32], width: usize, translator: &Translator, out: &mut Vec<u8>) {
    let survey = Survey::of(tile);
    let pixel = translator.compact_bytes();
    let raw = tile.len() * pixel;
    let runs = survey.runs * (pixel + 1);
    if survey.too_many {
        if runs < raw {
            out.push(128);
            for_each_run(tile, |colour, length| {
                translator.append_compact(&[colour], out);
                append_length(length, out);
            });
        } else {
            out.push(0);
            translator.append_compact(tile, out);
        }
        return;
    }
    if survey.colours <= 1 {
        out.push(1);
        translator.append_compact(&tile[..1], out);
        return;
    }
    let bits = match survey.colours {
        2 => 1,
        3..=4 => 2,
        _ => 4,
    };
    let palette = survey.colours * pixel;
    let packed = palette + (width * bits).div_ceil(8) * (tile.len() / width);
    let palette_runs = palette + survey.runs * 2;
    if raw <= packed.min(palette_runs) {
        out.push(0);
        translator.append_compact(tile, out);
    } else if palette_runs < packed {
        out.push(128 + survey.colours as u8);
        translator.append_compact(survey.palette(), out);
        for_each_run(tile, |colour, length| match length {
            1 => out.push(survey.index(colour)),
            _ => {
                out.push(128 | survey.index(colour));
                append_length(length, out);
            }
        });
    } else {
        out.push(survey.colours as u8);
        translator.append_compact(survey.palette(), out);
        append_indices(tile, width, bits, &survey, out);
    }
}

/// Indices of `bits` each, the first in the highest bits; a row begins on a byte.
fn append_indices(tile: &[u32], width: usize, bits: usize, survey: &Survey, out: &mut Vec<u8>) {
    for row in tile.chunks_exact(width) {
        for pixels in row.chunks(8 / bits) {
            let mut byte = 0;
            for (position, pixel) in pixels.iter().enumerate() {
                byte |= survey.index(*pixel) << (8 - bits * (position + 1));
            }
            out.push(byte);
        }
    }
}

fn for_each_run(tile: &[u32], mut run: impl FnMut(u32, usize)) {
    for pixels in tile.chunk_by(|left, right| left == right) {
        run(pixels[0], pixels.len());
    }
}

fn append_length(length: usize, out: &mut Vec<u8>) {
    let rest = length - 1;
    out.extend(std::iter::repeat_n(255, rest / 255));
    out.push((rest % 255) as u8);
}

#[cfg(test)]
#[path = "../../tests/support/zrle.rs"]
mod reader;

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::rfb::pixel::PixelFormat;

    use super::reader::Reader;

    proptest! {
        #[test]
        fn what_is_packed_is_what_is_unpacked(width in 1..150usize, height in 1..150usize, colours in 1..40u32, run in 1..30u32,
            seed in any::<u32>()) {
            let mut zrle = Zrle::new();
            let mut reader = Reader::new();
            let translator = Translator::new(PixelFormat::NATIVE);
            for turn in 0..2 {
                let pixels: Vec<u32> = (0..(width * height) as u32)
                    .map(|at| ((at / run).wrapping_mul(seed | 1) >> 7) % colours * 0x0001_0307 + turn)
                    .collect();
                let mut out = Vec::new();
                zrle.append(&pixels, width, &translator, &mut out);
                prop_assert!(reader.read(&out, width, height) == pixels);
            }
        }
    }
}
