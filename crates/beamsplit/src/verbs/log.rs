//! `beamsplit log`: what a device says.

use std::time::Duration;

use anyhow::{Context, Result};

use super::at;
use crate::client::Manager;
use crate::output;
use crate::table::printable;

/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(300);

/// Show what a vGPU's device says.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Its UUID, the beginning of it, or its name.
    #[arg(value_parser = super::vgpu)]
    vgpu: String,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
    /// Print JSON, for programs.
    #[arg(long, conflicts_with = "follow")]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Prints the end of it, and what follows.
pub fn run(words: &Words) -> Result<()> {
    let mut from = None;
    loop {
        let query = from.map(|from: u64| format!("/log?from={from}")).unwrap_or_else(|| "/log".to_owned());
        let answer = words.manager.get(&at(&words.vgpu, &query))?;
        if words.json {
            return output::json(&answer);
        }
        let text = answer["text"].as_str().context("The manager's answer is not a log")?;
        // A device is told what a guest did, and a guest may want to write to this terminal.
        output::print(text.split_inclusive('\n').map(safe).collect::<String>())?;
        if !words.follow {
            return Ok(());
        }
        from = answer["next"].as_u64();
        if text.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}

fn safe(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(line) => printable(line) + "\n",
        None => printable(line),
    }
}
