//! Programs that die with the value that stands for them, and logs that cannot fill a disk.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid};

/// What of a program's output is kept in its file, and at most what of its end in memory.
const LOG_HEAD: usize = 1 << 20;
const LOG_TAIL: usize = 16 << 10;

/// A program in a process group of its own, with its output in a file of bounded size.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    tail: Arc<Mutex<VecDeque<u8>>>,
    logger: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a program. Its output goes to `log`.
    pub fn spawn(mut command: Command, name: &str, log: &Path) -> Result<Self> {
        let (output, input) = std::io::pipe().context("Cannot make a pipe")?;
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0);
        let child = command.spawn().with_context(|| format!("Cannot start {name}"))?;
        // The command holds the writing end: with it dropped, the log ends when the program does.
        drop(command);
        let tail = Arc::default();
        let logger = keep_log(output, File::create(log)?, Arc::clone(&tail));
        let watchdog = watchdog(child.id())?;
        Ok(Process { name: name.to_owned(), child, watchdog, tail, logger: Some(logger) })
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.ended(), Ok(None))
    }

    /// How it ended, if it did. It is not taken leave of before [`kill`](Self::kill): as long as it is a corpse, its number and
    /// that of its group, by which the watchdog and we end what is left, are nobody else's.
    fn ended(&self) -> Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), options)?;
        // As wait(2) has it: the code above the signal.
        let raw = |status: WaitIdStatus| match status.exit_status() {
            Some(code) => code << 8,
            None => status.terminating_signal().unwrap_or_default(),
        };
        Ok(status.map(|status| ExitStatus::from_raw(raw(status))))
    }

    /// The end of its output.
    pub fn log_tail(&self) -> String {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self, seconds: u64) -> Result<ExitStatus> {
        let name = &self.name;
        wait_until(seconds, &format!("{name} to end"), || self.ended())
    }

    /// Ends the whole process group at once.
    pub fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // While the child is not waited for, its id cannot belong to anybody else.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: it knows only a number, which is free again once the child has been waited for.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        self.kill();
        if let Some(logger) = self.logger.take() {
            let _ = logger.join();
        }
    }
}

/// Kills a process group when the process that started it is gone, however that ended: the pipe tells.
/// (No `--` before the number: dash takes it for a process.)
fn watchdog(group: u32) -> Result<Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "read line; kill -9 \"-$1\" 2>/dev/null", "sh", &group.to_string()]);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().context("Cannot start a watchdog")
}

fn keep_log(mut output: impl Read + Send + 'static, mut file: File, tail: Arc<Mutex<VecDeque<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut room = LOG_HEAD;
        let mut bytes = [0; 4096];
        // What no longer fits is read all the same: a program must not stop because nobody keeps its words.
        while let Ok(count @ 1..) = output.read(&mut bytes) {
            let read = bytes.get(..count).unwrap_or_default();
            let kept = room.min(count);
            let _ = file.write_all(read.get(..kept).unwrap_or_default());
            room -= kept;
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(read);
            let excess = tail.len().saturating_sub(LOG_TAIL);
            tail.drain(..excess);
        }
    })
}

/// The processes that a process started, directly or not, with the words of their command lines.
pub fn descendants(id: u32) -> Result<Vec<(u32, Vec<String>)>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Whoever ended in between is nobody's descendant.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let mut words = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, parent) = (words.next(), words.next().and_then(|word| word.parse::<u32>().ok()));
        if let (Some(parent), false) = (parent, matches!(state, Some("Z" | "X"))) {
            parents.push((process, parent));
        }
    }
    let mut found = vec![id];
    let mut next = 0;
    while let Some(ancestor) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(process, _)| *process));
        next += 1;
    }
    Ok(found.into_iter().skip(1).map(|process| (process, command_line(process))).collect())
}

/// How often the threads of a process went to sleep: it does not change while it does nothing.
pub fn sleeps(process: u32) -> Result<u64> {
    let mut sleeps = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sleeps += count.context("A thread without a count")?.trim().parse::<u64>()?;
    }
    Ok(sleeps)
}

