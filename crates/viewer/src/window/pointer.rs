//! Wheels, buttons and fingers of a desktop as a guest knows them.

use std::collections::BTreeMap;

use frames::{Input, TouchPhase};
use winit::event::{MouseButton, MouseScrollDelta};

/// 120ths of a notch for a pixel that a touch pad scrolls: compositors make about 15 of a notch.
const EACH_PIXEL: f64 = 8.;

/// Fingers that can be told apart.
const FINGERS: u8 = 10;

/// What a wheel has turned, and was not told yet.
#[derive(Debug, Default)]
pub(super) struct Wheel {
    vertical: f64,
    horizontal: f64,
}

impl Wheel {
    /// It turned. None: by too little to tell.
    pub(super) fn turn(&mut self, delta: MouseScrollDelta, scale: f64) -> Option<Input> {
        // What is not a number would stay for ever.
        let sane = |turn: f64| if turn.is_finite() { turn.clamp(-30_000., 30_000.) } else { 0. };
        let (right, up) = match delta {
            MouseScrollDelta::LineDelta(x, y) => (f64::from(-x) * 120., f64::from(y) * 120.),
            MouseScrollDelta::PixelDelta(by) => (-by.x / scale * EACH_PIXEL, by.y / scale * EACH_PIXEL),
        };
        let take = |sum: &mut f64, turn: f64| {
            *sum += sane(turn);
            let whole = sum.trunc().clamp(f64::from(i16::MIN), f64::from(i16::MAX));
            *sum -= whole;
            whole as i16
        };
        let (vertical, horizontal) = (take(&mut self.vertical, up), take(&mut self.horizontal, right));
        (vertical != 0 || horizontal != 0).then_some(Input::Wheel { vertical, horizontal })
    }
}

/// BTN_* of a button.
pub(super) fn button(button: MouseButton) -> Option<u16> {
    Some(match button {
        MouseButton::Left => 0x110,
        MouseButton::Right => 0x111,
        MouseButton::Middle => 0x112,
        MouseButton::Back => 0x113,
        MouseButton::Forward => 0x114,
        MouseButton::Other(_) => return None,
    })
}

/// Fingers that are down, each in a slot.
#[derive(Debug, Default)]
pub(super) struct Fingers(BTreeMap<u64, u8>);

impl Fingers {
    /// A finger did something. None: there are too many, or it was not there.
    pub(super) fn touch(&mut self, finger: u64, phase: winit::event::TouchPhase, (x, y): (u16, u16)) -> Option<Input> {
        let (slot, phase) = match phase {
            winit::event::TouchPhase::Started => {
                let slot = (0..FINGERS).find(|slot| !self.0.values().any(|taken| taken == slot))?;
                self.0.insert(finger, slot);
                (slot, TouchPhase::Down)
            }
            winit::event::TouchPhase::Moved => (*self.0.get(&finger)?, TouchPhase::Move),
            winit::event::TouchPhase::Ended | winit::event::TouchPhase::Cancelled => {
                (self.0.remove(&finger)?, TouchPhase::Up)
            }
        };
        Some(Input::Touch { slot, phase, x, y })
    }

    /// All are gone.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use winit::dpi::PhysicalPosition;
    use winit::event::TouchPhase as Phase;

    #[test]
    fn a_notch_is_120_and_small_turns_add_up() {
        let mut wheel = Wheel::default();
        let lines = |x, y| MouseScrollDelta::LineDelta(x, y);
        let pixels = |x, y| MouseScrollDelta::PixelDelta(PhysicalPosition { x, y });
        assert_eq!(wheel.turn(lines(0., 1.), 1.), Some(Input::Wheel { vertical: 120, horizontal: 0 }));
        assert_eq!(wheel.turn(lines(1., -2.), 1.), Some(Input::Wheel { vertical: -240, horizontal: -120 }));
        assert_eq!(wheel.turn(pixels(0., 30.), 2.), Some(Input::Wheel { vertical: 120, horizontal: 0 }));
        assert_eq!(wheel.turn(pixels(0., 0.1), 1.), None);
        assert_eq!(wheel.turn(pixels(0., 0.1), 1.), Some(Input::Wheel { vertical: 1, horizontal: 0 }));
    }

    #[test]
    fn a_wheel_that_turns_for_ever_does_no_harm() {
        let mut wheel = Wheel::default();
        for delta in [f32::INFINITY, f32::NAN, f32::MAX, f32::MIN, 1.] {
            wheel.turn(MouseScrollDelta::LineDelta(delta, delta), 1.);
        }
        assert_eq!(
            wheel.turn(MouseScrollDelta::LineDelta(0., 1.), 1.),
            Some(Input::Wheel { vertical: 120, horizontal: 0 })
        );
    }

    #[test]
    fn fingers_keep_their_slots_and_the_eleventh_is_not_heard() {
        let mut fingers = Fingers::default();
        let slot = |input: Option<Input>| match input {
            Some(Input::Touch { slot, .. }) => Some(slot),
            _ => None,
        };
        for finger in 0..10 {
            assert_eq!(slot(fingers.touch(finger + 100, Phase::Started, (0, 0))), Some(finger as u8));
        }
        assert_eq!(fingers.touch(999, Phase::Started, (0, 0)), None);
        assert_eq!(fingers.touch(999, Phase::Moved, (0, 0)), None);
        let up = Input::Touch { slot: 3, phase: TouchPhase::Up, x: 1, y: 2 };
        assert_eq!(fingers.touch(103, Phase::Cancelled, (1, 2)), Some(up));
        assert_eq!(slot(fingers.touch(999, Phase::Started, (0, 0))), Some(3));
        fingers.clear();
        assert_eq!(fingers.touch(999, Phase::Ended, (0, 0)), None);
    }
}
