//! Room and the lack of it: small rings, guests that stand still, pauses, resets, and what all that costs.

use device::InputKind::{Console, Touch};
use device::{SourceEvent, TouchPhase};
use transport::feature;
use transport::loopback::{Counts, Descriptor};

use crate::conversation::{frames, hold};
use crate::kernel::Kernel;
use crate::machine::{EVENT, Machine};

fn key(code: u16, pressed: bool) -> SourceEvent {
    SourceEvent::Key { code, pressed }
}

fn pointer(at: u16) -> SourceEvent {
    SourceEvent::Pointer { head: 0, x: 2 * at, y: 2 * at }
}

/// A machine whose driver makes nothing available until it is told to.
fn stuck() -> Machine {
    let mut machine = Machine::usual(Console);
    // All of the ring is used up by positions.
    machine.refills = false;
    for at in 1..=21 {
        assert_eq!(frames(&machine.does([pointer(at)])), format!("abs 0 {at}, abs 1 {at}"));
    }
    assert_eq!(machine.does([pointer(22)]), [[0; EVENT as usize]; 0], "one chain is left, which is not enough");
    machine
}

fn changes(before: &Counts, after: &Counts) -> (u64, u64) {
    (after.kicks - before.kicks, after.interrupts[0] - before.interrupts[0])
}

#[test]
fn every_frame_fits_a_queue_of_four() {
    for kind in [Console, Touch] {
        let mut machine = Machine::new(kind, 4, u64::MAX);
        machine.fill();
        let conversation = match kind {
            Console => "
                pointer 0 2 2; button 272 down; button 272 up; wheel 120 -120 -> abs 0 1, abs 1 1, key 272 1 | key 272 0 | rel 11 120, rel 8 1 | rel 12 -120, rel 6 -1
                pointer 0 4 4; wheel 120 0 -> abs 0 2, abs 1 2 | rel 11 120, rel 8 1
                key 30 down; key 31 down; release -> key 30 1 | key 31 1 | key 30 0 | key 31 0
            ",
            Touch => "
                touch 0 down 0 2 2; touch 1 down 0 4 4; touch 0 up 0 0 0; touch 1 up 0 0 0 -> abs 47 0, key 330 1 | abs 57 0, abs 53 1, abs 54 1 | abs 47 1 | abs 57 1, abs 53 2, abs 54 2 | abs 47 0, abs 57 -1 | abs 47 1, abs 57 -1, key 330 0
            ",
        };
        hold(&mut machine, conversation);
        assert_eq!(machine.stats.dropped.get(), 0);
    }
}

#[test]
fn a_frame_waits_until_all_of_it_fits() {
    let conversation = "
        room 3
        pointer 0 2 2; button 272 down
        # Not even a part of it: what else comes waits behind.
        key 30 down
        room 1 -> abs 0 1, abs 1 1, key 272 1
        room 1
        room 1 -> key 30 1
    ";
    let mut machine = Machine::new(Console, 64, u64::MAX);
    hold(&mut machine, conversation);
    assert_eq!(machine.stats.dropped.get(), 0);
}

#[test]
fn a_guest_that_never_takes_events_costs_a_bounded_list() {
    let mut machine = Machine::new(Console, 64, u64::MAX);
    for round in 0..10_000u16 {
        let code = 1 + round % 200;
        machine.hand.does([key(code, true), pointer(round), key(code, false), SourceEvent::ReleaseAll]);
        machine.guest.run();
        assert!(machine.hand.is_done(), "a viewer never waits for a guest");
    }
    let stats = machine.stats.snapshot();
    assert_eq!((stats.events, stats.frames), (40_000, 0));
    assert!(stats.dropped > 19_000);
    // Then it takes all there is: some old news, and how things are now.
    machine.refills = true;
    machine.post(64);
    let mut kernel = Kernel::default();
    kernel.take(machine.settle());
    // One key is to be lifted, and the last place to be told.
    assert!(kernel.frames <= 64 + 2, "{}", kernel.frames);
    assert!(kernel.down.is_empty());
    assert_eq!(kernel.position, Some((9999, 9999)));
}

#[test]
fn a_stuck_guest_misses_movements_but_never_where_the_pointer_is() {
    let mut machine = stuck();
    for at in 23..1000 {
        assert!(machine.does([pointer(at)]).is_empty());
    }
    let stats = machine.stats.snapshot();
    assert_eq!((stats.coalesced, stats.dropped), (977, 0));
    machine.post(2);
    assert_eq!(frames(&machine.settle()), "abs 0 999, abs 1 999");
    assert!(machine.settle().is_empty());
}

