//! Watches one device: when it answers for the first time, and when it and all that it started are gone.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use manager::grant::CONTROL_SOCKET;
use manager::machine::Ending;
use manager::{Event, Uuid};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::ask;
use super::device::bound_log;
use super::keeper::Desk;
use super::process::Identity;

/// How often a device that starts is asked whether it answers, at first and later.
const IMPATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How often those are counted that a device left behind, at first and later.
const COUNTING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// How often the log of a device that runs is looked at.
const LOGS: Duration = Duration::from_secs(10);

/// A device that is watched.
#[derive(Debug)]
pub struct Watch {
    /// Which process.
    pub identity: Identity,
    /// The same, for ever.
    pub pidfd: Arc<OwnedFd>,
    said: Arc<Said>,
    task: AbortHandle,
}

/// What is known of it meanwhile.
#[derive(Debug, Default)]
struct Said {
    over: AtomicBool,
    console: OnceLock<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to watch. What happens is told to the desk: `Ready` once, `Exited` once.
    pub fn start(
        runtime: &tokio::runtime::Handle,
        desk: Desk,
        uuid: Uuid,
        identity: Identity,
        pidfd: OwnedFd,
        folder: PathBuf,
    ) -> Self {
        let (pidfd, said) = (Arc::new(pidfd), Arc::new(Said::default()));
        let task = runtime.spawn(watch(desk, uuid, identity, pidfd.clone(), folder, said.clone()));
        Watch { identity, pidfd, said, task: task.abort_handle() }
    }

    /// Whether the end of it was told.
    pub fn is_over(&self) -> bool {
        self.said.over.load(Ordering::Acquire)
    }

    /// The address of its web page, where it has one and answered.
    pub fn console(&self) -> Option<&str> {
        self.said.console.get().map(String::as_str)
    }
}

/// Holds the process of a record, when it lives.
pub fn adopt(identity: Identity) -> io::Result<Option<OwnedFd>> {
    identity.open()
}

/// Whether the device in this folder answers now, and is this process.
pub fn answers_now(folder: &Path, identity: Identity) -> bool {
    let Ok(stream) = std::os::unix::net::UnixStream::connect(folder.join(CONTROL_SOCKET)) else { return false };
    is(&stream, identity)
}

/// Whether it is this process that listens at the other end: the kernel says so, whatever it says itself.
fn is(stream: impl AsFd, identity: Identity) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.pid.as_raw_nonzero().get() == identity.pid)
}

#[expect(deprecated, reason = "what it is about holds: an owned descriptor that is shared stays the one it is")]
async fn watch(desk: Desk, uuid: Uuid, identity: Identity, pidfd: Arc<OwnedFd>, folder: PathBuf, said: Arc<Said>) {
    let ended = async {
        match AsyncFd::with_interest(pidfd.clone(), Interest::READABLE) {
            // Readable is what a pidfd becomes when its process ends.
            Ok(pidfd) => drop(pidfd.readable().await),
            Err(error) => {
                tracing::error!("{uuid}: Cannot wait for its process, so it is looked at now and then: {error}");
                while identity.lives() {
                    tokio::time::sleep(COUNTING.1).await;
                }
            }
        }
    };
    let answers = async {
        let mut pause = IMPATIENCE.0;
        let stats = loop {
            if let Some(stats) = answers(&folder, uuid, identity).await {
                break stats;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(IMPATIENCE.1);
        };
        if let Some(address) = console(&stats) {
            let _ = said.console.set(format!("http://{address}/"));
        }
        desk.happened(Event::Ready { uuid });
        loop {
            tokio::time::sleep(LOGS).await;
            bound_log(&folder);
        }
    };
    tokio::select! {
        () = ended => {}
        () = answers => {}
    }
    let how = reap(&pidfd);
    // What it started ends with it, if not by itself. Nothing that it used is free before.
    let mut pause = COUNTING.0;
    while !identity.kill_session() {
        tokio::time::sleep(pause).await;
        if pause == COUNTING.1 {
            tracing::warn!("{uuid}: processes of its device do not end");
            pause *= 50;
        }
        pause = (pause * 2).min(COUNTING.1);
    }
    said.over.store(true, Ordering::Release);
    desk.happened(Event::Exited { uuid, pid: Some(identity.pid.cast_unsigned()), how });
}

/// The address of its web page. A device that a guest took over must not lead people elsewhere.
fn console(stats: &Value) -> Option<SocketAddr> {
    let address: SocketAddr = stats["viewer"]["web"][0].as_str()?.parse().ok()?;
    address.ip().is_loopback().then_some(address)
}

/// How it ended, where it was a child of ours.
fn reap(pidfd: &OwnedFd) -> Ending {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                let signal = status.terminating_signal().map(Ending::Signal);
                return signal.or(status.exit_status().map(Ending::Code)).unwrap_or(Ending::Unseen);
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return Ending::Unseen,
        }
    }
}

/// What the device says of itself, if it answers and is who it should be.
async fn answers(folder: &Path, uuid: Uuid, identity: Identity) -> Option<Value> {
    let stream = tokio::net::UnixStream::connect(folder.join(CONTROL_SOCKET)).await.ok()?;
    if !is(&stream, identity) {
        return None;
    }
    let stats = ask::stats_over(stream).await.ok()?;
    (stats["name"] == uuid.to_string()).then_some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_leads_to_a_page_of_this_host_and_nowhere_else() {
        let led = |address: &str| console(&json!({ "viewer": { "web": [address] } })).map(|to| to.to_string());
        assert_eq!(led("127.0.0.1:5700").as_deref(), Some("127.0.0.1:5700"));
        assert_eq!(led("[::1]:5700").as_deref(), Some("[::1]:5700"));
        for elsewhere in ["evil.example:80", "192.0.2.1:80", "127.0.0.1:80@evil.example", "localhost:80", ""] {
            assert_eq!(led(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(console(&json!({ "viewer": null })), None);
    }
}
