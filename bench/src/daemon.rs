//! A daemon under measurement: how it is started, watched and ended.

use std::ffi::{CStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Doing, Error, Result};
use crate::frontend::Abandon;
use crate::process::{self, Watchdog};

/// The longest that a daemon may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A daemon that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name in tables.
    pub name: String,
    /// The file to execute.
    pub path: PathBuf,
    /// Options beside `--socket-path`.
    pub arguments: Vec<String>,
    /// Additions to its environment.
    pub environment: Vec<(String, PathBuf)>,
}

impl Program {
    /// The command line up to `--socket-path`. A program that lies in another distribution's root is run by that root's own
    /// loader with that root's libraries, which needs no rights.
    pub(crate) fn command(&self) -> Command {
        let Some((root, loader)) = foreign_loader(&self.path) else { return Command::new(&self.path) };
        let folders = ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "lib"];
        let folders: Vec<_> = folders.iter().map(|folder| root.join(folder)).filter(|path| path.is_dir()).collect();
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(std::env::join_paths(folders).unwrap_or_else(|_| OsString::from("/usr/lib")));
        command.arg(&self.path);
        command
    }
}

/// The root above `path`, if it is not this system's own, and its loader.
pub(crate) fn foreign_loader(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let loaders = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    let roots = path.ancestors().skip(1).filter(|root| root.parent().is_some() && root.join("usr").is_dir());
    roots.flat_map(|root| loaders.map(|loader| (root.to_path_buf(), root.join(loader)))).find(|(_, path)| path.exists())
}

/// A daemon that runs. It is ended when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    listening: Duration,
    stream: Option<UnixStream>,
    watch: Option<Sender<()>>,
    /// Dropped when it has ended.
    _watchdog: Watchdog,
}

impl Daemon {
    /// Starts a daemon and waits until it listens in `folder`.
    pub fn start(program: &Program, folder: &Path) -> Result<Self> {
        Self::start_on(program, folder, None)
    }

    /// As [`Daemon::start`], on a core of its own. Then what a daemon does after it listens does not count as its start: on
    /// one core it may well do all that before we are woken.
    pub fn start_on(program: &Program, folder: &Path, core: Option<usize>) -> Result<Self> {
        let socket = folder.join(format!("{}.sock", program.name));
        let _ = std::fs::remove_file(&socket);
        let news = inotify::init(inotify::CreateFlags::CLOEXEC).doing("watch a folder")?;
        let wanted = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&news, folder, wanted).doing("watch a folder")?;
        let mut command = program.command();
        command.envs(program.environment.iter().cloned()).args(&program.arguments).arg("--socket-path").arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = Watchdog::over(&socket)?;
        let start = Instant::now();
        let child = command.spawn().doing(format!("start {}", program.path.display()))?;
        if let (Some(core), Some(pid)) = (core, Pid::from_raw(child.id() as i32)) {
            process::pin_process(pid, core)?;
        }
        let mut daemon =
            Self { child, socket, listening: Duration::ZERO, stream: None, watch: None, _watchdog: watchdog };
        daemon.wait_for_socket(&news, start)?;
        daemon.listening = start.elapsed();
        Ok(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From the start to the first successful connect.
    pub fn listening(&self) -> Duration {
        self.listening
    }

    /// The first connection. Some daemons end after one, so this is the one to use.
    pub fn take_stream(&mut self) -> Option<UnixStream> {
        self.stream.take()
    }

    /// Its process.
    pub fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id() as i32).ok_or_else(|| Error::NotDone("The daemon has no process".into()))
    }

    /// Ends the waits of a front-end when the daemon dies, or when `limit` is over.
    pub fn watch(&mut self, abandons: Vec<Abandon>, limit: Duration) -> Result<()> {
        let process = rustix::process::pidfd_open(self.pid()?, PidfdFlags::empty()).doing("watch the daemon")?;
        let (sender, receiver) = channel();
        self.watch = Some(sender);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || watch(&process, &receiver, &abandons, Instant::now() + limit))
            .doing("start a thread")?;
        Ok(())
    }

    fn wait_for_socket(&mut self, news: &OwnedFd, start: Instant) -> Result<()> {
        let name = self.socket.file_name().unwrap_or_default().to_os_string();
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(news, &mut space);
        let ours = |file: Option<&CStr>| file.is_some_and(|file| file.to_bytes() == name.as_encoded_bytes());
        while !self.socket.exists() {
            if !crate::frontend::ring::readable(news.as_fd(), Some(Duration::from_millis(100)))? {
                self.still_starts(start)?;
                continue;
            }
            if ours(reader.next().doing("watch a folder")?.file_name()) {
                break;
            }
        }
        // Between bind and listen a connection is refused.
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(_) => self.still_starts(start)?,
            }
            rustix::thread::sched_yield();
        }
    }

    fn still_starts(&mut self, start: Instant) -> Result<()> {
        if let Some(status) = self.child.try_wait().doing("look after the daemon")? {
            return Err(Error::NotDone(format!("It ended at once: {status}")));
        }
        if start.elapsed() > START_LIMIT {
            return Err(Error::NotDone("It does not listen".into()));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.watch = None;
        // Nothing is left to do if they fail: the process is gone then.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn watch(process: &OwnedFd, stop: &Receiver<()>, abandons: &[Abandon], deadline: Instant) {
    loop {
        match stop.recv_timeout(Duration::from_millis(500)) {
            Err(RecvTimeoutError::Timeout) => (),
            _ => return,
        }
        let dead = crate::frontend::ring::readable(process.as_fd(), Some(Duration::ZERO)).unwrap_or(true);
        if !dead && Instant::now() < deadline {
            continue;
        }
        if !dead {
            let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
        }
        abandons.iter().for_each(Abandon::abandon);
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_another_root_is_run_by_that_root_s_loader() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        for path in ["usr/lib/qemu/daemon", "usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folders");
            std::fs::write(path, "").expect("file");
        }
        let found = foreign_loader(&root.join("usr/lib/qemu/daemon"));
        assert_eq!(found, Some((root.to_path_buf(), root.join("lib64/ld-linux-x86-64.so.2"))));
    }

    #[test]
    fn a_program_of_this_system_is_run_as_it_is() {
        assert_eq!(foreign_loader(Path::new("/usr/lib/qemu/vhost-user-gpu")), None);
    }
}
