mod calls;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tempfile::TempDir;

use crate::page::Page;
use crate::{Grant, Name, Report, Seat, Ward, socket};

struct Place {
    _folder: TempDir,
    path: PathBuf,
    seat: Seat,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arbiter.sock");
    let listener = plain_socket();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 4).unwrap();
    Place { _folder: folder, path, seat: Seat::new(listener).unwrap() }
}

fn plain_socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

fn is_readable(fd: impl AsFd) -> bool {
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
}

fn work(waiting: u32) -> Report {
    Report { waiting, done: 7, command: Name::new("SUBMIT_3D"), context: 3 }
}

#[test]
fn without_a_manager_everything_is_granted_and_nothing_is_stopped() {
    let mut place = place();
    assert!(!place.seat.poll());
    place.seat.report(work(5));
    assert_eq!(
        (place.seat.granted(), place.seat.stopped(), place.seat.is_ruled()),
        (Grant::Open, Duration::ZERO, false)
    );
}

#[test]
fn a_manager_rules_until_it_hangs_up() {
    let mut place = place();
    let ward = Ward::connect(&place.path).unwrap();
    assert!(place.seat.poll() && place.seat.is_ruled());
    for grant in [Grant::Gated, Grant::Held, Grant::Open, Grant::Held] {
        ward.grant(grant);
        assert!(place.seat.poll());
        assert_eq!(place.seat.granted(), grant);
        assert!(!place.seat.poll(), "it is told once");
    }
    assert!(ward.is_there());
    drop(ward);
    assert!(place.seat.poll());
    assert_eq!((place.seat.granted(), place.seat.is_ruled()), (Grant::Open, false));
}

#[test]
fn a_manager_that_was_started_anew_takes_the_place_of_the_old_one_and_learns_what_there_is() {
    let mut place = place();
    let old = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    old.grant(Grant::Held);
    place.seat.report(work(2));
    let new = Ward::connect(&place.path).unwrap();
    assert!(place.seat.poll());
    assert_eq!(place.seat.granted(), Grant::Open);
    assert_eq!(new.report(), work(2));
    assert!(new.is_there() && !old.is_there());
}

#[test]
fn time_in_which_processes_were_stopped_adds_up_and_outlives_its_manager() {
    let mut place = place();
    let mut ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    assert_eq!(place.seat.stopped(), Duration::ZERO);
    ward.stopped();
    ward.stopped();
    std::thread::sleep(Duration::from_millis(2));
    let during = place.seat.stopped();
    assert!(during >= Duration::from_millis(2));
    ward.continued();
    let after = place.seat.stopped();
    assert!(after >= during);
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(place.seat.stopped(), after, "it does not grow while they run");
    ward.continued();
    ward.stopped();
    // The manager dies in the middle of a stop; another one comes.
    drop(ward);
    place.seat.poll();
    let left = place.seat.stopped();
    assert!(left >= after);
    let _ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    assert_eq!(place.seat.stopped(), left);
}

#[test]
fn who_connects_and_says_nothing_or_nonsense_rules_nothing() {
    let mut place = place();
    let address = SocketAddrUnix::new(&place.path).unwrap();
    let visit = |what: &dyn Fn(&OwnedFd)| {
        let socket = plain_socket();
        connect(&socket, &address).unwrap();
        what(&socket);
        socket
    };
    let memory = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memory, 4096).unwrap();
    let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let page = Page::new().unwrap();
    let page = page.fd().unwrap();
    let visits: [&dyn Fn(&OwnedFd); 6] = [
        &|_| {},
        &|socket| _ = rustix::io::write(socket, b"GET / HTTP/1.1"),
        &|socket| _ = rustix::io::write(socket, b"arbt\xff\0\0\0"),
        &|socket| socket::send(socket, &[]).unwrap(),
        &|socket| socket::send(socket, &[memory.as_fd(), bell.as_fd(), bell.as_fd()]).unwrap(),
        &|socket| socket::send(socket, &[page, blocking.as_fd(), blocking.as_fd()]).unwrap(),
    ];
    for (number, what) in visits.into_iter().enumerate() {
        let socket = visit(what);
        place.seat.poll();
        assert!(!place.seat.is_ruled(), "{number}");
        drop(socket);
        place.seat.poll();
    }
    let ward = Ward::connect(&place.path).unwrap();
    // One that says nothing does not keep the next one out, nor drive the first one out.
    let silent = visit(&|_| {});
    place.seat.poll();
    let _ = (ward, silent);
    let ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    assert!(place.seat.is_ruled() && ward.is_there());
}

#[test]
fn a_device_waits_for_one_descriptor_that_is_silent_when_nothing_happens() {
    let mut place = place();
    assert!(!is_readable(place.seat.fd()));
    for _ in 0..3 {
        let ward = Ward::connect(&place.path).unwrap();
        assert!(is_readable(place.seat.fd()));
        place.seat.poll();
        assert!(!is_readable(place.seat.fd()));
        ward.grant(Grant::Gated);
        assert!(is_readable(place.seat.fd()));
        place.seat.poll();
        assert!(!is_readable(place.seat.fd()));
        // It hangs up with its bell ringing.
        ward.grant(Grant::Held);
        drop(ward);
        assert!(is_readable(place.seat.fd()));
        place.seat.poll();
        assert!(!is_readable(place.seat.fd()), "nobody rules");
    }
    // Two at once: the bell of the one before is its own alone.
    let old = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    let _new = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    old.grant(Grant::Held);
    assert!(!is_readable(place.seat.fd()));
    assert_eq!(place.seat.granted(), Grant::Open);
}

#[test]
fn a_name_is_a_word_whatever_was_written() {
    for (written, read) in [
        ("SUBMIT_3D", "SUBMIT_3D"),
        ("", ""),
        ("a name of more than 24 bytes", "a name of more than 24 b"),
        ("\x1b[2J\n\u{e9}", "?[2J???"),
    ] {
        assert_eq!(Name::new(written).to_string(), read);
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let place = place();
    let path = place.path.clone();
    drop(place);
    assert!(Ward::connect(&path).is_err());
}

proptest! {
    /// Whatever the other side writes into the page, what is read has a meaning.
    #[test]
    fn scribbled_pages_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 4096), now in any::<u64>()) {
        let page = Page::new().unwrap();
        rustix::io::pwrite(page.fd().unwrap(), &bytes, 0).unwrap();
        let _ = (page.granted(), page.reported(), page.stopped(Duration::from_nanos(now)));
    }
}
