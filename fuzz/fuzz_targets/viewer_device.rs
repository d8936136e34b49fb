//! The seam between device and viewer, with a stranger on either side.
#![no_main]

use fuzz::{seeds, session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::viewer_device()), |data: &[u8]| session::intrude(data));
