//! What a guest's OpenGL and Vulkan cost, drawn by the host: Beamsplit's device beside QEMU's own in its process and its daemon.
//!
//! A measurement: `cargo xtask bench rendering`. It prints a table.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench::process::cpu_time;
use bench::timing::median;
use rustix::process::Pid;
use tests::device::is_listening;
use tests::process::{Process, descendants, wait_until};
use tests::{Config, Device, Gpu, Guest, Scene, bed, scene, workspace};

/// Frames before those that are measured: programs start, shaders are translated.
const WARM: u32 = 50;
/// Frames that are measured.
const FRAMES: u32 = 1000;
/// Names another number of rounds.
const ROUNDS: &str = "BEAMSPLIT_ROUNDS";
/// Names a word that the rows must have that are measured.
const ONLY: &str = "BEAMSPLIT_ROWS";
/// Of the guest's Vulkan drivers the one that the host draws for.
const VENUS: &str = "VK_DRIVER_FILES=/usr/share/vulkan/icd.d/virtio_icd.json";
const OPTIONS: [&str; 4] = ["--display", "none", "--heads", "640x480"];

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What serves a guest's card, and ends with this.
#[allow(dead_code)]
enum Server {
    Device(Device),
    Daemon(Process),
    Qemu,
}

/// Who draws for a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Beamsplit,
    QemuInProcess,
    QemuDaemon,
}

/// A line of the table.
struct Row {
    name: &'static str,
    kind: &'static str,
    who: Who,
    rates: Vec<f64>,
    cpu: Vec<f64>,
    failed: Option<String>,
}

#[test]
#[ignore = "a measurement, which prints a table"]
fn what_drawing_costs_a_guest() -> Result<()> {
    let row = |name, kind, who| Row { name, kind, who, rates: Vec::new(), cpu: Vec::new(), failed: None };
    let mut rows = [
        row("beamsplit, vhost-user-gpu", "gl", Who::Beamsplit),
        row("QEMU's virtio-gpu-gl, in its process", "gl", Who::QemuInProcess),
        row("QEMU's vhost-user-gpu --virgl", "gl", Who::QemuDaemon),
        row("beamsplit, generic vhost-user device", "vulkan", Who::Beamsplit),
        row("QEMU's virtio-gpu-gl with Venus, in its process", "vulkan", Who::QemuInProcess),
    ];
    let rounds = std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let only = std::env::var(ONLY).unwrap_or_default();
    for round in 0..rounds {
        for row in rows.iter_mut().filter(|row| row.failed.is_none() && row.name.contains(&only)) {
            match measure(row.kind, row.who) {
                Ok((rate, cpu)) => {
                    println!("round {round}: {}, {}: {rate:.0} frames/s, {cpu:.2} s CPU", row.name, row.kind);
                    row.rates.push(rate);
                    row.cpu.push(cpu);
                }
                Err(error) => row.failed = Some(format!("{error:#}")),
            }
        }
    }
    let host = |kind| Scene::on_host(kind, FRAMES).map(|scene| scene.rate);
    println!("\n| scene | drawn by | frames/s | CPU seconds for 100 frames |\n|---|---|---:|---:|");
    for row in &rows {
        let number = |numbers: &[f64], digits: usize| match median(numbers.iter().copied()) {
            Some(number) => format!("{number:.digits$}"),
            None => "-".to_owned(),
        };
        println!("| {} | {} | {} | {} |", row.kind, row.name, number(&row.rates, 0), number(&row.cpu, 2));
    }
    for kind in ["gl", "vulkan"] {
        println!("| {kind} | the host for itself, no guest | {:.0} | |", host(kind)?);
    }
    for row in &rows {
        if let Some(why) = &row.failed {
            println!("\n{} ({}) was not measured: {}", row.name, row.kind, why.lines().next().unwrap_or_default());
        }
    }
    ensure!(rows.iter().all(|row| row.who != Who::Beamsplit || row.failed.is_none()), "Our own did not draw");
    Ok(())
}

/// Frames a second, and seconds that all processes of the host took for a hundred of them.
fn measure(kind: &str, who: Who) -> Result<(f64, f64)> {
    let scratch = workspace::scratch("rendering-")?;
    let (_server, config) = card(kind, who, scratch.path())?;
    let mut guest = Guest::boot(config)?;
    scene::bring(&mut guest)?;
    let environment = if kind == "vulkan" { VENUS } else { "" };
    let mut run = |frames| -> Result<(Scene, f64)> {
        let before = cpu()?;
        let scene = Scene::in_guest(&mut guest, environment, kind, frames)?;
        Ok((scene, cpu()? - before))
    };
    // The first one warms caches; the second one costs what the third one costs besides its frames.
    let first = run(WARM)?.0;
    let expected = if kind == "vulkan" { "Venus" } else { "virgl" };
    ensure!(first.renderer.contains(expected), "Drawn by {}", first.renderer);
    let (short, long) = (run(WARM)?, run(WARM + FRAMES)?);
    Ok((long.0.rate, (long.1 - short.1) / f64::from(FRAMES) * 100.0))
}

/// A guest's card, and who serves it.
fn card(kind: &str, who: Who, scratch: &Path) -> Result<(Server, Config)> {
    let config = Config::mesa();
    Ok(match (kind, who) {
        ("vulkan", Who::Beamsplit) => {
            let device = Device::spawn_rendering(&OPTIONS)?;
            let config = config.gpu(Gpu::generic(&device));
            (Server::Device(device), config)
        }
        (_, Who::Beamsplit) => {
            let device = Device::spawn_rendering(&[&OPTIONS[..], &["--capsets", "virgl,virgl2"]].concat())?;
            let config = config.gpu(Gpu::vhost_user_gpu(&device));
            (Server::Device(device), config)
        }
        ("vulkan", Who::QemuInProcess) => {
            let config = config.gpu_with(Gpu::QemuGl, "hostmem=1G,blob=on,venus=on").qemu(qemu_with_venus(scratch)?);
            (Server::Qemu, config)
        }
        (_, Who::QemuInProcess) => (Server::Qemu, config.gpu(Gpu::QemuGl)),
        (_, Who::QemuDaemon) => {
            let socket = scratch.join("gpu");
            let daemon = daemon(&socket, scratch)?;
            (Server::Daemon(daemon), config.gpu(Gpu::VhostUserGpu(socket)))
        }
    })
}

/// QEMU's daemon with OpenGL, which needs a render node where there is none: the stand-in has the library do without.
fn daemon(socket: &Path, scratch: &Path) -> Result<Process> {
    let mut command = bed::run::with_udmabuf(bed::mesa()?, "/usr/bin/env")?;
    let tools = bed::tools()?;
    let libraries = format!("LD_LIBRARY_PATH=/{LIBRARIES}:{}", tools.file(LIBRARIES).display());
    command.arg(libraries).arg(tools.file("usr/lib/qemu/vhost-user-gpu"));
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

/// Seconds that all that this process started, and that still runs, was on a processor.
fn cpu() -> Result<f64> {
    let processes = descendants(std::process::id())?;
    let pids = processes.into_iter().filter_map(|(id, _)| Pid::from_raw(id.cast_signed()));
    Ok(pids.filter_map(|pid| cpu_time(pid).ok()).sum::<u64>() as f64 / 1e9)
}
