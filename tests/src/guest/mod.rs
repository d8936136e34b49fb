//! A guest under QEMU, with an agent inside that does what a test asks for.

mod config;
mod input;
mod qmp;

use std::fmt;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::{Draw, Head, Reply, Request, read_hello, read_message, write_message};
use serde_json::{Value, json};

pub use config::{Accel, Config, Firmware, Gpu, Input, KERNEL_WORDS, Private};
pub use input::Watch;
pub use qmp::Qmp;

use crate::device::Device;
use crate::picture::Picture;
use crate::process::{self, Process, wait_until};
use crate::progress::say;
use crate::token::Token;
use crate::workspace;

/// How long anything may take that takes a moment on an idle machine.
pub const PATIENCE: u64 = 120;

/// What a command in the guest did.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code, 128 + N when signal N ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The standard output as text, without white space at its ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// A running guest. It is killed when it is dropped.
pub struct Guest {
    qemu: Process,
    qmp: Qmp,
    agent: UnixStream,
    name: String,
    kernel: String,
    dir: tempfile::TempDir,
    screendumps: u32,
    screen_in_qemu: bool,
}

impl Guest {
    /// Boots a guest and waits for its agent.
    pub fn boot(config: Config) -> Result<Self> {
        let mut guest = Self::start(&config)?;
        guest.wait_for_boot()?;
        Ok(guest)
    }

    /// Starts a guest without waiting for its agent.
    pub fn start(config: &Config) -> Result<Self> {
        let dir = workspace::scratch("guest-")?;
        let gpus: Vec<_> = config.gpus.iter().map(|(gpu, _)| gpu.to_string()).collect();
        let accel = if config.accel == Accel::Kvm { ", kvm" } else { "" };
        let name = format!("{}{accel}", if gpus.is_empty() { "no GPU".to_owned() } else { gpus.join(", ") });
        let mut qemu = Process::spawn(config.command(dir.path())?, "QEMU", &dir.path().join("qemu.log"))?;
        let connected = Qmp::connect(&dir.path().join("qmp")).and_then(|qmp| {
            let agent = UnixStream::connect(dir.path().join("agent")).context("Cannot connect to the agent's port")?;
            Ok((qmp, agent))
        });
        let (qmp, agent) = match connected {
            Ok(pair) => pair,
            Err(error) => {
                let state = if qemu.is_running() { "runs" } else { "ended" };
                bail!("{error:#}; QEMU {state}; its log:\n{}", qemu.log_tail());
            }
        };
        let screen_in_qemu = config.gpus.iter().any(|(gpu, _)| gpu.screen_in_qemu());
        Ok(Guest { qemu, qmp, agent, name, kernel: String::new(), dir, screendumps: 0, screen_in_qemu })
    }

    /// Waits for the agent of a guest that was started or reset.
    pub fn wait_for_boot(&mut self) -> Result<()> {
        let start = Instant::now();
        let hello = self.greet();
        let reply = self.explain(hello)?;
        let Reply::Booted { uptime, kernel } = reply else { bail!("The agent said {reply:?} instead of hello") };
        let seconds = start.elapsed().as_secs_f32();
        self.kernel = kernel;
        say(format_args!("guest ({}): booted in {seconds:.1} s, {uptime:.1} s of its own time", self.name));
        Ok(())
    }

    /// Makes systemd the guest's first program, where it has it ([`Config::service`]). Whatever was put into the guest before is there when
    /// it comes up, as after a boot; the agent goes on.
    pub fn begin(&mut self) -> Result<()> {
        self.run("echo /usr/lib/systemd/systemd >/run/init").map(drop)
    }

    fn greet(&mut self) -> Result<Reply> {
        self.agent.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        read_hello(&mut self.agent).context("The guest's agent does not report")?;
        Ok(read_message::<Reply>(&mut self.agent)?.0)
    }

