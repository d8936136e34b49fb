//! A front-end that answers what it was asked to map, and what it was not, in any way and at any time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transport::vhost_user::answers::answers;

fuzz_target!(|data: &[u8]| {
    answers(data);
});
