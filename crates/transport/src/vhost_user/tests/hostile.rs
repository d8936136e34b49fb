//! HOSTILE, row "vhost-user": messages in any order, wrong descriptors, short, twice.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::super::message::code;
use super::super::replay::replay;
use super::front::{Front, MEMORY, Served, USER, addresses, layout, memfd, pair, region, single};
use crate::fake::Fake;

/// The front-end that comes next is served.
fn is_alive(served: &Served) {
    assert_eq!(Front::ready(served).request(0, b"e", 1), b"e");
}

#[test]
fn vhost_user_what_is_not_a_message_ends_the_connection_and_nothing_else() {
    let served = Served::listening();
    let header = |request: u32, flags: u32, size: u32| -> Vec<u8> {
        [request, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("version 0", header(1, 0, 0)),
        ("version 2", header(1, 2, 0)),
        ("a reply", header(1, 5, 0)),
        ("too long", header(24, 1, 4097)),
        ("4 GiB", header(24, 1, u32::MAX)),
        ("unknown", header(99, 1, 0)),
        ("request 0", header(0, 1, 0)),
        ("huge number", header(u32::MAX, 1, 0)),
        ("a payload where there is none", [header(code::GET_FEATURES, 1, 8), vec![0; 8]].concat()),
        ("a short payload", [header(code::SET_FEATURES, 1, 7), vec![0; 7]].concat()),
        ("a long payload", [header(code::SET_FEATURES, 1, 9), vec![0; 9]].concat()),
        ("no payload", header(code::SET_VRING_ADDR, 1, 0)),
        ("config longer than sent", [header(code::GET_CONFIG, 1, 12), pair(0, 256), vec![0; 4]].concat()),
        ("a log", [header(6, 1, 16), vec![0; 16]].concat()),
        ("a reset that was not offered", header(34, 1, 0)),
        ("a guest's migration", [header(42, 1, 8), vec![0; 8]].concat()),
        ("no descriptor", [header(code::SET_VRING_KICK, 1, 8), vec![0; 8]].concat()),
        ("no gpu socket", header(code::GPU_SET_SOCKET, 1, 0)),
    ];
    for (name, bytes) in cases {
        let front = Front::connect(&served);
        front.send_raw(&bytes, &[]);
        assert!(front.is_disconnected(), "{name}");
    }
    is_alive(&served);
}

#[test]
fn vhost_user_unwanted_descriptors_end_the_connection() {
    let served = Served::listening();
    let fd = memfd(4096);
    let fds: Vec<_> = (0..32).map(|_| fd.as_fd()).collect();
    let table = |count: u64| [&count.to_ne_bytes()[..], &region(0, 4096, USER, 0).repeat(count as usize)].concat();
    let cases: Vec<(u32, Vec<u8>, usize)> = vec![
        (code::GET_FEATURES, vec![], 1),
        (code::SET_FEATURES, vec![0; 8], 3),
        (code::GET_VRING_BASE, vec![0; 8], 1),
        (code::SET_VRING_KICK, vec![0; 8], 2),
        (code::SET_VRING_KICK, 0x100u64.to_ne_bytes().to_vec(), 1),
        (code::SET_MEM_TABLE, table(1), 0),
        (code::SET_MEM_TABLE, table(1), 2),
        (code::SET_MEM_TABLE, table(2), 1),
        (code::SET_MEM_TABLE, table(8), 9),
        (code::SET_MEM_TABLE, table(8), 32),
        (code::ADD_MEM_REG, single(0, 4096, USER, 0), 0),
        (code::ADD_MEM_REG, single(0, 4096, USER, 0), 2),
        (code::REM_MEM_REG, single(0, 4096, USER, 0), 2),
        (code::GPU_SET_SOCKET, vec![], 2),
        (code::SET_BACKEND_REQ_FD, vec![], 0),
    ];
    for (request, payload, count) in cases {
        let front = Front::connect(&served);
        front.send(request, 0, &payload, &fds[..count]);
        assert!(front.is_disconnected(), "request {request} with {count}");
    }
    is_alive(&served);
}

#[test]
fn vhost_user_a_message_may_come_in_pieces_or_never_be_finished() {
    let served = Served::listening();
    let front = Front::connect(&served);
    let message: Vec<u8> = [code::GET_FEATURES, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    for byte in &message {
        front.send_raw(&[*byte], &[]);
    }
    assert_eq!(front.reply(code::GET_FEATURES).unwrap().len(), 8);
    for len in 1..message.len() {
        front.send_raw(&message[..len], &[]);
        drop(Front::connect(&served));
        front.send_raw(&message[len..], &[]);
        assert!(front.reply(code::GET_FEATURES).is_some());
    }
    front.send_raw(&message[..7], &[]);
    drop(front);
    let front = Front::connect(&served);
    front.send_raw(&[[code::SET_FEATURES, 1, 8].map(u32::to_ne_bytes).concat(), vec![0; 5]].concat(), &[]);
    drop(front);
    is_alive(&served);
}

#[test]
fn vhost_user_two_messages_in_one_piece_keep_their_descriptors_apart() {
    let served = Served::listening();
    let front = Front::connect(&served);
    front.negotiate();
    let (one, two) = (memfd(4096), memfd(8192));
    let add = |guest, size| {
        [[code::ADD_MEM_REG, 9, 40].map(u32::to_ne_bytes).concat(), single(guest, size, USER + guest, 0)].concat()
    };
    front.send_raw(&[code::GET_FEATURES, 1, 0].map(u32::to_ne_bytes).concat(), &[]);
    front.send_raw(&add(0, 4096), &[one.as_fd()]);
    front.send_raw(&add(0x10000, 8192), &[two.as_fd()]);
    assert!(front.reply(code::GET_FEATURES).is_some());
    for _ in 0..2 {
        assert_eq!(front.reply(code::ADD_MEM_REG).unwrap(), 0u64.to_ne_bytes());
    }
}

#[test]
fn vhost_user_what_is_refused_but_acknowledged_keeps_the_connection() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    let fd = memfd(4096);
    let refused: Vec<(&str, u32, Vec<u8>, usize)> = vec![
        ("unknown", 99, vec![], 0),
        ("short", code::SET_FEATURES, vec![], 0),
        ("an unwanted descriptor", code::SET_FEATURES, vec![0; 8], 1),
        ("a queue too many", code::SET_VRING_NUM, pair(2, 64), 0),
        ("a queue far too many", code::SET_VRING_ENABLE, pair(u32::MAX, 1), 0),
        ("kick of queue 255", code::SET_VRING_KICK, 0xffu64.to_ne_bytes().to_vec(), 1),
        ("size 32769", code::SET_VRING_NUM, pair(1, 32769), 0),
        ("size 4 G", code::SET_VRING_NUM, pair(1, u32::MAX), 0),
        ("base 65536", code::SET_VRING_BASE, pair(1, 65536), 0),
        ("an empty region", code::ADD_MEM_REG, single(1 << 32, 0, USER + (1 << 32), 0), 1),
        ("a region longer than its file", code::ADD_MEM_REG, single(1 << 32, 4097, USER + (1 << 32), 0), 1),
        ("an overlapping region", code::ADD_MEM_REG, single(MEMORY - 1, 4096, USER + (1 << 32), 0), 1),
        ("removing what is not there", code::REM_MEM_REG, single(1 << 32, 4096, USER, 0), 0),
        (
            "a table that overlaps",
            code::SET_MEM_TABLE,
            [&2u64.to_ne_bytes()[..], &region(0, 4096, USER, 0).repeat(2)].concat(),
            2,
        ),
    ];
    for (name, request, payload, fds) in refused {
        assert_eq!(front.acknowledged(request, &payload, &[fd.as_fd(), fd.as_fd()][..fds]), 1, "{name}");
        assert_eq!(front.request(0, b"e", 1), b"e", "{name}");
    }
}

#[test]
fn vhost_user_messages_in_any_order() {
    let served = Served::listening();
    let mut front = Front::connect(&served);
    front.negotiate();
    front.send(code::SET_FEATURES, 0, &front.features.to_ne_bytes(), &[]);
    // Everything about the rings before there is any memory, and enabled before it is set.
    front.enable(0, true);
    front.start(0, 0);
    front.wait_broken(0);
    // The memory makes it possible.
    front.share_memory();
    assert_eq!(front.request(0, b"e", 1), b"e");
    // Kick first, then the rest, one by one.
    front.send(code::SET_VRING_KICK, 0, &1u64.to_ne_bytes(), &[front.queues[1].kick.as_fd()]);
    front.send(code::SET_VRING_CALL, 0, &1u64.to_ne_bytes(), &[front.queues[1].call.as_fd()]);
    front.enable(1, true);
    front.send(code::SET_VRING_ADDR, 0, &addresses(1, layout(0x20000, 64)), &[]);
    front.send(code::SET_VRING_NUM, 0, &pair(1, 64), &[]);
    assert_eq!(front.request(1, b"e", 1), b"e");
    // All of it again, while it runs, changes nothing.
    front.share_memory();
    front.send(code::SET_VRING_NUM, 0, &pair(1, 64), &[]);
    front.send(code::SET_VRING_ADDR, 0, &addresses(1, layout(0x20000, 64)), &[]);
    front.send(code::SET_VRING_KICK, 0, &1u64.to_ne_bytes(), &[front.queues[1].kick.as_fd()]);
    front.send(code::RESET_OWNER, 0, &[], &[]);
    front.send(code::SET_OWNER, 0, &[], &[]);
    assert_eq!((front.request(1, b"e", 1), front.request(0, b"e", 1)), (b"e".to_vec(), b"e".to_vec()));
    assert_eq!(served.seen.calls().iter().filter(|call| call.starts_with("start")).count(), 1);
}

#[test]
fn vhost_user_rings_that_cannot_be_are_told_by_the_error_eventfd() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    let good = front.queues[1].driver.layout();
    for bad in
        [layout(MEMORY, 64), layout(0x20001, 64), layout(0x20000, 3), layout(0x20000, 0), layout(u64::MAX - USER, 64)]
    {
        front.stop(1);
        front.send(code::SET_VRING_NUM, 0, &pair(1, bad.size.into()), &[]);
        front.send(code::SET_VRING_ADDR, 0, &addresses(1, bad), &[]);
        front.send(code::SET_VRING_KICK, 0, &1u64.to_ne_bytes(), &[front.queues[1].kick.as_fd()]);
        front.wait_broken(1);
        assert_eq!(front.request(0, b"e", 1), b"e", "{bad:?}");
    }
    front.stop(1);
    front.queues[1].driver = crate::loopback::DriverQueue::new(good, front.features);
    front.start(1, 0);
    assert_eq!(front.request(1, b"e", 1), b"e");
}

