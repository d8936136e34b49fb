//! The program, started as its users do.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.
#![allow(dead_code)] // No test needs all of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_beamsplit-device");

/// Runs it to its end.
pub fn run(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).env_remove("BEAMSPLIT_LOG").output().unwrap()
}

/// Writes a program by a process of its own. Written here, its open file would be inherited for a moment by what other tests
/// start just then, and a program that somebody has open for writing cannot be started.
pub fn shell(script: &str, words: &[&OsStr]) {
    assert!(Command::new("sh").args(["-ec", script, "sh"]).args(words).status().unwrap().success());
}

/// Puts a copy of it somewhere.
pub fn copy_program(to: &Path) {
    shell("cp \"$1\" \"$2\"", &[PROGRAM.as_ref(), to.as_ref()]);
}

/// The program among the libraries of the tests' bed, if there is one: `BEAMSPLIT_INSIDE` has the words, a line each, that stand
/// before a program there.
pub fn inside() -> Option<Command> {
    let words = std::env::var("BEAMSPLIT_INSIDE").ok()?;
    let mut words = words.lines();
    let mut command = Command::new(words.next()?);
    command.args(words).arg(PROGRAM);
    Some(command)
}

/// A device that runs until it is dropped.
pub struct Device {
    pub process: Child,
    pub folder: TempDir,
}

impl Device {
    /// Starts the program at `program` and waits until it answers questions.
    pub fn start(program: &Path, folder: TempDir, words: &[&str]) -> Self {
        Device::start_by(Command::new(program), folder, words)
    }

    /// The same by a command that starts the program.
    pub fn start_by(mut command: Command, folder: TempDir, words: &[&str]) -> Self {
        let process = command
            .arg("--control-socket")
            .arg(folder.path().join("control"))
            .args(words)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut device = Device { process, folder };
        while UnixStream::connect(device.control()).is_err() {
            assert_eq!(device.process.try_wait().unwrap(), None, "The device ended at its start");
            std::thread::yield_now();
        }
        // It listens on one socket before it does on the next; when it answers all are there.
        device.stats();
        device
    }

    pub fn listening(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("--socket-path={}", folder.path().join("gpu").display());
        Device::start(Path::new(PROGRAM), folder, &[&[socket.as_str()], words].concat())
    }

    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    pub fn ask(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.control()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn stats(&self) -> serde_json::Value {
        let answer = self.ask("GET /v1/stats HTTP/1.1\r\n\r\n");
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
