//! What a 3D process says on its standard error: libraries, on behalf of a guest. It goes to our own, escaped, as far as a
//! budget lets it, so that no guest fills a journal.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ChildStderr;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;

/// Bytes passed on within [`WHILE`].
const BUDGET: usize = 64 << 10;
const WHILE: Duration = Duration::from_secs(60);
/// The longest line: more is another line.
const LONGEST: usize = 400;

/// The standard error of one process.
pub struct Lines {
    pipe: Option<ChildStderr>,
    name: &'static str,
    unended: Vec<u8>,
    last: String,
    since: Option<Instant>,
    spent: usize,
}

impl Lines {
    /// Of the process `name`.
    pub fn new(pipe: Option<ChildStderr>, name: &'static str) -> Self {
        let pipe = pipe.filter(|pipe| ioctl_fionbio(pipe, true).is_ok());
        Lines { pipe, name, unended: Vec::new(), last: String::new(), since: None, spent: 0 }
    }

    /// Readable when something was said; nothing once all that held the other end are gone.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// The last line.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// Reads what is there, at most a few pages of it, and passes on what it may.
    pub fn pass_on(&mut self, now: Instant) {
        let mut bytes = [0; 4096];
        for _ in 0..4 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.take(&bytes[..length], now, &mut |line| eprintln!("{line}")),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant, print: &mut dyn FnMut(&str)) {
        for byte in bytes {
            if *byte != b'\n' {
                self.unended.push(*byte);
            }
            if (*byte == b'\n' && !self.unended.is_empty()) || self.unended.len() == LONGEST {
                let line = String::from_utf8_lossy(&self.unended);
                self.last = line.chars().flat_map(shown).collect();
                self.unended.clear();
                self.print(now, print);
            }
        }
    }

    fn print(&mut self, now: Instant, print: &mut dyn FnMut(&str)) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WHILE) {
            (self.since, self.spent) = (Some(now), 0);
        }
        let before = self.spent;
        self.spent = before.saturating_add(self.last.len() + 1);
        if self.spent <= BUDGET {
            print(&format!("3D ({}): {}", self.name, self.last));
        } else if before <= BUDGET {
            print(&format!("3D ({}): more was said than is passed on within a minute", self.name));
        }
    }
}

/// A letter as it may stand in a log: what moves a terminal's cursor is spelled out.
fn shown(letter: char) -> impl Iterator<Item = char> {
    let escaped = letter.is_control().then(|| letter.escape_default());
    let plain = (!letter.is_control()).then_some(letter);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &mut Lines, bytes: &[u8], now: Instant) -> Vec<String> {
        let mut printed = Vec::new();
        lines.take(bytes, now, &mut |line| printed.push(line.to_owned()));
        printed
    }

    #[test]
    fn lines_are_passed_on_whole_and_harmless() {
        let (mut lines, now) = (Lines::new(None, "gl"), Instant::now());
        assert!(said(&mut lines, b"half a ", now).is_empty());
        assert_eq!(
            said(&mut lines, b"line\n\n\x1b[2J\xff\n", now),
            ["3D (gl): half a line", "3D (gl): \\u{1b}[2J\u{fffd}"]
        );
        assert_eq!(lines.last(), "\\u{1b}[2J\u{fffd}");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (mut lines, now) = (Lines::new(None, "gl"), Instant::now());
        assert_eq!(said(&mut lines, &[b'x'; 3 * LONGEST + 1], now).len(), 3);
    }

    #[test]
    fn more_than_the_budget_is_said_to_be_held_back_once_a_minute() {
        let (mut lines, now) = (Lines::new(None, "vk"), Instant::now());
        let flood = [[b'x'; 99].as_slice(), b"\n"].concat().repeat(2000);
        let first = said(&mut lines, &flood, now);
        assert_eq!(first.len(), BUDGET / 100 + 1);
        assert!(first.last().unwrap().contains("more was said"));
        assert!(said(&mut lines, &flood, now).is_empty());
        assert_eq!(said(&mut lines, b"again\n", now + WHILE), ["3D (vk): again"]);
    }
}
