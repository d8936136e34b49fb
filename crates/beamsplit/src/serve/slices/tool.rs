//! `beamsplit slices`: the thread without a manager, for measurements and for people who look for what takes their time.
//!
//! ```text
//! add UUID PID WEIGHT [low|normal|high [ARBITER_SOCKET]]      remove UUID      release UUID      snapshot      end
//! ```

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host::processes::Processes;
use manager::gpu::Timed;
use manager::profile::{Priority, Promise};
use manager::schedule::{self, Mode, Policy, Quantum};
use manager::{GpuId, Uuid};

use super::{Device, Handle, Options, Slices};

/// Give out time to devices that were started by hand.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Milliseconds of the longest slice, 1 to 30; `fine`: 2, or 1 for more than 8.
    #[arg(long, default_value = "16")]
    quantum: String,
    /// How a slice ends: strict, or batch for devices that have a seam (which may draw OpenGL only).
    #[arg(long, default_value = "strict")]
    mode: String,
    /// Milliseconds for which one that does not stop is waited for.
    #[arg(long, default_value = "16")]
    preempt_timeout: u64,
    /// What is promised: best-effort, equal-share, fixed-share.
    #[arg(long, default_value = "best-effort")]
    policy: String,
}

/// Obeys lines until there are none.
pub fn run(words: &Words) -> Result<()> {
    let quantum = match words.quantum.as_str() {
        "fine" => Quantum::Fine,
        count => Quantum::milliseconds(count.parse().context("A quantum is a number of milliseconds")?)?,
    };
    let policy = match words.policy.as_str() {
        "best-effort" => Policy::BestEffort,
        "equal-share" => Policy::EqualShare,
        "fixed-share" => Policy::FixedShare,
        other => bail!("There is no policy {other}"),
    };
    let mode = match words.mode.as_str() {
        "strict" => Mode::Strict,
        "batch" => Mode::Batch,
        other => bail!("There is no mode {other}"),
    };
    let preempt_timeout = Duration::from_millis(words.preempt_timeout);
    let schedule = schedule::Options { quantum, policy, mode, preempt_timeout, ..schedule::Options::default() };
    let slices = Slices::start(Options { schedule, ..Options::default() })?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("Cannot read orders")?;
        let words: Vec<_> = line.split_whitespace().collect();
        if words == ["end"] {
            break;
        }
        let answer = match obey(&slices, &words) {
            Ok(answer) => answer,
            Err(error) => serde_json::json!({ "error": format!("{error:#}") }),
        };
        writeln!(std::io::stdout().lock(), "{answer}").context("Cannot answer")?;
    }
    Ok(())
}

fn obey(slices: &Handle, words: &[&str]) -> Result<serde_json::Value> {
    let uuid = |word: &str| word.parse::<Uuid>().with_context(|| format!("{word} is no UUID"));
    match words {
        ["add", name, pid, weight, more @ ..] => slices.add(uuid(name)?, device(pid, weight, more)?),
        ["remove", name] => slices.remove(uuid(name)?),
        ["release", name] => slices.release(uuid(name)?),
        ["snapshot"] => {
            // What is told may be as old as that.
            std::thread::sleep(Duration::from_millis(1));
            return serde_json::to_value(slices.snapshot()).context("Cannot say it");
        }
        _ => bail!("There is no such order"),
    }
    Ok(serde_json::json!({}))
}

fn device(pid: &str, weight: &str, more: &[&str]) -> Result<Device> {
    let stat = Processes::default().stat(pid.parse().context("A process is a number")?);
    let (priority, arbiter) = match more {
        [] => ("normal", None),
        [priority] => (*priority, None),
        [priority, arbiter] => (*priority, Some(PathBuf::from(arbiter))),
        _ => bail!("Too many words"),
    };
    let priority = match priority {
        "normal" => Priority::Normal,
        "low" => Priority::Low,
        "high" => Priority::High,
        _ => bail!("There is no such priority"),
    };
    Ok(Device {
        gpu: GpuId("software".to_owned()),
        process: stat.context("There is no such process")?.identity(),
        weight: weight.parse().context("A weight is a number")?,
        priority,
        promise: Promise::Advisory,
        timed: Timed::Processor,
        gate: arbiter.is_some(),
        arbiter,
        cgroup: None,
    })
}
