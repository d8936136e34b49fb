//! A device that talks by itself, over a socket.

use super::super::Options;
use super::super::message::code;
use super::front::{Front, Served};

#[test]
fn what_the_device_says_reaches_a_driver_that_sleeps() {
    let served = Served::talking(Options::default());
    let mut front = Front::ready(&served);
    let places = front.post(0, 4);
    served.seen.say([b"one", b"two"]);
    assert_eq!([front.wait_used(0), front.wait_used(0)].map(|used| used.len), [3, 3]);
    assert_eq!(places[..2].iter().map(|at| front.read(*at, 3)).collect::<Vec<_>>(), [b"one", b"two"]);
    // More than there is room for: the kick that makes room is asked for.
    served.seen.say([b"3", b"4", b"5", b"6"]);
    front.wait_used(0);
    front.wait_used(0);
    for _ in 0..2 {
        front.post(0, 1);
        front.wait_used(0);
    }
    assert_eq!(front.request(1, b"e", 1), b"e");
}

#[test]
fn pause_get_vring_base_is_exact_while_buffers_lie_in_the_ring() {
    let served = Served::talking(Options::default());
    let mut front = Front::ready(&served);
    let places = front.post(0, 16);
    let mut base = 0;
    for round in 0..5u8 {
        served.seen.say([&[round, 0], &[round, 1]]);
        front.wait_used(0);
        front.wait_used(0);
        base += 2;
        front.enable(0, false);
        front.enable(1, false);
        assert_eq!([front.stop(0), front.stop(1)], [base, 0]);
        // It waits for the guest, and so does a third chain.
        served.seen.say([&[round, 2]]);
        front.enable(1, false);
        assert_eq!(front.used(0), None);
        front.send(code::SET_FEATURES, 0, &front.features.to_ne_bytes(), &[]);
        front.start(0, base);
        front.start(1, 0);
        front.enable(0, true);
        front.enable(1, true);
        front.wait_used(0);
        base += 1;
    }
    let said: Vec<_> = places[..15].iter().map(|at| front.read(*at, 2)).collect();
    assert_eq!(said, (0..5).flat_map(|round| [0, 1, 2].map(|at| vec![round, at])).collect::<Vec<_>>());
    let calls = served.seen.calls();
    assert!(!calls.contains(&"abandon".to_owned()), "nothing was waited for");
    assert_eq!(calls.iter().filter(|call| call.ends_with("Resumed")).count(), 5);
}