    /// Runs a shell command; fails when it does.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        let output = self.try_run(command)?;
        if output.code != 0 {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let error = format!("`{command}` in the guest: exit code {}\n{}\n{stderr}", output.code, output.text());
            return self.explain(Err(anyhow::Error::msg(error)));
        }
        Ok(output)
    }

    /// Runs a shell command, whatever its exit code.
    pub fn try_run(&mut self, command: &str) -> Result<Output> {
        let request = Request::Run { command: command.to_owned(), seconds: PATIENCE };
        let (reply, mut stdout) = self.ask(&request, &[])?;
        let Reply::Ended { code, stdout: length } = reply else { bail!("The agent answered {reply:?}") };
        ensure!(length as usize <= stdout.len(), "The agent's lengths are wrong");
        let stderr = stdout.split_off(length as usize);
        Ok(Output { code, stdout, stderr })
    }

    /// Starts a shell command that goes on, and returns its process in the guest.
    pub fn spawn(&mut self, command: &str) -> Result<u32> {
        match self.ask(&Request::Spawn { command: command.to_owned() }, &[])?.0 {
            Reply::Started { pid } => Ok(pid),
            reply => bail!("The agent answered {reply:?}"),
        }
    }

    /// Runs a command again and again until it succeeds.
    pub fn wait_for(&mut self, command: &str) -> Result<Output> {
        let waited = wait_until(PATIENCE, &format!("`{command}` in the guest"), || {
            let output = self.try_run(command)?;
            Ok((output.code == 0).then_some(output))
        });
        self.explain(waited)
    }

    /// Writes a file in the guest.
    pub fn put(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.ask(&Request::Put { path: path.to_owned(), mode }, bytes).map(drop)
    }

    /// Reads a file of the guest.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        Ok(self.ask(&Request::Get { path: path.to_owned() }, &[])?.1)
    }

    /// The heads of the guest's card.
    pub fn heads(&mut self) -> Result<Vec<Head>> {
        match self.ask(&Request::Heads, &[])?.0 {
            Reply::Heads(heads) => Ok(heads),
            reply => bail!("The agent answered {reply:?}"),
        }
    }

    /// Draws in the guest and returns what the guest then reads back from its own buffer, if it drew pixels.
    pub fn draw(&mut self, draw: Draw) -> Result<Option<Picture>> {
        match self.ask(&Request::Draw(draw), &[])? {
            (Reply::Drawn { width, height }, pixels) => Picture::from_xrgb(width, height, &pixels).map(Some),
            _ => Ok(None),
        }
    }

    /// Sets a mode on a head, with random pixels, which are returned.
    pub fn show(&mut self, head: u32, width: u32, height: u32) -> Result<Picture> {
        self.draw(Draw::Show { head, width, height })?.context("Nothing drawn")
    }

    /// Draws new random pixels in a part of what a head shows, and returns all of it.
    pub fn damage(&mut self, head: u32, rect: [u32; 4]) -> Result<Picture> {
        self.draw(Draw::Damage { head, rect })?.context("Nothing drawn")
    }

    /// Flips a head to another buffer of random pixels, and returns them.
    pub fn flip(&mut self, head: u32) -> Result<Picture> {
        self.draw(Draw::Flip { head })?.context("Nothing drawn")
    }

    /// Gives the agent a name, which is then that of its contexts.
    pub fn name_agent(&mut self, name: &str) -> Result<()> {
        self.ask(&Request::Name(name.to_owned()), &[]).map(drop)
    }

    /// Maps so many blobs of the host's memory at once, by a context of a capset, and looks whether each holds what is written.
    pub fn map_blobs(&mut self, capset: u32, count: u32, bytes: u32) -> Result<()> {
        self.ask(&Request::Blobs { capset, count, bytes, keep: false }, &[]).map(drop)
    }

    /// The same, and all of them stay mapped.
    pub fn keep_blobs(&mut self, capset: u32, count: u32, bytes: u32) -> Result<()> {
        self.ask(&Request::Blobs { capset, count, bytes, keep: true }, &[]).map(drop)
    }

    /// Maps blobs one after the other at one place, beside others, and stores into each at once. Returns how many words are lost, and how
    /// many blobs were not mapped.
    pub fn lost_stores(&mut self, capset: u32, others: u32, rounds: u32, bytes: u32) -> Result<(u32, u32)> {
        match self.ask(&Request::Stores { capset, others, rounds, bytes }, &[])?.0 {
            Reply::Stored { lost, refused } => Ok((lost, refused)),
            reply => bail!("The agent answered {reply:?}"),
        }
    }

    /// Has a new client of the GPU submit a command that does nothing, by a context of a capset, or of none.
    pub fn submit(&mut self, capset: u32) -> Result<()> {
        self.ask(&Request::Submit { capset }, &[]).map(drop)
    }

    /// Whether what was submitted last has ended, or does within some seconds.
    pub fn has_ended(&mut self, seconds: u64) -> Result<bool> {
        match self.ask(&Request::HasEnded { seconds }, &[])?.0 {
            Reply::HasEnded(ended) => Ok(ended),
            reply => bail!("The agent answered {reply:?}"),
        }
    }

    /// What QEMU shows of the first head of the first GPU.
    pub fn screen(&mut self) -> Result<Picture> {
        self.screen_of("gpu0", 0)
    }

    /// What QEMU shows of a head of a device.
    pub fn screen_of(&mut self, device: &str, head: u32) -> Result<Picture> {
        self.screendumps += 1;
        let path = self.dir.path().join(format!("screen{}.png", self.screendumps));
        self.qmp("screendump", json!({"filename": path, "device": device, "head": head, "format": "png"}))?;
        let picture = Picture::open(&path);
        let _ = fs::remove_file(&path);
        picture
    }

    /// Waits until QEMU shows a picture on a head of the first GPU, to the byte.
    #[track_caller]
    pub fn assert_shows(&mut self, head: u32, expected: &Picture) -> Result<()> {
        let shown = expected.wait_until_shown(|| self.screen_of("gpu0", head));
        self.explain(shown)
    }

    /// Waits until a picture is shown wherever this guest's screen is: by the device, and by QEMU if it has the screen.
    #[track_caller]
    pub fn assert_shown(&mut self, device: &Device, head: u32, expected: &Picture) -> Result<()> {
        if self.screen_in_qemu {
            self.assert_shows(head, expected)?;
        }
        let shown = device.assert_shows(head, expected);
        self.explain(shown)
    }

    /// Waits until the device shows a word in characters of a size, and returns that picture.
    pub fn wait_for_token(
        &self,
        device: &Device,
        token: &Token,
        cell: (usize, usize),
        place: (usize, usize),
    ) -> Result<Picture> {
        self.explain(token.wait_until_shown(cell, place, || device.screen()))
    }

    /// Draws pictures that only the guest knows, changed in every way, and waits until each is shown.
    #[track_caller]
    pub fn assert_pictures_are_shown(&mut self, device: &Device) -> Result<()> {
        let heads = self.heads()?;
        let head = heads.first().context("The guest's card has no head")?;
        ensure!(head.connected && !head.edid.is_empty(), "The guest's first head is {head:?}");
        let (width, height, _) = *head.modes.first().context("The guest's first head has no modes")?;
        let first = self.show(0, width, height)?;
        self.assert_shown(device, 0, &first)?;
        let second = self.damage(0, [17, 33, 251, 127])?;
        assert_ne!(first, second);
        self.assert_shown(device, 0, &second)?;
        let third = self.flip(0)?;
        assert_ne!(second, third);
        self.assert_shown(device, 0, &third)
    }

    /// Plugs a display device into a port, and takes its screen as the guest's.
    pub fn plug(&mut self, gpu: &Gpu, id: &str, port: &str) -> Result<()> {
        for (command, arguments) in gpu.hot_plug(id, port)? {
            self.qmp(command, arguments)?;
        }
        self.screen_in_qemu = gpu.screen_in_qemu();
        Ok(())
    }

    /// Unplugs a display device and waits until the guest has let it go.
    pub fn unplug(&mut self, gpu: &Gpu, id: &str) -> Result<()> {
        self.qmp("device_del", json!({"id": id}))?;
        while self.wait_event("DEVICE_DELETED")?["data"]["device"] != id {}
        for (command, arguments) in gpu.hot_unplug(id) {
            self.qmp(command, arguments)?;
        }
        Ok(())
    }

    /// Chooses which of the guest's cards is asked for heads and drawn on from now on; the one before is given back.
    pub fn take_card(&mut self, number: u32) -> Result<()> {
        self.ask(&Request::Card(number), &[]).map(drop)
    }

    /// Presses and releases a key of QEMU's own keyboard, by QEMU's name for it.
    pub fn press(&mut self, key: &str) -> Result<()> {
        self.qmp("send-key", json!({"keys": [{"type": "qcode", "data": key}]})).map(drop)
    }

    /// Waits until what the device shows changes.
    pub fn wait_until_moving(&mut self, device: &Device) -> Result<()> {
        let before = device.screen()?;
        let moved = wait_until(PATIENCE, "the picture to move", || Ok((device.screen()? != before).then_some(())));
        self.explain(moved)
    }

    /// Runs a QMP command.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let answer = self.qmp.execute(command, arguments);
        self.explain(answer)
    }

    /// Waits for a QMP event.
    pub fn wait_event(&mut self, name: &str) -> Result<Value> {
        let event = self.qmp.wait_event(name, PATIENCE);
        self.explain(event)
    }

    /// Reboots as a user would: the kernel shuts its drivers down.
    pub fn reboot(&mut self) -> Result<()> {
        self.spawn("sleep 0.1; $(ls /run/busybox /bin/busybox 2>/dev/null | head -n 1) reboot -f")?;
        self.wait_for_boot()
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp("system_reset", json!({}))?;
        self.wait_for_boot()
    }

    /// Suspends the guest to memory (S3) and wakes it, once a boot: QEMU does not suspend it a second time.
    /// Wants [`Config::real_mode`] and QEMU's `-global ICH9-LPC.disable_s3=0`.
    pub fn suspend_and_wake(&mut self) -> Result<()> {
        // The kernel's driver of the agent's port does not get over this; bound again, it does.
        let driver = "/sys/bus/virtio/drivers/virtio_console";
        let rebind = format!("cd {driver}; port=$(ls -d virtio*); echo $port > unbind; echo $port > bind");
        self.spawn(&format!("sleep 0.1; echo mem > /sys/power/state; {rebind}"))?;
        self.wait_event("SUSPEND")?;
        self.qmp("system_wakeup", json!({}))?;
        self.wait_event("WAKEUP")?;
        let hello = self.greet();
        self.explain(hello).map(drop)
    }

    /// Powers the guest off and waits for QEMU to end.
    pub fn power_off(mut self) -> Result<()> {
        self.spawn("sleep 0.1; echo o > /proc/sysrq-trigger")?;
        let ended = self.qemu.wait(PATIENCE).map(drop);
        self.explain(ended)
    }

    /// QEMU's process.
    pub fn qemu(&mut self) -> &mut Process {
        &mut self.qemu
    }

    /// The guest kernel's release.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// A path for a socket or file of this guest, in a folder that goes with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the guest printed on its serial console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console")).unwrap_or_default()).into_owned()
    }

    /// What the firmware said of itself, if somebody listened.
    pub fn firmware(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("firmware")).unwrap_or_default()).into_owned()
    }

    /// The first line in which QEMU complains of a vfio-user device.
    fn complaint(&self) -> Option<String> {
        let log = fs::read(self.dir.path().join("qemu.log")).unwrap_or_default();
        complaint_in(&String::from_utf8_lossy(&log)).map(str::to_owned)
    }

    fn ask(&mut self, request: &Request, bytes: &[u8]) -> Result<(Reply, Vec<u8>)> {
        let answer = self.converse(request, bytes);
        self.explain(answer)
    }

    fn converse(&mut self, request: &Request, bytes: &[u8]) -> Result<(Reply, Vec<u8>)> {
        self.agent.set_read_timeout(Some(Duration::from_secs(PATIENCE + 10)))?;
        write_message(&mut self.agent, request, bytes).context("Cannot write to the guest's agent")?;
        let (reply, bytes) = read_message(&mut self.agent).context("The guest's agent does not answer")?;
        match reply {
            Reply::Failed(error) => bail!("In the guest: {error}"),
            reply => Ok((reply, bytes)),
        }
    }

    /// Adds to an error what the guest and QEMU said last.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        // Once is enough: what calls each other here explains the same.
        result.map_err(|error| if error.is::<Explained>() { error } else { error.context(Explained(self.to_string())) })
    }
}

