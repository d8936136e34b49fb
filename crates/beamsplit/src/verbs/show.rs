//! `beamsplit show`: all that is known of one vGPU, or of a GPU.

use anyhow::Result;
use serde_json::Value;

use super::{again, at, list_of, size, text};
use crate::client::{Manager, Refused};
use crate::output;
use crate::stats::rows;
use crate::table::aligned;

/// Show all that is known of a vGPU, or of a GPU.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// A vGPU's UUID, the beginning of it, or its name; or a GPU, as `beamsplit list --gpus` has it.
    #[arg(value_name = "VGPU|GPU", value_parser = super::vgpu)]
    what: String,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Prints it.
pub fn run(words: &Words) -> Result<()> {
    let answer = match words.manager.get(&at(&words.what, "")) {
        Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 404) => {
            let mut gpus = words.manager.get("/v1/gpus")?;
            let found = gpus["gpus"].as_array_mut().into_iter().flatten().find(|gpu| gpu["id"] == words.what.as_str());
            let mut gpu = found.map(Value::take).ok_or(error)?;
            gpu["version"] = gpus["version"].take();
            gpu
        }
        answer => answer?,
    };
    match words.json {
        true => output::json(&answer),
        false => output::print(told(answer)),
    }
}

/// How a value is told to people.
type Saying = fn(&Value) -> String;

/// What people look for, in the order in which they do; below it what else there is to know.
const FIRST: [(&str, Saying); 16] = [
    ("uuid", text),
    ("id", text),
    ("name", text),
    ("type", text),
    ("gpu", text),
    ("state", text),
    ("why", text),
    ("last", text),
    ("problem", text),
    ("memory", size),
    ("heads", list_of),
    ("display", list_of),
    ("capsets", list_of),
    ("console", text),
    ("pid", text),
    ("start", text),
];

fn told(mut answer: Value) -> String {
    let mut told = Vec::new();
    let again = again(&answer);
    for (name, say) in FIRST {
        let value = answer.get_mut(name).map(Value::take).unwrap_or_default();
        if !value.is_null() {
            told.push((name.to_owned(), say(&value)));
        }
        if name == "state"
            && let Some(again) = &again
        {
            told.push(("again".to_owned(), again.clone()));
        }
    }
    // What nobody has to know twice, and what is nothing.
    if let Some(rest) = answer.as_object_mut() {
        rest.retain(|name, value| !value.is_null() && !["retry_ms", "weight"].contains(&name.as_str()));
    }
    told.extend(rows(&answer));
    aligned(&told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_people_look_for_comes_first_and_what_is_nothing_is_left_out() {
        let answer = json!({
            "version": 1, "console": null, "crashes": 2, "uuid": "4b1c", "state": "failed", "why": "It\u{1b}ended",
            "retry_ms": 2500, "memory": 134_217_728, "heads": ["1x1@60", "2x2@60"], "share": { "weight": 100 },
        });
        let expected = "uuid          4b1c\n\
                        state         failed\n\
                        again         started again in 3 s\n\
                        why           It?ended\n\
                        memory        128M\n\
                        heads         1x1@60,2x2@60\n\
                        crashes       2\n\
                        share.weight  100\n";
        assert_eq!(told(answer), expected);
    }

    #[test]
    fn what_others_chose_is_told_as_it_is() {
        let answer = json!({ "uuid": "4b1c", "note": "  two  words", "a  b": { "c": "" } });
        assert_eq!(told(answer), "uuid    4b1c\nnote      two  words\na  b.c  \n");
    }
}
