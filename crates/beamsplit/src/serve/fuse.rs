//! For tests of a program that was built for them: ends the manager at a moment of their choice, as SIGKILL does.
//!
//! Moments are those between which something was done that the next manager finds: before and after each action, and in the middle of a
//! file. They are counted from the start of the manager.

/// One of them. Does not return when it is the one.
#[cfg(debug_assertions)]
pub fn moment() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Names the moment, from 0.
    const VARIABLE: &str = "BEAMSPLIT_TEST_DIES_AT";
    static WANTED: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var(VARIABLE).ok()?.parse().ok());
    static COUNT: AtomicU64 = AtomicU64::new(0);

    if *WANTED == Some(COUNT.fetch_add(1, Ordering::Relaxed)) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// There is none.
#[cfg(not(debug_assertions))]
pub fn moment() {}
