//! Displays see pixels once more before they go.

use device::Start;

use crate::machine::Machine;

/// Head 0 shows an image whose first pixel is 0x1000, head 1 a blob in guest memory whose first pixel is 0x200000.
fn two_heads(shared: bool) -> Machine {
    let mut machine = Machine::with(Box::new(renderer::Soft::new()), shared);
    for line in [
        "create_2d 1 bgrx 16x16",
        "attach 1 0x1000+0x400",
        "transfer 1 0,0+16x16",
        "scanout 0 1 0,0+16x16",
        "blob 2 0x400 0x200000+0x400",
        "scanout_blob 1 2 0,0+16x16 16x16 bgrx 64 0",
    ] {
        machine.must(line);
    }
    machine
}

#[track_caller]
fn assert_caught_up(machine: &Machine, expected: &[(u32, u32)]) {
    assert_eq!(std::mem::take(&mut machine.screen.seen().caught_up), expected);
}

#[test]
fn before_a_head_goes_off_its_pixels_are_seen_once_more() {
    for shared in [false, true] {
        for (line, expected) in [
            ("scanout 0 0 0,0+0x0", (0, 0x1000)),
            ("scanout 1 0 0,0+0x0", (1, 0x20_0000)),
            ("scanout_blob 1 0 0,0+0x0 0x0 bgrx 0 0", (1, 0x20_0000)),
            ("unref 1", (0, 0x1000)),
            ("unref 2", (1, 0x20_0000)),
            ("detach 2", (1, 0x20_0000)),
        ] {
            let mut machine = two_heads(shared);
            machine.must(line);
            assert_caught_up(&machine, &[expected]);
            machine.ask(line);
            assert_caught_up(&machine, &[]);
        }
    }
}

#[test]
fn before_a_guest_stops_or_goes_all_heads_are_seen_once_more() {
    let mut machine = two_heads(false);
    machine.stop();
    assert_caught_up(&machine, &[(0, 0x1000), (1, 0x20_0000)]);
    machine.start(Start::Resumed);
    assert_caught_up(&machine, &[]);
    machine.reset();
    assert_caught_up(&machine, &[(0, 0x1000), (1, 0x20_0000)]);
}

/// What is still in memory belongs to another boot by then.
#[test]
fn a_new_driver_does_not_have_the_old_ones_pixels_seen_again() {
    let mut machine = two_heads(false);
    machine.stop();
    machine.screen.seen().caught_up.clear();
    machine.start(Start::Fresh);
    machine.ask("display_info");
    machine.must("create_2d 1 bgrx 16x16");
    assert_caught_up(&machine, &[]);
}

#[test]
fn a_head_whose_pixels_are_gone_is_left_out() {
    let mut machine = two_heads(false);
    machine.set_memory(&[0]);
    machine.stop();
    assert_caught_up(&machine, &[(0, 0x1000)]);
}
