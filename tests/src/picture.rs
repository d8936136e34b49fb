//! Pictures of a screen, and what two of them differ in.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::process::wait_until;

/// How long a picture may take to be seen, in seconds.
const PATIENCE: u64 = 120;

/// A picture: rows of three bytes (red, green, blue) a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}x{}, {} colours)", self.width, self.height, self.colours())
    }
}

impl Picture {
    /// A picture of X8R8G8B8 pixels in little-endian order, as the guest's buffers hold them.
    pub fn from_xrgb(width: u32, height: u32, bytes: &[u8]) -> Result<Self> {
        let (width, height) = (width as usize, height as usize);
        ensure!(bytes.len() == width * height * 4, "{} bytes are not a picture of {width}x{height}", bytes.len());
        let rgb = bytes.as_chunks::<4>().0.iter().flat_map(|[blue, green, red, _]| [*red, *green, *blue]).collect();
        Ok(Picture { width, height, rgb })
    }

    /// A picture of a BMP's 24-bit pixels, as firmware keeps its logo.
    pub fn from_bmp(bytes: &[u8]) -> Result<Self> {
        let word = |at: usize| -> Result<usize> {
            let word = bytes.get(at..at + 4).and_then(<[u8]>::first_chunk).context("Half a BMP")?;
            Ok(usize::try_from(u32::from_le_bytes(*word))?)
        };
        let (start, width, height) = (word(10)?, word(18)?, word(22)?);
        ensure!(bytes.starts_with(b"BM") && word(26)? >> 16 == 24, "Not a BMP of 24 bits");
        let pitch = (width * 3).next_multiple_of(4);
        // From the bottom up; blue, green, red.
        let rows: Option<Vec<_>> =
            (0..height).rev().map(|row| bytes.get(start + row * pitch..)?.get(..width * 3)).collect();
        let rows = rows.context("A BMP with too few rows")?;
        let pixels = rows.into_iter().flat_map(|row| row.as_chunks::<3>().0);
        Ok(Picture { width, height, rgb: pixels.flat_map(|[blue, green, red]| [*red, *green, *blue]).collect() })
    }

