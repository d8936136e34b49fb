//! The manager of vGPUs as a host runs it: `beamsplit serve` with folders of its own, asked by its own commands, with devices that
//! draw in the bed, or on the host itself.

use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::guest::PATIENCE;
use crate::process::{Process, descendants, wait_until};
use crate::{Picture, bed, workspace};

/// The program.
const PROGRAM: &str = "beamsplit";
/// The file of tokens, in a manager's folder.
const TOKENS: &str = "tokens.toml";

/// A manager, and what it started: devices outlive it, and end with this value.
pub struct Manager {
    process: Option<Process>,
    reaper: Child,
    dir: tempfile::TempDir,
    web: Option<SocketAddr>,
}

impl Manager {
    /// Starts one that offers the types of this file (as `types.toml` has them).
    pub fn start(types: &str) -> Result<Self> {
        Self::with(types, None, &drawing_in_the_bed()?)
    }

    /// The same with a page, for who knows one of these tokens (as `--tokens` has them). Consoles take tokens, too.
    pub fn with_page(types: &str, tokens: &str) -> Result<Self> {
        Self::with(types, Some(((Ipv4Addr::LOCALHOST, 0).into(), tokens)), &drawing_in_the_bed()?)
    }

    /// One with a page at an address of this host, and devices that run as the host has them: without the libraries for 3D,
    /// which the bed has. Consoles are open to all users.
    pub fn plain(types: &str, page: SocketAddr, tokens: &str) -> Result<Self> {
        Self::with(types, Some((page, tokens)), "open-consoles = true\n")
    }

