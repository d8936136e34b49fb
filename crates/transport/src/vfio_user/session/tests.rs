use std::os::fd::AsFd;

use rustix::pipe::{PipeFlags, pipe_with};

use super::super::dummy::{Call, Dummy, FRAMEBUFFER, REGISTERS};
use super::*;
use crate::vfio_user::wire::{MAX_WRITES, WireError};

const VERSION: Request<'static> = Request::Version { major: 0, minor: 0, capabilities: b"{}\0" };

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Reply(Vec<u8>, bool),
    Error(Errno),
    Silent,
    End(Errno),
}

fn errno(bytes: &[u8]) -> Option<Errno> {
    let (head, rest) = bytes.split_first_chunk()?;
    match Header::parse(head) {
        Ok(Header { kind: Kind::Error(errno), size: 0, .. }) if rest.is_empty() => {
            Some(Errno::from_raw_os_error(errno.cast_signed()))
        }
        _ => None,
    }
}

struct Talk<'f> {
    session: Session<'f, Dummy>,
    id: u16,
}

impl<'f> Talk<'f> {
    fn new(dummy: &'f mut Dummy) -> Self {
        let mut talk = Self::unversed(dummy);
        assert!(matches!(talk.ask(VERSION), Answer::Reply(..)));
        talk
    }

    fn unversed(dummy: &'f mut Dummy) -> Self {
        Self { session: Session::new(dummy), id: 0x7000 }
    }

    fn say(&mut self, command: u16, payload: &[u8], no_reply: bool, fds: Vec<OwnedFd>) -> Answer {
        self.id += 1;
        let header = Header { id: self.id, command, size: payload.len(), kind: Kind::Request { no_reply } };
        match self.session.handle(Message { header, payload, fds }).unwrap() {
            Reaction::Silent => Answer::Silent,
            Reaction::End(bytes, _) => Answer::End(errno(bytes).unwrap()),
            Reaction::Reply(bytes, file) => {
                let (head, rest) = bytes.split_first_chunk().unwrap();
                let reply = Header::parse(head).unwrap();
                assert_eq!((reply.id, reply.command, reply.size), (self.id, command, rest.len()));
                match errno(bytes) {
                    Some(errno) => Answer::Error(errno),
                    None => Answer::Reply(rest.to_vec(), file.is_some()),
                }
            }
        }
    }

    fn ask_with(&mut self, request: Request<'_>, fds: Vec<OwnedFd>) -> Answer {
        let mut payload = Vec::new();
        let command = request.encode(&mut payload);
        self.say(command, &payload, false, fds)
    }

    fn ask(&mut self, request: Request<'_>) -> Answer {
        self.ask_with(request, Vec::new())
    }

    fn post(&mut self, request: Request<'_>) -> Answer {
        let mut payload = Vec::new();
        let command = request.encode(&mut payload);
        self.say(command, &payload, true, Vec::new())
    }

    fn calls(&mut self) -> Vec<Call> {
        self.session.function().take_calls()
    }
}

fn bytes32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn reply32(words: &[u32]) -> Answer {
    Answer::Reply(bytes32(words), false)
}

const DONE: Answer = Answer::Reply(Vec::new(), false);
const INVALID: Answer = Answer::Error(Errno::INVAL);

fn access(region: usize, offset: u64, count: u32) -> Access {
    Access { region: region as u32, offset, count }
}

/// A descriptor, and what tells whether it is still open anywhere.
fn watched_fd() -> (OwnedFd, impl Fn() -> bool) {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    (writer, move || rustix::io::read(&reader, &mut [0; 1]) == Err(Errno::AGAIN))
}

#[test]
fn who_begins_with_something_else_is_left() {
    for request in [Request::GetInfo, Request::Reset, Request::RegionRead(access(2, 0, 4))] {
        let mut dummy = Dummy::default();
        let mut talk = Talk::unversed(&mut dummy);
        assert_eq!(talk.ask(request), Answer::End(Errno::INVAL));
        assert_eq!(talk.calls(), []);
    }
    let mut dummy = Dummy::default();
    assert_eq!(Talk::unversed(&mut dummy).say(99, &[], false, Vec::new()), Answer::End(Errno::INVAL));
}

