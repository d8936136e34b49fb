//! The program under test: one vGPU's device process.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{Process, wait_until};
use crate::progress::say;
use crate::{Picture, bed, workspace};

/// A running `beamsplit-device`. It is killed when it is dropped.
pub struct Device {
    process: Process,
    dir: tempfile::TempDir,
}

impl Device {
    /// Starts a device on a new socket, with these options, and waits until it listens.
    pub fn spawn<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        let dir = workspace::scratch("device-")?;
        let (socket, control) = (dir.path().join("gpu"), dir.path().join("control"));
        let mut command = Command::new(workspace::binary("beamsplit-device")?);
        command.arg("--socket-path").arg(&socket).arg("--control-socket").arg(&control).args(options);
        let process = Process::spawn(command, "beamsplit-device", &dir.path().join("log"))?;
        let mut device = Device { process, dir };
        device.wait_for_socket(&socket)?;
        device.wait_for_socket(&control)?;
        Ok(device)
    }

    /// Starts QEMU's own daemon instead: the reference, and a test of the bed.
    pub fn spawn_qemu_daemon() -> Result<Self> {
        let dir = workspace::scratch("daemon-")?;
        let socket = dir.path().join("gpu");
        let mut command = bed::run::program(bed::tools()?, "usr/lib/qemu/vhost-user-gpu");
        command.arg(path_argument("--socket-path=", &socket));
        let process = Process::spawn(command, "vhost-user-gpu", &dir.path().join("log"))?;
        let mut device = Device { process, dir };
        device.wait_for_socket(&socket)?;
        Ok(device)
    }

    fn wait_for_socket(&mut self, path: &Path) -> Result<()> {
        wait_until(30, &format!("{} to listen on {}", self.process.id(), path.display()), || {
            if !self.process.is_running() {
                bail!("The device ended at its start:\n{}", self.process.log_tail());
            }
            Ok(is_listening(path)?.then_some(()))
        })
    }

    /// Where a VMM connects.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("gpu")
    }

    /// Where `beamsplit stats` and `beamsplit screenshot` connect.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process, to look at or to end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What the device itself shows: `beamsplit screenshot`.
    pub fn screen(&self) -> Result<Picture> {
        let file = self.dir.path().join("screenshot.png");
        let mut command = Command::new(workspace::binary("beamsplit")?);
        command.args(["screenshot", "--socket"]).arg(self.control_socket()).arg(&file);
        bed::apt::checked(command)?;
        Picture::open(&file)
    }

    /// The device's counters: `beamsplit stats`.
    pub fn stats(&self) -> Result<serde_json::Value> {
        let mut command = Command::new(workspace::binary("beamsplit")?);
        command.args(["stats", "--json", "--socket"]).arg(self.control_socket());
        let output = bed::apt::checked(command)?;
        serde_json::from_slice(&output.stdout).context("The device's counters are no JSON")
    }

    /// Waits until the device itself shows a picture, to the byte.
    #[track_caller]
    pub fn assert_shows(&self, expected: &Picture) -> Result<()> {
        expected.wait_until_shown(|| self.screen())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(format_args!("Device {}'s log:\n    {}", self.id(), self.process.log_tail().replace('\n', "\n    ")));
        }
    }
}

fn path_argument(before: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(before);
    argument.push(path);
    argument
}

/// Whether somebody listens on a Unix socket. To connect would be to ask for service.
pub fn is_listening(path: &Path) -> Result<bool> {
    let Some(name) = path.to_str() else { bail!("{} is no UTF-8", path.display()) };
    let table = fs::read_to_string("/proc/net/unix").context("Cannot read the list of sockets")?;
    // Num, RefCount, Protocol, Flags (bit 16: accepts connections), Type, St, Inode, Path.
    Ok(table.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.nth(3) == Some("00010000") && words.nth(3) == Some(name)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_listener_is_seen_without_connecting_to_it() {
        let dir = workspace::scratch("device-").unwrap();
        let path = dir.path().join("socket");
        assert!(!is_listening(&path).unwrap());
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_listening(&path).unwrap());
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
    }
}
