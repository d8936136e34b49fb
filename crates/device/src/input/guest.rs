//! What the guest believes, as it follows from the frames that it was given, and the frame that it needs next.

use super::TouchPhase;
use super::codes::{
    ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_X, ABS_Y, BTN_TOUCH, EV_ABS, EV_KEY,
    EV_REL, FINGERS, Frame, KeySet, REL_HWHEEL, REL_HWHEEL_HI_RES, REL_WHEEL, REL_WHEEL_HI_RES,
};
use super::pending::{Change, Held, Point, Wheel};

/// One notch of a wheel.
const NOTCH: i32 = 120;

/// A frame, and whether the change that it belongs to is told with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub frame: Frame,
    pub is_last: bool,
}

impl Step {
    fn last(frame: Frame) -> Option<Self> {
        Some(Self { frame, is_last: true })
    }

    fn first(frame: Frame) -> Option<Self> {
        Some(Self { frame, is_last: false })
    }
}

/// What the guest believes.
#[derive(Clone, Debug, Default)]
pub(super) struct Guest {
    down: KeySet,
    position: Option<Point>,
    /// 120ths of notches that make no whole one yet.
    vertical: i32,
    horizontal: i32,
    /// The finger that is spoken of.
    slot: Option<u8>,
    fingers: [Option<Point>; FINGERS as usize],
    /// The name of the next finger that comes down.
    contact: u16,
}

impl Guest {
    /// The next frame that tells of `change`, or nothing when the guest knows it.
    pub fn step(&self, change: &Change) -> Option<Step> {
        match *change {
            Change::Key { code, pressed } => self.switch(code, pressed, None),
            Change::Button { code, pressed, at } => self.switch(code, pressed, at),
            Change::Move(at) => Step::last(self.movement(Some(at))?),
            Change::Wheel { wheel, delta, at } => match self.movement(at) {
                Some(frame) => Step::first(frame),
                None => Step::last(self.turn(wheel, delta)),
            },
            Change::Touch { slot, phase: TouchPhase::Up, .. } => {
                self.fingers.get(usize::from(slot))?.and_then(|_| Step::last(self.lift(slot)))
            }
            Change::Touch { slot, phase, at } => self.touch(slot, phase, at),
            Change::Release => Step::first(self.release(&Held::default())?),
        }
    }

    /// A frame that lifts something that the guest believes down and that is not held, if there is such a thing.
    pub fn release(&self, held: &Held) -> Option<Frame> {
        let finger = self.fingers.iter().zip(held.fingers).position(|(down, held)| down.is_some() && !held);
        if let Some(slot) = finger {
            return Some(self.lift(slot as u8));
        }
        let mut held = held.keys.clone();
        // Goes up with the last finger.
        held.set(BTN_TOUCH, true);
        Some(Frame::default().with(EV_KEY, self.down.first_without(&held)?, 0))
    }

    /// A frame that moves the pointer, unless it is there.
    pub fn movement(&self, to: Option<Point>) -> Option<Frame> {
        let Point { x, y } = to.filter(|_| to != self.position)?;
        Some(Frame::default().with(EV_ABS, ABS_X, x).with(EV_ABS, ABS_Y, y))
    }

    fn switch(&self, code: u16, pressed: bool, at: Option<Point>) -> Option<Step> {
        let is_down = self.down.has(code);
        if !is_down && !pressed {
            return None;
        }
        // That it went up meanwhile was dropped: it was pressed twice all the same.
        let value = pressed && !is_down;
        let frame = self.movement(at).unwrap_or_default().with(EV_KEY, code, value);
        Some(Step { frame, is_last: value == pressed })
    }

    fn turn(&self, wheel: Wheel, delta: i32) -> Frame {
        let (fine, coarse, rest) = match wheel {
            Wheel::Vertical => (REL_WHEEL_HI_RES, REL_WHEEL, self.vertical),
            Wheel::Horizontal => (REL_HWHEEL_HI_RES, REL_HWHEEL, self.horizontal),
        };
        let frame = Frame::default().with(EV_REL, fine, delta);
        match add_turn(rest, delta) / NOTCH {
            0 => frame,
            notches => frame.with(EV_REL, coarse, notches),
        }
    }

