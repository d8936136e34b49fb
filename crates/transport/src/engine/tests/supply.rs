//! Rings that the device fills when it has something to say.

use device::Stats;
use std::sync::Arc;

use super::super::Stopped;
use crate::fake::{self, Fake, Shared};
use crate::feature;
use crate::loopback::{Descriptor, Loopback, Shape, Used, WRITE};

/// With both ways of asking for kicks.
const FEATURES: [u64; 2] = [u64::MAX, !feature::EVENT_IDX];

fn guest(features: u64) -> (Loopback, Shared) {
    let (fake, seen) = Fake::talking();
    (Loopback::with_shape(Box::new(fake), &Shape { features, ..Shape::default() }), seen)
}

/// Makes room for so many messages of 4 bytes.
fn post(guest: &mut Loopback, count: usize) -> Vec<(u32, u64)> {
    let chains = (0..count).map(|_| {
        let addr = guest.allocate(4).unwrap();
        let head = guest.offer_chain(0, &[Descriptor { addr, len: 4, flags: WRITE, next: 0 }]).unwrap();
        (u32::from(head), addr)
    });
    let chains = chains.collect();
    guest.publish(0);
    chains
}

fn used(guest: &mut Loopback) -> Vec<Used> {
    std::iter::from_fn(|| guest.used(0)).collect()
}

#[test]
fn each_message_takes_one_chain_and_all_of_them_one_interrupt() {
    for features in FEATURES {
        let (mut guest, seen) = guest(features);
        let chains = post(&mut guest, 10);
        guest.run();
        assert_eq!((used(&mut guest), guest.counts().interrupts), (vec![], vec![0, 0]));
        seen.say([b"one", b"", b"three"]);
        guest.run();
        let lens = [3, 0, 4];
        assert_eq!(used(&mut guest), [0, 1, 2].map(|at| Used { head: chains[at].0, len: lens[at] }));
        // What does not fit is cut off.
        assert_eq!([0, 2].map(|at| guest.read(chains[at].1, 4)), [b"one\0", b"thre"]);
        assert_eq!(guest.counts().interrupts, [1, 0]);
        assert!(seen.lock().requests.is_empty(), "none of them is a request");
        assert_eq!(seen.lock().rooms, [10, 10]);
    }
}

#[test]
fn kicks_are_asked_for_only_while_the_device_waits_for_room() {
    for features in FEATURES {
        let (mut guest, seen) = guest(features);
        guest.run();
        let kicks = |guest: &mut Loopback| (guest.counts().kicks, guest.counts().kicks_saved);
        let before = if features & feature::EVENT_IDX == 0 { (0, 1) } else { (1, 0) };
        post(&mut guest, 1);
        assert_eq!(kicks(&mut guest), before, "with EVENT_IDX the first one is always told");
        guest.run();
        seen.say([b"1", b"2", b"3"]);
        guest.run();
        assert_eq!(used(&mut guest).len(), 1);
        for round in 1..=2 {
            post(&mut guest, 1);
            assert_eq!(kicks(&mut guest).0, before.0 + round);
            guest.run();
            assert_eq!(used(&mut guest).len(), 1);
        }
        post(&mut guest, 1);
        guest.run();
        assert_eq!(kicks(&mut guest), (before.0 + 2, before.1 + 1));
    }
}

#[test]
fn room_that_comes_while_the_device_is_asked_needs_no_kick() {
    // The driver makes all available behind the device's back; what it saw is checked against its own index.
    for features in FEATURES {
        let (mut guest, seen) = guest(features);
        post(&mut guest, 2);
        seen.say([b"1", b"2", b"3", b"4"]);
        guest.run();
        assert_eq!(used(&mut guest).len(), 2);
        let chain = post(&mut guest, 4);
        // The kick is lost: the ring is looked at whenever the device is polled.
        seen.say([b"5"]);
        guest.run();
        assert_eq!(used(&mut guest).iter().map(|used| used.head).collect::<Vec<_>>(), [0, 1, 2].map(|at| chain[at].0));
    }
}

#[test]
fn pause_a_ring_with_buffers_stops_at_once_where_it_stands() {
    let (mut guest, seen) = guest(u64::MAX);
    let chains = post(&mut guest, 8);
    for round in 0..3u16 {
        seen.say([b"a", b"b"]);
        guest.run();
        let before = guest.elapsed();
        assert_eq!(guest.pause()[0], Stopped { queue: 0, base: 2 * round + 2 });
        assert_eq!(guest.elapsed(), before);
        seen.say([b"later"]);
        guest.run();
        assert_eq!(used(&mut guest).len(), 2);
        seen.lock().says.clear();
        guest.resume();
    }
    seen.say([b"last"]);
    guest.run();
    assert_eq!(used(&mut guest), [Used { head: chains[6].0, len: 4 }]);
    assert!(!seen.calls().contains(&"abandon".to_owned()));
}

#[test]
fn a_device_that_says_more_than_there_is_room_for_loses_it() {
    let (mut guest, seen) = guest(u64::MAX);
    seen.lock().rude = true;
    post(&mut guest, 2);
    seen.say([b"1", b"2", b"3", b"4"]);
    guest.run();
    assert_eq!((used(&mut guest).len(), guest.counts().broken), (2, vec![0, 0]));
}

#[test]
fn a_panic_while_it_talks_resets_the_device() {
    let (mut guest, seen) = guest(u64::MAX);
    let stats = Arc::new(Stats::default());
    guest.count_in(stats.clone());
    post(&mut guest, 4);
    seen.say([b"1", &[fake::PANIC]]);
    guest.run();
    assert_eq!((used(&mut guest).len(), stats.panics.get()), (1, 1));
    assert!(seen.calls().iter().any(|call| call == "reset"));
    seen.say([b"2"]);
    guest.run();
    assert_eq!(used(&mut guest).len(), 1);
}

#[test]
fn a_ring_that_cannot_be_followed_stops_and_the_other_goes_on() {
    let (mut guest, seen) = guest(u64::MAX);
    post(&mut guest, 4);
    let memory = guest.memory().clone();
    guest.driver(0).write_index(&memory, 1000);
    seen.say([b"1"]);
    guest.run();
    assert_eq!(guest.counts().broken, [1, 0]);
    assert_eq!(guest.request(1, b"e", 1).unwrap().used_len, 1);
    // A head that is none, found in the middle of a batch.
    guest.reboot();
    post(&mut guest, 3);
    guest.driver(0).write_available(&memory, 1, 999);
    seen.say([b"2", b"3", b"4"]);
    guest.run();
    assert_eq!((used(&mut guest).len(), guest.counts().broken), (1, vec![2, 0]));
}

#[test]
fn a_driver_that_makes_room_for_ever_does_not_keep_the_device() {
    let (mut guest, seen) = guest(!feature::EVENT_IDX);
    // Its index is the device's own: whatever is given back is made available at once.
    let layout = guest.driver(0).layout();
    guest.stop_ring(0);
    guest.write(layout.used + 2, &[5, 0]);
    guest.start_ring(0, crate::ring::Layout { available: layout.used, ..layout }, 0);
    seen.lock().says.extend((0..1000).map(|_| b"x".to_vec()));
    assert!(guest.run_once(), "there is more to do");
    let said = 1000 - seen.lock().says.len();
    assert!((5..100).contains(&said), "{said}");
    assert!(guest.run_once());
    assert_eq!((1000 - seen.lock().says.len(), guest.counts().broken), (2 * said, vec![0, 0]));
}
