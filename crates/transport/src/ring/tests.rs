//! Rings and chains against hostile drivers, and against a model.

use std::sync::atomic::{AtomicBool, Ordering};

use device::caps::REQUEST_BYTES;
use proptest::prelude::*;

use crate::fake::{self, Fake};
use crate::feature;
use crate::loopback::{Descriptor, DriverQueue, INDIRECT, Loopback, NEXT, Shape, Used, WRITE};
use crate::ring::{Layout, Ring, passes};

fn guest() -> (Loopback, fake::Shared) {
    let (fake, seen) = Fake::new();
    (Loopback::new(fake), seen)
}

fn shaped(features: u64, indirect: bool) -> (Loopback, fake::Shared) {
    let (fake, seen) = Fake::new();
    let shape = Shape { features, indirect, memory: vec![(0, 1 << 20), (1 << 20, 1 << 20)], ..Shape::default() };
    (Loopback::with_shape(Box::new(fake), &shape), seen)
}

/// Lays a chain out in the first descriptors of queue 0 by hand, kicks, and returns what was given back.
fn raw(guest: &mut Loopback, descriptors: &[Descriptor]) -> Option<Used> {
    let memory = guest.memory().clone();
    for (index, descriptor) in descriptors.iter().enumerate() {
        guest.driver(0).write_descriptor(&memory, index as u16, *descriptor);
    }
    guest.driver(0).write_available(&memory, 0, 0);
    guest.driver(0).write_index(&memory, 1);
    guest.kick(0);
    guest.run();
    guest.used(0)
}

/// Where nothing of the rings lies.
const DATA: u64 = 0x4_0000;

const GIVEN_BACK: Option<Used> = Some(Used { head: 0, len: 0 });

fn readable(addr: u64, len: u32, next: Option<u16>) -> Descriptor {
    Descriptor { addr, len, flags: if next.is_some() { NEXT } else { 0 }, next: next.unwrap_or(0) }
}

fn writable(addr: u64, len: u32) -> Descriptor {
    Descriptor { addr, len, flags: WRITE, next: 0 }
}

#[test]
fn a_reply_lands_where_the_chain_says() {
    for indirect in [false, true] {
        let (mut guest, seen) = shaped(u64::MAX, indirect);
        let sent = guest.send(0, &[b"e-on", b"e tw", b"o"], &[3, 0, 100]).unwrap();
        guest.run();
        let reply = guest.reply(&sent).unwrap();
        assert_eq!((reply.bytes.as_slice(), reply.used_len), (b"e-one two".as_slice(), 9));
        assert_eq!(seen.lock().requests, [(0, b"e-one two".to_vec(), 9, 103)]);
    }
}

#[test]
fn used_len_is_what_was_written() {
    let (mut guest, _) = guest();
    let reply = |guest: &mut Loopback, bytes: &[u8], room| guest.request(0, bytes, room).unwrap().used_len;
    assert_eq!(reply(&mut guest, b"echo", 4), 4);
    assert_eq!(reply(&mut guest, b"echo", 2), 2);
    assert_eq!(reply(&mut guest, b"echo", 0), 0);
    assert_eq!(reply(&mut guest, &[fake::SILENT], 64), 0);
    assert_eq!(reply(&mut guest, &[fake::TOO_MUCH], 64), 64);
}

#[test]
fn cve_2016_6490_zero_length_descriptors_do_not_loop() {
    let (mut guest, seen) = guest();
    let mut chain: Vec<_> = (0..63).map(|index| readable(0, 0, Some(index + 1))).collect();
    chain.push(writable(0, 0));
    assert_eq!(raw(&mut guest, &chain), GIVEN_BACK);
    assert_eq!(seen.lock().requests, [(0, vec![], 0, 0)]);
}

#[test]
fn cve_2016_6490_a_chain_that_loops_is_given_back() {
    for chain in [vec![readable(0, 0, Some(0))], vec![readable(0, 0, Some(1)), readable(DATA, 16, Some(0))]] {
        let (mut guest, seen) = guest();
        assert_eq!(raw(&mut guest, &chain), GIVEN_BACK);
        assert!(seen.lock().requests.is_empty());
        assert_eq!(guest.request(0, b"e", 1).map(|reply| reply.used_len), None, "the driver's own index was moved");
    }
}