#[test]
fn who_speaks_another_version_is_left() {
    for (major, json) in [(1, &b"{}\0"[..]), (0, b"{}"), (0, b"{\0"), (0, b"7\0"), (0, &[b' '; 5000])] {
        let mut dummy = Dummy::default();
        let version = Request::Version { major, minor: 0, capabilities: json };
        assert_eq!(Talk::unversed(&mut dummy).ask(version), Answer::End(Errno::INVAL));
    }
}

#[test]
fn a_newer_minor_version_is_answered_with_ours() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::unversed(&mut dummy);
    assert_eq!(talk.session.peer(), None);
    let json = b"{\"capabilities\":{\"max_data_xfer_size\":8192}}\0";
    let Answer::Reply(reply, false) = talk.ask(Request::Version { major: 0, minor: 1, capabilities: json }) else {
        panic!("No reply")
    };
    assert_eq!(reply, [&[0; 4][..], capabilities::OURS.to_bytes_with_nul()].concat());
    assert_eq!(talk.session.peer(), Some(Peer { max_data: 8192 }));
    // Once.
    assert_eq!(talk.ask(VERSION), INVALID);
    assert_eq!(talk.session.peer(), Some(Peer { max_data: 8192 }));
}

#[test]
fn a_device_says_what_it_is() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    assert_eq!(talk.ask(Request::GetInfo), reply32(&[16, 3, 9, 5]));
    assert_eq!(talk.calls(), [Call::Ready]);
    let info = |index| Request::GetRegionInfo { room: 32, index };
    // Mapped whole, with its file.
    let whole = bytes32(&[32, 7, 0, 0, FRAMEBUFFER as u32, 0, 0, 0]);
    assert_eq!(talk.ask(info(0)), Answer::Reply(whole, true));
    assert_eq!(talk.ask(info(1)), reply32(&[32, 0, 1, 0, 0, 0, 0, 0]));
    assert_eq!(talk.ask(info(6)), reply32(&[32, 1, 6, 0, 2048, 0, 0, 0]));
    assert_eq!(talk.ask(info(7)), reply32(&[32, 3, 7, 0, 256, 0, 0, 0]));
    assert_eq!(talk.ask(info(8)), reply32(&[32, 0, 8, 0, 0, 0, 0, 0]));
    assert_eq!(talk.ask(info(9)), INVALID);
    assert_eq!(talk.ask(info(u32::MAX)), INVALID);
    for (index, flags, count) in [(0, 7, 1), (1, 0, 0), (2, 9, 3), (3, 1, 1), (4, 0, 0)] {
        assert_eq!(talk.ask(Request::GetIrqInfo { index }), reply32(&[16, flags, index, count]));
    }
    assert_eq!(talk.ask(Request::GetIrqInfo { index: 5 }), INVALID);
    assert_eq!(talk.calls(), []);
}

#[test]
fn pieces_that_may_be_mapped_are_told_where_there_is_room() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let fixed = |offset| [64, 0xf, 2, offset, REGISTERS as u32, 0, 0, 0];
    for room in [32, 63] {
        let short = Answer::Reply(bytes32(&fixed(0)), true);
        assert_eq!(talk.ask(Request::GetRegionInfo { room, index: 2 }), short);
    }
    let sparse = [0x1_0001, 0, 1, 0, 4096, 0, 4096, 0];
    let long = Answer::Reply(bytes32(&[fixed(32), sparse].concat()), true);
    for room in [64, 1000] {
        assert_eq!(talk.ask(Request::GetRegionInfo { room, index: 2 }), long);
    }
}

#[test]
fn the_last_word_before_realize_can_be_no() {
    let why = Refusal { errno: Errno::NOTCONN, why: "no" };
    let mut dummy = Dummy { refusal: Some(why.into()), ..Dummy::default() };
    let mut talk = Talk::new(&mut dummy);
    assert_eq!(talk.ask(Request::GetInfo), Answer::Error(Errno::NOTCONN));
}

