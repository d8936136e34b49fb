//! The roles in which this program runs the libraries that draw 3D: in processes of their own, which may crash, hang, or be
//! taken over by what a guest sends, and reach nothing but what they draw with.
//!
//! - [`ROLE`]: serves one device; started by its launcher;
//! - [`SERVER_ROLE`]: becomes the render server that Vulkan runs in, locked in before it is executed;
//! - [`PROBE_ROLE`]: finds out what works, says so on its standard output, and ends.
//!
//! The order within: privileges go, what needs a process or a file that the jail does not have is opened, the jail closes
//! ([`jail`](self::lock)), and only then the library is loaded: its threads are born inside.

mod environment;
mod lists;
mod lock;
mod probe;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use renderer::library::Kind;
use renderer::virgl::{Config, Virgl};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

pub use environment::environment;
pub use lists::LIBRARY as CALLS;
pub use lock::files;
pub use probe::{Finding, ask};

use crate::inherited::{self, inherit};
use crate::logging;
use crate::sandbox;
use crate::values::SandboxMode;

/// The first words of command lines that make this program one of these. Not for people.
pub const ROLE: &str = "as-renderer";
/// See [`ROLE`].
pub const SERVER_ROLE: &str = "as-render-server";
/// See [`ROLE`].
pub const PROBE_ROLE: &str = "as-probe";

/// Addresses that a Vulkan driver takes and uses little of: code, stacks, heaps that it reserves. Seen: 0.9 GiB.
const ADDRESSES: u64 = 1 << 30;

/// By how much such a process comes before others when memory is short (`oom_score_adj`, 1000 are all of the host's, or of its control
/// group's): as much as browsers' do. Another one is started; a device is not, and has its guest's memory counted among its own.
const ENDS_FIRST: i32 = 300;
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What such a process is told besides what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The library, where it is not the system's.
    pub library: Option<PathBuf>,
    /// The program that becomes the render server.
    pub server: Option<PathBuf>,
    /// The render node.
    pub node: Option<PathBuf>,
    /// Where drivers keep what they compiled.
    pub shaders: Option<PathBuf>,
    /// How strictly it is locked in.
    pub sandbox: SandboxMode,
    /// The most memory of its own, in bytes.
    pub memory: u64,
    /// What it logs.
    pub log: String,
}

impl Spec {
    /// One that says nothing.
    #[cfg(test)]
    pub fn plain() -> Self {
        let (library, server, node, shaders) = Default::default();
        Spec { library, server, node, shaders, sandbox: SandboxMode::On, memory: 0, log: String::new() }
    }

    /// As one word of a command line.
    pub fn word(&self) -> Result<String> {
        serde_json::to_string(self).context("A path is no text: name another one")
    }

    /// See [`word`](Self::word).
    pub fn from_word(word: &str) -> Result<Self> {
        serde_json::from_str(word).context("A process for 3D is started by its device only")
    }
}

/// What a kind is called on command lines and in logs.
pub fn word_for(kind: Kind) -> &'static str {
    match kind {
        Kind::Gl => "gl",
        Kind::Vk => "vk",
    }
}

fn kind_of(word: Option<&str>) -> Result<Kind> {
    match word {
        Some("gl") => Ok(Kind::Gl),
        Some("vk") => Ok(Kind::Vk),
        _ => bail!("A process for 3D is started by its device only"),
    }
}

/// Lives as one of them, if the first word says so.
pub fn run(words: &[OsString]) -> Option<Result<()>> {
    let text: Vec<Option<&str>> = words.iter().map(|word| word.to_str()).collect();
    match text[..] {
        [Some(ROLE), kind, Some(socket), Some(spec)] => Some(render(kind, socket, spec)),
        [Some(SERVER_ROLE), Some(socket), Some(spec)] => Some(serve(socket, spec)),
        [Some(PROBE_ROLE), kind, Some(spec)] => Some(probe::run(kind, spec)),
        [Some(ROLE | SERVER_ROLE | PROBE_ROLE), ..] => {
            Some(Err(anyhow::anyhow!("A process for 3D is started by its device only")))
        }
        _ => None,
    }
}

