//! Conversations with a VMM that writes its own bytes.

mod far;
mod guest;
mod hostile;
mod registers;
mod script;
mod served;
mod vmm;
#[allow(dead_code)]
#[path = "../../../device/tests/gpu/script.rs"]
mod words;

#[test]
fn linux_boots_with_message_signalled_interrupts() {
    script::play(include_str!("tests/conversations/linux.txt"));
}

#[test]
fn linux_boots_with_the_pin() {
    script::play(include_str!("tests/conversations/intx.txt"));
}

#[test]
fn linux_sleeps_and_wakes() {
    script::play(include_str!("tests/conversations/suspend.txt"));
}

#[test]
fn bochs_drm_sets_a_mode() {
    script::play(include_str!("tests/conversations/bochs.txt"));
}

#[test]
fn ovmf_drives_it_without_interrupts() {
    script::play(include_str!("tests/conversations/ovmf.txt"));
}

#[test]
fn windows_drives_it() {
    script::play(include_str!("tests/conversations/windows.txt"));
}
