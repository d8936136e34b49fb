//! Parking, pausing, resetting, failing.

mod far;
mod reset;
mod supply;
mod window;

use std::sync::Arc;
use std::time::Duration;

use device::Stats;

use super::{STOP_LIMIT, Stopped};
use crate::fake::{self, Fake, Shared};
use crate::loopback::{Loopback, Reply, Sent, Shape};
use crate::ring::Layout;

fn guest() -> (Loopback, Shared) {
    let (fake, seen) = Fake::new();
    let guest = Loopback::new(fake);
    seen.calls();
    (guest, seen)
}

fn send(guest: &mut Loopback, kind: u8) -> Sent {
    let sent = guest.send(0, &[&[kind, b'!']], &[16]).unwrap();
    guest.run();
    sent
}

fn reply(bytes: &[u8]) -> Option<Reply> {
    Some(Reply { bytes: bytes.to_vec(), used_len: bytes.len() as u32 })
}

#[test]
fn a_parked_chain_gets_its_reply_in_any_order() {
    let (mut guest, seen) = guest();
    let [first, second] = [0, 1].map(|_| send(&mut guest, fake::LATER));
    let third = send(&mut guest, fake::ECHO);
    assert_eq!(guest.reply(&third), reply(b"e!"));
    assert_eq!((guest.reply(&first), guest.reply(&second)), (None, None));
    seen.release();
    guest.run();
    assert_eq!(guest.used(0).unwrap().len, 2);
    assert_eq!((guest.reply(&second), guest.reply(&first)), (None, reply(b"l!")), "the last one came first");
}

#[test]
fn a_ring_whose_device_has_no_room_waits_and_goes_on_by_itself_while_others_are_served() {
    let (mut guest, seen) = guest();
    seen.lock().room = Some(2);
    let sent = [0; 5].map(|_| send(&mut guest, fake::ECHO));
    assert_eq!(seen.lock().requests.len(), 2);
    // A kick changes nothing.
    guest.kick(0);
    guest.run();
    assert_eq!(seen.lock().requests.len(), 2);
    let other = guest.send(1, &[b"e!"], &[16]).unwrap();
    guest.run();
    assert_eq!(guest.reply(&other), reply(b"e!"));
    seen.lock().room = None;
    seen.wake();
    guest.run();
    assert!(sent.iter().all(|sent| guest.reply(sent) == reply(b"e!")));
}

#[test]
fn pause_a_ring_that_waits_for_room_goes_on_where_it_stood() {
    let (mut guest, seen) = guest();
    seen.lock().room = Some(2);
    let sent = [0; 5].map(|_| send(&mut guest, fake::ECHO));
    assert_eq!(guest.pause()[0].base, 2);
    seen.lock().room = None;
    guest.resume();
    guest.run();
    assert!(sent.iter().all(|sent| guest.reply(sent) == reply(b"e!")));
}

#[test]
fn completions_of_one_poll_are_one_interrupt() {
    let (mut guest, seen) = guest();
    for _ in 0..10 {
        guest.offer(0, &[&[fake::LATER]], &[1]).unwrap();
    }
    guest.publish(0);
    guest.run();
    assert_eq!(guest.counts().interrupts, [0, 0]);
    seen.release();
    guest.run();
    assert_eq!(guest.counts().interrupts, [1, 0]);
}

#[test]
fn a_parked_chain_keeps_the_descriptors_it_came_with() {
    let (mut guest, seen) = guest();
    let sent = send(&mut guest, fake::LATER);
    let memory = guest.memory().clone();
    for index in 0..64 {
        guest.driver(0).write_descriptor(&memory, index, Default::default());
    }
    seen.release();
    guest.run();
    assert_eq!(guest.reply(&sent), reply(b"l!"));
}

#[test]
fn a_reply_whose_memory_is_gone_has_length_0() {
    let (fake, seen) = Fake::new();
    let mut guest = Loopback::with_shape(
        Box::new(fake),
        &Shape { memory: vec![(0, 1 << 20), (1 << 30, 4096)], ..Shape::default() },
    );
    let request = guest.allocate(16).unwrap();
    guest.write(request, &[fake::LATER]);
    let descriptors = [(request, 1, 0), (1 << 30, 16, crate::loopback::WRITE)]
        .map(|(addr, len, flags)| crate::loopback::Descriptor { addr, len, flags, next: 0 });
    guest.offer_chain(0, &descriptors).unwrap();
    guest.publish(0);
    guest.run();
    guest.change_memory(|region| region.start == 0);
    seen.release();
    guest.run();
    assert_eq!(guest.used(0).unwrap().len, 0);
    assert_eq!(guest.counts().broken, [0, 0]);
}

