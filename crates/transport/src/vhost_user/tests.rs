//! Conversations with a front-end that writes its own bytes.

mod dialects;
mod front;
mod hostile;
mod memory;
mod pause;
mod several;
mod supply;
mod window;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::message::code;
use super::{Endpoint, Options, serve};
use crate::fake::{self, Fake};
use crate::feature;
use front::{Front, Served};

/// Packed rings (bit 34, CVE-2026-16457) are not among it, nor LOG_SHMFD (1), RESET_DEVICE (13) or 21.
#[test]
fn cve_2026_16457_what_is_offered() {
    let served = Served::listening();
    let front = Front::connect(&served);
    let features = front.ask_word(code::GET_FEATURES);
    assert_eq!(features, 0b11 | feature::TRANSPORT | 1 << 30);
    let protocol = front.ask_word(code::GET_PROTOCOL_FEATURES);
    let bits: Vec<u32> = (0..64).filter(|bit| protocol >> bit & 1 == 1).collect();
    assert_eq!(bits, [0, 3, 5, 9, 15]);
    assert_eq!(front.ask_word(code::GET_QUEUE_NUM), 2);
    assert_eq!(front.ask_word(code::GET_MAX_MEM_SLOTS), 512);
}

#[test]
fn a_request_goes_all_the_way() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    assert_eq!(front.request(0, b"echo", 16), b"echo");
    assert_eq!(front.request(1, b"eh", 16), b"eh");
    drop(front);
    served.wait_for_call("reset");
    let features = 0b11 | feature::TRANSPORT;
    assert_eq!(served.seen.calls(), [format!("start {features:#x} Fresh"), "reset".into()]);
}

#[test]
fn a_batch_is_one_interrupt_and_a_kick_is_never_read() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    let heads: Vec<u16> = (0..32).map(|_| front.offer(0, b"e", 1)).collect();
    front.publish(0);
    for _ in heads {
        front.wait_used(0);
    }
    // A second one if this machine stood still for some milliseconds.
    assert!(front.wait_interrupts(0) <= 2);
    assert_eq!(front.kicks(0), 1, "the counter still holds what was written");
    // Whether the next one needs a kick depends on how soon it comes: the ring is looked at once more after the interrupt.
    assert_eq!(front.request(0, b"e", 1), b"e");
    assert!(front.kicks(0) <= 1);
    assert!(front.wait_interrupts(0) <= 2);
}

#[test]
fn rings_are_enabled_for_a_front_end_that_knows_no_enabling() {
    let served = Served::listening();
    let mut front = Front::connect(&served);
    front.features = feature::VERSION_1;
    front.set_up();
    assert_eq!(front.request(0, b"old", 8), b"old");
}

#[test]
fn a_ring_that_was_not_enabled_waits() {
    let served = Served::listening();
    let mut front = Front::connect(&served);
    front.negotiate();
    front.set_up();
    front.offer(0, b"e", 1);
    front.publish(0);
    // It has been looked at by the time this is acknowledged.
    front.enable(1, true);
    assert!(served.seen.lock().requests.is_empty());
    front.enable(0, true);
    assert_eq!(front.wait_used(0).len, 1);
}

/// Bytes of the configuration, as GET_CONFIG gives them.
fn config(front: &Front, offset: u32, size: u32) -> Vec<u8> {
    let head = [offset, size, 0].map(u32::to_ne_bytes).concat();
    let answer = front.ask(code::GET_CONFIG, &[head.clone(), vec![0xee; size as usize]].concat());
    assert_eq!(answer[..12], head);
    answer[12..].to_vec()
}

