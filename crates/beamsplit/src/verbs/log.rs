//! `beamsplit log`: what a device says.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};

use super::at;
use crate::client::Manager;

/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(300);

/// Show what a vGPU's device says.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Its UUID, the beginning of it, or its name.
    vgpu: String,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Prints the end of it, and what follows.
pub fn run(words: &Words) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let mut from = None;
    loop {
        let query = from.map(|from: u64| format!("/log?from={from}")).unwrap_or_else(|| "/log".to_owned());
        let answer = words.manager.get(&at(&words.vgpu, &query))?;
        let text = answer["text"].as_str().context("The manager's answer is not a log")?;
        // A device is told what a guest did, and a guest may want to write to this terminal.
        let safe: String =
            text.chars().map(|letter| if letter.is_control() && letter != '\n' { '?' } else { letter }).collect();
        output
            .write_all(safe.as_bytes())
            .and_then(|()| output.flush())
            .context("Cannot write to the standard output")?;
        if !words.follow {
            return Ok(());
        }
        from = answer["next"].as_u64();
        if text.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}
