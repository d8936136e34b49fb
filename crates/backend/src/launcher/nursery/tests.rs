//! The processes of a device with a shell script in their place.

use super::*;
use std::path::Path;

use rustix::event::poll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::test_kill_process;
use tempfile::TempDir;

struct Bed {
    device: OwnedFd,
    nursery: Nursery,
    folder: TempDir,
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

impl Bed {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        // By a process of its own: see the tests of the viewer.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh").args(["-ec", write, "sh", script]).arg(&program).status();
        assert!(written.unwrap().success());
        let (device, theirs) = pair();
        let spec = Spec { memory: 1 << 30, ..Spec::plain() };
        let mut nursery = Nursery::new(theirs, spec);
        nursery.program = program;
        Bed { device, nursery, folder }
    }

    fn start(&mut self, id: u32) {
        assert!(send(&self.device, &Order::Start { id, kind: Kind::Gl }, Some(pair().0.as_fd())).unwrap());
    }

    /// Lives until the device hears something.
    fn hear(&mut self) -> News {
        loop {
            if let (Received::Message(news), _) = receive(&self.device) {
                return news;
            }
            let (waits, mut fds): (Vec<Wait>, Vec<PollFd<'_>>) = self.nursery.fds().into_iter().unzip();
            poll(&mut fds, None).unwrap();
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let due: Vec<Wait> =
                waits.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|(wait, _)| wait).collect();
            assert!(self.nursery.turn(&due));
        }
    }

    fn started(&mut self, id: u32) -> Pid {
        self.start(id);
        match self.hear() {
            News::Started { id: told, pid } if told == id => Pid::from_raw(pid as i32).unwrap(),
            news => panic!("{news:?}"),
        }
    }

    /// What a process wrote, once it is there.
    fn read(&self, name: &str) -> String {
        loop {
            match std::fs::read_to_string(self.folder.path().join(name)) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => std::thread::yield_now(),
            }
        }
    }
}

fn is_there(pid: Pid) -> bool {
    // One that ended and was not waited for yet, by whoever has it now, is not there.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    state.is_some_and(|state| state != "Z" && state != "X")
}

#[test]
fn one_that_is_killed_takes_along_what_it_started() {
    let mut bed = Bed::new("sleep 1000 & echo $! > \"${0%/*}/child\"; wait");
    let leader = bed.started(7);
    let child = Pid::from_raw(bed.read("child").trim().parse().unwrap()).unwrap();
    assert!(send(&bed.device, &Order::Kill { id: 7 }, None).unwrap());
    assert_eq!(bed.hear(), News::Ended { id: 7, how: "killed by signal 9".into() });
    assert!(test_kill_process(leader).is_err(), "It was waited for");
    while is_there(child) {
        std::thread::yield_now();
    }
}

#[test]
fn one_that_ends_by_itself_takes_along_what_it_started_and_its_last_words_are_told() {
    let mut bed = Bed::new("sleep 1000 & echo $! > \"${0%/*}/child\"; echo 'No driver' >&2; exit 1");
    bed.started(1);
    assert_eq!(bed.hear(), News::Ended { id: 1, how: "No driver".into() });
    let child = Pid::from_raw(bed.read("child").trim().parse().unwrap()).unwrap();
    while is_there(child) {
        std::thread::yield_now();
    }
}

#[test]
fn one_gets_its_socket_its_words_and_an_environment_of_its_own() {
    let mut bed = Bed::new("echo $(readlink /proc/$$/fd/$3) $1 $2 ${HOME} > \"${0%/*}/words\"");
    bed.started(1);
    assert!(matches!(bed.hear(), News::Ended { .. }));
    let text = bed.read("words");
    assert!(text.starts_with("socket:") && text.ends_with("as-renderer gl /nonexistent\n"), "{text}");
}

#[test]
fn no_more_than_so_many_run_and_a_stranger_is_not_killed() {
    let mut bed = Bed::new("exec sleep 1000");
    let all: Vec<Pid> = (0..MOST as u32).map(|id| bed.started(id)).collect();
    bed.start(99);
    assert!(matches!(bed.hear(), News::Ended { id: 99, how } if how.contains("run already")));
    assert!(send(&bed.device, &Order::Kill { id: 99 }, None).unwrap());
    assert!(send(&bed.device, &Order::Kill { id: 3 }, None).unwrap());
    assert!(matches!(bed.hear(), News::Ended { id: 3, .. }));
    let Bed { nursery, .. } = bed;
    drop(nursery);
    assert!(all.into_iter().all(|pid| test_kill_process(pid).is_err()));
}

#[test]
fn a_program_that_is_not_there_is_an_end() {
    let mut bed = Bed::new("exit 0");
    bed.nursery.program = Path::new("/nonexistent").to_owned();
    bed.start(5);
    assert!(matches!(bed.hear(), News::Ended { id: 5, how } if how.contains("Cannot start")));
}

#[test]
fn an_end_is_told_by_the_signal_or_the_last_words() {
    let status = |raw| ExitStatus::from_raw(raw);
    assert_eq!(describe(status(9), "no matter"), "killed by signal 9");
    assert_eq!(describe(status(0x100), "No driver"), "No driver");
    assert_eq!(describe(status(0x300), ""), "exit code 3");
    assert!(describe(status(0), "").contains("not needed"));
}
