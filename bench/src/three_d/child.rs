//! The library in a process of its own: this program again.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use renderer::isolated::{Children, Ended, child};
use renderer::library::{Kind, Library, Sink};
use renderer::virgl::{Config, Virgl, find_render_server};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};

/// Set where a program is to be such a process: of which kind.
const ROLE: &str = "BEAMSPLIT_BENCH_CHILD";
/// What it may allocate: a stream that asks for more is to be refused, and the machine to be spared.
const MEMORY: u64 = 3 << 30;

/// Serves the socket that is this process' standard input and exits, if it was started for that.
pub fn serve_if_asked() -> io::Result<()> {
    let Some(role) = std::env::var_os(ROLE) else { return Ok(()) };
    let kind = if role == "gl" { Kind::Gl } else { Kind::Vk };
    for (resource, most) in [(Resource::Data, MEMORY), (Resource::Core, 0)] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    child::run(socket, |sink| start(kind, sink))?;
    std::process::exit(0)
}

/// Starts the library that is found, which works once in a process.
pub fn start(kind: Kind, sink: Arc<dyn Sink>) -> Result<Box<dyn Library>, String> {
    let library = Virgl::load(None).map_err(|error| error.to_string())?;
    let server = match kind {
        Kind::Gl => None,
        Kind::Vk => Some(start_server(library.path()).map_err(|error| format!("No render server: {error}"))?),
    };
    library.start(Config { kind, node: None, server, sink }).map_err(|error| error.to_string())
}

/// The render server of the library, which ends with its socket.
pub(super) fn start_server(library: &Path) -> io::Result<OwnedFd> {
    let program = find_render_server(library).ok_or(io::ErrorKind::NotFound)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Command::new(program).args(["--socket-fd", "0"]).stdin(Stdio::from(theirs)).spawn()?;
    Ok(ours)
}

/// What starts a program that calls [`serve_if_asked`].
pub type Start = Box<dyn FnMut() -> io::Result<Command> + Send>;

/// Such processes, each in a process group of its own.
pub struct Programs {
    start: Start,
    shared: Arc<Processes>,
    next: u32,
}

/// What is known of them.
#[derive(Debug)]
pub struct Processes {
    state: Mutex<State>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    alive: HashMap<u32, (Kind, Pid)>,
    ended: Vec<Ended>,
    started: u64,
}

impl Processes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of this kind that live now.
    pub fn alive(&self, kind: Kind) -> Vec<Pid> {
        self.state().alive.values().filter(|(known, _)| *known == kind).map(|(_, pid)| *pid).collect()
    }

    /// How many were started.
    pub fn started(&self) -> u64 {
        self.state().started
    }

    /// Sends a signal to each of this kind, none of which can have ended unseen. Returns how many there were.
    pub fn signal(&self, kind: Kind, signal: Signal) -> usize {
        let state = self.state();
        let of_kind = state.alive.values().filter(|(known, _)| *known == kind);
        of_kind.filter(|(_, pid)| rustix::process::kill_process(*pid, signal).is_ok()).count()
    }
}

impl Programs {
    /// None is started yet.
    pub fn new(start: Start) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { start, shared: Arc::new(Processes { state: Mutex::default(), bell }), next: 0 })
    }

    /// What is known of them.
    pub fn processes(&self) -> Arc<Processes> {
        self.shared.clone()
    }
}

impl Children for Programs {
    fn start(&mut self, kind: Kind, socket: OwnedFd) -> io::Result<u32> {
        let mut command = (self.start)()?;
        command.env(ROLE, if kind == Kind::Gl { "gl" } else { "vk" });
        command.stdin(Stdio::from(socket)).stdout(Stdio::null()).process_group(0);
        self.next += 1;
        let id = self.next;
        let mut state = self.shared.state();
        let mut process = command.spawn()?;
        let pid = Pid::from_child(&process);
        state.alive.insert(id, (kind, pid));
        state.started += 1;
        drop(state);
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            // Until the second wait its number is nobody else's.
            let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut state = shared.state();
            state.alive.remove(&id);
            let how = process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            state.ended.push(Ended { id, how });
            drop(state);
            // A counter that is already full is readable all the same.
            let _ = rustix::io::write(&shared.bell, &1u64.to_ne_bytes());
        });
        Ok(id)
    }

    fn kill(&mut self, id: u32) {
        if let Some((_, pid)) = self.shared.state().alive.get(&id) {
            let _ = rustix::process::kill_process_group(*pid, Signal::KILL);
        }
    }

    fn ended(&mut self) -> Vec<Ended> {
        let _ = rustix::io::read(&self.shared.bell, &mut [0u8; 8]);
        std::mem::take(&mut self.shared.state().ended)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for (_, pid) in self.shared.state().alive.values() {
            let _ = rustix::process::kill_process_group(*pid, Signal::KILL);
        }
    }
}
