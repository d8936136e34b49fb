//! What Linux knows about a process: its cores, memory, time on the processor, context switches. And that none stays behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;
use rustix::thread::CpuSet;

use crate::error::{Doing, Result};

/// Ends those whose words name what it was given, once nobody has the other end of its pipe; twice, for those that they start.
/// Itself it does not end, and nobody where there is nothing to look for.
const WATCHDOG: &str = r#"
    read line
    [ ${#1} -gt 8 ] || exit
    for round in 1 2; do
        for words in $(grep -slF -e "$1" /proc/[0-9]*/cmdline); do
            pid=${words#/proc/} pid=${pid%/cmdline}
            [ "$pid" = $$ ] || kill -9 "$pid"
        done
    done
    exit 0
"#;

/// Ends what was started for a file or folder, however we end: programs of the bench go on by themselves, and a manager's devices are
/// meant to. It has nothing to do with those that are ended before.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// Watches over all whose words name this path, which must be nobody else's.
    pub fn over(path: &Path) -> Result<Self> {
        let mut shell = Command::new("sh");
        // Not of our group: it is to live when that is ended.
        shell.args(["-c", WATCHDOG, "sh"]).arg(path).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Watchdog(shell.spawn().doing("start a watchdog")?))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cores that this process may use.
pub fn cores() -> Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None).doing("read the allowed cores")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Lets the calling thread, and what it starts from now on, run on this core only.
pub fn pin(core: usize) -> Result<()> {
    rustix::thread::sched_setaffinity(None, &only(core)).doing(format!("pin to core {core}"))
}

/// Moves all threads of a process to one core.
pub fn pin_process(pid: Pid, core: usize) -> Result<()> {
    for thread in threads(pid)? {
        rustix::thread::sched_setaffinity(Some(thread), &only(core)).doing(format!("pin the daemon to core {core}"))?;
    }
    Ok(())
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

fn threads(pid: Pid) -> Result<Vec<Pid>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).doing("list the daemon's threads")?;
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw);
    Ok(entries.flatten().filter_map(number).collect())
}

/// The process that started it.
pub fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Pid::from_raw(i32::try_from(field(&status, "PPid")?).ok()?)
}

/// Nanoseconds that all threads of the process were on a processor.
pub fn cpu_time(pid: Pid) -> Result<u64> {
    Ok(schedule(pid)?.0)
}

/// Nanoseconds that all threads of the process were on a processor, and those that they waited for one.
pub fn schedule(pid: Pid) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for thread in threads(pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).unwrap_or_default();
        let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
        sum = (sum.0 + words.next().unwrap_or(0), sum.1 + words.next().unwrap_or(0));
    }
    Ok(sum)
}

/// Context switches of all threads of the process, wanted and unwanted.
pub fn context_switches(pid: Pid) -> Result<u64> {
    let mut sum = 0;
    for thread in threads(pid)? {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        sum += field(&status, "voluntary_ctxt_switches").unwrap_or(0);
        sum += field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0);
    }
    Ok(sum)
}

/// How often a thread of the process went to sleep by itself. Of threads that have ended nothing is counted.
pub fn sleeps(pid: Pid) -> Result<u64> {
    let mut sum = 0;
    for thread in threads(pid)? {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        sum += field(&status, "voluntary_ctxt_switches").unwrap_or(0);
    }
    Ok(sum)
}

/// KiB of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Resident now.
    pub now: u64,
    /// The most that was ever resident.
    pub peak: u64,
    /// The part that no file is behind.
    pub anonymous: u64,
}

/// Memory of a process.
pub fn resident(pid: Pid) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).doing("read the daemon's memory")?;
    let kib = |name| field(&status, name).unwrap_or(0);
    Ok(Resident { now: kib("VmRSS"), peak: kib("VmHWM"), anonymous: kib("RssAnon") })
}

/// The number behind `name:` in a status file.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, kill_process_group};
    use std::io::Read;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "nonvoluntary_ctxt_switches:\t7\nVmRSS:\t    5120 kB\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(3));
        assert_eq!(field(status, "VmRSS"), Some(5120));
        assert_eq!(field(status, "VmHWM"), None);
    }

    #[test]
    fn a_watchdog_ends_those_of_its_path_when_nobody_holds_its_pipe_and_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = tempfile::tempdir().expect("a folder");
        let sleeper = |path: &Path| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "sleep 1000 >&- & echo; wait", "sh"]).arg(path.join("a.sock")).process_group(0);
            let mut shell = shell.stdout(Stdio::piped()).spawn().expect("a shell");
            shell.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("it has started the other");
            shell
        };
        let (mut ours, mut others) = (sleeper(folder.path()), sleeper(other.path()));
        let mut watchdog = Watchdog::over(folder.path()).expect("a watchdog");
        drop(watchdog.0.stdin.take());
        assert!(watchdog.0.wait().expect("it ends").success());
        assert!(!ours.wait().expect("it ends").success());
        assert!(others.try_wait().expect("it is ours").is_none());
        // What they started has other words, and is of their groups still.
        for group in [ours.id(), others.id()].map(|group| Pid::from_raw(group as i32).expect("a number")) {
            kill_process_group(group, Signal::KILL).expect("somebody is left");
        }
        let _ = others.wait();
    }

    #[test]
    fn this_process_has_memory_and_a_core() {
        let myself = rustix::process::getpid();
        assert!(resident(myself).expect("status").now > 0);
        assert!(!cores().expect("cores").is_empty());
    }
}