#[test]
fn a_stop_is_not_a_reset() {
    let (mut guest, seen) = guest();
    let features = 0b11 | crate::feature::TRANSPORT;
    guest.request(0, b"e", 1).unwrap();
    assert_eq!(guest.pause(), [Stopped { queue: 0, base: 1 }, Stopped { queue: 1, base: 0 }]);
    assert_eq!(seen.calls(), ["stop"]);
    guest.resume();
    assert_eq!(seen.calls(), [format!("start {features:#x} Resumed")]);
    assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1);
    guest.reboot();
    assert_eq!(seen.calls(), ["stop".to_string(), format!("start {features:#x} Fresh")]);
    guest.reconnect();
    assert_eq!(seen.calls(), ["reset".to_string(), format!("start {features:#x} Fresh")]);
}

#[test]
fn a_guest_that_never_sent_anything_starts_fresh_after_a_pause() {
    let (mut guest, seen) = guest();
    guest.pause();
    guest.resume();
    assert!(seen.calls()[1].ends_with("Fresh"));
}

#[test]
fn one_queue_stops_and_starts_while_the_other_runs() {
    let (mut guest, seen) = guest();
    guest.request(1, b"e", 1).unwrap();
    guest.stop_ring(1).unwrap();
    guest.kick(1);
    assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1);
    guest.start_ring(1, guest.driver(1).layout(), 1);
    assert_eq!(guest.request(1, b"e", 1).unwrap().used_len, 1);
    assert!(seen.calls().is_empty());
}

#[test]
fn what_was_offered_during_a_pause_is_served_after_it_without_a_kick() {
    let (mut guest, seen) = guest();
    guest.pause();
    let sent = guest.offer(0, &[b"e!"], &[16]).unwrap();
    guest.publish(0);
    guest.run();
    assert!(seen.lock().requests.is_empty());
    guest.resume();
    guest.run();
    assert_eq!(guest.reply(&sent), reply(b"e!"));
}

#[test]
fn a_disabled_ring_is_left_alone() {
    let (mut guest, seen) = guest();
    guest.enable_ring(0, false);
    let sent = send(&mut guest, fake::ECHO);
    assert!(seen.lock().requests.is_empty());
    guest.enable_ring(0, true);
    guest.run();
    assert_eq!(guest.reply(&sent), reply(b"e!"));
}

#[test]
fn pause_a_ring_with_parked_chains_stops_once_they_are_completed() {
    let (mut guest, seen) = guest();
    let parked = send(&mut guest, fake::LATER);
    let before = guest.elapsed();
    seen.release();
    assert_eq!(guest.stop_ring(0), Some(Stopped { queue: 0, base: 1 }));
    assert_eq!(guest.reply(&parked), reply(b"l!"));
    assert_eq!(guest.elapsed(), before);
    assert!(seen.calls().is_empty(), "nothing was abandoned");
}

#[test]
fn pause_what_is_parked_for_too_long_is_abandoned() {
    let (mut guest, seen) = guest();
    let [parked, forgotten] = [fake::LATER, fake::FORGET].map(|kind| send(&mut guest, kind));
    let later = guest.send(0, &[b"e!"], &[16]).unwrap();
    let before = guest.elapsed();
    let stopped = guest.pause();
    assert_eq!(guest.elapsed() - before, STOP_LIMIT);
    assert_eq!(seen.calls(), ["abandon", "stop"]);
    assert_eq!(guest.reply(&parked), reply(b"abandoned"));
    assert_eq!(guest.reply(&forgotten), reply(b""), "the device must not lose a chain, but the guest gets it back");
    assert_eq!((stopped[0].base, guest.reply(&later)), (2, None), "nothing more is popped");
    guest.resume();
    guest.run();
    assert_eq!(guest.reply(&later), reply(b"e!"));
}

#[test]
fn pause_a_completion_does_not_reach_a_ring_that_was_set_up_anew() {
    let (mut guest, seen) = guest();
    send(&mut guest, fake::LATER);
    let layout = guest.lay_out(64);
    guest.start_ring(0, layout, 0);
    seen.release();
    guest.run();
    assert_eq!(guest.read(layout.used, 6 + 8 * 64), vec![0; 6 + 8 * 64]);
    assert_eq!(guest.counts().interrupts, [0, 0]);
    // The count of parked chains is the new ring's own.
    let before = guest.elapsed();
    assert_eq!(guest.stop_ring(0), Some(Stopped { queue: 0, base: 0 }));
    assert_eq!(guest.elapsed(), before);
}

#[test]
fn pause_a_completion_after_a_reset_is_dropped() {
    let (mut guest, seen) = guest();
    send(&mut guest, fake::LATER);
    let stale = std::mem::take(&mut seen.lock().open);
    guest.reconnect();
    seen.lock().ready.extend(stale);
    guest.run();
    assert_eq!((guest.used(0), guest.counts().interrupts), (None, vec![0, 0]));
}

