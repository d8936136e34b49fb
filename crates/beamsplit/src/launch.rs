//! `beamsplit launch`: the first moments of a device that the manager starts.
//!
//! It begins a session of its own, so that nothing that happens to the manager reaches it, and then waits for the word:
//! the manager first writes down which process this is. A manager that dies before it says the word takes this process with
//! it, one that dies later finds the device in its records. So no device is ever started that nobody knows of.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit, setsid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The word that lets it go on. Anything else is the end of the manager.
pub const GO: u8 = b'!';
/// Processes and threads that a device may have with all that it starts, where something can count them: its control group, or its
/// user. Some for each of as many 3D contexts as a guest may have, and none for one who starts them for ever.
pub const MOST_TASKS: u64 = 8192;
/// Variables that speak of the manager's own service.
const MANAGERS: &[&str] =
    &["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "MAINPID"];

/// What the manager tells it.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Become this user, and the group of the same number.
    #[arg(long)]
    uid: Option<u32>,
    /// Stay in this group besides.
    #[arg(long, requires = "uid")]
    group: Vec<u32>,
    /// Go into this control group.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// What to become.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    program: Vec<OsString>,
}

/// Returns only when there is nothing to become.
pub fn run(words: &Words) -> Result<()> {
    // It leads a session already if it was started by hand in one.
    let _ = setsid();
    if let Some(cgroup) = &words.cgroup
        && let Err(error) = fs::write(cgroup.join("cgroup.procs"), "0")
    {
        // It runs as well where it is.
        eprintln!("Cannot go into {}: {error}", cgroup.display());
    }
    let mut word = [0];
    if std::io::stdin().read(&mut word).unwrap_or(0) != 1 || word[0] != GO {
        return Ok(());
    }
    if let Some(uid) = words.uid {
        become_user(uid, &words.group).with_context(|| format!("Cannot become user {uid}"))?;
    }
    // What the device makes is for its user and the group of its folder.
    umask(Mode::RWXO);
    let [program, arguments @ ..] = &words.program[..] else { anyhow::bail!("Nothing to become") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    MANAGERS.iter().for_each(|name| {
        command.env_remove(name);
    });
    Err(command.exec()).with_context(|| format!("Cannot run {}", program.display()))
}

/// This process has one thread, so what is of the thread is of the process.
fn become_user(uid: u32, groups: &[u32]) -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    // They are counted for each user, and this one has no others. A smaller limit of the host's stays.
    let most = getrlimit(Resource::Nproc).maximum.map_or(MOST_TASKS, |limit| limit.min(MOST_TASKS));
    setrlimit(Resource::Nproc, Rlimit { current: Some(most), maximum: Some(most) })?;
    set_thread_groups(&groups.iter().copied().map(Gid::from_raw).collect::<Vec<_>>())?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}
