//! The seam for input between device and viewer, with a stranger in the viewer's place.
#![no_main]

use fuzz::typing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = typing::intrude(data);
});
