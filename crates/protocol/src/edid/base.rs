//! The base block of EDID 1.4.

use super::timing::Timing;
use super::{BLOCK, MODEL_YEAR, MODEL_YEAR_FOLLOWS, Mode, Monitor, checksum};

/// What a block starts with.
pub(super) const HEADER: [u8; 8] = [0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00];
/// Where the four 18-byte descriptors start.
pub(super) const DESCRIPTORS: usize = 54;
/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 18;

const TAG_SERIAL: u8 = 0xff;
const TAG_NAME: u8 = 0xfc;
const TAG_ESTABLISHED_III: u8 = 0xf7;

/// Modes with a bit of their own at 60 Hz: byte of the block, bit, width, height.
const ESTABLISHED: [(usize, u8, u32, u32); 3] = [(35, 5, 640, 480), (35, 0, 800, 600), (36, 3, 1024, 768)];

/// The same in the descriptor "established timings III": byte of the descriptor, bit, width, height.
const ESTABLISHED_III: [(usize, u8, u32, u32); 10] = [
    (7, 6, 1280, 768),
    (7, 3, 1280, 960),
    (7, 1, 1280, 1024),
    (8, 7, 1360, 768),
    (8, 5, 1440, 900),
    (8, 1, 1400, 1050),
    (9, 5, 1680, 1050),
    (9, 2, 1600, 1200),
    (10, 0, 1920, 1200),
    (11, 5, 1920, 1440),
];

/// Standard timings: modes at 60 Hz without such a bit, as width, height and the code of their aspect ratio.
const STANDARD: [(u32, u32, u8); 5] =
    [(2048, 1152, 0b11), (1920, 1080, 0b11), (1600, 900, 0b11), (1280, 800, 0b00), (1280, 720, 0b11)];

pub(super) fn block(monitor: &Monitor, mode: Mode, extended: bool) -> [u8; BLOCK] {
    let size_mm = monitor.size_mm(mode);
    let smaller =
        |width, height| width <= mode.width && height <= mode.height && (width, height) != (mode.width, mode.height);
    let mut block = [0u8; BLOCK];
    block[..8].copy_from_slice(&HEADER);
    block[8..10].copy_from_slice(&vendor(monitor.vendor_letters()).to_be_bytes());
    block[10..12].copy_from_slice(&monitor.product.to_le_bytes());
    block[12..16].copy_from_slice(&monitor.serial.to_le_bytes());
    block[16..18].copy_from_slice(&[MODEL_YEAR_FOLLOWS, (MODEL_YEAR - 1990) as u8]);
    // Version 1.4.
    block[18..20].copy_from_slice(&[1, 4]);
    // Digital, 8 bits a colour, DisplayPort; the size in centimetres; gamma 2.2; sRGB, the preferred mode is native.
    block[20] = 0xa5;
    (block[21], block[22]) = ((size_mm.0 / 10) as u8, (size_mm.1 / 10) as u8);
    block[23..25].copy_from_slice(&[120, 0x06]);
    // The primaries and the white point of sRGB.
    block[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    for (byte, bit, width, height) in ESTABLISHED {
        if smaller(width, height) {
            block[byte] |= 1 << bit;
        }
    }
    let mut standard = STANDARD.into_iter().filter(|(width, height, _)| smaller(*width, *height));
    for code in block[38..54].chunks_exact_mut(2) {
        let unused = [1, 1];
        code.copy_from_slice(
            &standard.next().map_or(unused, |(width, _, aspect)| [(width / 8 - 31) as u8, aspect << 6]),
        );
    }
    let mut descriptors = block[DESCRIPTORS..126].chunks_exact_mut(DESCRIPTOR);
    let contents = [
        detailed_timing(&first_timing(mode), size_mm),
        text(TAG_NAME, &monitor.name),
        text(TAG_SERIAL, &format!("BSP{:08x}", monitor.serial)),
        established_iii(smaller),
    ];
    for (descriptor, content) in descriptors.by_ref().zip(contents) {
        descriptor.copy_from_slice(&content);
    }
    block[126] = u8::from(extended);
    block[127] = checksum(&block[..127]);
    block
}

/// The preferred mode; for one that no descriptor holds the same at 60 Hz, or half, a third .. of it. Who can show the
/// preferred one finds it in the extension.
fn first_timing(mode: Mode) -> Timing {
    let preferred = Timing::reduced_blanking(mode);
    let slower = (1..).map(|divisor| {
        let side = |pixels: u32| (pixels / divisor).max(1);
        let refresh = mode.refresh.min(60);
        Timing::reduced_blanking(Mode { width: side(mode.width), height: side(mode.height), refresh })
    });
    [preferred].into_iter().chain(slower).find(Timing::fits_descriptor).unwrap_or(preferred)
}

/// Five bits for each of three capital letters.
fn vendor(letters: [u8; 3]) -> u16 {
    letters.iter().fold(0, |id, letter| id << 5 | u16::from(letter - b'@'))
}

/// An 18-byte detailed timing of a mode that fits.
fn detailed_timing(timing: &Timing, (width_mm, height_mm): (u32, u32)) -> [u8; DESCRIPTOR] {
    let low = |value: u32| value as u8;
    let high = |value: u32| (value >> 8) as u8 & 0xf;
    let (h, v) = (timing.mode.width, timing.mode.height);
    [
        low(timing.clock),
        (timing.clock >> 8) as u8,
        low(h),
        low(timing.h_blank),
        high(h) << 4 | high(timing.h_blank),
        low(v),
        low(timing.v_blank),
        high(v) << 4 | high(timing.v_blank),
        low(timing.h_front),
        low(timing.h_sync),
        low(timing.v_front) << 4 | low(timing.v_sync) & 0xf,
        0,
        low(width_mm),
        low(height_mm),
        high(width_mm) << 4 | high(height_mm),
        0,
        0,
        // Separate syncs, horizontal positive, vertical negative: what CVT says of reduced blanking.
        0x1a,
    ]
}

/// A text descriptor: ended by a line feed, padded with spaces.
fn text(tag: u8, text: &str) -> [u8; DESCRIPTOR] {
    let mut descriptor = [b' '; DESCRIPTOR];
    descriptor[..5].copy_from_slice(&[0, 0, 0, tag, 0]);
    let printable = text.bytes().filter(|byte| (0x20..0x7f).contains(byte));
    let letters = printable.chain([b'\n']).take(DESCRIPTOR - 5);
    for (place, letter) in descriptor[5..].iter_mut().zip(letters) {
        *place = letter;
    }
    descriptor
}

fn established_iii(smaller: impl Fn(u32, u32) -> bool) -> [u8; DESCRIPTOR] {
    let mut descriptor = [0; DESCRIPTOR];
    descriptor[3] = TAG_ESTABLISHED_III;
    descriptor[5] = 10;
    for (byte, bit, width, height) in ESTABLISHED_III {
        if smaller(width, height) {
            descriptor[byte] |= 1 << bit;
        }
    }
    descriptor
}
