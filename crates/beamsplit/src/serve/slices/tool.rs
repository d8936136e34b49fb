//! `beamsplit slices`: the thread without a manager, for measurements and for people who look for what takes their time.
//!
//! ```text
//! add UUID PID WEIGHT [low|normal|high]      remove UUID      release UUID      snapshot      end
//! ```

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host::processes::Processes;
use manager::gpu::Timed;
use manager::profile::{Priority, Promise};
use manager::schedule::{self, Policy, Quantum};
use manager::{GpuId, Uuid};

use super::{Device, Handle, Options, Slices};

/// Give out time to devices that were started by hand.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Milliseconds of the longest slice, 1 to 30; `fine`: 2, or 1 for more than 8.
    #[arg(long, default_value = "16")]
    quantum: String,
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
    let schedule = schedule::Options { quantum, policy, ..schedule::Options::default() };
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
        ["add", name, pid, weight, priority @ ..] => slices.add(uuid(name)?, device(pid, weight, priority)?),
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

fn device(pid: &str, weight: &str, priority: &[&str]) -> Result<Device> {
    let stat = Processes::default().stat(pid.parse().context("A process is a number")?);
    let priority = match priority {
        [] | ["normal"] => Priority::Normal,
        ["low"] => Priority::Low,
        ["high"] => Priority::High,
        _ => bail!("There is no such priority"),
    };
    Ok(Device {
        gpu: GpuId("software".to_owned()),
        process: stat.context("There is no such process")?.identity(),
        weight: weight.parse().context("A weight is a number")?,
        priority,
        promise: Promise::Advisory,
        timed: Timed::Processor,
        arbiter: None,
        cgroup: None,
    })
}
