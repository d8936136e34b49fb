//! What guests draw, and what it took.

use anyhow::{Context, Result, ensure};
use bench::process::cpu_time;
use rustix::process::Pid;
use tests::bed::apt::checked;
use tests::process::descendants;
use tests::scene::{self, VENUS};
use tests::{Guest, Scene, bed, workspace};

use crate::cards::{Who, card};

/// Frames before those that are measured: programs start, shaders are translated.
const WARM: u32 = 50;
/// Of vkmark, which draws for so many seconds: what a run costs besides its frames is seen by the short one.
const SECONDS: (u32, u32) = (1, 5);

/// A program of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Small frames by OpenGL, so many of them.
    Gl,
    /// Small frames by Vulkan, so many of them, each waited for.
    Vulkan,
    /// vkmark without a window, for some seconds a scene.
    Vkmark,
}

/// What a scene took.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Its name.
    pub scene: &'static str,
    /// Frames a second.
    pub rate: f64,
    /// Seconds of processor that all processes of the host took for a hundred frames.
    pub cpu: f64,
    /// How often the card interrupted its guest for a frame.
    pub interrupts: f64,
}

impl Program {
    /// All of them.
    pub const ALL: [Program; 3] = [Program::Gl, Program::Vulkan, Program::Vkmark];

    /// As rows are chosen by.
    pub fn name(self) -> &'static str {
        match self {
            Program::Gl => "gl",
            Program::Vulkan => "vulkan",
            Program::Vkmark => "vkmark",
        }
    }

    /// The scenes it draws, by the names of rows.
    pub fn scenes(self) -> &'static [&'static str] {
        match self {
            Program::Gl => &["OpenGL"],
            Program::Vulkan => &["Vulkan"],
            Program::Vkmark => &["vkmark clear", "vkmark vertex", "vkmark cube"],
        }
    }
}

/// Boots a guest that draws.
pub fn measure(program: Program, who: Who, frames: u32) -> Result<Vec<Measured>> {
    let scratch = workspace::scratch("rendering-")?;
    let (_server, config) = card(program, who, scratch.path())?;
    let mut guest = Guest::boot(config)?;
    let (environment, expected) = if program == Program::Gl { ("", "virgl") } else { (VENUS, "Venus") };
    if program == Program::Vkmark {
        return program.scenes().iter().map(|scene| vkmark(&mut guest, scene)).collect();
    }
    scene::bring(&mut guest)?;
    let mut run = |frames| counted(&mut guest, |guest| Scene::in_guest(guest, environment, program.name(), frames));
    // The first one warms caches; the second one costs what the third one costs besides its frames.
    let first = run(WARM)?.0;
    ensure!(first.renderer.contains(expected), "Drawn by {}", first.renderer);
    let (short, long) = (run(WARM)?, run(WARM + frames)?);
    let cost = (long.1 - short.1).of(f64::from(frames));
    Ok(program.scenes().iter().map(|scene| cost.measured(scene, long.0.rate)).collect())
}

/// A scene of vkmark in a guest.
fn vkmark(guest: &mut Guest, scene: &'static str) -> Result<Measured> {
    let mut run = |seconds| {
        counted(guest, |guest| {
            let words = guest.run(&format!("{VENUS} {}", vkmark_command(scene, seconds)))?.text();
            ensure!(words.contains("Venus"), "Drawn by another: {words}");
            rate_of(&words)
        })
    };
    run(SECONDS.0)?;
    let (short, long) = (run(SECONDS.0)?, run(SECONDS.1)?);
    let frames = long.0 * f64::from(SECONDS.1) - short.0 * f64::from(SECONDS.0);
    Ok((long.1 - short.1).of(frames).measured(scene, long.0))
}

fn vkmark_command(scene: &str, seconds: u32) -> String {
    let scene = scene.rsplit(' ').next().unwrap_or(scene);
    format!("vkmark --winsys headless -s 256x256 -b {scene}:duration={seconds}")
}

/// Frames a second, as vkmark says them.
fn rate_of(words: &str) -> Result<f64> {
    let rate = words.split_once("FPS: ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    rate.with_context(|| format!("vkmark says no rate: {words}"))
}

/// The same drawn by the host, without a guest.
pub fn on_host(program: Program, frames: u32) -> Result<Vec<Measured>> {
    let drawn = |scene: &&'static str| {
        let rate = match program {
            Program::Gl | Program::Vulkan => Scene::on_host(program.name(), frames)?.rate,
            Program::Vkmark => {
                let command = vkmark_command(scene, SECONDS.1);
                let mut words = command.split(' ');
                let mut command = bed::run::inside(bed::mesa()?, words.next().unwrap_or_default());
                command.args(words);
                rate_of(&String::from_utf8_lossy(&checked(command)?.stdout))?
            }
        };
        Ok(Measured { scene, rate, cpu: 0.0, interrupts: 0.0 })
    };
    program.scenes().iter().map(drawn).collect()
}

/// What has a cost besides time.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Seconds that all that this process started, and that still runs, was on a processor.
    cpu: f64,
    /// Interrupts of the guest's card.
    interrupts: f64,
}

impl std::ops::Sub for Cost {
    type Output = Cost;

    fn sub(self, before: Cost) -> Cost {
        Cost { cpu: self.cpu - before.cpu, interrupts: self.interrupts - before.interrupts }
    }
}

impl Cost {
    fn now(guest: &mut Guest) -> Result<Cost> {
        let words = guest.run("cat /proc/interrupts")?.text();
        let numbers = |line: &str| line.split_whitespace().filter_map(|word| word.parse::<f64>().ok()).sum::<f64>();
        let interrupts = words.lines().filter(|line| line.trim_end().ends_with("-control")).map(numbers).sum();
        let processes = descendants(std::process::id())?;
        let pids = processes.into_iter().filter_map(|(id, _)| Pid::from_raw(id.cast_signed()));
        Ok(Cost { cpu: pids.filter_map(|pid| cpu_time(pid).ok()).sum::<u64>() as f64 / 1e9, interrupts })
    }

    /// Of one frame.
    fn of(self, frames: f64) -> Cost {
        Cost { cpu: self.cpu / frames, interrupts: self.interrupts / frames }
    }

    fn measured(self, scene: &'static str, rate: f64) -> Measured {
        Measured { scene, rate, cpu: self.cpu * 100.0, interrupts: self.interrupts }
    }
}

/// What something returned, and what it cost.
fn counted<T>(guest: &mut Guest, run: impl FnOnce(&mut Guest) -> Result<T>) -> Result<(T, Cost)> {
    let before = Cost::now(guest)?;
    let done = run(guest)?;
    Ok((done, Cost::now(guest)? - before))
}
