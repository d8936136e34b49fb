//! A user's EDID file, as it came and with its checksums put right.
#![no_main]

use fuzz::seeds;
use libfuzzer_sys::fuzz_target;
use protocol::edid::{BLOCK, Edid};

fuzz_target!(init: seeds::plant(seeds::edid()), |data: &[u8]| {
    let mut mended = data.to_vec();
    for block in mended.chunks_exact_mut(BLOCK) {
        let sum = block[..BLOCK - 1].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        block[BLOCK - 1] = sum.wrapping_neg();
    }
    for bytes in [data, &mended] {
        for edid in [Edid::parse(bytes), Edid::parse_padded(bytes)].into_iter().flatten() {
            assert!(bytes.starts_with(edid.as_bytes()));
            assert!(edid.preferred_mode().is_none_or(|mode| mode.width > 0 && mode.height > 0));
        }
    }
});
