//! VNC clients: those that others wrote, from the bed, and one that only types and points.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::{self, apt::checked, run};
use crate::picture::Picture;
use crate::process::Process;
use crate::workspace;

/// The port of a VNC server's display 0. Clients that take display numbers count from here.
const FIRST_PORT: u16 = 5900;

/// An X server with nothing around it, and TigerVNC's viewer on it. /tmp is their own, so that they leave nothing there
/// and meet no other X server.
const VIEWER: &str = r#"
    mount -t tmpfs none /tmp
    Xvfb :0 -screen 0 1920x1200x24 -nolisten tcp -nolisten local &
    until [ -S /tmp/.X11-unix/X0 ]; do kill -0 $!; sleep 0.02; done
    export DISPLAY=:0 HOME=/tmp
    exec xtigervncviewer -Log '*:stderr:30' -AlertOnFatalError=0 -ReconnectOnError=0 "$@"
"#;

/// What a client sees that connects to a server on 127.0.0.1, asks for the whole screen and goes: gvnccapture.
pub fn capture(port: u16) -> Result<Picture> {
    let dir = workspace::scratch("vnc-")?;
    let file = dir.path().join("capture.png");
    let mut command = run::program(bed::tools()?, "usr/bin/gvnccapture");
    let display = port.checked_sub(FIRST_PORT).context("gvnccapture takes no port below 5900")?;
    command.arg("--quiet").arg(format!("127.0.0.1:{display}")).arg(&file).env("HOME", dir.path());
    checked(command)?;
    Picture::open(&file)
}

/// TigerVNC's viewer, connected to a server on 127.0.0.1 until it is dropped.
pub struct Viewer {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Viewer {
    /// Connects and asks for a screen of this size, as if a person had resized the window.
    pub fn connect(port: u16, width: u32, height: u32) -> Result<Self> {
        let dir = workspace::scratch("vnc-")?;
        let mut command: Command = run::inside(bed::tools()?, "bash");
        command.args(["-ec", VIEWER, "bash"]);
        command.arg(format!("-DesktopSize={width}x{height}")).arg(format!("127.0.0.1::{port}"));
        let process = Process::spawn(command, "xtigervncviewer", &log(dir.path()))?;
        Ok(Viewer { process, _dir: dir })
    }

    /// Its process, to see what it says.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn log(dir: &Path) -> std::path::PathBuf {
    dir.join("log")
}

/// The keysym of the Enter key.
const RETURN: u32 = 0xff0d;

/// A client that types and points and never looks.
#[derive(Debug)]
pub struct Typist(TcpStream);

impl Typist {
    /// Connects to a server on 127.0.0.1 that asks for no password.
    pub fn connect(port: u16) -> Result<Self> {
        let mut server = TcpStream::connect(("127.0.0.1", port)).context("Cannot connect to the VNC server")?;
        server.set_read_timeout(Some(Duration::from_secs(60)))?;
        server.set_nodelay(true)?;
        let mut read = |count: usize, reply: &[u8]| -> Result<Vec<u8>> {
            let mut bytes = vec![0; count];
            server.read_exact(&mut bytes).context("The VNC server says too little")?;
            server.write_all(reply)?;
            Ok(bytes)
        };
        ensure!(read(12, b"RFB 003.008\n")?.starts_with(b"RFB 003.008"), "The VNC server speaks another version");
        let types = usize::from(read(1, &[])?[0]);
        // No password, then a seat beside others.
        ensure!(read(types, &[1])?.contains(&1), "The VNC server wants a password");
        ensure!(read(4, &[1])? == [0; 4], "The VNC server refuses");
        let init = read(24, &[])?;
        let name = init[20..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        ensure!(name < 4096, "The VNC server's name has {name} bytes");
        read(name, &[])?;
        Ok(Self(server))
    }

    /// Presses or releases a key, by its keysym.
    pub fn key(&mut self, keysym: u32, pressed: bool) -> Result<()> {
        let message = [&[4, u8::from(pressed), 0, 0][..], &keysym.to_be_bytes()].concat();
        self.0.write_all(&message).context("The VNC server hears no key")
    }

    /// Types a text of Latin 1; its line ends are the Enter key.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        for letter in text.chars() {
            let keysym = if letter == '\n' { RETURN } else { u32::from(letter) };
            self.key(keysym, true)?;
            self.key(keysym, false)?;
        }
        Ok(())
    }

    /// Moves the pointer to a pixel, with these buttons down.
    pub fn point(&mut self, x: u16, y: u16, buttons: u8) -> Result<()> {
        let message = [&[5, buttons][..], &x.to_be_bytes(), &y.to_be_bytes()].concat();
        self.0.write_all(&message).context("The VNC server hears no pointer")
    }
}