#[test]
fn wheels_add_up_while_a_guest_stands_still() {
    let mut machine = stuck();
    let wheel = |vertical, horizontal| SourceEvent::Wheel { vertical, horizontal };
    for _ in 0..1000 {
        assert!(machine.does([wheel(-120, 30), wheel(15, 0)]).is_empty());
    }
    machine.post(64);
    let expected = "abs 0 22, abs 1 22 | rel 11 -105000, rel 8 -875 | rel 12 30000, rel 6 250";
    assert_eq!(frames(&machine.settle()), expected);
    // A sum that no number holds is the largest there is.
    let mut machine = stuck();
    for _ in 0..3 * (i32::MAX / 65536) {
        machine.hand.does([wheel(i16::MAX, i16::MIN)]);
    }
    machine.guest.run();
    machine.post(64);
    let largest =
        format!("rel 11 {}, rel 8 {} | rel 12 {}, rel 6 {}", i32::MAX, i32::MAX / 120, i32::MIN, i32::MIN / 120);
    assert_eq!(frames(&machine.settle()), format!("abs 0 22, abs 1 22 | {largest}"));
}

#[test]
fn no_key_sticks_whatever_was_dropped() {
    // The list is full up to so many changes before the key goes up: its press is told, dropped, or told with its release.
    for (already, told) in [(62, true), (63, true), (64, false)] {
        let mut machine = stuck();
        // The movement that waits is one of them.
        let taps = (1..already).map(|at| key(100 + (at - 1) / 2, at % 2 == 1));
        assert!(machine.does(taps).is_empty());
        assert!(machine.does([key(30, true), key(30, false), key(30, false)]).is_empty());
        assert_eq!(machine.stats.dropped.get(), u64::from(already == 63) + u64::from(already == 64), "{already}");
        machine.refills = true;
        machine.post(64);
        let seen = machine.settle();
        let text = frames(&seen);
        assert_eq!((text.contains("key 30 1"), text.contains("key 30 0")), (told, told), "{already}: {text}");
        let mut kernel = Kernel::default();
        kernel.take(seen);
        let odd = (already % 2 == 0).then_some(100 + (already - 2) / 2);
        assert_eq!(kernel.down, odd.into_iter().collect());
        assert_eq!(machine.stats.released.get(), u64::from(already == 63));
        // A press that was dropped never was; now there is room.
        assert_eq!(frames(&machine.does([key(30, true)])), "key 30 1");
    }
}

#[test]
fn a_click_or_a_turn_after_a_movement_that_was_dropped_is_where_it_was() {
    let turn = (SourceEvent::Wheel { vertical: 120, horizontal: 0 }, "abs 0 7, abs 1 7 | rel 11 120, rel 8 1");
    let click = (SourceEvent::Button { code: 272, pressed: true }, "abs 0 7, abs 1 7, key 272 1");
    for (event, expected) in [turn, click] {
        let mut machine = Machine::new(Console, 64, u64::MAX);
        machine.refills = false;
        machine.does((0..64).map(|at| key(100 + at / 2, at % 2 == 0)));
        machine.does([pointer(7)]);
        assert_eq!(machine.stats.dropped.get(), 1);
        machine.post(2);
        machine.settle();
        // Before the last place is made up for.
        machine.does([event, key(30, true)]);
        machine.refills = true;
        machine.post(62);
        let text = frames(&machine.settle());
        assert!(text.ends_with(&format!("key 131 0 | {expected}")), "{text}");
    }
}

#[test]
fn no_finger_sticks_whatever_was_dropped() {
    let touch = |slot, phase| SourceEvent::Touch { slot, phase, head: 0, x: 2, y: 2 };
    let mut machine = Machine::new(Touch, 64, u64::MAX);
    machine.refills = false;
    machine.post(7);
    let mut kernel = Kernel::default();
    kernel.take(machine.does([touch(9, TouchPhase::Down)]));
    assert!(kernel.fingers.contains_key(&9));
    // Thirty-two taps fill the list.
    machine.does((0..64).map(|at| touch(0, if at % 2 == 0 { TouchPhase::Down } else { TouchPhase::Up })));
    machine.does([touch(9, TouchPhase::Up), touch(1, TouchPhase::Down), touch(1, TouchPhase::Move)]);
    assert_eq!(machine.stats.dropped.get(), 2);
    machine.refills = true;
    machine.post(64);
    kernel.take(machine.settle());
    assert!(kernel.fingers.is_empty() && kernel.down.is_empty(), "{kernel:?}");
    assert_eq!(machine.stats.released.get(), 1);
}

