//! `beamsplit apply` and `assert`: a declared set of vGPUs.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{line, text};
use crate::client::Manager;
use crate::output;
use crate::table::bytes;

/// What the manager takes at once: ten thousand vGPUs have as much.
const LARGEST: u64 = 1 << 20;

/// Which set.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// The file that declares it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

impl Words {
    fn ask(&self, target: &str) -> Result<Value> {
        let name = self.file.display();
        let mut declared = String::new();
        let file = File::open(&self.file).with_context(|| format!("Cannot read {name}"))?;
        let length = file.take(LARGEST + 1).read_to_string(&mut declared);
        let length = length.with_context(|| format!("Cannot read {name}"))? as u64;
        ensure!(length <= LARGEST, "{name} is larger than {}", bytes(LARGEST));
        let declared = declared.as_bytes();
        let answer = self.manager.bytes("POST", target, Some(declared)).with_context(|| name.to_string())?;
        serde_json::from_slice(&answer).context("The manager's answer is no JSON")
    }

    fn report(&self, answer: &Value, steps: &[String]) -> Result<()> {
        match self.json {
            true => output::json(answer),
            false => output::print(steps.iter().map(|step| format!("{step}\n")).collect::<String>()),
        }
    }
}

/// Makes it so, and prints what was done.
pub fn apply(words: &Words) -> Result<()> {
    let answer = words.ask("/v1/apply")?;
    let (steps, failed) = steps(&answer);
    let printed = words.report(&answer, &steps);
    match failed {
        0 => printed,
        _ => bail!("{failed} of {} steps failed", steps.len()),
    }
}

/// Fails when something would have to be done, and prints what.
pub fn assert(words: &Words) -> Result<()> {
    let answer = words.ask("/v1/apply?assert=true")?;
    let (steps, _) = steps(&answer);
    let printed = words.report(&answer, &steps);
    match steps.len() {
        0 => printed,
        1 => bail!("It is not as declared: 1 step is missing"),
        count => bail!("It is not as declared: {count} steps are missing"),
    }
}

/// The steps in words, and how many of them failed.
fn steps(answer: &Value) -> (Vec<String>, usize) {
    let steps = answer["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let failed = steps.iter().filter(|step| step["error"].is_string()).count();
    let said = |step: &Value| {
        let ending = step["error"].as_str().map_or(String::new(), |why| format!(": {why}"));
        line(&format!("{} ({}){ending}", text(&step["step"]), text(&step["because"])))
    };
    (steps.iter().map(said).collect(), failed)
}
