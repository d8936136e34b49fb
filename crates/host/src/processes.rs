//! Processes: who there is, who belongs to a device, and a hold on them that never becomes a hold on others.
//!
//! A number alone names whoever has it now, and numbers are used again soon where there are few of them (`kernel.pid_max`). With the
//! start time it names one process of one boot, and a pidfd that was opened before a look at that time is that process for ever. So
//! a number is used for a look only: who is signalled is held.

mod renderers;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub use renderers::{MOST, Member, Renderers};

/// A process of one boot: its number alone names whoever has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks after boot.
    pub start_time: u64,
}

/// What `/proc/PID/stat` says, as far as it concerns us (`proc_pid_stat(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub pid: i32,
    /// `R`, `S`, `D`, `T`, `Z` and so on.
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// When it started, in clock ticks after boot.
    pub start_time: u64,
}

impl Stat {
    /// The name, in parentheses, may hold anything, parentheses too: what counts follows the last one.
    fn parse(line: &[u8]) -> Option<Self> {
        let pid = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()?;
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let mut words = std::str::from_utf8(line.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = words.next()?.chars().next()?;
        let mut number = || words.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // Field 22.
        let start_time = words.nth(15)?.parse().ok()?;
        Some(Stat { pid, state, parent, group, session, start_time })
    }

    /// Which process it is.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_time: self.start_time }
    }

    fn group_and_session(&self) -> (i32, i32) {
        (self.group, self.session)
    }

    /// Whether it is no corpse.
    pub fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// The processes of a machine: its `/proc`.
#[derive(Debug, Clone)]
pub struct Processes {
    root: PathBuf,
}

impl Default for Processes {
    fn default() -> Self {
        Processes::at("/proc")
    }
}

impl Processes {
    /// Those of another folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Processes { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The boot that they are of (`/proc/sys/kernel/random/boot_id`).
    pub fn boot_id(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.root.join("sys/kernel/random/boot_id"))?.trim().to_owned())
    }

    /// What is known of a process, if it is there.
    pub fn stat(&self, pid: i32) -> Option<Stat> {
        let stat = Stat::parse(&fs::read(self.root.join(format!("{pid}/stat"))).ok()?)?;
        (stat.pid == pid).then_some(stat)
    }

    /// Which process has this number now.
    pub fn identity(&self, pid: i32) -> Option<Identity> {
        self.stat(pid).map(|stat| stat.identity())
    }

    /// Whether this very process is there and no corpse.
    pub fn lives(&self, identity: Identity) -> bool {
        self.stat(identity.pid).is_some_and(|stat| stat.identity() == identity && stat.lives())
    }

    /// Whose it is: its effective user.
    pub fn user(&self, pid: i32) -> Option<u32> {
        let status = fs::read_to_string(self.root.join(format!("{pid}/status"))).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    }

    /// All processes.
    pub fn all(&self) -> impl Iterator<Item = Stat> {
        numbers(&self.root).into_iter().filter_map(|pid| self.stat(pid))
    }

    /// The children of a process, or nothing where the kernel does not tell.
    fn children(&self, pid: i32) -> Option<Vec<i32>> {
        let tasks = self.root.join(format!("{pid}/task"));
        let mut children = Vec::new();
        for thread in numbers(&tasks) {
            match fs::read_to_string(tasks.join(format!("{thread}/children"))) {
                Ok(text) => children.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok())),
                // A thread that has just ended; a kernel without CONFIG_PROC_CHILDREN has it for none.
                Err(_) if thread != pid => {}
                Err(_) => return None,
            }
        }
        Some(children)
    }

    /// All that are below these in the tree of parents and children.
    fn below(&self, from: &BTreeSet<i32>) -> BTreeSet<i32> {
        let mut found = from.clone();
        let mut open: Vec<i32> = from.iter().copied().collect();
        while let Some(pid) = open.pop() {
            let Some(children) = self.children(pid) else { return self.below_by_parents(from) };
            open.extend(children.into_iter().filter(|child| found.len() < 4 * MOST && found.insert(*child)));
        }
        &found - from
    }

    /// The same where the kernel tells parents only.
    fn below_by_parents(&self, from: &BTreeSet<i32>) -> BTreeSet<i32> {
        let mut children = BTreeMap::<i32, Vec<i32>>::new();
        for stat in self.all() {
            children.entry(stat.parent).or_default().push(stat.pid);
        }
        let mut found = from.clone();
        let mut open: Vec<i32> = from.iter().copied().collect();
        while let Some(pid) = open.pop() {
            open.extend(children.get(&pid).into_iter().flatten().filter(|child| found.insert(**child)));
        }
        &found - from
    }

    /// The threads of a process. One that is gone does nothing.
    fn threads(&self, pid: i32) -> impl Iterator<Item = Stat> {
        let tasks = self.root.join(format!("{pid}/task"));
        let stat = move |thread| Stat::parse(&fs::read(tasks.join(format!("{thread}/stat"))).ok()?);
        numbers(&self.root.join(format!("{pid}/task"))).into_iter().filter_map(stat)
    }

    /// Whether any thread of a process runs or waits for a processor.
    fn wants_a_processor(&self, pid: i32) -> bool {
        self.threads(pid).any(|thread| thread.state == 'R')
    }

    /// Holds a process; `None` if it is gone, or its number is another's by now.
    pub fn hold(&self, identity: Identity) -> io::Result<Option<OwnedFd>> {
        // A number below 0 is no process anywhere, and rustix takes none.
        let Some(pid) = Some(identity.pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Between the look that found it and the opening its number may have gone to another; since then it cannot.
            Ok(pidfd) => Ok(self.lives(identity).then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The names in a folder that are numbers.
fn numbers(folder: &Path) -> Vec<i32> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
