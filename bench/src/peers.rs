//! Where the daemons are: ours beside this program, the peers where distributions and the test bed put them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bench::daemon::Program;

/// The peer that cargo can install by its name.
const NULL_CRATE: &str = "vhost-device-gpu";
const NULL_VERSION: &str = "0.2.0";

/// Options of the daemons that are known by name.
fn arguments(name: &str) -> Vec<String> {
    let words: &[&str] = match name {
        "beamsplit" => &["--renderer", "soft", "--display", "vmm"],
        "null" => &["--gpu-mode", "null"],
        _ => &[],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A daemon by its name and its command line: a path, and options after it.
pub fn program(name: &str, line: &str) -> Result<Program> {
    let mut words = line.split_whitespace().map(String::from);
    let path = PathBuf::from(words.next().with_context(|| format!("The peer {name} has no path"))?);
    if !path.is_file() {
        bail!("There is no {}", path.display());
    }
    let given: Vec<String> = words.collect();
    let arguments = if given.is_empty() { arguments(name) } else { given };
    Ok(Program { name: name.to_owned(), path, arguments, environment: Vec::new() })
}

/// The build folder that this program lies in.
fn target() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target")).map(Path::to_path_buf)
}

/// Our daemon, beside this program.
pub fn device() -> Option<Program> {
    let path = std::env::current_exe().ok()?.with_file_name("beamsplit-device");
    let arguments = arguments("beamsplit");
    path.is_file().then(|| Program { name: "beamsplit".into(), path, arguments, environment: Vec::new() })
}

/// The peers that are found, and a word on each that is not.
pub fn find() -> (Vec<Program>, Vec<String>) {
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    match qemu() {
        Some(path) => {
            found.push(Program { name: "qemu".into(), path, arguments: arguments("qemu"), environment: Vec::new() })
        }
        None => {
            absent.push("QEMU's vhost-user-gpu is not here: `cargo xtask bed` brings it, or --peer qemu=PATH".into())
        }
    }
    match null() {
        Some(path) => {
            found.push(Program { name: "null".into(), path, arguments: arguments("null"), environment: Vec::new() })
        }
        None => absent.push(format!("{NULL_CRATE} is not here: --install-peers builds its null variant by cargo")),
    }
    (found, absent)
}

/// The newest one of the test bed, else the host's own.
fn qemu() -> Option<PathBuf> {
    let bed = target().map(|target| target.join("bed"));
    let roots = bed.and_then(|bed| std::fs::read_dir(bed).ok()).into_iter().flatten().flatten();
    let mut roots: Vec<PathBuf> = roots.map(|entry| entry.path()).collect();
    roots.sort_by_key(|root| root.metadata().and_then(|data| data.modified()).ok());
    let inside = roots.iter().rev().map(|root| root.join("usr/lib/qemu/vhost-user-gpu"));
    let host = ["/usr/lib/qemu/vhost-user-gpu", "/usr/libexec/vhost-user-gpu"].map(PathBuf::from);
    inside.chain(host).find(|path| path.is_file())
}

fn null() -> Option<PathBuf> {
    let own = target().map(|target| target.join("peers/bin").join(NULL_CRATE));
    own.filter(|path| path.is_file())
}

/// Builds the peer that is a crate, without the parts that need C libraries.
pub fn install() -> Result<()> {
    let root = target().context("This program does not lie in a build folder")?.join("peers");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["install", NULL_CRATE, "--version", NULL_VERSION, "--locked", "--no-default-features", "--root"])
        .arg(&root)
        .status()
        .context("Cannot run cargo")?;
    if !status.success() {
        bail!("cargo could not install {NULL_CRATE} {NULL_VERSION}");
    }
    Ok(())
}
