//! A declared set of vGPUs.

use axum::Json;
use axum::extract::State;
use manager::{Machine, Refusal};
use serde_json::Value;

use super::routes::{App, Refused};

/// The type that fits best.
pub fn place(_machine: &Machine, _least: Option<u64>, _most: Option<u64>) -> Result<String, Refusal> {
    Err(Refusal::Invalid("Name a type".to_owned()))
}

/// Makes it so.
pub async fn apply(State(_app): State<App>, _body: String) -> Result<Json<Value>, Refused> {
    Err(Refusal::Invalid("Not yet".to_owned()).into())
}
