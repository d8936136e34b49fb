//! The device's window, as an in-process guest has it.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use device::Front;

use crate::fake::{self, Fake, Shared};
use crate::loopback::{Habit, Happened, Loopback};
use crate::window::ANSWER_LIMIT;

const LEN: u64 = 0x4000;

fn guest() -> (Loopback, Shared) {
    let (fake, seen) = Fake::showing();
    (Loopback::new(fake), seen)
}

fn run(guest: &mut Loopback, seen: &Shared) -> Vec<(u64, bool)> {
    guest.run();
    std::mem::take(&mut seen.lock().mapped)
}

#[test]
fn the_guest_and_the_host_share_what_is_mapped() {
    let (mut guest, seen) = guest();
    let file = seen.map(1, 0x10000, LEN);
    assert_eq!(run(&mut guest, &seen), [(1, true)]);
    file.write_all_at(b"from the host", 0x1000).unwrap();
    assert_eq!(guest.window().read(1, 0x11000, 13).unwrap(), b"from the host");
    guest.window().write(1, 0x10002, b"guest").unwrap();
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"\0\0guest");
    for (region, at, len) in [(1, 0xffff, 1), (1, 0x14000, 1), (1, 0x13fff, 2), (0, 0x10000, 1), (2, 0x10000, 1)] {
        assert_eq!(guest.window().read(region, at, len), None, "{len} bytes at {at:#x} of region {region}");
    }
    seen.unmap(2, 0x10000, LEN);
    assert_eq!(run(&mut guest, &seen), [(2, true)]);
    assert_eq!((guest.window().read(1, 0x10000, 1), guest.window().mapped()), (None, vec![]));
}

#[test]
fn nothing_is_mapped_twice_in_one_place() {
    let (mut guest, seen) = guest();
    for (ticket, at) in [(1, 0x4000), (2, 0x4000), (3, 0x7000), (4, 0x1000), (5, 0x8000), (6, 0)] {
        seen.map(ticket, at, LEN);
    }
    let answers = run(&mut guest, &seen);
    assert_eq!(answers, [(1, true), (2, false), (3, false), (4, false), (5, true), (6, true)]);
    assert_eq!(guest.window().mapped(), [(1, 0, LEN), (1, 0x4000, LEN), (1, 0x8000, LEN)]);
}

#[test]
fn a_vmm_that_refuses_is_believed() {
    let (mut guest, seen) = guest();
    guest.window().set_habit(Habit::Refuses);
    seen.map(1, 0, LEN);
    assert_eq!(run(&mut guest, &seen), [(1, false)]);
    guest.front(Front { maps: false, context_init: true });
    guest.window().take_happened();
    seen.map(2, 0, LEN);
    assert_eq!(run(&mut guest, &seen), [(2, false)]);
    assert_eq!(guest.window().take_happened(), [], "who cannot map is not asked");
    assert!(!seen.lock().front.maps);
}

#[test]
fn a_device_waits_for_an_answer_so_long_and_no_longer() {
    let (mut guest, seen) = guest();
    guest.window().set_habit(Habit::Slow);
    seen.map(1, 0, LEN);
    assert_eq!(run(&mut guest, &seen), []);
    assert_eq!(guest.deadline(), Some(guest.now() + ANSWER_LIMIT));
    guest.advance(ANSWER_LIMIT - Duration::from_nanos(1));
    assert_eq!(run(&mut guest, &seen), []);
    guest.advance(Duration::from_nanos(1));
    assert_eq!(run(&mut guest, &seen), [(1, false)]);
    assert_eq!((guest.deadline(), guest.window().under_way()), (None, 1));
    // It comes all the same, and is undone.
    guest.window().answer(1);
    assert_eq!(run(&mut guest, &seen), []);
    guest.window().answer(1);
    let expected = [Happened::Mapped { region: 1, at: 0, len: LEN }, Happened::Unmapped { region: 1, at: 0, len: LEN }];
    assert_eq!(guest.window().take_happened(), expected);
}

#[test]
fn what_is_mapped_stays_so_while_the_guest_is_paused() {
    let (mut guest, seen) = guest();
    seen.map(1, 0, LEN);
    seen.map(2, LEN, LEN);
    run(&mut guest, &seen);
    guest.pause();
    guest.window().take_happened();
    seen.unmap(3, 0, LEN);
    seen.map(4, 2 * LEN, LEN);
    assert_eq!(run(&mut guest, &seen), [(3, false), (4, false)]);
    assert_eq!((guest.window().mapped().len(), guest.window().take_happened()), (2, vec![]));
    guest.resume();
    assert_eq!(run(&mut guest, &seen), []);
    assert_eq!(guest.window().mapped(), [(1, LEN, LEN)]);
}

#[test]
fn a_device_that_panicked_shows_nothing_any_more() {
    let (mut guest, seen) = guest();
    seen.map(1, 0, LEN);
    run(&mut guest, &seen);
    guest.window().set_habit(Habit::Slow);
    seen.map(2, LEN, LEN);
    guest.run();
    assert!(guest.request(0, &[fake::PANIC], 8).is_some());
    assert_eq!(run(&mut guest, &seen), [(2, false)]);
    while guest.window().answer(1) > 0 {
        guest.run();
    }
    assert_eq!(guest.window().mapped(), []);
}

#[test]
fn another_vmm_has_mapped_nothing() {
    let (mut guest, seen) = guest();
    seen.map(1, 0, LEN);
    run(&mut guest, &seen);
    guest.window().set_habit(Habit::Slow);
    seen.map(2, LEN, LEN);
    guest.run();
    guest.reconnect();
    assert_eq!(run(&mut guest, &seen), [(2, false)]);
    assert_eq!(guest.window().mapped(), []);
}
