//! Stopping the processes that draw for a device, and letting them go on.
//!
//! By `cgroup.freeze` where a control group of our own holds them, else by SIGSTOP and SIGCONT. Both take a while: one that is in
//! the kernel stops when it leaves it. So a stop is over only when the clock of each process was seen standing still, and a new look
//! found no process that a member had started meanwhile.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cgroup::Cgroup;
use crate::processes::Renderers;

/// Between two looks at whether all stand still. A sleep, so that on one core, or under SCHED_FIFO, they get to it.
const PAUSE: Duration = Duration::from_micros(20);

/// How it is done.
#[derive(Debug)]
pub enum Freezer {
    /// By signals to each process.
    Signals,
    /// By the control group that they are in.
    Cgroup(Cgroup),
}

impl Freezer {
    /// By the group if it can be frozen, else by signals.
    pub fn with(group: Option<Cgroup>) -> Self {
        match group {
            Some(group) if group.can_freeze() => Freezer::Cgroup(group),
            _ => Freezer::Signals,
        }
    }

    /// Its name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Freezer::Signals => "SIGSTOP",
            Freezer::Cgroup(_) => "cgroup.freeze",
        }
    }

    /// Brings those that are new to where they can be stopped.
    pub fn gather(&self, renderers: &mut Renderers) {
        if let Freezer::Cgroup(group) = self {
            // The number of one that ended may be a stranger's by now.
            renderers.bury();
            for member in renderers.members() {
                // Moving one that is there already changes nothing; one that has ended cannot be moved.
                let _ = group.add(member.pid());
            }
        }
    }

    /// Orders all to stop. They do so within a moment, which [`finish`](Self::finish) waits for.
    pub fn begin(&self, renderers: &mut Renderers) {
        renderers.look_anew();
        self.order(renderers);
    }

    /// Waits until all that were ordered to stop do, and those that they had just started, for `limit` at most. Returns whether all
    /// stand still.
    pub fn finish(&self, renderers: &mut Renderers, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            let stand = self.wait(renderers, begin, limit);
            // What was started just before its parent stood still.
            let more = renderers.find_theirs();
            if stand && !more {
                return true;
            }
            if begin.elapsed() >= limit {
                return false;
            }
            self.order(renderers);
        }
    }

    fn order(&self, renderers: &mut Renderers) {
        match self {
            Freezer::Signals => renderers.signal(Signal::STOP, true),
            Freezer::Cgroup(group) => {
                self.gather(renderers);
                if group.freeze(true).is_err() {
                    renderers.signal(Signal::STOP, true);
                }
            }
        }
    }

    /// Whether all stand still by now.
    pub fn is_stopped(&self, renderers: &mut Renderers) -> bool {
        match self {
            Freezer::Cgroup(group) => group.is_frozen().unwrap_or(false) || renderers.stand(),
            Freezer::Signals => renderers.stand(),
        }
    }

    fn wait(&self, renderers: &mut Renderers, begin: Instant, limit: Duration) -> bool {
        loop {
            let stand = self.is_stopped(renderers);
            if stand || begin.elapsed() >= limit {
                return stand;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Lets all go on, whoever stopped them and however.
    pub fn go_on(&self, renderers: &mut Renderers) {
        if let Freezer::Cgroup(group) = self {
            let _ = group.freeze(false);
        }
        renderers.signal(Signal::CONT, false);
    }
}

#[cfg(test)]
mod tests;
