//! A library's process that tells, offers and does anything.
#![no_main]

use fuzz::{isolated, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(isolated::strangers()), |data: &[u8]| {
    isolated::intrude(data);
});
