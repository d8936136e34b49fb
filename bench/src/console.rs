//! The console of a device of ours: its viewer process, where people connect to it, and what both count.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::daemon::Program;
use crate::error::{Doing, Error, Result};
use crate::process;

/// The longest that a viewer may take to be there.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where a device with a console is asked and served.
#[derive(Debug)]
pub struct Console {
    /// The device.
    pub device: Pid,
    /// What starts viewers.
    pub launcher: Pid,
    /// Serves people.
    pub viewer: Pid,
    /// For VNC clients.
    pub vnc: SocketAddr,
    /// For browsers.
    pub web: SocketAddr,
    /// For the VMM's input device.
    pub input: PathBuf,
    control: PathBuf,
}

fn paths(folder: &Path) -> [PathBuf; 2] {
    ["input.sock", "control.sock"].map(|name| folder.join(name))
}

/// The device with a console, whose sockets are in `folder`.
pub fn prepare(program: &Program, folder: &Path) -> Program {
    let paths = paths(folder);
    for path in &paths {
        // What an earlier one left behind, if anything.
        let _ = std::fs::remove_file(path);
    }
    let [input, control] = paths.map(|path| path.display().to_string());
    let fixed = ["--renderer", "soft", "--heads", "1920x1080", "--display", "vnc=127.0.0.1:0", "--display"];
    let arguments = fixed
        .map(String::from)
        .into_iter()
        .chain(["web=127.0.0.1:0", "--input-socket", &input, "--control-socket", &control].map(String::from));
    Program { arguments: arguments.collect(), ..program.clone() }
}

impl Console {
    /// Waits until the viewer of a device that was [prepared](prepare) serves.
    pub fn find(device: Pid, folder: &Path) -> Result<Self> {
        let [input, control] = paths(folder);
        let start = Instant::now();
        loop {
            let stats = http(UnixStream::connect(&control).doing("connect to the control socket")?, "/v1/stats")?;
            let address = |kind: &str| stats["viewer"][kind][0].as_str()?.parse().ok();
            let viewer = stats["viewer"]["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32));
            if let (Some(viewer), Some(vnc), Some(web)) = (viewer, address("vnc"), address("web"))
                && let Some(launcher) = process::parent(viewer)
            {
                return Ok(Self { device, launcher, viewer, vnc, web, input, control });
            }
            if start.elapsed() > START_LIMIT {
                return Err(Error::NotDone("It has no viewer".into()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A counter of the device's part for input.
    pub fn counted(&self, name: &str) -> Result<u64> {
        let stats = http(UnixStream::connect(&self.control).doing("connect to the control socket")?, "/v1/stats")?;
        number(&stats["input"][name])
    }

    /// Events that the viewer passed on.
    pub fn passed(&self) -> Result<u64> {
        let status = http(TcpStream::connect(self.web).doing("connect to the page")?, "/status.json")?;
        number(&status["input"]["passed"])
    }

    /// Watches the device and the viewer from now on.
    pub fn meter(&self) -> Result<Meter> {
        Meter::start(vec![self.device, self.viewer])
    }
}

/// Watches processes at work.
#[derive(Debug)]
pub struct Meter {
    before: Vec<(Pid, (u64, u64))>,
    start: Instant,
}

/// What a process did, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// It was on a processor.
    pub busy: f64,
    /// It could have been, but others were.
    pub waited: f64,
    /// All that passed.
    pub of: f64,
}

impl Work {
    /// Percent of a core.
    pub fn share(&self) -> f64 {
        100.0 * self.busy / self.of
    }
}

impl Meter {
    /// Watches these from now on.
    pub fn start(pids: Vec<Pid>) -> Result<Self> {
        let before = pids.into_iter().map(|pid| Ok((pid, process::schedule(pid)?))).collect::<Result<_>>()?;
        Ok(Self { before, start: Instant::now() })
    }

    /// What they did since, in the same order.
    pub fn read(&self) -> Result<Vec<Work>> {
        let of = self.start.elapsed().as_secs_f64();
        let seconds = |after: u64, before: u64| (after - before) as f64 / 1e9;
        let work = |(pid, before): &(Pid, (u64, u64))| {
            let after = process::schedule(*pid)?;
            Ok(Work { busy: seconds(after.0, before.0), waited: seconds(after.1, before.1), of })
        };
        self.before.iter().map(work).collect()
    }
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().ok_or_else(|| Error::NotDone("It does not count what people type".into()))
}

/// One question, one answer.
fn http(mut stream: impl Read + Write, path: &str) -> Result<Value> {
    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).doing("ask the device")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).doing("hear the device")?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|end| &answer[end + 4..]);
    serde_json::from_slice(body.unwrap_or_default()).map_err(std::io::Error::other).doing("understand the device")
}