#[test]
fn a_guest_reads_and_writes() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let place = access(region::BAR2, 0x100, 4);
    let mut head = Vec::new();
    place.encode(&mut head);
    assert_eq!(talk.ask(Request::RegionWrite(place, &[1, 2, 3, 4])), Answer::Reply(head.clone(), false));
    assert_eq!(talk.ask(Request::RegionRead(place)), Answer::Reply([&head[..], &[1, 2, 3, 4]].concat(), false));
    assert_eq!(
        talk.calls(),
        [
            Call::Write { region: 2, offset: 0x100, data: vec![1, 2, 3, 4] },
            Call::Read { region: 2, offset: 0x100, count: 4 },
        ]
    );
    // Posted: the same, and nothing is said.
    assert_eq!(talk.post(Request::RegionWrite(place, &[5, 6, 7, 8])), Answer::Silent);
    assert_eq!(talk.calls().len(), 1);
    assert_eq!(talk.ask(Request::RegionRead(place)), Answer::Reply([&head[..], &[5, 6, 7, 8]].concat(), false));
}

#[test]
fn an_access_outside_its_region_reaches_nobody() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let bad = [
        access(region::BAR2, REGISTERS - 4, 8),
        access(region::BAR2, REGISTERS, 1),
        access(region::BAR2, u64::MAX, 1),
        access(region::BAR2, u64::MAX - 3, 4),
        access(region::BAR2, 0, 0),
        access(region::BAR2, 0, u32::MAX),
        access(region::BAR0, 0, MAX_DATA as u32 + 1),
        access(1, 0, 1),
        access(9, 0, 1),
        access(u32::MAX as usize, 0, 1),
        access(region::CONFIG, 253, 4),
    ];
    for place in bad {
        assert_eq!(talk.ask(Request::RegionRead(place)), INVALID, "{place:?}");
        if let Ok(length) = usize::try_from(place.count)
            && length <= 64
        {
            assert_eq!(talk.ask(Request::RegionWrite(place, &vec![0; length])), INVALID, "{place:?}");
        }
    }
    assert_eq!(talk.calls(), []);
    // The last byte is inside.
    assert!(matches!(talk.ask(Request::RegionRead(access(region::BAR2, REGISTERS - 1, 1))), Answer::Reply(..)));
}

#[test]
fn what_cannot_be_written_is_left_without_a_word() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let answer = talk.ask(Request::RegionWrite(access(region::ROM, 0, 2), &[1, 2]));
    assert!(matches!(answer, Answer::Reply(..)));
    assert_eq!(talk.calls(), []);
}

#[test]
fn several_writes_come_in_order_until_one_is_wrong() {
    let multi = |writes: &[(Access, [u8; 8])]| {
        let mut payload = (writes.len() as u64).to_le_bytes().to_vec();
        for (access, data) in writes {
            access.encode(&mut payload);
            payload.extend(data);
        }
        payload
    };
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let good = [(access(2, 0, 2), [1; 8]), (access(2, 8, 8), [2; 8]), (access(7, 4, 1), [3; 8])];
    let answer = talk.say(command::WRITE_MULTI, &multi(&good), false, Vec::new());
    assert_eq!(answer, Answer::Reply(3u64.to_le_bytes().to_vec(), false));
    let write = |region, offset, data: &[u8]| Call::Write { region, offset, data: data.to_vec() };
    assert_eq!(talk.calls(), [write(2, 0, &[1; 2]), write(2, 8, &[2; 8]), write(7, 4, &[3])]);
    for wrong in [access(2, 0, 9), access(2, 0, 0), access(2, REGISTERS, 1), access(12, 0, 1)] {
        let writes = [good[0], (wrong, [0; 8]), good[1]];
        assert_eq!(talk.say(command::WRITE_MULTI, &multi(&writes), false, Vec::new()), INVALID);
        assert_eq!(talk.calls(), [write(2, 0, &[1; 2])]);
        assert_eq!(talk.say(command::WRITE_MULTI, &multi(&writes), true, Vec::new()), Answer::Silent);
        assert_eq!(talk.calls(), [write(2, 0, &[1; 2])]);
    }
    let many = vec![good[0]; MAX_WRITES as usize];
    assert_eq!(talk.say(command::WRITE_MULTI, &multi(&many), true, Vec::new()), Answer::Silent);
    assert_eq!(talk.calls().len(), many.len());
}

