//! Keyboard, pointer and wheel.

use device::InputKind::Console;
use device::{Head, InputKind, Leds, SourceEvent};
use protocol::Rect;

use crate::conversation::{check, hold};
use crate::machine::Machine;

#[test]
fn a_key_byte_for_byte() {
    let mut machine = Machine::usual(Console);
    let press = machine.does([SourceEvent::Key { code: 0x1e, pressed: true }]);
    assert_eq!(press, [[1, 0, 0x1e, 0, 1, 0, 0, 0], [0; 8]]);
    let release = machine.does([SourceEvent::Key { code: 0x1e, pressed: false }]);
    assert_eq!(release, [[1, 0, 0x1e, 0, 0, 0, 0, 0], [0; 8]]);
}

#[test]
fn a_click_byte_for_byte() {
    let mut machine = Machine::usual(Console);
    let there = SourceEvent::Pointer { head: 0, x: 0xffff, y: 0x0202 };
    let click = machine.does([there, SourceEvent::Button { code: 0x110, pressed: true }]);
    assert_eq!(click, [[3, 0, 0, 0, 0xff, 0x7f, 0, 0], [3, 0, 1, 0, 1, 1, 0, 0], [1, 0, 0x10, 1, 1, 0, 0, 0], [0; 8]]);
}

#[test]
fn a_wheel_byte_for_byte() {
    let mut machine = Machine::usual(Console);
    let down = machine.does([SourceEvent::Wheel { vertical: -120, horizontal: 0 }]);
    let [fine, coarse] = [[2, 0, 0x0b, 0, 0x88, 0xff, 0xff, 0xff], [2, 0, 8, 0, 0xff, 0xff, 0xff, 0xff]];
    assert_eq!(down, [fine, coarse, [0; 8]]);
}

#[test]
fn keys_and_buttons() {
    let conversation = "
        key 30 down -> key 30 1
        # Whoever repeats is the guest.
        key 30 down; key 30 down; key 30 down
        key 42 down; key 31 down; key 31 up -> key 42 1 | key 31 1 | key 31 0
        key 30 up; key 42 up -> key 30 0 | key 42 0
        key 30 up
        button 272 down; button 273 down -> key 272 1 | key 273 1
        button 272 up; button 273 up -> key 272 0 | key 273 0
        button 276 down; button 276 up -> key 276 1 | key 276 0
    ";
    check(Console, conversation);
}

#[test]
fn the_pointer_comes_with_its_button() {
    let conversation = "
        pointer 0 0 0 -> abs 0 0, abs 1 0
        pointer 0 0 0
        pointer 0 65535 65535 -> abs 0 32767, abs 1 32767
        # Many movements are one, and a click is where it was.
        pointer 0 2 2; pointer 0 4 4; pointer 0 6 8 -> abs 0 3, abs 1 4
        pointer 0 20 20; button 272 down; pointer 0 40 40; button 272 up -> abs 0 10, abs 1 10, key 272 1 | abs 0 20, abs 1 20, key 272 0
        # Both axes, also when one did not change.
        pointer 0 40 42 -> abs 0 20, abs 1 21
        pointer 0 60 60; key 30 down; pointer 0 80 80 -> abs 0 30, abs 1 30 | key 30 1 | abs 0 40, abs 1 40
        # Pressed twice at one place.
        button 272 down; button 272 up -> key 272 1 | key 272 0
        # What is no news does not eat the movement before it.
        pointer 0 100 100; button 272 up -> abs 0 50, abs 1 50
    ";
    check(Console, conversation);
}

#[test]
fn wheels_have_notches_and_finer_steps() {
    let conversation = "
        wheel 120 0 -> rel 11 120, rel 8 1
        wheel 0 -240 -> rel 12 -240, rel 6 -2
        wheel 0 0
        # Three quarters, a half: one notch is full, a quarter is left.
        wheel 90 0 -> rel 11 90
        wheel 60 0 -> rel 11 60, rel 8 1
        wheel 90 0 -> rel 11 90, rel 8 1
        # What was begun in the other direction is forgotten.
        wheel 100 0 -> rel 11 100
        wheel -60 0 -> rel 11 -60
        wheel -60 0 -> rel 11 -60, rel 8 -1
        # Both ways are two frames; turns in a row add up.
        wheel 120 120; wheel 120 120 -> rel 11 240, rel 8 2 | rel 12 240, rel 6 2
        # The wheel turns where the pointer is.
        pointer 0 2 2; wheel 120 0; pointer 0 4 4; wheel 120 0 -> abs 0 1, abs 1 1 | rel 11 120, rel 8 1 | abs 0 2, abs 1 2 | rel 11 120, rel 8 1
    ";
    check(Console, conversation);
}

