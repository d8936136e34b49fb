//! A keyboard, pointer or touch screen whose people, driver and VMM do as they like.
#![no_main]

use fuzz::{input, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(input::seeds()), |data: &[u8]| input::live(data));
