//! Programs that are started after the device locked itself in: today the viewer.
//!
//! A locked-in process cannot execute anything. So, only when a viewer is asked for, the device starts a small copy of
//! itself first, in the role of a launcher. The launcher keeps what a viewer needs (the sockets for frames and input, the
//! bound listeners) and starts one viewer after another with them; it never sees a byte of the guest. When the device ends,
//! however it ends, their socket pair hangs up and the launcher takes the viewer with it.

mod backoff;
mod role;

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use device::input::InputKind;
use rustix::fs::{Access, access};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use role::{ROLE, run};

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
    vnc: Vec<SocketAddr>,
    web: Vec<SocketAddr>,
}

impl Link {
    /// Where people connect, and what the launcher last said, for `/v1/stats`.
    pub fn describe(&mut self) -> Value {
        let Status { pid, starts } = self.status();
        json!({ "pid": pid, "starts": starts, "vnc": self.vnc, "web": self.web })
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

/// Starts the launcher. Call it before the device locks itself in; what `viewer` holds is open in the launcher alone
/// afterwards.
pub fn start(viewer: Viewer) -> Result<Link> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("beamsplit-device").arg(ROLE).stdin(Stdio::null());
    command.arg(inherit(theirs.as_fd())?).arg(viewer.program);
    command.arg("--fd").arg(inherit(viewer.frames.as_fd())?);
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
    let addresses = |listeners: &[(TcpListener, u8)]| listeners.iter().map(|(socket, _)| socket.local_addr()).collect();
    let (vnc, web): (std::io::Result<_>, std::io::Result<_>) = (addresses(&viewer.vnc), addresses(&viewer.web));
    let (vnc, web) = (vnc?, web?);
    // It is never waited for: it ends after us, and what is left of one that ends before us is an entry in a table.
    command.spawn().context("Cannot start the launcher of the viewer")?;
    Ok(Link { socket: ours, last: Status::default(), vnc, web })
}

/// Lets the next program started have this descriptor, and names it. We close ours soon.
fn inherit(fd: BorrowedFd<'_>) -> Result<String> {
    fcntl_setfd(fd, FdFlags::empty()).context("Cannot pass a descriptor on")?;
    Ok(fd.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests;
