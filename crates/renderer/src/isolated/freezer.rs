//! Time in which processes were kept from running from outside: by somebody who shares a GPU among guests and stops whole groups
//! of processes. It is not time in which they hung.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::shared::{bell, ring_bell, stop_bell};

/// Tells an [`Isolated`](super::Isolated) when its processes cannot run. It holds for all of them, those too that start
/// meanwhile: they are of one guest.
///
/// Whoever stops processes (SIGSTOP to their groups, `cgroup.freeze`) calls [`freeze`](Self::freeze) *before*, and lets them go on
/// before it calls [`thaw`](Self::thaw): so no time is counted in which they stood still. From any thread; never waits. Who keeps
/// account of such times itself passes it on by [`account`](Self::account) instead.
///
/// It stops and starts nothing itself, and what it is told only puts off the end of a process that hangs.
#[derive(Clone, Debug)]
pub struct Freezer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    since_made: Instant,
    ice: Mutex<Ice>,
    bell: OwnedFd,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ice {
    /// How long they were frozen, but for the last time if they still are.
    total: Duration,
    /// Since when they are.
    since: Option<Instant>,
}

impl Freezer {
    /// Nothing is frozen, and never was before `now`.
    pub(super) fn new(now: Instant) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner { since_made: now, ice: Mutex::default(), bell: bell()? })))
    }

    /// They are about to be stopped. Once is as good as twice.
    pub fn freeze(&self, now: Instant) {
        let Ice { total, since } = *self.ice();
        self.account(total, Some(since.unwrap_or(now)), now);
    }

    /// They go on.
    pub fn thaw(&self, now: Instant) {
        let Ice { total, since } = *self.ice();
        let last = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.account(total + last, None, now);
    }

    /// How long they were frozen until now, not counting the time `since` which they are, if they are. What cannot be is taken for
    /// the nearest that can: more time than has passed, or less than was told before.
    pub fn account(&self, total: Duration, since: Option<Instant>, now: Instant) {
        self.note(total, since, now);
        // When somebody is to look at a process depends on it.
        ring_bell(&self.0.bell);
    }

    /// The same, by whom looks at the processes next.
    pub(super) fn follow(&self, total: Duration, now: Instant) {
        let since = self.ice().since;
        self.note(total, since, now);
    }

    fn note(&self, total: Duration, since: Option<Instant>, now: Instant) {
        let mut ice = self.ice();
        let since = since.map(|since| since.clamp(self.0.since_made, now.max(self.0.since_made)));
        let passed = since.unwrap_or(now).saturating_duration_since(self.0.since_made);
        *ice = Ice { total: total.min(passed).max(ice.total.min(passed)), since };
    }

    /// Whether they are frozen.
    pub fn is_frozen(&self) -> bool {
        self.ice().since.is_some()
    }

    /// Their own time: it stands still while they do.
    pub(super) fn clock(&self) -> Clock {
        Clock(*self.ice())
    }

    /// Readable when something was told.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }

    /// It was heard.
    pub(super) fn heard(&self) {
        stop_bell(&self.0.bell);
    }

    fn ice(&self) -> MutexGuard<'_, Ice> {
        self.0.ice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time that processes had, out of the time that passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Ice);

impl Clock {
    /// What it is for them when it is `now` for us.
    pub fn theirs(&self, now: Instant) -> Instant {
        let now = self.0.since.map_or(now, |since| since.min(now));
        now.checked_sub(self.0.total).unwrap_or(now)
    }