fn set_config(front: &Front, offset: u32, bytes: &[u8]) {
    let head = [offset, bytes.len() as u32, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(front.acknowledged(code::SET_CONFIG, &[&head, bytes].concat(), &[]), 0);
}

#[test]
fn cve_2026_50626_the_configuration_ends_where_it_ends() {
    let served = Served::listening();
    let front = Front::connect(&served);
    front.negotiate();
    let expected = |offset: u32, size: u32| -> Vec<u8> {
        let byte = |at| if u64::from(offset) + at < 20 { 0xc0 } else { 0 };
        (0..u64::from(size)).map(byte).collect()
    };
    for width in [1, 2, 4, 8] {
        for offset in (0..40).chain([255, 256, 4095, u32::MAX - 7, u32::MAX]) {
            assert_eq!(config(&front, offset, width), expected(offset, width), "{width} bytes at {offset}");
            set_config(&front, offset, &vec![0xc0; width as usize]);
        }
    }
    for (offset, size) in [(0, 0), (0, 20), (0, 24), (0, 256), (0, 4084), (19, 4084), (u32::MAX, 64)] {
        assert_eq!(config(&front, offset, size), expected(offset, size), "{size} bytes at {offset}");
    }
}

#[test]
fn the_device_hears_that_its_configuration_was_read_or_written() {
    let served = Served::listening();
    let front = Front::connect(&served);
    front.negotiate();
    config(&front, 0, 20);
    served.wait_for_call("config accessed");
    served.seen.calls();
    set_config(&front, 2, &[1, 2, 3]);
    served.wait_for_call("config accessed");
    assert_eq!(config(&front, 0, 6), [0xc0, 0xc0, 1, 2, 3, 0xc0]);
}

#[test]
fn the_driver_is_told_of_a_new_configuration_without_being_waited_for() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(front.acknowledged(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]), 0);
    served.seen.lock().config_changed = true;
    front.request(0, b"e", 1);
    assert_eq!(front::words(&ours, 3), [code::BACKEND_CONFIG_CHANGE, 1, 0]);
    // Nobody reads it any more: the device goes on all the same.
    for _ in 0..5000 {
        served.seen.lock().config_changed = true;
        front.request(0, b"e", 1);
    }
}

#[test]
fn a_front_end_with_a_display_gives_its_socket_and_is_not_told() {
    let (sender, sockets) = std::sync::mpsc::channel();
    let options = Options { on_gpu_socket: Box::new(move |fd| sender.send(fd).unwrap()), ..Options::default() };
    let served = Served::new(options);
    let mut front = Front::ready(&served);
    let (channel, back_end) = UnixStream::pair().unwrap();
    front.acknowledged(code::SET_BACKEND_REQ_FD, &[], &[back_end.as_fd()]);
    drop(back_end);
    let (_display, theirs) = UnixStream::pair().unwrap();
    for _ in 0..2 {
        front.send(code::GPU_SET_SOCKET, 0, &[], &[theirs.as_fd()]);
        sockets.recv().unwrap();
    }
    served.seen.lock().config_changed = true;
    front.request(0, b"e", 1);
    assert!(front::words(&channel, 3).is_empty(), "closed without a word");
}

#[test]
fn the_next_front_end_finds_the_device_as_new() {
    let served = Served::listening();
    for _ in 0..20 {
        let mut front = Front::ready(&served);
        assert_eq!(front.request(0, b"e", 1), b"e");
        front.offer(0, &[fake::LATER], 1);
        front.publish(0);
    }
}

#[test]
fn a_passed_connection_ends_the_server() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (fake, seen) = Fake::new();
    let server = std::thread::spawn(|| serve(Endpoint::Connection(theirs), Box::new(fake), Options::default()));
    let mut front = Front::over(ours);
    front.negotiate();
    front.set_up();
    front.enable(0, true);
    assert_eq!(front.request(0, b"e", 1), b"e");
    drop(front);
    server.join().unwrap().unwrap();
    assert_eq!(seen.calls().last().unwrap(), "reset");
}

#[test]
fn a_word_ends_the_server_in_the_middle_of_a_connection() {
    for connected in [false, true] {
        let mut served = Served::listening();
        let front = connected.then(|| Front::ready(&served));
        served.stop();
        drop(front);
    }
}

#[test]
fn a_panic_where_none_is_expected_stops_the_rings_and_not_the_thread() {
    let served = Served::listening();
    let mut front = Front::ready(&served);
    for round in 0..2 {
        // Both, so that both are known to run.
        assert_eq!((front.request(0, b"e", 1), front.request(1, b"e", 1)), (b"e".to_vec(), b"e".to_vec()));
        served.seen.lock().panic_outside = true;
        // Whatever makes it wait again.
        front.enable(1, true);
        front.wait_broken(0);
        front.wait_broken(1);
        assert_eq!((front.stop(0), front.stop(1)), (round + 1, round + 1));
        front.start(0, round + 1);
        front.start(1, round + 1);
    }
    assert_eq!(front.request(0, b"e", 1), b"e");
}

#[test]
fn stopping_does_not_wait_for_a_front_end_that_reads_nothing() {
    let mut served = Served::listening();
    let front = Front::connect(&served);
    front.flood(code::GET_SHMEM_CONFIG);
    served.stop();
}
