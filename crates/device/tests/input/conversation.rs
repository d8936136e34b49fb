//! Conversations: what people and the guest do, line by line, and the frames that the guest gets.
//!
//! `key 30 down; key 30 up -> key 30 1 | key 30 0`: what is separated by `;` is done at once, then the guest takes what there
//! is, which must be the frames after `->`, without their SYN_REPORT. `#` begins a comment.

use device::{InputKind, SourceEvent, TouchPhase};

use crate::kernel::{Kernel, parse};
use crate::machine::{EVENT, Machine};

/// Holds a conversation with a usual machine.
pub fn check(kind: InputKind, conversation: &str) {
    hold(&mut Machine::usual(kind), conversation);
}

/// Holds a conversation. Panics when the guest gets anything else.
pub fn hold(machine: &mut Machine, conversation: &str) {
    let mut kernel = Kernel::default();
    for line in conversation.lines().map(|line| line.split('#').next().unwrap().trim()) {
        let (says, expected) = line.split_once("->").map_or((line, ""), |(says, expected)| (says, expected.trim()));
        let mut events = Vec::new();
        for words in says.split(';').map(|words| words.split_whitespace().collect::<Vec<_>>()) {
            match (words.as_slice(), event(&words)) {
                ([], _) => {}
                (_, Some(event)) => events.push(event),
                (other, None) => act(machine, other, &mut kernel),
            }
        }
        if !events.is_empty() {
            machine.hand.does(events);
        }
        let seen = machine.settle();
        assert_eq!(frames(&seen), expected, "{line}");
        kernel.take(seen);
    }
}

fn act(machine: &mut Machine, words: &[&str], kernel: &mut Kernel) {
    match *words {
        ["room", count] => {
            machine.refills = false;
            machine.post(count.parse().unwrap());
        }
        ["refill"] => {
            machine.refills = true;
            machine.fill();
        }
        ["pause"] => {
            machine.pause();
        }
        ["resume"] => assert!(machine.resume()),
        ["reboot"] => {
            machine.reboot();
            *kernel = Kernel::default();
            machine.fill();
        }
        ["led", code, value] => {
            let event = [[0x11, 0], [code.parse().unwrap(), 0], [value.parse().unwrap(), 0], [0, 0]];
            machine.status(&event.concat());
        }
        _ => panic!("{words:?}"),
    }
}

fn event(words: &[&str]) -> Option<SourceEvent> {
    let number = |at: usize| words[at].parse::<i32>().unwrap_or_else(|_| panic!("{words:?}"));
    let pressed = |at: usize| match words[at] {
        "down" => true,
        "up" => false,
        other => panic!("{other}"),
    };
    Some(match words[..] {
        ["key", ..] => SourceEvent::Key { code: number(1) as u16, pressed: pressed(2) },
        ["button", ..] => SourceEvent::Button { code: number(1) as u16, pressed: pressed(2) },
        ["pointer", ..] => SourceEvent::Pointer { head: number(1) as u8, x: number(2) as u16, y: number(3) as u16 },
        ["wheel", ..] => SourceEvent::Wheel { vertical: number(1) as i16, horizontal: number(2) as i16 },
        ["touch", _, phase, ..] => {
            let phase = match phase {
                "down" => TouchPhase::Down,
                "move" => TouchPhase::Move,
                _ => TouchPhase::Up,
            };
            SourceEvent::Touch {
                slot: number(1) as u8,
                phase,
                head: number(3) as u8,
                x: number(4) as u16,
                y: number(5) as u16,
            }
        }
        ["release"] => SourceEvent::ReleaseAll,
        ["gone"] => SourceEvent::Gone,
        _ => return None,
    })
}

/// Events in words, frames apart.
pub fn frames(events: &[[u8; EVENT as usize]]) -> String {
    let mut text = String::new();
    let mut between = "";
    for (kind, code, value) in events.iter().copied().map(parse) {
        let kind = match kind {
            0 => {
                between = " | ";
                continue;
            }
            1 => "key",
            2 => "rel",
            3 => "abs",
            _ => panic!("type {kind}"),
        };
        text += &format!("{between}{kind} {code} {value}");
        between = ", ";
    }
    text
}
