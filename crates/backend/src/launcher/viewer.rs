//! The launcher's first duty: a viewer, and after its end another one.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Status;
use super::backoff::Backoff;

/// The viewer of one device.
pub struct Keeper {
    program: OsString,
    arguments: Vec<OsString>,
    /// What its arguments name by number.
    passed: Vec<OwnedFd>,
    backoff: Backoff,
    status: Status,
    state: State,
}

enum State {
    Running(Child, OwnedFd),
    /// The next one is due then.
    Pausing(Instant),
}

impl Keeper {
    /// Nothing runs yet.
    pub fn new(program: OsString, arguments: Vec<OsString>, passed: Vec<OwnedFd>) -> Self {
        let (backoff, status) = (Backoff::default(), Status::default());
        Keeper { program, arguments, passed, backoff, status, state: State::Pausing(Instant::now()) }
    }

    /// Readable when the viewer has ended.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Running(_, pidfd) => Some(pidfd.as_fd()),
            State::Pausing(_) => None,
        }
    }

    /// When one is to be started.
    pub fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Running(..) => None,
            State::Pausing(until) => Some(*until),
        }
    }

    /// Starts one where that is due, and buries one that `ended`.
    pub fn turn(&mut self, device: BorrowedFd<'_>, ended: bool) -> Result<()> {
        if ended && let State::Running(viewer, _) = &mut self.state {
            let how = viewer.wait().context("Cannot learn how the viewer ended")?;
            eprintln!("beamsplit-device: The viewer ended ({how}); another one takes its place");
            self.report(device, None);
            self.pause();
        }
        if self.due().is_some_and(|due| due <= Instant::now()) {
            self.backoff.start(Instant::now());
            match self.spawn() {
                Ok((viewer, pidfd)) => {
                    self.status.starts += 1;
                    self.report(device, Some(viewer.id()));
                    self.state = State::Running(viewer, pidfd);
                }
                Err(error) => {
                    eprintln!("beamsplit-device: Cannot start the viewer {}: {error:#}", self.program.display());
                    self.pause();
                }
            }
        }
        Ok(())
    }

    fn spawn(&self) -> Result<(Child, OwnedFd)> {
        let mut command = Command::new(&self.program);
        self.mark(FdFlags::empty())?;
        let spawned = command.arg("viewer").args(&self.arguments).stdin(Stdio::null()).spawn();
        self.mark(FdFlags::CLOEXEC)?;
        let viewer = spawned?;
        let pid = Pid::from_raw(viewer.id() as i32).context("A process has the id 0")?;
        Ok((viewer, pidfd_open(pid, PidfdFlags::empty()).context("Cannot watch the viewer")?))
    }

    /// Whether the next program that is started gets what the viewer does.
    fn mark(&self, flags: FdFlags) -> Result<()> {
        self.passed.iter().try_for_each(|fd| Ok(fcntl_setfd(fd, flags)?))
    }

    fn pause(&mut self) {
        let now = Instant::now();
        self.state = State::Pausing(now + self.backoff.pause(now));
    }

    /// Tells the device, which reads it when somebody asks, or never: then it is lost.
    fn report(&mut self, device: BorrowedFd<'_>, pid: Option<u32>) {
        self.status.pid = pid;
        if let Ok(bytes) = serde_json::to_vec(&self.status) {
            let _ = send(device, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let State::Running(viewer, _) = &mut self.state {
            // Fails only when it has just ended.
            let _ = viewer.kill();
            let _ = viewer.wait();
        }
    }
}
