//! VNC clients: those that others wrote, from the bed, and one that only types and points.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::bed::{self, apt::checked, run};
use crate::guest::PATIENCE;
use crate::picture::Picture;
use crate::process::Process;
use crate::workspace;
use crate::xserver::XServer;

/// The port of a VNC server's display 0. Clients that take display numbers count from here.
const FIRST_PORT: u16 = 5900;

/// An X server with nothing around it, and TigerVNC's viewer on it. /tmp is their own, so that they leave nothing there
/// and meet no other X server.
const VIEWER: &str = r#"
    mount -t tmpfs none /tmp
    Xvfb :0 -screen 0 1920x1200x24 -nolisten tcp -nolisten local &
    until [ -S /tmp/.X11-unix/X0 ]; do kill -0 $!; sleep 0.02; done
    export DISPLAY=:0 HOME=/tmp
    exec xtigervncviewer "$@"
"#;

/// What TigerVNC's viewer is always told: to say what it does, and to end when something goes wrong.
const WORDS: [&str; 4] = ["-Log", "*:stderr:30", "-AlertOnFatalError=0", "-ReconnectOnError=0"];

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
        command.args(["-ec", VIEWER, "bash"]).args(WORDS);
        command.arg(format!("-DesktopSize={width}x{height}")).arg(format!("127.0.0.1::{port}"));
        let process = Process::spawn(command, "xtigervncviewer", &log(dir.path()))?;
        Ok(Viewer { process, _dir: dir })
    }

    /// Connects with a token, in a window on a desktop.
    pub fn on(desktop: &XServer, port: u16, token: &str) -> Result<Self> {
        let account = [("VNC_USERNAME", "somebody"), ("VNC_PASSWORD", token)];
        Self::in_window(desktop, port, &["-SecurityTypes=Plain"], &account)
    }

    /// Connects in a window on a desktop, to a server that asks for no token.
    pub fn on_open(desktop: &XServer, port: u16) -> Result<Self> {
        Self::in_window(desktop, port, &[], &[])
    }

    fn in_window(desktop: &XServer, port: u16, words: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let dir = workspace::scratch("vnc-")?;
        let mut command = run::inside(bed::tools()?, "xtigervncviewer");
        command.args(WORDS).args(words).arg(format!("127.0.0.1::{port}"));
        command.env("DISPLAY", desktop.display()).env("HOME", dir.path()).envs(environment.iter().copied());
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

/// A way to authenticate that has several of its own, and the one of them that is a name and a password.
const VENCRYPT: u8 = 19;
const PLAIN: u32 = 256;

/// A client that types and points, and looks at a pixel only to hear that all was understood.
#[derive(Debug)]
pub struct Typist(TcpStream);

impl Typist {
    /// Connects to a server on 127.0.0.1 that asks for no password, and takes a seat beside others.
    pub fn connect(port: u16) -> Result<Self> {
        let mut typist = Self::meet(port, 1)?;
        typist.begin()?;
        Ok(typist)
    }

    /// Connects to a server on 127.0.0.1 that asks for a token.
    pub fn with_token(port: u16, token: &str) -> Result<Self> {
        let mut typist = Self::meet(port, VENCRYPT)?;
        let version: [u8; 2] = typist.read()?;
        typist.say(&version)?;
        let [refused, kinds] = typist.read()?;
        ensure!(refused == 0 && kinds == 1, "The VNC server knows {kinds} kinds of VeNCrypt");
        ensure!(typist.read()? == PLAIN.to_be_bytes(), "The VNC server asks for more than a password");
        let length = u32::try_from(token.len())?.to_be_bytes();
        typist.say(&[&PLAIN.to_be_bytes(), &[0; 4], &length, token.as_bytes()].concat())?;
        typist.begin()?;
        Ok(typist)
    }

    fn meet(port: u16, security: u8) -> Result<Self> {
        let server = TcpStream::connect(("127.0.0.1", port)).context("Cannot connect to the VNC server")?;
        server.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        server.set_nodelay(true)?;
        let mut typist = Self(server);
        let version: [u8; 12] = typist.read()?;
        ensure!(version == *b"RFB 003.008\n", "The VNC server speaks another version");
        typist.say(&version)?;
        let [count] = typist.read()?;
        let mut offered = vec![0; count.into()];
        typist.0.read_exact(&mut offered)?;
        ensure!(offered.contains(&security), "The VNC server offers {offered:?}");
        typist.say(&[security])?;
        Ok(typist)
    }

    fn begin(&mut self) -> Result<()> {
        ensure!(self.read()? == [0; 4], "The VNC server refuses");
        self.say(&[1])?;
        let init: [u8; 24] = self.read()?;
        let name = init[20..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        ensure!(name < 4096, "The VNC server's name has {name} bytes");
        Ok(self.0.read_exact(&mut vec![0; name])?)
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).context("The VNC server says too little")?;
        Ok(bytes)
    }

    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).context("The VNC server does not listen")
    }

    /// Presses or releases a key, by its keysym.
    pub fn key(&mut self, keysym: u32, pressed: bool) -> Result<()> {
        self.say(&[&[4, u8::from(pressed), 0, 0][..], &keysym.to_be_bytes()].concat())
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
        self.say(&[&[5, buttons][..], &x.to_be_bytes(), &y.to_be_bytes()].concat())
    }

    /// Waits until the server has taken in all that was said: it answers in turn.
    pub fn settle(&mut self) -> Result<()> {
        self.say(&[3, 0, 0, 0, 0, 0, 0, 1, 0, 1])?;
        let [kind, _, high, low] = self.read()?;
        ensure!(kind == 0, "The VNC server says {kind}");
        // It may send more than was asked for.
        for _ in 0..u16::from_be_bytes([high, low]) {
            let [_, _, _, _, columns @ .., a, b, 0, 0, 0, 0] = self.read::<12>()? else {
                bail!("A part in no plain bytes")
            };
            let pixels = usize::from(u16::from_be_bytes(columns)) * usize::from(u16::from_be_bytes([a, b]));
            self.0.read_exact(&mut vec![0; pixels * 4])?;
        }
        Ok(())
    }
}
