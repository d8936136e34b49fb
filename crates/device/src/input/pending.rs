//! What a source said and the guest has not been told, and what is down as far as the source is concerned.

use std::collections::VecDeque;

use super::TouchPhase;
use super::codes::{FINGERS, KeySet};

/// Changes that wait for a guest: so much a person does while it is busy for a moment. A guest that takes no events makes us
/// keep no more.
pub(super) const LIMIT: usize = 64;

/// A place on the guest's absolute axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    pub x: u16,
    pub y: u16,
}

/// Which way a wheel turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wheel {
    Vertical,
    Horizontal,
}

/// Something that the guest is to be told, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Key {
        code: u16,
        pressed: bool,
    },
    /// Where the pointer was then, lest a movement that was dropped moves the click.
    Button {
        code: u16,
        pressed: bool,
        at: Option<Point>,
    },
    Move(Point),
    /// In 120ths of a notch.
    Wheel {
        wheel: Wheel,
        delta: i32,
        at: Option<Point>,
    },
    Touch {
        slot: u8,
        phase: TouchPhase,
        at: Point,
    },
    /// All that is down goes up.
    Release,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The guest will be told.
    Kept,
    /// Together with an earlier one.
    Coalesced,
    /// It is no news.
    Idle,
    /// There was no room.
    Dropped,
}

/// What is down and where the pointer is. A press that was dropped never was.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub keys: KeySet,
    pub fingers: [bool; FINGERS as usize],
    pub position: Option<Point>,
}

/// The changes to come.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: VecDeque<Change>,
    held: Held,
}

impl Pending {
    /// What is down once all changes are told, and all that was dropped is made up for.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The change that the guest is to be told next.
    pub fn first(&self) -> Option<&Change> {
        self.changes.front()
    }

    /// The first one was told.
    pub fn pop(&mut self) {
        self.changes.pop_front();
    }

    /// Nothing is down, nothing is to be told.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.held = Held::default();
    }

    /// A key.
    pub fn key(&mut self, code: u16, pressed: bool) -> Outcome {
        self.switch(Change::Key { code, pressed }, code, pressed)
    }

    /// A button of the pointer: the movement before it is told in one frame with it.
    pub fn button(&mut self, code: u16, pressed: bool) -> Outcome {
        if self.held.keys.has(code) != pressed && matches!(self.changes.back(), Some(Change::Move(_))) {
            self.changes.pop_back();
        }
        self.switch(Change::Button { code, pressed, at: self.held.position }, code, pressed)
    }

    fn switch(&mut self, change: Change, code: u16, pressed: bool) -> Outcome {
        if self.held.keys.has(code) == pressed {
            return Outcome::Idle;
        }
        let outcome = self.push(change);
        if outcome == Outcome::Kept || !pressed {
            self.held.keys.set(code, pressed);
        }
        outcome
    }

    /// The pointer is there. Two movements in a row are one.
    pub fn pointer(&mut self, at: Point) -> Outcome {
        self.held.position = Some(at);
        if let Some(Change::Move(last)) = self.changes.back_mut() {
            *last = at;
            return Outcome::Coalesced;
        }
        self.push(Change::Move(at))
    }

    /// A wheel turned. Turns in a row add up.
    pub fn wheel(&mut self, wheel: Wheel, delta: i16) -> Outcome {
        if delta == 0 {
            return Outcome::Idle;
        }
        let at = self.held.position;
        for change in self.changes.iter_mut().rev() {
            match change {
                Change::Wheel { wheel: of, delta: sum, .. } if *of == wheel => {
                    *sum = sum.saturating_add(delta.into());
                    return Outcome::Coalesced;
                }
                Change::Wheel { .. } => {}
                _ => break,
            }
        }
        self.push(Change::Wheel { wheel, delta: delta.into(), at })
    }

    /// A finger. Movements of several fingers in a row are one for each of them.
    pub fn touch(&mut self, slot: u8, phase: TouchPhase, at: Point) -> Outcome {
        let Some(held) = self.held.fingers.get(usize::from(slot)) else { return Outcome::Idle };
        let phase = match (held, phase) {
            (false, TouchPhase::Move | TouchPhase::Up) => return Outcome::Idle,
            (true, TouchPhase::Down) => TouchPhase::Move,
            _ => phase,
        };
        if phase == TouchPhase::Move {
            for change in self.changes.iter_mut().rev() {
                match change {
                    Change::Touch { slot: of, phase: TouchPhase::Move, at: last } if *of == slot => {
                        *last = at;
                        return Outcome::Coalesced;
                    }
                    Change::Touch { slot: of, .. } if *of != slot => {}
                    _ => break,
                }
            }
        }
        let outcome = self.push(Change::Touch { slot, phase, at });
        if outcome == Outcome::Kept || phase == TouchPhase::Up {
            self.held.fingers[usize::from(slot)] = phase != TouchPhase::Up;
        }
        outcome
    }

    /// All that is down goes up. Without room for this, it goes up when all that is pending is told.
    pub fn release(&mut self) {
        if !self.held.keys.is_empty() || self.held.fingers.contains(&true) {
            self.push(Change::Release);
        }
        self.held.keys = KeySet::default();
        self.held.fingers = Default::default();
    }

    fn push(&mut self, change: Change) -> Outcome {
        if self.changes.len() >= LIMIT {
            return Outcome::Dropped;
        }
        self.changes.push_back(change);
        Outcome::Kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_leaves_the_list_as_long_as_it_may_be() {
        let mut pending = Pending::default();
        for at in 0..100_000u32 {
            let code = (at % 248) as u16 + 1;
            pending.key(code, at % 3 == 0);
            pending.button(0x110, at % 2 == 0);
            pending.pointer(Point { x: code, y: code });
            pending.wheel(Wheel::Vertical, -1);
            pending.touch((at % 10) as u8, TouchPhase::Down, Point::default());
            if at % 7 == 0 {
                pending.release();
            }
        }
        assert_eq!(pending.changes.len(), LIMIT);
        assert!(pending.changes.capacity() <= 2 * LIMIT);
    }
}
