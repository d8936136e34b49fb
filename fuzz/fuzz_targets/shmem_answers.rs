//! A front-end that answers what it was asked to map, and what it was not, in any way and at any time.
#![no_main]

use fuzz::seeds;
use libfuzzer_sys::fuzz_target;
use transport::vhost_user::answers::answers;

/// What a device asks and a front-end reads and answers, in each dialect: maps and unmaps that are done, refused, and overtaken by a
/// stop.
fn conversations() -> Vec<(String, Vec<u8>)> {
    let done = [0x00, 0x04, 0x05, 0x07, 0x00, 0x04, 0x05, 0x07];
    let refused = [0x00, 0x00, 0x00, 0x00, 0x56, 0x38, 0x00, 0x56, 0x08, 0x00, 0x56, 0x08];
    let stopped = [0x00, 0x04, 0x09, 0x20, 0x0a, 0x56, 0x08, 0x56, 0x08, 0x0f, 0x56, 0x08];
    let talks = [("done", &done[..]), ("refused", &refused), ("stopped", &stopped)];
    let all = (0..3u8)
        .flat_map(|dialect| talks.map(|(name, bytes)| (format!("{name}_{dialect}"), [&[dialect][..], bytes].concat())));
    all.collect()
}

fuzz_target!(init: seeds::plant(conversations()), |data: &[u8]| {
    answers(data);
});
