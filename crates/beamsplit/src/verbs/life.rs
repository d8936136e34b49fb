//! `beamsplit start`, `stop`, `undefine`: of one vGPU or of several.

use anyhow::{Result, bail};
use serde_json::json;

use super::at;
use crate::client::Manager;
use crate::output;

/// Which vGPUs.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Their UUIDs, the beginnings of them, or their names.
    #[arg(required = true, value_name = "VGPU", value_parser = super::vgpu)]
    vgpus: Vec<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Starts them, and waits until each serves a VMM; releases those that are held.
pub fn start(words: &Words) -> Result<()> {
    each(words, "POST", "/start")
}

/// Stops them, and waits until nothing of them is left.
pub fn stop(words: &Words) -> Result<()> {
    each(words, "POST", "/stop")
}

/// Removes what is written down of them.
pub fn undefine(words: &Words) -> Result<()> {
    each(words, "DELETE", "")
}

/// One that fails keeps the others from nothing.
fn each(words: &Words, method: &str, below: &str) -> Result<()> {
    let mut answers = Vec::new();
    let mut failed = 0;
    for vgpu in &words.vgpus {
        match words.manager.ask(method, &at(vgpu, below), None) {
            Ok(answer) => answers.push(answer),
            Err(error) if words.vgpus.len() == 1 => return Err(error),
            Err(error) => {
                output::complain(format_args!("{vgpu}: {error:#}"));
                failed += 1;
            }
        }
    }
    let printed = match &answers[..] {
        _ if !words.json => Ok(()),
        [answer] if words.vgpus.len() == 1 => output::json(answer),
        answers => output::json(&json!({ "version": 1, "vgpus": answers })),
    };
    if failed > 0 {
        bail!("{failed} of {} failed", words.vgpus.len());
    }
    printed
}
