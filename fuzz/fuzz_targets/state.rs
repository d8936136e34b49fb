//! A saved state that somebody wrote by hand.
#![no_main]

use fuzz::machine::Machine;
use fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::state()), |data: &[u8]| {
    let Ok(state) = serde_json::from_slice::<device::gpu::State>(data) else { return };
    let mut machine = Machine::soft();
    let restored = machine.gpu.restore(state);
    assert!(restored.is_ok() || machine.stats.resources.get() == 0);
    machine.screen.seen().events.push(device::DisplayEvent::Forgot);
    machine.poll();
    for line in ["scanout 0 1 0,0+1x1", "flush 1 0,0+1x1", "transfer 1 0,0+1x1", "cursor 0 0,0 1 0,0", "unref 1"] {
        machine.ask(line);
    }
    machine.gpu.state();
    machine.finish();
});