#[test]
fn pause_the_size_may_change_between_stop_and_start() {
    let (mut guest, seen) = guest();
    for size in [1u16, 2, 256, 32768, 64] {
        guest.stop_ring(0).unwrap();
        let layout = guest.lay_out(size);
        guest.start_ring(0, layout, 0);
        assert_eq!(guest.counts().broken, [0, 0], "{size}");
        let driver = crate::loopback::DriverQueue::new(layout, 0);
        let memory = guest.memory().clone();
        driver.write_available(&memory, 0, size - 1);
        driver.write_index(&memory, 1);
        guest.kick(0);
        guest.run();
        assert_eq!(guest.read(layout.used + 2, 6), [[1, 0], (size - 1).to_le_bytes(), [0, 0]].concat(), "{size}");
    }
    assert_eq!(seen.lock().requests.len(), 5);
}

#[test]
fn setting_a_running_ring_up_as_it_is_changes_nothing() {
    let (mut guest, seen) = guest();
    let parked = send(&mut guest, fake::LATER);
    guest.start_ring(0, guest.driver(0).layout(), 1);
    seen.release();
    guest.run();
    assert_eq!(guest.reply(&parked), reply(b"l!"));
}

#[test]
fn a_device_that_gives_up_stops_every_ring_once() {
    let (mut guest, _) = guest();
    send(&mut guest, fake::BROKEN);
    assert_eq!(guest.counts().broken, [1, 1]);
    send(&mut guest, fake::ECHO);
    assert_eq!(guest.counts().broken, [1, 1]);
    guest.reboot();
    assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1);
}

#[test]
fn a_broken_ring_does_not_resume() {
    let (mut guest, seen) = guest();
    guest.request(0, b"e", 1).unwrap();
    send(&mut guest, fake::BROKEN);
    guest.pause();
    guest.resume();
    assert!(seen.calls()[1].ends_with("Fresh"));
}

#[test]
fn a_panic_costs_one_reply_and_the_third_in_a_minute_the_rings() {
    let (mut guest, seen) = guest();
    let stats = Arc::new(Stats::default());
    guest.count_in(stats.clone());
    for minute in 0..3 {
        for panics in 1..=2 {
            let parked = send(&mut guest, fake::LATER);
            let sent = send(&mut guest, fake::PANIC);
            assert_eq!(guest.reply(&sent), reply(b""));
            assert_eq!(guest.reply(&parked), reply(b""), "nobody knows it any more");
            assert!(seen.calls().ends_with(&[format!("start {:#x} Fresh", 0b11 | crate::feature::TRANSPORT)]));
            assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1);
            assert_eq!(stats.panics.get(), minute * 2 + panics);
        }
        guest.advance(Duration::from_secs(60));
    }
    for _ in 0..3 {
        assert_eq!(guest.counts().broken, [0, 0]);
        send(&mut guest, fake::PANIC);
    }
    assert_eq!(guest.counts().broken, [1, 1]);
}

#[test]
fn qemu_item_3467_bad_requests_leave_nothing_behind() {
    let (mut guest, seen) = guest();
    for round in 0..200 {
        for kind in [fake::LATER, fake::FORGET, fake::LATER, fake::SILENT] {
            send(&mut guest, kind);
        }
        if round % 2 == 0 {
            guest.reboot()
        } else {
            guest.reconnect()
        }
        assert_eq!(guest.engine().parked.len(), 0);
        assert!(guest.engine().scratch.spare.len() <= 3);
        seen.lock().requests.clear();
    }
}

#[test]
fn memory_tables_change_under_parked_and_running_requests() {
    let (fake, seen) = Fake::new();
    let shape = Shape { memory: vec![(0, 1 << 20), (1 << 32, 1 << 20)], ..Shape::default() };
    let mut guest = Loopback::with_shape(Box::new(fake), &shape);
    let mut generation = 0;
    for round in 0..10_000u32 {
        let mark = guest.allocate(0).unwrap();
        let parked = guest.send(0, &[&[fake::LATER], &round.to_le_bytes()], &[16]).unwrap();
        guest.run();
        guest.change_memory(|region| region.start == 0 || round % 2 == 0);
        if round % 2 == 1 {
            guest.set_memory(crate::loopback::with(guest.memory(), &[(1 << 32, 4096)]));
        }
        seen.release();
        guest.run();
        assert_eq!(guest.reply(&parked).unwrap().bytes, [&[fake::LATER][..], &round.to_le_bytes()].concat());
        let used = std::mem::replace(&mut generation, seen.lock().generation);
        assert!(used < generation, "each request sees a newer table");
        seen.lock().requests.clear();
        guest.release(mark);
    }
    assert_eq!(guest.counts().broken, [0, 0]);
}

#[test]
fn a_layout_outside_memory_can_be_mended() {
    let (mut guest, _) = guest();
    let good = guest.driver(0).layout();
    guest.stop_ring(0).unwrap();
    guest.start_ring(0, Layout { used: 1 << 60, ..good }, 0);
    guest.start_ring(0, good, 0);
    assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1);
}