    /// When it will be that for us, if nothing is frozen until then; `None`: not as long as they are frozen.
    pub fn ours(&self, theirs: Instant) -> Option<Instant> {
        if self.0.since.is_some() { None } else { theirs.checked_add(self.0.total) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolated::watch::Watch;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks as often as the watch wants to be looked at, until it is `until`. Returns when the process counted as hung.
    fn look(watch: &mut Watch, freezer: &Freezer, from: Instant, until: Instant) -> Option<Instant> {
        let mut now = from;
        loop {
            if watch.hangs(freezer.clock().theirs(now), true, (0, 0)) {
                return Some(now);
            }
            let due = watch.deadline().and_then(|due| freezer.clock().ours(due));
            match due.filter(|due| *due <= until) {
                Some(due) => now = due.max(now),
                None => return None,
            }
        }
    }

    #[test]
    fn a_process_has_its_patience_of_time_in_which_it_could_run() {
        let start = Instant::now();
        let freezer = Freezer::new(start).unwrap();
        let mut watch = Watch::new(s(12));
        assert_eq!(look(&mut watch, &freezer, start, start + s(7)), None);
        freezer.freeze(start + s(7));
        assert_eq!(freezer.clock().ours(watch.deadline().unwrap()), None, "nobody need look");
        assert_eq!(look(&mut watch, &freezer, start + s(7), start + s(10_000)), None);
        // However often somebody looks.
        for second in 7..10_007 {
            assert!(!watch.hangs(freezer.clock().theirs(start + s(second)), true, (0, 0)));
        }
        freezer.thaw(start + s(10_007));
        // Five of its twelve seconds were left.
        let hung = look(&mut watch, &freezer, start + s(10_007), start + s(20_000));
        assert_eq!(hung, Some(start + s(10_012)));
    }

    #[test]
    fn slices_that_nobody_looked_at_one_by_one_count_all_the_same() {
        let start = Instant::now();
        let freezer = Freezer::new(start).unwrap();
        let mut watch = Watch::new(s(4));
        assert!(!watch.hangs(freezer.clock().theirs(start), true, (0, 0)));
        // One second of ten is its own.
        for slice in 0..3 {
            freezer.freeze(start + s(slice * 10 + 1));
            freezer.thaw(start + s(slice * 10 + 10));
        }
        let hung = look(&mut watch, &freezer, start + s(30), start + s(1000));
        // It was looked at late: each look takes one quarter at most.
        assert_eq!(hung, Some(start + s(33)));
    }

    #[test]
    fn frozen_twice_is_frozen_once_and_thawed_without_is_nothing() {
        let start = Instant::now();
        let freezer = Freezer::new(start).unwrap();
        freezer.thaw(start + s(5));
        assert_eq!(freezer.clock().theirs(start + s(6)), start + s(6));
        freezer.freeze(start + s(10));
        freezer.freeze(start + s(15));
        assert!(freezer.is_frozen());
        assert_eq!(freezer.clock().theirs(start + s(18)), start + s(10));
        freezer.thaw(start + s(20));
        assert!(!freezer.is_frozen());
        assert_eq!(freezer.clock().theirs(start + s(25)), start + s(15));
        assert_eq!(freezer.clock().ours(start + s(15)), Some(start + s(25)));
    }

    #[test]
    fn an_account_that_cannot_be_is_the_nearest_that_can() {
        let start = Instant::now();
        let freezer = Freezer::new(start).unwrap();
        // More than has passed.
        freezer.account(s(1 << 60), None, start + s(10));
        assert_eq!(freezer.clock().theirs(start + s(11)), start + s(1));
        // Less than before.
        freezer.account(s(2), None, start + s(12));
        assert_eq!(freezer.clock().theirs(start + s(12)), start + s(2));
        // Since before there was anything, and since later than now.
        freezer.account(Duration::MAX, start.checked_sub(s(1)), start + s(20));
        assert!(freezer.clock().theirs(start + s(20)) >= start);
        freezer.account(s(0), Some(start + s(1 << 40)), start + s(30));
        assert!(freezer.clock().theirs(start + s(31)) >= start);
    }

    #[test]
    fn who_waits_is_woken_when_something_is_told() {
        let start = Instant::now();
        let freezer = Freezer::new(start).unwrap();
        let readable = || {
            let mut fds = [PollFd::from_borrowed_fd(freezer.fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
        };
        for tell in [Freezer::freeze, Freezer::thaw] {
            assert!(!readable());
            tell(&freezer, start);
            assert!(readable());
            freezer.heard();
        }
    }
}
