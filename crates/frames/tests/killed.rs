//! A process that is killed takes its session with it, while others hold the socket that lasts.

#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use frames::{Input, InputEnd, InputEvent, InputSession};
use rustix::event::{PollFd, PollFlags, poll};

/// The device's next words, however long they take.
fn hear(device: &mut InputEnd) -> Vec<InputEvent> {
    let mut events = Vec::new();
    while events.is_empty() {
        poll(&mut [PollFd::new(&device.as_fd(), PollFlags::IN)], None).unwrap();
        device.poll(&mut events);
    }
    events
}

#[test]
fn a_killed_viewer_is_gone_at_once_and_another_begins() {
    let (ours, lasting) = frames::pair().unwrap();
    let mut device = InputEnd::new(ours).unwrap();
    let input = Input::Key { code: 30, pressed: true };
    let mut viewer = InputSession::begin(lasting.try_clone().unwrap()).unwrap();
    viewer.send(0, input).unwrap();
    assert_eq!(hear(&mut device), [InputEvent::Input { head: 0, input }]);
    // From now on its end is open in another process alone.
    let session = viewer.as_fd().try_clone_to_owned().unwrap();
    let mut process = Command::new("sleep").arg("1000").stdin(Stdio::from(session)).spawn().unwrap();
    drop(viewer);
    let mut events = Vec::new();
    device.poll(&mut events);
    assert!(events.is_empty() && device.has_session());
    process.kill().unwrap();
    assert_eq!(hear(&mut device), [InputEvent::Gone]);
    process.wait().unwrap();
    let mut viewer = InputSession::begin(lasting).unwrap();
    viewer.send(0, input).unwrap();
    assert_eq!(hear(&mut device), [InputEvent::Input { head: 0, input }]);
}
