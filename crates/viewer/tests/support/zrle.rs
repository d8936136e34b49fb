//! A client's ZRLE for native pixels, written from RFC 6143.

#![allow(clippy::unwrap_used, dead_code)]

use flate2::{Decompress, FlushDecompress};

const TILE: usize = 64;

/// One connection's stream.
pub struct Reader(Decompress);

impl Reader {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub fn read(&mut self, data: &[u8], width: usize, height: usize) -> Vec<u32> {
        let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
        assert_eq!(length, data.len() - 4);
        let mut plain = Vec::with_capacity(width * height * 5 + 4096);
        self.0.decompress_vec(&data[4..], &mut plain, FlushDecompress::Sync).unwrap();
        let mut plain = plain.into_iter();
        let mut picture = vec![0; width * height];
        for top in (0..height).step_by(TILE) {
            for left in (0..width).step_by(TILE) {
                let (w, h) = (TILE.min(width - left), TILE.min(height - top));
                for (at, pixel) in read_tile(&mut plain, w, h).into_iter().enumerate() {
                    picture[(top + at / w) * width + left + at % w] = pixel;
                }
            }
        }
        assert_eq!(plain.next(), None);
        picture
    }
}

fn read_tile(plain: &mut impl Iterator<Item = u8>, width: usize, height: usize) -> Vec<u32> {
    let pixels = width * height;
    let kind = plain.next().unwrap();
    let palette: Vec<u32> = match kind {
        2..=16 => (0..kind).map(|_| colour(plain)).collect(),
        130.. => (0..kind - 128).map(|_| colour(plain)).collect(),
        _ => vec![],
    };
    let mut tile = Vec::new();
    match kind {
        0 => tile.extend((0..pixels).map(|_| colour(plain))),
        1 => tile = vec![colour(plain); pixels],
        2..=16 => {
            let bits = [1, 2, 4][usize::from(kind > 2) + usize::from(kind > 4)];
            for _ in 0..height {
                let bytes: Vec<u8> = (0..(width * bits).div_ceil(8)).map(|_| plain.next().unwrap()).collect();
                for x in 0..width {
                    let index = bytes[x * bits / 8] >> (8 - bits - x * bits % 8) & ((1 << bits) - 1);
                    tile.push(palette[usize::from(index)]);
                }
            }
        }
        128.. => {
            while tile.len() < pixels {
                let (value, single) = if kind == 128 {
                    (colour(plain), false)
                } else {
                    let index = plain.next().unwrap();
                    (palette[usize::from(index & 127)], index < 128)
                };
                let mut length = 1;
                if !single {
                    loop {
                        let more = plain.next().unwrap();
                        length += usize::from(more);
                        if more < 255 {
                            break;
                        }
                    }
                }
                tile.extend(std::iter::repeat_n(value, length));
            }
        }
        _ => panic!("no such tile"),
    }
    assert_eq!(tile.len(), pixels);
    tile
}

fn colour(plain: &mut impl Iterator<Item = u8>) -> u32 {
    let mut bytes = [0; 4];
    bytes[..3].iter_mut().for_each(|byte| *byte = plain.next().unwrap());
    u32::from_le_bytes(bytes)
}
