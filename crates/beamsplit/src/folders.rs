//! Where the manager keeps things: what lives until the next boot, and what was defined.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::process::geteuid;

/// The name of our folder in each of them.
const OWN: &str = "beamsplit";
/// The socket of the manager in the runtime folder.
const SOCKET: &str = "manager.sock";
/// The runtime folder of the whole host's manager.
const SYSTEM: &str = "/run/beamsplit";

/// The socket of the manager whose runtime folder this is.
pub fn socket_in(runtime: &Path) -> PathBuf {
    runtime.join(SOCKET)
}

/// `/run/beamsplit` for root, else `$XDG_RUNTIME_DIR/beamsplit`.
pub fn runtime() -> Result<PathBuf> {
    if geteuid().is_root() {
        return Ok(SYSTEM.into());
    }
    match named("XDG_RUNTIME_DIR") {
        Some(folder) => Ok(folder.join(OWN)),
        None => bail!("XDG_RUNTIME_DIR is not set: log in as this user, or name a folder with --runtime-dir"),
    }
}

/// `/etc/beamsplit` for root, else `$XDG_CONFIG_HOME/beamsplit` or `~/.config/beamsplit`.
pub fn config() -> Result<PathBuf> {
    if geteuid().is_root() {
        return Ok("/etc/beamsplit".into());
    }
    match named("XDG_CONFIG_HOME").or_else(|| Some(named("HOME")?.join(".config"))) {
        Some(folder) => Ok(folder.join(OWN)),
        None => bail!("Neither XDG_CONFIG_HOME nor HOME is set: name a folder with --config-dir"),
    }
}

/// `/var/cache/beamsplit` for root, else `$XDG_CACHE_HOME/beamsplit` or `~/.cache/beamsplit`. Nothing is lost with it.
pub fn cache() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/var/cache/beamsplit".into());
    }
    named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache"))).map(|folder| folder.join(OWN))
}

/// Where a manager listens that this user may ask: one of the folder that was named, else the user's own if one is there,
/// else the host's.
pub fn managers_socket(runtime_dir: Option<&Path>) -> PathBuf {
    if let Some(folder) = runtime_dir {
        return socket_in(folder);
    }
    let own = runtime().ok().map(|folder| socket_in(&folder));
    own.filter(|path| path.exists()).unwrap_or_else(hosts_socket)
}

/// Where the manager of the whole host listens.
pub fn hosts_socket() -> PathBuf {
    socket_in(Path::new(SYSTEM))
}

/// A variable that names an absolute folder, as the XDG specification wants it; others count as not set.
fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
