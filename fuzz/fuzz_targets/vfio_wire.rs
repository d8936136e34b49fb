//! Bytes as a message of vfio-user.
#![no_main]

use fuzz::{cards, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::vfio_wire()), |data: &[u8]| cards::parse(data));
