//! A process that stays behind the manager: should that die while it has stopped somebody, this lets all go on.
//!
//! It is told which devices there are, a line each, and nothing when they are stopped and continued: that would wake it with each
//! slice. When the other end of its pipe is closed, however that came about, it looks for the processes of each.

use std::io::{BufRead, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use host::cgroup::Cgroup;
use host::freezer::Freezer;
use host::processes::{Identity, Processes, Renderers};

/// Devices that are remembered. Stops one who adds them for ever; those that are gone are forgotten first.
const MOST: usize = 4096;

/// Let all go on that a manager has stopped, when it dies (the manager starts this).
#[derive(Debug, clap::Args)]
pub struct Words {}

/// The manager's end.
#[derive(Debug)]
pub struct Guard {
    /// Closed first when it is to end.
    pipe: Option<PipeWriter>,
    process: Child,
}

impl Guard {
    /// Starts one that outlives whatever ends us.
    pub fn start() -> Result<Self> {
        let (reader, pipe) = std::io::pipe().context("Cannot make a pipe")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("beamsplit").arg("guard").stdin(reader).stdout(Stdio::null()).process_group(0);
        let process = command.spawn().context("Cannot start a process")?;
        Ok(Guard { pipe: Some(pipe), process })
    }

    /// Has a device looked after.
    pub fn watch(&mut self, device: Identity, group: Option<&Path>) {
        let group = group.map(|group| format!(" {}", group.display())).unwrap_or_default();
        let line = format!("{} {}{group}\n", device.pid, device.start_time);
        if let Some(Err(error)) = self.pipe.as_mut().map(|pipe| pipe.write_all(line.as_bytes())) {
            tracing::warn!("Nobody lets vGPUs go on should the manager die: {error}");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.process.wait();
    }
}

/// Is one, until the pipe is closed.
pub fn run(_: &Words) -> Result<()> {
    let _ = rustix::process::setsid();
    // Nobody's service is to be held up by our folder.
    let _ = std::env::set_current_dir("/");
    let processes = Processes::default();
    let mut devices: Vec<(Identity, Option<PathBuf>)> = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some(device) = parse(&line) else { continue };
        if devices.len() >= MOST {
            devices.retain(|(device, _)| processes.lives(*device));
        }
        if devices.len() < MOST {
            devices.push(device);
        }
    }
    for (device, group) in devices {
        if let Some(mut renderers) = Renderers::of(processes.clone(), device) {
            while renderers.find() {}
            Freezer::with(group.map(Cgroup::at)).go_on(&mut renderers);
        }
    }
    Ok(())
}

fn parse(line: &str) -> Option<(Identity, Option<PathBuf>)> {
    let mut words = line.splitn(3, ' ');
    let identity = Identity { pid: words.next()?.parse().ok()?, start_time: words.next()?.parse().ok()? };
    Some((identity, words.next().map(PathBuf::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_a_process_and_its_group() {
        let identity = Identity { pid: 12, start_time: 99 };
        assert_eq!(parse("12 99"), Some((identity, None)));
        assert_eq!(parse("12 99 /sys/a b"), Some((identity, Some("/sys/a b".into()))));
        assert_eq!([parse(""), parse("12"), parse("x 1"), parse("1 -2")], [None, None, None, None]);
    }
}