#[test]
fn vhost_user_descriptors_that_are_no_eventfds_do_no_harm() {
    let served = Served::listening();
    for kind in 0..4 {
        let mut front = Front::ready(&served);
        let (socket, other) = UnixStream::pair().unwrap();
        let file = memfd(0);
        let closed = std::io::pipe().unwrap();
        let directory = std::fs::File::open("/").unwrap();
        let (_keep, drop_it) = (other, closed.1);
        drop(drop_it);
        let fd = [socket.as_fd(), file.as_fd(), closed.0.as_fd(), directory.as_fd()][kind];
        for request in [code::SET_VRING_KICK, code::SET_VRING_CALL, code::SET_VRING_ERR] {
            front.acknowledged(request, &1u64.to_ne_bytes(), &[fd]);
        }
        front.offer(1, b"e", 1);
        front.publish(1);
        assert_eq!(front.request(0, b"e", 1), b"e", "{kind}");
    }
}

#[test]
fn vhost_user_a_ring_without_descriptors_is_silent() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    for request in [code::SET_VRING_KICK, code::SET_VRING_CALL, code::SET_VRING_ERR] {
        assert_eq!(front.acknowledged(request, &0x101u64.to_ne_bytes(), &[]), 0);
    }
    front.offer(1, b"e", 1);
    front.publish(1);
    // Without kicks it is looked at when something is said of it, and never polled.
    front.enable(1, false);
    front.enable(1, true);
    front.request(0, b"e", 1);
    assert_eq!((front.used(1).map(|used| used.len), front.interrupts(1)), (Some(1), 0));
}

