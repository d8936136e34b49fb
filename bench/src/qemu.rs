//! QEMU with its own VNC server, as the peer of our console.
//!
//! No processor runs in it: its virtio devices are driven from here through qtest, with rings in memory that both map. So
//! nothing but the device and the server is measured, and on the same frames as ours.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::daemon::{Program, foreign_loader};
use crate::error::{Doing, Error, Result};
use crate::frontend::{Memory, Queue, Wait, feature};

/// Bytes of the guest's memory, and where those begin that nothing lies on.
const MEMORY: u64 = 256 << 20;
const FREE: u64 = 16 << 20;
/// Where the machine "microvm" has its devices.
const SLOTS: std::ops::Range<u64> = 0..24;
const FIRST_SLOT: u64 = 0xfeb0_0000;
const SLOT: u64 = 0x200;
/// The longest that it may take to start, or to do what it is told.
const LIMIT: Duration = Duration::from_secs(60);

/// Registers of virtio over MMIO (virtio 1.3, section 4.2.2).
mod register {
    pub const DEVICE_ID: u64 = 0x08;
    pub const FEATURES: u64 = 0x20;
    pub const FEATURES_SELECT: u64 = 0x24;
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const DESCRIPTORS: u64 = 0x80;
    pub const AVAILABLE: u64 = 0x90;
    pub const USED: u64 = 0xa0;
}

/// ACKNOWLEDGE and DRIVER; then FEATURES_OK; then DRIVER_OK.
const STATUS: [u32; 3] = [3, 11, 15];

/// A QEMU that runs; it is ended when this is dropped.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    qtest: BufReader<UnixStream>,
    memory: Arc<Memory>,
    /// Its VNC server.
    pub vnc: SocketAddr,
}

/// One device, and its first queue.
#[derive(Debug)]
pub struct Port {
    base: u64,
    /// The queue, whose eventfds lead nowhere.
    pub queue: Queue,
}

