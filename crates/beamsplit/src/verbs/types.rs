//! `beamsplit types`: what can be made, and how many are left.

use anyhow::Result;
use serde_json::{Value, json};

use super::{list_of, print_json, size, text};
use crate::client::Manager;
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
    let answer = words.manager.get("/v1/types")?;
    let wanted = |kind: &&Value| {
        words.gpu.as_ref().is_none_or(|gpu| kind["gpu"] == gpu.as_str())
            && words.memory.fits(kind["memory"].as_u64().unwrap_or(0))
    };
    let types: Vec<&Value> = answer["types"].as_array().into_iter().flatten().filter(wanted).collect();
    if words.json {
        print_json(&json!({ "version": answer["version"], "types": types }));
        return Ok(());
    }
    let mut table =
        Table::new(&["TYPE", "GPU", "FREE", "MEMORY", "HEADS", "3D", "WEIGHT", "PRIORITY", "SHARE", "DISPLAY"]);
    for kind in &types {
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
    }
    print!("{table}");
    for kind in &types {
        let name = text(&kind["name"]);
        if let Some(why) = kind["barred"].as_str() {
            println!("{}: none: {}", super::line(&name), super::line(why));
        }
        for advice in kind["advisory"].as_array().into_iter().flatten() {
            println!(
                "{}: {}: advisory: {}",
                super::line(&name),
                super::line(&text(&advice["what"])),
                super::line(&text(&advice["why"]))
            );
        }
    }
    Ok(())
}