#[test]
fn bad_chains_are_given_back_and_the_ring_goes_on() {
    let table = 0x8_0000;
    let indirect = |addr, len, flags| Descriptor { addr, len, flags: INDIRECT | flags, next: 1 };
    let cases: Vec<(&str, Vec<Descriptor>)> = vec![
        ("next outside the table", vec![readable(DATA, 16, Some(64))]),
        ("next far outside", vec![readable(DATA, 16, Some(u16::MAX))]),
        (
            "readable after writable",
            vec![Descriptor { next: 1, flags: WRITE | NEXT, ..writable(DATA, 4) }, readable(DATA, 4, None)],
        ),
        ("readable past the end of memory", vec![readable((64 << 20) - 1, 2, None)]),
        ("readable outside memory", vec![readable(1 << 40, 2, None)]),
        ("readable that wraps", vec![readable(u64::MAX, 2, None)]),
        ("readable of 4 GiB", vec![readable(DATA, u32::MAX, None)]),
        ("indirect in a chain", vec![indirect(table, 16, NEXT), readable(DATA, 16, None)]),
        ("empty table", vec![indirect(table, 0, 0)]),
        ("table of a part", vec![indirect(table, 24, 0)]),
        ("table of 4 GiB", vec![indirect(table, 0xffff_fff0, 0)]),
        ("table outside memory", vec![indirect(1 << 40, 16, 0)]),
        ("table across the end", vec![indirect((64 << 20) - 16, 32, 0)]),
    ];
    for (name, chain) in cases {
        let (mut guest, seen) = guest();
        assert_eq!(raw(&mut guest, &chain), GIVEN_BACK, "{name}");
        assert!(seen.lock().requests.is_empty(), "{name}: reached the device");
        assert_eq!(guest.counts().broken, [0, 0], "{name}: broke the ring");
        // The next chain is served.
        let memory = guest.memory().clone();
        guest.driver(0).write_descriptor(&memory, 5, readable(DATA, 1, None));
        guest.driver(0).write_available(&memory, 1, 5);
        guest.driver(0).write_index(&memory, 2);
        guest.kick(0);
        guest.run();
        assert_eq!(guest.used(0), Some(Used { head: 5, len: 0 }), "{name}");
    }
}

#[test]
fn cve_2024_3446_a_reply_goes_only_into_guest_memory() {
    let (mut guest, seen) = guest();
    for addr in [1 << 40, (64 << 20) - 15, u64::MAX - 15] {
        let sent = guest.offer_chain(0, &[readable(DATA, 1, None), writable(addr, 16)]).unwrap();
        guest.publish(0);
        guest.run();
        assert_eq!(guest.used(0), Some(Used { head: sent.into(), len: 0 }));
    }
    // Memory that we exported ourselves comes back as a region that is not to be used.
    let own = device::Region { start: 1 << 40, usable: false, ..guest.memory().regions()[0].clone() };
    let regions = [guest.memory().regions().to_vec(), vec![own]].concat();
    guest.set_memory(device::Memory::new(regions).unwrap());
    guest.offer_chain(0, &[readable(DATA, 1, None), writable(1 << 40, 16)]).unwrap();
    guest.publish(0);
    guest.run();
    assert_eq!(guest.used(0).unwrap().len, 0);
    assert!(seen.lock().requests.is_empty());
}

#[test]
fn memory_that_is_not_to_be_written_is_read_and_not_written() {
    let (mut guest, _) = guest();
    let Layout { available, used, .. } = guest.driver(0).layout();
    assert!(available < used);
    let protect = |guest: &mut Loopback, parts: &[(u64, u64)]| {
        let memory = device::Memory::new(guest.memory().regions().to_vec()).unwrap();
        guest.engine_mut().set_memory(std::sync::Arc::new(memory.with_read_only(parts.to_vec())));
    };
    // What only the driver writes, and a request.
    protect(&mut guest, &[(0, used), (DATA, DATA + 16)]);
    let head = guest.offer_chain(0, &[readable(DATA, 1, None), writable(DATA + 16, 16)]).unwrap();
    guest.publish(0);
    guest.run();
    assert_eq!(guest.used(0), Some(Used { head: head.into(), len: 1 }));
    for part in [(DATA, DATA + 32), (DATA + 31, DATA + 32), (DATA, DATA + 17)] {
        protect(&mut guest, &[(0, used), part]);
        let head = guest.offer_chain(0, &[readable(DATA, 1, None), writable(DATA + 16, 16)]).unwrap();
        guest.publish(0);
        guest.run();
        assert_eq!(guest.used(0), Some(Used { head: head.into(), len: 0 }), "{part:x?}");
    }
    protect(&mut guest, &[(0, used + 1)]);
    guest.kick(0);
    guest.run();
    assert_eq!(guest.counts().broken, [1, 0]);
}

