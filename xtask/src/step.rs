//! Steps: a program run to its end, with a line before it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::progress::say;
use tests::workspace;

/// Runs cargo with these words in the project's root.
pub fn cargo(words: &[&str]) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(words);
    run(command, &format!("cargo {}", words.join(" ")))
}

/// Runs a command whose output the user sees.
pub fn run(mut command: Command, name: &str) -> Result<()> {
    say(name);
    let status = command.status().with_context(|| format!("Cannot run {name}"))?;
    ensure!(status.success(), "`{name}` failed: {status}");
    Ok(())
}

/// Installs a Debian package that a step needs, when the program is missing and this user may.
pub fn need(program: &str, package: &str) -> Result<()> {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if found {
        return Ok(());
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "-qq", "--no-install-recommends", package]).env("DEBIAN_FRONTEND", "noninteractive");
    run(apt, &format!("apt-get install {package}"))
        .with_context(|| format!("{program} is missing; install Debian's package {package}"))
}
