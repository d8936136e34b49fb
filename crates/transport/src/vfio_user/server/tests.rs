use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver as Heard, channel};
use std::thread::JoinHandle;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::super::dummy::{Call, Dummy};
use super::*;
use crate::vfio_user::wire::{Access, HEADER_BYTES, Header, MAX_FDS, Request, command};
use crate::vfio_user::{Refused, Window};

mod client;
mod memory;

const VERSION: Request<'static> = Request::Version { major: 0, minor: 0, capabilities: b"{}\0" };
/// A test that waits longer fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn flag() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn raise(flag: impl AsFd) {
    rustix::io::write(flag, &1u64.to_ne_bytes()).unwrap();
}

/// A server of a dummy on a thread of its own.
struct Served {
    stop: Arc<OwnedFd>,
    ended: Arc<OwnedFd>,
    calls: Arc<std::sync::Mutex<Vec<Call>>>,
    port: Arc<std::sync::Mutex<Option<Arc<dyn super::super::DmaPort>>>>,
    result: Heard<Result<(), ServeError>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new(endpoint: Endpoint, mut dummy: Dummy, limit: Option<Duration>) -> Self {
        let (stop, ended) = (Arc::new(flag()), Arc::new(flag()));
        let (calls, port) = (dummy.calls.clone(), dummy.port.clone());
        let (sender, result) = channel();
        let watched = (stop.clone(), ended.clone());
        serve::ready(&endpoint).unwrap();
        let thread = thread::spawn(move || {
            let watch = Watch { stop: &watched.0, ended: &watched.1 };
            let _ = sender.send(serve_with_limit(endpoint, &mut dummy, watch, "test", limit));
        });
        Self { stop, ended, calls, port, result, thread: Some(thread) }
    }

    /// .. and its only front-end.
    fn connected(dummy: Dummy) -> (Self, Vmm) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Self::new(Endpoint::Connection(ours), dummy, None), Vmm::new(theirs))
    }

    fn result(&mut self) -> Result<(), ServeError> {
        let result = self.result.recv_timeout(PATIENCE).unwrap();
        self.thread.take().unwrap().join().unwrap();
        result
    }

    fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

/// A front-end.
struct Vmm {
    socket: UnixStream,
    id: u16,
}

impl Vmm {
    fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, id: 0 }
    }

    fn post(&mut self, request: &Request<'_>, no_reply: bool) {
        self.id = self.id.wrapping_add(1);
        self.socket.write_all(&request.to_bytes(self.id, no_reply)).unwrap();
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut head = [0; HEADER_BYTES];
        self.socket.read_exact(&mut head).unwrap();
        let header = Header::parse(&head).unwrap();
        let mut payload = vec![0; header.size];
        self.socket.read_exact(&mut payload).unwrap();
        (header, payload)
    }

    fn ask(&mut self, request: Request<'_>) -> Vec<u8> {
        self.post(&request, false);
        let (header, payload) = self.receive();
        assert_eq!((header.id, header.kind), (self.id, Kind::Reply));
        payload
    }

    /// Whether the other side has hung up, once it said all.
    fn is_left(&mut self) -> bool {
        // Who is hung up on with words unread is told so.
        let mut rest = Vec::new();
        self.socket
            .read_to_end(&mut rest)
            .map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
    }
}

fn read(offset: u64, count: u32) -> Request<'static> {
    Request::RegionRead(Access { region: 2, offset, count })
}

#[test]
fn messages_come_in_any_pieces() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    let access = Access { region: 2, offset: 0, count: 4 };
    let stream = [
        VERSION.to_bytes(1, false),
        Request::RegionWrite(access, b"abcd").to_bytes(2, true),
        read(0, 4).to_bytes(3, false),
    ]
    .concat();
    for byte in &stream {
        vmm.socket.write_all(&[*byte]).unwrap();
    }
    assert_eq!(vmm.receive().0.id, 1);
    let (header, payload) = vmm.receive();
    assert_eq!((header.id, &payload[16..]), (3, &b"abcd"[..]));
    // All at once as well.
    vmm.socket.write_all(&stream[stream.len() - 2 * 32 - 4..]).unwrap();
    assert_eq!(vmm.receive().1[16..], *b"abcd");
    drop(vmm);
    served.result().unwrap();
}

