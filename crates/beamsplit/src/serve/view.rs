//! A vGPU in the answers of the manager.

use manager::machine::Status;
use manager::{Definition, Machine, Refusal, Uuid};
use serde_json::{Map, Value, json};

use super::slices::Slice;

/// The vGPU as it is told.
pub fn vgpu(machine: &Machine, status: &Status, time: Option<&Slice>) -> Value {
    let mut view = match serde_json::to_value(status) {
        Ok(Value::Object(view)) => view,
        _ => Map::new(),
    };
    // What it was given is told flat, and only what concerns others.
    view.remove("grant");
    view.remove("process");
    let profile = status.grant.as_ref().map(|grant| &grant.profile);
    let kind = status.kind.as_deref().and_then(|name| machine.types().get(name));
    if let Some(profile) = profile.or(kind) {
        view.insert("gpu".to_owned(), json!(profile.gpu));
        view.insert("memory".to_owned(), json!(profile.memory));
        view.insert("weight".to_owned(), json!(profile.weight));
        view.insert("heads".to_owned(), json!(profile.heads));
        view.insert("display".to_owned(), json!(profile.display));
    }
    if let Some(profile) = profile {
        let mut share = json!({ "weight": profile.weight, "promise": profile.share });
        if let Some(time) = time {
            share["used_ns"] = time.used.into();
            share["waited_ns"] = time.waited.into();
            share["slice"] = json!(time);
        }
        view.insert("share".to_owned(), share);
    }
    view.insert("managed".to_owned(), true.into());
    view.insert("pid".to_owned(), json!(status.process.as_ref().map(|process| process.pid)));
    view.into()
}

/// The vGPU that a word names: its UUID, its name, or as much of its UUID as no other begins with.
pub fn find(machine: &Machine, word: &str) -> Result<Uuid, Refusal> {
    let refusal = match machine.find(word) {
        Ok(uuid) => return Ok(uuid),
        Err(refusal) => refusal,
    };
    if !matches!(refusal, Refusal::NotFound(_)) || word.is_empty() {
        return Err(refusal);
    }
    let word = word.to_ascii_lowercase();
    let mut found = machine.list().map(|status| status.uuid).filter(|uuid| uuid.to_string().starts_with(&word));
    match (found.next(), found.next()) {
        (Some(uuid), None) => Ok(uuid),
        (Some(one), Some(other)) => {
            Err(Refusal::Conflict(format!("'{word}' begins {one}, {other} and maybe more: say more of it")))
        }
        (None, _) => Err(refusal),
    }
}

/// A definition with some words of it changed; null takes one away.
pub fn changed(definition: &Definition, changes: Map<String, Value>) -> Result<Definition, String> {
    let Ok(Value::Object(mut words)) = serde_json::to_value(definition) else {
        return Err("The definition cannot be told".to_owned());
    };
    for (name, value) in changes {
        if name == "uuid" && value != words["uuid"] {
            return Err("A UUID never changes: undefine this one and define another".to_owned());
        }
        match value {
            Value::Null => words.remove(&name),
            value => words.insert(name, value),
        };
    }
    read(words)
}

/// A definition from its words in JSON.
pub fn read(words: Map<String, Value>) -> Result<Definition, String> {
    let definition: Definition = serde_json::from_value(words.into()).map_err(|error| error.to_string())?;
    definition.check()?;
    Ok(definition)
}
