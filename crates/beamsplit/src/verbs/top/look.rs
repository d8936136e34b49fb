//! What two looks at all vGPUs say about the time between them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use super::super::{line, size, text};
use crate::client::Manager;
use crate::table::{Table, bytes};

/// What was counted until a moment.
pub struct Look {
    at: Instant,
    gpus: Vec<Value>,
    vgpus: Vec<Value>,
}

/// States, in the order in which they are of interest.
const STATES: [&str; 6] = ["held", "running", "starting", "stopping", "failed", "defined"];

impl Look {
    /// Asks the manager.
    pub fn new(manager: &Manager) -> Result<Self> {
        let list = |path: &str, name: &str| match manager.get(path)?[name].take() {
            Value::Array(list) => Ok(list),
            _ => bail!("The manager's answer is no list"),
        };
        Ok(Look { gpus: list("/v1/gpus", "gpus")?, vgpus: list("/v1/top", "vgpus")?, at: Instant::now() })
    }

    /// For people: the GPUs, how many vGPUs there are, and what each does; those that do most come first.
    pub fn told(&self, last: &Look) -> String {
        let passed = (self.at - last.at).as_secs_f64();
        let before: HashMap<&str, &Value> =
            last.vgpus.iter().filter_map(|vgpu| Some((vgpu["uuid"].as_str()?, vgpu))).collect();
        let rates = |vgpu| Rates {
            now: vgpu,
            before: vgpu["uuid"].as_str().and_then(|uuid| before.get(uuid)).copied().filter(|_| passed > 0.0),
            passed,
        };
        let mut all: Vec<Rates> = self.vgpus.iter().map(rates).collect();
        all.sort_by_cached_key(|vgpu| {
            let state = STATES.iter().position(|state| vgpu.now["state"] == *state);
            // In thousandths of all time, so that one that rests does not wander about.
            (state, Reverse(vgpu.of("/share/used_ns").map_or(0, |rate| (rate / 1e6) as u64)), text(&vgpu.now["name"]))
        });
        let mut told: String = self.gpus.iter().map(|gpu| of_gpu(gpu, &all)).collect();
        told += &counts(&self.vgpus);
        told += "\n";
        told += &table(&all).to_string();
        told
    }
}

/// One vGPU, now and before.
struct Rates<'a> {
    now: &'a Value,
    before: Option<&'a Value>,
    passed: f64,
}

impl Rates<'_> {
    /// How fast a number grew, in a second.
    fn of(&self, pointer: &str) -> Option<f64> {
        let now = self.now.pointer(pointer)?.as_f64()?;
        let before = self.before?.pointer(pointer)?.as_f64()?;
        // A device that was started anew counts from nothing.
        Some(((now - before) / self.passed).max(0.0))
    }

    fn number(&self, pointer: &str) -> String {
        self.of(pointer).map_or("-".to_owned(), |rate| format!("{rate:.0}"))
    }

    /// Of nanoseconds.
    fn percent(&self, pointer: &str) -> String {
        self.of(pointer).map_or("-".to_owned(), |rate| format!("{:.0}", rate / 1e7))
    }
}

fn of_gpu(gpu: &Value, all: &[Rates]) -> String {
    let of_it = || all.iter().filter(|vgpu| vgpu.now["gpu"] == gpu["id"]);
    let used = of_it().filter_map(|vgpu| vgpu.of("/share/used_ns")).fold(0.0, |sum, rate| sum + rate);
    // Who has a share was given memory, too.
    let given = of_it().filter(|vgpu| vgpu.now["share"].is_object()).filter_map(|vgpu| vgpu.now["memory"].as_u64());
    let given = bytes(given.fold(0, u64::saturating_add));
    let name = line(&text(&gpu["id"]));
    format!("{name}: {:.0} % of its time used, {given} of {} memory given\n", used / 1e7, size(&gpu["memory"]))
}