#[test]
fn a_nested_table_is_refused() {
    let (mut guest, seen) = guest();
    let table = 0x8_0000;
    let inner = Descriptor { addr: table, len: 16, flags: INDIRECT, next: 0 };
    guest.write(table, &inner.to_bytes());
    assert_eq!(raw(&mut guest, &[inner]), GIVEN_BACK);
    assert!(seen.lock().requests.is_empty());
}

#[test]
fn a_table_may_follow_ordinary_descriptors() {
    let (mut guest, seen) = guest();
    let table = 0x8_0000;
    guest.write(DATA, b"ecb");
    guest.write(table, &readable(DATA + 2, 1, None).to_bytes());
    let chain = [readable(DATA, 2, Some(1)), Descriptor { addr: table, len: 16, flags: INDIRECT, next: 0 }];
    assert_eq!(raw(&mut guest, &chain), GIVEN_BACK);
    assert_eq!(seen.lock().requests[0].1, b"ecb");
}

#[test]
fn a_table_that_was_not_negotiated_is_refused() {
    let (mut guest, seen) = shaped(!feature::INDIRECT_DESC, false);
    guest.write(0x8_0000, &readable(DATA, 1, None).to_bytes());
    assert_eq!(raw(&mut guest, &[Descriptor { addr: 0x8_0000, len: 16, flags: INDIRECT, next: 0 }]), GIVEN_BACK);
    assert!(seen.lock().requests.is_empty());
}

/// Linux sends the entries of a large backing page by page, whatever the queue's size.
#[test]
fn a_table_may_be_longer_than_the_queue() {
    let (mut guest, seen) = guest();
    let table = 0x8_0000;
    for index in 0..1000u16 {
        let next = (index < 999).then_some(index + 1);
        guest.write(table + 16 * u64::from(index), &readable(DATA, 1, next).to_bytes());
    }
    assert_eq!(raw(&mut guest, &[Descriptor { addr: table, len: 16_000, flags: INDIRECT, next: 0 }]), GIVEN_BACK);
    assert_eq!(seen.lock().requests[0].2, 1000);
}

#[test]
fn a_table_longer_than_any_request_needs_is_refused() {
    let (mut guest, seen) = guest();
    let len = 16 * (crate::chain::INDIRECT_DESCRIPTORS as u32 + 1);
    assert_eq!(raw(&mut guest, &[Descriptor { addr: 0, len, flags: INDIRECT, next: 0 }]), GIVEN_BACK);
    assert!(seen.lock().requests.is_empty());
}

#[test]
fn bytes_over_the_cap_are_counted_and_not_copied() {
    let (mut guest, seen) = guest();
    let most = REQUEST_BYTES as u32;
    assert_eq!(
        raw(&mut guest, &[readable(0, most, Some(1)), readable(0, most, Some(2)), readable(0, 7, None)]),
        GIVEN_BACK
    );
    let seen = seen.lock();
    assert_eq!((seen.requests[0].1.len(), seen.requests[0].2), (REQUEST_BYTES, 2 * u64::from(most) + 7));
}

#[test]
fn a_descriptor_may_lie_in_two_regions_that_touch() {
    let (mut guest, seen) = shaped(u64::MAX, false);
    let edge = 1 << 20;
    guest.write(edge - 2, b"ec");
    guest.write(edge, b"ho");
    let used = raw(&mut guest, &[readable(edge - 2, 4, Some(1)), writable(edge - 3, 4)]);
    assert_eq!(used, Some(Used { head: 0, len: 4 }));
    assert_eq!(seen.lock().requests[0].1, b"echo");
    assert_eq!((guest.read(edge - 3, 3), guest.read(edge, 1)), (b"ech".to_vec(), b"o".to_vec()));
}

