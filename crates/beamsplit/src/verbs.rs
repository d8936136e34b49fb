//! The commands that ask the manager: one file for each or for a few that are alike.

pub mod apply;
pub mod attach;
pub mod define;
pub mod life;
pub mod list;
pub mod log;
pub mod reload;
pub mod show;
pub mod top;
pub mod types;

use serde_json::Value;

use crate::client::escape;
use crate::table::printable;

/// Wrong usage, found after the words were taken apart. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Where the manager has this vGPU, or what is below it.
pub fn at(vgpu: &str, below: &str) -> String {
    format!("/v1/vgpus/{}{below}", escape(vgpu))
}

/// Text of an answer; a dash where there is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The words of a list, with commas; a dash where there is none.
pub fn list_of(value: &Value) -> String {
    let words: Vec<_> = value.as_array().into_iter().flatten().map(text).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

/// Bytes for people; a dash where nobody knows.
pub fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), crate::table::bytes)
}

/// When one that failed is started again, if it is.
pub fn again(vgpu: &Value) -> Option<String> {
    let pause = vgpu["retry_ms"].as_u64()?.div_ceil(1000);
    Some(format!("started again in {pause} s"))
}

/// The longest name of a vGPU, in bytes.
const MAX_NAME: usize = 64;

/// A word that names a vGPU. The manager knows whether there is one; that nothing is none is known here.
pub fn vgpu(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("it names no vGPU; beamsplit list shows them".to_owned()),
        1..=MAX_NAME => Ok(text.to_owned()),
        _ => Err(format!("the name of a vGPU has at most {MAX_NAME} bytes")),
    }
}

/// A line of a message that came from elsewhere.
pub fn line(text: &str) -> String {
    printable(text)
}
