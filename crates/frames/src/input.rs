//! The seam for input: what a person did goes to the device on a socket of its own, so that no picture is ever before a key.
//!
//! **Two sockets.** One [`crate::pair`] lasts as long as the device; each viewer in turn inherits its other end. A viewer that
//! begins makes a fresh pair, the *session*, and sends one end of it through the lasting one. The device reads from the newest
//! session only. A session hangs up the moment its viewer dies, however it dies, and not when whoever starts viewers closes
//! its copy: the device sees it at once and lets every key go up.
//!
//! **Neither end ever blocks.** A viewer whose session is full remembers that something was lost, and says
//! [`Input::ReleaseAll`] before the next event that fits.

mod device;
mod viewer;

use serde::{Deserialize, Serialize};

pub use device::{InputCounters, InputEnd, InputEvent};
pub use viewer::{InputError, InputSession};

/// Messages taken from a session in one [`InputEnd::poll`]. Stops a viewer that floods the device.
pub const INPUTS_PER_POLL: usize = 64;

/// First word of `Begin`.
const MAGIC: u32 = u32::from_le_bytes(*b"BSin");

/// Longest message.
const MAX_MESSAGE: usize = 32;

/// Viewer to device on the lasting socket, with one end of the session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Begin {
    magic: u32,
    version: u16,
}

/// Viewer to device on the session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Did {
    head: u8,
    input: Input,
}

/// What a person did. Codes are Linux evdev codes (KEY_*, BTN_*), positions are shares of the head: 0 is the first pixel, 65535
/// the last one, so that a size that changes on the way does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A key of the keyboard went down or up.
    Key {
        /// KEY_*.
        code: u16,
        /// Down.
        pressed: bool,
    },
    /// The pointer is there.
    Pointer {
        /// Share of the width.
        x: u16,
        /// Share of the height.
        y: u16,
    },
    /// A button of the pointer went down or up.
    Button {
        /// BTN_*.
        code: u16,
        /// Down.
        pressed: bool,
    },
    /// The wheel turned, in 120ths of a notch; positive is up and right.
    Wheel {
        /// Up and down.
        vertical: i16,
        /// Left and right.
        horizontal: i16,
    },
    /// A finger.
    Touch {
        /// Which one.
        slot: u8,
        /// What it does.
        phase: TouchPhase,
        /// Share of the width.
        x: u16,
        /// Share of the height.
        y: u16,
    },
    /// Everything that is down goes up: focus was lost.
    ReleaseAll,
}

/// What a finger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TouchPhase {
    /// It came down.
    Down,
    /// It moved.
    Move,
    /// It was lifted.
    Up,
}

/// The lights of the guest's keyboard. Device to viewer on the session: once when it begins, then at each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leds {
    /// Num lock.
    pub num: bool,
    /// Caps lock.
    pub caps: bool,
    /// Scroll lock.
    pub scroll: bool,
}