    fn touch(&self, slot: u8, phase: TouchPhase, at: Point) -> Option<Step> {
        let place = |frame: Frame| frame.with(EV_ABS, ABS_MT_POSITION_X, at.x).with(EV_ABS, ABS_MT_POSITION_Y, at.y);
        match self.fingers.get(usize::from(slot))? {
            // That it was lifted meanwhile was dropped.
            Some(_) if phase == TouchPhase::Down => Step::first(self.lift(slot)),
            Some(before) if *before == at => None,
            Some(_) => Step::last(place(self.select(slot))),
            // In two frames, because one would have six events. Linux keeps the slot until something is said of it.
            None if self.slot != Some(slot) || !self.down.has(BTN_TOUCH) => {
                let select = self.select(slot);
                Step::first(if self.down.has(BTN_TOUCH) { select } else { select.with(EV_KEY, BTN_TOUCH, 1) })
            }
            None => Step::last(place(Frame::default().with(EV_ABS, ABS_MT_TRACKING_ID, self.contact))),
        }
    }

    fn lift(&self, slot: u8) -> Frame {
        let frame = self.select(slot).with(EV_ABS, ABS_MT_TRACKING_ID, -1);
        let others = self.fingers.iter().enumerate().any(|(at, finger)| at != usize::from(slot) && finger.is_some());
        if others { frame } else { frame.with(EV_KEY, BTN_TOUCH, 0) }
    }

    /// A frame that speaks of a finger.
    fn select(&self, slot: u8) -> Frame {
        match self.slot == Some(slot) {
            true => Frame::default(),
            false => Frame::default().with(EV_ABS, ABS_MT_SLOT, slot),
        }
    }

    /// The guest was given a frame.
    pub fn see(&mut self, frame: &Frame) {
        for event in frame.events() {
            match (event.kind, event.code) {
                (EV_KEY, code) => self.down.set(code, event.value != 0),
                (EV_REL, REL_WHEEL_HI_RES) => self.vertical = add_turn(self.vertical, event.value),
                (EV_REL, REL_HWHEEL_HI_RES) => self.horizontal = add_turn(self.horizontal, event.value),
                (EV_REL, REL_WHEEL) => self.vertical -= event.value * NOTCH,
                (EV_REL, REL_HWHEEL) => self.horizontal -= event.value * NOTCH,
                // None of our axes but the name of a finger that was lifted has other values than these.
                (EV_ABS, axis) => self.see_axis(axis, u16::try_from(event.value).ok()),
                _ => {}
            }
        }
    }

    fn see_axis(&mut self, axis: u16, value: Option<u16>) {
        let slot = self.slot.map(usize::from);
        let finger = slot.and_then(|slot| self.fingers.get_mut(slot));
        match (axis, value, finger) {
            (ABS_X, Some(x), _) => self.position.get_or_insert_default().x = x,
            (ABS_Y, Some(y), _) => self.position.get_or_insert_default().y = y,
            (ABS_MT_SLOT, Some(slot), _) => self.slot = Some(slot as u8),
            (ABS_MT_TRACKING_ID, None, Some(finger)) => *finger = None,
            (ABS_MT_TRACKING_ID, Some(contact), Some(finger)) => {
                *finger = Some(Point::default());
                self.contact = contact.wrapping_add(1);
            }
            (ABS_MT_POSITION_X, Some(x), Some(Some(finger))) => finger.x = x,
            (ABS_MT_POSITION_Y, Some(y), Some(Some(finger))) => finger.y = y,
            _ => {}
        }
    }
}

/// What is left of a turn is forgotten when the wheel turns back.
fn add_turn(rest: i32, delta: i32) -> i32 {
    if rest.signum() * delta.signum() < 0 { delta } else { rest.saturating_add(delta) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fingers_start_over_after_the_last_one() {
        let mut guest = Guest::default();
        let touch = |phase| Change::Touch { slot: 0, phase, at: Point::default() };
        for tap in 0..=0x1_0000 {
            for phase in [TouchPhase::Down, TouchPhase::Up] {
                while let Some(Step { frame, is_last }) = guest.step(&touch(phase)) {
                    let names =
                        frame.events().iter().filter(|event| event.code == ABS_MT_TRACKING_ID && event.value >= 0);
                    assert!(names.into_iter().all(|event| event.value == tap % 0x1_0000));
                    guest.see(&frame);
                    if is_last {
                        break;
                    }
                }
            }
        }
        assert_eq!(guest.contact, 1);
    }
}
