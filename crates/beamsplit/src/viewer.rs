//! `beamsplit viewer`: the process that shows frames to people. A device starts it by itself.

mod calls;
mod lock;

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// What is logged. What the libraries behind a window cannot do is told by the window, once.
const LOG: &str = "info,winit=off,sctk=off,sctk_adwaita=off,smithay_client_toolkit=off,calloop=off";

/// Runs until the device is gone.
pub fn run(words: viewer::Args) -> Result<()> {
    let filter = EnvFilter::try_from_env("BEAMSPLIT_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let options = words.open()?;
    lock::lock_in(&lock::page_folders()).context("Cannot lock the viewer in")?;
    Ok(viewer::run(options)?)
}
