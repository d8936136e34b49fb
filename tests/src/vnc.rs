//! VNC clients that others wrote, from the bed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

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
