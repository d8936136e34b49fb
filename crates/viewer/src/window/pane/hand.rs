//! What the person before a window does with keyboard, pointer and fingers.

use frames::Input;
use tracing::warn;
use winit::dpi::PhysicalPosition;
use winit::event::{ElementState, KeyEvent, MouseButton, MouseScrollDelta, Touch, TouchPhase};
use winit::keyboard::{KeyCode, ModifiersState, PhysicalKey};
use winit::platform::modifier_supplement::KeyEventExtModifierSupplement;
use winit::platform::scancode::PhysicalKeyExtScancode;
use winit::window::{CursorGrabMode, Fullscreen};

use super::{Over, Pane, Wish};
use crate::floor::Outcome;
use crate::window::hotkey::Hotkey;
use crate::window::overlay::Answer;
use crate::window::pointer::button;

/// A key that the system has no code for.
const NO_CODE: u32 = 240;

impl Pane {
    /// The person asks to close the window: asks back, and closes at the second time.
    pub(in crate::window) fn close(&mut self) -> Option<Wish> {
        if self.over == Over::Question {
            return Some(Wish::Close);
        }
        self.let_go();
        self.cover(Over::Question);
        None
    }

    fn answered(&mut self, answer: Answer) -> Option<Wish> {
        self.cover(Over::Nothing);
        (answer == Answer::Close).then_some(Wish::Close)
    }

    /// The person looks elsewhere, or came back.
    pub(in crate::window) fn focused(&mut self, focused: bool) {
        if !focused {
            self.let_go();
            self.grab(false);
        }
    }

    /// Everything that is down goes up.
    fn let_go(&mut self) {
        self.pressed = 0;
        self.eaten = None;
        self.fingers.clear();
        self.desk.input(self.head, Input::ReleaseAll);
    }

    pub(in crate::window) fn modifiers(&mut self, modifiers: ModifiersState) {
        self.modifiers = modifiers;
    }

    pub(in crate::window) fn key(&mut self, event: &KeyEvent, synthetic: bool) -> Option<Wish> {
        let pressed = event.state == ElementState::Pressed;
        // The guest repeats by itself; what was down before we had the focus was not for us.
        if event.repeat || synthetic && pressed {
            return None;
        }
        if self.eaten == Some(event.physical_key) {
            if !pressed {
                self.eaten = None;
            }
            return None;
        }
        if self.over == Over::Question {
            return pressed.then(|| answer(event.physical_key)).flatten().and_then(|answer| {
                self.eaten = Some(event.physical_key);
                self.answered(answer)
            });
        }
        if pressed && self.modifiers.control_key() && self.modifiers.alt_key() {
            let hotkey = Hotkey::of(&event.key_without_modifiers(), event.physical_key);
            // With control the guest may have its own meaning for it.
            if let Some(hotkey) = hotkey.filter(|hotkey| *hotkey != Hotkey::Take || self.watching) {
                self.eaten = Some(event.physical_key);
                self.hotkey(hotkey);
                return None;
            }
        }
        let code = event.physical_key.to_scancode().filter(|code| *code != NO_CODE)?;
        let code = u16::try_from(code).ok()?;
        self.did(Input::Key { code, pressed }, pressed);
        None
    }

    fn hotkey(&mut self, hotkey: Hotkey) {
        match hotkey {
            Hotkey::Grab => self.grab(!self.grabbed),
            Hotkey::Fullscreen => {
                let full = self.window.fullscreen().is_none();
                self.window.set_fullscreen(full.then_some(Fullscreen::Borderless(None)));
            }
            Hotkey::Take => self.desk.take_control(),
        }
    }

    fn grab(&mut self, grab: bool) {
        if self.grabbed == grab {
            return;
        }
        let mode = if grab { CursorGrabMode::Confined } else { CursorGrabMode::None };
        match self.window.set_cursor_grab(mode) {
            Ok(()) => self.grabbed = grab,
            Err(error) => {
                self.grabbed = false;
                warn!("The pointer cannot be kept in the window: {error}");
            }
        }
        self.entitle();
    }

    /// Passes on what the person did; `aloud`: something that deserves an answer when it is not passed on.
    fn did(&mut self, input: Input, aloud: bool) {
        match self.desk.input(self.head, input) {
            Outcome::Passed => {}
            Outcome::NotYours | Outcome::NoInput | Outcome::MayNot if aloud => self.explain(),
            Outcome::NotYours | Outcome::NoInput | Outcome::MayNot => {}
        }
    }

    pub(in crate::window) fn moved(&mut self, at: PhysicalPosition<f64>) {
        self.at = at;
        let inside = self.picture.placement().is_inside(at.x, at.y);
        // Beside the picture is outside of the guest, unless something is dragged there.
        if self.over != Over::Question && (inside || self.pressed > 0) {
            let (x, y) = self.picture.placement().share(at.x, at.y);
            self.did(Input::Pointer { x, y }, false);
        }
    }

    pub(in crate::window) fn clicked(&mut self, state: ElementState, which: MouseButton) -> Option<Wish> {
        let pressed = state == ElementState::Pressed;
        if self.over == Over::Question {
            let (overlay, place) = self.picture.overlay().filter(|_| pressed && which == MouseButton::Left)?;
            let answer = overlay.answer(place, self.at.x, self.at.y)?;
            return self.answered(answer);
        }
        let code = button(which)?;
        if pressed && !self.picture.placement().is_inside(self.at.x, self.at.y) {
            return None;
        }
        self.pressed = if pressed { self.pressed + 1 } else { self.pressed.saturating_sub(1) };
        // Where the click is, even when the pointer has not moved since we have control.
        if pressed {
            self.moved(self.at);
        }
        self.did(Input::Button { code, pressed }, pressed);
        None
    }

    pub(in crate::window) fn scrolled(&mut self, delta: MouseScrollDelta) {
        let turned = self.wheel.turn(delta, self.window.scale_factor());
        if let Some(input) = turned.filter(|_| self.over != Over::Question) {
            self.did(input, true);
        }
    }

    pub(in crate::window) fn touched(&mut self, touch: &Touch) -> Option<Wish> {
        let PhysicalPosition { x, y } = touch.location;
        if self.over == Over::Question {
            let (overlay, place) = self.picture.overlay()?;
            let answer = overlay.answer(place, x, y).filter(|_| touch.phase == TouchPhase::Ended)?;
            return self.answered(answer);
        }
        let share = self.picture.placement().share(x, y);
        if let Some(input) = self.fingers.touch(touch.id, touch.phase, share) {
            self.did(input, touch.phase == TouchPhase::Started);
        }
        None
    }
}

fn answer(key: PhysicalKey) -> Option<Answer> {
    match key {
        PhysicalKey::Code(KeyCode::Enter | KeyCode::NumpadEnter | KeyCode::KeyY) => Some(Answer::Close),
        PhysicalKey::Code(KeyCode::Escape | KeyCode::KeyN) => Some(Answer::Keep),
        _ => None,
    }
}
