//! What the library says, into our log: escaped, as a guest can make it say anything, and no more than a little of it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What one process may say in a minute. A shader that does not compile is printed whole; a guest can send one after another.
const BYTES: usize = 64 << 10;
const PERIOD: Duration = Duration::from_secs(60);
/// The longest line.
const LINE: usize = 1024;

/// What may still be said.
#[derive(Debug)]
struct Budget {
    since: Option<Instant>,
    left: usize,
    dropped: u64,
}

static BUDGET: Mutex<Budget> = Mutex::new(Budget { since: None, left: 0, dropped: 0 });

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is said, after telling how many were not.
    Say(u64),
    Drop,
}

impl Budget {
    fn take(&mut self, bytes: usize, now: Instant) -> Verdict {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            (self.since, self.left) = (Some(now), BYTES);
        }
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Verdict::Say(std::mem::take(&mut self.dropped))
            }
            None => {
                (self.left, self.dropped) = (0, self.dropped.saturating_add(1));
                Verdict::Drop
            }
        }
    }
}

/// One line of the library's. Levels as in its header: 0 debug, 1 information, 2 warning, 3 error, 4 silence.
pub(super) fn line(level: i32, text: &[u8]) {
    let text = escaped(text);
    if text.is_empty() {
        return;
    }
    let verdict = BUDGET.lock().map(|mut budget| budget.take(text.len(), Instant::now()));
    let Ok(Verdict::Say(dropped)) = verdict else { return };
    if dropped > 0 {
        tracing::warn!("virglrenderer: {dropped} lines were not shown");
    }
    match level {
        ..=0 => tracing::trace!("virglrenderer: {text}"),
        1 => tracing::debug!("virglrenderer: {text}"),
        2 => tracing::info!("virglrenderer: {text}"),
        _ => tracing::warn!("virglrenderer: {text}"),
    }
}

/// One line that a terminal shows as it is.
fn escaped(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.trim_ascii_end());
    text.chars().take(LINE).flat_map(|letter| letter.escape_debug()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_makes_it_say_is_one_short_line() {
        assert_eq!(escaped(b"a\nb\x1b[31m\n"), "a\\nb\\u{1b}[31m");
        assert_eq!(escaped(&[b'x'; 5000]).len(), LINE);
    }

    #[test]
    fn a_guest_that_makes_it_talk_is_cut_off_until_the_minute_is_over() {
        let mut budget = Budget { since: None, left: 0, dropped: 0 };
        let start = Instant::now();
        let said = (0..100).filter(|_| budget.take(1024, start) == Verdict::Say(0)).count();
        assert_eq!(said, 64);
        assert_eq!(budget.take(1, start), Verdict::Drop);
        assert_eq!(budget.take(1, start + PERIOD), Verdict::Say(37));
    }
}
