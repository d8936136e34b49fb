//! `beamsplit stats`: what a device counted.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::{self, Manager};
use crate::table::printable;
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
    if words.json {
        println!("{value:#}");
    } else {
        print!("{}", rows(&value));
    }
    Ok(())
}

/// One line for each number, sections apart, columns aligned.
pub fn rows(value: &Value) -> String {
    let mut rows = Vec::new();
    collect(value, &mut Vec::new(), &mut rows);
    // It concerns programs only.
    rows.retain(|(name, _)| name != "version");
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn collect<'a>(value: &'a Value, path: &mut Vec<&'a str>, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            // What belongs to the whole comes before its parts.
            let (parts, own): (Vec<_>, Vec<_>) = members.iter().partition(|(_, value)| value.is_object());
            for (name, value) in own.into_iter().chain(parts) {
                path.push(name);
                collect(value, path, rows);
                path.pop();
            }
        }
        Value::String(text) => rows.push((path.join("."), printable(text))),
        other => rows.push((path.join("."), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(rows(&value), expected);
    }
}
