//! The seam between a transport and a device: what a virtio device is, whoever carries its words.
//!
//! A transport owns rings, kicks and interrupts; a device sees bytes. The life of a device, as its transport drives it:
//!
//! 1. [`start`](VirtioDevice::start) when the first ring begins to run, with the features the driver accepted;
//! 2. [`request`](VirtioDevice::request) for each chain, [`poll`](VirtioDevice::poll) after each batch of them, whenever
//!    one of [`poll_fds`](VirtioDevice::poll_fds) is readable, and when [`deadline`](VirtioDevice::deadline) has passed;
//!    a queue that the device [`supplies`](VirtioDevice::supplies) itself brings no requests: its chains lie in the ring until
//!    [`supply`](VirtioDevice::supply), which follows each poll, has something to put into them;
//! 3. [`catch_up`](VirtioDevice::catch_up), then [`stop`](VirtioDevice::stop) when the last ring stopped. A stop is not a
//!    reset: a paused guest goes on with [`start`](VirtioDevice::start) and finds all it had;
//! 4. [`catch_up`](VirtioDevice::catch_up), then [`reset`](VirtioDevice::reset) when the front-end is gone: nothing of its
//!    guest may be left.
//!
//! All of it is called on one thread. Only [`ConfigSpace`] is shared with others.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::memory::Memory;

/// Names a request whose reply comes later. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What the driver asked in one chain.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// A private copy of the device-readable bytes, at most the transport's cap of them.
    pub bytes: &'a [u8],
    /// How many device-readable bytes the chain carries: more than `bytes` when over the cap.
    pub carried: u64,
    /// How many bytes the reply may have.
    pub writable: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The reply is complete; what does not fit the chain was not put into it.
    Done,
    /// The chain is to be parked; [`Outbox::completions`] will name the ticket exactly once.
    Later(Ticket),
    /// Our own failure, too often: every ring of the device is to stop and the driver to be told.
    Broken,
}

/// How a device that had stopped starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Rings begin anew: first boot, reboot, resume from suspend, another driver.
    Fresh,
    /// Every ring goes on where it stopped: a paused guest.
    Resumed,
}

/// A reply that was promised by [`Answer::Later`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which request.
    pub ticket: Ticket,
    /// The reply's bytes.
    pub reply: Vec<u8>,
}

/// Memory of the host that a device shows to its guest, in its shared memory region (virtio 1.3, section 2.10).
#[derive(Clone, Debug)]
pub struct HostMapping {
    /// What is mapped: a memfd or a dma-buf that nobody can shrink.
    pub file: Arc<File>,
    /// Position in the file in bytes, a multiple of the page size.
    pub offset: u64,
    /// Length in bytes, a multiple of the page size.
    pub len: u64,
    /// `VIRTIO_GPU_MAP_CACHE_*`, as the guest is told.
    pub caching: u32,
}

/// The front-end is to map memory into a shared memory region.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Names the request; [`VirtioDevice::mapped`] will, exactly once.
    pub ticket: Ticket,
    /// The region's number.
    pub region: u8,
    /// Where in the region, in bytes.
    pub at: u64,
    /// What.
    pub mapping: HostMapping,
}

/// The front-end is to take a part out of a shared memory region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapRequest {
    /// Names the request; [`VirtioDevice::mapped`] will, exactly once.
    pub ticket: Ticket,
    /// The region's number.
    pub region: u8,
    /// Where in the region, in bytes.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A change of a shared memory region, in the order in which they are to happen.
#[derive(Clone, Debug)]
pub enum WindowRequest {
    /// Something is to be seen there.
    Map(MapRequest),
    /// Nothing is to be seen there any more.
    Unmap(UnmapRequest),
}

/// What the front-end can do, as far as a device's configuration depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// Whether it maps memory of the host into shared memory regions.
    pub maps: bool,
    /// Whether it can tell the driver of contexts of several kinds, and of blobs: QEMU's own vhost-user-gpu cannot.
    pub context_init: bool,
}

