//! A library's process whose device asks for anything.
#![no_main]

use fuzz::{isolated, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(isolated::requests()), |data: &[u8]| {
    isolated::serve(data);
});