#[test]
fn everything_goes_up_when_focus_is_lost_or_the_session_ends() {
    let conversation = "
        release
        key 29 down; key 56 down; button 274 down -> key 29 1 | key 56 1 | key 274 1
        release -> key 29 0 | key 56 0 | key 274 0
        release; gone
        # The fingers still hold the keys; only a new press counts.
        key 29 up; key 56 up
        key 29 down; gone; key 29 down -> key 29 1 | key 29 0 | key 29 1
        gone -> key 29 0
    ";
    let mut machine = Machine::usual(Console);
    hold(&mut machine, conversation);
    let stats = machine.stats.snapshot();
    assert_eq!((stats.sessions, stats.released, stats.dropped), (3, 5, 0));
}

#[test]
fn what_the_driver_was_not_told_of_is_ignored_and_counted() {
    let conversation = "
        key 0 down; key 249 down; key 255 down; key 272 down; key 288 down; key 330 down; key 703 down; key 65535 down
        button 0 down; button 30 down; button 277 down; button 288 down; button 330 down; button 65535 down
        touch 0 down 0 1 1
        key 248 down; key 352 down -> key 248 1 | key 352 1
    ";
    let mut machine = Machine::usual(Console);
    hold(&mut machine, conversation);
    let stats = machine.stats.snapshot();
    assert_eq!((stats.events, stats.ignored, stats.frames), (17, 15, 2));
}

#[test]
fn lamps_reach_the_source_when_they_change() {
    let mut machine = Machine::usual(Console);
    hold(&mut machine, "led 1 1\n led 1 1\n led 0 1\n led 2 1\n led 3 1\n led 0 0");
    let leds = |num, caps, scroll| Leds { num, caps, scroll };
    let told = [leds(false, true, false), leds(true, true, false), leds(true, true, true), leds(false, true, true)];
    assert_eq!(machine.hand.leds(), told);
    // Several in one chain are one piece of news; repeat rates, half an event and nothing at all are none.
    machine.status(&[[0x11, 0, 1, 0, 0, 0, 0, 0], [0x11, 0, 0, 0, 1, 0, 0, 0]].concat());
    machine.status(&[0x14, 0, 0, 0, 0xfa, 0, 0, 0]);
    machine.status(&[0x11, 0, 2, 0]);
    machine.status(&[]);
    assert_eq!(machine.hand.leds(), [leds(true, false, true)]);
    machine.reboot();
    machine.settle();
    assert_eq!(machine.hand.leds(), [Leds::default()], "a new driver finds them off");
}

#[test]
fn a_place_on_a_head_is_one_on_the_desktop() {
    let head = |x, y, width, height| Head { enabled: true, rect: Rect::new(x, y, width, height) };
    let mut machine = Machine::usual(InputKind::Console);
    let nothing = Head::default();
    machine.desktop.set(&[head(0, 0, 1000, 500), nothing, head(1000, 0, 1000, 1000)]);
    let (first, last) = (8, 32759);
    let middle = |pixel: u32| pixel * 32768 / 2000;
    let conversation = format!(
        "
        pointer 0 0 0 -> abs 0 {first}, abs 1 16
        pointer 0 65535 65535 -> abs 0 {}, abs 1 {}
        pointer 2 0 0 -> abs 0 {}, abs 1 16
        pointer 2 65535 65535 -> abs 0 {last}, abs 1 32751
        # A head that is not there is all of the desktop.
        pointer 1 0 65535 -> abs 0 0, abs 1 32767
        pointer 255 65535 65535 -> abs 0 32767, abs 1 32767
        ",
        999 * 32768 / 2000 + 8,
        499 * 32768 / 1000 + 16,
        middle(1000) + 8,
    );
    hold(&mut machine, &conversation);
}
