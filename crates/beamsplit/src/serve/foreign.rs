//! Devices that others started, libvirt above all: seen by their control sockets, and not ours to start or stop.
//!
//! They put their sockets beside the manager's (`control-socket = "/run/beamsplit/{pid}.sock"` in their config file). The host's
//! manager sees those of all users.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ask, socket};
use crate::folders;

/// Where users have their runtime folders.
const USERS: &str = "/run/user";
/// How many sockets are asked. Stops a user who makes thousands of them.
const MOST: usize = 64;
/// How long a device that is not ours may take to answer. Stops one that never does from keeping others waiting.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest name that is believed.
const MAX_NAME: usize = 64;

/// All of them that answer.
pub async fn list(runtime: &Path) -> Vec<Value> {
    let mut asking = JoinSet::new();
    for path in sockets(runtime) {
        asking.spawn(async move {
            let stats = timeout(PATIENCE, ask::stats(&path)).await.ok()?.ok()?;
            describe(&path, &stats)
        });
    }
    let mut found: Vec<Value> = asking.join_all().await.into_iter().flatten().collect();
    found.sort_by(|one, other| one["socket"].as_str().cmp(&other["socket"].as_str()));
    found
}

fn sockets(runtime: &Path) -> Vec<PathBuf> {
    let mut folders = vec![runtime.to_owned()];
    if geteuid().is_root() {
        let users = fs::read_dir(USERS).into_iter().flatten().flatten();
        folders.extend(users.map(|user| user.path().join("beamsplit")));
    }
    let own = folders::socket_in(runtime);
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let paths = sockets.map(|entry| entry.path()).filter(|path| *path != own && !path.ends_with("manager.sock"));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).take(MOST).collect()
}

/// What it says of itself, as far as it makes sense.
fn describe(path: &Path, stats: &Value) -> Option<Value> {
    let name: String = stats["name"].as_str()?.chars().filter(|letter| !letter.is_control()).take(MAX_NAME).collect();
    let owner = path.symlink_metadata().ok()?.uid();
    Some(json!({
        "uuid": null,
        "name": name,
        "type": null,
        "state": "running",
        "persistent": false,
        "managed": false,
        "pid": stats["pid"].as_u64(),
        "socket": path,
        "owner": socket::user_name(owner),
    }))
}
