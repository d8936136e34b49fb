//! What works of 3D on this host, found out by using it in a process that may fail at it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use renderer::library::Kind;
use renderer::virgl::{Missing, Probe, Virgl, find_render_server, probe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::{PROBE_ROLE, Spec, environment, kind_of, prepare, word_for};

/// How long it may take: drivers that compile at first use are slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer.
const LONGEST: u64 = 256 << 10;

const NO_SERVER: &str = "there is no virgl_render_server; install the package virgl-server";

/// What one process found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What works.
    pub probe: Probe,
    /// The render server that goes with the library.
    pub server: Option<PathBuf>,
    /// The files that took part.
    pub files: BTreeSet<PathBuf>,
}

/// Lives as the process that finds out, and says what it found.
pub fn run(kind: Option<&str>, spec: &str) -> Result<()> {
    let (kind, spec) = (kind_of(kind)?, Spec::from_word(spec)?);
    // Nothing of a guest is near: the library tells where it lies, which tells where its server is.
    let server = spec.server.clone().or_else(|| {
        let library = Virgl::load(spec.library.as_deref()).ok()?;
        find_render_server(library.path())
    });
    let no_server = kind == Kind::Vk && server.is_none();
    let found = match prepare(kind, &spec, server.clone()) {
        Err(_) if no_server => failed(kind, "render server", NO_SERVER),
        Ok(held) => probe(kind, spec.library.as_deref(), held.node, held.server),
        Err(error) => failed(kind, "process for it", &format!("{error:#}")),
    };
    let files = server.iter().cloned().chain(mapped()).collect();
    let finding = serde_json::to_vec(&Finding { probe: found, server, files })?;
    std::io::stdout().write_all(&finding).context("Cannot say what was found")
}

/// Files whose code is in this process.
fn mapped() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    paths.filter(|path| path.to_string_lossy().contains(".so")).collect()
}

fn failed(kind: Kind, what: &str, why: &str) -> Probe {
    let missing = vec![Missing { what: what.to_owned(), why: why.to_owned() }];
    Probe { kind, version: None, path: None, lacks: vec![], capsets: vec![], drivers: vec![], missing }
}

/// Has a process find out. Whatever becomes of it, something was found.
pub fn ask(kind: Kind, spec: &Spec) -> Finding {
    answer(kind, spec).unwrap_or_else(|error| {
        let probe = failed(kind, "library that works", &format!("{error:#}"));
        Finding { probe, server: None, files: BTreeSet::new() }
    })
}

fn answer(kind: Kind, spec: &Spec) -> Result<Finding> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("beamsplit-device").arg(PROBE_ROLE).arg(word_for(kind)).arg(spec.word()?);
    command.env_clear().envs(environment(spec, std::env::vars_os())).process_group(0);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let answer = listen(&mut process);
    // With all that it started.
    if let Some(pid) = Pid::from_raw(process.id() as i32) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = process.wait()?;
    let (said, complaints) = answer?;
    if said.is_empty() {
        let last = complaints.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("the library failed when it was tried ({status}) {last}");
    }
    serde_json::from_slice(&said).context("the process that tries the library said nothing sensible")
}

/// What it says on its standard output until it ends, and on its standard error until then.
fn listen(process: &mut Child) -> Result<(Vec<u8>, String)> {
    let until = Instant::now() + PATIENCE;
    let mut stdout = process.stdout.take().context("no answer")?;
    let mut stderr = process.stderr.take().context("no answer")?;
    let (mut said, mut complaints, mut piece) = (Vec::new(), Vec::new(), [0; 4096]);
    let mut complains = true;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "it did not end within {} s of being tried", PATIENCE.as_secs());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = vec![PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
        fds.extend(complains.then(|| PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN)));
        poll(&mut fds, Some(&timeout))?;
        let answers = !fds[0].revents().is_empty();
        let complaint = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if answers {
            match stdout.read(&mut piece)? {
                0 => return Ok((said, String::from_utf8_lossy(&complaints).into_owned())),
                length => said.extend_from_slice(&piece[..length]),
            }
            ensure!(said.len() as u64 <= LONGEST, "it never stopped talking");
        } else if complaint {
            match stderr.read(&mut piece)? {
                0 => complains = false,
                length if (complaints.len() as u64) < LONGEST => complaints.extend_from_slice(&piece[..length]),
                _ => {}
            }
        }
    }
}
