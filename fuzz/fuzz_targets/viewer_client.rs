//! The bytes of a VNC client.
#![no_main]

use fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::viewer_client()), |data: &[u8]| {
    viewer::fuzz::client(data);
});
