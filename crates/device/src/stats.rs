//! What a device counts. Counters only grow; they are read from other threads.

mod memory;
mod traffic;

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

pub use memory::{Kind, Memory};
pub use traffic::{BOUNDS_US, Histogram, Times, Traffic};

macro_rules! counters {
    ($what:literal, $stats:ident, $snapshot:ident { $($(#[$doc:meta])* $name:ident,)* }
     $(and { $($(#[$more_doc:meta])* $more:ident: $type:ty,)* } sums { $($(#[$sum_doc:meta])* $sum:ident: $kinds:expr,)* })?) => {
        #[doc = concat!("Counters of one ", $what, " since it started.")]
        #[derive(Debug, Default)]
        pub struct $stats {
            $($(#[$doc])* pub $name: Counter,)*
            $($($(#[$more_doc])* pub $more: $type,)*)?
        }

        #[doc = concat!("The counters of one ", $what, " at one moment.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct $snapshot {
            $($(#[$doc])* pub $name: u64,)*
            $($($(#[$sum_doc])* pub $sum: u64,)*)?
        }

        impl $stats {
            /// The counters now; each is exact, together they may be of different moments.
            pub fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.get(),)* $($($sum: self.$sum(),)*)? }
            }

            $($($(#[$sum_doc])* pub fn $sum(&self) -> u64 {
                self.memory.sum($kinds)
            })*)?
        }

        impl Incidents for $stats {
            fn panicked(&self) {
                self.panics.add(1);
            }

            fn memory_faults(&self, total: u64) {
                self.memory_faults.set(total);
            }
        }
    };
}

/// Where a transport counts what befalls the thread that serves a device.
pub trait Incidents: Send + Sync {
    /// A panic was caught.
    fn panicked(&self);
    /// So often, in all, the front-end's memory had vanished when it was accessed.
    fn memory_faults(&self, total: u64);
}

counters! { "GPU", Stats, Snapshot {
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
    /// Times that the framebuffer of the boot display was looked at.
    boot_scans,
    /// Rows of it that were read.
    boot_rows,
    /// Their bytes.
    boot_bytes,
    /// Panics that were caught.
    panics,
    /// Times that the front-end's memory vanished under a read.
    memory_faults,
    /// Resources that exist now.
    resources,
    /// Contexts that exist now.
    contexts,
    /// Command streams that were handed to a 3D renderer.
    submits,
    /// Commands whose fence waited for a 3D renderer.
    fences,
    /// Bytes of scanouts that were read back from a 3D renderer.
    readback_bytes,
    /// Blobs that were mapped into the guest.
    blob_maps,
    /// Bytes of blobs that are mapped into the guest now.
    blob_bytes,
    /// Processes of a 3D renderer that were started.
    renderer_starts,
    /// Processes of a 3D renderer that died, or were ended because they hung or lied.
    renderer_deaths,
    /// Times that a 3D renderer's process told what cannot be.
    renderer_lies,
    /// Times that work was refused because a 3D renderer could not be started, or not again so soon.
    renderer_refused,
} and {
    /// Commands by name, and how long they took. Not in the snapshot.
    traffic: Traffic,
    /// Memory by kind. Not in the snapshot.
    memory: Memory,
} sums {
    /// Bytes that are charged to the guest's memory now: all kinds that are, together.
    charged_bytes: &Kind::CHARGED,
    /// Of them those in memory of ours: images, tables, the pointer and pixels on their way.
    image_bytes: &[Kind::Images, Kind::Tables, Kind::Cursors, Kind::Shadows],
    /// Of the charged ones those of a 3D renderer's resources, as estimated.
    rendered_bytes: &[Kind::Twins, Kind::Textures],
    /// Of the charged ones those of a 3D renderer's blobs.
    host_blob_bytes: &[Kind::Blobs],
} }

counters! { "input device", InputStats, InputSnapshot {
    /// Events that a source sent.
    events,
    /// Events that the device cannot tell its guest: unknown codes, values out of range, or no driver was there.
    ignored,
    /// Frames that the guest was given.
    frames,
    /// Frames that had to be dropped because the guest did not take those before them.
    dropped,
    /// Movements that were joined with an earlier one that the guest had not taken yet.
    coalesced,
    /// Keys, buttons and fingers that were lifted for the guest without a word of the source: it went, lost the focus, or its
    /// word had been dropped.
    released,
    /// Sessions of a source that ended.
    sessions,
    /// Panics that were caught.
    panics,
    /// Times that the front-end's memory vanished under an access.
    memory_faults,
} }

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
