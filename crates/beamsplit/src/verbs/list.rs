//! `beamsplit list` and `show`: which vGPUs there are.

use anyhow::Result;
use serde_json::Value;

use super::{at, list_of, print_json, size, text};
use crate::client::{Manager, Refused};
use crate::stats::rows;
use crate::table::Table;

/// List the vGPUs, also those that others started (libvirt above all).
#[derive(Debug, clap::Args)]
pub struct List {
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
pub fn list(words: &List) -> Result<()> {
    let answer = words.manager.get(if words.gpus { "/v1/gpus" } else { "/v1/vgpus" })?;
    if words.json {
        print_json(&answer);
    } else if words.gpus {
        print!("{}", gpus(&answer["gpus"]));
    } else {
        print!("{}", vgpus(&answer));
    }
    Ok(())
}

fn gpus(answer: &Value) -> Table {
    let mut table = Table::new(&["GPU", "NAME", "MEMORY", "3D", "NODE"]);
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
    let mut table = Table::new(&["UUID", "NAME", "TYPE", "STATE", "START", "MEMORY", "PID", "NOTE"]);
    let all = ["vgpus", "foreign"].into_iter().filter_map(|name| answer[name].as_array()).flatten();
    for vgpu in all {
        let managed = vgpu["managed"] == true;
        let start = match (managed, vgpu["persistent"] == true) {
            (false, _) => "-".to_owned(),
            (true, false) => "transient".to_owned(),
            (true, true) => text(&vgpu["start"]),
        };
        let note = if managed {
            [&vgpu["why"], &vgpu["problem"]].into_iter().find_map(Value::as_str).unwrap_or("").to_owned()
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

/// Show all that is known of a vGPU, or of a GPU.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// A vGPU's UUID, the beginning of it, or its name; or a GPU, as `beamsplit list --gpus` has it.
    #[arg(value_name = "VGPU|GPU")]
    what: String,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Prints it.
pub fn show(words: &Show) -> Result<()> {
    let answer = match words.manager.get(&at(&words.what, "")) {
        Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 404) => {
            let gpus = words.manager.get("/v1/gpus")?;
            let gpu = gpus["gpus"].as_array().into_iter().flatten().find(|gpu| gpu["id"] == words.what.as_str());
            gpu.cloned().ok_or(error)?
        }
        answer => answer?,
    };
    if words.json {
        print_json(&answer);
    } else {
        print!("{}", rows(&answer));
    }
    Ok(())
}