#[test]
fn what_need_not_be_waited_for_comes_after_the_reply() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    vmm.ask(read(0, 4));
    vmm.ask(Request::Reset);
    drop(vmm);
    served.result().unwrap();
    let read = Call::Read { region: 2, offset: 0, count: 4 };
    let expected = [Call::Connected, Call::Flush, read, Call::Flush, Call::Reset, Call::Flush, Call::HungUp];
    assert_eq!(served.take_calls(), expected);
}

#[test]
fn a_row_of_windows_is_one_batch() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    let windows = 100;
    let mut row = Vec::new();
    for index in 0..windows {
        let window = Window { iova: index << 12, size: 4096, offset: 0, readable: true, writable: true };
        row.extend(Request::DmaMap(window).to_bytes(7, false));
    }
    row.extend(Request::GetInfo.to_bytes(8, false));
    vmm.socket.write_all(&row).unwrap();
    for _ in 0..=windows {
        vmm.receive();
    }
    drop(vmm);
    served.result().unwrap();
    let calls = served.take_calls();
    let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
    assert_eq!(count(|call| matches!(call, Call::Map { .. })), windows as usize);
    // One for VERSION, one for the row with what follows it; a few more when the row was read in pieces.
    assert!(count(|call| *call == Call::Flush) < 10, "{calls:?}");
}

#[test]
fn one_front_end_follows_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut served = Served::new(Endpoint::Listener(listener), Dummy::default(), None);
    for _ in 0..3 {
        let mut vmm = Vmm::new(UnixStream::connect(&path).unwrap());
        vmm.ask(VERSION);
        vmm.ask(Request::GetInfo);
    }
    let mut last = Vmm::new(UnixStream::connect(&path).unwrap());
    last.ask(VERSION);
    raise(&*served.stop);
    served.result().unwrap();
    assert!(last.is_left());
    let session = [Call::Connected, Call::Flush, Call::Ready, Call::Flush, Call::HungUp];
    let calls = served.take_calls();
    assert_eq!(calls[..15], [session.clone(), session.clone(), session].concat());
    assert_eq!(calls[15..], [Call::Connected, Call::Flush, Call::HungUp]);
}

#[test]
fn who_says_nothing_gives_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut served = Served::new(Endpoint::Listener(listener), Dummy::default(), Some(Duration::from_millis(50)));
    let mut silent = Vmm::new(UnixStream::connect(&path).unwrap());
    assert!(silent.is_left());
    let mut slow = Vmm::new(UnixStream::connect(&path).unwrap());
    slow.socket.write_all(&VERSION.to_bytes(1, false)[..10]).unwrap();
    assert!(slow.is_left());
    raise(&*served.stop);
    served.result().unwrap();
}

#[test]
fn what_is_no_message_ends_the_conversation() {
    let no_message = |size: u32, flags: u32| {
        let mut bytes = Request::Reset.to_bytes(9, false);
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes
    };
    let bad = [no_message(15, 0), no_message(0, 0), no_message(u32::MAX, 0), no_message(2 << 20, 1), no_message(16, 7)];
    for bytes in bad {
        let (mut served, mut vmm) = Served::connected(Dummy::default());
        vmm.ask(VERSION);
        vmm.socket.write_all(&bytes).unwrap();
        assert!(vmm.is_left());
        served.result().unwrap();
        assert_eq!(served.take_calls().last(), Some(&Call::HungUp));
    }
}

