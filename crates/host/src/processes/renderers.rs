//! Which processes draw for a device.
//!
//! A device starts processes for 3D by its launcher: each is the leader of a process group, and what it starts stays in that
//! group. They are found in `/proc` from the device's number downwards; what a device says about its processes is not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::{Identity, Processes, Stat};
use crate::clocks::cpu_time;

/// Processes of one device that are held. Stops one that starts them for ever; what is beyond is not stopped, and counted.
pub const MOST: usize = 1024;
/// How often all processes of the machine are looked through for those whose parents died.
const SEARCH: Duration = Duration::from_secs(1);

/// A process that is held.
#[derive(Debug)]
pub struct Member {
    identity: Identity,
    pidfd: OwnedFd,
    /// Its group and session when it was found.
    group: (i32, i32),
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
    searched: Option<Instant>,
    /// Whether there ever was one.
    drew: bool,
    /// Those that could not be held at the last look.
    beyond: usize,
}

impl Renderers {
    /// Those of a device; `None` if it is not there.
    pub fn of(processes: Processes, device: Identity) -> Option<Self> {
        // Below the first process is everything.
        (device.pid > 1).then_some(())?;
        let user = processes.user(device.pid)?;
        // Looked at after its user.
        processes.lives(device).then_some(())?;
        Some(Renderers { processes, device, user, members: BTreeMap::new(), searched: None, drew: false, beyond: 0 })
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

    /// How many there are that cannot be held, as those that are more than [`MOST`]: they are neither stopped nor charged.
    pub fn beyond(&self) -> usize {
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
        // Who has the device's number need not be the device any more.
        let device = self.processes.stat(self.device.pid).filter(|stat| stat.identity() == self.device);
        let Some(device) = device else { return false };
        // Those that are known may have children; those that are not are below the device.
        let mut from: BTreeSet<i32> = self.members.keys().copied().collect();
        from.extend(with_device.then_some(device.pid));
        let mut found = self.processes.below(&from);
        if self.drew && self.searched.is_none_or(|at| at.elapsed() >= SEARCH) {
            self.searched = Some(Instant::now());
            found.extend(self.orphans(&device));
        }
        let (mut new, mut beyond) = (false, 0);
        for pid in found {
            let Some(stat) = self.processes.stat(pid) else { continue };
            if self.members.get(&pid).is_some_and(|member| member.identity == stat.identity()) {
                continue;
            }
            // One whose group is the device's is its launcher or a viewer, unless a renderer started it.
            let drawn = stat.group != device.group || self.is_below_a_member(stat);
            if !drawn || !stat.lives() || self.processes.user(pid) != Some(self.user) {
                continue;
            }
            match self.admit(stat) {
                Ok(admitted) => new |= admitted,
                // Those that cannot be held for another reason, as for want of descriptors, cannot be stopped either.
                Err(_) => beyond += 1,
            }
        }
        self.beyond = if with_device { beyond } else { self.beyond.max(beyond) };
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

    /// Those whose parents are gone. They are ours if they are in the session that the device leads, or in the group of one that is
    /// held: a session and a group are given to nobody else while anybody is in them, and nobody joins them from outside. Of a group
    /// in which nobody is held any more nothing is known: its number may be a stranger's.
    fn orphans(&mut self, device: &Stat) -> Vec<i32> {
        let all: Vec<Stat> = self.processes.all().collect();
        // Who is there after the look was there during it.
        self.bury();
        let leads = device.session == device.pid && self.processes.lives(self.device);
        let held = |stat: &&Stat| self.members.get(&stat.pid).is_some_and(|member| member.identity == stat.identity());
        let groups: BTreeSet<_> = all.iter().filter(held).map(Stat::group_and_session).collect();
        let ours = |stat: &&Stat| {
            let known = groups.contains(&stat.group_and_session()) || (leads && stat.session == device.pid);
            known && stat.group != device.group
        };
        all.iter().filter(ours).map(|stat| stat.pid).collect()
    }

    fn admit(&mut self, stat: Stat) -> io::Result<bool> {
        if self.members.len() >= MOST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let identity = stat.identity();
        let Some(pidfd) = self.processes.hold(identity)? else { return Ok(false) };
        let group = stat.group_and_session();
        if !self.members.values().any(|member| member.group == group) {
            // There may be some of its group that have lost their parents already.
            self.searched = None;
        }
        self.drew = true;
        self.members.insert(identity.pid, Member { identity, pidfd, group, stands: false, clock: None });
        Ok(true)
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