/// Whether all threads of a process wait for something: one that only waits for its turn on a busy machine does not.
pub fn is_asleep(process: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        if !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn command_line(process: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    words.filter(|word| !word.is_empty()).collect()
}

thread_local! {
    static WAITED_IN_VAIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's test fails, as far as can be known before its end: logs are worth a look then.
pub fn fails() -> bool {
    std::thread::panicking() || WAITED_IN_VAIN.get()
}

/// Asks again until there is an answer, at most for some seconds.
pub fn wait_until<T>(seconds: u64, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask()? {
            // Who goes on waiting for other things did without that one.
            WAITED_IN_VAIN.set(false);
            return Ok(answer);
        }
        if Instant::now() > deadline {
            WAITED_IN_VAIN.set(true);
            bail!("Waited {seconds} s in vain for {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_dropped_process_takes_its_children_along() {
        let dir = crate::workspace::scratch("process-").unwrap();
        let process = Process::spawn(shell("sleep 1000 & echo $!; wait"), "sleeper", &dir.path().join("log")).unwrap();
        let first_line = || Ok(process.log_tail().lines().next().map(str::to_owned));
        let grandchild = wait_until(60, "the child's number", first_line).unwrap();
        let stat = std::path::PathBuf::from(format!("/proc/{grandchild}/stat"));
        assert!(stat.exists());
        drop(process);
        let gone = || Ok((!std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "))).then_some(()));
        wait_until(60, "the grandchild to end", gone).unwrap();
    }

    #[test]
    fn a_program_that_ended_keeps_its_number_until_it_is_dropped() {
        let dir = crate::workspace::scratch("process-").unwrap();
        let mut process = Process::spawn(shell("exit 7"), "short", &dir.path().join("log")).unwrap();
        assert_eq!(process.wait(60).unwrap().code(), Some(7));
        assert!(!process.is_running());
        let stat = format!("/proc/{}/stat", process.id());
        assert!(std::fs::read_to_string(&stat).unwrap().contains(") Z "), "its number may be another's");
        drop(process);
        assert!(!std::path::Path::new(&stat).exists());
        let mut process = Process::spawn(shell("kill -9 $$"), "killed", &dir.path().join("log")).unwrap();
        assert_eq!(process.wait(60).unwrap().signal(), Some(9));
    }

    #[test]
    fn the_watchdog_kills_a_group_when_nobody_holds_its_pipe() {
        let mut command = shell("sleep 1002 & wait");
        let mut group = command.process_group(0).spawn().unwrap();
        let mut watchdog = watchdog(group.id()).unwrap();
        let sleeper = || Ok(descendants(group.id())?.into_iter().next());
        let (sleeper, _) = wait_until(60, "the group", sleeper).unwrap();
        drop(watchdog.stdin.take());
        assert!(watchdog.wait().unwrap().success());
        assert!(!group.wait().unwrap().success());
        let stat = format!("/proc/{sleeper}/stat");
        let gone = || Ok((!std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "))).then_some(()));
        wait_until(60, "the sleeper to end", gone).unwrap();
    }

    #[test]
    fn descendants_are_found_over_generations_with_their_words() {
        let dir = crate::workspace::scratch("process-").unwrap();
        let process = Process::spawn(shell("sh -c 'sleep 1001; :'; :"), "family", &dir.path().join("log")).unwrap();
        let sleeper = || Ok(descendants(process.id())?.into_iter().find(|(_, words)| words == &["sleep", "1001"]));
        let (sleeper, _) = wait_until(60, "the grandchild", sleeper).unwrap();
        assert!(descendants(std::process::id()).unwrap().iter().any(|(id, _)| *id == sleeper));
        assert_eq!(descendants(sleeper).unwrap(), []);
    }

    #[test]
    fn a_talkative_program_fills_neither_the_disk_nor_its_pipe() {
        let dir = crate::workspace::scratch("process-").unwrap();
        let log = dir.path().join("log");
        let script = "head -c 4000000 /dev/zero | tr '\\0' x; echo the end";
        let mut process = Process::spawn(shell(script), "talker", &log).unwrap();
        assert!(process.wait(60).unwrap().success());
        let ends_well = || Ok(process.log_tail().ends_with("the end\n").then_some(()));
        wait_until(60, "the last words", ends_well).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), LOG_HEAD as u64);
    }
}
