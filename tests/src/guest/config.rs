//! What a guest is made of, and QEMU's command line for it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bed;
use crate::device::Device;
use crate::xserver::XServer;

/// The guest's display device.
#[derive(Debug, Clone, Default)]
pub enum Gpu {
    /// None.
    #[default]
    None,
    /// QEMU's own virtio-gpu, in its process: to test the bed itself.
    Qemu,
    /// QEMU's own with OpenGL, in its process: to compare.
    QemuGl,
    /// QEMU's vhost-user-gpu-pci on a back-end's socket.
    VhostUserGpu(PathBuf),
    /// QEMU's vhost-user-vga on a back-end's socket.
    VhostUserVga(PathBuf),
    /// QEMU's generic vhost-user device on a back-end's socket.
    Generic(PathBuf),
    /// QEMU's client of vfio-user: whatever function is served on the socket.
    VfioUser(PathBuf),
}

impl Gpu {
    /// vhost-user-gpu-pci served by a device.
    pub fn vhost_user_gpu(device: &Device) -> Self {
        Gpu::VhostUserGpu(device.socket())
    }

    /// vhost-user-vga served by a device.
    pub fn vhost_user_vga(device: &Device) -> Self {
        Gpu::VhostUserVga(device.socket())
    }

    /// The generic vhost-user device served by a device.
    pub fn generic(device: &Device) -> Self {
        Gpu::Generic(device.socket())
    }

    /// The function that a device serves over vfio-user.
    pub fn vfio_user(device: &Device) -> Self {
        Gpu::VfioUser(device.socket())
    }

    /// The `-device` value without its options and id, of devices with a chardev.
    fn device(&self, id: &str) -> Option<String> {
        Some(match self {
            Gpu::None | Gpu::VfioUser(_) => return None,
            Gpu::Qemu => "virtio-gpu-pci".to_owned(),
            Gpu::QemuGl => "virtio-gpu-gl-pci".to_owned(),
            Gpu::VhostUserGpu(_) => format!("vhost-user-gpu-pci,chardev={id}-socket"),
            Gpu::VhostUserVga(_) => format!("vhost-user-vga,chardev={id}-socket"),
            Gpu::Generic(_) => {
                let words = "virtio-id=16,num_vqs=2,config_size=20";
                format!("vhost-user-test-device-pci,chardev={id}-socket,{words}")
            }
        })
    }

    /// The QMP commands, with their arguments, that plug this device into a port.
    pub fn hot_plug(&self, id: &str, port: &str) -> Result<Vec<(&'static str, Value)>> {
        if let Gpu::VfioUser(path) = self {
            return Ok(vec![("device_add", vfio_user(path, id, &format!("bus={port}")))]);
        }
        let (Some(device), Some(socket)) = (self.device(id), self.socket()) else { bail!("{self} is not hot-plugged") };
        let address = json!({"type": "unix", "data": {"path": socket}});
        let backend = json!({"type": "socket", "data": {"addr": address, "server": false}});
        let mut words = device.split(',');
        let mut arguments = json!({"driver": words.next(), "id": id, "bus": port});
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            arguments[name] = value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number));
        }
        Ok(vec![("chardev-add", json!({"id": format!("{id}-socket"), "backend": backend})), ("device_add", arguments)])
    }

    /// The QMP commands, with their arguments, that are left when the guest has let go of an unplugged device.
    pub fn hot_unplug(&self, id: &str) -> Vec<(&'static str, Value)> {
        match self {
            Gpu::VfioUser(_) => Vec::new(),
            _ => vec![("chardev-remove", json!({"id": format!("{id}-socket")}))],
        }
    }

    /// Whether QEMU itself shows this device's screen.
    pub(super) fn screen_in_qemu(&self) -> bool {
        matches!(self, Gpu::Qemu | Gpu::QemuGl | Gpu::VhostUserGpu(_) | Gpu::VhostUserVga(_))
    }

    fn socket(&self) -> Option<&Path> {
        match self {
            Gpu::None | Gpu::Qemu | Gpu::QemuGl | Gpu::VfioUser(_) => None,
            Gpu::VhostUserGpu(path) | Gpu::VhostUserVga(path) | Gpu::Generic(path) => Some(path),
        }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gpu::None => "no GPU",
            Gpu::Qemu => "virtio-gpu-pci",
            Gpu::QemuGl => "virtio-gpu-gl-pci",
            Gpu::VhostUserGpu(_) => "vhost-user-gpu-pci",
            Gpu::VhostUserVga(_) => "vhost-user-vga",
            Gpu::Generic(_) => "vhost-user-test-device-pci",
            Gpu::VfioUser(_) => "vfio-user-pci",
        })
    }
}

