//! Bytes as a driver: descriptors, rings and indexes at will, over the rings of an in-process guest.

use renderer::{Late, Mood, Soft};
use transport::Layout;
use transport::loopback::{Descriptor, INDIRECT, Loopback, NEXT, Shape, WRITE, table};

use crate::bytes::Bytes;
use crate::machine::gpu;
use crate::script::Request;

/// Guest memory; rings are laid out at its start.
const MEMORY: [(u64, u64); 2] = [(0, 1 << 18), (1 << 20, 1 << 16)];
/// Batches that are served after each kick: a driver may make chains available faster than they are served.
const BATCHES: usize = 3;

const SEND: u8 = 0;
const CHAIN: u8 = 1;
const DESCRIPTOR: u8 = 2;
const AVAILABLE: u8 = 3;
const INDEX: u8 = 4;
const KICK: u8 = 5;
const START: u8 = 6;
const STOP: u8 = 7;
const PAUSE: u8 = 8;
const RECONNECT: u8 = 9;
const REBOOT: u8 = 10;
const SHRINK: u8 = 11;
const WRITE_BYTES: u8 = 12;
const FLAGS: u8 = 13;

/// Drives. Panics when something panicked inside, or is left when all is over.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mood = Mood { seed: u64::from(bytes.u8()), delay: bytes.u8() % 8, never: bytes.u8() / 8, ..Mood::honest(0) };
    let Ok(late) = Late::new(Soft::new(), mood) else { return };
    let (gpu, _, stats) = gpu(Box::new(late), false);
    let shape = bytes.u8();
    let features = if shape & 2 == 0 { u64::MAX } else { u64::from(bytes.u32()) << 16 };
    let queue_size = Some(2 << (shape >> 4 & 7));
    let shape = Shape { memory: MEMORY.to_vec(), queue_size, features, indirect: shape & 1 == 1 };
    let mut guest = Loopback::with_shape(Box::new(gpu), &shape);
    guest.count_in(stats.clone());
    let mark = guest.allocate(0).unwrap_or_default();
    while !bytes.is_spent() {
        step(&mut guest, &mut bytes);
        // Buffers lie on top of earlier ones, which may still be in use.
        guest.release(mark);
    }
    guest.set_memory(table(&MEMORY));
    guest.reconnect();
    let stats = stats.snapshot();
    assert_eq!((stats.panics, stats.resources, stats.image_bytes), (0, 0, 0));
    assert!(guest.request(0, &Request::parse("display_info").bytes, 408).is_some_and(|reply| reply.used_len > 0));
}

/// One thing that a driver does.
pub(crate) fn step(guest: &mut Loopback, bytes: &mut Bytes<'_>) {
    let kind = bytes.u8() % 16;
    let queue = u16::from(bytes.u8() % 2);
    match kind {
        CHAIN => {
            let count = bytes.u8() % 9;
            let chain: Vec<_> = (0..count).map(|_| descriptor(bytes)).collect();
            if guest.offer_chain(queue, &chain).is_some() {
                guest.publish(queue);
            }
            run(guest);
        }
        DESCRIPTOR => {
            let (index, descriptor) = (bytes.u16(), descriptor(bytes));
            guest.driver(queue).write_descriptor(guest.memory(), index, descriptor);
        }
        AVAILABLE => guest.driver(queue).write_available(guest.memory(), bytes.u16(), bytes.u16()),
        INDEX => guest.driver(queue).write_index(guest.memory(), bytes.u16()),
        FLAGS => guest.driver(queue).write_flags(guest.memory(), bytes.u16()),
        KICK => {
            guest.kick(queue);
            run(guest);
        }
        START => {
            let [descriptors, available, used] = [(); 3].map(|()| u64::from(bytes.u32()));
            guest.start_ring(queue, Layout { size: bytes.u16(), descriptors, available, used }, bytes.u16());
        }
        STOP => drop(guest.stop_ring(queue)),
        PAUSE => {
            guest.pause();
            guest.resume();
        }
        RECONNECT => guest.reconnect(),
        REBOOT => guest.reboot(),
        SHRINK => {
            let keep = bytes.u8();
            guest.change_memory(|region| if region.start == 0 { keep & 1 == 0 } else { keep & 2 == 0 });
        }
        WRITE_BYTES => {
            let (addr, len) = (u64::from(bytes.u32() % (1 << 21)), usize::from(bytes.u8()));
            guest.write(addr, bytes.take(len));
        }
        _ => {
            let (room, len) = (u32::from(bytes.u16()), usize::from(bytes.u16()));
            guest.send(queue, &[bytes.take(len)], &[room]);
            run(guest);
        }
    }
}

