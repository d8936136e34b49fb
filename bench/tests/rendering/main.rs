//! What a guest's OpenGL and Vulkan cost, drawn by the host: Beamsplit's device beside QEMU's own in its process and its daemon.
//!
//! A measurement: `cargo xtask bench rendering`. It prints a table. Everyone boots in turn, in each round, so that a machine that
//! others use is as slow for one as for the next.

mod cards;
mod programs;

use std::fmt::Write;

use anyhow::{Result, ensure};
use bench::timing::median;
use tests::progress::say;

use cards::Who;
use programs::{Measured, Program};

/// Names another number of rounds.
const ROUNDS: &str = "BEAMSPLIT_ROUNDS";
/// Names another number of frames, of programs that draw so many.
const FRAMES: &str = "BEAMSPLIT_FRAMES";
/// Names a word that the rows must have that are measured: of the program, or of who draws.
const ONLY: &str = "BEAMSPLIT_ROWS";

/// What one guest draws, which becomes a row for each scene.
struct Boot {
    program: Program,
    who: Who,
    measured: Vec<Measured>,
    failed: Option<String>,
}

impl Boot {
    fn new(program: Program, who: Who) -> Self {
        Self { program, who, measured: Vec::new(), failed: None }
    }

    fn name(&self) -> String {
        format!("{}, {}", self.program.name(), self.who.name(self.program))
    }

    /// Of a scene, the median of each number by itself.
    fn medians(&self, scene: &'static str) -> Option<Measured> {
        let of = |number: fn(&Measured) -> f64| {
            median(self.measured.iter().filter(|measured| measured.scene == scene).map(number))
        };
        let (rate, cpu) = (of(|measured| measured.rate)?, of(|measured| measured.cpu)?);
        Some(Measured { scene, rate, cpu, interrupts: of(|measured| measured.interrupts)? })
    }
}

#[test]
#[ignore = "a measurement, which prints a table"]
fn what_drawing_costs_a_guest() -> Result<()> {
    let mut boots: Vec<Boot> = Program::ALL
        .into_iter()
        .flat_map(|program| Who::of(program).iter().map(move |who| Boot::new(program, *who)))
        .collect();
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, frames) = (number(ROUNDS, 3), number(FRAMES, 1000));
    let only = std::env::var(ONLY).unwrap_or_default();
    boots.retain(|boot| boot.name().contains(&only));
    for round in 0..rounds {
        for boot in boots.iter_mut().filter(|boot| boot.failed.is_none()) {
            match programs::measure(boot.program, boot.who, frames) {
                Ok(measured) => {
                    for Measured { scene, rate, cpu, interrupts } in &measured {
                        say(format_args!(
                            "round {round}: {}, {scene}: {rate:.0} frames/s, {cpu:.3} s CPU, {interrupts:.2} interrupts",
                            boot.name()
                        ));
                    }
                    boot.measured.extend(measured);
                }
                Err(error) => {
                    say(format_args!("{}: {error:#}", boot.name()));
                    boot.failed = Some(error.root_cause().to_string());
                }
            }
        }
    }
    let hosts = Program::ALL.into_iter().filter(|program| boots.iter().any(|boot| boot.program == *program));
    let hosts: Vec<Measured> =
        hosts.map(|program| programs::on_host(program, frames)).collect::<Result<Vec<_>>>()?.concat();
    println!("\n{}", table(&boots, &hosts));
    for boot in &boots {
        if let Some(why) = &boot.failed {
            println!("{} was not measured: {}", boot.name(), why.lines().next().unwrap_or_default());
        }
    }
    ensure!(boots.iter().all(|boot| boot.who != Who::Beamsplit || boot.failed.is_none()), "Our own did not draw");
    Ok(())
}

/// In Markdown: what each made of each scene, and how many times as fast and as dear Beamsplit is.
fn table(boots: &[Boot], hosts: &[Measured]) -> String {
    let mut text = String::from("| scene | drawn by | frames/s | ms | CPU s for 100 frames | interrupts a frame | ");
    text.push_str("Beamsplit's rate | its CPU |\n|---|---|---:|---:|---:|---:|---:|---:|\n");
    for Measured { scene, rate, .. } in hosts {
        let ours = boots.iter().filter(|boot| boot.who == Who::Beamsplit).find_map(|boot| boot.medians(scene));
        for boot in boots.iter().filter(|boot| boot.program.scenes().contains(scene)) {
            let name = boot.who.name(boot.program);
            let Some(Measured { rate, cpu, interrupts, .. }) = boot.medians(scene) else {
                let _ = writeln!(text, "| {scene} | {name} | - | - | - | - | - | - |");
                continue;
            };
            let ms = 1000.0 / rate;
            let _ = write!(text, "| {scene} | {name} | {rate:.0} | {ms:.2} | {cpu:.3} | {interrupts:.2} | ");
            let _ = match &ours {
                Some(ours) if boot.who != Who::Beamsplit => {
                    writeln!(text, "{:.2}x | {:.2}x |", ours.rate / rate, ours.cpu / cpu)
                }
                _ => writeln!(text, "| |"),
            };
        }
        let ms = 1000.0 / rate;
        let _ = writeln!(text, "| {scene} | the host for itself, no guest | {rate:.0} | {ms:.2} | | | | |");
    }
    text
}