#[test]
fn a_key_whose_release_was_dropped_is_pressed_again() {
    let mut machine = Machine::new(Console, 64, u64::MAX);
    machine.refills = false;
    machine.post(2);
    assert_eq!(frames(&machine.does([key(30, true)])), "key 30 1");
    machine.does((0..64).map(|at| key(100 + at / 2, at % 2 == 0)));
    machine.does([key(30, false)]);
    assert_eq!(machine.stats.dropped.get(), 1);
    // Room in the list for one: the release is made up for just before the press.
    machine.post(2);
    assert_eq!(frames(&machine.does([])), "key 100 1");
    machine.does([key(30, true)]);
    machine.refills = true;
    machine.post(64);
    let seen = machine.settle();
    assert!(frames(&seen).ends_with("key 131 0 | key 30 0 | key 30 1"), "{}", frames(&seen));
    assert_eq!(frames(&machine.does([key(30, false)])), "key 30 0");
}

#[test]
fn a_guest_that_stands_still_is_released_of_everything_when_it_goes_on() {
    let mut machine = Machine::usual(Console);
    machine.refills = false;
    let down: Vec<_> = (1..=32).map(|code| key(code, true)).collect();
    let mut kernel = Kernel::default();
    kernel.take(machine.does(down));
    assert_eq!(kernel.down.len(), 32);
    machine.does((33..=120).map(|code| key(code, true)));
    machine.does([SourceEvent::Gone]);
    machine.refills = true;
    machine.post(4);
    kernel.take(machine.settle());
    assert!(kernel.down.is_empty(), "{:?}", kernel.down);
    let stats = machine.stats.snapshot();
    assert_eq!((stats.dropped, stats.released), (88 - 64, 32 + 64));
}

#[test]
fn a_reset_in_the_middle_of_a_change_leaves_nothing_of_it() {
    let conversation = "
        # The first of a finger's two frames, and no room for the second.
        room 3
        touch 0 down 0 2 2 -> abs 47 0, key 330 1
        reboot; refill
        touch 0 move 0 4 4; touch 0 up 0 0 0
        touch 0 down 0 6 6 -> abs 47 0, key 330 1 | abs 57 0, abs 53 3, abs 54 3
    ";
    hold(&mut Machine::new(Touch, 64, u64::MAX), conversation);
    let conversation = "
        room 4
        key 42 down; key 30 down; pointer 0 2 2; wheel 90 0 -> key 42 1 | key 30 1
        reboot; refill
        # The next driver's keyboard has nothing down and nothing begun.
        key 42 up; key 30 up; release
        wheel 60 0 -> rel 11 60
        pointer 0 2 2 -> abs 0 1, abs 1 1
        key 30 down -> key 30 1
    ";
    hold(&mut Machine::new(Console, 64, u64::MAX), conversation);
}

#[test]
fn pause_loses_nothing_that_fits_the_list() {
    let conversation = "
        key 42 down -> key 42 1
        pause
        key 30 down; key 30 up; pointer 0 2 2; pointer 0 4 4
        key 42 up
        resume -> key 30 1 | key 30 0 | abs 0 2, abs 1 2 | key 42 0
        pause; resume
        key 30 down -> key 30 1
        pause
        gone
        resume -> key 30 0
    ";
    hold(&mut Machine::usual(Console), conversation);
}

#[test]
fn pause_is_exact_while_buffers_lie_in_the_ring() {
    let mut machine = Machine::usual(Console);
    machine.refills = false;
    for round in 0..5u16 {
        assert_eq!(machine.does([key(30, round % 2 == 0)]).len(), 2);
        let before = machine.guest.elapsed();
        assert_eq!(machine.pause(), [2 * (round + 1), 0]);
        assert_eq!(machine.guest.elapsed(), before, "nothing was waited for");
        machine.resume();
    }
    // Buffers that were offered during a pause are found without a kick.
    machine.pause();
    machine.post(10);
    machine.resume();
    machine.refills = true;
    let mut kernel = Kernel::default();
    kernel.take(machine.does((1..=32).map(|code| key(code + 100, true))));
    assert_eq!(kernel.down.len(), 32);
}

#[test]
fn nothing_is_told_before_a_driver_is_there_or_to_the_wrong_one() {
    let mut machine = Machine::new(Console, 64, u64::MAX);
    assert!(machine.does([key(30, true)]).is_empty());
    machine.pause();
    assert!(machine.does([key(31, true)]).is_empty());
    machine.reconnect();
    machine.fill();
    assert!(machine.settle().is_empty());
    assert_eq!(frames(&machine.does([key(30, true)])), "key 30 1");
}

