//! The one way to log a line that a guest can trigger: at most a burst of lines, then one a second, and a count of what
//! was held back. A guest cannot fill the host's disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lines that may follow each other.
const BURST: u32 = 20;
/// Time after which one more is allowed.
const REFILL: Duration = Duration::from_secs(1);

static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Lines held back since the process started.
pub fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Whether a line may be written now. Used by [`guest_log!`](crate::guest_log).
pub fn permit(now: Instant) -> bool {
    static LIMIT: Mutex<Option<Limit>> = Mutex::new(None);
    let mut limit = LIMIT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let permitted = limit.get_or_insert_with(|| Limit::new(now)).permit(now);
    if !permitted {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
    }
    permitted
}

struct Limit {
    left: u32,
    refilled: Instant,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { left: BURST, refilled: now }
    }

    fn permit(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        if seconds > 0 {
            self.left = self.left.saturating_add(u32::try_from(seconds).unwrap_or(BURST)).min(BURST);
            self.refilled += REFILL * u32::try_from(seconds).unwrap_or(u32::MAX);
        }
        let permitted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        permitted
    }
}

/// Logs a line that a guest, a front-end or a viewer can trigger, at the given level, unless there were too many.
#[macro_export]
macro_rules! guest_log {
    ($level:ident, $($line:tt)+) => {
        if $crate::log::permit(::std::time::Instant::now()) {
            $crate::log::tracing::$level!($($line)+);
        }
    };
}

#[doc(hidden)]
pub use tracing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_a_burst_and_then_a_line_a_second() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert_eq!((0..1000).filter(|_| limit.permit(start)).count(), BURST as usize);
        assert!(!limit.permit(start + Duration::from_millis(999)));
        assert!(limit.permit(start + Duration::from_millis(1000)));
        assert!(!limit.permit(start + Duration::from_millis(1999)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| limit.permit(later)).count(), BURST as usize);
    }
}
