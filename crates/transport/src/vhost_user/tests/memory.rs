//! HOSTILE, row "memory": tables that change under running commands, files that are cut short.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::ftruncate;

use super::super::message::code;
use super::front::{Front, MEMORY, Served, USER, memfd, single};

#[test]
fn vhost_user_a_memfd_that_is_truncated_later_costs_the_guest_its_bytes_and_nobody_a_life() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    assert_eq!(front.request(0, b"e", 1), b"e");
    front.request_in_vanished_memory(0);
    assert_eq!(front.wait_used(0).len, 16);
    assert_eq!(served.seen.lock().requests.last().unwrap().1, [0; 16]);
    assert_eq!(front.request(0, b"e", 1), b"e");
    front.enable(0, true);
    assert!(served.stats.memory_faults.get() >= 2, "{} faults", served.stats.memory_faults.get());
}

#[test]
fn vhost_user_rings_in_a_file_that_is_truncated_stop_quietly() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    assert_eq!(front.request(0, b"e", 1), b"e");
    ftruncate(&front.fd, 0).unwrap();
    // Our own driver cannot look at it any more; a kick makes the device do so.
    rustix::io::write(&front.queues[0].kick, &1u64.to_ne_bytes()).unwrap();
    front.wait_broken(0);
    drop(front);
    assert_eq!(Front::ready(&served).request(0, b"e", 1), b"e");
}

#[test]
fn memory_changes_ten_thousand_times_under_running_commands() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    let extra = memfd(0x10000);
    let guest = 1u64 << 32;
    let control = Front::over(front.socket.try_clone().unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let region = single(guest, 0x10000, USER + guest, 0);
            for _ in 0..5_000 {
                assert_eq!(control.acknowledged(code::ADD_MEM_REG, &region, &[extra.as_fd()]), 0);
                assert_eq!(control.acknowledged(code::REM_MEM_REG, &region, &[]), 0);
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut served = 0u32;
        while !done.load(Ordering::Relaxed) {
            let bytes = [b"e".as_slice(), &served.to_ne_bytes()].concat();
            assert_eq!(front.request(0, &bytes, 16), bytes);
            served += 1;
        }
        assert!(served > 0);
    });
    assert_eq!(served.stats.panics.get(), 0);
}

/// Once REM_MEM_REG is answered the VMM may unmap: nothing may be read from there any more, even by what came before.
#[test]
fn memory_that_was_taken_away_is_not_touched_after_the_answer() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    let extra = memfd(0x1000);
    let guest = 1u64 << 32;
    let region = single(guest, 0x1000, USER + guest, 0);
    let descriptor = crate::loopback::Descriptor { addr: guest, len: 16, flags: 0, next: 0 };
    for _ in 0..100 {
        assert_eq!(front.acknowledged(code::ADD_MEM_REG, &region, &[extra.as_fd()]), 0);
        for _ in 0..20 {
            let head = front.queues[0].driver.chain(&front.memory, &[descriptor]).unwrap();
            front.queues[0].driver.offer(&front.memory, head);
        }
        front.publish(0);
        assert_eq!(front.acknowledged(code::REM_MEM_REG, &region, &[]), 0);
        let before = served.seen.lock().requests.len();
        for _ in 0..20 {
            front.wait_used(0);
        }
        assert_eq!(served.seen.lock().requests.len(), before, "a chain in memory that is gone reached the device");
        served.seen.lock().requests.clear();
    }
}

#[test]
fn a_table_may_move_the_rings() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    assert_eq!(front.request(0, b"e", 1), b"e");
    // The same file at other addresses: the ring is found there, its chains are not.
    let table = [&1u64.to_ne_bytes()[..], &super::front::region(1 << 40, MEMORY, USER, 0)].concat();
    assert_eq!(front.acknowledged(code::SET_MEM_TABLE, &table, &[front.fd.as_fd()]), 0);
    front.offer(0, b"e", 1);
    front.publish(0);
    assert_eq!(front.wait_used(0).len, 0);
}
