//! Devices that others started, libvirt above all: seen by their control sockets, and not ours to start or stop.
//!
//! They put their sockets beside the manager's (`control-socket = "/run/beamsplit/{pid}.sock"` in their config file). The host's
//! manager sees those of all users.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::{ask, socket};
use crate::folders;

/// Where users have their runtime folders.
const USERS: &str = "/run/user";
/// How many sockets of a folder are asked. Stops a user who makes thousands of them.
const MOST: usize = 32;
/// How many names of a folder are looked at. Stops a user who makes millions of them.
const MOST_NAMES: usize = 4096;
/// How long a device that is not ours may take to answer. Stops one that never does from keeping others waiting.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest name that is believed.
const MAX_NAME: usize = 64;

/// All of them that answer. A few clients at a time have them asked: as many as there are places in `crowd`.
pub async fn list(runtime: &Path, crowd: &Semaphore) -> Vec<Value> {
    // It is never closed.
    let _place = crowd.acquire().await;
    let runtime = runtime.to_owned();
    // What is in a user's folder may be a file system of the user's, which never answers.
    let Ok(Ok(sockets)) = timeout(PATIENCE, spawn_blocking(move || sockets(&runtime))).await else { return Vec::new() };
    let mut asking = JoinSet::new();
    for (path, owner) in sockets {
        asking.spawn(async move { timeout(PATIENCE, asked(&path, owner)).await.ok()? });
    }
    let mut found: Vec<Value> = asking.join_all().await.into_iter().flatten().collect();
    found.sort_by(|one, other| one["socket"].as_str().cmp(&other["socket"].as_str()));
    found
}

/// The sockets of all folders, and whose they have to be.
fn sockets(runtime: &Path) -> Vec<(PathBuf, Option<u32>)> {
    let mut all: Vec<_> = sockets_in(runtime).map(|path| (path, None)).collect();
    if geteuid().is_root() {
        for user in fs::read_dir(USERS).into_iter().flatten().flatten() {
            let uid = user.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(uid) = uid else { continue };
            all.extend(sockets_in(&user.path().join("beamsplit")).map(|path| (path, Some(uid))));
        }
    }
    let own = folders::socket_in(runtime);
    all.retain(|(path, _)| *path != own && !path.ends_with("manager.sock"));
    all
}

fn sockets_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(MOST_NAMES).flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let paths = sockets.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).take(MOST)
}

/// What the one says of itself that listens there, if it is this user's: in a user's folder a link may lead to anybody's socket,
/// and nobody else's may be asked in root's name.
async fn asked(path: &Path, owner: Option<u32>) -> Option<Value> {
    let stream = UnixStream::connect(path).await.ok()?;
    let peer = stream.peer_cred().ok()?;
    if owner.is_some_and(|owner| owner != peer.uid()) {
        return None;
    }
    describe(path, peer, &ask::stats_over(stream).await.ok()?)
}

/// What it says of itself, as far as it makes sense. Who it is the kernel says.
fn describe(path: &Path, peer: UCred, stats: &Value) -> Option<Value> {
    let name: String = stats["name"].as_str()?.chars().filter(|letter| !letter.is_control()).take(MAX_NAME).collect();
    Some(json!({
        "uuid": null,
        "name": name,
        "type": null,
        "state": "running",
        "persistent": false,
        "managed": false,
        // Of another PID namespace there is none here.
        "pid": peer.pid().filter(|pid| *pid > 0),
        "socket": path,
        "owner": socket::user_name(peer.uid()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn whose_it_is_the_kernel_says_and_what_is_anothers_hears_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let own = geteuid().as_raw();
        tokio::spawn(async move {
            let (mut anothers, _) = listener.accept().await.unwrap();
            assert_eq!(anothers.read(&mut [0; 16]).await.unwrap(), 0, "it heard something");
            let (mut stream, _) = listener.accept().await.unwrap();
            // What is not read breaks the connection when this end is closed.
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let body = json!({ "name": "vm\n7", "pid": 1, "owner": "root" }).to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(asked(&path, Some(own + 1)).await, None);
        let told = asked(&path, Some(own)).await.unwrap();
        assert_eq!((&told["pid"], &told["name"]), (&json!(std::process::id()), &json!("vm7")));
        assert_eq!(told["owner"], socket::user_name(own));
    }

    #[test]
    fn of_a_folder_no_more_is_asked_than_a_few() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MOST + 5 {
            std::os::unix::net::UnixListener::bind(folder.path().join(format!("{number}.sock"))).unwrap();
        }
        std::os::unix::net::UnixListener::bind(folder.path().join("gpu")).unwrap();
        assert_eq!(sockets_in(folder.path()).count(), MOST);
        assert_eq!(sockets_in(&folder.path().join("0.sock")).count(), 0);
    }
}