fn counts(vgpus: &[Value]) -> String {
    let of = |state: &&str| vgpus.iter().filter(|vgpu| vgpu["state"] == **state).count();
    let states = STATES.iter().filter(|state| of(state) > 0).map(|state| format!(", {} {state}", of(state)));
    let what = if vgpus.len() == 1 { "vGPU" } else { "vGPUs" };
    format!("{} {what}{}\n", vgpus.len(), states.collect::<String>())
}

fn table(all: &[Rates]) -> Table {
    let mut table = Table::new(&[
        "UUID",
        "NAME",
        "TYPE",
        "STATE",
        ">GPU%",
        ">WAIT%",
        ">FRAMES/S",
        ">COMMANDS/S",
        ">SHOWN/S",
        ">MEMORY",
        ">USED",
    ]);
    for vgpu in all {
        table.row([
            vgpu.now["uuid"].as_str().map_or("-", |uuid| uuid.get(..8).unwrap_or(uuid)).to_owned(),
            text(&vgpu.now["name"]),
            text(&vgpu.now["type"]),
            text(&vgpu.now["state"]),
            vgpu.percent("/share/used_ns"),
            vgpu.percent("/share/waited_ns"),
            vgpu.number("/stats/device/frames"),
            vgpu.number("/stats/device/commands"),
            vgpu.of("/stats/device/bytes_shown").map_or("-".to_owned(), |rate| bytes(rate as u64)),
            size(&vgpu.now["memory"]),
            size(&vgpu.now["stats"]["device"]["charged_bytes"]),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn look(at: Instant, vgpus: Vec<Value>) -> Look {
        Look { at, gpus: vec![json!({ "id": "software", "memory": 4096 })], vgpus }
    }

    fn vgpu(uuid: &str, state: &str, frames: u64, used: u64) -> Value {
        json!({ "uuid": uuid, "state": state, "gpu": "software", "memory": 1024, "share": { "used_ns": used },
                "stats": { "device": { "frames": frames } } })
    }

    fn rows(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn rates_are_what_changed_and_a_new_device_has_none() {
        let at = Instant::now();
        let last = look(at, vec![vgpu("aaaaaaaa-1", "running", 10, 0)]);
        let now = vec![vgpu("aaaaaaaa-1", "running", 130, 500_000_000), vgpu("b", "running", 5, 5)];
        let text = look(at + Duration::from_secs(2), now).told(&last);
        let rows = rows(&text);
        assert_eq!(text.lines().next().unwrap(), "software: 25 % of its time used, 2K of 4K memory given");
        assert_eq!(rows[1], ["2", "vGPUs,", "2", "running"]);
        assert_eq!(rows[4][..7], ["aaaaaaaa", "-", "-", "running", "25", "-", "60"]);
        assert_eq!(rows[5][..7], ["b", "-", "-", "running", "-", "-", "-"]);
    }

    #[test]
    fn a_first_look_has_no_rates() {
        let look = look(Instant::now(), vec![vgpu("a", "running", 10, 7)]);
        let text = look.told(&look);
        assert_eq!(rows(&text)[4][..7], ["a", "-", "-", "running", "-", "-", "-"]);
        assert!(
            text.starts_with("software: 0 % of its time used, 1K of 4K memory given\n1 vGPU, 1 running\n"),
            "{text}"
        );
    }

    #[test]
    fn who_does_most_comes_first_and_what_does_not_run_last() {
        let at = Instant::now();
        let all = |used| {
            vec![
                vgpu("idle", "running", 0, 0),
                vgpu("off", "defined", 0, 0),
                vgpu("busy", "running", 0, used),
                vgpu("held", "held", 0, 0),
            ]
        };
        let text = look(at + Duration::from_secs(1), all(900_000_000)).told(&look(at, all(0)));
        let order: Vec<&str> = rows(&text)[4..].iter().map(|row| row[0]).collect();
        assert_eq!(order, ["held", "busy", "idle", "off"]);
        assert!(text.contains("4 vGPUs, 1 held, 2 running, 1 defined\n"), "{text}");
    }
}
