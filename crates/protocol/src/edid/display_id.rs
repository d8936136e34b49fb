//! A DisplayID 1.3 section in an EDID extension block: timings that the base block cannot hold.

use super::timing::Timing;
use super::{BLOCK, MODEL_YEAR, MODEL_YEAR_FOLLOWS, Mode, Monitor, checksum};

/// The tag of an EDID extension block that carries DisplayID.
pub(super) const TAG: u8 = 0x70;
/// The tag of a data block of type I detailed timings.
pub(super) const TIMINGS: u8 = 0x03;
/// Bytes of one such timing.
pub(super) const TIMING: usize = 20;
/// Where the data blocks start.
pub(super) const DATA: usize = 5;
/// Bytes of data blocks that the section has room for.
pub(super) const DATA_BYTES: usize = 121;

const VERSION_1_3: u8 = 0x13;
/// What a section describes: a monitor of its own.
const STANDALONE_DISPLAY: u8 = 3;
const PREFERRED: u8 = 0x80;

/// Usual modes that a large head offers too and the base block has no code for.
const SMALLER: [(u32, u32); 2] = [(3840, 2160), (2560, 1440)];

/// The block, where one is needed.
pub(super) fn block(monitor: &Monitor, mode: Mode) -> Option<[u8; BLOCK]> {
    let preferred = Timing::reduced_blanking(mode);
    let smaller = SMALLER
        .into_iter()
        .filter(|(width, height)| *width <= mode.width && *height <= mode.height)
        .filter(|(width, height)| (*width, *height) != (mode.width, mode.height))
        .map(|(width, height)| Mode { width, height, refresh: mode.refresh.min(60) })
        .flat_map(|mode| encode(&Timing::reduced_blanking(mode), 0));
    let timings: Vec<u8> = encode(&preferred, PREFERRED).into_iter().chain(smaller).collect();
    if preferred.fits_descriptor() && timings.len() == TIMING {
        return None;
    }
    let mut block = [0; BLOCK];
    block[..DATA].copy_from_slice(&[TAG, VERSION_1_3, DATA_BYTES as u8, STANDALONE_DISPLAY, 0]);
    // At most 3 + 12, 3 + 12, 3 + 10 and 3 + 3 * 20 bytes: less than the section holds.
    let mut at = DATA;
    for (tag, data) in
        [(0x00, &product(monitor)[..]), (0x01, &parameters(monitor, mode)), (0x0f, &INTERFACE), (TIMINGS, &timings)]
    {
        block[at..at + 3].copy_from_slice(&[tag, 0, data.len() as u8]);
        block[at + 3..at + 3 + data.len()].copy_from_slice(data);
        at += 3 + data.len();
    }
    // The section's own checksum leaves out the tag in front of it; the block's covers everything.
    block[126] = checksum(&block[1..126]);
    block[127] = checksum(&block[..127]);
    Some(block)
}

/// Product identification: the words of the base block, without the name, which stands there.
fn product(monitor: &Monitor) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..3].copy_from_slice(&monitor.vendor_letters());
    bytes[3..5].copy_from_slice(&monitor.product.to_le_bytes());
    bytes[5..9].copy_from_slice(&monitor.serial.to_le_bytes());
    bytes[9..11].copy_from_slice(&[MODEL_YEAR_FOLLOWS, (MODEL_YEAR - 2000) as u8]);
    bytes
}

/// Display parameters: size in tenths of a millimetre, pixels, gamma 2.2, aspect ratio, 8 bits a colour.
fn parameters(monitor: &Monitor, mode: Mode) -> [u8; 12] {
    let (width_mm, height_mm) = monitor.size_mm(mode);
    let words = [width_mm.saturating_mul(10), height_mm.saturating_mul(10), mode.width, mode.height];
    let mut bytes = [0; 12];
    for (place, word) in bytes.chunks_exact_mut(2).zip(words) {
        place.copy_from_slice(&(word.min(0xffff) as u16).to_le_bytes());
    }
    let (long, short) = (mode.width.max(mode.height), mode.width.min(mode.height));
    let ratio = (long * 100 / short - 100).min(255);
    bytes[8..].copy_from_slice(&[0, 120, ratio as u8, 0x77]);
    bytes
}

/// Display interface features: one link of DisplayPort 1.4, RGB with 8 bits a colour.
const INTERFACE: [u8; 10] = [0xa1, 0x14, 0x02, 0, 0, 0, 0, 0, 0, 0];

fn encode(timing: &Timing, flags: u8) -> [u8; TIMING] {
    let mut bytes = [0; TIMING];
    bytes[..3].copy_from_slice(&(timing.clock - 1).to_le_bytes()[..3]);
    bytes[3] = flags | aspect(timing.mode);
    let positive = 0x8000;
    let fields = [
        timing.mode.width - 1,
        timing.h_blank - 1,
        (timing.h_front - 1) | positive,
        timing.h_sync - 1,
        timing.mode.height - 1,
        timing.v_blank - 1,
        timing.v_front - 1,
        timing.v_sync - 1,
    ];
    for (place, field) in bytes[4..].chunks_exact_mut(2).zip(fields) {
        place.copy_from_slice(&(field as u16).to_le_bytes());
    }
    bytes
}

/// DisplayID's code of the aspect ratio; 8 means another one.
fn aspect(mode: Mode) -> u8 {
    const CODES: [(u32, u32); 8] = [(1, 1), (5, 4), (4, 3), (15, 9), (16, 9), (16, 10), (64, 27), (256, 135)];
    let code = CODES.iter().position(|(w, h)| mode.width * h == mode.height * w);
    code.unwrap_or(8) as u8
}
