//! Whether a process hangs: it has work, and neither takes more of it nor tells of any for too long.

use std::time::{Duration, Instant};

/// The clock of one process.
#[derive(Debug)]
pub struct Watch {
    patience: Duration,
    /// When it was seen to get on last, while it has work.
    since: Option<Instant>,
    progress: (u32, u32),
}

impl Watch {
    /// A process with nothing to do.
    pub fn new(patience: Duration) -> Self {
        Self { patience, since: None, progress: (0, 0) }
    }

    /// How long it may do nothing from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        self.since = None;
    }

    /// Whether it hangs. `busy`: it has work other than fences, on which a guest may wait itself.
    pub fn hangs(&mut self, now: Instant, busy: bool, progress: (u32, u32)) -> bool {
        if !busy {
            self.since = None;
            return false;
        }
        if self.since.is_none() || progress != self.progress {
            self.progress = progress;
            self.since = Some(now);
        }
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// When it would.
    pub fn deadline(&self) -> Option<Instant> {
        self.since?.checked_add(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_does_not_get_on_is_a_hang() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Duration::from_secs(10));
        assert!(!watch.hangs(at(0), false, (0, 0)));
        assert_eq!(watch.deadline(), None);
        assert!(!watch.hangs(at(100), true, (0, 0)));
        assert_eq!(watch.deadline(), Some(at(110)));
        assert!(!watch.hangs(at(109), true, (1, 0)));
        assert!(!watch.hangs(at(118), true, (1, 1)));
        assert!(!watch.hangs(at(127), true, (1, 1)));
        assert!(watch.hangs(at(128), true, (1, 1)));
        // Nothing to do for a while, then work again.
        assert!(!watch.hangs(at(200), false, (1, 1)));
        assert!(!watch.hangs(at(300), true, (1, 1)));
    }
}
