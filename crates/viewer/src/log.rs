//! The one way to log a line that whoever can connect can trigger: at most a burst of lines, then one a second, and how many
//! were left out. Nobody fills the host's disk by connecting again and again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may follow each other.
const BURST: u64 = 32;

/// Time after which one more is allowed.
const REFILL: Duration = Duration::from_secs(1);

/// What may be said of the clients of one VM.
#[derive(Debug)]
pub(crate) struct Lines(Mutex<Limit>);

impl Lines {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Limit::new(Instant::now())))
    }

    /// Whether a line may be written now, and how many were left out before it.
    pub(crate) fn permit(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).permit(Instant::now())
    }
}

/// Logs a line about a client at a level, unless there were too many.
macro_rules! client_log {
    ($lines:expr, $level:ident, $($line:tt)+) => {
        if let Some(left_out) = $lines.permit() {
            if left_out > 0 {
                tracing::info!("{left_out} lines about clients were left out");
            }
            tracing::$level!($($line)+);
        }
    };
}

pub(crate) use client_log;

#[derive(Debug)]
struct Limit {
    room: u64,
    refilled: Instant,
    left_out: u64,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { room: BURST, refilled: now, left_out: 0 }
    }

    fn permit(&mut self, now: Instant) -> Option<u64> {
        let more = now.saturating_duration_since(self.refilled).as_secs();
        if more > 0 {
            self.room = self.room.saturating_add(more).min(BURST);
            self.refilled += REFILL * u32::try_from(more).unwrap_or(u32::MAX);
        }
        match self.room.checked_sub(1) {
            Some(room) => {
                self.room = room;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connects_again_and_again_gets_a_burst_and_then_a_line_a_second_with_the_count() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let lines: Vec<_> = (0..1000).filter_map(|_| limit.permit(start)).collect();
        assert_eq!(lines, [0; BURST as usize]);
        assert_eq!(limit.permit(start + Duration::from_millis(999)), None);
        assert_eq!(limit.permit(start + Duration::from_millis(1000)), Some(1000 - BURST + 1));
        assert_eq!(limit.permit(start + Duration::from_millis(1999)), None);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter_map(|_| limit.permit(later)).count(), BURST as usize);
    }
}