#[test]
fn cve_2017_17381_issue_300_rings_that_cannot_be_are_stopped_and_the_driver_told() {
    let good = Layout { size: 16, descriptors: 0x10000, available: 0x11000, used: 0x12000 };
    let end = 64 << 20;
    let cases = [
        ("size 0", Layout { size: 0, ..good }),
        ("size 3", Layout { size: 3, ..good }),
        ("size 32769", Layout { size: 32769, ..good }),
        ("size 65535", Layout { size: 65535, ..good }),
        ("descriptors unaligned", Layout { descriptors: 0x10008, ..good }),
        ("available unaligned", Layout { available: 0x11001, ..good }),
        ("used unaligned", Layout { used: 0x12002, ..good }),
        ("descriptors past memory", Layout { descriptors: end, ..good }),
        ("descriptors across the end", Layout { descriptors: end - 16 * 15, ..good }),
        ("available past memory", Layout { available: 1 << 50, ..good }),
        ("available across the end", Layout { available: end - 36, ..good }),
        ("used across the end", Layout { used: end - 132, ..good }),
        ("used at the last address", Layout { used: u64::MAX - 3, ..good }),
    ];
    for (name, layout) in cases {
        let (mut guest, _) = guest();
        guest.stop_ring(1).unwrap();
        guest.start_ring(1, layout, 0);
        assert_eq!(guest.counts().broken, [0, 1], "{name}");
        guest.kick(1);
        guest.run();
        assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1, "{name}: the other queue is dead");
        // The next driver sets it up as it should be.
        guest.stop_ring(1).unwrap();
        guest.start_ring(1, guest.driver(1).layout(), 0);
        assert_eq!(guest.request(1, b"e", 1).unwrap().used_len, 1, "{name}");
        assert_eq!(guest.counts().broken, [0, 1], "{name}");
    }
}

#[test]
fn an_index_that_jumps_stops_the_ring_until_it_is_set_up_again() {
    let (mut guest, seen) = guest();
    let memory = guest.memory().clone();
    guest.driver(0).write_index(&memory, 65);
    guest.kick(0);
    guest.run();
    assert_eq!(guest.counts().broken, [1, 0]);
    // Putting it right does not help: the ring stays stopped and nothing is told twice.
    guest.driver(0).write_index(&memory, 1);
    guest.kick(0);
    guest.run();
    assert!(seen.lock().requests.is_empty());
    assert_eq!(guest.counts().broken, [1, 0]);
    guest.reboot();
    assert_eq!(guest.request(0, b"e", 1).unwrap().used_len, 1);
}

#[test]
fn a_head_outside_the_table_stops_the_ring_after_the_chains_before_it() {
    let (mut guest, seen) = guest();
    let memory = guest.memory().clone();
    guest.driver(0).write_descriptor(&memory, 0, readable(DATA, 0, None));
    guest.driver(0).write_available(&memory, 0, 0);
    guest.driver(0).write_available(&memory, 1, 64);
    guest.driver(0).write_index(&memory, 2);
    guest.kick(0);
    guest.run();
    assert_eq!(seen.lock().requests.len(), 1);
    assert_eq!((guest.used(0), guest.counts().broken), (GIVEN_BACK, vec![1, 0]));
    assert_eq!(guest.counts().interrupts, [1, 0], "what was given back is told");
}

#[test]
fn a_ring_whose_memory_goes_away_is_stopped() {
    let (mut guest, _) = guest();
    guest.run();
    guest.change_memory(|_| false);
    for _ in 0..2 {
        guest.kick(0);
        guest.run();
    }
    assert_eq!(guest.counts().broken, [1, 0]);
}

#[test]
fn a_guest_that_never_stops_offering_does_not_hold_the_thread() {
    let (mut guest, seen) = guest();
    let memory = guest.memory().clone();
    let mut available = 0u16;
    for batches in 1..=10 {
        available = available.wrapping_add(64);
        guest.driver(0).write_index(&memory, available);
        guest.kick(0);
        guest.run_once();
        assert_eq!(seen.lock().requests.len(), 64 * batches);
    }
}

#[test]
fn rustsec_2020_0157_an_index_written_meanwhile_is_never_torn() {
    let memory = crate::loopback::table(&[(0, 1 << 20)]);
    let layout = Layout { size: 512, descriptors: 0, available: 0x4000, used: 0x8000 };
    let driver = DriverQueue::new(layout, 0);
    let mut ring = Ring::new(layout, 0, 0, &memory).unwrap();
    let done = AtomicBool::new(false);
    driver.write_index(&memory, 0x00ff);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                driver.write_index(&memory, 0x0100);
                driver.write_index(&memory, 0x00ff);
            }
        });
        let view = ring.open(&memory).unwrap();
        let torn = (0..200_000).map(|_| view.pending()).find(|seen| !matches!(seen, Ok(0x00ff | 0x0100)));
        done.store(true, Ordering::Relaxed);
        assert_eq!(torn, None);
    });
}

#[test]
fn one_interrupt_for_a_batch() {
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let (mut guest, _) = shaped(features, true);
        for _ in 0..64 {
            guest.offer(0, &[b"e"], &[1]).unwrap();
        }
        guest.publish(0);
        guest.run();
        let counts = guest.counts();
        assert_eq!((counts.kicks, counts.wake_ups, counts.interrupts[0]), (1, 1, 1), "{features:#x}");
    }
}

