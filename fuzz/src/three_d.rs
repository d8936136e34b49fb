//! Bytes as the life of a device with contexts: requests, a library that answers when it likes or dies, a front-end that maps
//! when it likes, pauses.

use std::time::Duration;

use device::Start;

use crate::asks::{self, Ask, Desc, IMAGE};
use crate::bytes::Bytes;
use crate::strict::{PAGE, Pace};
use crate::window::{Guest, WINDOW};

const ASK: u8 = 0;
const RAW: u8 = 8;
const POLL: u8 = 9;
const PACE: u8 = 10;
const WINDOW_HABIT: u8 = 11;
const RESTART: u8 = 12;
const RESET: u8 = 13;
const TIME: u8 = 14;
const DIE: u8 = 15;

/// Lives a life. Panics when the device breaks a promise: to the guest (a reply too many or too few, one that is too long), to the
/// library (a name twice, a part that is not there), to the front-end (a map over another one), or when something is left.
pub fn live(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut guest = Guest::new(pace(bytes.u8()));
    while !bytes.is_spent() {
        step(&mut guest, &mut bytes);
    }
    guest.window.hold = false;
    guest.library.release(Pace::Prompt);
    // What a guest's kernel waits for without a limit is answered within one.
    guest.pass(Duration::from_secs(60));
    guest.wait();
    guest.finish();
}

fn pace(byte: u8) -> Pace {
    match byte % 3 {
        0 => Pace::Prompt,
        1 => Pace::Late,
        _ => Pace::Never,
    }
}

fn step(guest: &mut Guest, bytes: &mut Bytes<'_>) {
    match bytes.u8() % 16 {
        RAW => {
            let (queue, room, len) = (bytes.u8() % 2, bytes.u16(), bytes.u16());
            let sent = bytes.take(usize::from(len)).to_vec();
            guest.send_bytes(u16::from(queue), &sent, u64::from(room));
        }
        POLL => drop(guest.poll()),
        PACE => guest.library.release(pace(bytes.u8())),
        WINDOW_HABIT => {
            let habit = bytes.u8();
            (guest.window.hold, guest.window.refuse) = (habit & 1 == 1, habit & 2 == 2);
            guest.library.known().exports = habit & 4 == 0;
        }
        RESTART => {
            guest.stop();
            guest.start(if bytes.u8().is_multiple_of(2) { Start::Resumed } else { Start::Fresh });
        }
        RESET => guest.reset(),
        TIME => guest.pass(Duration::from_millis(u64::from(bytes.u16()))),
        DIE => guest.library.die(),
        _ => {
            let ask = ask(bytes);
            guest.send(&ask);
        }
    }
}

/// A number that is mostly small: fuzzers find edges by themselves only when they are near.
fn number(bytes: &mut Bytes<'_>) -> u32 {
    match bytes.u8() {
        255 => bytes.u32(),
        254 => u32::MAX,
        253 => 1 << 31,
        small => u32::from(small),
    }
}

/// A request of any kind.
pub(crate) fn ask(bytes: &mut Bytes<'_>) -> Ask {
    let (kind, marks) = (bytes.u8(), bytes.u8());
    let ctx = u32::from(bytes.u8() % 6);
    let resource = u32::from(bytes.u8() % 12);
    let area = |bytes: &mut Bytes<'_>| [(); 6].map(|()| number(bytes));
    let ask = match kind % 24 {
        0 => asks::open(ctx, number(bytes)),
        1 => asks::close(ctx),
        2 => asks::join(ctx, resource),
        3 => asks::leave(ctx, resource),
        4 => asks::create_3d(resource, IMAGE),
        5 => {
            let desc: Desc = [(); 10].map(|()| number(bytes));
            asks::create_3d(resource, desc)
        }
        6 => asks::to_host(ctx, resource, area(bytes), number(bytes).into(), [(); 3].map(|()| number(bytes))),
        7 => asks::from_host(ctx, resource, area(bytes), number(bytes).into(), [(); 3].map(|()| number(bytes))),
        8 | 9 => {
            let words: Vec<u32> = (0..bytes.u8() % 16).map(|_| number(bytes)).collect();
            asks::submit(ctx, &words)
        }
        10 => asks::submit_sized(ctx, number(bytes), &[0; 4]),
        11 => asks::mappable(ctx, resource, u64::from(number(bytes)) * PAGE / 2),
        12 => asks::blob(ctx, resource, number(bytes), number(bytes), number(bytes).into()),
        13 => asks::map(resource, u64::from(number(bytes)) * PAGE),
        14 => asks::map(resource, WINDOW.wrapping_sub(u64::from(number(bytes)))),
        15 => asks::unmap(resource),
        16 => asks::unref(resource),
        17 => asks::attach(resource, u64::from(number(bytes)) << 8, number(bytes) << 8),
        18 => asks::detach(resource),
        19 => asks::scanout(number(bytes) % 3, resource, 16, 16),
        20 => asks::flush(resource, 16, number(bytes)),
        21 => asks::scanout_blob(number(bytes) % 3, resource, 16, 16),
        22 => asks::create_2d(resource, number(bytes), number(bytes)),
        _ => asks::guest_blob(resource, u64::from(number(bytes)) << 12, number(bytes) << 12),
    };
    let ask = if marks & 1 == 1 { ask.fenced(u64::from(bytes.u8())) } else { ask };
    let ask = if marks & 2 == 2 { ask.on(bytes.u8()) } else { ask };
    if marks & 0xf0 == 0xf0 { ask.on_cursor_queue() } else { ask }
}