/// QEMU's client of vfio-user, as `-device` and `device_add` take it: its socket is a value in a value. Options are as in
/// `addr=2.0,multifunction=on`.
fn vfio_user(socket: &Path, id: &str, options: &str) -> Value {
    let mut device = json!({"driver": "vfio-user-pci", "id": id, "socket": {"type": "unix", "path": socket}});
    for (name, value) in options.split(',').filter_map(|word| word.split_once('=')) {
        device[name] = match value {
            "on" => json!(true),
            "off" => json!(false),
            _ => json!(value),
        };
    }
    device
}

/// An input device on a back-end's socket.
#[derive(Debug, Clone)]
pub enum Input {
    /// QEMU's vhost-user-input-pci, whose rings hold four events.
    VhostUserInput(PathBuf),
    /// QEMU's generic vhost-user device, whose rings hold as many as the back-end likes.
    Generic(PathBuf),
    /// QEMU's client of vfio-user, with options as in `addr=2.1`.
    VfioUser(PathBuf, &'static str),
}

impl Input {
    /// The `-device` value.
    fn device(&self, id: &str) -> String {
        match self {
            Input::VfioUser(path, options) => vfio_user(path, id, options).to_string(),
            Input::VhostUserInput(_) => format!("vhost-user-input-pci,chardev={id}-socket,id={id}"),
            Input::Generic(_) => {
                let words = "virtio-id=18,num_vqs=2,vq_size=64,config_size=136";
                format!("vhost-user-test-device-pci,chardev={id}-socket,id={id},{words}")
            }
        }
    }

    fn socket(&self) -> Option<&Path> {
        match self {
            Input::VhostUserInput(path) | Input::Generic(path) => Some(path),
            Input::VfioUser(..) => None,
        }
    }
}

/// Where the programs of a guest are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Initramfs,
    Desktop,
    Mesa,
    Service,
}

/// How a guest's memory is not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Private {
    /// It is no file: a back-end gets nothing.
    Anonymous,
    /// It is a file that QEMU maps privately: a back-end gets it, and sees nothing of the guest in it.
    File,
}

/// What runs before the guest's first program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// A BIOS.
    SeaBios,
    /// UEFI, with variables that are lost with the guest.
    Ovmf,
}

/// Who runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// QEMU's translator: works everywhere.
    #[default]
    Tcg,
    /// The processor.
    Kvm,
}

/// What every guest's kernel is told. Each of `cryptomgr.notests`, `rodata` and `init_on_alloc` spares a translated
/// processor about a second of its boot.
pub const KERNEL_WORDS: &str = "console=tty0 console=ttyS0 loglevel=6 mitigations=off no_timer_check tsc=reliable \
                                cryptomgr.notests rodata=off init_on_alloc=0 nokaslr rdinit=/init";

/// A guest to be booted.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) gpus: Vec<(Gpu, String)>,
    inputs: Vec<Input>,
    pub(super) accel: Accel,
    machine: &'static str,
    firmware: Option<Firmware>,
    disk: Option<PathBuf>,
    iommu: bool,
    memory: Vec<u32>,
    private_memory: Option<Private>,
    modules: Vec<&'static str>,
    root: Root,
    qemu: Option<PathBuf>,
    arguments: Vec<OsString>,
    kernel_words: String,
    real_mode: bool,
    window: Option<String>,
}

impl Config {
    /// A kernel, busybox and the agent: boots in a few seconds.
    pub fn mini() -> Self {
        Config {
            gpus: Vec::new(),
            inputs: Vec::new(),
            accel: Accel::Tcg,
            machine: "q35",
            firmware: None,
            disk: None,
            iommu: false,
            memory: vec![512],
            private_memory: None,
            modules: vec!["gpu"],
            root: Root::Initramfs,
            qemu: None,
            arguments: Vec::new(),
            kernel_words: String::new(),
            real_mode: false,
            window: None,
        }
    }

