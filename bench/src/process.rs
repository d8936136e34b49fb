//! What Linux knows about a process: its cores, memory, time on the processor, context switches.

use std::fs;

use rustix::process::Pid;
use rustix::thread::CpuSet;

use crate::error::{Doing, Result};

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

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "nonvoluntary_ctxt_switches:\t7\nVmRSS:\t    5120 kB\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(3));
        assert_eq!(field(status, "VmRSS"), Some(5120));
        assert_eq!(field(status, "VmHWM"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_core() {
        let myself = rustix::process::getpid();
        assert!(resident(myself).expect("status").now > 0);
        assert!(!cores().expect("cores").is_empty());
    }
}
