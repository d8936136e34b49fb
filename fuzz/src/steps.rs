//! Bytes as the life of a device: requests, pauses, memory that changes, a display and a renderer that do as they like.

use std::time::Duration;

use device::{DisplayEvent, Head, Modes, Start, VirtioDevice};
use protocol::{Rect, ScanoutId};
use renderer::Mood;

use crate::bytes::Bytes;
use crate::machine::Machine;
use crate::script::Request;

const REQUEST: u8 = 0;
const POLL: u8 = 8;
const MEMORY: u8 = 9;
const RESTART: u8 = 10;
const RESET: u8 = 11;
const EVENT: u8 = 12;
const MODES: u8 = 13;
const TIME: u8 = 14;
const CONFIG: u8 = 15;

/// Lives a life. Panics when the device breaks a promise: a reply too many or too few, one that is too long, a panic
/// inside, something left when all is over.
pub fn live(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mood = Mood {
        seed: u64::from(bytes.u32()),
        delay: bytes.u8() % 32,
        never: bytes.u8() / 8,
        twice: bytes.u8() / 4,
        fail: bytes.u8() / 4,
        blind: bytes.u8() / 4,
    };
    let mut machine = Machine::late(mood, bytes.u8() % 2 == 1);
    while !bytes.is_spent() {
        step(&mut machine, &mut bytes);
    }
    assert_eq!(machine.stats.panics.get(), 0);
    machine.finish();
}

fn step(machine: &mut Machine, bytes: &mut Bytes<'_>) {
    match bytes.u8() % 16 {
        POLL => drop(machine.poll()),
        MEMORY => {
            let mask = bytes.u8();
            machine.set_memory(&(0..4).filter(|piece| mask >> piece & 1 == 1).collect::<Vec<_>>());
        }
        RESTART => {
            machine.stop();
            machine.start(if bytes.u8() % 2 == 0 { Start::Resumed } else { Start::Fresh });
        }
        RESET => {
            machine.reset();
            machine.start(Start::Fresh);
        }
        EVENT => {
            let scanout = ScanoutId(u32::from(bytes.u8()));
            let event = match bytes.u8() % 4 {
                0 => DisplayEvent::ModesChanged { notify: bytes.u8() % 2 == 0 },
                1 => DisplayEvent::Resize { scanout, width: bytes.u32(), height: bytes.u32() },
                2 => DisplayEvent::Ready { scanout, damage: rect(bytes) },
                _ => DisplayEvent::Forgot,
            };
            machine.screen.seen().events.push(event);
        }
        MODES => {
            let modes = match bytes.u8() % 20 {
                0 => Some(Modes::Pending),
                count @ 1..=17 => {
                    let head = |bytes: &mut Bytes<'_>| Head { enabled: bytes.u8() % 2 == 0, rect: rect(bytes) };
                    Some(Modes::Display((0..count).map(|_| head(bytes)).collect()))
                }
                _ => None,
            };
            machine.screen.seen().modes = modes;
        }
        TIME => machine.pass(Duration::from_millis(u64::from(bytes.u16()))),
        CONFIG => {
            let (offset, len) = (bytes.u64(), usize::from(bytes.u8()));
            let config = machine.gpu.config();
            config.write(offset, bytes.take(len));
            config.read(offset, &mut vec![0xee; len]);
            machine.gpu.config_accessed();
        }
        _ => {
            let (queue, room, len) = (bytes.u8(), bytes.u16(), bytes.u16());
            let sent = bytes.take(usize::from(len)).to_vec();
            let carried = sent.len() as u64;
            machine.send(&Request { bytes: sent, queue: u16::from(queue % 3), carried, room: u64::from(room) });
        }
    }
}

fn rect(bytes: &mut Bytes<'_>) -> Rect {
    Rect::new(bytes.u32(), bytes.u32(), bytes.u32(), bytes.u32())
}

/// A life of the given lines, requests and what is said between them, without their replies.
pub fn seed(lines: &[&str], mood: [u8; 10]) -> Vec<u8> {
    let mut seed = mood.to_vec();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["memory", ref pieces @ ..] => {
                let mask =
                    pieces.iter().filter_map(|piece| piece.parse::<u8>().ok()).fold(0, |mask, at| mask | 1 << at);
                seed.extend([MEMORY, mask]);
            }
            ["start", "resumed"] => seed.extend([RESTART, 0]),
            ["start", "fresh"] => seed.extend([RESTART, 1]),
            ["reset"] => seed.push(RESET),
            ["wait"] => seed.extend([POLL; 6]),
            _ if line.contains("->") => {
                let request = Request::parse(line.split("->").next().unwrap_or_default());
                seed.extend([REQUEST, request.queue as u8]);
                seed.extend((request.room as u16).to_le_bytes());
                seed.extend((request.bytes.len() as u16).to_le_bytes());
                seed.extend(request.bytes);
            }
            // What must be seen: the device has to come to see it.
            _ => seed.push(POLL),
        }
    }
    seed
}
