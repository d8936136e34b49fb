//! The life of a device whose guest, renderer, display and VMM do as they like.
#![no_main]

use fuzz::{seeds, steps};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::device()), |data: &[u8]| steps::live(data));