#[test]
fn no_interrupt_where_none_is_wanted() {
    // With EVENT_IDX the driver names the index; it takes nothing, so it wants to hear of the first chain only.
    let (mut guest, _) = shaped(u64::MAX, false);
    for _ in 0..5 {
        guest.send(0, &[b"e"], &[1]).unwrap();
        guest.run();
    }
    assert_eq!(guest.counts().interrupts[0], 1);
    // Without it a flag says so.
    let (mut guest, _) = shaped(!feature::EVENT_IDX, false);
    let memory = guest.memory().clone();
    guest.driver(0).write_flags(&memory, 1);
    for _ in 0..5 {
        guest.send(0, &[b"e"], &[1]).unwrap();
        guest.run();
    }
    assert_eq!(guest.counts().interrupts[0], 0);
}

#[test]
fn no_kick_is_wanted_while_chains_are_popped() {
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let (mut guest, _) = shaped(features, false);
        for _ in 0..10 {
            guest.send(0, &[b"e"], &[1]).unwrap();
        }
        let before = guest.counts();
        guest.run();
        // The first kick was needed; with EVENT_IDX the device can even say so.
        assert_eq!(before.kicks, if features & feature::EVENT_IDX != 0 { 1 } else { 10 });
        guest.send(0, &[b"e"], &[1]).unwrap();
        assert_eq!(guest.counts().kicks, before.kicks + 1, "asleep again, it wants to be woken");
    }
}

#[test]
fn an_event_is_passed_between_the_old_and_the_new_index() {
    assert!(passes(0, 0, 1) && passes(4, 0, 5) && passes(0xffff, 0xffff, 0));
    assert!(!passes(1, 0, 1) && !passes(0, 1, 2) && !passes(5, 0, 5) && !passes(0, 7, 7));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever way requests are cut into descriptors, however often the rings wrap: each gets its reply, in full, once.
    #[test]
    fn a_ring_does_what_a_queue_of_byte_strings_does(
        event_idx: bool,
        indirect: bool,
        requests in prop::collection::vec(
            (prop::collection::vec(prop::collection::vec(0u8..4, 0..20), 1..4), prop::collection::vec(0u32..20, 0..3), 0u8..4),
            1..300,
        ),
        batch in 1usize..12,
    ) {
        let features = if event_idx { u64::MAX } else { !feature::EVENT_IDX };
        let (mut guest, seen) = shaped(features, indirect);
        for chunk in requests.chunks(batch) {
            let mut expected = Vec::new();
            for (pieces, rooms, kind) in chunk {
                let bytes: Vec<u8> = pieces.concat();
                let kind = [fake::ECHO, fake::LATER, fake::SOON, fake::SILENT][usize::from(*kind)];
                let mut readable: Vec<&[u8]> = vec![std::slice::from_ref(&kind)];
                readable.extend(pieces.iter().map(Vec::as_slice));
                let Some(sent) = guest.send(0, &readable, rooms) else { continue };
                let room: u32 = rooms.iter().sum();
                let mut reply = [vec![kind], bytes].concat();
                reply.truncate(if kind == fake::SILENT { 0 } else { room as usize });
                expected.push((sent, reply));
            }
            guest.run();
            seen.release();
            guest.run();
            for (sent, reply) in expected {
                let got = guest.reply(&sent).unwrap();
                prop_assert_eq!(got.used_len as usize, reply.len());
                prop_assert_eq!(got.bytes, reply);
            }
            prop_assert_eq!(guest.used(0), None);
        }
        prop_assert_eq!(guest.counts().broken, vec![0, 0]);
    }

    /// Any bytes for a ring: the device is still there for the next driver.
    #[test]
    fn any_bytes_make_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0x400..0x800),
        index in 0u16..70,
        event_idx: bool,
    ) {
        let features = if event_idx { u64::MAX } else { !feature::EVENT_IDX };
        let (mut guest, _) = shaped(features, false);
        let layout = guest.driver(0).layout();
        guest.write(layout.descriptors, &bytes);
        let memory = guest.memory().clone();
        guest.driver(0).write_index(&memory, index);
        for _ in 0..3 {
            guest.kick(0);
            guest.run_once();
        }
        guest.reboot();
        prop_assert_eq!(guest.request(0, b"e", 1).map(|reply| reply.used_len), Some(1));
    }
}
