//! `beamsplit types`: what can be made, and how many are left.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{line, list_of, size, text};
use crate::client::Manager;
use crate::output;
use crate::table::Table;

/// Show the types of vGPU that this host offers, and how many are left.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Only those of this GPU.
    gpu: Option<String>,
    #[command(flatten)]
    memory: Memory,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Print all of them as a file of types, types.toml, to be changed and kept.
    #[arg(long, conflicts_with_all = ["gpu", "min_memory", "max_memory", "json"])]
    toml: bool,
    #[command(flatten)]
    manager: Manager,
}

/// How much memory is wanted.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Memory {
    /// Only types with at least so much memory, as in 512M.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub min_memory: Option<u64>,
    /// Only types with at most so much memory.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_memory: Option<u64>,
}

fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<manager::value::Bytes>().map(|bytes| bytes.0)
}

impl Memory {
    fn fits(&self, bytes: u64) -> bool {
        self.min_memory.is_none_or(|least| bytes >= least) && self.max_memory.is_none_or(|most| bytes <= most)
    }

    /// Whether something was said.
    pub fn is_said(&self) -> bool {
        self.min_memory.is_some() || self.max_memory.is_some()
    }
}

/// Prints them.
pub fn run(words: &Words) -> Result<()> {
    if words.toml {
        let file = words.manager.bytes("GET", "/v1/types.toml", None)?;
        return output::print(String::from_utf8(file).context("The manager's file is no text")?);
    }
    let answer = words.manager.get("/v1/types")?;
    let types = answer["types"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(gpu) = &words.gpu
        && !types.iter().any(|kind| kind["gpu"] == gpu.as_str())
    {
        bail!("No type is of a GPU '{gpu}': beamsplit list --gpus names the GPUs");
    }
    let wanted = |kind: &&Value| {
        words.gpu.as_ref().is_none_or(|gpu| kind["gpu"] == gpu.as_str())
            && words.memory.fits(kind["memory"].as_u64().unwrap_or(0))
    };
    let types: Vec<&Value> = types.iter().filter(wanted).collect();
    match words.json {
        true => output::json(&json!({ "version": answer["version"], "types": types })),
        false => output::print(told(&types)),
    }
}

/// A table, and below it what has to be known of some.
fn told(types: &[&Value]) -> String {
    let mut table =
        Table::new(&["TYPE", "GPU", ">FREE", ">MEMORY", "HEADS", "3D", ">WEIGHT", "PRIORITY", "SHARE", "DISPLAY"]);
    // Many types have the same to be known of them.
    let mut notes: Vec<(String, Vec<String>)> = Vec::new();
    for kind in types {
        table.row([
            text(&kind["name"]),
            text(&kind["gpu"]),
            text(&kind["available"]),
            size(&kind["memory"]),
            list_of(&kind["heads"]),
            list_of(&kind["capsets"]),
            text(&kind["weight"]),
            text(&kind["priority"]),
            text(&kind["share"]),
            list_of(&kind["display"]),
        ]);
        let advice = kind["advisory"].as_array().into_iter().flatten();
        let advice = advice.map(|advice| format!("{} is advice: {}", text(&advice["what"]), text(&advice["why"])));
        for note in kind["barred"].as_str().map(|why| format!("none: {why}")).into_iter().chain(advice) {
            let name = text(&kind["name"]);
            match notes.iter_mut().find(|(known, _)| *known == note) {
                Some((_, names)) => names.push(name),
                None => notes.push((note, vec![name])),
            }
        }
    }
    let notes = notes.iter().map(|(note, names)| format!("{}\n", line(&format!("{}: {note}", names.join(", ")))));
    std::iter::once(table.to_string()).chain(notes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_be_known_of_several_types_is_said_once() {
        let kind = |name: &str, why: Value| {
            let advice = json!([{ "what": "memory", "why": "so" }]);
            json!({ "name": name, "gpu": "software", "available": 3, "memory": 1 << 30, "barred": why, "advisory": advice })
        };
        let (one, two) = (kind("one", Value::Null), kind("two\u{1b}", "it is away".into()));
        let said = told(&[&one, &two]);
        let notes: Vec<&str> = said.lines().skip(3).collect();
        assert_eq!(notes, ["one, two?: memory is advice: so", "two?: none: it is away"]);
        assert!(said.starts_with("TYPE  GPU       FREE  MEMORY"), "{said}");
    }
}
