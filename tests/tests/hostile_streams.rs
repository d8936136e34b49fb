//! Malformed streams against the real library: what a guest says to it may cost the guest its contexts, and nothing else.

#[allow(dead_code)]
#[path = "../../crates/device/tests/gpu/asks.rs"]
mod asks;
#[path = "hostile_streams/corpus.rs"]
mod corpus;
#[path = "hostile_streams/host.rs"]
mod host;
#[allow(dead_code)]
#[path = "hostile_streams/venus.rs"]
mod venus;
#[allow(dead_code)]
#[path = "hostile_streams/virgl.rs"]
mod virgl;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host::Host;
use rustix::process::Signal;
use tests::bed;

/// A stream that has not ended by then is a hang, and not a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors and memory of this process are counted: one test at a time has any.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Its process runs this test alone, with a socket; without one there is nothing to serve.
#[test]
fn a_child_serves_its_socket() -> Result<()> {
    Ok(bench::three_d::serve_if_asked()?)
}

#[test]
fn streams_of_opengl_cost_their_guest_its_contexts_at_most() -> Result<()> {
    let _alone = alone();
    let mut host = Host::new(bed::mesa()?, PATIENCE)?;
    host.draws().context("Before any case")?;
    ensure!(host.play_virgl(&[corpus::usual()])? == 0, "What the cases begin with is not understood itself");
    let mut told = Told::default();
    for (name, streams) in corpus::virgl() {
        let deaths = host.stats().renderer_deaths.get();
        let case = || format!("In or after {name}");
        let refused = host.play_virgl(&streams).with_context(case)?;
        host.is_well().with_context(case)?;
        host.draws().with_context(case)?;
        told.add(&name, streams.len(), refused, host.stats().renderer_deaths.get() - deaths);
    }
    told.end(&host)
}

#[test]
fn streams_of_vulkan_cost_their_guest_its_contexts_at_most() -> Result<()> {
    let _alone = alone();
    let mut host = Host::new(bed::mesa()?, PATIENCE)?;
    host.shares().context("Before any case")?;
    ensure!(host.play_venus(&[], &[venus::usual()])? == 0, "What the cases begin with is not understood itself");
    let mut told = Told::default();
    for (name, ring, streams) in venus::venus() {
        let deaths = host.stats().renderer_deaths.get();
        let case = || format!("In or after {name}");
        let refused = host.play_venus(&ring, &streams).with_context(case)?;
        host.is_well().with_context(case)?;
        host.shares().with_context(case)?;
        told.add(&name, streams.len(), refused, host.stats().renderer_deaths.get() - deaths);
    }
    told.end(&host)
}

/// virglrenderer 1.1 dies of one in two hundred if it is let.
#[test]
fn a_context_may_be_closed_behind_its_fences() -> Result<()> {
    const CONTEXTS: u32 = 1000;
    let _alone = alone();
    let mut host = Host::new(bed::mesa()?, PATIENCE)?;
    for context in 0..CONTEXTS {
        host.draws().with_context(|| format!("In context {context}"))?;
    }
    ensure!(host.stats().renderer_deaths.get() == 0, "{} processes died", host.stats().renderer_deaths.get());
    host.is_well()
}

/// CVE-2022-0175: memory of the library's process that was somebody else's.
#[test]
fn cve_2022_0175_what_nobody_wrote_reads_as_zeros() -> Result<()> {
    let _alone = alone();
    let mut host = Host::new(bed::mesa()?, PATIENCE)?;
    for len in [4096, 1 << 16, 1 << 20] {
        // What was drawn and freed meanwhile is where it may be.
        host.draws()?;
        let bytes = host.reads_unwritten(len)?;
        ensure!(bytes.iter().all(|byte| *byte == 0), "{len} bytes that nobody wrote are not zeros");
    }
    host.is_well()
}

/// What came of the cases.
#[derive(Default)]
struct Told {
    streams: usize,
    refused: usize,
    ended: u64,
}

impl Told {
    fn add(&mut self, name: &str, streams: usize, refused: usize, ended: u64) {
        println!("{name}: {refused} of {streams} refused, {ended} processes ended");
        self.streams += streams;
        self.refused += refused;
        self.ended += ended;
    }

    fn end(self, host: &Host) -> Result<()> {
        let Self { streams, refused, ended } = self;
        println!("{streams} streams, {refused} refused, {ended} processes ended");
        // A library that refuses none of them does not get them.
        ensure!(refused > streams / 4, "Only {refused} of {streams} were refused");
        ensure!(host.stats().renderer_lies.get() == 0, "A process told what cannot be");
        Ok(())
    }
}

/// So many processes are ended in an ordinary run; `cargo xtask soak` asks for more.
const KILLS: u32 = 10;
/// Names another number.
const MORE: &str = "BEAMSPLIT_TEST_KILLS";

/// Whenever its process is killed or stopped: what was asked is answered, the screen goes on, the next context draws, and nothing is
/// left of the one before.
#[test]
fn a_renderer_that_dies_leaves_nothing_behind() -> Result<()> {
    let kills = std::env::var(MORE).ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    // One that is stopped is waited for so long. Less, and one that a busy machine has no time for ends as well.
    let patience = if kills > KILLS { Duration::from_secs(10) } else { PATIENCE };
    let _alone = alone();
    let mut host = Host::new(bed::mesa()?, patience)?;
    let mut chance = Chance(1);
    let mut before = None;
    for kill in 0..kills {
        let context = || format!("At kill {kill}");
        host.draws().with_context(context)?;
        host.is_well().with_context(context)?;
        // The first few bring memory that stays.
        if kill == kills / 10 + 2 {
            before = Some((resident()?, descriptors()?));
        }
        let signal = if kill % 10 == 9 { Signal::STOP } else { Signal::KILL };
        host.dies_at_work(signal, chance.below(12)).with_context(context)?;
        ensure!(host.stats().renderer_deaths.get() == u64::from(kill) + 1, "Deaths are not counted");
        if kill % 100 == 99 {
            println!("{} kills, {} KiB, {} descriptors", kill + 1, resident()?, descriptors()?);
        }
    }
    host.draws()?;
    host.is_well()?;
    let (memory, fds) = before.context("Too few kills")?;
    host.until("The descriptors of the dead", |_| descriptors().is_ok_and(|now| now <= fds))?;
    let now = resident()?;
    ensure!(now < memory + 4096, "{memory} KiB became {now} KiB");
    Ok(())
}

/// splitmix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// KiB that this process has.
fn resident() -> Result<u64> {
    Ok(bench::process::resident(rustix::process::getpid())?.now)
}

/// Descriptors that this process has.
fn descriptors() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}
