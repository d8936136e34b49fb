//! How much time processes used, as the kernel says.
//!
//! On a software GPU that is their time on processors: the clock of a whole process, which counts threads that have ended and
//! is exact while others run (`/proc/PID/schedstat` is of one thread, and as old as the last tick). On hardware it is what the
//! driver says in `fdinfo` ([`drm`]).

pub mod drm;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::processes::Renderers;

/// Time that all threads of a process were on a processor.
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid)).ok()?;
    let time = nix::time::clock_gettime(clock).ok()?;
    Some(Duration::new(time.tv_sec().try_into().ok()?, time.tv_nsec().try_into().ok()?))
}

/// Time that the processes of a device used so far, those that have ended up to the last look.
#[derive(Debug, Default)]
pub struct Meter {
    ended: Duration,
    last: BTreeMap<i32, Duration>,
}

impl Meter {
    /// Reads all clocks. What it returns never falls.
    pub fn read(&mut self, renderers: &mut Renderers) -> Duration {
        let read: Vec<_> = renderers.members().map(|member| (member.pid(), cpu_time(member.pid()))).collect();
        // Who has not ended by now had its number while its clock was read.
        renderers.bury();
        for (pid, time) in read {
            if let (Some(time), true) = (time, renderers.has(pid)) {
                let last = self.last.entry(pid).or_default();
                *last = time.max(*last);
            }
        }
        let (there, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.last).into_iter().partition(|(pid, _)| renderers.has(*pid));
        self.last = there;
        self.ended += gone.values().sum::<Duration>();
        self.total()
    }

    /// What was read last.
    pub fn total(&self) -> Duration {
        self.ended + self.last.values().sum::<Duration>()
    }
}
