//! The time that processes had, out of the time that passed. While somebody keeps them from running, who shares a GPU among guests,
//! it stands still: that is no time in which they hung.

use std::time::{Duration, Instant};

/// The clock of all processes of a guest, those too that start later.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    made: Instant,
    stopped: Duration,
}

impl Clock {
    /// Nobody kept them from running before `now`.
    pub fn new(now: Instant) -> Self {
        Self { made: now, stopped: Duration::ZERO }
    }

    /// For how long they were kept from running until now. What cannot be, more than has passed or less than was told before, is
    /// taken for the nearest that can.
    pub fn set_stopped(&mut self, total: Duration, now: Instant) {
        self.stopped = total.max(self.stopped).min(now.saturating_duration_since(self.made));
    }

    /// What it is for them when it is `now` for us.
    pub fn theirs(&self, now: Instant) -> Instant {
        now.checked_sub(self.stopped).unwrap_or(now)
    }

    /// When it will be that for us, if they run until then.
    pub fn ours(&self, theirs: Instant) -> Option<Instant> {
        theirs.checked_add(self.stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolated::watch::Watch;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks as often as the watch wants to be looked at, until `until`, while `stopped` says for how long they were stopped at a time.
    /// Returns when the process counted as hung.
    fn look(start: Instant, until: u64, stopped: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut clock, mut watch) = (Clock::new(start), Watch::new(s(12)));
        let mut now = 0;
        while now <= until {
            clock.set_stopped(s(stopped(now)), start + s(now));
            if watch.hangs(clock.theirs(start + s(now)), true, (0, 0)) {
                return Some(now);
            }
            let due = watch.deadline().and_then(|due| clock.ours(due)).unwrap();
            now = now.max(due.duration_since(start).as_secs());
        }
        None
    }

    #[test]
    fn a_process_has_its_patience_of_time_in_which_it_could_run() {
        let start = Instant::now();
        assert_eq!(look(start, 100, |_| 0), Some(12));
        // From the seventh second on, for ten thousand.
        let stopped = |now: u64| now.saturating_sub(7).min(10_000);
        assert_eq!(look(start, 10_011, stopped), None);
        assert_eq!(look(start, 20_000, stopped), Some(10_012), "five of its twelve seconds were left");
    }

    #[test]
    fn slices_that_nobody_looks_at_one_by_one_count_all_the_same() {
        // One second of ten is its own.
        let own = |now: u64| now / 10 + (now % 10).min(1);
        let hung = look(Instant::now(), 1000, |now| now - own(now)).unwrap();
        assert!((110..=130).contains(&hung), "{hung}");
    }

    #[test]
    fn an_account_that_cannot_be_is_the_nearest_that_can() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.set_stopped(Duration::MAX, start + s(10));
        assert_eq!(clock.theirs(start + s(11)), start + s(1));
        clock.set_stopped(s(2), start + s(12));
        assert_eq!(clock.theirs(start + s(12)), start + s(2));
    }
}
