//! The programs, started as their users do: a manager with folders of its own, its commands, its devices.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.
#![allow(dead_code)] // No test needs all of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_beamsplit");
/// A type that every host offers.
pub const TYPE: &str = "desktop-2d-128m";
/// How long anything may take on a busy machine. Nothing here is late on purpose.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folders of a manager, whichever process serves them. What is left of its devices ends with it.
pub struct Home {
    folder: TempDir,
}

/// A manager that runs until it is dropped.
pub struct Manager {
    pub process: Child,
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Home {
    pub fn new() -> Self {
        build_device();
        let home = Home { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(home.config()).unwrap();
        // Its folder is for nobody else, so devices cannot have users of their own.
        fs::write(home.config().join("serve.toml"), "users = \"none\"\n").unwrap();
        home
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("r")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("c")
    }

    pub fn socket(&self) -> PathBuf {
        self.runtime().join("manager.sock")
    }

    pub fn device(&self, uuid: &str) -> PathBuf {
        self.runtime().join(uuid)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    /// The command that serves these folders.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        self.arguments(&mut command);
        command
    }

    fn arguments(&self, command: &mut Command) {
        let log = File::options().append(true).create(true).open(self.folder.path().join("serve.log")).unwrap();
        command.arg("serve").arg("--runtime-dir").arg(self.runtime()).arg("--config-dir").arg(self.config());
        command.env_remove("BEAMSPLIT_LOG").env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    }

    /// The same by a program before it.
    pub fn command_by(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).arg(PROGRAM);
        self.arguments(&mut command);
        command
    }

    /// Starts a manager and waits until it answers.
    pub fn serve(&self) -> Manager {
        self.serve_by(self.command())
    }

    pub fn serve_by(&self, mut command: Command) -> Manager {
        let mut manager = Manager { process: command.spawn().unwrap() };
        wait_until("the manager answers", || {
            assert_eq!(manager.process.try_wait().unwrap(), None, "It ended: {}", self.log());
            self.run(&["list"]).status.success()
        });
        manager
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Output {
        Command::new(PROGRAM).args(words).arg("--runtime-dir").arg(self.runtime()).output().unwrap()
    }

    /// What it printed; it has to succeed.
    pub fn ok<S: AsRef<OsStr>>(&self, words: &[S]) -> String {
        let output = self.run(words);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        assert!(output.status.success(), "{}: {told}\n{}", words.join(" "), self.log());
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What it complained of; it has to fail with code 1.
    pub fn fails<S: AsRef<OsStr>>(&self, words: &[S]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
        told
    }

    /// What it printed before it failed with code 1.
    pub fn fails_with_output<S: AsRef<OsStr>>(&self, words: &[S]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json<S: AsRef<OsStr>>(&self, words: &[S]) -> Value {
        let mut all: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
        all.push("--json".as_ref());
        let value: Value = serde_json::from_str(&self.ok(&all)).unwrap();
        assert_eq!(value["version"], 1, "{value}");
        value
    }

    /// A vGPU as it is shown.
    pub fn show(&self, vgpu: &str) -> Value {
        self.json(&["show", vgpu])
    }

    pub fn state(&self, vgpu: &str) -> String {
        self.show(vgpu)["state"].as_str().unwrap().to_owned()
    }

    /// What is there, or null.
    pub fn seen(&self, vgpu: &str) -> Value {
        let all = self.json(&["list"]);
        let found = all["vgpus"].as_array().unwrap().iter().find(|known| known["uuid"] == vgpu);
        found.cloned().unwrap_or(Value::Null)
    }

    /// Says something to the manager, word for word, and returns its answer.
    pub fn say(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may have said no before it heard all.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The processes whose words name a folder of this home, but for managers and their commands.
    pub fn devices(&self) -> Vec<u32> {
        let own = self.runtime().display().to_string();
        let of = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let words = String::from_utf8_lossy(&of(*pid)).into_owned();
            words.contains(&own) && words.contains("device.toml")
        })
        .collect()
    }

    /// All vGPUs, once nothing is on its way. Each device is known then, and each that is known is there.
    pub fn settled(&self) -> Vec<Value> {
        let list = || self.json(&["list"])["vgpus"].as_array().unwrap().clone();
        wait_until("all is settled", || {
            list().iter().all(|vgpu| ["defined", "running", "held"].contains(&vgpu["state"].as_str().unwrap()))
        });
        let all = list();
        let known: Vec<u64> = all.iter().filter_map(|vgpu| vgpu["pid"].as_u64()).collect();
        assert!(known.iter().all(|pid| lives(*pid)), "{all:?}");
        wait_until("those that nobody knows are gone", || {
            self.devices().iter().all(|pid| known.contains(&u64::from(*pid)))
        });
        all
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in self.devices() {
            signal(pid.into(), "-9");
        }
    }
}

/// Sends a signal, as in `-9`, to one process: 0 and below would be whole groups, ours among them.
pub fn signal(pid: u64, signal: &str) {
    assert!(pid > 1, "{pid}");
    let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Waits for what is bound to happen.
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < until, "{what}: it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the process is there and not a corpse.
pub fn lives(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// The device's program belongs beside ours; a build of this package alone does not make it.
fn build_device() {
    if Path::new(PROGRAM).with_file_name("beamsplit-device").exists() {
        return;
    }
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "beamsplit-backend"]).status().unwrap();
    assert!(built.success(), "Cannot build beamsplit-device");
}
