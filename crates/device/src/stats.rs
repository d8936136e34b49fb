//! What a device counts. Counters only grow; they are read from other threads.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one device since it started.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// The counters now; each is exact, together they may be of different moments.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Requests served, errors included.
    commands,
    /// Requests answered with an error.
    errors,
    /// Requests whose reply was given later.
    parked,
    /// Flushes that changed what a head shows.
    frames,
    /// Bytes of pixels that flushes made visible: damaged width times height times 4, for each display.
    bytes_shown,
    /// Bytes of pixels that this process copied on the way to a display, sockets' own copies not counted.
    bytes_copied,
    /// Panics that were caught.
    panics,
    /// Times that the front-end's memory vanished under a read.
    memory_faults,
    /// Log lines that were held back.
    log_lines_suppressed,
    /// Bytes that images and cursors occupy now, as charged against the cap.
    image_bytes,
    /// Resources that exist now.
    resources,
}

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the device's own thread writes, so no locked instruction is needed.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets it, for what can also fall.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