#[test]
fn who_does_not_speak_vfio_user_is_told_and_left() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.post(&Request::GetInfo, false);
    assert_eq!(vmm.receive().0.kind, Kind::Error(22));
    assert!(vmm.is_left());
    served.result().unwrap();
}

fn send_with(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn descriptors_belong_to_the_message_that_brings_them() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    let (first, second) = (flag(), flag());
    let set = |count| Request::SetIrqs { flags: 0x24, index: 2, start: 0, count, data: &[] }.to_bytes(5, false);
    // Without a pause between them.
    send_with(&vmm.socket, &set(1), &[first.as_fd()]);
    vmm.socket.write_all(&set(3)).unwrap();
    send_with(&vmm.socket, &set(2), &[first.as_fd(), second.as_fd()]);
    for _ in 0..3 {
        assert_eq!(vmm.receive().0.kind, Kind::Reply);
    }
    drop(vmm);
    served.result().unwrap();
    let eventfds: Vec<_> = (served.take_calls().into_iter())
        .filter_map(|call| match call {
            Call::Irqs { eventfds, .. } => eventfds,
            _ => None,
        })
        .collect();
    assert_eq!(eventfds, [1, 0, 2]);
}

#[test]
fn too_many_descriptors_end_the_conversation() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    let fd = flag();
    let request = Request::Reset.to_bytes(3, false);
    send_with(&vmm.socket, &request, &[fd.as_fd(); MAX_FDS]);
    assert_eq!(vmm.receive().0.kind, Kind::Reply);
    send_with(&vmm.socket, &request, &[fd.as_fd(); MAX_FDS + 1]);
    assert!(vmm.is_left());
    served.result().unwrap();
}

#[test]
fn who_does_not_read_does_not_outlast_the_word_to_stop() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    // More than any socket holds: the server has to wait.
    let many = read(0, 8192).to_bytes(4, false).repeat(1000);
    vmm.socket.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < many.len() && served.result.try_recv().is_err() {
        match vmm.socket.write(&many[sent..]) {
            Ok(bytes) => sent += bytes,
            Err(_) => break,
        }
    }
    raise(&*served.stop);
    served.result().unwrap();
}

#[test]
fn what_the_function_waits_on_is_waited_on() {
    let (due, reader) = (flag(), channel::<()>());
    drop(reader);
    let dummy = Dummy { due: Some(due.try_clone().unwrap()), ..Dummy::default() };
    let (mut served, mut vmm) = Served::connected(dummy);
    vmm.ask(VERSION);
    raise(&due);
    let until = Instant::now() + PATIENCE;
    while !served.calls.lock().unwrap().contains(&Call::Poll) {
        assert!(Instant::now() < until, "It is not polled");
        thread::yield_now();
    }
    drop(vmm);
    served.result().unwrap();
}

#[test]
fn the_end_of_the_device_ends_the_server() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    raise(&*served.ended);
    assert!(matches!(served.result(), Err(ServeError::Gone(_))));
    let dummy = Dummy { refusal: Some(Refused::Gone(Gone)), ..Dummy::default() };
    let (mut served, mut vmm) = Served::connected(dummy);
    vmm.ask(VERSION);
    vmm.post(&Request::GetInfo, false);
    assert!(matches!(served.result(), Err(ServeError::Gone(_))));
    assert_eq!(served.take_calls().last(), Some(&Call::HungUp));
}

#[test]
fn unknown_commands_leave_the_conversation_in_step() {
    let (mut served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(VERSION);
    for code in [0, 6, 14, 16, command::DMA_READ, 999] {
        let payload = vec![0xaa; 5000];
        let header = Header { id: 77, command: code, size: payload.len(), kind: Kind::Request { no_reply: false } };
        vmm.socket.write_all(&[&header.to_bytes()[..], &payload].concat()).unwrap();
        assert_eq!(vmm.receive().0.kind, Kind::Error(95));
    }
    vmm.ask(Request::GetInfo);
    drop(vmm);
    served.result().unwrap();
}
