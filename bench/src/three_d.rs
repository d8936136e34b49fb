//! What a 3D library costs on this host, without a guest: on the thread that asks, in a process of its own, and behind the socket
//! of a peer.
//!
//! A process can start the library once, so that each place is measured by a process of its own: this program again, with
//! `--three-d-place`.

mod child;
pub mod programs;
mod rig;
pub mod scene;
mod service;
mod vtest;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub use child::{Processes, Programs, Start, serve_if_asked, start};
pub use rig::{Place, Rig};
pub use vtest::Peer;

use renderer::library::Kind;

use crate::error::{Doing, Result};
use crate::timing::{Timing, sample};

/// Frames of the recorded stream.
const FRAMES: u32 = 200;
/// Bytes of a blob that is mapped.
const BLOB: u64 = 1 << 20;

/// Where it is measured, by the name of the row's group.
pub const PLACES: [&str; 5] = ["in-process", "isolated", "vtest", "in-process-vulkan", "isolated-vulkan"];

/// Whose sleeps and time are counted.
trait Counted {
    fn sleeps(&self) -> Result<u64>;
    fn cpu_time(&self) -> Result<u64>;
}

impl Counted for Rig {
    fn sleeps(&self) -> Result<u64> {
        Rig::sleeps(self)
    }

    fn cpu_time(&self) -> Result<u64> {
        Rig::cpu_time(self)
    }
}

impl Counted for Peer {
    fn sleeps(&self) -> Result<u64> {
        Peer::sleeps(self)
    }

    fn cpu_time(&self) -> Result<u64> {
        Peer::cpu_time(self)
    }
}

/// Rows of the table of one place.
struct Rows {
    place: &'static str,
    budget: Duration,
    text: String,
}

impl Rows {
    /// Runs an operation for a while, and says what it took: times, sleeps of all threads of all processes, and their time on a
    /// processor.
    fn row<C: Counted>(
        &mut self,
        what: &str,
        rig: &mut C,
        mut operation: impl FnMut(&mut C) -> Result<()>,
    ) -> Result<()> {
        let (sleeps, cpu, mut count) = (rig.sleeps()?, rig.cpu_time()?, 0u32);
        let Timing { p50_us, p99_us, .. } = sample(self.budget, 1, || {
            count += 1;
            operation(rig)
        })?;
        let each = |total: u64| total as f64 / f64::from(count);
        let (sleeps, cpu) = (each(rig.sleeps()? - sleeps), each(rig.cpu_time()? - cpu) / 1000.0);
        let place = self.place;
        let _ = writeln!(self.text, "| {what} | {place} | {p50_us:.1} | {p99_us:.1} | {sleeps:.2} | {cpu:.1} |");
        Ok(())
    }

    fn opengl(&mut self, rig: &mut Rig) -> Result<()> {
        let empty = words_as_bytes(&scene::empty());
        self.row("empty submit", rig, |rig| rig.submit_alone(&empty))?;
        self.row("empty submit and fence", rig, |rig| {
            rig.submit_bytes(&empty)?;
            rig.fence()
        })?;
        self.row("upload of 1 MiB", rig, |rig| rig.upload(scene::UPLOAD, 1 << 20))?;
        let frames = frames();
        let mut next = frames.iter().cycle();
        self.row("frame of a cube, 256x256", rig, |rig| {
            rig.submit_bytes(next.next().map_or(&[], |frame| frame))?;
            rig.fence()
        })
    }

    fn peer(&mut self, peer: &mut Peer) -> Result<()> {
        let empty = words_as_bytes(&scene::empty());
        self.row("empty submit and fence", peer, |peer| {
            peer.submit(&empty)?;
            peer.wait()
        })?;
        let bytes = vec![0x55; 1 << 20];
        self.row("upload of 1 MiB", peer, |peer| {
            peer.put(scene::UPLOAD, &bytes)?;
            peer.wait()
        })?;
        let frames = frames();
        let mut next = frames.iter().cycle();
        self.row("frame of a cube, 256x256", peer, |peer| {
            peer.submit(next.next().map_or(&[], |frame| frame))?;
            peer.wait()
        })
    }

    fn vulkan(&mut self, rig: &mut Rig) -> Result<()> {
        self.row("blob of 1 MiB, made and gone", rig, |rig| rig.blob(BLOB).map(drop))
    }
}

fn frames() -> Vec<Vec<u8>> {
    (0..FRAMES).map(|number| words_as_bytes(&scene::frame(number))).collect()
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

/// Words as they are sent.
pub fn words_as_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The rows of one of [`PLACES`], measured in this process.
pub fn rows(place: &str, folder: &Path, budget: Duration) -> Result<String> {
    let Some(place) = PLACES.into_iter().find(|known| *known == place) else {
        return Err(crate::error::Error::NotDone(format!("There is no place {place}: {}", PLACES.join(", "))));
    };
    let program = || -> Start { Box::new(|| Ok(Command::new(std::env::current_exe()?))) };
    let mut rows = Rows { place, budget, text: String::new() };
    match place {
        "in-process" => rows.opengl(&mut Rig::with_scene(Place::InProcess, program())?)?,
        "isolated" => rows.opengl(&mut Rig::with_scene(Place::Isolated, program())?)?,
        "vtest" => match vtest::program() {
            Some(server) => rows.peer(&mut Peer::with_scene(&server, folder)?)?,
            None => rows.text.push_str("| virgl_test_server is not here | vtest | | | | |\n"),
        },
        "in-process-vulkan" => rows.vulkan(&mut Rig::new(Place::InProcess, Kind::Vk, program())?)?,
        "isolated-vulkan" => rows.vulkan(&mut Rig::new(Place::Isolated, Kind::Vk, program())?)?,
        _ => {}
    }
    Ok(rows.text)
}

/// Measures all places in turn, so many times, as a table in Markdown.
pub fn table(rounds: usize, budget: Duration) -> Result<String> {
    let mut table = String::from("| | | p50 us | p99 us | sleeps | CPU us |\n|---|---|---|---|---|---|\n");
    for _ in 0..rounds.max(1) {
        for place in PLACES {
            let mut command = Command::new(std::env::current_exe().doing("find this program")?);
            command.args(["--three-d-place", place, "--time", &budget.as_millis().to_string()]);
            let output = command.stderr(Stdio::inherit()).output().doing("start this program again")?;
            let text = String::from_utf8_lossy(&output.stdout);
            match output.status.success() {
                true => table.push_str(&text),
                false => table.push_str(&format!("| not measured | {place} | | | | |\n")),
            }
        }
    }
    Ok(table)
}