    /// A Debian with weston, Xorg and modetest, on a disk that is not written.
    pub fn desktop() -> Self {
        let modules = vec!["gpu", "disk", "input"];
        Config { root: Root::Desktop, memory: vec![1024], modules, ..Config::mini() }
    }

    /// A Debian with programs that draw by OpenGL and Vulkan, on a disk that is not written, and two processors.
    pub fn mesa() -> Self {
        let config = Config { root: Root::Mesa, memory: vec![1536], modules: vec!["gpu", "disk"], ..Config::mini() };
        config.arguments(["-smp", "2"])
    }

    /// The same as a host of vGPUs: systemd and udev, a real `/dev/udmabuf`, and no GPU. The agent is there before systemd is,
    /// see [`Guest::begin`](super::Guest::begin).
    pub fn service() -> Self {
        let modules = vec!["gpu", "disk", "udmabuf"];
        let config = Config { root: Root::Service, memory: vec![2048], modules, ..Config::mesa() };
        // Chance from the processor: systemd waits for some.
        let config = config.arguments(["-cpu", "qemu64,+rdrand"]);
        config.kernel_words(
            "beamsplit.over=/dev/vdb beamsplit.init systemd.unit=multi-user.target systemd.show_status=no",
        )
    }

    /// Adds a display device.
    #[must_use]
    pub fn gpu(self, gpu: Gpu) -> Self {
        self.gpu_with(gpu, "")
    }

    /// Adds a display device with more of its options, as in `max_outputs=2`.
    #[must_use]
    pub fn gpu_with(mut self, gpu: Gpu, options: &str) -> Self {
        self.gpus.push((gpu, options.to_owned()));
        self
    }

    /// Adds an input device, and has its driver loaded.
    #[must_use]
    pub fn input(mut self, input: Input) -> Self {
        self.inputs.push(input);
        if !self.modules.contains(&"input") {
            self.modules.push("input");
        }
        self
    }

    /// Sets the memory in MiB; several numbers make as many back-ends, each a NUMA node.
    #[must_use]
    pub fn memory(mut self, megabytes: &[u32]) -> Self {
        self.memory = megabytes.to_vec();
        self
    }

    /// Gives the guest memory that no back-end sees.
    #[must_use]
    pub fn private_memory(mut self, kind: Private) -> Self {
        self.private_memory = Some(kind);
        self
    }

    /// Chooses the machine: q35 or pc.
    #[must_use]
    pub fn machine(mut self, machine: &'static str) -> Self {
        self.machine = machine;
        self
    }

