//! What is down: repeated and impossible events stop here.

use std::collections::BTreeSet;

use frames::{Input, TouchPhase};

/// Fingers of two hands. Stops a page that claims hundreds.
const FINGERS: u8 = 10;

/// KEY_* up to KEY_MAX, but for the buttons of mice, pads and pens.
const BUTTONS: std::ops::Range<u16> = 0x100..0x160;
const KEY_MAX: u16 = 0x2ff;

/// BTN_LEFT to BTN_TASK.
const MOUSE: std::ops::RangeInclusive<u16> = 0x110..=0x117;

/// Something that no keyboard, mouse or hand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

/// Keys, buttons and fingers that are down.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Down {
    codes: BTreeSet<u16>,
    fingers: BTreeSet<u8>,
}

impl Down {
    /// Takes note of an event. None: it changes nothing, so that nobody needs to hear it.
    pub(crate) fn note(&mut self, input: Input) -> Result<Option<Input>, Unknown> {
        let news = match input {
            Input::Key { code, pressed } if (1..=KEY_MAX).contains(&code) && !BUTTONS.contains(&code) => {
                self.code(code, pressed)
            }
            Input::Button { code, pressed } if MOUSE.contains(&code) => self.code(code, pressed),
            Input::Key { .. } | Input::Button { .. } => return Err(Unknown),
            Input::Touch { slot, .. } if slot >= FINGERS => return Err(Unknown),
            Input::Touch { slot, phase, .. } => match phase {
                TouchPhase::Down => {
                    self.fingers.insert(slot);
                    true
                }
                TouchPhase::Move => self.fingers.contains(&slot),
                TouchPhase::Up => self.fingers.remove(&slot),
            },
            Input::Wheel { vertical: 0, horizontal: 0 } => false,
            Input::Pointer { .. } | Input::Wheel { .. } | Input::ReleaseAll => true,
        };
        Ok(news.then_some(input))
    }

    /// True while a key or a button is down.
    pub(crate) fn has(&self, code: u16) -> bool {
        self.codes.contains(&code)
    }

    fn code(&mut self, code: u16, pressed: bool) -> bool {
        if pressed { self.codes.insert(code) } else { self.codes.remove(&code) }
    }
}

/// How much a person wants to act who does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grip {
    /// Something ends.
    None,
    /// The pointer moves, which nobody may have meant.
    Loose,
    /// Something is pressed, turned or touched.
    Firm,
}

pub(super) fn grip(input: &Input) -> Grip {
    match input {
        Input::Key { pressed: true, .. } | Input::Button { pressed: true, .. } | Input::Wheel { .. } => Grip::Firm,
        Input::Touch { phase: TouchPhase::Down, .. } => Grip::Firm,
        Input::Pointer { .. } => Grip::Loose,
        Input::Key { .. } | Input::Button { .. } | Input::Touch { .. } | Input::ReleaseAll => Grip::None,
    }
}
