//! The launcher's own life: start, wait, start again, until the device is gone.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketType, send};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Status;
use super::backoff::Backoff;
use crate::{inherited, sandbox};

/// The first word of a command line that makes this program a launcher. Not for people.
pub const ROLE: &str = "as-launcher";

/// Lives as a launcher. `words` are the number of the socket to the device, the program, and its arguments.
pub fn run(words: &[OsString]) -> Result<()> {
    let [socket, program, arguments @ ..] = words else { anyhow::bail!("A launcher is started by its device only") };
    let number = socket.to_str().and_then(|text| text.parse().ok()).context("The launcher's socket is no number")?;
    let device = inherited::unix_socket(number, SocketType::SEQPACKET)?;
    // What the viewer inherits: it, not we, meets the network.
    rustix::thread::set_no_new_privs(true).context("Cannot give up new privileges")?;
    sandbox::drop_capabilities().context("Cannot give up capabilities")?;
    Launcher { device, program, arguments, status: Status::default() }.live()
}

struct Launcher<'a> {
    device: OwnedFd,
    program: &'a OsStr,
    arguments: &'a [OsString],
    status: Status,
}

impl Launcher<'_> {
    fn live(mut self) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            backoff.start(Instant::now());
            if let Some(viewer) = self.start()
                && !self.outlives(viewer)?
            {
                return Ok(());
            }
            if self.device_ends_within(backoff.pause(Instant::now()))? {
                return Ok(());
            }
        }
    }

    fn start(&mut self) -> Option<Child> {
        let mut command = Command::new(self.program);
        command.arg("viewer").args(self.arguments).stdin(Stdio::null());
        match command.spawn() {
            Ok(viewer) => {
                self.report(Some(viewer.id()), self.status.starts + 1);
                Some(viewer)
            }
            Err(error) => {
                eprintln!("beamsplit-device: Cannot start the viewer {}: {error}", self.program.display());
                None
            }
        }
    }

    /// Waits until the viewer ends, or the device: then it ends the viewer and returns false.
    fn outlives(&mut self, mut viewer: Child) -> Result<bool> {
        let pidfd = Pid::from_raw(viewer.id() as i32).context("A process has the id 0")?;
        let pidfd = pidfd_open(pidfd, PidfdFlags::empty()).context("Cannot watch the viewer")?;
        let device_ended = loop {
            let mut fds = [until_hangup(self.device.as_fd()), PollFd::new(&pidfd, PollFlags::IN)];
            wait(&mut fds, None)?;
            if !fds[0].revents().is_empty() {
                break true;
            }
            if !fds[1].revents().is_empty() {
                break false;
            }
        };
        if device_ended {
            // Fails only when it has just ended.
            let _ = viewer.kill();
        }
        let ended = viewer.wait().context("Cannot learn how the viewer ended")?;
        if !device_ended {
            eprintln!("beamsplit-device: The viewer ended ({ended}); another one takes its place");
            self.report(None, self.status.starts);
        }
        Ok(!device_ended)
    }

    fn device_ends_within(&self, pause: Duration) -> Result<bool> {
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        let mut fds = [until_hangup(self.device.as_fd())];
        wait(&mut fds, Some(&pause))?;
        Ok(!fds[0].revents().is_empty())
    }

    /// Tells the device, which reads it when somebody asks, or never: then it is lost.
    fn report(&mut self, pid: Option<u32>, starts: u64) {
        self.status = Status { pid, starts };
        if let Ok(bytes) = serde_json::to_vec(&self.status) {
            let _ = send(&self.device, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// A hang-up is reported without being asked for.
fn until_hangup(device: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(device, PollFlags::empty())
}

fn wait(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<()> {
    loop {
        match poll(fds, timeout) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("Cannot wait for the viewer"),
        }
    }
}
