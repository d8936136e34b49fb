//! What the control thread and the gpu thread both know of the guest's window.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::fstat;

use super::dialect::Dialect;

/// Device and inode of a file.
pub type Name = (u64, u64);

/// Which file that is.
pub fn name(file: impl AsFd) -> Option<Name> {
    fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether the front-end may be asked to map anything, and what it may have mapped.
#[derive(Debug, Default)]
pub struct Shared {
    /// How the front-end is asked to map; it is not without one.
    dialect: Mutex<Option<Dialect>>,
    /// Whether the rings run, as far as the control thread has read.
    running: Mutex<bool>,
    /// How often each file may be mapped.
    exports: Mutex<HashMap<Name, usize>>,
    /// How often such a file came back as guest memory.
    returned: AtomicU64,
}

impl Shared {
    /// How requests to map are understood and answered; `None` when they are not.
    pub fn dialect(&self) -> Option<Dialect> {
        *locked(&self.dialect)
    }

    /// Whether they are.
    pub fn maps(&self) -> bool {
        self.dialect().is_some()
    }

    /// What was negotiated of it, or that it is over.
    pub fn set_dialect(&self, dialect: Option<Dialect>) {
        *locked(&self.dialect) = dialect;
    }

    /// A stop was read from the socket, or a start. Once this returns nothing is sent that must not be.
    pub fn set_running(&self, running: bool) {
        *locked(&self.running) = running;
    }

    /// Whether the rings run.
    pub fn runs(&self) -> bool {
        *locked(&self.running)
    }

    /// Does what must not be done once a stop began, unless one has. A stop waits for it.
    pub fn while_running<T>(&self, what: impl FnOnce() -> T) -> Option<T> {
        let running = locked(&self.running);
        running.then(what)
    }

    /// The front-end may map this file from now on, once more.
    pub fn export(&self, name: Name) {
        *locked(&self.exports).entry(name).or_default() += 1;
    }

    /// It has it mapped once less.
    pub fn unexport(&self, name: Name) {
        let mut exports = locked(&self.exports);
        if let Some(count) = exports.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                exports.remove(&name);
            }
        }
    }

    /// How often a file of ours came back as guest memory, from any front-end.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Acquire)
    }

    /// One has.
    pub fn set_returned(&self) {
        self.returned.fetch_add(1, Ordering::Release);
    }

    /// Whether that is a file of ours that the front-end may have mapped.
    pub fn is_exported(&self, file: impl AsFd) -> bool {
        let exports = locked(&self.exports);
        !exports.is_empty() && name(file).is_some_and(|name| exports.contains_key(&name))
    }

    /// Another front-end.
    pub fn reset(&self) {
        self.set_dialect(None);
        self.set_running(false);
        locked(&self.exports).clear();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
