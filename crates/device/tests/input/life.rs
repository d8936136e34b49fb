//! Lives of a device: people, a driver and a VMM that do what they like, in any order. What the guest saw must make sense.

use std::collections::{BTreeMap, BTreeSet};

use device::{ConfigSpace, InputKind, SourceEvent, TouchPhase};

use super::kernel::Kernel;
use super::machine::Machine;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody does all this at once.
    Does(Vec<SourceEvent>),
    /// The driver makes so many chains available.
    Post(u8),
    /// The driver reports a status, or nonsense.
    Status(Vec<u8>),
    /// The driver or its VMM asks the configuration.
    Config(u64, Vec<u8>),
    Pause,
    Resume,
    Reboot,
    Reconnect,
}

/// What a person who looks at the guest's screen thinks is down.
#[derive(Debug, Default)]
struct Person {
    /// Keys and buttons that there are.
    has: BTreeSet<u16>,
    keys: BTreeSet<u16>,
    position: Option<(u16, u16)>,
    fingers: BTreeMap<u16, (u16, u16)>,
    wheel: (i64, i64),
}

impl Person {
    fn before(config: &dyn ConfigSpace) -> Self {
        let mut answer = [0; 136];
        config.write(0, &[0x11, 1]);
        config.read(0, &mut answer);
        let has = (0..1024).filter(|code| answer[8 + usize::from(code / 8)] >> (code % 8) & 1 == 1).collect();
        Self { has, ..Self::default() }
    }

    fn does(&mut self, kind: InputKind, event: SourceEvent) {
        let is_console = kind == InputKind::Console;
        match event {
            SourceEvent::Key { code, pressed } if is_console && !(0x110..=0x114).contains(&code) => {
                self.switch(code, pressed);
            }
            SourceEvent::Button { code, pressed } if is_console && (0x110..=0x114).contains(&code) => {
                self.switch(code, pressed);
            }
            SourceEvent::Pointer { x, y, .. } if is_console => self.position = Some((x / 2, y / 2)),
            SourceEvent::Wheel { vertical, horizontal } if is_console => {
                self.wheel.0 += i64::from(vertical);
                self.wheel.1 += i64::from(horizontal);
            }
            SourceEvent::Touch { slot, phase, x, y, .. } if !is_console && slot < 10 => {
                let slot = u16::from(slot);
                match phase {
                    TouchPhase::Up => drop(self.fingers.remove(&slot)),
                    TouchPhase::Move if !self.fingers.contains_key(&slot) => {}
                    TouchPhase::Down | TouchPhase::Move => drop(self.fingers.insert(slot, (x / 2, y / 2))),
                }
            }
            SourceEvent::ReleaseAll | SourceEvent::Gone => {
                self.keys.clear();
                self.fingers.clear();
            }
            _ => {}
        }
    }

    fn switch(&mut self, code: u16, pressed: bool) {
        if pressed && self.has.contains(&code) {
            self.keys.insert(code);
        } else {
            self.keys.remove(&code);
        }
    }
}

/// Lives a life. Panics when the guest saw half a frame or nonsense, or when at the end, with room for all, it believes
/// something else than the people do.
pub fn live(kind: InputKind, size: u16, features: u64, events: impl IntoIterator<Item = Event>) {
    let mut machine = Machine::new(kind, size, features);
    machine.refills = false;
    let (mut kernel, mut person) = (Kernel::default(), Person::before(&*machine.config));
    // Since this driver came.
    let mut dropped = 0;
    for event in events.into_iter().chain([Event::Resume]) {
        let mut is_new = false;
        match event {
            Event::Does(events) => {
                events.iter().for_each(|event| person.does(kind, *event));
                machine.hand.does(events);
            }
            Event::Post(count) => machine.post(count.into()),
            Event::Status(bytes) => {
                let mark = machine.guest.allocate(0).unwrap_or_default();
                // Nobody collects these: after some the ring is full.
                machine.guest.send(1, &[&bytes], &[]);
                machine.guest.release(mark);
            }
            Event::Config(offset, bytes) => {
                machine.config.write(offset, &bytes);
                machine.config.read(offset, &mut vec![0xee; bytes.len()]);
            }
            Event::Pause => drop(machine.pause()),
            Event::Resume => is_new = !machine.resume(),
            Event::Reboot => {
                machine.reboot();
                is_new = true;
            }
            Event::Reconnect => {
                machine.reconnect();
                is_new = true;
            }
        }
        if is_new {
            (kernel, person) = (Kernel::default(), Person { has: person.has, ..Person::default() });
            dropped = machine.stats.dropped.get();
        }
        kernel.take(machine.settle());
    }
    machine.refills = true;
    machine.fill();
    kernel.take(machine.settle());
    agree(kind, &kernel, &person, machine.stats.dropped.get() > dropped);

    machine.hand.does([SourceEvent::ReleaseAll]);
    kernel.take(machine.settle());
    assert_eq!((kernel.down.len(), kernel.fingers.len()), (0, 0), "something is stuck");
    let stats = machine.stats.snapshot();
    assert_eq!(stats.panics, 0);
    assert_eq!(machine.guest.counts().broken, [0, 0]);
}

fn agree(kind: InputKind, kernel: &Kernel, person: &Person, was_dropped: bool) {
    let mut down = kernel.down.clone();
    if kind == InputKind::Touch {
        assert_eq!(down.remove(&0x14a), !kernel.fingers.is_empty(), "BTN_TOUCH");
    }
    let fingers: BTreeSet<_> = kernel.fingers.keys().copied().collect();
    let held: BTreeSet<_> = person.fingers.keys().copied().collect();
    // A press may be lost, a release never, nor where the pointer is.
    assert!(down.is_subset(&person.keys) && fingers.is_subset(&held));
    assert_eq!(kernel.position, person.position);
    if was_dropped {
        return;
    }
    assert_eq!((down, fingers), (person.keys.clone(), held));
    assert!(kernel.fingers.iter().all(|(slot, &(_, x, y))| person.fingers[slot] == (x, y)));
    assert_eq!(kernel.wheel, person.wheel);
}
