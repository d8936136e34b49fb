//! The launcher with a shell script in the viewer's place. The tests' own executable is no launcher, so it runs here on
//! a thread, as the process would.

use super::*;
use std::ffi::OsString;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

struct Bed {
    device: OwnedFd,
    launcher: Option<JoinHandle<Result<()>>>,
    folder: TempDir,
}

impl Bed {
    /// A launcher whose viewer is this script.
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("viewer");
        // Written by another process: a file that this one has open for writing could not be started, and what other
        // tests start just now would inherit it for a moment.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh").args(["-ec", write, "sh", script]).arg(&program).status();
        assert!(written.unwrap().success());
        let (device, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        // As after an exec.
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let words: Vec<OsString> = vec![
            theirs.into_raw_fd().to_string().into(),
            NONE.into(),
            NONE.into(),
            program.into(),
            "--fd".into(),
            "7".into(),
        ];
        let launcher = std::thread::spawn(move || role::start(&words, || Ok(Vec::new())));
        Bed { device, launcher: Some(launcher), folder }
    }

    /// The launcher's next word.
    fn hear(&self) -> Status {
        poll(&mut [PollFd::new(&self.device, PollFlags::IN)], None).unwrap();
        let mut bytes = [0; 256];
        let (length, _) = recv(&self.device, &mut bytes[..], RecvFlags::empty()).unwrap();
        serde_json::from_slice(&bytes[..length]).unwrap()
    }

    /// What the viewer wrote, once it is there.
    fn read(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => std::thread::yield_now(),
            }
        }
    }

    fn end(&mut self) {
        shutdown(&self.device, Shutdown::Both).unwrap();
        if let Some(launcher) = self.launcher.take() {
            launcher.join().unwrap().unwrap();
        }
    }
}

fn pid(status: Status) -> Pid {
    Pid::from_raw(status.pid.unwrap() as i32).unwrap()
}

#[test]
fn the_viewer_gets_its_words() {
    let mut bed = Bed::new("echo \"$@\" > \"${0%/*}/words\"; exec sleep 1000");
    assert_eq!(bed.hear().starts, 1);
    assert_eq!(bed.read("words"), "viewer --fd 7\n");
    bed.end();
}

#[test]
fn a_killed_viewer_is_replaced_and_leaves_no_zombie() {
    let mut bed = Bed::new("exec sleep 1000");
    let first = bed.hear();
    kill_process(pid(first), Signal::KILL).unwrap();
    assert_eq!(bed.hear(), Status { pid: None, starts: 1 });
    // Reaped: the number is nobody's any more.
    assert!(test_kill_process(pid(first)).is_err());
    let second = bed.hear();
    assert_eq!(second.starts, 2);
    bed.end();
    assert!(test_kill_process(pid(second)).is_err());
}

#[test]
fn the_viewer_ends_with_the_device() {
    let mut bed = Bed::new("trap '' TERM; echo up > \"${0%/*}/up\"; exec sleep 1000");
    let viewer = bed.hear();
    bed.read("up");
    bed.end();
    assert!(test_kill_process(pid(viewer)).is_err());
}

#[test]
fn a_viewer_that_cannot_start_is_no_reason_to_end() {
    let mut bed = Bed::new("exit 2");
    assert_eq!((bed.hear().starts, bed.hear().pid, bed.hear().starts), (1, None, 2));
    bed.end();
}

#[test]
fn the_program_is_looked_for_beside_us_first() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, mode: u32| {
        let place = folder.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(PROGRAM), "").unwrap();
        std::fs::set_permissions(place.join(PROGRAM), PermissionsExt::from_mode(mode)).unwrap();
        place
    };
    let (beside, plain, path) = (make("beside", 0o755), make("plain", 0o644), make("path", 0o755));
    let search = std::env::join_paths([Path::new("."), &plain, &path]).unwrap();
    let found = |folder: &Path| first_executable(&folder.join(PROGRAM), &search);
    assert_eq!(found(&beside), Some(beside.join(PROGRAM)));
    assert_eq!(found(&folder.path().join("none")), Some(path.join(PROGRAM)));
    assert_eq!(first_executable(&plain.join(PROGRAM), OsStr::new("")), None);
}
