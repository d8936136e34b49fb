//! Processes that may outlive us: known by their number, the time when they started and the boot; held by a pidfd.
//!
//! A number alone names whoever has it now. With the start time it names one process of one boot, and a pidfd that was
//! opened between two looks at that time is that process for ever.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use host::processes::{Processes, Stat};
use manager::Uuid;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable of the environment that names the vGPU, for all processes that are started for one.
pub const MARK: &str = "BEAMSPLIT_VGPU";

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks after boot.
    pub start_time: u64,
}

/// What is known of the process that has this number now.
fn stat(pid: i32) -> Option<Stat> {
    Processes::default().stat(pid)
}

/// The boot that we are in.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Identity {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Identity { pid, start_time: stat.start_time })
    }

    /// Whether it is still there and not a corpse.
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time && stat.lives())
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
        // Nobody leads session 0: those are in it whose leader another PID namespace has, as it may be with all that runs here.
        // And no device is in our own session: it began one before it was anything.
        let own = std::process::id().cast_signed();
        if self.pid <= 1 || stat(own).is_none_or(|own| own.session == self.pid) {
            return Vec::new();
        }
        // While anybody is in the session its number is given to no other process: one that has it is the leader, or ours is over.
        if stat(self.pid).is_some_and(|stat| stat.start_time != self.start_time) {
            return Vec::new();
        }
        let ours = |stat: &Stat| stat.session == self.pid && stat.lives() && stat.start_time >= self.start_time;
        let identity = |stat: Stat| Identity { pid: stat.pid, start_time: stat.start_time };
        Processes::default().all().filter(ours).map(identity).collect()
    }

    /// Ends the process and all of its session, at once. True when nobody was left to be ended.
    pub fn kill_session(self) -> bool {
        let members = self.session();
        members.iter().copied().for_each(Identity::kill);
        members.is_empty()
    }

    /// The same where nobody watched when the process ended: who is in a session of its number may be of a later one, whose
    /// leader ended too. So only those are ended that were started for this vGPU. Returns how many were left to be ended.
    pub fn kill_left_behind(self, uuid: Uuid) -> usize {
        let members = self.session().into_iter().filter(|member| member.is_for(uuid));
        members.map(Identity::kill).count()
    }

    /// Whether its environment says that it is for this vGPU.
    fn is_for(self, uuid: Uuid) -> bool {
        let mark = format!("{MARK}={uuid}");
        let said = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        said.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    }

    fn kill(self) {
        if let Ok(Some(pidfd)) = self.open() {
            // It may end by itself just now.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
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
    fn a_number_that_no_leader_has_is_nobodys_session() {
        for pid in [i32::MIN, -1, 0, 1] {
            assert_eq!(Identity { pid, start_time: 0 }.session(), [], "{pid}");
        }
        let own = stat(std::process::id().cast_signed()).unwrap();
        assert_eq!(Identity { pid: own.session, start_time: 0 }.session(), [], "All of us");
    }

    /// Starts a session whose leader ends and leaves a sleeper. Returns the leader and the sleeper.
    fn left_behind(mark: &str) -> (Identity, Identity) {
        let mut command = Command::new("setsid");
        command.args(["--wait", "sh", "-c", "sleep 1000 >&- & echo $$ $!; read word"]).env(MARK, mark);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let both: Vec<_> = line.split_whitespace().map(|pid| Identity::of(pid.parse().unwrap()).unwrap()).collect();
        drop(child.stdin.take());
        child.wait().unwrap();
        (both[0], both[1])
    }

    #[test]
    fn of_a_session_that_nobody_watched_only_those_end_that_are_marked() {
        let uuid = Uuid::from_u128(7);
        let (leader, innocent) = left_behind("00000000-0000-0000-0000-000000000008");
        assert_eq!(leader.session(), [innocent]);
        assert_eq!(leader.kill_left_behind(uuid), 0);
        assert!(innocent.lives());
        innocent.kill();
        let (leader, left) = left_behind(&uuid.to_string());
        assert_eq!(leader.kill_left_behind(uuid), 1);
        while left.lives() {
            std::thread::yield_now();
        }
        assert_eq!(leader.kill_left_behind(uuid), 0);
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