fn descriptor(bytes: &mut Bytes<'_>) -> Descriptor {
    Descriptor { addr: u64::from(bytes.u32()), len: bytes.u32(), flags: bytes.u16(), next: bytes.u16() }
}

/// A few batches.
pub(crate) fn run(guest: &mut Loopback) {
    for _ in 0..BATCHES {
        if !guest.run_once() {
            break;
        }
    }
}

/// A prompt device, queues of 64.
const PLAIN: [u8; 4] = [0, 0, 0, 5 << 4];

/// The requests of the given lines, each sent as a driver would.
pub fn seed(lines: &[&str]) -> Vec<u8> {
    let mut seed = PLAIN.to_vec();
    for line in lines.iter().filter_map(|line| line.split_once("->")) {
        let request = Request::parse(line.0);
        seed.extend([SEND, request.queue as u8]);
        seed.extend((request.room as u16).to_le_bytes());
        seed.extend((request.bytes.len() as u16).to_le_bytes());
        seed.extend(request.bytes);
    }
    seed
}

/// Rings that no driver makes, by the name of what they did elsewhere.
pub fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let raw = |index: u16, addr: u32, len: u32, flags: u16, next: u16| {
        let words = [addr.to_le_bytes(), len.to_le_bytes()].concat();
        let rest = [flags.to_le_bytes(), next.to_le_bytes()].concat();
        [&[DESCRIPTOR, 0][..], &index.to_le_bytes(), &words, &rest].concat()
    };
    let available = |slot: u16, head: u16, index: u16| {
        let entry = [&[AVAILABLE, 0][..], &slot.to_le_bytes(), &head.to_le_bytes()].concat();
        [entry, [&[INDEX, 0][..], &index.to_le_bytes()].concat(), vec![KICK, 0]].concat()
    };
    let start = |size: u16, descriptors: u32, available: u32, used: u32| {
        let words = [descriptors, available, used].map(u32::to_le_bytes).concat();
        [&[STOP, 0, START, 0][..], &words, &size.to_le_bytes(), &[0, 0], &[KICK, 0]].concat()
    };
    let seed = |parts: &[Vec<u8>]| [PLAIN.to_vec(), parts.concat()].concat();
    let info = Request::parse("display_info").bytes;
    let send = [&[SEND, 0, 0, 2, info.len() as u8, 0][..], &info].concat();
    vec![
        ("cve_2016_6490_zero_length", seed(&[raw(0, 0x1000, 0, NEXT, 1), raw(1, 0, 0, NEXT, 0), available(0, 0, 1)])),
        ("a_descriptor_that_is_its_own_next", seed(&[raw(5, 0x1000, 24, NEXT, 5), available(0, 5, 1)])),
        ("a_head_outside_the_table", seed(&[available(0, 0xffff, 1)])),
        ("an_index_that_runs_ahead", seed(&[available(0, 0, 0x7fff)])),
        ("cve_2017_17381_size_0", seed(&[start(0, 0x1000, 0x2000, 0x3000)])),
        ("cve_2017_17381_size_3", seed(&[start(3, 0x1000, 0x2000, 0x3000)])),
        ("cve_2017_17381_size_32769", seed(&[start(0x8001, 0x1000, 0x2000, 0x3000)])),
        ("a_ring_past_memory", seed(&[start(64, 0x3_fff0, 0x2000, 0x3000), start(64, 0x1000, 0x2000, 0xffff_fff0)])),
        ("a_ring_that_is_its_own_table", seed(&[start(64, 0x1000, 0x1000, 0x1000), send.clone()])),
        ("an_unaligned_ring", seed(&[start(64, 0x1001, 0x2001, 0x3002), send.clone()])),
        ("a_table_in_a_table", seed(&[raw(0, 0x1000, 16, INDIRECT | NEXT, 1), available(0, 0, 1)])),
        ("a_table_of_odd_length", seed(&[raw(0, 0x1000, 17, INDIRECT, 0), available(0, 0, 1)])),
        (
            "a_reply_into_the_used_ring",
            seed(&[raw(0, 0x1000, 24, NEXT, 1), raw(1, 0x1800, 512, WRITE, 0), available(0, 0, 1)]),
        ),
        (
            "cve_2024_3446_outside_of_memory",
            seed(&[raw(0, 0x1000, 24, NEXT, 1), raw(1, 0x8000_0000, 64, WRITE, 0), available(0, 0, 1)]),
        ),
        ("memory_that_goes", seed(&[send.clone(), vec![SHRINK, 0, 1], send.clone(), vec![RECONNECT, 0], send.clone()])),
        ("pauses", seed(&[send.clone(), vec![PAUSE, 0], send.clone(), vec![REBOOT, 0], send])),
    ]
}
