//! Guests' cards, and who serves them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::device::is_listening;
use tests::process::{Process, wait_until};
use tests::{Config, Device, Gpu, bed, workspace};

use crate::programs::Program;

const OPTIONS: [&str; 4] = ["--display", "none", "--heads", "640x480"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Who draws for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Beamsplit, the 3D library in a process of its own.
    Beamsplit,
    /// Beamsplit with the library in its own process.
    NotIsolated,
    /// QEMU in its own process.
    QemuInProcess,
    /// QEMU's daemon.
    QemuDaemon,
}

impl Who {
    /// Those who can run a program for a guest.
    pub fn of(program: Program) -> &'static [Who] {
        match program {
            Program::Gl => &[Who::Beamsplit, Who::NotIsolated, Who::QemuInProcess, Who::QemuDaemon],
            // QEMU's daemon offers no Vulkan.
            Program::Vulkan | Program::Vkmark => &[Who::Beamsplit, Who::NotIsolated, Who::QemuInProcess],
        }
    }

    /// As the table says it.
    pub fn name(self, program: Program) -> &'static str {
        match (self, program) {
            (Who::Beamsplit, Program::Gl) => "Beamsplit, vhost-user-gpu",
            (Who::Beamsplit, _) => "Beamsplit, generic vhost-user device",
            (Who::NotIsolated, Program::Gl) => "Beamsplit --isolate off, vhost-user-gpu",
            (Who::NotIsolated, _) => "Beamsplit --isolate off, generic vhost-user device",
            (Who::QemuInProcess, Program::Gl) => "QEMU's virtio-gpu-gl, in its process",
            (Who::QemuInProcess, _) => "QEMU's virtio-gpu-gl with Venus, in its process",
            (Who::QemuDaemon, _) => "QEMU's vhost-user-gpu --virgl",
        }
    }
}

/// What serves a guest's card, and ends with this.
pub enum Server {
    /// Ours.
    Device { _device: Device },
    /// QEMU's daemon.
    Daemon { _process: Process },
    /// The guest's own QEMU.
    Qemu,
}

/// A guest's card, and who serves it.
pub fn card(program: Program, who: Who, scratch: &Path) -> Result<(Server, Config)> {
    let config = Config::mesa();
    Ok(match (program, who) {
        (_, Who::Beamsplit | Who::NotIsolated) => {
            let isolate: &[&str] = if who == Who::NotIsolated { &["--isolate", "off"] } else { &[] };
            let capsets: &[&str] = if program == Program::Gl { &["--capsets", "virgl,virgl2"] } else { &[] };
            let device = Device::spawn_rendering(&[&OPTIONS, capsets, isolate].concat())?;
            let gpu = if program == Program::Gl { Gpu::vhost_user_gpu(&device) } else { Gpu::generic(&device) };
            (Server::Device { _device: device }, config.gpu(gpu))
        }
        (Program::Gl, Who::QemuInProcess) => (Server::Qemu, config.gpu(Gpu::QemuGl)),
        (_, Who::QemuInProcess) => {
            let config = config.gpu_with(Gpu::QemuGl, "hostmem=1G,blob=on,venus=on").qemu(qemu_with_venus(scratch)?);
            (Server::Qemu, config)
        }
        (_, Who::QemuDaemon) => {
            let socket = scratch.join("gpu");
            let process = daemon(&socket, scratch)?;
            (Server::Daemon { _process: process }, config.gpu(Gpu::VhostUserGpu(socket)))
        }
    })
}

/// QEMU's daemon with OpenGL, which needs a render node where there is none: a library before virglrenderer has that do without.
fn daemon(socket: &Path, scratch: &Path) -> Result<Process> {
    let stand_in = workspace::built("beamsplit-surfaceless-stand-in", "libsurfaceless_stand_in.so")?;
    let mut command = bed::run::inside(bed::mesa()?, "/usr/bin/env");
    let tools = bed::tools()?;
    command.arg(format!("LD_PRELOAD={}", stand_in.display()));
    // The daemon's own libraries come after those of the tree that all the others draw with.
    command.arg(format!("LD_LIBRARY_PATH=/{LIBRARIES}:{}", tools.file(LIBRARIES).display()));
    command.arg(tools.file("usr/lib/qemu/vhost-user-gpu"));
    command.arg(format!("--socket-path={}", socket.display())).arg("--virgl");
    let mut process = Process::spawn(command, "vhost-user-gpu", &scratch.join("daemon.log"))?;
    wait_until(60, "QEMU's daemon", || {
        ensure!(process.is_running(), "It ended: {}", process.log_tail());
        Ok(is_listening(socket)?.then_some(()))
    })?;
    Ok(process)
}

/// QEMU with a window, which has no render server of its own, with that of the tree of Mesa: they are of one Debian.
fn qemu_with_venus(scratch: &Path) -> Result<PathBuf> {
    let mesa = bed::mesa()?;
    let mut command = bed::run::with_udmabuf(bed::vm_window()?, "/usr/bin/env")?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    command.arg(format!("RENDER_SERVER_EXEC_PATH={}", text(mesa.file("usr/libexec/virgl_render_server"))));
    command.arg(format!("LD_LIBRARY_PATH={}", text(mesa.file(LIBRARIES))));
    command.arg(format!("VK_DRIVER_FILES={}", text(mesa.file("usr/share/vulkan/icd.d/lvp_icd.json"))));
    command.arg("qemu-system-x86_64");
    script(&command, &scratch.join("qemu"))
}

/// A program that runs a command with its own words after it.
fn script(command: &Command, path: &Path) -> Result<PathBuf> {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = bed::run::words(command).lines().map(quoted).collect();
    let text = format!("#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexec {} \"$@\"\n", words.join(" "));
    fs::write(path, text).with_context(|| format!("Cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_path_buf())
}