#[test]
fn a_thousand_movements_cost_no_kick() {
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let mut machine = Machine::new(Console, 64, features);
        machine.fill();
        machine.settle();
        let before = machine.guest.counts();
        let mut kernel = Kernel::default();
        for at in 0..1000 {
            kernel.take(machine.does([pointer(at)]));
        }
        assert_eq!((kernel.frames, kernel.position), (1000, Some((999, 999))));
        assert_eq!(changes(&before, &machine.guest.counts()), (0, 1000));
    }
}

#[test]
fn a_driver_is_asked_to_kick_when_the_device_waits_for_room_and_only_then() {
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let mut machine = Machine::new(Console, 64, features);
        machine.refills = false;
        // The first one is before the device has looked at the ring.
        machine.fill();
        assert_eq!(machine.does((1..=32).map(|code| key(code, true))).len(), 64);
        let before = machine.guest.counts();
        machine.post(10);
        assert_eq!(changes(&before, &machine.guest.counts()), (0, 0), "nothing is waited for");
        assert_eq!(machine.does((33..=40).map(|code| key(code, true))).len(), 10);
        assert_eq!(changes(&before, &machine.guest.counts()), (0, 1), "one interrupt for all");
        machine.post(1);
        assert_eq!(changes(&before, &machine.guest.counts()), (1, 1));
        assert_eq!(machine.settle().len(), 0);
        machine.post(5);
        assert_eq!(changes(&before, &machine.guest.counts()), (2, 1));
        assert_eq!(machine.settle().len(), 6);
        assert_eq!(machine.stats.frames.get(), 40);
        machine.post(64);
        assert_eq!(changes(&before, &machine.guest.counts()), (2, 2), "all was told");
    }
}

#[test]
fn an_idle_device_does_nothing() {
    let mut machine = Machine::usual(Console);
    machine.settle();
    assert!(!machine.guest.readable(std::time::Duration::ZERO));
    assert_eq!(machine.guest.deadline(), None);
    machine.hand.does([key(30, true)]);
    assert!(machine.guest.readable(std::time::Duration::ZERO));
    machine.settle();
    assert!(!machine.guest.readable(std::time::Duration::ZERO));
}

#[test]
fn a_hundred_thousand_events_leave_no_more_than_the_list() {
    let mut machine = stuck();
    for second in 0..3u16 {
        for batch in 0..100u16 {
            let storm = (0..1000u16).map(|at| match at % 4 {
                0 => key(1 + at % 240, true),
                1 => pointer(at + batch + second),
                2 => SourceEvent::Wheel { vertical: 1, horizontal: 1 },
                _ => key(1 + (at - 3) % 240, false),
            });
            assert!(machine.does(storm).is_empty());
        }
    }
    let stats = machine.stats.snapshot();
    assert_eq!(stats.events, 300_000 + 22);
    machine.refills = true;
    machine.post(64);
    let mut kernel = Kernel::default();
    kernel.take(machine.settle());
    // Each change is two frames at most, and there are keys to be lifted and a place to be told.
    assert!(kernel.frames <= 2 * 64 + 33, "{}", kernel.frames);
    assert!(kernel.down.is_empty());
}

#[test]
fn chains_that_no_driver_makes_cost_their_event_and_no_more() {
    let mut machine = Machine::new(Console, 64, u64::MAX);
    let memory = 1 << 16;
    let bad = [
        Descriptor { addr: 0x100, len: EVENT, flags: 0, next: 0 },
        Descriptor { addr: 0x100, len: 3, flags: transport::loopback::WRITE, next: 0 },
        Descriptor { addr: memory - 4, len: EVENT, flags: transport::loopback::WRITE, next: 0 },
        Descriptor { addr: 0x100, len: 0, flags: transport::loopback::WRITE, next: 0 },
    ];
    for descriptor in bad {
        machine.guest.offer_chain(0, &[descriptor]).unwrap();
    }
    machine.guest.publish(0);
    machine.hand.does([key(30, true), key(31, true)]);
    machine.guest.run();
    let lengths: Vec<_> = std::iter::from_fn(|| machine.guest.used(0)).map(|used| used.len).collect();
    assert_eq!(lengths, [0, 3, 0, 0]);
    assert_eq!(machine.guest.counts().broken, [0, 0]);
    machine.fill();
    assert_eq!(frames(&machine.does([key(32, true)])), "key 32 1");
}