fn render(kind: Option<&str>, socket: &str, spec: &str) -> Result<()> {
    let (kind, spec) = (kind_of(kind)?, Spec::from_word(spec)?);
    logging::start_inside(&spec.log);
    // While its own files in /proc are its own. Who was told a larger number keeps it.
    let told = fs::read_to_string(OOM_SCORE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if told < ENDS_FIRST {
        let _ = fs::write(OOM_SCORE, ENDS_FIRST.to_string());
    }
    let number = socket.parse().context("The socket is no number")?;
    let socket = inherited::unix_socket(number, SocketType::SEQPACKET)?;
    // Who watches over us goes: so do we. That the device goes, the socket tells.
    set_parent_process_death_signal(Some(Signal::KILL)).context("Cannot follow the launcher")?;
    let Held { node, server, server_ends } = prepare(kind, &spec, spec.server.as_deref().map(PathBuf::from))?;
    if let Some(ends) = server_ends {
        std::thread::Builder::new().spawn(move || end_with_server(&ends)).context("Cannot watch the render server")?;
    }
    renderer::isolated::child::run(socket, move |sink| {
        let library = Virgl::load(spec.library.as_deref()).map_err(|error| error.to_string())?;
        library.start(Config { kind, node, server, sink }).map_err(|error| error.to_string())
    })
    .context("Cannot go on drawing")
}

/// What a library gets that it could not open any more.
struct Held {
    node: Option<OwnedFd>,
    server: Option<OwnedFd>,
    /// Readable when the render server has ended.
    server_ends: Option<OwnedFd>,
}

/// Waits for the render server's end, and ends this process: without it the library refuses all that comes, for ever, and the
/// device starts another process only after this one.
fn end_with_server(ends: &OwnedFd) {
    while !matches!(poll(&mut [PollFd::new(ends, PollFlags::IN)], None), Ok(1)) {}
    eprintln!("The render server ended");
    std::process::exit(1);
}

/// Gives up all rights, opens what is needed, and locks this process in.
fn prepare(kind: Kind, spec: &Spec, server: Option<PathBuf>) -> Result<Held> {
    if spec.sandbox != SandboxMode::Off {
        jail::give_up_privileges()?;
    }
    sandbox::raise_file_limit();
    limit_memory(spec.memory)?;
    let node = open_node(spec);
    let (server, server_ends) = match kind {
        Kind::Gl => (None, None),
        Kind::Vk => start_server(spec, server).map(|(server, ends)| (Some(server), Some(ends)))?,
    };
    lock::lock_in(spec, lock::Who::Library)?;
    Ok(Held { node: node?, server, server_ends })
}

/// The most memory that this process may have of its own, in bytes.
pub fn limit_memory(bytes: u64) -> Result<()> {
    let most = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Data, most).context("Cannot limit the memory of a process for 3D")
}

/// The render node, where there is to be one.
pub fn open_node(spec: &Spec) -> Result<Option<OwnedFd>> {
    let open = |path: &PathBuf| {
        let node = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        node.with_context(|| format!("Cannot open the render node {}", path.display()))
    };
    spec.node.as_ref().map(open).transpose()
}

/// Starts the render server, and returns the socket to it and what is readable when it has ended.
fn start_server(spec: &Spec, server: Option<PathBuf>) -> Result<(OwnedFd, OwnedFd)> {
    let server = server.context("There is no render server")?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let spec = Spec { server: Some(server), ..spec.clone() };
    let mut command = Command::new("/proc/self/exe");
    command.arg0("beamsplit-device").arg(SERVER_ROLE).arg(inherit(theirs.as_fd())?).arg(spec.word()?);
    // It is never waited for: it ends when we do.
    let server =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("Cannot start the render server")?;
    let pid = Pid::from_raw(server.id().cast_signed()).context("A process has the id 0")?;
    let ends = pidfd_open(pid, PidfdFlags::empty()).context("Cannot watch the render server")?;
    Ok((ours, ends))
}

fn serve(socket: &str, spec: &str) -> Result<()> {
    let spec = Spec::from_word(spec)?;
    let program = spec.server.clone().context("A render server has no name")?;
    let number = socket.parse().context("The socket is no number")?;
    let socket = inherited::unix_socket(number, SocketType::SEQPACKET)?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("Cannot follow who started us")?;
    // Who started it may have done all this before, or be the launcher, which may do more.
    if spec.sandbox != SandboxMode::Off {
        jail::give_up_privileges()?;
    }
    sandbox::raise_file_limit();
    limit_memory(spec.memory)?;
    // What a guest allocates by Vulkan is shared memory here, to be shown to it, which the other limit does not count.
    let most = spec.memory.saturating_add(ADDRESSES);
    setrlimit(Resource::As, Rlimit { current: Some(most), maximum: Some(most) })
        .context("Cannot limit the memory of the render server")?;
    let word = inherit(socket.as_fd())?;
    // Else what is wrong with it is told as a refusal of the jail.
    File::open(&program).with_context(|| format!("Cannot read the render server {}", program.display()))?;
    lock::lock_in(&spec, lock::Who::Server(&program))?;
    let error = Command::new(&program).arg("--socket-fd").arg(word).exec();
    Err(error).with_context(|| format!("Cannot run the render server {}", program.display()))
}
