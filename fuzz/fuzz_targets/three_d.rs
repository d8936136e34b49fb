//! The life of a device with contexts, whose guest, library and front-end do as they like.
#![no_main]

use fuzz::{seeds, three_d};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant([three_d::seeds(), three_d::kinds()].concat()), |data: &[u8]| three_d::live(data));
