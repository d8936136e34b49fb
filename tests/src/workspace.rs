//! Where things are: the project, its target folder, scratch folders, the binaries under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The project's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The target folder, where everything that is kept or thrown away goes.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A new folder that is removed with the value. Its path is short enough for Unix sockets in it.
pub fn scratch(prefix: &str) -> Result<tempfile::TempDir> {
    // A socket's path has 107 bytes; the longest name used in a scratch folder has about 40.
    let mut parent = target().join("tmp");
    if parent.as_os_str().len() > 60 {
        parent = std::env::temp_dir();
    }
    std::fs::create_dir_all(&parent).with_context(|| format!("Cannot make {}", parent.display()))?;
    tempfile::Builder::new().prefix(prefix).tempdir_in(parent).context("Cannot make a scratch folder")
}

/// The path of one of the project's own programs, built in the profile of the running program.
pub fn binary(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = BUILT.get_or_init(|| build_binaries().map_err(|error| format!("{error:#}")));
    let dir = dir.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(dir.join(name))
}

fn build_binaries() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BEAMSPLIT_BIN_DIR") {
        return Ok(dir.into());
    }
    build(&["beamsplit-backend", "beamsplit"])
}

/// A file that building a package makes, in the profile of the running program; or the one of that name beside the binaries under
/// test, where somebody has put those in a folder.
pub fn built(package: &str, file: &str) -> Result<PathBuf> {
    let put = std::env::var_os("BEAMSPLIT_BIN_DIR").map(|dir| Path::new(&dir).join(file));
    if let Some(path) = put.filter(|path| path.exists()) {
        return Ok(path);
    }
    Ok(build(&[package])?.join(file))
}

/// Builds packages in the profile of the running program, and returns the folder. Cargo knows whether there is anything to do.
fn build(packages: &[&str]) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("Cannot find the running program")?;
    let dir = exe.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).context("Program without a folder")?;
    let mut cargo = cargo();
    cargo.args(["build", "--quiet"]);
    for package in packages {
        cargo.args(["-p", package]);
    }
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = dir.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let status = cargo.status().context("Cannot run cargo")?;
    ensure!(status.success(), "{} does not build", packages.join(", "));
    Ok(dir.to_owned())
}

/// Cargo, in the project's root.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
