//! The same conversations with a guest whose memory is not shared.

use std::process::Command;

use transport::loopback::FAR;

#[test]
fn what_is_said_over_rings_is_said_over_far_memory_too() {
    if std::env::var_os(FAR).is_some() {
        return;
    }
    let tests = Command::new(std::env::current_exe().unwrap()).args(["commands::", "pause::"]).env(FAR, "1").output();
    let tests = tests.unwrap();
    let said = String::from_utf8_lossy(&tests.stdout);
    assert!(tests.status.success() && !said.contains(" 0 passed"), "{said}");
}
