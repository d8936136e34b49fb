//! Whether a process hangs: it has work, and neither takes more of it nor tells of any for too long.
//!
//! Time is counted in quarters, one each time somebody looks. So time in which nobody could look does not count: when all of
//! this stood still, the process had no chance either.

use std::time::{Duration, Instant};

/// Parts that its patience has.
const PARTS: u32 = 4;

/// The clock of one process.
#[derive(Debug)]
pub struct Watch {
    part: Duration,
    /// When the part began that is under way, while it has work.
    since: Option<Instant>,
    /// Parts that went by before.
    gone: u32,
    progress: (u32, u32),
}

impl Watch {
    /// A process with nothing to do.
    pub fn new(patience: Duration) -> Self {
        Self { part: patience / PARTS, since: None, gone: 0, progress: (0, 0) }
    }

    /// How long it may do nothing from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        *self = Self::new(patience);
    }

    /// Whether it hangs. `busy`: it has work other than fences, on which a guest may wait itself.
    pub fn hangs(&mut self, now: Instant, busy: bool, progress: (u32, u32)) -> bool {
        if !busy {
            self.since = None;
            return false;
        }
        match self.deadline() {
            Some(_) if progress != self.progress => {}
            Some(deadline) if deadline <= now => {
                self.gone += 1;
                self.since = Some(now);
                return self.gone >= PARTS;
            }
            Some(_) => return false,
            None => {}
        }
        (self.since, self.gone, self.progress) = (Some(now), 0, progress);
        false
    }

    /// When somebody is to look again.
    pub fn deadline(&self) -> Option<Instant> {
        self.since?.checked_add(self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_does_not_get_on_is_a_hang() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Duration::from_secs(12));
        assert!(!watch.hangs(at(0), false, (0, 0)));
        assert_eq!(watch.deadline(), None);
        assert!(!watch.hangs(at(100), true, (0, 0)));
        assert_eq!(watch.deadline(), Some(at(103)));
        for second in 100..112 {
            assert!(!watch.hangs(at(second), true, (0, 0)), "{second}");
        }
        // It takes a request at last, and tells of another later on.
        for second in 112..124 {
            assert!(!watch.hangs(at(second), true, (1, 0)), "{second}");
        }
        for second in 124..136 {
            assert!(!watch.hangs(at(second), true, (1, 1)), "{second}");
        }
        assert!(watch.hangs(at(136), true, (1, 1)));
        // Nothing to do for a while, then work again.
        assert!(!watch.hangs(at(200), false, (1, 1)));
        assert!(!watch.hangs(at(300), true, (1, 1)));
        assert_eq!(watch.deadline(), Some(at(303)));
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Duration::from_secs(12));
        let hangs = [0, 3600, 3603, 3606, 3608, 3609].map(|second| watch.hangs(at(second), true, (0, 0)));
        assert_eq!(hangs, [false, false, false, false, false, true]);
    }
}
