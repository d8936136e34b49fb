//! What a 3D library costs on this host, without a guest: on the thread that asks, in a process of its own, and behind the socket
//! of a peer.

mod child;
mod rig;
pub mod scene;

use std::fmt::Write;
use std::time::{Duration, Instant};

pub use child::{Processes, Programs, Start, serve_if_asked, start};
pub use rig::{Place, Rig};

use crate::error::Result;
use crate::timing::{Timing, sample};

/// Frames of the recorded stream.
const FRAMES: u32 = 200;

/// What something took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Times.
    pub timing: Timing,
    /// Sleeps of all threads of all processes for each operation.
    pub sleeps: f64,
    /// Microseconds of processor of all processes for each operation.
    pub cpu_us: f64,
}

/// Runs an operation for a while.
pub fn cost(rig: &mut Rig, budget: Duration, mut operation: impl FnMut(&mut Rig) -> Result<()>) -> Result<Cost> {
    let (sleeps, cpu, mut count) = (rig.sleeps()?, rig.cpu_time()?, 0u32);
    let timing = sample(budget, 1, || {
        count += 1;
        operation(rig)
    })?;
    let each = |total: u64| total as f64 / f64::from(count);
    Ok(Cost { timing, sleeps: each(rig.sleeps()? - sleeps), cpu_us: each(rig.cpu_time()? - cpu) / 1000.0 })
}

/// How often all threads of all processes slept for each of so many empty submits whose fence was waited for.
pub fn sleeps_of_a_fence(rig: &mut Rig, count: u32) -> Result<f64> {
    let bytes = words_as_bytes(&scene::empty());
    let operation = |rig: &mut Rig| {
        rig.submit_bytes(&bytes)?;
        rig.fence()
    };
    for _ in 0..count / 10 {
        operation(rig)?;
    }
    let before = rig.sleeps()?;
    for _ in 0..count {
        operation(rig)?;
    }
    Ok((rig.sleeps()? - before) as f64 / f64::from(count))
}

/// Commands as they are submitted.
pub fn words_as_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The rows of one place.
fn rows(place: Place, program: Start, budget: Duration, table: &mut String) -> Result<()> {
    let mut rig = Rig::with_scene(place, program)?;
    let name = match place {
        Place::InProcess => "in-process",
        Place::Isolated => "isolated",
    };
    let mut row = |what: &str, cost: Cost| {
        let Cost { timing, sleeps, cpu_us } = cost;
        let _ = writeln!(
            table,
            "| {what} | {name} | {:.1} | {:.1} | {sleeps:.2} | {cpu_us:.1} |",
            timing.p50_us, timing.p99_us
        );
    };
    let bytes = words_as_bytes(&scene::empty());
    row(
        "empty submit and fence",
        cost(&mut rig, budget, |rig| {
            rig.submit_bytes(&bytes)?;
            rig.fence()
        })?,
    );
    row("upload of 1 MiB", cost(&mut rig, budget, |rig| rig.upload(scene::UPLOAD, 1 << 20))?);
    let frames: Vec<_> = (0..FRAMES).map(|number| words_as_bytes(&scene::frame(number))).collect();
    let mut next = frames.iter().cycle();
    row(
        "frame of a cube, 256x256",
        cost(&mut rig, budget, |rig| {
            rig.submit_bytes(next.next().map_or(&[], |frame| frame))?;
            rig.fence()
        })?,
    );
    drop(rig);
    Ok(())
}

/// Measures all that is found, as a table in Markdown. `program` starts this program as a library's process.
pub fn table(budget: Duration, mut program: impl FnMut() -> Start) -> Result<String> {
    let mut table = String::from("| | | p50 us | p99 us | sleeps | CPU us |\n|---|---|---|---|---|---|\n");
    let begin = Instant::now();
    rows(Place::InProcess, program(), budget, &mut table)?;
    rows(Place::Isolated, program(), budget, &mut table)?;
    let _ = writeln!(table, "\n{:.0} s on {} cores", begin.elapsed().as_secs_f32(), crate::process::cores()?.len());
    Ok(table)
}
