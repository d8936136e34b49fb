//! Which processes draw for a device, and a hold on them that never becomes a hold on others.
//!
//! A device starts processes for 3D by its launcher: each is the leader of a process group, and what it starts stays in that
//! group. They are found in `/proc` from the device's number downwards; what a device says about its processes is not asked.
//! A number is used for a look only: who is signalled is held by a pidfd, which was opened between two looks at the same start
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clocks::cpu_time;

/// Processes of one device that are held. Stops one that starts them for ever; what is beyond is not stopped, and counted.
pub const MOST: usize = 1024;
/// How often all processes of the machine are looked through for those whose parents died.
const SEARCH: Duration = Duration::from_secs(1);

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

    /// What is known of a process, if it is there.
    pub fn stat(&self, pid: i32) -> Option<Stat> {
        let stat = Stat::parse(&fs::read(self.root.join(format!("{pid}/stat"))).ok()?)?;
        (stat.pid == pid).then_some(stat)
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
    pub fn hold(&self, identity: Identity) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::empty()).ok()?;
        // Between the look that found it and the opening its number may have gone to another; since then it cannot.
        self.lives(identity).then_some(pidfd)
    }
}

/// The names in a folder that are numbers.
fn numbers(folder: &Path) -> Vec<i32> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process that is held.
#[derive(Debug)]
pub struct Member {
    identity: Identity,
    pidfd: OwnedFd,
    /// Whether it is known to stand still.
    stands: bool,
    /// Its clock at the last look, while it is to stop.
    clock: Option<Duration>,
}

impl Member {
    /// Its number: for looks only.
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }
}

/// The processes that draw for one device, as they come and go.
#[derive(Debug)]
pub struct Renderers {
    processes: Processes,
    device: Identity,
    user: u32,
    members: BTreeMap<i32, Member>,
    /// Their groups, each with its session.
    groups: BTreeSet<(i32, i32)>,
    searched: Option<Instant>,
    /// Members that could not be held because there were too many.
    beyond: u64,
}

impl Renderers {
    /// Those of a device; `None` if it is not there.
    pub fn of(processes: Processes, device: Identity) -> Option<Self> {
        let user = processes.user(device.pid)?;
        // Looked at after its user.
        processes.lives(device).then_some(())?;
        Some(Renderers {
            processes,
            device,
            user,
            members: BTreeMap::new(),
            groups: BTreeSet::new(),
            searched: None,
            beyond: 0,
        })
    }

    /// The device.
    pub fn device(&self) -> Identity {
        self.device
    }

