//! `beamsplit screenshot`: what a head shows, as a PNG file.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::client;

/// Save what a virtual machine shows as a PNG file.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// The device's control socket (beamsplit device --control-socket PATH).
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The head.
    #[arg(long, value_name = "N", default_value_t = 0)]
    head: u32,
    /// Where to; `-` is the standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Asks first: a file that is there stays as it is when there is no picture.
pub fn run(words: &Words) -> Result<()> {
    let png = client::get(&words.socket, &format!("/v1/screenshot?head={}", words.head))?;
    if words.file.as_os_str() == "-" {
        return std::io::stdout().write_all(&png).context("Cannot write to the standard output");
    }
    std::fs::write(&words.file, png).with_context(|| format!("Cannot write {}", words.file.display()))
}
