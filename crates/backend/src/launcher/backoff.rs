//! How soon a viewer that ended is started again: at once the first time, then ever later, until one has lasted.

use std::time::{Duration, Instant};

/// The first pause that is one.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause: a viewer that cannot start costs six tries a minute.
const LONGEST: Duration = Duration::from_secs(10);
/// A viewer that ran for so long was a good one.
const LASTED: Duration = Duration::from_secs(60);

/// The pauses between starts.
#[derive(Debug, Default)]
pub struct Backoff {
    started: Option<Instant>,
    next: Duration,
}

impl Backoff {
    /// A viewer starts now.
    pub fn start(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// It ended now: how long to wait before the next one.
    pub fn pause(&mut self, now: Instant) -> Duration {
        if self.started.is_some_and(|started| now.saturating_duration_since(started) >= LASTED) {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST, LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_that_keeps_ending_is_started_thirteen_times_in_its_first_minute() {
        let start = Instant::now();
        let (mut now, mut backoff, mut starts) = (start, Backoff::default(), 0);
        while now < start + Duration::from_secs(60) {
            backoff.start(now);
            starts += 1;
            now += backoff.pause(now);
        }
        assert_eq!(starts, 13);
        assert_eq!(backoff.pause(now), LONGEST);
    }

    #[test]
    fn a_viewer_that_lasted_is_replaced_at_once() {
        let (mut now, mut backoff) = (Instant::now(), Backoff::default());
        for _ in 0..20 {
            backoff.start(now);
            now += backoff.pause(now);
        }
        backoff.start(now);
        assert_eq!(backoff.pause(now + LASTED), Duration::ZERO);
    }
}