    /// Reads a PNG file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("Cannot open {}", path.display()))?;
        Self::decode(BufReader::new(file)).with_context(|| format!("Cannot read {}", path.display()))
    }

    /// Reads a PNG.
    pub fn decode(from: impl BufRead + Seek) -> Result<Self> {
        let mut decoder = png::Decoder::new(from);
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("Picture of an impossible size")?];
        let info = reader.next_frame(&mut bytes)?;
        bytes.truncate(info.buffer_size());
        let rgb = match info.color_type {
            png::ColorType::Rgb => bytes,
            png::ColorType::Rgba => {
                bytes.as_chunks::<4>().0.iter().flat_map(|[red, green, blue, _]| [*red, *green, *blue]).collect()
            }
            png::ColorType::Grayscale => bytes.iter().flat_map(|grey| [*grey; 3]).collect(),
            other => anyhow::bail!("Pixels of type {other:?}"),
        };
        Ok(Picture { width: info.width as usize, height: info.height as usize, rgb })
    }

    /// Writes a PNG file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("Cannot make {}", path.display()))?;
        let size = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let mut encoder = png::Encoder::new(BufWriter::new(file), size.0, size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(())
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The pixel at a place, if it is inside.
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        (x < self.width).then(|| self.rgb.as_chunks::<3>().0.get(y * self.width + x).copied())?
    }

    /// Some pixels of a row, if all of them are inside.
    pub fn line(&self, x: usize, y: usize, width: usize) -> Option<&[[u8; 3]]> {
        let start = y * self.width + x;
        (x + width <= self.width).then(|| self.rgb.as_chunks::<3>().0.get(start..start + width))?
    }

    /// How many different colours it has.
    pub fn colours(&self) -> usize {
        let mut pixels = self.rgb.as_chunks::<3>().0.to_vec();
        pixels.sort_unstable();
        pixels.dedup();
        pixels.len()
    }

    /// Fills a part of it.
    pub fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), colour: [u8; 3]) {
        let rows = self.rgb.chunks_exact_mut(self.width.max(1) * 3).skip(y).take(height);
        for row in rows {
            row.as_chunks_mut::<3>().0.iter_mut().skip(x).take(width).for_each(|pixel| *pixel = colour);
        }
    }

    /// Each pixel as a square of that side, in the middle of a black picture of that size.
    pub fn in_window(&self, side: usize, (width, height): (usize, usize)) -> Self {
        let (left, top) = ((width - self.width * side) / 2, (height - self.height * side) / 2);
        let pixel = |x: usize, y: usize| {
            let inside = x >= left && y >= top;
            let pixel = inside.then(|| ((x - left) / side, (y - top) / side)).and_then(|(x, y)| self.pixel(x, y));
            pixel.unwrap_or_default()
        };
        let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
        Picture { width, height, rgb }
    }

    /// A part of it.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Self> {
        ensure!(x + width <= self.width && y + height <= self.height, "Crop outside the picture");
        let rows = (y..y + height).filter_map(|row| {
            let start = (row * self.width + x) * 3;
            self.rgb.get(start..start + width * 3)
        });
        Ok(Picture { width, height, rgb: rows.flatten().copied().collect() })
    }

    /// Whether another picture is a part of it.
    pub fn contains(&self, other: &Self) -> bool {
        let row = |picture: &Self, x: usize, y: usize, width: usize| {
            let start = (y * picture.width + x) * 3;
            picture.rgb.get(start..start + width * 3).map(<[u8]>::to_vec)
        };
        let Some(first) = row(other, 0, 0, other.width) else { return true };
        let (Some(columns), Some(rows)) =
            ((self.width + 1).checked_sub(other.width), (self.height + 1).checked_sub(other.height))
        else {
            return false;
        };
        (0..rows).any(|y| {
            (0..columns).any(|x| {
                // Most places are seen by one pixel not to be it.
                self.pixel(x, y) == other.pixel(0, 0)
                    && row(self, x, y, other.width).as_ref() == Some(&first)
                    && (1..other.height)
                        .all(|below| row(self, x, y + below, other.width) == row(other, 0, below, other.width))
            })
        })
    }

    /// What is different in another picture: nothing, or a description.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.size() != other.size() {
            return Some(format!("{:?} against {:?}", self.size(), other.size()));
        }
        let pairs = || self.rgb.as_chunks::<3>().0.iter().zip(other.rgb.as_chunks::<3>().0).enumerate();
        let (index, (one, two)) = pairs().find(|(_, (one, two))| one != two)?;
        let count = pairs().filter(|(_, (one, two))| one != two).count();
        let (x, y) = (index % self.width, index / self.width);
        Some(format!("{count} pixels differ, the first at {x},{y}: {one:02x?} against {two:02x?}"))
    }

    /// Looks again and again until this picture is seen, to the byte. Panics as [`Picture::assert_same`] does when it
    /// never is.
    #[track_caller]
    pub fn wait_until_shown(&self, mut look: impl FnMut() -> Result<Self>) -> Result<()> {
        let mut last = None;
        let shown = wait_until(PATIENCE, "the picture", || {
            let seen = look();
            let same = seen.as_ref().is_ok_and(|seen| seen == self);
            last = Some(seen);
            Ok(same.then_some(()))
        });
        match (shown, last) {
            (Ok(()), _) | (Err(_), None) => Ok(()),
            (Err(_), Some(Ok(seen))) => {
                self.assert_same(&seen);
                Ok(())
            }
            (Err(waited), Some(Err(error))) => Err(error.context(waited)),
        }
    }

    /// Panics, with both pictures saved, when another picture is not the same to the byte.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        let Some(difference) = self.difference(other) else { return };
        panic!("Pictures differ: {difference}; see {} and {}", self.keep("expected"), other.keep("seen"));
    }

    /// Keeps it for people, under the name of the running test, and returns where.
    pub fn keep(&self, what: &str) -> String {
        let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let path = crate::workspace::target().join(format!("tmp/{name}-{what}.png"));
        let saved = self.save(&path);
        saved.map_or_else(|error| format!("{error:#}"), |()| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_the_same_after_a_png_file() {
        let bytes: Vec<u8> = (0..4 * 3 * 2).collect();
        let picture = Picture::from_xrgb(3, 2, &bytes).unwrap();
        let dir = crate::workspace::scratch("picture-").unwrap();
        let path = dir.path().join("picture.png");
        picture.save(&path).unwrap();
        assert_eq!(Picture::open(&path).unwrap(), picture);
        assert_eq!(picture.pixel(1, 0), Some([6, 5, 4]));
        assert_eq!(picture.pixel(3, 0), None);
        assert_eq!(picture.crop(1, 1, 2, 1).unwrap().pixel(0, 0), picture.pixel(1, 1));
    }

    #[test]
    fn a_bmp_is_read_from_the_bottom_up_without_what_fills_its_rows() {
        let mut bmp = vec![0; 54];
        bmp[..2].copy_from_slice(b"BM");
        for (at, word) in [(10, 54_u32), (18, 3), (22, 2), (26, 24 << 16 | 1)] {
            bmp[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bmp.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 255, 255, 11, 12, 13, 14, 15, 16, 17, 18, 19, 255, 255, 255]);
        let picture = Picture::from_bmp(&bmp).unwrap();
        assert_eq!(picture.size(), (3, 2));
        assert_eq!((picture.pixel(0, 0), picture.pixel(2, 1)), (Some([13, 12, 11]), Some([9, 8, 7])));
        assert!(Picture::from_bmp(&bmp[..bmp.len() - 4]).is_err());
        assert!(Picture::from_bmp(&[]).is_err());
    }

    #[test]
    fn a_part_is_found_where_it_is() {
        let bytes: Vec<u8> = (0..4 * 5 * 4).collect();
        let picture = Picture::from_xrgb(5, 4, &bytes).unwrap();
        for (x, y, width, height) in [(0, 0, 5, 4), (2, 1, 3, 3), (4, 3, 1, 1)] {
            assert!(picture.contains(&picture.crop(x, y, width, height).unwrap()));
        }
        let mut other = picture.crop(1, 1, 3, 2).unwrap();
        other.fill((2, 1), (1, 1), [0; 3]);
        assert!(!picture.contains(&other));
        assert!(!picture.crop(0, 0, 2, 2).unwrap().contains(&picture));
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let picture = Picture::from_xrgb(2, 2, &[7; 16]).unwrap();
        let mut bytes = [7; 16];
        bytes[12] = 8;
        let other = Picture::from_xrgb(2, 2, &bytes).unwrap();
        let difference = picture.difference(&other).unwrap();
        assert_eq!(difference, "1 pixels differ, the first at 1,1: [07, 07, 07] against [07, 07, 08]");
        assert_eq!(picture.difference(&picture), None);
    }
}