#[test]
fn vhost_user_a_storm_of_messages_without_answers_is_held_back() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    for _ in 0..20_000 {
        front.send(code::SET_VRING_CALL, 0, &0u64.to_ne_bytes(), &[front.queues[0].call.as_fd()]);
    }
    assert_eq!(front.request(0, b"e", 1), b"e");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Messages of known kinds with small numbers, in any order.
    #[test]
    fn vhost_user_any_conversation_is_survived(
        messages in prop::collection::vec((0u32..46, 0u8..4, any::<bool>(), prop::collection::vec(0u64..4, 0..12)), 0..60),
    ) {
        let mut bytes = Vec::new();
        for (request, fds, need_reply, words) in messages {
            let payload: Vec<u8> = match request {
                code::SET_MEM_TABLE => [1u64.to_ne_bytes().to_vec(), region(0, MEMORY, USER, 0)].concat(),
                code::ADD_MEM_REG | code::REM_MEM_REG => single(words.first().map_or(0, |at| at << 20), MEMORY, USER, 0),
                code::SET_VRING_ADDR => addresses(words.len() as u32 % 3, layout(0x1000 * words.len() as u64, 64)),
                code::SET_VRING_NUM => pair(words.len() as u32 % 3, 64),
                code::SET_VRING_BASE | code::GET_VRING_BASE | code::SET_VRING_ENABLE => pair(words.len() as u32 % 3, 1),
                code::SET_VRING_KICK | code::SET_VRING_CALL | code::SET_VRING_ERR => 0u64.to_ne_bytes().to_vec(),
                _ => words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
            };
            bytes.push(fds);
            for word in [request, if need_reply { 9 } else { 1 }, payload.len() as u32] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(payload);
        }
        replay(Box::new(Fake::new().0), &bytes);
    }

    #[test]
    fn vhost_user_any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        replay(Box::new(Fake::new().0), &bytes);
    }
}
