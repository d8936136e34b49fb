//! Programs that are started after the device locked itself in: a viewer, and processes that draw 3D.
//!
//! A locked-in process cannot execute anything. So, only when one of them is asked for, the device starts a small copy of
//! itself first, in the role of a launcher. For the viewer it keeps what that needs (the sockets for frames and input, the
//! bound listeners) and starts one after another with them; processes that draw 3D it starts and ends as the device says
//! ([`nursery`]). It never sees a byte of the guest. When the device ends, however it ends, their socket pair hangs up and
//! the launcher takes all it started with it.

mod backoff;
mod lines;
pub mod message;
mod nursery;
mod role;
mod viewer;

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use device::input::InputKind;
use rustix::fs::{Access, access};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use role::NONE;
pub use role::{ROLE, run};

use crate::child::Spec;
use crate::inherited::inherit;
use crate::renderers::Renderers;
use crate::values::Window;

/// The program that has the viewer.
const PROGRAM: &str = "beamsplit";

/// What a viewer is started with.
pub struct Viewer {
    /// The program, as [`find_program`] found it.
    pub program: PathBuf,
    /// The viewer's end of the frames socket.
    pub frames: OwnedFd,
    /// Where VNC clients come, and the head they see.
    pub vnc: Vec<(TcpListener, u8)>,
    /// Where browsers come, and the head they see.
    pub web: Vec<(TcpListener, u8)>,
    /// Where what people do goes.
    pub inputs: Vec<(InputKind, OwnedFd)>,
    /// Who may look and type.
    pub tokens: Option<PathBuf>,
    /// A window for each head on this host's desktop.
    pub window: Option<Window>,
}

/// What the launcher last said about its viewer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The viewer's process; absent while none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How many were started.
    pub starts: u64,
}

/// The device's hold on its launcher, which ends with it, and takes the viewer along.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    last: Status,
    /// Whether there is a viewer.
    viewed: bool,
    vnc: Vec<SocketAddr>,
    web: Vec<SocketAddr>,
}

impl Link {
    /// Where people connect, and what the launcher last said, for `/v1/stats`.
    pub fn describe(&mut self) -> Option<Value> {
        let Status { pid, starts } = self.status();
        self.viewed.then(|| json!({ "pid": pid, "starts": starts, "vnc": self.vnc, "web": self.web }))
    }

    /// What the launcher last said. Never waits.
    fn status(&mut self) -> Status {
        let mut bytes = [0; 256];
        while let Ok((length, _)) = recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            match serde_json::from_slice(&bytes[..length]) {
                Ok(status) => self.last = status,
                // Length 0: it is gone, and with it who would start another viewer.
                Err(_) => break,
            }
        }
        self.last
    }
}

/// Finds the program that has the viewer: beside our own executable, else in PATH.
pub fn find_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("Cannot find our own executable")?;
    let beside = own.with_file_name(PROGRAM);
    let path = std::env::var_os("PATH").unwrap_or_default();
    match first_executable(&beside, &path) {
        Some(program) => Ok(program),
        None => bail!(
            "--display vnc, web and window need the program {PROGRAM}: it is neither beside {} nor in PATH; install it there",
            own.display()
        ),
    }
}

fn first_executable(beside: &Path, path: &OsStr) -> Option<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    std::iter::once(beside.to_owned())
        .chain(folders.map(|folder| folder.join(PROGRAM)))
        .find(|program| program.is_file() && access(program, Access::EXEC_OK).is_ok())
}

/// A device's launcher, seen from the device.
#[derive(Debug)]
pub struct Launcher {
    /// Where the viewer's state is learned, where there is one. The launcher lives as long as this.
    pub link: Link,
    /// Where processes for 3D are asked for, where that was asked for.
    pub renderers: Option<Renderers>,
}

/// Starts the launcher. Call it before the device locks itself in; what `viewer` holds is open in the launcher alone
/// afterwards.
pub fn start(viewer: Option<Viewer>, children: Option<&Spec>) -> Result<Launcher> {
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("beamsplit-device").arg(ROLE).stdin(Stdio::null()).arg(inherit(theirs.as_fd())?);
    let orders = children.map(|spec| Ok::<_, anyhow::Error>((pair()?, spec.word()?))).transpose()?;
    match &orders {
        Some(((_, theirs), spec)) => command.arg(inherit(theirs.as_fd())?).arg(spec),
        None => command.args([NONE, NONE]),
    };
    let addresses = |listeners: &[(TcpListener, u8)]| listeners.iter().map(|(socket, _)| socket.local_addr()).collect();
    let none = [].as_slice();
    let vnc: std::io::Result<_> = addresses(viewer.as_ref().map_or(none, |viewer| &viewer.vnc));
    let web: std::io::Result<_> = addresses(viewer.as_ref().map_or(none, |viewer| &viewer.web));
    let (vnc, web) = (vnc?, web?);
    let viewed = viewer.is_some();
    if let Some(viewer) = &viewer {
        viewers_words(&mut command, viewer)?;
    }
    // It is never waited for: it ends after us, and what is left of one that ends before us is an entry in a table.
    command.spawn().context("Cannot start the launcher")?;
    let renderers = orders.map(|((ours, _), _)| Renderers::new(ours));
    Ok(Launcher { link: Link { socket: ours, last: Status::default(), viewed, vnc, web }, renderers })
}

fn viewers_words(command: &mut Command, viewer: &Viewer) -> Result<()> {
    command.arg(&viewer.program).arg("--fd").arg(inherit(viewer.frames.as_fd())?);
    for (name, listeners) in [("--vnc-fd", &viewer.vnc), ("--web-fd", &viewer.web)] {
        for (listener, head) in listeners {
            command.arg(name).arg(format!("{},head={head}", inherit(listener.as_fd())?));
        }
    }
    for (kind, socket) in &viewer.inputs {
        let name = match kind {
            InputKind::Console => "--input-fd",
            InputKind::Touch => "--touch-fd",
        };
        command.arg(name).arg(inherit(socket.as_fd())?);
    }
    if let Some(file) = &viewer.tokens {
        command.arg("--tokens").arg(file);
    }
    match &viewer.window {
        Some(Window::Framed) => drop(command.arg("--window")),
        Some(window) => drop(command.arg(format!("--window={window}"))),
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