    /// Those that are held.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whether this one is held.
    pub fn has(&self, pid: i32) -> bool {
        self.members.contains_key(&pid)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Processes that are ours and could not be held because there were more than [`MOST`].
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Forgets those that have ended. Returns their numbers.
    pub fn bury(&mut self) -> Vec<i32> {
        let members: Vec<_> = self.members.values().collect();
        let mut fds: Vec<_> = members.iter().map(|member| PollFd::new(&member.pidfd, PollFlags::IN)).collect();
        if fds.is_empty() || !matches!(poll(&mut fds, Some(&rustix::event::Timespec::default())), Ok(1..)) {
            return Vec::new();
        }
        let ended = |(fd, member): (&PollFd<'_>, &&Member)| (!fd.revents().is_empty()).then_some(member.identity.pid);
        let ended: Vec<i32> = fds.iter().zip(&members).filter_map(ended).collect();
        ended.iter().for_each(|pid| drop(self.members.remove(pid)));
        ended
    }

    /// Looks for more of them. Returns whether there were any.
    ///
    /// Below the device are those of its own group (its launcher, a viewer), and leaders of other groups with all that they
    /// started: the latter draw.
    pub fn find(&mut self) -> bool {
        self.bury();
        if !self.processes.lives(self.device) {
            return false;
        }
        self.find_below(true)
    }

    /// The same, but for those that the device's launcher starts just now: when all that are known were told to stop.
    pub(crate) fn find_theirs(&mut self) -> bool {
        self.bury();
        self.find_below(false)
    }

    fn find_below(&mut self, with_device: bool) -> bool {
        let Some(device) = self.processes.stat(self.device.pid) else { return false };
        // Those that are known may have children; those that are not are below the device.
        let mut from: BTreeSet<i32> = self.members.keys().copied().collect();
        from.extend(with_device.then_some(device.pid));
        let mut found = self.processes.below(&from);
        if self.searched.is_none_or(|at| at.elapsed() >= SEARCH) {
            self.searched = Some(Instant::now());
            found.extend(self.orphans());
        }
        let mut new = false;
        for pid in found {
            let Some(stat) = self.processes.stat(pid) else { continue };
            if self.members.get(&pid).is_some_and(|member| member.identity == stat.identity()) {
                continue;
            }
            // One whose group is the device's is its launcher or a viewer, unless a renderer started it.
            let drawn = stat.group != device.group || self.is_below_a_member(stat);
            if drawn && stat.lives() && self.processes.user(pid) == Some(self.user) {
                new |= self.admit(stat.identity());
                if stat.group != device.group && self.groups.insert((stat.group, stat.session)) {
                    // There may be some of it that have lost their parents already.
                    self.searched = None;
                }
            }
        }
        new
    }

    fn is_below_a_member(&self, mut stat: Stat) -> bool {
        // As deep as trees of processes get.
        for _ in 0..64 {
            if self.members.contains_key(&stat.parent) {
                return true;
            }
            match self.processes.stat(stat.parent) {
                Some(parent) if parent.pid != self.device.pid && parent.pid > 1 => stat = parent,
                _ => return false,
            }
        }
        false
    }

    /// Members of the groups of those that are known, whose parents are gone: a group is given to nobody else while one of it is
    /// there, and nobody joins it from another session.
    fn orphans(&self) -> Vec<i32> {
        if self.groups.is_empty() {
            return Vec::new();
        }
        let ours = |stat: &Stat| self.groups.contains(&(stat.group, stat.session));
        self.processes.all().filter(ours).map(|stat| stat.pid).collect()
    }

    fn admit(&mut self, identity: Identity) -> bool {
        if self.members.len() >= MOST {
            self.beyond += 1;
            return false;
        }
        let Some(pidfd) = self.processes.hold(identity) else { return false };
        self.members.insert(identity.pid, Member { identity, pidfd, stands: false, clock: None });
        true
    }

    /// Sends all of them a signal, those that have ended left out.
    pub(crate) fn signal(&mut self, signal: Signal, only_running: bool) {
        for member in self.members.values_mut().filter(|member| !(only_running && member.stands)) {
            // It fails for one that ended: nobody else can have its pidfd.
            let _ = pidfd_send_signal(member.pidfd.as_fd(), signal);
            member.stands = false;
        }
    }

    /// Forgets who stood still.
    pub(crate) fn look_anew(&mut self) {
        self.members.values_mut().for_each(|member| (member.stands, member.clock) = (false, None));
    }

    /// Whether all that were told to stop do nothing of their own any more, which is seen by clocks that did not advance since the
    /// last look. A thread that runs advances its; one that does not stands still already, or will before it does anything: it
    /// sleeps or waits for a processor, for long on a busy machine, with the order before it.
    pub(crate) fn stand(&mut self) -> bool {
        let mut all = true;
        for member in self.members.values_mut() {
            let clock = cpu_time(member.identity.pid);
            // One without a clock has ended.
            member.stands = clock.is_none() || clock == member.clock;
            member.clock = clock;
            all &= member.stands;
        }
        all
    }

    /// Whether a thread of theirs runs or waits for a processor.
    pub fn want_a_processor(&self) -> bool {
        self.members.keys().any(|pid| self.processes.wants_a_processor(*pid))
    }
}

#[cfg(test)]
mod tests;
