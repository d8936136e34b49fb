//! The peer: virglrenderer's own test server, which does what it is told over a socket of a file's name.
//!
//! Its words are numbers of 32 bits: how many follow the two of the header, which command, and those.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::scene::{IMAGE, SIDE, UPLOAD, VERTICES, set_up, vertices};
use crate::error::{Doing, Error, Result};
use crate::process;

const CREATE: u32 = 2;
const PUT: u32 = 5;
const SUBMIT: u32 = 6;
const BUSY_WAIT: u32 = 7;
const RENDERER: u32 = 8;
/// Of [`BUSY_WAIT`]: it answers when the resource is idle.
const WAIT: u32 = 1;
const LIMIT: Duration = Duration::from_secs(60);

/// The server's program, if it is here.
pub fn program() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join("virgl_test_server")).find(|path| path.is_file())
}

/// The server with one client.
#[derive(Debug)]
pub struct Peer {
    server: Child,
    socket: UnixStream,
}

impl Peer {
    /// Starts the server, and makes what the scene needs.
    pub fn with_scene(program: &Path, folder: &Path) -> Result<Self> {
        let path = folder.join("vtest");
        let mut server = Command::new(program);
        server.args(["--no-loop-or-fork", "--use-egl-surfaceless", "--socket-path"]).arg(&path);
        let mut server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().doing("start virgl_test_server")?;
        let begin = Instant::now();
        let socket = loop {
            match UnixStream::connect(&path) {
                Ok(socket) => break socket,
                Err(_) if begin.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => {
                    let _ = server.kill();
                    return Err(error).doing("reach virgl_test_server");
                }
            }
        };
        let mut peer = Self { server, socket };
        peer.say(6, RENDERER, b"bench\0")?;
        for (id, target, format, bind, width, height) in [
            (IMAGE, 2, 1, 2 | 8, SIDE, SIDE),
            (VERTICES, 0, 64, 1 << 4, 1 << 14, 1),
            (UPLOAD, 0, 64, 1 << 4, 1 << 20, 1),
        ] {
            peer.command(CREATE, &[id, target, format, bind, width, height, 1, 1, 0, 0])?;
        }
        peer.put(VERTICES, &vertices())?;
        peer.submit(&super::words_as_bytes(&set_up()))?;
        peer.wait()?;
        Ok(peer)
    }

    fn say(&mut self, length: u32, command: u32, body: &[u8]) -> Result<()> {
        let message = [&length.to_le_bytes()[..], &command.to_le_bytes(), body].concat();
        self.socket.write_all(&message).doing("speak to virgl_test_server")
    }

    fn command(&mut self, command: u32, words: &[u32]) -> Result<()> {
        self.say(words.len() as u32, command, &super::words_as_bytes(words))
    }

    /// Commands of its context.
    pub fn submit(&mut self, bytes: &[u8]) -> Result<()> {
        self.say(bytes.len() as u32 / 4, SUBMIT, bytes)
    }

    /// Bytes into a buffer.
    pub fn put(&mut self, resource: u32, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u32;
        let words = super::words_as_bytes(&[resource, 0, 0, 0, 0, 0, 0, len, 1, 1, len]);
        self.say(11 + len.div_ceil(4), PUT, &[&words, bytes].concat())
    }

    /// Waits until all that was submitted is done.
    pub fn wait(&mut self) -> Result<()> {
        self.command(BUSY_WAIT, &[IMAGE, WAIT])?;
        let mut reply = [0; 12];
        self.socket.read_exact(&mut reply).doing("hear virgl_test_server")?;
        if reply[4..8] != BUSY_WAIT.to_le_bytes() {
            return Err(Error::NotDone("virgl_test_server answers something else".into()));
        }
        Ok(())
    }

    /// This process, and the server.
    fn processes(&self) -> [Pid; 2] {
        [rustix::process::getpid(), Pid::from_child(&self.server)]
    }

    /// As [`super::Rig::sleeps`].
    pub fn sleeps(&self) -> Result<u64> {
        self.processes().into_iter().map(process::sleeps).sum()
    }

    /// As [`super::Rig::cpu_time`].
    pub fn cpu_time(&self) -> Result<u64> {
        self.processes().into_iter().map(process::cpu_time).sum()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
