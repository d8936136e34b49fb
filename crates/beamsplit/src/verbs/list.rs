//! `beamsplit list`: which vGPUs there are.

use anyhow::Result;
use serde_json::Value;

use super::{again, list_of, size, text};
use crate::client::Manager;
use crate::output;
use crate::table::Table;

/// List the vGPUs, also those that others started (libvirt above all).
#[derive(Debug, clap::Args)]
pub struct Words {
    /// The GPUs that they are of, instead.
    #[arg(long)]
    gpus: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Prints them.
pub fn run(words: &Words) -> Result<()> {
    let answer = words.manager.get(if words.gpus { "/v1/gpus" } else { "/v1/vgpus" })?;
    match (words.json, words.gpus) {
        (true, _) => output::json(&answer),
        (false, true) => output::print(gpus(&answer["gpus"])),
        (false, false) => output::print(vgpus(&answer)),
    }
}

fn gpus(answer: &Value) -> Table {
    let mut table = Table::new(&["GPU", "NAME", ">MEMORY", "3D", "NODE"]);
    for gpu in answer.as_array().into_iter().flatten() {
        table.row([
            text(&gpu["id"]),
            text(&gpu["name"]),
            size(&gpu["memory"]),
            list_of(&gpu["capsets"]),
            text(&gpu["node"]),
        ]);
    }
    table
}

fn vgpus(answer: &Value) -> Table {
    let mut table = Table::new(&["UUID", "NAME", "TYPE", "STATE", "START", ">MEMORY", ">PID", "NOTE"]);
    let all = ["vgpus", "foreign"].into_iter().filter_map(|name| answer[name].as_array()).flatten();
    for vgpu in all {
        let managed = vgpu["managed"] == true;
        let start = match (managed, vgpu["persistent"] == true) {
            (false, _) => "-".to_owned(),
            (true, false) => "transient".to_owned(),
            (true, true) => text(&vgpu["start"]),
        };
        let note = if managed {
            let why = ["why", "problem"].into_iter().find_map(|name| vgpu[name].as_str()).map(str::to_owned);
            why.into_iter().chain(again(vgpu)).collect::<Vec<_>>().join("; ")
        } else {
            format!("not managed: {}'s, {}", text(&vgpu["owner"]), text(&vgpu["socket"]))
        };
        table.row([
            text(&vgpu["uuid"]),
            text(&vgpu["name"]),
            text(&vgpu["type"]),
            text(&vgpu["state"]),
            start,
            size(&vgpu["memory"]),
            text(&vgpu["pid"]),
            note,
        ]);
    }
    table
}