impl Qemu {
    /// The program in the root that a daemon of QEMU's lies in.
    pub fn beside(daemon: &Program) -> Option<Program> {
        let name = "usr/bin/qemu-system-x86_64";
        let path = daemon.path.ancestors().map(|root| root.join(name)).find(|path| path.is_file())?;
        let mut environment = Vec::new();
        let mut arguments = Vec::new();
        if let Some((root, _)) = foreign_loader(&path) {
            environment.push(("QEMU_MODULE_DIR".into(), root.join("usr/lib/x86_64-linux-gnu/qemu")));
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                arguments.extend(["-L".into(), root.join(folder).display().to_string()]);
            }
        }
        Some(Program { name: "qemu".into(), path, arguments, environment })
    }

    /// Starts it with a virtio-gpu of 1920x1080 and a keyboard; its sockets are in `folder`. By default its VNC server lets 10 ms
    /// pass between keys: here none, since no time passes for a machine without a processor.
    pub fn start(program: &Program, folder: &Path) -> Result<Self> {
        let memory = Arc::new(Memory::new(&[(0, MEMORY)])?);
        memory.allocate(FREE, 1)?;
        let fd = memory.regions()[0].fd().as_raw_fd();
        let [qtest, qmp] = ["qtest.sock", "qmp.sock"].map(|name| folder.join(name));
        for path in [&qtest, &qmp] {
            // What an earlier one left behind, if anything.
            let _ = std::fs::remove_file(path);
        }
        let mut command = program.command();
        command.envs(program.environment.iter().cloned()).args(&program.arguments);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-accel",
            "qtest",
            "-qtest-log",
            "/dev/null",
        ]);
        command.args(["-machine", "microvm,memory-backend=m,rtc=off,auto-kernel-cmdline=off", "-m", "256M"]);
        let memory_file = format!("/proc/{}/fd/{fd}", std::process::id());
        command.arg("-object").arg(format!("memory-backend-file,id=m,size=256M,share=on,mem-path={memory_file}"));
        for (option, path) in [("-qtest", &qtest), ("-qmp", &qmp)] {
            command.arg(option).arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        command.args(["-global", "virtio-mmio.force-legacy=false", "-device", "virtio-gpu-device,xres=1920,yres=1080"]);
        command.args(["-device", "virtio-keyboard-device", "-vnc", "127.0.0.1:100,to=999,key-delay-ms=0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().doing(format!("start {}", program.path.display()))?;
        let connected = connect(&mut child, &qmp).and_then(|qmp| Ok((vnc(qmp)?, connect(&mut child, &qtest)?)));
        match connected {
            Ok((vnc, qtest)) => Ok(Self { child, qtest: BufReader::new(qtest), memory, vnc }),
            Err(error) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id() as i32).ok_or_else(|| Error::NotDone("QEMU has no process".into()))
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Starts the driver of a device with one queue.
    pub fn drive(&mut self, device: u32, size: u16) -> Result<Port> {
        let base = self.find(device)?;
        let queue = Queue::new(0, size, self.memory.clone(), Wait::Timeout(LIMIT))?;
        let layout = queue.layout();
        let version_1 = (feature::VERSION_1 >> 32) as u32;
        self.write(base + register::STATUS, STATUS[0])?;
        for (half, bits) in [(0, 0), (1, version_1)] {
            self.write(base + register::FEATURES_SELECT, half)?;
            self.write(base + register::FEATURES, bits)?;
        }
        self.write(base + register::STATUS, STATUS[1])?;
        self.write(base + register::QUEUE_SELECT, 0)?;
        self.write(base + register::QUEUE_SIZE, u32::from(size))?;
        let parts = [
            (register::DESCRIPTORS, layout.descriptors),
            (register::AVAILABLE, layout.available),
            (register::USED, layout.used),
        ];
        for (register, address) in parts {
            self.write(base + register, address as u32)?;
            self.write(base + register + 4, (address >> 32) as u32)?;
        }
        self.write(base + register::QUEUE_READY, 1)?;
        self.write(base + register::STATUS, STATUS[2])?;
        Ok(Port { base, queue })
    }

    /// Tells a device that something was offered.
    pub fn notify(&mut self, port: &Port) -> Result<()> {
        self.write(port.base + register::NOTIFY, 0)
    }

    fn find(&mut self, device: u32) -> Result<u64> {
        for slot in SLOTS {
            let base = FIRST_SLOT + slot * SLOT;
            if self.read(base + register::DEVICE_ID)? == device {
                return Ok(base);
            }
        }
        Err(Error::NotDone(format!("QEMU has no virtio device {device}")))
    }

    fn write(&mut self, address: u64, value: u32) -> Result<()> {
        self.ask(&format!("writel {address:#x} {value:#x}\n")).map(drop)
    }

    fn read(&mut self, address: u64) -> Result<u32> {
        let answer = self.ask(&format!("readl {address:#x}\n"))?;
        let value = answer.trim().strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        value.map(|value| value as u32).ok_or_else(|| Error::NotDone(format!("QEMU answered {answer}")))
    }

    fn ask(&mut self, words: &str) -> Result<String> {
        self.qtest.get_mut().write_all(words.as_bytes()).doing("tell QEMU something")?;
        let mut line = String::new();
        self.qtest.read_line(&mut line).doing("hear QEMU")?;
        match line.strip_prefix("OK") {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(Error::NotDone(format!("QEMU answered {line}"))),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Nothing is left to do if they fail: the process is gone then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until QEMU listens.
fn connect(child: &mut Child, path: &PathBuf) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(LIMIT)).doing("set up a connection")?;
            return Ok(stream);
        }
        if let Some(status) = child.try_wait().doing("look after QEMU")? {
            return Err(Error::NotDone(format!("QEMU ended at once: {status}")));
        }
        if start.elapsed() > LIMIT {
            return Err(Error::NotDone("QEMU does not listen".into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks where the VNC server is.
fn vnc(qmp: UnixStream) -> Result<SocketAddr> {
    let mut qmp = BufReader::new(qmp);
    let words = "{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"query-vnc\"}\n";
    qmp.get_mut().write_all(words.as_bytes()).doing("ask QEMU")?;
    loop {
        let mut line = String::new();
        if qmp.read_line(&mut line).doing("hear QEMU")? == 0 {
            return Err(Error::NotDone("QEMU hung up".into()));
        }
        let answer: Value = serde_json::from_str(&line).map_err(std::io::Error::other).doing("understand QEMU")?;
        let found = &answer["return"];
        if let (Some(host), Some(port)) = (found["host"].as_str(), found["service"].as_str()) {
            return format!("{host}:{port}").parse().map_err(std::io::Error::other).doing("understand QEMU");
        }
    }
}
