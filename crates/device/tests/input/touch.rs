//! The touch screen.

use device::InputKind::Touch;
use device::{SourceEvent, TouchPhase};

use crate::conversation::{check, hold};
use crate::machine::Machine;

#[test]
fn a_tap_byte_for_byte() {
    let mut machine = Machine::usual(Touch);
    let touch = |phase| SourceEvent::Touch { slot: 3, phase, head: 0, x: 2, y: 4 };
    let select = [3, 0, 0x2f, 0, 3, 0, 0, 0];
    let [x, y] = [[3, 0, 0x35, 0, 1, 0, 0, 0], [3, 0, 0x36, 0, 2, 0, 0, 0]];
    let [down, up] = [[1, 0, 0x4a, 1, 1, 0, 0, 0], [1, 0, 0x4a, 1, 0, 0, 0, 0]];
    let [finger, none] = [[3, 0, 0x39, 0, 0, 0, 0, 0], [3, 0, 0x39, 0, 0xff, 0xff, 0xff, 0xff]];
    assert_eq!(machine.does([touch(TouchPhase::Down)]), [select, down, [0; 8], finger, x, y, [0; 8]]);
    assert_eq!(machine.does([touch(TouchPhase::Up)]), [none, up, [0; 8]]);
}

#[test]
fn fingers_come_move_and_go() {
    let conversation = "
        touch 0 down 0 20 20 -> abs 47 0, key 330 1 | abs 57 0, abs 53 10, abs 54 10
        touch 0 move 0 20 20
        touch 0 move 0 22 20 -> abs 53 11, abs 54 10
        touch 1 down 0 40 40 -> abs 47 1 | abs 57 1, abs 53 20, abs 54 20
        # Movements of two fingers are one for each of them.
        touch 0 move 0 2 2; touch 1 move 0 4 4; touch 0 move 0 6 6; touch 1 move 0 8 8 -> abs 47 0, abs 53 3, abs 54 3 | abs 47 1, abs 53 4, abs 54 4
        touch 0 up 0 0 0 -> abs 47 0, abs 57 -1
        touch 1 up 0 0 0 -> abs 47 1, abs 57 -1, key 330 0
        # Where it came down is told even if it moves at once; a second tap has another name.
        touch 1 down 0 2 2; touch 1 move 0 4 4; touch 1 move 0 6 6 -> key 330 1 | abs 57 2, abs 53 1, abs 54 1 | abs 53 3, abs 54 3
        touch 1 up 0 0 0; touch 1 down 0 2 2 -> abs 57 -1, key 330 0 | key 330 1 | abs 57 3, abs 53 1, abs 54 1
        # A finger that is down cannot come down.
        touch 1 down 0 4 4 -> abs 53 2, abs 54 2
    ";
    check(Touch, conversation);
}

#[test]
fn fingers_are_lifted_when_the_session_ends_and_stay_so() {
    let conversation = "
        touch 0 down 0 2 2; touch 9 down 0 4 4 -> abs 47 0, key 330 1 | abs 57 0, abs 53 1, abs 54 1 | abs 47 9 | abs 57 1, abs 53 2, abs 54 2
        gone -> abs 47 0, abs 57 -1 | abs 47 9, abs 57 -1, key 330 0
        touch 0 move 0 8 8; touch 9 up 0 0 0
        touch 0 down 0 2 2 -> abs 47 0, key 330 1 | abs 57 2, abs 53 1, abs 54 1
    ";
    let mut machine = Machine::usual(Touch);
    hold(&mut machine, conversation);
    assert_eq!(machine.stats.snapshot().released, 2);
}

#[test]
fn what_a_touch_screen_cannot_say_is_ignored_and_counted() {
    let conversation = "
        touch 10 down 0 1 1; touch 255 down 0 1 1
        key 30 down; button 272 down; key 330 down; button 330 down; pointer 0 1 1; wheel 120 120
    ";
    let mut machine = Machine::usual(Touch);
    hold(&mut machine, conversation);
    let stats = machine.stats.snapshot();
    assert_eq!((stats.events, stats.ignored, stats.frames), (8, 8, 0));
}
