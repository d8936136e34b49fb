//! A front-end that says anything in any order.
#![no_main]

use fuzz::{machine, seeds};
use libfuzzer_sys::{Corpus, fuzz_target};
use renderer::Soft;

fuzz_target!(init: seeds::plant(seeds::vhost_user()), |data: &[u8]| -> Corpus {
    if seeds::has_long_ring(data) {
        return Corpus::Reject;
    }
    let (gpu, _, stats) = machine::gpu(Box::new(Soft::new()), false);
    transport::vhost_user::replay::replay(Box::new(gpu), data);
    assert_eq!(stats.panics.get(), 0);
    Corpus::Keep
});