/// Lives that a guest with contexts leads, at each pace.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let send = |ask: Ask| {
        let bytes = ask.bytes();
        [&[RAW, 0, 0, 16][..], &(bytes.len() as u16).to_le_bytes(), &bytes].concat()
    };
    let all = [0, 0, 0, 16, 16, 1];
    let draw = [
        asks::open(1, 2),
        asks::create_3d(5, IMAGE).fenced(1),
        asks::attach(5, 0x1000, 0x1000),
        asks::join(1, 5),
        asks::to_host(1, 5, all, 0, [0; 3]).fenced(2),
        asks::submit(1, &[0; 3]).fenced(3).on(0),
        asks::scanout(0, 5, 16, 16),
        asks::flush(5, 16, 16).fenced(4),
        asks::from_host(1, 5, all, 0, [0; 3]).fenced(5),
        asks::detach(5),
        asks::leave(1, 5),
        asks::unref(5),
        asks::close(1),
    ];
    let share = [
        asks::open(2, 4),
        asks::mappable(2, 6, PAGE),
        asks::map(6, 0),
        asks::mappable(2, 7, 2 * PAGE),
        asks::map(7, PAGE),
        asks::submit(2, &[0; 3]).fenced(1).on(9),
        asks::unmap(6),
        asks::unref(7),
        asks::unref(6),
        asks::close(2),
    ];
    let lives = [("draws", draw.to_vec()), ("shares", share.to_vec())];
    let mut seeds = Vec::new();
    for (name, life) in lives {
        for pace in 0..3u8 {
            let mut bytes = vec![pace];
            life.iter().for_each(|ask| bytes.extend([send(ask.clone()), vec![POLL]].concat()));
            seeds.push((format!("{name}-at-pace-{pace}"), bytes.clone()));
            for (how, between) in [
                ("dies", vec![DIE]),
                ("restarts", vec![RESTART, 0]),
                ("reboots", vec![RESTART, 1]),
                ("resets", vec![RESET]),
                ("holds", vec![WINDOW_HABIT, 1]),
                ("refuses", vec![WINDOW_HABIT, 2]),
                ("waits", vec![TIME, 0xff, 0xff, POLL]),
            ] {
                let mut bytes = vec![pace];
                for (at, ask) in life.iter().enumerate() {
                    bytes.extend(send(ask.clone()));
                    if at == life.len() / 2 {
                        bytes.extend(&between);
                    }
                }
                bytes.push(POLL);
                seeds.push((format!("{name}-{how}-at-pace-{pace}"), bytes));
            }
        }
    }
    seeds
}

/// The kinds of requests, each once: a fuzzer that has seen a kind goes on from there.
pub fn kinds() -> Vec<(String, Vec<u8>)> {
    let before =
        [vec![0], (0..3u8).flat_map(|ctx| [ASK, 0, 0, ctx, 0, [1, 2, 4][usize::from(ctx)]]).collect()].concat();
    (0..24u8).map(|kind| (format!("kind-{kind}"), [&before[..], &[ASK, kind, 1, 2, 3], &[1; 16]].concat())).collect()
}
