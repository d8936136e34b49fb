//! `beamsplit stats`: what a device counted.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::{self, Manager};
use crate::output;
use crate::table::aligned;
use crate::verbs::at;

/// Show what a device counted.
#[derive(Debug, clap::Args)]
pub struct Words {
    #[command(flatten)]
    whose: Whose,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Which device.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// A vGPU of the manager's: its UUID, the beginning of it, or its name.
    #[arg(value_parser = crate::verbs::vgpu)]
    vgpu: Option<String>,
    /// A device's control socket (beamsplit device --control-socket PATH).
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Prints the device's answer.
pub fn run(words: &Words) -> Result<()> {
    let answer = match (&words.whose.socket, &words.whose.vgpu) {
        (Some(socket), _) => client::get(socket, "/v1/stats")?,
        (None, vgpu) => words.manager.bytes("GET", &at(vgpu.as_deref().unwrap_or_default(), "/stats"), None)?,
    };
    let value: Value = serde_json::from_slice(&answer).context("The device's answer is no JSON")?;
    if words.json { output::json(&value) } else { output::print(aligned(&rows(&value))) }
}

/// A row for each number, named by where it is, the parts of a section together.
pub fn rows(value: &Value) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    collect(value, &mut Vec::new(), &mut rows);
    // It concerns programs only.
    rows.retain(|(name, _)| name != "version");
    rows
}

/// Sections whose members are many and mostly nothing.
const SPARSE: [&str; 2] = ["commands", "errors"];

/// A histogram in few words: how many there were, their mean, and within what half and 99 of 100 were.
fn times(value: &Value) -> Option<String> {
    let numbers = |name| value[name].as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
    let (bounds, counts, sum): (_, _, u64) = (numbers("bounds_us")?, numbers("counts")?, value["sum_us"].as_u64()?);
    let all = counts.iter().fold(0u64, |all, count| all.saturating_add(*count));
    if all == 0 {
        return Some("none".to_owned());
    }
    let within = |percent: u64| {
        let (mut left, mut counts) = (u128::from(all) * u128::from(percent), counts.iter());
        let at = counts.position(|count| {
            let enough = u128::from(*count) * 100 >= left;
            left = left.saturating_sub(u128::from(*count) * 100);
            enough
        });
        match at.and_then(|at| bounds.get(at)) {
            Some(bound) => format!("{percent} % within {bound} us"),
            None => format!("{percent} % in longer than {} us", bounds.last().unwrap_or(&0)),
        }
    };
    Some(format!("{all}, mean {} us, {}, {}", sum / all, within(50), within(99)))
}

fn collect<'a>(value: &'a Value, path: &mut Vec<&'a str>, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(_) if let Some(times) = times(value) => rows.push((path.join("."), times)),
        Value::Object(members) => {
            let is_sparse = matches!(path[..], [section] if SPARSE.contains(&section));
            // What belongs to the whole comes before its parts.
            let (parts, own): (Vec<_>, Vec<_>) = members.iter().partition(|(_, value)| value.is_object());
            for (name, value) in own.into_iter().chain(parts).filter(|(_, value)| !is_sparse || **value != 0) {
                path.push(name);
                collect(value, path, rows);
                path.pop();
            }
        }
        Value::String(text) => rows.push((path.join("."), text.clone())),
        other => rows.push((path.join("."), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: &Value) -> String {
        aligned(&rows(value))
    }

    #[test]
    fn the_table_names_each_number_once_and_aligns_them() {
        let value = serde_json::json!({
            "version": 1,
            "device": { "commands": 7, "bytes_shown": 4096 },
            "name": "vm7",
            "viewer": { "starts": 1 },
        });
        let expected = "name                vm7\n\
                        device.bytes_shown  4096\n\
                        device.commands     7\n\
                        viewer.starts       1\n";
        assert_eq!(told(&value), expected);
    }

    #[test]
    fn commands_that_never_came_are_left_out_and_a_histogram_is_one_line() {
        let value = serde_json::json!({
            "commands": { "resource_flush": 7, "submit_3d": 0 },
            "errors": { "resource_flush": 0 },
            "memory": { "images": 0 },
            "queue_latency": { "bounds_us": [1, 4, 16], "counts": [0, 98, 1, 1], "sum_us": 1000 },
            "fence_latency": { "bounds_us": [1, 4], "counts": [0, 0, 2], "sum_us": 100 },
        });
        let mut lines: Vec<_> = told(&value).lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "commands.resource_flush  7",
                "fence_latency            2, mean 50 us, 50 % in longer than 4 us, 99 % in longer than 4 us",
                "memory.images            0",
                "queue_latency            100, mean 10 us, 50 % within 4 us, 99 % within 16 us",
            ]
        );
        let none = serde_json::json!({ "queue_latency": { "bounds_us": [1], "counts": [0, 0], "sum_us": 0 } });
        assert_eq!(told(&none), "queue_latency  none\n");
    }

    #[test]
    fn neither_a_name_nor_a_value_nor_a_list_reaches_the_terminal() {
        let value = serde_json::json!({ "a\u{1b}[2J": "b\u{1b}[2J", "c": ["d\u{9b}2J"] });
        assert_eq!(told(&value), "a?[2J  b?[2J\nc      [\"d?2J\"]\n");
    }
}