#[test]
fn interrupts_are_set_as_vfio_has_it() {
    let eventfds = |count: usize| (0..count).map(|_| watched_fd().0).collect::<Vec<_>>();
    let none = |index, start, count, action| Call::Irqs { index, start, count, action, eventfds: None };
    let some =
        |index, start, count, fds| Call::Irqs { index, start, count, action: IrqAction::Trigger, eventfds: Some(fds) };
    let too_many = u32::MAX;
    let cases = [
        (0x24, 0, 0, 1, 1, Some(some(0, 0, 1, 1))),
        (0x24, 2, 0, 3, 3, Some(some(2, 0, 3, 3))),
        (0x24, 2, 1, 2, 2, Some(some(2, 1, 2, 2))),
        (0x24, 2, 0, 1, 0, Some(some(2, 0, 1, 0))),
        (0x21, 2, 0, 0, 0, Some(none(2, 0, 0, IrqAction::Trigger))),
        (0x09, 0, 0, 1, 0, Some(none(0, 0, 1, IrqAction::Mask))),
        (0x11, 0, 0, 1, 0, Some(none(0, 0, 1, IrqAction::Unmask))),
        (0x24, 2, 0, 3, 2, None),
        (0x24, 2, 0, 1, 16, None),
        (0x24, 2, 0, 0, 16, None),
        (0x24, 2, 1, 3, 3, None),
        (0x24, 2, too_many, 2, 2, None),
        (0x24, 2, 1, too_many, 0, None),
        (0x24, 1, 0, 1, 1, None),
        (0x24, 5, 0, 1, 1, None),
        (0x21, 0, 0, 1, 1, None),
        (0x27, 0, 0, 1, 1, None),
        (0x3c, 0, 0, 1, 1, None),
        (0x04, 0, 0, 1, 1, None),
        (0x20, 0, 0, 1, 0, None),
        (0x64, 0, 0, 1, 1, None),
    ];
    for (flags, index, start, count, fds, call) in cases {
        let mut dummy = Dummy::default();
        let mut talk = Talk::new(&mut dummy);
        let set = Request::SetIrqs { flags, index, start, count, data: &[] };
        let expected = if call.is_some() { DONE } else { INVALID };
        assert_eq!(talk.ask_with(set, eventfds(fds)), expected, "{flags:#x} {index} {start} {count} {fds}");
        assert_eq!(talk.calls(), Vec::from_iter(call));
    }
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    for flags in [0x22, 0x12, 0x0a] {
        let set = Request::SetIrqs { flags, index: 0, start: 0, count: 1, data: &[1] };
        assert_eq!(talk.ask(set), Answer::Error(Errno::NOTSUP));
    }
    let odd = Request::SetIrqs { flags: 0x21, index: 0, start: 0, count: 1, data: &[1] };
    assert_eq!(talk.ask(odd), INVALID);
    assert_eq!(talk.calls(), []);
}

#[test]
fn windows_come_and_go() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let window = Window { iova: 0x1000, size: 0x2000, offset: 0x3000, readable: true, writable: true };
    assert_eq!(talk.ask(Request::DmaMap(window)), DONE);
    assert_eq!(talk.ask_with(Request::DmaMap(window), vec![watched_fd().0]), DONE);
    assert_eq!(talk.ask_with(Request::DmaMap(window), vec![watched_fd().0, watched_fd().0]), INVALID);
    // Its own words come back.
    let mut echo = Vec::new();
    Request::DmaUnmap(Some((0x1000, 0x2000))).encode(&mut echo);
    assert_eq!(talk.ask(Request::DmaUnmap(Some((0x1000, 0x2000)))), Answer::Reply(echo, false));
    let mut echo = Vec::new();
    Request::DmaUnmap(None).encode(&mut echo);
    assert_eq!(talk.ask(Request::DmaUnmap(None)), Answer::Reply(echo, false));
    assert_eq!(
        talk.calls(),
        [
            Call::Map { window, file: false },
            Call::Map { window, file: true },
            Call::Unmap(Some((0x1000, 0x2000))),
            Call::Unmap(None),
        ]
    );
    let refusal = Refusal { errno: Errno::EXIST, why: "there" };
    talk.session.function().refusal = Some(refusal.into());
    assert_eq!(talk.ask(Request::DmaMap(window)), Answer::Error(Errno::EXIST));
    assert_eq!(talk.ask(Request::DmaUnmap(None)), Answer::Error(Errno::EXIST));
}

#[test]
fn a_reset_is_one() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    assert_eq!(talk.ask(Request::Reset), DONE);
    assert_eq!(talk.calls(), [Call::Reset]);
}