/// What the guest and QEMU said last, in an error.
#[derive(Debug)]
struct Explained(String);

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = |text: &str| {
            let lines: Vec<_> = text.lines().collect();
            lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n    ")
        };
        write!(f, "Guest ({})\n  console:\n    {}", self.name, last(&self.console()))?;
        let firmware = self.firmware();
        if !firmware.is_empty() {
            write!(f, "\n  firmware:\n    {}", last(&firmware))?;
        }
        write!(f, "\n  QEMU's log:\n    {}", self.qemu.log_tail().replace('\n', "\n    "))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if process::fails() {
            say(&*self);
        } else if let Some(complaint) = self.complaint() {
            // No test sees it otherwise: the guest goes on with registers full of ones.
            say(&*self);
            panic!("QEMU complains: {complaint}");
        }
    }
}

/// QEMU says nothing of vfio-user devices but what went wrong.
fn complaint_in(log: &str) -> Option<&str> {
    let words = ["vfio", "timed out waiting for reply", "unexpected reply"];
    log.lines().find(|line| words.iter().any(|word| line.contains(word)))
}

/// Whether a QEMU has this device.
pub fn has_device(qemu: &Path, name: &str) -> bool {
    let help = std::process::Command::new(qemu).args(["-device", "help"]).output();
    help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!("\"{name}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_of_a_slow_or_wrong_device_is_a_complaint_and_other_words_are_not() {
        for line in [
            "qemu-system-x86_64: vfio_region_read(gpu0:region2+0x1014, 1) failed: Input/output error",
            "qemu-system-x86_64: vfio_user_recv_one unexpected reply",
            "qemu-system-x86_64: timed out waiting for reply",
        ] {
            let log = format!("qemu-system-x86_64: warning: host lacks a feature\n{line}\n");
            assert_eq!(complaint_in(&log), Some(line));
        }
        assert_eq!(complaint_in("qemu-system-x86_64: terminating on signal 15\n"), None);
    }
}
