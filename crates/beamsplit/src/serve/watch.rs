//! Watches one device: when it answers for the first time, and when it and all that it started are gone.

use std::future::ready;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use host::processes::{Identity, Processes};
use manager::grant::CONTROL_SOCKET;
use manager::machine::Ending;
use manager::{Event, Uuid};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::runtime;
use tokio::task::AbortHandle;
use viewer::Right;

use super::aside::Aside;
use super::desk::Desk;
use super::keys::Keys;
use super::{ask, device, socket};

/// How often a device that starts is asked whether it answers, at first and later.
const IMPATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How often those are counted that a device left behind, at first and later.
const COUNTING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// Who has not ended after that long hangs in the kernel, and is looked at, and told of, no more often.
const STUCK: Duration = Duration::from_secs(10);
/// How long it may take to find those that a device left behind.
const SLOW: Duration = Duration::from_secs(1);

/// A device that is watched.
#[derive(Debug)]
pub struct Watch {
    identity: Identity,
    /// The same, for ever; of one that ended before it was watched there is none.
    pidfd: Option<Arc<OwnedFd>>,
    said: Arc<Said>,
    keys: Option<Keys>,
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
        runtime: &runtime::Handle,
        desk: Desk,
        uuid: Uuid,
        identity: Identity,
        pidfd: OwnedFd,
        folder: PathBuf,
    ) -> Self {
        let (pidfd, said) = (Arc::new(pidfd), Arc::new(Said::default()));
        let keys = Keys::read(&folder);
        let task = runtime.spawn(watch(desk, uuid, identity, pidfd.clone(), folder, said.clone()));
        Watch { identity, pidfd: Some(pidfd), said, keys, task: task.abort_handle() }
    }

    /// Watches what is left of a device that ended while nobody did. `Exited` is told when nothing is.
    pub fn start_rest(runtime: &runtime::Handle, desk: Desk, uuid: Uuid, identity: Identity) -> Self {
        let said = Arc::new(Said::default());
        let over = said.clone();
        let task = runtime.spawn(async move {
            let aside = Aside::default();
            let kill = move || kill_left_behind(&Processes::default(), uuid, identity);
            // Of those of whom it is not known whether they are its own, it is not known that they are gone.
            let kill = || {
                let aside = aside.clone();
                async move { aside.run(SLOW, kill).await.unwrap_or(1) }
            };
            end_all(uuid, kill).await;
            over.tell(&desk, uuid, identity, Ending::Unseen);
        });
        Watch { identity, pidfd: None, said, keys: None, task: task.abort_handle() }
    }

    /// Its process, until the end of it was told.
    pub fn process(&self) -> Option<Identity> {
        (!self.is_over()).then_some(self.identity)
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        if let Some(pidfd) = &self.pidfd {
            // It may have ended by itself just now, and its end is on its way.
            let _ = pidfd_send_signal(&**pidfd, Signal::TERM);
        }
    }

    /// Ends it and all that it started. Of one whose end nobody saw this is done without a word.
    pub fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            Processes::default().kill_session(self.identity);
            let _ = pidfd_send_signal(&**pidfd, Signal::KILL);
        }
    }

    /// Whether the end of it was told.
    pub fn is_over(&self) -> bool {
        self.said.over.load(Ordering::Acquire)
    }

    /// What opens its console for one who has this right, where it takes anything.
    pub fn key(&self, right: Right) -> Option<&str> {
        self.keys.as_ref().map(|keys| keys.of(right))
    }

    /// The address of its web page, where it has one and answered.
    pub fn console(&self) -> Option<&str> {
        self.said.console.get().map(String::as_str)
    }
}

impl Said {
    fn tell(&self, desk: &Desk, uuid: Uuid, identity: Identity, how: Ending) {
        self.over.store(true, Ordering::Release);
        desk.happened(Event::Exited { uuid, pid: Some(identity.pid.cast_unsigned()), how });
    }
}

/// Ends what a device left behind that ended while nobody watched. Returns how many there were.
///
/// Each is asked for its environment, which lies in its own memory: of one that hangs in a driver while that memory is locked the
/// kernel says nothing until it does.
fn kill_left_behind(processes: &Processes, uuid: Uuid, leader: Identity) -> usize {
    processes.kill_session_marked(leader, &device::mark(uuid))
}

