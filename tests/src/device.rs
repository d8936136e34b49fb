//! The program under test: one vGPU's device process.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::guest::PATIENCE;
use crate::process::{self, Process, descendants, wait_until};
use crate::progress::say;
use crate::{Picture, bed, workspace};

/// The program.
const PROGRAM: &str = "beamsplit-device";

/// A running `beamsplit-device`. It is killed when it is dropped.
pub struct Device {
    process: Process,
    dir: tempfile::TempDir,
}

impl Device {
    /// Starts a device on a new socket, with these options, and waits until it listens.
    pub fn spawn<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        Self::spawn_in(workspace::scratch("device-")?, Command::new(workspace::binary(PROGRAM)?), options)
    }

    fn spawn_in<S: AsRef<OsStr>>(dir: tempfile::TempDir, mut command: Command, options: &[S]) -> Result<Self> {
        let (socket, control) = (dir.path().join("gpu"), dir.path().join("control"));
        command.arg("--socket-path").arg(&socket).arg("--control-socket").arg(&control).args(options);
        if options.iter().any(|option| option.as_ref().to_string_lossy().contains("web=")) {
            command.env("BEAMSPLIT_NOVNC_DIR", bed::page()?.file("usr/share/novnc"));
        }
        let process = Process::spawn(command, PROGRAM, &dir.path().join("log"))?;
        let mut device = Device { process, dir };
        device.wait_for_socket(&socket)?;
        device.wait_for_socket(&control)?;
        Ok(device)
    }

    /// Starts a device with a keyboard and pointer: with viewers among its options.
    pub fn spawn_with_input<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        Self::spawn_with(&[("input", "")], Command::new(workspace::binary(PROGRAM)?), options)
    }

    /// Starts a device with a keyboard and pointer, and a touch screen: with viewers among its options.
    pub fn spawn_with_touch<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        Self::spawn_with(&[("input", ""), ("touch", ",touch")], Command::new(workspace::binary(PROGRAM)?), options)
    }

    /// Starts a device with a keyboard and pointer on a desktop, which the environment names: in the bed, where all is that
    /// its windows load.
    pub fn spawn_on_desktop<S: AsRef<OsStr>>(environment: &[(&str, String)], options: &[S]) -> Result<Self> {
        let program = workspace::binary(PROGRAM)?;
        let mut command = bed::run::inside(bed::window()?, program.to_str().context("A path without a name")?);
        for variable in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY"] {
            command.env_remove(variable);
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Self::spawn_with(&[("input", "")], command, options)
    }

    /// Starts a device that is a whole PCI card over vfio-user: virtio, vga or bochs. With viewers among its options it has
    /// a keyboard and pointer. Its expansion ROM is the bed's, unless the options say another.
    pub fn spawn_vfio_user<S: AsRef<OsStr>>(model: &str, options: &[S]) -> Result<Self> {
        let mut all: Vec<OsString> = ["--transport", "vfio-user", "--model", model].map(Into::into).to_vec();
        if model != "virtio" && !options.iter().any(|option| option.as_ref() == "--rom") {
            all.push("--rom".into());
            all.push(bed::vm()?.file("usr/share/seabios/vgabios-bochs-display.bin").into());
        }
        all.extend(options.iter().map(|option| option.as_ref().to_owned()));
        Self::spawn(&all)
    }

    /// Starts a device that is a PCI card with a boot display on a host without any ROM for it.
    pub fn spawn_without_rom<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        let program = workspace::binary(PROGRAM)?;
        // A tree with the libraries that the program is linked to, and no firmware.
        let command = bed::run::inside(bed::linux()?, program.to_str().context("A path without a name")?);
        let mut all: Vec<OsString> = ["--transport", "vfio-user"].map(Into::into).to_vec();
        all.extend(options.iter().map(|option| option.as_ref().to_owned()));
        Self::spawn_in(workspace::scratch("device-")?, command, &all)
    }

    /// Starts a device that renders for its guest, in the bed, where the library and its drivers are, with the stand-in for
    /// `/dev/udmabuf`.
    pub fn spawn_rendering<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        Self::spawn_rendering_with(&[], options)
    }

    /// The same, and its processes for 3D lie for guests' programs whose names ask for that: see `tests/lying-renderer`.
    pub fn spawn_lying<S: AsRef<OsStr>>(options: &[S]) -> Result<Self> {
        let tree = bed::mesa()?;
        let udmabuf = bed::run::put(tree, "beamsplit-udmabuf-stand-in", "libudmabuf_stand_in.so")?;
        let liar = bed::run::put(tree, "beamsplit-lying-renderer", "liblying_renderer.so")?;
        Self::spawn_rendering_with(&[("BEAMSPLIT_RENDERER_LD_PRELOAD", format!("{liar}:{udmabuf}"))], options)
    }

    fn spawn_rendering_with<S: AsRef<OsStr>>(environment: &[(&str, String)], options: &[S]) -> Result<Self> {
        let program = workspace::binary(PROGRAM)?;
        let program = program.to_str().context("A path without a name")?;
        let dir = workspace::scratch("device-")?;
        let mut command = bed::run::with_udmabuf(bed::mesa()?, program)?;
        command.env("XDG_CACHE_HOME", workspace::target().join("tmp/cache"));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut all: Vec<OsString> = ["--renderer", "virgl"].map(Into::into).to_vec();
        all.extend(options.iter().map(|option| option.as_ref().to_owned()));
        Self::spawn_in(dir, command, &all)
    }

    /// The processes that render for its guest: each with its kind.
    pub fn renderers(&self) -> Result<Vec<(Pid, String)>> {
        let mut found = Vec::new();
        for (process, words) in descendants(self.id())? {
            if let (Some("as-renderer"), Some(kind)) = (words.get(1).map(String::as_str), words.get(2)) {
                found.extend(Pid::from_raw(process.cast_signed()).map(|process| (process, kind.clone())));
            }
        }
        Ok(found)
    }

    fn spawn_with<S: AsRef<OsStr>>(inputs: &[(&str, &str)], command: Command, options: &[S]) -> Result<Self> {
        let dir = workspace::scratch("device-")?;
        let mut all = Vec::new();
        for (name, kind) in inputs {
            let mut option = path_argument("--input-socket=", &dir.path().join(name));
            option.push(kind);
            all.push(option);
        }
        all.extend(options.iter().map(|option| option.as_ref().to_owned()));
        Self::spawn_in(dir, command, &all)
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
        wait_until(PATIENCE, &format!("{} to listen on {}", self.process.id(), path.display()), || {
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

    /// Where a VMM connects its keyboard and pointer, if it was started with one.
    pub fn input_socket(&self) -> PathBuf {
        self.dir.path().join("input")
    }

    /// Where a VMM connects its touch screen, if it was started with one.
    pub fn touch_socket(&self) -> PathBuf {
        self.dir.path().join("touch")
    }

    /// Where a VMM connects the second function over vfio-user, the keyboard and pointer, of a device with viewers.
    pub fn input_function(&self) -> PathBuf {
        self.dir.path().join("gpu.input")
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

    /// The process that shows the device's frames to VNC clients and browsers, while there is one.
    pub fn viewer(&self) -> Result<Option<Pid>> {
        let shows = |words: &[String]| words.get(1).is_some_and(|word| word == "viewer");
        let found = descendants(self.id())?.into_iter().find(|(_, words)| shows(words));
        Ok(found.and_then(|(process, _)| Pid::from_raw(process.cast_signed())))
    }

    /// The port on which it shows its frames, with `--display vnc=127.0.0.1:0` or `web=127.0.0.1:0`.
    pub fn port(&self, display: &str) -> Result<u16> {
        let stats = self.stats()?;
        let address = stats["viewer"][display][0].as_str().with_context(|| format!("No {display} in {stats}"))?;
        let address: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        Ok(address.port())
    }

    /// What the device itself shows on its first head.
    pub fn screen(&self) -> Result<Picture> {
        self.screen_of(0)
    }

    /// As [`screen`](Self::screen), unless the head is dark: between two who draw on it, it may be.
    pub fn screen_if_lit(&self) -> Result<Option<Picture>> {
        match self.screen() {
            Err(error) if error.to_string().contains("This head shows nothing") => Ok(None),
            screen => screen.map(Some),
        }
    }

    /// What the device itself shows on a head.
    pub fn screen_of(&self, head: u32) -> Result<Picture> {
        Picture::decode(Cursor::new(self.ask("GET", &format!("/v1/screenshot?head={head}"), "")?))
    }

    /// The device's counters.
    pub fn stats(&self) -> Result<Value> {
        serde_json::from_slice(&self.ask("GET", "/v1/stats", "")?).context("The device's counters are no JSON")
    }

    /// Asks for another size of a head, as a viewer would.
    pub fn resize(&self, head: u32, width: u32, height: u32) -> Result<()> {
        let body = json!({"head": head, "width": width, "height": height}).to_string();
        self.ask("POST", "/v1/resize", &body).map(drop)
    }

    /// Waits until the device itself shows a picture, to the byte.
    #[track_caller]
    pub fn assert_shows(&self, head: u32, expected: &Picture) -> Result<()> {
        expected.wait_until_shown(|| self.screen_of(head))
    }

    /// Asks the control socket: HTTP/1.1, one question a connection.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.control_socket()).context("Cannot connect to the control socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: device\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("No answer to {method} {path}"))?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("An answer without a head")?;
        let body = answer.split_off(end + 4);
        let head = String::from_utf8_lossy(&answer).into_owned();
        if !head.starts_with("HTTP/1.1 200 ") {
            bail!("{method} {path}: {} {}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body));
        }
        let length = head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("content-length")));
        let length = length.and_then(|(_, value)| value.parse::<usize>().ok());
        ensure!(length == Some(body.len()), "{method} {path}: {} bytes of an answer of {length:?}", body.len());
        Ok(body)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if process::fails() {
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
