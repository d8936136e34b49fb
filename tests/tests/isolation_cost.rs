//! What it costs that a 3D library lives in a process of its own, on the real library, by counts.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bench::three_d::{Place, Rig, serve_if_asked, sleeps_of_a_fence};
use tests::bed;

/// Set where this program is to count.
const ROLE: &str = "BEAMSPLIT_TEST_COUNTS";
/// Empty submits whose fence is waited for, one after the other.
const COUNT: u32 = 1000;

/// Its process runs this test alone, with a socket; without one there is nothing to serve.
#[test]
fn a_child_serves_its_socket() -> Result<()> {
    Ok(serve_if_asked()?)
}

/// Counts inside the bed's tree, where the library is.
#[test]
fn a_counter_counts() -> Result<()> {
    if std::env::var_os(ROLE).is_none() {
        return Ok(());
    }
    for place in [Place::InProcess, Place::Isolated] {
        let start = || {
            let mut command = std::process::Command::new(std::env::current_exe()?);
            command
                .args(["--exact", "a_child_serves_its_socket", "--nocapture", "--test-threads", "1"])
                .env_remove(ROLE);
            Ok(command)
        };
        let mut rig = Rig::with_scene(place, Box::new(start))?;
        println!("counted {}", sleeps_of_a_fence(&mut rig, COUNT)?);
    }
    Ok(())
}

/// Each sleep ends in one wake-up, of whoever's thread: the process' own, and one more for what it does before the fence.
#[test]
fn a_fence_of_an_isolated_library_wakes_at_most_two_more() -> Result<()> {
    let program = std::env::current_exe()?;
    let mut command = bed::run::inside(bed::mesa()?, &program.to_string_lossy());
    command.args(["--exact", "a_counter_counts", "--nocapture", "--test-threads", "1"]).env(ROLE, "1");
    let output = command.stderr(Stdio::inherit()).output().context("Cannot run the bed's shell")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "The counter failed: {text}");
    let counts: Vec<f64> = text.lines().filter_map(|line| line.rsplit_once("counted ")?.1.parse().ok()).collect();
    let [in_process, isolated] = counts[..] else { anyhow::bail!("Not two counts: {text}") };
    println!("sleeps for each submit and fence: {in_process:.2} in-process, {isolated:.2} isolated");
    ensure!(in_process >= 0.5, "Nobody slept: it is not the fence that was waited for");
    ensure!(isolated <= in_process + 2.0, "{isolated} sleeps isolated, {in_process} in-process");
    Ok(())
}
