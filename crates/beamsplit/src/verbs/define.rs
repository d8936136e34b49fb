//! `beamsplit create`, `define` and `modify`: what a vGPU is.

use anyhow::Result;
use manager::Uuid;
use serde_json::{Map, Value, json};

use super::types::Memory;
use super::{Usage, at, text};
use crate::client::Manager;
use crate::output;

/// Make a vGPU that is gone when it stops.
#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    new: New,
}

/// Write a vGPU down, so that it lasts.
#[derive(Debug, clap::Args)]
pub struct Define {
    #[command(flatten)]
    new: New,
    /// Start it with the host from now on.
    #[arg(long)]
    autostart: bool,
}

/// What a new one is made of.
#[derive(Debug, clap::Args)]
struct New {
    /// Its type (see `beamsplit types`); without, the smallest that fits --min-memory and --max-memory.
    #[arg(value_name = "TYPE")]
    kind: Option<String>,
    #[command(flatten)]
    memory: Memory,
    /// Its UUID [default: a new one].
    #[arg(long, value_parser = manager::vgpu::parse_uuid)]
    uuid: Option<Uuid>,
    /// Start it at once.
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    what: What,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// What can be said of any.
#[derive(Debug, clap::Args)]
struct What {
    /// What to call it.
    #[arg(long)]
    name: Option<String>,
    /// Its monitors, as in 1920x1080@60,1280x800, within what its type allows.
    #[arg(long)]
    heads: Option<String>,
    /// Who shows its pixels, as `beamsplit device --display` has it; several are possible.
    #[arg(long, value_name = "SINK")]
    display: Vec<String>,
    /// How a VMM reaches it: vhost-user or vfio-user.
    #[arg(long, value_parser = transport)]
    transport: Option<String>,
    /// Over vfio-user, which card the guest finds: vga, virtio or bochs.
    #[arg(long, value_parser = model)]
    model: Option<String>,
}

fn transport(text: &str) -> Result<String, String> {
    one_of(&["vhost-user", "vfio-user"], text)
}

fn model(text: &str) -> Result<String, String> {
    one_of(&["vga", "virtio", "bochs"], text)
}

/// One of these words, or nothing, which takes back what was said.
fn one_of(words: &[&str], text: &str) -> Result<String, String> {
    match text.is_empty() || words.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("it is none of {}", words.join(", "))),
    }
}

impl What {
    fn words(&self) -> Map<String, Value> {
        let said =
            [("name", &self.name), ("heads", &self.heads), ("transport", &self.transport), ("model", &self.model)];
        let mut words = Map::new();
        for (name, value) in said {
            if let Some(value) = value {
                // Nothing is said any more.
                let value = if value.is_empty() { Value::Null } else { value.as_str().into() };
                words.insert(name.to_owned(), value);
            }
        }
        if !self.display.is_empty() {
            let nothing = self.display.iter().all(String::is_empty);
            words.insert("display".to_owned(), if nothing { Value::Null } else { json!(self.display) });
        }
        words
    }
}

impl New {
    fn run(&self, more: impl IntoIterator<Item = (&'static str, Value)>) -> Result<()> {
        let mut words = self.what.words();
        words.retain(|_, value| !value.is_null());
        if self.kind.is_none() && !self.memory.is_said() {
            return Err(
                Usage("Name a type (beamsplit types lists them), or say --min-memory or --max-memory".into()).into()
            );
        }
        if self.kind.is_some() && self.memory.is_said() {
            return Err(
                Usage("A type says how much memory there is: leave out --min-memory and --max-memory".into()).into()
            );
        }
        let said = [
            ("type", self.kind.as_ref().map(|kind| json!(kind))),
            ("uuid", self.uuid.as_ref().map(|uuid| json!(uuid))),
            ("min_memory", self.memory.min_memory.map(Value::from)),
            ("max_memory", self.memory.max_memory.map(Value::from)),
            ("run", Some(self.start.into())),
        ];
        words.extend(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        words.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let answer = self.manager.ask("POST", "/v1/vgpus", Some(&words.into()))?;
        match self.json {
            true => output::json(&answer),
            false => output::print(format_args!("{}\n", text(&answer["uuid"]))),
        }
    }
}

/// Makes it and prints its UUID.
pub fn create(words: &Create) -> Result<()> {
    words.new.run([("transient", true.into())])
}

/// Writes it down and prints its UUID.
pub fn define(words: &Define) -> Result<()> {
    let start = if words.autostart { "auto" } else { "manual" };
    words.new.run([("transient", false.into()), ("start", start.into())])
}

/// Change what is written down of a vGPU; it counts from its next start. An empty value takes back what was said.
#[derive(Debug, clap::Args)]
pub struct Modify {
    /// Its UUID, the beginning of it, or its name.
    #[arg(value_parser = super::vgpu)]
    vgpu: String,
    /// Another type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Whether it starts with the host.
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    autostart: Option<String>,
    #[command(flatten)]
    what: What,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Changes it.
pub fn modify(words: &Modify) -> Result<()> {
    let mut changes = words.what.words();
    if let Some(kind) = &words.kind {
        changes.insert("type".to_owned(), kind.as_str().into());
    }
    if let Some(autostart) = &words.autostart {
        changes.insert("start".to_owned(), if autostart == "on" { "auto" } else { "manual" }.into());
    }
    if changes.is_empty() {
        return Err(Usage("Say what to change, as in --name desk".to_owned()).into());
    }
    let answer = words.manager.ask("PATCH", &at(&words.vgpu, ""), Some(&changes.into()))?;
    if words.json {
        return output::json(&answer);
    }
    if !matches!(answer["state"].as_str(), Some("defined" | "failed")) {
        output::remark(format_args!("It counts from the next start of {}", words.vgpu));
    }
    Ok(())
}