    /// Chooses the firmware and keeps what it says of itself. Without this it is a BIOS that nobody listens to.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = Some(firmware);
        self
    }

    /// Gives the guest an IOMMU, which its kernel uses. Only on q35.
    #[must_use]
    pub fn iommu(mut self) -> Self {
        self.iommu = true;
        self.kernel_words("intel_iommu=on")
    }

    /// Has the firmware start what is in a folder, which the guest sees as a FAT disk that is not written, and no kernel.
    #[must_use]
    pub fn disk(mut self, folder: &Path) -> Self {
        self.disk = Some(folder.to_owned());
        self
    }

    /// Chooses who runs the guest's instructions.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Chooses which groups of modules the agent loads: gpu, bochs, disk, input, udmabuf.
    #[must_use]
    pub fn modules(mut self, groups: &[&'static str]) -> Self {
        self.modules = groups.to_vec();
        self
    }

    /// Uses another QEMU than the bed's.
    #[must_use]
    pub fn qemu(mut self, program: PathBuf) -> Self {
        self.qemu = Some(program);
        self
    }

    /// Adds QEMU options.
    #[must_use]
    pub fn arguments<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds words to the kernel's command line.
    #[must_use]
    pub fn kernel_words(mut self, words: &str) -> Self {
        self.kernel_words = format!("{} {words}", self.kernel_words);
        self
    }

    /// Has the kernel start in real mode, as from a disk, which takes longer: it asks the BIOS what is there. Only so does it
    /// find a text screen, and wake from a suspend to memory.
    #[must_use]
    pub fn real_mode(mut self) -> Self {
        self.real_mode = true;
        self
    }

    /// Has QEMU show the guest in a window of its own, on an X server.
    #[must_use]
    pub fn window(mut self, server: &XServer) -> Self {
        self.window = Some(server.display());
        self
    }

    /// QEMU's command line. Its sockets and logs are in `dir`.
    pub(super) fn command(&self, dir: &Path) -> Result<Command> {
        let gl = self.gpus.iter().any(|(gpu, _)| matches!(gpu, Gpu::QemuGl));
        let mut qemu = match (&self.qemu, &self.window) {
            (Some(program), _) => Command::new(program),
            (None, None) if gl => bed::run::inside(bed::vm_window()?, "qemu-system-x86_64"),
            (None, None) => bed::run::qemu(bed::vm()?),
            (None, Some(_)) => bed::run::inside(bed::vm_window()?, "qemu-system-x86_64"),
        };
        qemu.args(["-nodefaults", "-no-user-config", "-vga", "none", "-display"]);
        match &self.window {
            // Without OpenGL it refuses a vhost-user GPU.
            Some(display) => qemu.arg("sdl,gl=on").env("DISPLAY", display).env("XDG_RUNTIME_DIR", dir),
            // A window that nobody sees: it has OpenGL all the same.
            None if gl => qemu.arg("sdl,gl=on").env("SDL_VIDEODRIVER", "offscreen").env("XDG_RUNTIME_DIR", dir),
            None => qemu.arg("none"),
        };
        match self.accel {
            Accel::Tcg => qemu.args(["-accel", "tcg"]),
            Accel::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        };
        self.add_memory(&mut qemu);
        if self.iommu {
            // Before all that is behind it.
            qemu.args(["-device", "intel-iommu,caching-mode=on"]);
        }
        self.add_firmware(&mut qemu, dir)?;
        self.add_system(&mut qemu)?;
        qemu.arg("-serial").arg(path_option("file:", &dir.join("console")));
        qemu.arg("-qmp").arg(path_option("unix:", &dir.join("qmp")).with(",server=on,wait=off"));
        qemu.args(["-device", "virtio-serial-pci"]).arg("-chardev");
        qemu.arg(path_option("socket,id=agent,path=", &dir.join("agent")).with(",server=on,wait=off"));
        qemu.arg("-device").arg(format!("virtserialport,chardev=agent,name={}", guest_agent::PORT));
        let disks = match self.root {
            Root::Initramfs => vec![],
            Root::Desktop => vec![bed::desktop()?],
            Root::Mesa => vec![bed::mesa_disk()?],
            Root::Service => vec![bed::mesa_disk()?, bed::service_disk()?],
        };
        for (index, disk) in disks.into_iter().enumerate() {
            let words = format!("if=none,id=disk{index},format=raw,readonly=on,file=");
            qemu.arg("-drive").arg(path_option(&words, disk));
            qemu.arg("-device").arg(format!("virtio-blk-pci,drive=disk{index}"));
        }
        for (index, (gpu, options)) in self.gpus.iter().enumerate() {
            let id = format!("gpu{index}");
            if let Some(socket) = gpu.socket() {
                qemu.arg("-chardev").arg(path_option(&format!("socket,id={id}-socket,path="), socket));
            }
            if let Gpu::VfioUser(path) = gpu {
                qemu.arg("-device").arg(vfio_user(path, &id, options).to_string());
            } else if let Some(device) = gpu.device(&id) {
                let comma = if options.is_empty() { "" } else { "," };
                qemu.arg("-device").arg(format!("{device},id={id}{comma}{options}"));
            }
        }
        for (index, input) in self.inputs.iter().enumerate() {
            let id = format!("input{index}");
            if let Some(socket) = input.socket() {
                qemu.arg("-chardev").arg(path_option(&format!("socket,id={id}-socket,path="), socket));
            }
            qemu.arg("-device").arg(input.device(&id));
        }
        qemu.args(&self.arguments);
        Ok(qemu)
    }

    /// Firmware, and its words as a file in `dir`.
    fn add_firmware(&self, qemu: &mut Command, dir: &Path) -> Result<()> {
        let Some(firmware) = self.firmware else { return Ok(()) };
        qemu.arg("-debugcon").arg(path_option("file:", &dir.join("firmware")));
        qemu.args(["-global", "isa-debugcon.iobase=0x402"]);
        if firmware == Firmware::Ovmf {
            let folder = bed::vm()?.file("usr/share/OVMF");
            let variables = dir.join("variables");
            fs::copy(folder.join("OVMF_VARS_4M.fd"), &variables).context("The bed has no OVMF")?;
            let code = folder.join("OVMF_CODE_4M.fd");
            qemu.arg("-drive").arg(path_option("if=pflash,format=raw,readonly=on,file=", &code));
            qemu.arg("-drive").arg(path_option("if=pflash,format=raw,file=", &variables));
        }
        Ok(())
    }

    /// A kernel, or what the firmware starts.
    fn add_system(&self, qemu: &mut Command) -> Result<()> {
        if let Some(folder) = &self.disk {
            let node = json!({"driver": "vvfat", "node-name": "files", "dir": folder, "read-only": true});
            qemu.arg("-blockdev").arg(node.to_string());
            qemu.args(["-device", "virtio-blk-pci,drive=files,bootindex=0"]);
            return Ok(());
        }
        qemu.arg("-kernel");
        match self.real_mode {
            true => qemu.arg(bed::kernel::packed(bed::linux()?)?),
            false => qemu.arg(bed::kernel()?),
        };
        qemu.arg("-initrd").arg(self.initramfs()?).arg("-append").arg(self.append());
        Ok(())
    }

    /// Its memory: such as a back-end can map, unless it is private.
    fn add_memory(&self, qemu: &mut Command) {
        if self.private_memory == Some(Private::Anonymous) {
            let total: u32 = self.memory.iter().sum();
            qemu.arg("-m").arg(format!("{total}M")).args(["-machine", self.machine]);
            return;
        }
        let share = if self.private_memory.is_some() { "off" } else { "on" };
        let object =
            |index: usize, size: u32| format!("memory-backend-memfd,id=memory{index},size={size}M,share={share}");
        let total: u32 = self.memory.iter().sum();
        qemu.arg("-m").arg(format!("{total}M"));
        for (index, size) in self.memory.iter().enumerate() {
            qemu.arg("-object").arg(object(index, *size));
        }
        if self.memory.len() == 1 {
            qemu.arg("-machine").arg(format!("{},memory-backend=memory0", self.machine));
        } else {
            qemu.args(["-machine", self.machine]);
            for index in 0..self.memory.len() {
                qemu.arg("-numa").arg(format!("node,memdev=memory{index}"));
            }
        }
    }

    /// The groups of modules in the initramfs: those that the agent loads, and the one that tests load themselves.
    fn carried(&self) -> Vec<&'static str> {
        let missing = Some("gpu").filter(|group| !self.modules.contains(group));
        self.modules.iter().copied().chain(missing).collect()
    }

    /// The initramfs that the agent comes in, which a disk for the firmware may hold.
    pub fn initramfs(&self) -> Result<PathBuf> {
        bed::initramfs(&self.carried())
    }

    /// The kernel's command line.
    pub fn append(&self) -> String {
        let root = if self.root == Root::Initramfs { "" } else { " beamsplit.root=/dev/vda" };
        format!("{KERNEL_WORDS} beamsplit.modules={}{root}{}", self.modules.join(","), self.kernel_words)
    }
}

/// An option of QEMU that ends in a path, in which commas are doubled.
fn path_option(before: &str, path: &Path) -> OsString {
    let mut option = OsString::from(before);
    option.push(path.to_string_lossy().replace(',', ",,"));
    option
}

trait With {
    fn with(self, end: &str) -> Self;
}

impl With for OsString {
    fn with(mut self, end: &str) -> Self {
        self.push(end);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vfio_user_device_is_plugged_with_a_socket_in_it_and_words_as_qemu_wants_them() {
        let gpu = Gpu::VfioUser("/run/a,b".into());
        let device = vfio_user(Path::new("/run/a,b"), "gpu0", "addr=2.0,multifunction=on");
        let expected = json!({
            "driver": "vfio-user-pci", "id": "gpu0", "addr": "2.0", "multifunction": true,
            "socket": {"type": "unix", "path": "/run/a,b"},
        });
        assert_eq!(device, expected);
        let plugged = gpu.hot_plug("gpu0", "port0").unwrap();
        assert_eq!(plugged[0].1["bus"], "port0");
        assert_eq!((plugged.len(), gpu.hot_unplug("gpu0").len()), (1, 0));
        assert!(!gpu.screen_in_qemu());
    }
}
