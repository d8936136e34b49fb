//! `beamsplit reload`: files that somebody edited.

use anyhow::Result;

use crate::client::Manager;

/// Whom to tell.
#[derive(Debug, clap::Args)]
pub struct Words {
    #[command(flatten)]
    manager: Manager,
}

/// Says what is wrong with them, if something is.
pub fn run(words: &Words) -> Result<()> {
    words.manager.ask("POST", "/v1/reload", None).map(drop)
}
