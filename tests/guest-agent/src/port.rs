//! The virtio-serial port to the test. It may go, with its device, and come again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

const O_NONBLOCK: i32 = 0o4000;
const SHORTEST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// The port, open.
pub struct Port(File);

impl Port {
    /// Opens the port with the agent's name. Its driver may not have found it yet.
    pub fn open() -> Result<Self> {
        let path = patiently(|| Ok(find())).context("No virtio-serial port of the agent's name")?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path);
        Ok(Port(file.context("Cannot open the agent's port")?))
    }
}

fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let ours = ports
        .flatten()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == guest_agent::PORT));
    Some(PathBuf::from("/dev").join(ours?.file_name()))
}

impl Read for Port {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        patiently(|| match self.0.read(bytes) {
            Ok(0) => Ok(None),
            read => unless_blocked(read),
        })
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        patiently(|| unless_blocked(self.0.write(bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tries until there is something, however long it takes.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let mut pause = SHORTEST_PAUSE;
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
