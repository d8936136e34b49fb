//! Processes that may outlive us: known by their number, the time when they started and the boot; held by a pidfd.
//!
//! A number alone names whoever has it now. With the start time it names one process of one boot, and a pidfd that was
//! opened between two looks at that time is that process for ever.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks after boot.
    pub start_time: u64,
}

/// What `/proc/PID/stat` says of a process, as much as concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    session: i32,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, may hold anything, parentheses too: what counts follows the last one.
    fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let mut words = std::str::from_utf8(&line[end + 1..]).ok()?.split_ascii_whitespace();
        let state = words.next()?.chars().next()?;
        // Fields 3, 6 and 22 of proc_pid_stat(5).
        let session = words.nth(2)?.parse().ok()?;
        let start_time = words.nth(15)?.parse().ok()?;
        Some(Stat { state, session, start_time })
    }

    fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// The boot that we are in.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Identity {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Identity { pid, start_time: stat.start_time })
    }

    /// Whether it is still there and not a corpse.
    pub fn lives(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start_time == self.start_time && stat.lives())
    }

    /// Holds the process; `None` when it is gone.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Between the first look and the opening its number may have gone to another.
            Ok(pidfd) => Ok(self.lives().then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The live processes of the session that this process leads or led: all that it started, however deep, and whoever
    /// their parent is now, but for those that began a session of their own. Ours never do.
    pub fn session(self) -> Vec<Identity> {
        // While anybody is in the session its number is given to no other process: one that has it is the leader, or ours is over.
        if Stat::read(self.pid).is_some_and(|stat| stat.start_time != self.start_time) {
            return Vec::new();
        }
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| {
            let stat = Stat::read(pid)?;
            let ours = stat.session == self.pid && stat.lives() && stat.start_time >= self.start_time;
            ours.then_some(Identity { pid, start_time: stat.start_time })
        })
        .collect()
    }

    /// Ends the process and all of its session, at once. True when nobody was left to be ended.
    pub fn kill_session(self) -> bool {
        let members = self.session();
        for member in &members {
            if let Ok(Some(pidfd)) = member.open() {
                // It may end by itself just now.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        members.is_empty()
    }
}

/// A part of a log: what follows byte `from`, else its last `most` bytes, at most so many; and where the next part begins.
///
/// Who writes the log must not choose what is read: a link or a pipe in its place is not.
pub fn part(path: &Path, from: Option<u64>, most: u64) -> io::Result<(String, u64)> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let there = file.metadata()?;
    if !there.is_file() {
        return Err(io::Error::other("It is not a file"));
    }
    let end = there.len();
    // One that became shorter was begun anew.
    let from = from.filter(|from| *from <= end);
    let start = from.unwrap_or_else(|| end.saturating_sub(most));
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok((String::from_utf8_lossy(&text).into_owned(), start + text.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_full_of_parentheses_and_spaces_hides_nothing() {
        let line = b"4711 (a) R 1 (b ) c) S 1 4711 4700 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(Stat::parse(line), Some(Stat { state: 'S', session: 4700, start_time: 987_654 }));
        for line in [&b""[..], b"1 (x", b"1 (x) S 1", b"1 (x) S a b c", &[0xff, b')', 0xff]] {
            assert_eq!(Stat::parse(line), None);
        }
    }

    #[test]
    fn another_process_of_the_same_number_is_not_it() {
        let own = Identity::of(std::process::id() as i32).unwrap();
        assert!(own.lives() && own.open().unwrap().is_some());
        let other = Identity { start_time: own.start_time + 1, ..own };
        assert!(!other.lives() && other.open().unwrap().is_none() && other.session().is_empty());
    }

    #[test]
    fn a_session_ends_with_those_that_its_leader_left_behind() {
        // One sleeper in a process group of its own, one below it. Who leads the session tells its number and waits.
        let script = "set -m; sleep 1000 & sh -c 'sleep 1000 & wait' & echo $$; read word";
        let mut command = Command::new("setsid");
        command.args(["--wait", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let leader = Identity::of(line.trim().parse().unwrap()).unwrap();
        while leader.session().len() < 4 {
            std::thread::yield_now();
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!leader.lives() && leader.session().len() == 3);
        while !leader.kill_session() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_log_is_read_in_parts_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(part(&path, None, 4).unwrap(), ("two\n".to_owned(), 8));
        assert_eq!(part(&path, Some(8), 100).unwrap(), (String::new(), 8));
        assert_eq!(part(&path, Some(4), 2).unwrap(), ("tw".to_owned(), 6));
        assert_eq!(part(&path, Some(99), 100).unwrap().0, "one\ntwo\n");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(part(&link, None, 100).is_err() && part(folder.path(), None, 100).is_err());
    }
}
