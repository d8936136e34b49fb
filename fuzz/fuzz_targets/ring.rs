//! A driver that writes anything into its rings, over an in-process transport.
#![no_main]

use fuzz::{rings, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::ring()), |data: &[u8]| rings::drive(data));
