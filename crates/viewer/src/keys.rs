//! Which key it is: Linux evdev codes from what clients say.
//!
//! A client that knows says the key's place on the keyboard ([`xt`]); then the guest's own layout decides what is printed on it.
//! Others say what it stands for, a keysym; then it is looked up on a US keyboard ([`us`]), and [`Typing`] lends a shift that the
//! client's own layout did not need.

mod typing;
mod us;
mod xt;

pub(crate) use typing::Typing;

/// KEY_* of the keys that change what others do.
const LEFT_SHIFT: u16 = 42;
const RIGHT_SHIFT: u16 = 54;
const CHORD: [u16; 6] = [29, 97, 56, 100, 125, 126];

/// A key that no keyboard of ours has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown;
