//! Input on its way from a viewer to the device, and what is left when one of them misbehaves or goes.
//!
//! No test here starts a process: it would hold copies of the others' sockets for a moment.

#![allow(clippy::unwrap_used)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use frames::input::INPUTS_PER_POLL;
use frames::{Input, InputEnd, InputError, InputEvent, InputSession, Leds};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, send, sendmsg};

const KEY: Input = Input::Key { code: 30, pressed: true };
const CAPS: Leds = Leds { num: false, caps: true, scroll: false };

struct Seam {
    device: InputEnd,
    /// What each viewer inherits.
    spare: OwnedFd,
}

impl Seam {
    fn new() -> Self {
        let (ours, spare) = frames::pair().unwrap();
        Self { device: InputEnd::new(ours).unwrap(), spare }
    }

    fn viewer(&self) -> InputSession {
        InputSession::begin(self.spare.try_clone().unwrap()).unwrap()
    }

    fn poll(&mut self) -> Vec<InputEvent> {
        let mut events = Vec::new();
        self.device.poll(&mut events);
        events
    }
}

fn typed(input: Input) -> InputEvent {
    InputEvent::Input { head: 0, input }
}

fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    !fds[0].revents().is_empty()
}

/// Sends through the lasting socket what a viewer would, or would not.
fn pass(socket: &OwnedFd, words: &[u8], fds: &[BorrowedFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    sendmsg(socket, &[std::io::IoSlice::new(words)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// The words with which a session begins.
fn begin(version: u8) -> [u8; 6] {
    [0xc2, 0xa6, 0xa5, 0xf3, 0x06, version]
}

fn is_open(fd: &OwnedFd) -> bool {
    send(fd, &[0xff; 3], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
}

#[test]
fn what_a_person_does_arrives_in_order_and_lights_come_back() {
    let mut seam = Seam::new();
    let mut viewer = seam.viewer();
    let inputs = [
        KEY,
        Input::Pointer { x: 0, y: 65535 },
        Input::Wheel { vertical: -120, horizontal: i16::MIN },
        Input::Touch { slot: 9, phase: frames::TouchPhase::Move, x: 1, y: 2 },
        Input::Button { code: 0x110, pressed: false },
        Input::ReleaseAll,
    ];
    for input in inputs {
        assert!(viewer.send(0, input).unwrap());
    }
    assert!(is_readable(&seam.device));
    assert!(seam.poll().is_empty(), "the session begins first");
    assert_eq!(seam.poll(), inputs.map(typed));
    assert!(!is_readable(&seam.device));
    assert_eq!(viewer.leds(), Some(Leds::default()));
    seam.device.leds(Leds::default());
    assert_eq!(viewer.leds(), None, "no light changed");
    seam.device.leds(CAPS);
    assert!(is_readable(&viewer));
    assert_eq!(viewer.leds(), Some(CAPS));
    assert_eq!(seam.viewer().leds(), None);
}

#[test]
fn the_next_viewer_is_told_the_lights_that_its_predecessor_saw() {
    let mut seam = Seam::new();
    seam.device.leds(CAPS);
    for _ in 0..2 {
        let mut viewer = seam.viewer();
        seam.poll();
        assert_eq!(viewer.leds(), Some(CAPS));
    }
}

#[test]
fn a_viewer_that_goes_is_seen_at_once_and_only_after_what_it_said() {
    let mut seam = Seam::new();
    let mut viewer = seam.viewer();
    seam.poll();
    viewer.send(0, KEY).unwrap();
    drop(viewer);
    assert!(is_readable(&seam.device));
    assert_eq!(seam.poll(), [typed(KEY), InputEvent::Gone]);
    assert!(!is_readable(&seam.device) && !seam.device.has_session());
}

#[test]
fn a_newer_session_ends_the_one_before() {
    let mut seam = Seam::new();
    let mut old = seam.viewer();
    seam.poll();
    let mut new = seam.viewer();
    old.send(0, KEY).unwrap();
    assert_eq!(seam.poll(), [typed(KEY), InputEvent::Gone]);
    assert_eq!(old.leds(), Some(Leds::default()), "said before it ended");
    assert!(old.is_closed());
    assert!(matches!(old.send(0, KEY), Err(InputError::Closed)));
    new.send(1, KEY).unwrap();
    assert_eq!(seam.poll(), [InputEvent::Input { head: 1, input: KEY }]);
    assert_eq!(seam.device.counters().sessions, 2);
}

#[test]
fn garbage_ends_its_session_alone() {
    let mut seam = Seam::new();
    let junk: [&[u8]; 5] = [&[0xff; 20], &[], &[0], &[0, 99], &[0x55; 60_000]];
    for (count, message) in (1..).zip(junk) {
        let (session, passed) = frames::pair().unwrap();
        pass(&seam.spare, &begin(2), &[passed.as_fd()]);
        drop(passed);
        assert!(seam.poll().is_empty());
        send(&session, message, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(seam.poll(), [InputEvent::Gone], "{message:?}");
        assert_eq!(seam.device.counters().garbage, count);
        assert!(!is_open(&session));
        assert!(!is_readable(&seam.device));
    }
    let mut viewer = seam.viewer();
    seam.poll();
    viewer.send(0, KEY).unwrap();
    assert_eq!(seam.poll(), [typed(KEY)]);
}

#[test]
fn garbage_on_the_lasting_socket_ends_no_session() {
    let mut seam = Seam::new();
    let mut viewer = seam.viewer();
    seam.poll();
    let junk: [&[u8]; 5] = [&[0xff; 20], &[], &[0], &begin(2), &[0x55; 60_000]];
    for message in junk {
        send(&seam.spare, message, SendFlags::NOSIGNAL).unwrap();
    }
    viewer.send(0, KEY).unwrap();
    assert_eq!(seam.poll(), [typed(KEY)]);
    assert_eq!(seam.device.counters().garbage, 5);
}

#[test]
fn only_a_socket_that_can_be_a_session_is_kept() {
    let mut seam = Seam::new();
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let (stream, _other) = UnixStream::pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let inet = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    for fd in [file.as_fd(), stream.as_fd(), inet.as_fd(), reader.as_fd(), seam.device.as_fd()] {
        pass(&seam.spare, &begin(2), &[fd]);
    }
    assert!(seam.poll().is_empty());
    assert!(!seam.device.has_session());
    assert_eq!(seam.device.counters().garbage, 5);
    // What was passed is open nowhere else: the last reader is gone.
    drop(reader);
    assert!(rustix::io::write(&writer, b"x").is_err());
}

#[test]
fn a_socket_that_is_not_connected_is_no_session_for_long() {
    let mut seam = Seam::new();
    let lonely = rustix::net::socket(rustix::net::AddressFamily::UNIX, SocketType::SEQPACKET, None);
    pass(&seam.spare, &begin(2), &[lonely.unwrap().as_fd()]);
    let mut events = seam.poll();
    events.extend(seam.poll());
    assert_eq!(events, [InputEvent::Gone]);
    assert!(!is_readable(&seam.device));
}

#[test]
fn a_copy_that_the_viewer_keeps_of_what_it_passed_does_not_wake_the_device_for_ever() {
    let mut seam = Seam::new();
    let (session, passed) = frames::pair().unwrap();
    pass(&seam.spare, &begin(2), &[passed.as_fd()]);
    seam.poll();
    send(&session, &[0xff; 20], SendFlags::NOSIGNAL).unwrap();
    assert_eq!(seam.poll(), [InputEvent::Gone]);
    send(&session, &[0xff; 20], SendFlags::NOSIGNAL).unwrap();
    assert!(!is_readable(&seam.device));
}

#[test]
fn another_version_begins_nothing_and_is_counted() {
    let mut seam = Seam::new();
    let (session, passed) = frames::pair().unwrap();
    pass(&seam.spare, &begin(9), &[passed.as_fd()]);
    drop(passed);
    assert!(seam.poll().is_empty());
    assert!(!is_open(&session));
    assert_eq!((seam.device.counters().versions, seam.device.counters().sessions), (1, 0));
}

#[test]
fn of_several_descriptors_none_stays_open_by_accident() {
    let mut seam = Seam::new();
    let (reader, writer) = std::io::pipe().unwrap();
    pass(&seam.spare, &begin(2), &[reader.as_fd(); 8]);
    assert!(seam.poll().is_empty());
    drop(reader);
    assert!(rustix::io::write(&writer, b"x").is_err());
}

#[test]
fn a_flood_is_read_a_little_at_a_time_and_what_is_lost_lets_every_key_go() {
    let mut seam = Seam::new();
    let mut viewer = seam.viewer();
    seam.poll();
    let mut sent = 0;
    while viewer.send(0, KEY).unwrap() {
        sent += 1;
    }
    assert!(sent > INPUTS_PER_POLL && viewer.wants_write());
    assert!(!viewer.send(0, Input::Key { code: 30, pressed: false }).unwrap(), "lost");
    let mut got = 0;
    while got < sent {
        assert!(is_readable(&seam.device));
        let events = seam.poll();
        assert!((1..=INPUTS_PER_POLL).contains(&events.len()));
        got += events.len();
    }
    assert!(viewer.flush().unwrap() && !viewer.wants_write());
    assert!(viewer.send(0, KEY).unwrap());
    assert_eq!(seam.poll(), [typed(Input::ReleaseAll), typed(KEY)]);
}

#[test]
fn what_was_lost_is_said_before_the_next_event() {
    let mut seam = Seam::new();
    let mut viewer = seam.viewer();
    seam.poll();
    while viewer.send(0, KEY).unwrap() {}
    while !seam.poll().is_empty() {}
    assert!(viewer.send(0, Input::Pointer { x: 1, y: 1 }).unwrap());
    assert_eq!(seam.poll(), [typed(Input::ReleaseAll), typed(Input::Pointer { x: 1, y: 1 })]);
}

#[test]
fn a_viewer_that_does_not_look_at_the_lights_holds_nothing_up_and_sees_the_newest_later() {
    let mut seam = Seam::new();
    let mut viewer = seam.viewer();
    seam.poll();
    for count in 0..10_000 {
        seam.device.leds(Leds { num: count % 2 == 0, caps: false, scroll: false });
    }
    seam.device.leds(CAPS);
    assert!(!is_readable(&seam.device), "no room, nothing to do");
    viewer.send(0, KEY).unwrap();
    assert_eq!(seam.poll(), [typed(KEY)]);
    assert!(viewer.leds().is_some());
    assert!(is_readable(&seam.device), "there is room");
    assert!(seam.poll().is_empty());
    assert_eq!(viewer.leds(), Some(CAPS));
    assert!(!is_readable(&seam.device));
}

#[test]
fn nobody_who_could_begin_is_no_reason_to_wake_for_ever() {
    let Seam { mut device, spare } = Seam::new();
    let mut viewer = InputSession::begin(spare).unwrap();
    let mut events = Vec::new();
    for _ in 0..3 {
        device.poll(&mut events);
    }
    assert!(events.is_empty() && !is_readable(&device));
    viewer.send(0, KEY).unwrap();
    device.poll(&mut events);
    assert_eq!(events, [typed(KEY)]);
}

#[test]
fn viewers_that_nobody_listens_to_are_told_so() {
    let (ours, spare) = frames::pair().unwrap();
    let mut sessions = Vec::new();
    let refusal = loop {
        match InputSession::begin(spare.try_clone().unwrap()) {
            Ok(session) => sessions.push(session),
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, InputError::Busy), "{refusal}");
    let mut device = InputEnd::new(ours).unwrap();
    let mut events = Vec::new();
    while is_readable(&device) {
        device.poll(&mut events);
    }
    assert_eq!(device.counters().sessions as usize, sessions.len());
    sessions.last_mut().unwrap().send(0, KEY).unwrap();
    device.poll(&mut events);
    assert_eq!(events.pop(), Some(typed(KEY)));
    drop(device);
    assert!(matches!(InputSession::begin(spare), Err(InputError::Closed)));
}
