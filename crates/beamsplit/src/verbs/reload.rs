//! `beamsplit reload`: files that somebody edited.

use anyhow::Result;

use crate::client::Manager;

/// Have the manager read types.toml, serve.toml and all definitions again. When one of the first two cannot be read, all stays as it
/// was; a definition that cannot be is listed as failed.
#[derive(Debug, clap::Args)]
pub struct Words {
    #[command(flatten)]
    manager: Manager,
}

/// Says what is wrong with them, if something is.
pub fn run(words: &Words) -> Result<()> {
    words.manager.ask("POST", "/v1/reload", None).map(drop)
}
