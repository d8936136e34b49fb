//! What a daemon costs by being there: its start, its memory, its sleep.

use std::time::{Duration, Instant};

use super::{Budget, Finding, Rig, frames, resources};
use crate::daemon::Daemon;
use crate::error::{Doing, Result};
use crate::frontend::command;
use crate::process::{self, Resident};
use crate::timing::median;

/// Starts of the daemon in one run.
const STARTS: usize = 15;

/// Milliseconds from the start to the first connect that succeeds.
pub fn listening(rig: &mut Rig, _: &Budget) -> Result<Finding> {
    let folder = rig.folder.join("starts");
    std::fs::create_dir_all(&folder).doing("make a folder")?;
    let start = |_| Ok(milliseconds(Daemon::start_on(&rig.program, &folder, rig.cores.last().copied())?.listening()));
    let times = (0..STARTS).map(start).collect::<Result<Vec<_>>>()?;
    Ok(Finding { value: median(times), ..Finding::default() })
}

/// Milliseconds of the first command.
pub fn first_answer(rig: &mut Rig, _: &Budget) -> Result<Finding> {
    let start = Instant::now();
    rig.guest.command(&command::get_display_info())?;
    Ok(value(milliseconds(start.elapsed())))
}

/// MiB after the first command.
pub fn rss_start(rig: &mut Rig, _: &Budget) -> Result<Finding> {
    rig.guest.command(&command::get_display_info())?;
    memory(rig, |resident| resident.now)
}

/// MiB after attach cycles, creates and frames.
pub fn rss_end(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    work_for_a_while(rig, budget)?;
    memory(rig, |resident| resident.now)
}

/// The most MiB while doing so.
pub fn rss_peak(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    work_for_a_while(rig, budget)?;
    memory(rig, |resident| resident.peak)
}

/// Context switches of an idle daemon, in ten seconds.
pub fn idle(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    rig.guest.command(&command::get_display_info())?;
    // What the last command left to do is over when a second one was answered and the clock has moved on a bit.
    std::thread::sleep(Duration::from_millis(200));
    let before = process::context_switches(rig.pid)?;
    std::thread::sleep(budget.idle);
    let switches = process::context_switches(rig.pid)? - before;
    Ok(value(switches as f64 * 10.0 / budget.idle.as_secs_f64()))
}

fn work_for_a_while(rig: &mut Rig, budget: &Budget) -> Result<()> {
    let budget = Budget { time: budget.time / 4, ..*budget };
    resources::attach(rig, &budget)?;
    resources::create_unref(rig, &budget)?;
    // A daemon that shows nothing has done the transfers all the same.
    let _ = frames::full(rig, &budget);
    Ok(())
}

fn memory(rig: &Rig, part: impl Fn(Resident) -> u64) -> Result<Finding> {
    Ok(value(part(process::resident(rig.pid)?) as f64 / 1024.0))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn value(value: f64) -> Finding {
    Finding { value: Some(value), ..Finding::default() }
}
