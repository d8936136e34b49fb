//! Bytes as the life of an input device, with a driver that keeps to the rules or with one that does not.

#[allow(dead_code)]
#[path = "../../crates/device/tests/input/kernel.rs"]
mod kernel;
#[allow(dead_code)]
#[path = "../../crates/device/tests/input/life.rs"]
mod life;
#[allow(dead_code)]
#[path = "../../crates/device/tests/input/machine.rs"]
mod machine;

use device::{InputKind, SourceEvent, TouchPhase};
use life::Event;
use machine::Machine;
use transport::feature;

use crate::bytes::Bytes;
use crate::rings;

/// Lives. Panics when the guest of a driver that keeps to the rules saw half a frame, or something sticks; when something
/// panicked inside; or when the next guest is not served.
pub fn live(data: &[u8]) {
    let mut bytes = Bytes(data);
    let shape = bytes.u8();
    let kind = if shape & 1 == 0 { InputKind::Console } else { InputKind::Touch };
    let size = [4, 8, 64, 16][usize::from(shape >> 1 & 3)];
    let features = if shape & 8 == 0 { u64::MAX } else { !feature::EVENT_IDX };
    if shape & 16 == 0 {
        let events = std::iter::from_fn(|| (!bytes.is_spent()).then(|| event(&mut bytes)));
        life::live(kind, size, features, events);
    } else {
        intrude(Machine::new(kind, size, features), &mut bytes);
    }
}

/// A driver that writes anything into its rings while people go on.
fn intrude(mut machine: Machine, bytes: &mut Bytes<'_>) {
    let mark = machine.guest.allocate(0).unwrap_or_default();
    while !bytes.is_spent() {
        if bytes.u8() % 2 == 0 {
            rings::step(&mut machine.guest, bytes);
            machine.guest.release(mark);
        } else {
            machine.hand.does([source_event(bytes)]);
            rings::run(&mut machine.guest);
        }
    }
    machine.guest.set_memory(transport::loopback::table(&[(0, 1 << 16)]));
    machine.reconnect();
    machine.fill();
    machine.settle();
    let (code, slot) = (30, 0);
    let seen = machine.does([
        SourceEvent::Key { code, pressed: true },
        SourceEvent::Touch { slot, phase: TouchPhase::Down, head: 0, x: 1, y: 1 },
    ]);
    assert!(!seen.is_empty(), "the next guest is served");
    assert_eq!(machine.stats.panics.get(), 0);
}

fn event(bytes: &mut Bytes<'_>) -> Event {
    match bytes.u8() % 16 {
        0 => Event::Status(short(bytes)),
        1 => Event::Config(bytes.u64(), short(bytes)),
        2 => Event::Pause,
        3 | 4 => Event::Resume,
        5 => Event::Reboot,
        6 => Event::Reconnect,
        7..10 => Event::Post(bytes.u8()),
        _ => {
            let count = bytes.u8() % 80;
            Event::Does((0..count).map(|_| source_event(bytes)).collect())
        }
    }
}

fn short(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let len = usize::from(bytes.u8());
    bytes.take(len).to_vec()
}

fn source_event(bytes: &mut Bytes<'_>) -> SourceEvent {
    let choice = bytes.u8();
    let pressed = choice & 128 == 0;
    match choice % 8 {
        0 => SourceEvent::Key { code: bytes.u16(), pressed },
        1 => SourceEvent::Key { code: u16::from(bytes.u8() % 16), pressed },
        2 => SourceEvent::Button { code: 0x110 + u16::from(bytes.u8() % 8), pressed },
        3 => SourceEvent::Pointer { head: bytes.u8(), x: bytes.u16(), y: bytes.u16() },
        4 => SourceEvent::Wheel { vertical: bytes.u16() as i16, horizontal: bytes.u8().into() },
        5 | 6 => {
            let phase = [TouchPhase::Down, TouchPhase::Move, TouchPhase::Up][usize::from(choice >> 3) % 3];
            SourceEvent::Touch { slot: bytes.u8() % 12, phase, head: 0, x: bytes.u16(), y: bytes.u16() }
        }
        _ if pressed => SourceEvent::ReleaseAll,
        _ => SourceEvent::Gone,
    }
}

/// Lives that meet each kind of event, for each kind of device and driver.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    const POST: u8 = 7;
    const DOES: u8 = 10;
    let key = |up: u8| [1 | up, 5];
    let touch = |phase: u8, slot: u8| [5 | phase << 3, slot, 1, 2, 3, 4];
    let lives = [
        ("keys", [&[POST, 8, DOES, 2][..], &key(0), &key(128), &[DOES, 1], &key(0), &[DOES, 1, 7]].concat()),
        (
            "pointer",
            [&[POST, 60, DOES, 3][..], &[3, 0, 1, 2, 3, 4], &[2, 0], &[130, 0], &[DOES, 1, 4, 120, 0, 60], &[2, 3]]
                .concat(),
        ),
        (
            "touch",
            [
                &[POST, 60, DOES, 3][..],
                &touch(0, 1),
                &touch(1, 1),
                &touch(0, 2),
                &[DOES, 2],
                &touch(2, 1),
                &touch(2, 2),
            ]
            .concat(),
        ),
        ("stuck", [&[DOES, 79][..], &key(0).repeat(79), &[POST, 3, DOES, 1, 7, 5, POST, 64, 6, POST, 64]].concat()),
        ("status", vec![0, 8, 0x11, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x12, 1]),
    ];
    let shapes = [0, 1, 4, 5, 12, 16, 21];
    let shaped = |(name, bytes): (&str, Vec<u8>)| {
        shapes.map(|shape| (format!("{name}-{shape}"), [&[shape], &bytes[..]].concat()))
    };
    lives.into_iter().flat_map(shaped).collect()
}
