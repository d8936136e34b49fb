//! `beamsplit top`: who uses what, as it changes.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{size, text};
use crate::client::Manager;
use crate::table::{Table, bytes};

/// Show who uses what, as it changes.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Print it once, after one interval, and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    #[command(flatten)]
    manager: Manager,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.1..=3600.0).contains(number));
    number.ok_or_else(|| format!("'{text}' is not 0.1 to 3600 seconds"))
}

/// The upper left corner, and all that is below it gone.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints it until interrupted.
pub fn run(words: &Words) -> Result<()> {
    let mut last = Look::new(&words.manager)?;
    let redraw = std::io::stdout().is_terminal() && !words.once;
    loop {
        std::thread::sleep(Duration::from_secs_f64(words.interval));
        let look = Look::new(&words.manager)?;
        let text = format!("{}{}", if redraw { CLEAR } else { "" }, look.table(&last));
        let mut output = std::io::stdout();
        output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush())
            .context("Cannot write to the standard output")?;
        if words.once {
            return Ok(());
        }
        last = look;
    }
}

struct Look {
    at: Instant,
    vgpus: Vec<Value>,
}

impl Look {
    fn new(manager: &Manager) -> Result<Self> {
        let mut answer = manager.get("/v1/top")?;
        let Value::Array(vgpus) = answer["vgpus"].take() else { anyhow::bail!("The manager's answer is no list") };
        Ok(Look { at: Instant::now(), vgpus })
    }

    fn table(&self, last: &Look) -> Table {
        let before: HashMap<&str, &Value> =
            last.vgpus.iter().filter_map(|vgpu| Some((vgpu["uuid"].as_str()?, vgpu))).collect();
        let passed = (self.at - last.at).as_secs_f64();
        let mut table = Table::new(&[
            "UUID",
            "NAME",
            "TYPE",
            "STATE",
            "GPU%",
            "WAIT%",
            "FRAMES/S",
            "COMMANDS/S",
            "SHOWN/S",
            "MEMORY",
            "USED",
        ]);
        for vgpu in &self.vgpus {
            let before = vgpu["uuid"].as_str().and_then(|uuid| before.get(uuid));
            let rate = |pointer: &str| {
                let now = vgpu.pointer(pointer)?.as_f64()?;
                let before = before?.pointer(pointer)?.as_f64()?;
                // A device that was started anew counts from nothing.
                Some(((now - before) / passed).max(0.0))
            };
            let number = |pointer: &str| rate(pointer).map_or("-".to_owned(), |rate| format!("{rate:.0}"));
            let percent = |pointer: &str| rate(pointer).map_or("-".to_owned(), |rate| format!("{:.0}", rate / 1e7));
            table.row([
                vgpu["uuid"].as_str().map_or("-", |uuid| uuid.get(..8).unwrap_or(uuid)).to_owned(),
                text(&vgpu["name"]),
                text(&vgpu["type"]),
                text(&vgpu["state"]),
                percent("/share/used_ns"),
                percent("/share/waited_ns"),
                number("/stats/device/frames"),
                number("/stats/device/commands"),
                rate("/stats/device/bytes_shown").map_or("-".to_owned(), |rate| bytes(rate as u64)),
                size(&vgpu["memory"]),
                size(vgpu.pointer("/stats/device/image_bytes").unwrap_or(&Value::Null)),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_are_what_changed_and_a_new_device_has_none() {
        let at = Instant::now();
        let vgpu = |uuid: &str, frames: u64, used: u64| {
            json!({ "uuid": uuid, "state": "running", "memory": 1024, "share": { "used_ns": used },
                    "stats": { "device": { "frames": frames } } })
        };
        let last = Look { at, vgpus: vec![vgpu("aaaaaaaa-1", 10, 0)] };
        let look = Look {
            at: at + Duration::from_secs(2),
            vgpus: vec![vgpu("aaaaaaaa-1", 130, 500_000_000), vgpu("b", 5, 5)],
        };
        let text = look.table(&last).to_string();
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][..7], ["aaaaaaaa", "-", "-", "running", "25", "-", "60"]);
        assert_eq!(rows[2][..7], ["b", "-", "-", "running", "-", "-", "-"]);
    }
}