#[test]
fn commands_that_are_not_known_are_refused() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    for code in [0, 6, command::DMA_READ, command::DMA_WRITE, 14, 16, 17, 18, 0xffff] {
        assert_eq!(talk.say(code, &[0; 32], false, Vec::new()), Answer::Error(Errno::NOTSUP));
        assert_eq!(talk.say(code, &[], true, Vec::new()), Answer::Silent);
    }
    assert_eq!(talk.calls(), []);
}

#[test]
fn other_lengths_are_refused_and_the_session_goes_on() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let lengths = [
        (command::DMA_MAP, 32),
        (command::DMA_UNMAP, 24),
        (command::GET_INFO, 16),
        (command::GET_REGION_INFO, 32),
        (command::GET_IRQ_INFO, 16),
        (command::REGION_READ, 16),
        (command::RESET, 0),
    ];
    for (code, length) in lengths {
        for wrong in (0..length).chain(length + 1..length + 40) {
            assert_eq!(talk.say(code, &vec![0xff; wrong], false, Vec::new()), INVALID, "{code} {wrong}");
        }
    }
    // Too small for the answer.
    for (code, words) in [(command::GET_INFO, 4), (command::GET_REGION_INFO, 8), (command::GET_IRQ_INFO, 4)] {
        let mut small = vec![0; words];
        small[0] = 4 * words as u32 - 1;
        assert_eq!(talk.say(code, &bytes32(&small), false, Vec::new()), INVALID);
    }
    // Fewer bytes than it says, and more.
    for count in [0u32, 3, 5, u32::MAX] {
        let mut payload = Vec::new();
        access(region::BAR2, 0, count).encode(&mut payload);
        payload.extend([0; 4]);
        assert_eq!(talk.say(command::REGION_WRITE, &payload, false, Vec::new()), INVALID);
    }
    assert_eq!(talk.calls(), []);
    assert_eq!(talk.ask(Request::GetInfo), reply32(&[16, 3, 9, 5]));
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    let window = Window { iova: 0, size: 4096, offset: 0, readable: true, writable: true };
    let set = Request::SetIrqs { flags: 0x24, index: 9, start: 0, count: 1, data: &[] };
    for request in [Request::GetInfo, Request::Reset, Request::DmaMap(window), set] {
        let (fd, is_open) = watched_fd();
        assert!(is_open());
        talk.ask_with(request.clone(), vec![fd.as_fd().try_clone_to_owned().unwrap(), fd]);
        assert!(!is_open(), "{request:?}");
    }
}

#[test]
fn posted_mistakes_are_silent() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    assert_eq!(talk.post(Request::RegionRead(access(9, 0, 1))), Answer::Silent);
    assert_eq!(talk.say(command::GET_INFO, &[1], true, Vec::new()), Answer::Silent);
    assert_eq!(talk.post(Request::Reset), Answer::Silent);
    assert_eq!(talk.calls(), [Call::Reset]);
}

#[test]
fn replies_are_not_for_the_session() {
    let mut dummy = Dummy::default();
    let mut talk = Talk::new(&mut dummy);
    for kind in [Kind::Reply, Kind::Error(19)] {
        let header = Header { id: 1, command: command::RESET, size: 0, kind };
        let reaction = talk.session.handle(Message { header, payload: &[], fds: Vec::new() });
        assert!(matches!(reaction, Ok(Reaction::Silent)));
    }
    assert_eq!(talk.calls(), []);
}

#[test]
fn the_end_of_the_device_is_an_error() {
    let mut dummy = Dummy { refusal: Some(Gone.into()), ..Dummy::default() };
    let mut session = Session::new(&mut dummy);
    assert!(session.handle_bytes(&VERSION.to_bytes(1, false)).is_ok());
    assert!(matches!(session.handle_bytes(&Request::GetInfo.to_bytes(2, false)), Err(Gone)));
}

#[test]
fn bytes_that_are_not_one_message_are_none() {
    let mut dummy = Dummy::default();
    let mut session = Session::new(&mut dummy);
    let version = VERSION.to_bytes(1, false);
    assert!(matches!(session.handle_bytes(&version[..10]), Ok(None)));
    assert!(matches!(session.handle_bytes(&version[..version.len() - 1]), Ok(None)));
    assert_eq!(Header::parse(&[0; 16]), Err(WireError::Size(0)));
    assert!(matches!(session.handle_bytes(&[0; 16]), Ok(None)));
    assert!(matches!(session.handle_bytes(&version), Ok(Some(Reaction::Reply(..)))));
}