/// What a device has to tell its transport.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Replies that were promised.
    pub completions: Vec<Completion>,
    /// What is to be mapped and unmapped, in this order.
    pub window: Vec<WindowRequest>,
    /// Whether the configuration changed and the driver is to be told.
    pub config_changed: bool,
    /// As [`Answer::Broken`].
    pub broken: bool,
}

impl Outbox {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.completions.is_empty() && self.window.is_empty() && !self.config_changed && !self.broken
    }
}

/// The device-specific configuration (virtio 1.3, section 2.5). Read and written by the transport's control thread, at
/// any time, any offset, any length; never blocks.
pub trait ConfigSpace: Send + Sync {
    /// Fills `data` from `offset` on; zeros past the end.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes what the driver wrote; read-only fields and what is past the end are ignored.
    fn write(&self, offset: u64, data: &[u8]);
    /// Told before the driver reads anything, and again whenever it becomes known better.
    fn front(&self, _front: Front) {}
}

/// A virtio device.
pub trait VirtioDevice: Send {
    /// The device's type (virtio 1.3, section 5).
    fn device_id(&self) -> u32;

    /// The largest size of each queue.
    fn queue_sizes(&self) -> &[u16];

    /// The device-specific features (bits 0 to 23) that are offered.
    fn features(&self) -> u64;

    /// The configuration space.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// Rings run, under the features that the driver accepted.
    fn start(&mut self, features: u64, start: Start);

    /// The guest's memory may have other contents, or be gone, after this call: what was put off is to be done now.
    fn catch_up(&mut self, _memory: &Memory) {}

    /// Every ring has stopped. What is parked was completed or [abandoned](Self::abandon) before.
    fn stop(&mut self);

    /// The front-end is gone, and its guest with it.
    fn reset(&mut self);

    /// Serves one chain of `queue`. With [`Answer::Done`] the reply was appended to `reply`, which comes empty; an
    /// empty reply gives the chain back with length 0.
    fn request(&mut self, memory: &Memory, queue: u16, request: Request<'_>, reply: &mut Vec<u8>) -> Answer;

    /// Whether so much of `queue` is kept already that nothing more is to be [requested](Self::request) of it until a
    /// [`poll`](Self::poll) has made room.
    fn is_full(&self, _queue: u16) -> bool {
        false
    }

    /// Does what has become possible and tells what there is to tell. Cheap when there is nothing.
    fn poll(&mut self, memory: &Memory, now: Instant, out: &mut Outbox);

    /// Whether the driver's chains of `queue` are room for what the device has to say, and not requests. Asked once.
    fn supplies(&self, _queue: u16) -> bool {
        false
    }

    /// Puts messages into a queue that the device [`supplies`](Self::supplies), each into a chain of its own, at most `free`
    /// of them. The driver is told once of all. Called after each [`poll`](Self::poll) while the ring of `queue` is served.
    ///
    /// Returns whether the device waits for room: only then is the driver asked to kick when it makes more chains available.
    fn supply(&mut self, _queue: u16, _free: usize, _put: &mut dyn FnMut(&[u8])) -> bool {
        false
    }

    /// The sizes of its shared memory regions in bytes, by number; 0 where there is none. Asked once.
    fn shared_memory(&self) -> Vec<u64> {
        Vec::new()
    }

    /// The next command reads and writes this memory: told whenever the table has changed, and before [`start`](Self::start).
    fn memory(&mut self, _memory: &Memory) {}

    /// What became of a [`WindowRequest`].
    fn mapped(&mut self, _ticket: Ticket, _ok: bool) {}

    /// Puts a completion for every ticket still open into `out`: errors where nothing better is known.
    fn abandon(&mut self, out: &mut Outbox);

    /// The front-end read or wrote the configuration since the last call: QEMU's vhost-user-gpu says
    /// in this way that its modes may have changed.
    fn config_accessed(&mut self) {}

    /// Descriptors whose readability calls for [`poll`](Self::poll). Asked once; they stay for the device's life.
    fn poll_fds(&self) -> Vec<BorrowedFd<'_>>;

    /// When [`poll`](Self::poll) is due although nothing is readable.
    fn deadline(&self) -> Option<Instant>;
}
