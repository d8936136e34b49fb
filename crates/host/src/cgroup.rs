//! Control groups, version 2 (`Documentation/admin-guide/cgroup-v2.rst`), as far as they are given to us.
//!
//! Which controllers there are is the host's choice: each verb says plainly when its file is missing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::processes::Processes;

/// What cannot be done with a group.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This host, or who gave us the group, has no such controller there.
    #[error("The control group {group} has no {file}: its controller is not there or not given to it")]
    Missing {
        /// The group.
        group: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// The kernel refused.
    #[error("Cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file says something else than the kernel's documentation does.
    #[error("{0} says what makes no sense")]
    Garbage(PathBuf),
}

/// The result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The group at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Cgroup { path: path.into() }
    }

    /// The group that a process is in, where version 2 is mounted at `mount`.
    pub fn of(processes: &Processes, mount: &Path, pid: i32) -> Option<Self> {
        let text = fs::read_to_string(processes.root().join(format!("{pid}/cgroup"))).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        // A group outside of our namespace, or one that is gone.
        (!path.split('/').any(|part| part == "..") && !path.ends_with(" (deleted)"))
            .then(|| Cgroup { path: mount.join(path) })
    }

    /// Where version 2 is mounted.
    pub fn mount(processes: &Processes) -> Option<PathBuf> {
        let text = fs::read_to_string(processes.root().join("self/mountinfo")).ok()?;
        let mount = |line: &str| {
            let (before, after) = line.split_once(" - ")?;
            (after.split(' ').next() == Some("cgroup2")).then_some(())?;
            before.split(' ').nth(4).map(PathBuf::from)
        };
        text.lines().find_map(mount)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A group in this one, made if it is not there.
    pub fn child(&self, name: &str) -> Result<Cgroup> {
        let path = self.path.join(name);
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::Io { path, source }),
            _ => Ok(Cgroup { path }),
        }
    }

    /// Moves a process with all its threads into it.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Whether we may freeze it.
    pub fn can_freeze(&self) -> bool {
        OpenOptions::new().write(true).open(self.path.join("cgroup.freeze")).is_ok()
    }

    /// Stops all that is in it and below, or lets it go on. [`is_frozen`](Self::is_frozen) says when that is done.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Whether all stand still.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(self.number_in("cgroup.events", "frozen")? == 1)
    }

    /// Its part of processors beside its siblings, 1 to 10000; 100 is usual.
    pub fn set_cpu_weight(&self, weight: u32) -> Result<()> {
        self.write("cpu.weight", &weight.clamp(1, 10_000).to_string())
    }

    /// Bytes of memory that it may have at most; beyond, its processes are ended.
    pub fn set_memory_max(&self, bytes: Option<u64>) -> Result<()> {
        self.write("memory.max", &limit(bytes))
    }

    /// Processes and threads that it may have at most; beyond, none is started.
    pub fn set_pids_max(&self, tasks: Option<u64>) -> Result<()> {
        self.write("pids.max", &limit(tasks))
    }

    /// Bytes of a region of a GPU's memory that it may have at most.
    pub fn set_device_memory_max(&self, region: &str, bytes: Option<u64>) -> Result<()> {
        self.write("dmem.max", &format!("{region} {}", limit(bytes)))
    }

    /// Bytes of each region of GPUs' memory that it has.
    pub fn device_memory(&self) -> Result<Vec<(String, u64)>> {
        let text = self.read("dmem.current")?;
        let region = |line: &str| {
            let (name, bytes) = line.rsplit_once(' ')?;
            Some((name.to_owned(), bytes.parse().ok()?))
        };
        let regions =
            text.lines().map(|line| region(line).ok_or_else(|| Error::Garbage(self.path.join("dmem.current"))));
        regions.collect()
    }

    fn number_in(&self, file: &'static str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let number = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
        number.ok_or_else(|| Error::Garbage(self.path.join(file)))
    }

    fn read(&self, file: &'static str) -> Result<String> {
        fs::read_to_string(self.path.join(file)).map_err(|source| self.failed(file, source))
    }

    fn write(&self, file: &'static str, text: &str) -> Result<()> {
        let open = OpenOptions::new().write(true).open(self.path.join(file));
        // One write: the kernel takes each as a value of its own.
        open.and_then(|mut open| open.write_all(text.as_bytes())).map_err(|source| self.failed(file, source))
    }

    fn failed(&self, file: &'static str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound {
            Error::Missing { group: self.path.clone(), file }
        } else {
            Error::Io { path: self.path.join(file), source }
        }
    }
}

fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string())
}

#[cfg(test)]
mod tests;
