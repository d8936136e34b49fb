//! The driver resets the device, or one queue of it, whatever is under way.

use super::*;
use crate::loopback::DriverQueue;

fn fresh() -> String {
    format!("start {:#x} Fresh", 0b11 | crate::feature::TRANSPORT)
}

#[test]
fn pause_a_driver_that_resets_the_device_finds_it_as_new() {
    let (mut guest, seen) = guest();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    guest.halt();
    assert_eq!(seen.calls(), ["stop"]);
    guest.halt();
    assert!(seen.calls().is_empty(), "it had stopped");
    guest.renew();
    assert_eq!(seen.calls(), [fresh()], "whatever the ring before had served");
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    assert_eq!(guest.request(1, b"e!", 16), reply(b"e!"));
}

#[test]
fn pause_a_reset_does_not_wait_for_what_is_parked_and_gives_nothing_back() {
    let (mut guest, seen) = guest();
    let [parked, forgotten] = [fake::LATER, fake::FORGET].map(|kind| send(&mut guest, kind));
    let (now, interrupts) = (guest.elapsed(), guest.counts().interrupts);
    guest.halt();
    assert_eq!(seen.calls(), ["abandon", "stop"], "the device gives up what nobody waits for, and then stops");
    assert_eq!(guest.elapsed(), now);
    assert!(guest.engine().parked.is_empty());
    assert_eq!(guest.deadline(), None);
    guest.run();
    assert_eq!((guest.reply(&parked), guest.reply(&forgotten), guest.used(0)), (None, None, None));
    assert_eq!(guest.counts().interrupts, interrupts);
    guest.renew();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
}

#[test]
fn pause_a_completion_of_before_a_reset_reaches_no_ring_of_after_it() {
    let (mut guest, seen) = guest();
    send(&mut guest, fake::LATER);
    let stale = std::mem::take(&mut seen.lock().open);
    guest.halt();
    guest.renew();
    let parked = send(&mut guest, fake::LATER);
    seen.lock().ready.extend(stale);
    guest.run();
    assert_eq!(guest.used(0), None);
    seen.release();
    guest.run();
    assert_eq!(guest.reply(&parked), reply(b"l!"));
    // The count of parked chains is the new ring's own.
    let before = guest.elapsed();
    assert_eq!(guest.stop_ring(0), Some(Stopped { queue: 0, base: 1 }));
    assert_eq!(guest.elapsed(), before);
}

#[test]
fn pause_who_waits_for_a_ring_to_stop_does_not_wait_for_ever_when_it_is_reset() {
    let (mut guest, seen) = guest();
    for parts in [0, 1] {
        send(&mut guest, fake::LATER);
        let now = guest.now();
        guest.engine_mut().stop_ring(0, now);
        assert_eq!(guest.engine_mut().take_stopped().count(), 0, "something is parked");
        match parts {
            0 => guest.halt(),
            _ => guest.drop_ring(0),
        }
        let stopped: Vec<_> = guest.engine_mut().take_stopped().collect();
        assert_eq!(stopped, [Stopped { queue: 0, base: 1 }]);
        guest.advance(STOP_LIMIT);
        guest.run();
        assert_eq!(guest.engine_mut().take_stopped().count(), 0);
        seen.release();
        guest.run();
        assert_eq!(guest.used(0), None);
        guest.halt();
        guest.renew();
    }
}

#[test]
fn pause_a_broken_device_and_a_broken_ring_are_mended_by_a_reset() {
    let (mut guest, _) = guest();
    send(&mut guest, fake::BROKEN);
    assert_eq!(guest.counts().broken, [1, 1]);
    guest.halt();
    guest.renew();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    let good = guest.driver(0).layout();
    guest.halt();
    guest.start_ring(0, Layout { used: 1 << 60, ..good }, 0);
    assert_eq!(guest.counts().broken, [2, 1]);
    guest.halt();
    guest.renew();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    assert_eq!(guest.counts().broken, [2, 1]);
}

#[test]
fn pause_a_queue_that_is_reset_loses_what_is_parked_and_the_others_run_on() {
    let (mut guest, seen) = guest();
    let lost = send(&mut guest, fake::LATER);
    let kept = guest.send(1, &[&[fake::LATER, b'!']], &[16]).unwrap();
    guest.run();
    guest.drop_ring(0);
    assert!(seen.calls().is_empty(), "the device runs on");
    guest.kick(0);
    guest.run();
    let layout = guest.lay_out(64);
    guest.start_ring(0, layout, 0);
    seen.release();
    guest.run();
    assert_eq!((guest.reply(&lost), guest.reply(&kept)), (None, reply(b"l!")));
    assert_eq!(guest.read(layout.used, 6 + 8 * 64), vec![0; 6 + 8 * 64]);
    assert!(guest.engine().parked.is_empty());
    assert!(seen.calls().is_empty());
}

#[test]
fn pause_a_device_runs_on_while_each_of_its_queues_is_reset() {
    let (mut guest, seen) = guest();
    guest.request(0, b"e!", 16).unwrap();
    for queue in [0, 1, 7, u16::MAX] {
        guest.drop_ring(queue);
    }
    guest.run();
    seen.lock().config_changed = true;
    guest.run();
    assert!(seen.calls().is_empty(), "only a reset of the device stops it");
    guest.renew();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
    assert!(seen.calls().is_empty());
    guest.halt();
    assert_eq!(seen.calls(), ["stop"]);
}

#[test]
fn pause_a_device_that_panics_as_it_is_reset_does_not_take_the_rings_with_it() {
    let (mut guest, seen) = guest();
    seen.lock().panic_in_abandon = true;
    send(&mut guest, fake::LATER);
    guest.halt();
    assert!(guest.engine().parked.is_empty());
    assert!(seen.calls().contains(&"stop".to_string()));
    guest.renew();
    assert_eq!(guest.request(0, b"e!", 16), reply(b"e!"));
}

#[test]
fn qemu_item_3467_ten_thousand_resets_leave_nothing_behind() {
    let (mut guest, seen) = guest();
    for round in 0..10_000u32 {
        let mark = guest.allocate(0).unwrap();
        for kind in [fake::LATER, fake::FORGET, fake::ECHO] {
            guest.send(0, &[&[kind]], &[4]).unwrap();
        }
        guest.run();
        match round % 3 {
            0 => guest.drop_ring(0),
            _ => guest.halt(),
        }
        if round % 3 != 0 {
            assert!(guest.engine().parked.is_empty());
        }
        guest.halt();
        assert!(guest.engine().parked.is_empty() && guest.engine().scratch.spare.len() <= 4);
        guest.renew();
        let mut seen = seen.lock();
        seen.requests.clear();
        seen.calls.clear();
        drop(seen);
        guest.release(mark);
    }
    assert_eq!(guest.counts().broken, [0, 0]);
}

#[test]
fn a_ring_that_is_set_up_after_a_reset_may_have_another_size() {
    let (mut guest, _) = guest();
    for size in [1u16, 256, 2] {
        guest.halt();
        let layout = guest.lay_out(size);
        guest.start_ring(0, layout, 0);
        let driver = DriverQueue::new(layout, 0);
        let memory = guest.memory().clone();
        driver.write_available(&memory, 0, size - 1);
        driver.write_index(&memory, 1);
        guest.kick(0);
        guest.run();
        assert_eq!(guest.read(layout.used + 2, 4), [[1, 0], (size - 1).to_le_bytes()].concat(), "{size}");
    }
}