    fn with(types: &str, page: Option<(SocketAddr, &str)>, words: &str) -> Result<Self> {
        // A short path: sockets have room for 107 bytes.
        let dir = workspace::scratch("m-")?;
        fs::create_dir(dir.path().join("c"))?;
        // Users of their own could neither enter the bed's tree nor reach a folder of the project.
        let serve = format!("{words}users = \"none\"\nhang-timeout = 10\n");
        fs::write(dir.path().join("c/serve.toml"), serve)?;
        fs::write(dir.path().join("c/types.toml"), types)?;
        let reaper = reaper(&dir.path().join("r"))?;
        if let Some((_, tokens)) = page {
            let mut file = fs::OpenOptions::new();
            file.write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.path().join(TOKENS))?
                .write_all(tokens.as_bytes())?;
        }
        let mut manager = Manager { process: None, reaper, dir, web: page.map(|(address, _)| address) };
        manager.begin()?;
        Ok(manager)
    }

    /// Starts the program, again if it was killed, and waits until it answers.
    pub fn begin(&mut self) -> Result<()> {
        let mut command = Command::new(workspace::binary(PROGRAM)?);
        command
            .arg("serve")
            .arg("--runtime-dir")
            .arg(self.runtime())
            .arg("--config-dir")
            .arg(self.dir.path().join("c"));
        if let Some(address) = self.web {
            command.args(["--web", &address.to_string(), "--tokens"]).arg(self.dir.path().join(TOKENS));
        }
        command.env("BEAMSPLIT_NOVNC_DIR", bed::page()?.file("usr/share/novnc"));
        command.env("XDG_CACHE_HOME", workspace::target().join("tmp/cache"));
        let mut process = Process::spawn(command, "beamsplit serve", &self.dir.path().join("log"))?;
        wait_until(PATIENCE, "the manager to answer", || {
            if !process.is_running() {
                bail!("The manager ended at its start:\n{}", process.log_tail());
            }
            Ok(self.run(&["list"])?.status.success().then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it as nothing should be killed. Its devices go on.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("No manager runs")?;
        kill_process(pid(process.id())?, Signal::KILL)?;
        process.wait(PATIENCE).map(drop)
    }

    /// What the manager said at last.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    /// Its runtime folder.
    pub fn runtime(&self) -> PathBuf {
        self.dir.path().join("r")
    }

    /// Runs one of its commands, whatever comes of it.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(workspace::binary(PROGRAM)?);
        command.args(words).arg("--runtime-dir").arg(self.runtime());
        command.output().context("Cannot run beamsplit")
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn tell(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        let (said, refused) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "beamsplit {}: {refused}\n{}", words.join(" "), self.log());
        Ok(said.into_owned())
    }

    /// The same with `--json`.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.tell(&words)?).context("What it printed is no JSON")
    }

    /// What is listed of a vGPU.
    pub fn vgpu(&self, name: &str) -> Result<Value> {
        let list = self.ask(&["list"])?;
        let found = list["vgpus"].as_array().into_iter().flatten().find(|vgpu| vgpu["name"] == name);
        found.cloned().with_context(|| format!("No {name} in {list}"))
    }

    /// Waits until a vGPU is in a state.
    pub fn wait_for(&self, name: &str, state: &str, seconds: u64) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait_until(seconds, &format!("{name} to be {state}"), || {
            last = self.vgpu(name)?;
            Ok((last["state"] == state).then(|| last.clone()))
        });
        waited.with_context(|| format!("{last}\n{}", self.log()))
    }

    /// Starts a vGPU, and waits until it runs.
    pub fn start_vgpu(&self, name: &str) -> Result<()> {
        self.tell(&["start", name])?;
        self.wait_for(name, "running", PATIENCE).map(drop)
    }

    /// The device of a vGPU that runs.
    pub fn device(&self, name: &str) -> Result<u32> {
        let pid = self.vgpu(name)?["pid"].as_u64().context("It has no process")?;
        u32::try_from(pid).context("A process has a small number")
    }

    /// Where a VMM connects.
    pub fn socket(&self, name: &str) -> Result<PathBuf> {
        let attachment = self.ask(&["attach", name])?;
        attachment["socket"].as_str().map(PathBuf::from).with_context(|| format!("No socket in {attachment}"))
    }

    /// Where a VMM connects its keyboard and pointer.
    pub fn input_socket(&self, name: &str) -> Result<PathBuf> {
        let attachment = self.ask(&["attach", name])?;
        attachment["input_socket"].as_str().map(PathBuf::from).with_context(|| format!("No input in {attachment}"))
    }

    /// What a vGPU shows.
    pub fn screen(&self, name: &str) -> Result<Picture> {
        let output = self.run(&["screenshot", name, "-"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Picture::decode(Cursor::new(output.stdout))
    }

    /// The processes that draw for a vGPU's guest.
    pub fn renderers(&self, name: &str) -> Result<Vec<Pid>> {
        let draws = |words: &[String]| words.get(1).is_some_and(|word| word == "as-renderer");
        let found = descendants(self.device(name)?)?.into_iter().filter(|(_, words)| draws(words));
        found.map(|(process, _)| pid(process)).collect()
    }

    /// The address of its page.
    pub fn page(&self) -> Result<SocketAddr> {
        let log = self.log();
        let address =
            log.split_whitespace().find_map(|word| word.strip_prefix("http://")?.split('/').next()?.parse().ok());
        address.with_context(|| format!("The page has no address in\n{log}"))
    }

    /// Asks its page as a browser does that knows a token.
    pub fn get(&self, path: &str, token: &str) -> Result<Vec<u8>> {
        let address = self.page()?;
        let mut stream = TcpStream::connect(address).context("Cannot connect to the page")?;
        stream.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
        write!(stream, "{head}Connection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("No answer to GET {path}"))?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("An answer without a head")?;
        let body = answer.split_off(end + 4);
        let head = String::from_utf8_lossy(&answer);
        let said = String::from_utf8_lossy(&body);
        ensure!(head.starts_with("HTTP/1.1 200 "), "GET {path}: {} {said}", head.lines().next().unwrap_or_default());
        Ok(body)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // The manager first, or it would start anew what ends now.
        self.process = None;
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

/// A token that nobody can guess.
pub fn new_token() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut token = String::new();
    for byte in bytes {
        write!(token, "{byte:02x}")?;
    }
    Ok(token)
}

/// The line of `serve.toml` that has devices run in the bed, as root, with the libraries for 3D and the stand-in for
/// `/dev/udmabuf`.
fn drawing_in_the_bed() -> Result<String> {
    let device = workspace::binary("beamsplit-device")?;
    let device = device.to_str().context("A path without a name")?;
    let words: Vec<String> =
        bed::run::words(&bed::run::with_udmabuf(bed::mesa()?, device)?).lines().map(str::to_owned).collect();
    Ok(format!("device = {}\n", serde_json::to_string(&words)?))
}

/// Kills all devices whose records are in a folder, each the leader of a group, when who started them is gone, however that ended:
/// the pipe tells.
fn reaper(runtime: &Path) -> Result<Child> {
    let script = "read line; for record in \"$1\"/*/record.json; do pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/;t;d' \"$record\" | head -n 1); \
                  grep -qsF -e \"$1/\" /proc/$pid/cmdline && kill -9 -$pid 2>/dev/null; done";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(runtime);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().context("Cannot start a reaper")
}

fn pid(number: u32) -> Result<Pid> {
    Pid::from_raw(number.cast_signed()).context("A process has the number 0")
}
