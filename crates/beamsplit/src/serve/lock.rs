//! One manager for a runtime folder: a lock that the kernel lets go of with the process, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The file of the lock in the runtime folder. It stays: one that is removed could be locked twice.
const FILE: &str = "manager.lock";
/// How long a lock may outlive who took it: what a manager was starting when it was killed has it until it becomes another program.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Takes the lock, or says who has it.
    pub fn take(runtime: &Path) -> Result<Self> {
        let path = runtime.join(FILE);
        let cannot = || format!("Cannot lock {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut file = options.open(&path).with_context(cannot)?;
        let until = Instant::now() + PATIENCE;
        let locked = loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if Instant::now() < until => sleep(PAUSE),
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let holder = file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
                let holder = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                bail!(
                    "Another manager ({holder}) serves {}: ask that one, or name another folder with --runtime-dir",
                    runtime.display()
                );
            }
            Err(error) => return Err(error).with_context(cannot),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(cannot)?;
        Ok(Lock(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_manager_is_told_who_was_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn what_a_killed_manager_was_starting_has_its_lock_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| Lock::take(folder.path()).unwrap());
            sleep(PATIENCE / 10);
            drop(first);
            next.join().unwrap();
        });
    }
}
