//! What a guest's kernel makes of events, and what it may count on.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::EVENT;

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const BTN_TOUCH: u16 = 0x14a;

/// Type, code, value.
pub type Event = (u16, u16, i32);

pub fn parse(bytes: [u8; EVENT as usize]) -> Event {
    let [a, b, c, d, value @ ..] = bytes;
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), i32::from_le_bytes(value))
}

/// The state of an input device as its events tell it. Panics at what would confuse a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The frame that has not ended.
    frame: Vec<Event>,
    pub frames: usize,
    pub down: BTreeSet<u16>,
    pub position: Option<(u16, u16)>,
    slot: u16,
    /// Name and place of each finger.
    pub fingers: BTreeMap<u16, (i32, u16, u16)>,
    /// 120ths of notches, up and right.
    pub wheel: (i64, i64),
    pub notches: (i64, i64),
}

impl Kernel {
    pub fn take(&mut self, events: impl IntoIterator<Item = [u8; EVENT as usize]>) {
        for event in events.into_iter().map(parse) {
            if event == (EV_SYN, 0, 0) {
                self.end_frame();
            } else {
                self.frame.push(event);
            }
            assert!(self.frame.len() < 4, "more than the smallest queue holds: {:?}", self.frame);
        }
        assert!(self.frame.is_empty(), "half a frame: {:?}", self.frame);
    }

    fn end_frame(&mut self) {
        let frame = std::mem::take(&mut self.frame);
        assert!(!frame.is_empty(), "an empty frame");
        self.frames += 1;
        let mut position = [None; 2];
        for (kind, code, value) in frame {
            let small = u16::try_from(value);
            match (kind, code) {
                (EV_KEY, code) => {
                    let changed = if value == 1 { self.down.insert(code) } else { self.down.remove(&code) };
                    assert!(changed, "key {code} is {value} already");
                }
                (EV_REL, 0x0b) => self.wheel.0 += i64::from(value),
                (EV_REL, 0x0c) => self.wheel.1 += i64::from(value),
                (EV_REL, 8) => self.notches.0 += i64::from(value),
                (EV_REL, 6) => self.notches.1 += i64::from(value),
                (EV_ABS, axis @ (0 | 1)) => position[usize::from(axis)] = Some(small.unwrap()),
                (EV_ABS, 0x2f) => self.slot = small.unwrap(),
                (EV_ABS, 0x39) if value == -1 => drop(self.fingers.remove(&self.slot).expect("a finger to lift")),
                (EV_ABS, 0x39) => {
                    let names = self.fingers.values().map(|(name, ..)| *name);
                    assert!(names.into_iter().all(|name| name != value), "two fingers of one name");
                    assert!(self.fingers.insert(self.slot, (value, 0, 0)).is_none(), "a finger that is down");
                }
                (EV_ABS, 0x35) => self.fingers.get_mut(&self.slot).expect("a finger that moves").1 = small.unwrap(),
                (EV_ABS, 0x36) => self.fingers.get_mut(&self.slot).expect("a finger that moves").2 = small.unwrap(),
                other => panic!("{other:?} was not promised"),
            }
        }
        match position {
            [None, None] => {}
            [Some(x), Some(y)] => {
                assert!(x <= 32767 && y <= 32767);
                assert_ne!(self.position.replace((x, y)), Some((x, y)), "no news");
            }
            half => panic!("half a place: {half:?}"),
        }
        assert!(self.fingers.is_empty() || self.down.contains(&BTN_TOUCH));
        assert!(self.fingers.values().all(|&(_, x, y)| x <= 32767 && y <= 32767));
    }
}
