//! HOSTILE, row "pause": stopping, starting and changing what is parked.

use super::super::message::code;
use super::front::{Front, Served, layout, pair};
use crate::fake;
use crate::feature;
use crate::loopback::DriverQueue;

fn starts(served: &Served) -> Vec<String> {
    let calls = served.seen.calls();
    calls.iter().filter_map(|call| call.split(' ').nth(2)).map(str::to_owned).collect()
}

#[test]
fn pause_and_go_on_as_qemu_does() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    for round in 0..5 {
        assert_eq!(front.request(0, b"e", 1), b"e");
        front.enable(0, false);
        front.enable(1, false);
        let bases = [front.stop(0), front.stop(1)];
        assert_eq!(bases, [round + 1, 0]);
        front.send(code::SET_FEATURES, 0, &front.features.to_ne_bytes(), &[]);
        front.start(0, bases[0]);
        front.start(1, bases[1]);
        front.enable(0, true);
        front.enable(1, true);
    }
    assert_eq!(front.request(0, b"e", 1), b"e");
    assert_eq!(starts(&served), ["Fresh", "Resumed", "Resumed", "Resumed", "Resumed", "Resumed"]);
}

#[test]
fn pause_a_reboot_starts_fresh() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    assert_eq!(front.request(0, b"e", 1), b"e");
    front.stop(0);
    front.stop(1);
    front.write(0x10000, &[0; 0x10000]);
    front.set_up();
    assert_eq!(front.request(0, b"e", 1), b"e");
    assert_eq!(starts(&served), ["Fresh", "Fresh"]);
}

#[test]
fn pause_get_vring_base_waits_for_what_is_parked() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    front.offer(0, &[fake::LATER, 7], 2);
    front.publish(0);
    served.wait_for_requests(1);
    front.send(code::GET_VRING_BASE, 0, &pair(0, 0), &[]);
    served.seen.release();
    assert_eq!(front.reply(code::GET_VRING_BASE).unwrap(), pair(0, 1));
    assert_eq!(front.used(0).unwrap().len, 2, "given back before the answer");
    assert!(!served.seen.calls().contains(&"abandon".to_owned()));
}

#[test]
fn pause_get_vring_base_does_not_wait_for_ever() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    for kind in [fake::LATER, fake::FORGET] {
        front.offer(0, &[kind], 16);
    }
    front.publish(0);
    served.wait_for_requests(2);
    assert_eq!(front.stop(0), 2);
    assert_eq!([front.used(0).unwrap().len, front.used(0).unwrap().len], [9, 0]);
    assert!(served.seen.calls().contains(&"abandon".to_owned()));
}

#[test]
fn pause_set_features_while_chains_are_parked() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    front.offer(0, &[fake::LATER], 1);
    front.publish(0);
    served.wait_for_requests(1);
    front.send(code::SET_FEATURES, 0, &(feature::VERSION_1 | 1 << 30).to_ne_bytes(), &[]);
    served.seen.release();
    assert_eq!(front.wait_used(0).len, 1);
}

#[test]
fn pause_a_front_end_that_goes_leaves_nothing_parked() {
    let served = Served::listening();
    for round in 1..=10 {
        let mut front = Front::ready(&served);
        front.offer(0, &[fake::FORGET], 1);
        front.offer(0, &[fake::LATER], 1);
        front.publish(0);
        served.wait_for_requests(2 * round);
    }
    let mut front = Front::ready(&served);
    served.seen.release();
    assert_eq!((front.request(0, b"e", 1), front.used(0)), (b"e".to_vec(), None));
}

#[test]
fn pause_the_size_may_change_between_stop_and_start() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    for size in [2u16, 1024, 64, 256] {
        front.stop(0);
        front.write(0x10000, &[0; 0x10000]);
        front.queues[0].driver = DriverQueue::new(layout(0x10000, size), front.features);
        front.start(0, 0);
        for _ in 0..2 * size {
            assert_eq!(front.request(0, b"e", 1), b"e");
        }
    }
}

#[test]
fn pause_a_ring_may_be_stopped_twice_and_before_it_starts() {
    let served = Served::listening();
    let mut front = Front::connect(&served);
    front.negotiate();
    assert_eq!((front.stop(0), front.stop(1)), (0, 0));
    front.set_up();
    front.enable(0, true);
    front.request(0, b"e", 1);
    assert_eq!((front.stop(0), front.stop(0)), (1, 1));
    front.send(code::SET_VRING_BASE, 0, &pair(0, 77), &[]);
    assert_eq!(front.stop(0), 77);
}

#[test]
fn pause_kicks_of_a_stopped_ring_are_not_heard() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    front.stop(0);
    front.offer(0, b"e", 1);
    front.publish(0);
    front.request(1, b"e", 1);
    assert_eq!(served.seen.lock().requests.len(), 1);
    // The eventfd still holds the kick; what it announced is found even without one.
    front.start(0, 0);
    assert_eq!(front.wait_used(0).len, 1);
}
