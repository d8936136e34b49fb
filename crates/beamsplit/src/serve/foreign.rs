//! Devices that others started, libvirt above all: seen by their control sockets, and not ours to start or stop.
//!
//! They put their sockets beside the manager's (`control-socket = "/run/beamsplit/{pid}.sock"` in their config file). The host's
//! manager sees those of all users.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::net::unix::UCred;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::aside::Aside;
use super::{ask, socket};
use crate::folders;

/// Where users have their runtime folders.
const USERS: &str = "/run/user";
/// How many sockets of a folder are asked. Stops a user who makes thousands of them.
const MOST: usize = 32;
/// How many names of a folder are looked at. Stops a user who makes millions of them.
const MOST_NAMES: usize = 4096;
/// Folders of users that are looked into at once. Each takes a thread meanwhile, and a hostile one for as long as it likes.
const MOST_USERS: usize = 256;
/// How long a folder may take, and then a device that is not ours. Stops those that never answer from keeping others waiting.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest name that is believed.
const MAX_NAME: usize = 64;

/// The folders in which others have sockets.
#[derive(Debug, Clone)]
pub struct Foreign {
    runtime: PathBuf,
    own: Aside,
    /// Of each user by itself: one that hangs is none of the others' concern.
    users: Arc<Mutex<BTreeMap<u32, Aside>>>,
}

/// Sockets that somebody listened on a moment ago.
type Found = Vec<(PathBuf, UnixStream)>;

impl Foreign {
    /// Those beside the manager's runtime folder.
    pub fn new(runtime: &Path) -> Self {
        Foreign { runtime: runtime.to_owned(), own: Aside::default(), users: Arc::default() }
    }

    /// All of them that answer. A few clients at a time have them asked: as many as there are places in `crowd`.
    pub async fn list(&self, crowd: &Semaphore) -> Vec<Value> {
        // It is never closed.
        let _place = crowd.acquire().await;
        let mut asking = JoinSet::new();
        for (folder, owner, aside) in self.folders() {
            asking.spawn(async move {
                // What is in a user's folder may be a file system of the user's: who looks there, or connects, may never return.
                let found = aside.run(PATIENCE, move || found_in(&folder, owner)).await;
                answers(found.unwrap_or_default(), owner).await
            });
        }
        let mut all: Vec<Value> = asking.join_all().await.into_iter().flatten().collect();
        all.sort_by(|one, other| one["socket"].as_str().cmp(&other["socket"].as_str()));
        all
    }

    /// All folders, whose what is there has to be, and the place of who looks there.
    fn folders(&self) -> Vec<(PathBuf, Option<u32>, Aside)> {
        let mut all = vec![(self.runtime.clone(), None, self.own.clone())];
        if geteuid().is_root() {
            let mut asides = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            // Of those that nobody looks into nothing has to be known.
            asides.retain(|_, aside| !aside.is_unused());
            // The names alone, which are root's: no folder of a user's is touched.
            for user in fs::read_dir(USERS).into_iter().flatten().flatten() {
                let Some(uid) = user.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                if asides.len() < MOST_USERS || asides.contains_key(&uid) {
                    let aside = asides.entry(uid).or_default().clone();
                    all.push((user.path().join("beamsplit"), Some(uid), aside));
                }
            }
        }
        all
    }
}

/// Connects to what is in a folder, which may take for ever.
fn found_in(folder: &Path, owner: Option<u32>) -> Found {
    let connected = |path: PathBuf| socket::connect(&path, owner).ok().map(|stream| (path, stream));
    sockets_in(folder).filter_map(connected).collect()
}

fn sockets_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(MOST_NAMES).flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let paths = sockets.map(|entry| entry.path());
    let own = folders::socket_in(folder);
    paths.filter(move |path| *path != own && path.extension().is_some_and(|end| end == "sock")).take(MOST)
}

/// What those say of themselves who listen there, as far as they are this user's and answer.
async fn answers(found: Found, owner: Option<u32>) -> Vec<Value> {
    let mut asking = JoinSet::new();
    for (path, stream) in found {
        asking.spawn(async move { timeout(PATIENCE, asked(&path, stream, owner)).await.ok()? });
    }
    asking.join_all().await.into_iter().flatten().collect()
}

/// What the one says of itself that listens there, if it is this user's: nobody else's may be asked in root's name.
async fn asked(path: &Path, stream: UnixStream, owner: Option<u32>) -> Option<Value> {
    let stream = tokio::net::UnixStream::from_std(stream).ok()?;
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
        let connect = || socket::connect(&path, Some(own)).unwrap();
        assert_eq!(asked(&path, connect(), Some(own + 1)).await, None);
        let told = asked(&path, connect(), Some(own)).await.unwrap();
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
