//! A 3D library that has no room: its work waits, in order and within bounds, and nothing else does.

use device::{VirtioDevice, caps};

use crate::asks::{
    IMAGE, attach, close, create_2d, create_3d, display_info, flush, join, mappable, open, raw, scanout, submit,
    to_host, unref,
};
use crate::strict::{PAGE, Pace};
use crate::window::Guest;

const VIRGL2: u32 = 2;
const VENUS: u32 = 4;
const ALL: [u32; 6] = [0, 0, 0, 16, 16, 1];
const CONTROL: u16 = 0;

/// A guest that has drawn in both ways, and whose library has no more room for what `full` says.
fn guest(full: &[u32]) -> Guest {
    let mut guest = Guest::new(Pace::Prompt);
    let asks = [
        open(1, VIRGL2),
        open(2, VENUS),
        create_3d(10, IMAGE),
        attach(10, 0x1000, 0x400),
        join(1, 10),
        create_2d(5, 16, 16),
        attach(5, 0x2000, 0x400),
        scanout(0, 5, 16, 16),
        submit(1, &[0]),
        submit(2, &[0]),
    ];
    guest.all("ok", &asks);
    set_full(&guest, full);
    guest
}

fn set_full(guest: &Guest, full: &[u32]) {
    guest.library.known().full = full.iter().copied().collect();
}

fn called(guest: &Guest, name: &str) -> u64 {
    guest.library.known().called(name)
}

#[test]
fn work_waits_while_the_console_and_the_other_kind_go_on() {
    let mut guest = guest(&[VIRGL2]);
    let waiting = [
        submit(1, &[0]).fenced(1),
        to_host(1, 10, ALL, 0, [0; 3]),
        to_host(0, 10, ALL, 0, [0; 3]),
        create_3d(11, IMAGE),
        attach(11, 0x3000, 0x400),
        join(1, 11),
        flush(10, 16, 16),
        submit(1, &[0]),
        unref(10),
        close(1),
    ];
    let before = guest.library.known().calls.clone();
    let waiting = waiting.map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!(waiting.map(|index| guest.reply(index)), [None; 10]);
    // A fence that comes behind one that waits is told behind it, whatever it is of.
    let behind = guest.send(&flush(5, 16, 16).fenced(2));
    for ask in [
        raw(0x105, &[0, 0, 16, 16, 0, 0, 5, 0]),
        flush(5, 16, 16),
        display_info(),
        raw(0x301, &[0, 1, 1, 0, 0, 0, 0, 0]).on_cursor_queue(),
        submit(2, &[0]).fenced(3).on(1),
        mappable(2, 20, PAGE),
        open(3, VIRGL2),
    ] {
        let index = guest.send(&ask);
        guest.settle();
        assert!(guest.reply(index).is_some(), "{ask:x?}");
    }
    let after = guest.library.known().calls.clone();
    let changed: Vec<_> = after.iter().filter(|(name, count)| before.get(*name) != Some(count)).collect();
    assert_eq!(changed, [(&"create_blob", &1), (&"fence", &1), (&"submit", &3)]);
    assert_eq!(guest.reply(behind), None);
    set_full(&guest, &[]);
    guest.wait();
    assert_eq!(waiting.map(|index| guest.reply(index)), [Some("ok"); 10]);
    assert_eq!(guest.reply(behind), Some("ok"));
    guest.finish();
}

#[test]
fn what_waits_is_done_in_the_order_in_which_it_came_and_only_as_far_as_there_is_room() {
    let mut guest = guest(&[VIRGL2, VENUS]);
    guest.library.known().pace = Pace::Late;
    let asks: Vec<_> = (0..100).map(|at| submit(1 + at % 2, &[at])).collect();
    let sent: Vec<_> = asks.iter().map(|ask| guest.send(ask)).collect();
    guest.settle();
    assert_eq!(called(&guest, "submit"), 2);
    // Never more than three at a time.
    set_full(&guest, &[]);
    guest.library.known().room = 3;
    guest.wait();
    assert!(sent.iter().all(|index| guest.reply(*index) == Some("ok")));
    let known = guest.library.known();
    assert_eq!((known.called("submit"), known.most), (102, 3));
    let of = |context: u32| known.submitted.iter().filter(move |(of, _)| *of == context).map(|(_, word)| *word).skip(1);
    assert!(of(1).eq((0..100).step_by(2)) && of(2).eq((1..100).step_by(2)));
    drop(known);
    guest.finish();
}

#[test]
fn what_waits_has_a_limit_over_which_the_ring_waits_with_it() {
    let mut guest = guest(&[VIRGL2]);
    let large = vec![0u32; 1 << 20];
    let mut sent = Vec::new();
    while !guest.gpu.is_full(CONTROL) {
        sent.push(guest.send(&submit(1, &large)));
        guest.settle();
    }
    assert_eq!((sent.len() * 4) << 20, caps::WAITING_BYTES);
    assert!(!guest.gpu.is_full(1), "the pointer's ring does not wait");
    // What is small takes nothing of it.
    set_full(&guest, &[]);
    guest.wait();
    assert!(!guest.gpu.is_full(CONTROL));
    assert!(sent.iter().all(|index| guest.reply(*index) == Some("ok")));
    set_full(&guest, &[VIRGL2]);
    for _ in 0..1000 {
        guest.send(&submit(1, &[0]));
    }
    guest.settle();
    assert!(!guest.gpu.is_full(CONTROL));
    set_full(&guest, &[]);
    guest.finish();
}

#[test]
fn what_waits_is_answered_when_the_library_is_lost_or_the_device_stops() {
    for dies in [true, false] {
        let mut guest = guest(&[VIRGL2]);
        let large = vec![0u32; 1 << 20];
        let sent: Vec<_> = (0..16).map(|_| guest.send(&submit(1, &large).fenced(1))).collect();
        assert!(guest.gpu.is_full(CONTROL));
        if dies {
            set_full(&guest, &[]);
            guest.library.die();
            guest.wait();
        } else {
            guest.stop();
        }
        assert!(sent.iter().all(|index| guest.reply(*index) == Some("unspec")), "{:?}", guest.reply(sent[0]));
        assert!(!guest.gpu.is_full(CONTROL));
        if dies {
            guest.finish();
        }
    }
}
