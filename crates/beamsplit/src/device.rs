//! `beamsplit device`: becomes `beamsplit-device`, which takes the same words.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::program::beside;

/// The program that serves a vGPU.
const PROGRAM: &str = "beamsplit-device";

/// Passed on as they are.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Words {
    /// What beamsplit-device understands.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    words: Vec<OsString>,
}

/// Does not return when it succeeds.
pub fn run(words: Words) -> Result<()> {
    let error = Command::new(beside(PROGRAM)).args(words.words).exec();
    Err(error).with_context(|| format!("Cannot run {PROGRAM}, which belongs beside beamsplit or in PATH"))
}
