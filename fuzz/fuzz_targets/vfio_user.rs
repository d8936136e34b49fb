//! A VMM that says anything in any order.
#![no_main]

use fuzz::{cards, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::vfio_user()), |data: &[u8]| cards::converse(data));
