//! `beamsplit apply` and `assert`: a declared set of vGPUs.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{line, print_json, text};
use crate::client::Manager;

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
        let declared = std::fs::read(&self.file).with_context(|| format!("Cannot read {name}"))?;
        let answer = self.manager.bytes("POST", target, Some(&declared)).with_context(|| name.to_string())?;
        serde_json::from_slice(&answer).context("The manager's answer is no JSON")
    }
}

/// Makes it so, and prints what was done.
pub fn apply(words: &Words) -> Result<()> {
    let answer = words.ask("/v1/apply")?;
    let failed = report(words, &answer);
    if failed > 0 {
        bail!("{failed} of {} steps failed", answer["steps"].as_array().map_or(0, Vec::len));
    }
    Ok(())
}

/// Fails when something would have to be done, and prints what.
pub fn assert(words: &Words) -> Result<()> {
    let answer = words.ask("/v1/apply?assert=true")?;
    report(words, &answer);
    match answer["steps"].as_array().map_or(0, Vec::len) {
        0 => Ok(()),
        count => bail!("It is not as declared: {count} steps are missing"),
    }
}

/// Prints the steps; how many of them failed.
fn report(words: &Words, answer: &Value) -> usize {
    if words.json {
        print_json(answer);
    }
    let steps = answer["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let mut failed = 0;
    for step in steps {
        let why = step["error"].as_str();
        failed += usize::from(why.is_some());
        if !words.json {
            let ending = why.map_or(String::new(), |why| format!(": {why}"));
            println!("{}", line(&format!("{} ({}){ending}", text(&step["step"]), text(&step["because"]))));
        }
    }
    failed
}
