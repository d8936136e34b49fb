//! Memory that the device has by messages only.

use std::process::Command;

use super::*;
use crate::loopback::FAR;

fn far_guest() -> (Loopback, Shared) {
    let (fake, seen) = Fake::new();
    let guest = Loopback::far(fake);
    seen.calls();
    (guest, seen)
}

#[test]
fn all_that_rings_and_engine_do_they_do_over_far_memory_too() {
    if std::env::var_os(FAR).is_some() {
        return;
    }
    let all = ["ring::", "engine::", "--skip", "ten_thousand", "--skip", "memory_tables_change"];
    let tests = Command::new(std::env::current_exe().unwrap()).args(all).env(FAR, "1").output().unwrap();
    let said = String::from_utf8_lossy(&tests.stdout);
    assert!(tests.status.success() && !said.contains(" 0 passed"), "{said}");
}

#[test]
fn a_request_over_far_memory_takes_few_messages() {
    let (mut guest, _) = far_guest();
    guest.request(0, b"e", 1).unwrap();
    let before = guest.messages();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    // Index, entries, descriptors, the request; its reply, the entry for it, the index, the wish to be told; once more the
    // index after the wish to be kicked.
    let taken = guest.messages() - before;
    assert!(taken <= 10, "{taken}");
    let before = guest.messages();
    guest.run();
    assert_eq!(guest.messages(), before, "nothing is looked at without a kick");
}

#[test]
fn what_comes_while_memory_cannot_be_had_is_served_later() {
    let (mut guest, seen) = far_guest();
    let sent = guest.send(0, &[b"e!"], &[16]).unwrap();
    guest.suspend(true);
    for _ in 0..3 {
        assert!(guest.run_once(), "it is tried again");
    }
    assert!(seen.lock().requests.is_empty());
    assert_eq!(guest.counts().broken, [0, 0]);
    guest.suspend(false);
    guest.run();
    assert_eq!(guest.reply(&sent), reply(b"e!"));
}

#[test]
fn a_reply_that_comes_while_memory_cannot_be_had_is_given_back_later_and_announced() {
    let (mut guest, seen) = far_guest();
    let [first, second] = [0, 1].map(|_| send(&mut guest, fake::LATER));
    seen.release();
    guest.suspend(true);
    assert!(guest.run_once());
    assert_eq!(guest.used(0), None);
    let interrupts = guest.counts().interrupts[0];
    guest.suspend(false);
    guest.run();
    assert!(guest.counts().interrupts[0] > interrupts, "the driver looks again");
    assert_eq!((guest.reply(&second), guest.reply(&first)), (reply(b"l!"), reply(b"l!")));
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
}

#[test]
fn a_ring_that_is_set_up_while_memory_cannot_be_had_works_afterwards() {
    let (mut guest, _) = far_guest();
    guest.halt();
    guest.suspend(true);
    guest.renew();
    guest.run_once();
    assert_eq!(guest.counts().broken, [0, 0]);
    guest.suspend(false);
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
}

#[test]
fn memory_that_is_refused_stops_the_ring_once() {
    let (mut guest, seen) = far_guest();
    let parked = send(&mut guest, fake::LATER);
    guest.offer(0, &[b"e!"], &[16]).unwrap();
    guest.publish(0);
    guest.lose_memory();
    guest.run();
    assert_eq!(guest.counts().broken, [1, 0]);
    seen.release();
    guest.run();
    guest.kick(0);
    guest.run();
    assert_eq!(guest.counts().broken, [1, 0]);
    assert_eq!(seen.lock().requests.len(), 1);
    drop(parked);
}

#[test]
fn what_waits_to_be_given_back_is_not_written_into_memory_of_a_driver_that_reset() {
    let (mut guest, seen) = far_guest();
    send(&mut guest, fake::LATER);
    seen.release();
    guest.suspend(true);
    guest.run_once();
    guest.halt();
    guest.run_once();
    guest.suspend(false);
    guest.renew();
    guest.run();
    assert_eq!(guest.used(0), None);
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    assert_eq!(guest.counts().broken, [0, 0]);
}