/// The same for one who has to go on soon. Returns whether nothing is left for sure.
pub fn is_nothing_left(processes: Processes, uuid: Uuid, leader: Identity) -> bool {
    let (said, heard) = channel();
    let look = move || {
        // Nobody hears it any more who had to go on.
        let _ = said.send(kill_left_behind(&processes, uuid, leader));
    };
    let begun = std::thread::Builder::new().name("left behind".to_owned()).spawn(look);
    begun.is_ok() && heard.recv_timeout(SLOW) == Ok(0)
}

/// Whether the device in this folder answers now, and is this process. One that has no time to be connected with does not.
pub fn answers_now(runtime: &runtime::Handle, folder: &Path, identity: Identity) -> bool {
    let connect = || {
        let stream = socket::connect(&folder.join(CONTROL_SOCKET), None)?;
        let _guard = runtime.enter();
        UnixStream::from_std(stream)
    };
    connect().is_ok_and(|stream| ask::is(&stream, identity.pid))
}

#[expect(deprecated, reason = "what it is about holds: an owned descriptor that is shared stays the one it is")]
async fn watch(desk: Desk, uuid: Uuid, identity: Identity, pidfd: Arc<OwnedFd>, folder: PathBuf, said: Arc<Said>) {
    let processes = Processes::default();
    let ended = async {
        match AsyncFd::with_interest(pidfd.clone(), Interest::READABLE) {
            // Readable is what a pidfd becomes when its process ends.
            Ok(pidfd) => drop(pidfd.readable().await),
            Err(error) => {
                tracing::error!("{uuid}: Cannot wait for its process, so it is looked at now and then: {error}");
                while processes.lives(identity) {
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
        std::future::pending().await
    };
    tokio::select! {
        () = ended => {}
        () = answers => {}
    }
    // Before it is waited for: as long as it is our corpse its number is nobody else's.
    end_all(uuid, || ready(processes.kill_session(identity))).await;
    said.tell(&desk, uuid, identity, reap(&pidfd));
}

/// Ends what a device started with it, if it does not end by itself; `kill` returns how many there were. Nothing that they used is
/// free before.
async fn end_all<Killed: Future<Output = usize>>(uuid: Uuid, kill: impl Fn() -> Killed) {
    let begin = Instant::now();
    let mut pause = COUNTING.0;
    while kill().await > 0 {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(COUNTING.1);
        if begin.elapsed() > STUCK {
            tracing::warn!("{uuid}: processes of its device do not end");
            pause = STUCK;
        }
    }
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
    let stats = ask::stats(&folder.join(CONTROL_SOCKET), identity.pid).await.ok()?;
    (stats["name"] == uuid.to_string()).then_some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    use serde_json::json;

    #[test]
    fn a_device_whose_queue_is_full_keeps_no_manager_waiting() {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let own = Processes::default().identity(std::process::id().cast_signed()).unwrap();
        let answers = || answers_now(runtime.handle(), folder.path(), own);
        assert!(!answers(), "Nobody is there");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = SocketAddrUnix::new(folder.path().join(CONTROL_SOCKET)).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let crowd: Vec<_> = std::iter::from_fn(|| {
            let one = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
            one.ok().filter(|one| rustix::net::connect(one, &address).is_ok())
        })
        .collect();
        assert!(!crowd.is_empty() && !answers());
        for _ in crowd {
            rustix::net::accept(&socket).unwrap();
        }
        assert!(answers());
        let other = Identity { pid: own.pid + 1, ..own };
        assert!(!answers_now(runtime.handle(), folder.path(), other));
    }

    #[test]
    fn one_that_does_not_say_whose_it_is_is_not_known_to_be_gone() {
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes::at(folder.path());
        let write = |pid: i32, session: i32| {
            let place = folder.path().join(pid.to_string());
            std::fs::create_dir(&place).unwrap();
            let zeros = "0 ".repeat(15);
            std::fs::write(place.join("stat"), format!("{pid} (x) D 1 {session} {session} {zeros}7 0\n")).unwrap();
            place
        };
        write(std::process::id().cast_signed(), 1);
        // Of numbers that no real process has.
        let leader = Identity { pid: 2_000_000_000, start_time: 7 };
        let nothing_left = || is_nothing_left(processes.clone(), Uuid::from_u128(1), leader);
        assert!(nothing_left());
        let place = write(leader.pid + 1, leader.pid);
        std::fs::write(place.join("environ"), "HOME=/\0").unwrap();
        assert!(nothing_left(), "another's");
        std::fs::remove_file(place.join("environ")).unwrap();
        // Who opens a pipe that nobody writes to waits.
        rustix::fs::mkfifoat(rustix::fs::CWD, place.join("environ"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        assert!(!nothing_left());
    }

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
