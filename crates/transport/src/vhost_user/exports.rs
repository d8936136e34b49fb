//! What the control thread and the gpu thread both know of the guest's window.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Each file that may be mapped.
    exports: Mutex<HashMap<Name, Export>>,
    /// Whether any came back as guest memory, from any front-end.
    returns: AtomicBool,
}

#[derive(Debug, Default)]
struct Export {
    /// How often it may be mapped.
    count: usize,
    /// How often it came back as guest memory.
    returned: u64,
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
        locked(&self.exports).entry(name).or_default().count += 1;
    }

    /// It has it mapped once less.
    pub fn unexport(&self, name: Name) {
        let mut exports = locked(&self.exports);
        if let Some(export) = exports.get_mut(&name) {
            export.count -= 1;
            if export.count == 0 {
                exports.remove(&name);
            }
        }
    }

    /// How often a file that may be mapped came back as guest memory. Each change of that memory brings all others back too.
    pub fn returned(&self, name: Name) -> u64 {
        locked(&self.exports).get(&name).map_or(0, |export| export.returned)
    }

    /// Whether any ever did.
    pub fn returns(&self) -> bool {
        self.returns.load(Ordering::Acquire)
    }

    /// One has.
    pub fn set_returned(&self, name: Name) {
        if let Some(export) = locked(&self.exports).get_mut(&name) {
            export.returned += 1;
            self.returns.store(true, Ordering::Release);
        }
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
