//! Guest memory that only the VMM has, by messages.
//!
//! The device looks at a mirror of it: a sparse file of our own that is filled as it is looked at and emptied again. The
//! control thread sometimes has to wait for the device's thread and cannot bring answers meanwhile; what the device wants
//! to read then fails and is tried again, what it writes then waits.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::guest_log;
use device::memory::{Far, Rest};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileSlice};

use super::DmaPort;

/// What is asked for at once. QEMU's answers to more can lose their end.
const CHUNK: usize = 64 << 10;
/// Bytes of the mirror that stay between commands: a guest cannot fill our memory with what it has in its own.
const KEPT: u64 = 16 << 20;
/// Bytes of writes that wait.
const WAITING: usize = 1 << 20;

/// The front-end's side of far memory, for as long as it is connected.
#[derive(Debug)]
pub(super) struct Remote {
    port: Arc<dyn DmaPort>,
    /// Odd while nothing can be had.
    suspensions: AtomicU64,
    interruptions: AtomicU64,
    /// Whether the user was told what this costs.
    warned: AtomicBool,
    /// Used by the device's thread only.
    traffic: Mutex<Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    buffer: Vec<u8>,
    /// Writes in their order, each with its address.
    waiting: VecDeque<(u64, Vec<u8>)>,
    waiting_bytes: usize,
}

/// How an access ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Done,
    Refused,
    /// It came while the control thread waited.
    Interrupted,
}

impl Remote {
    /// Asks by `port`.
    pub fn new(port: Arc<dyn DmaPort>) -> Self {
        Self {
            port,
            suspensions: AtomicU64::new(0),
            interruptions: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            traffic: Mutex::default(),
        }
    }

    /// Says it once.
    pub fn warn(&self) {
        if !self.warned.load(Ordering::Relaxed) && !self.warned.swap(true, Ordering::Relaxed) {
            guest_log!(
                warn,
                "The guest's memory is not shared: add share=on to its memory backend; until then every byte takes a message"
            );
        }
    }

    #[cfg(test)]
    pub fn has_warned(&self) -> bool {
        self.warned.load(Ordering::Relaxed)
    }

    /// Whoever waits gets nothing, and neither does who asks from now on.
    pub fn suspend(&self) {
        self.suspensions.fetch_or(1, Ordering::SeqCst);
        self.port.suspend();
    }

    /// The control thread answers again.
    pub fn resume(&self) {
        self.port.resume();
        let suspensions = self.suspensions.load(Ordering::SeqCst);
        self.suspensions.store(suspensions + suspensions % 2, Ordering::SeqCst);
    }

    /// See [`DmaPort::ask_later`].
    pub fn ask_later(&self, address: u64, length: usize) {
        self.port.ask_later(address, length);
    }

    /// See [`DmaPort::take_answer`].
    pub fn take_answer(&self) -> Option<Vec<u8>> {
        self.port.take_answer()
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn access(&self, ask: impl FnOnce(&dyn DmaPort) -> bool) -> Access {
        self.warn();
        let before = self.suspensions.load(Ordering::SeqCst);
        if before.is_multiple_of(2) {
            if ask(&*self.port) {
                return Access::Done;
            }
            if self.suspensions.load(Ordering::SeqCst) == before {
                return Access::Refused;
            }
        }
        self.interruptions.fetch_add(1, Ordering::Relaxed);
        Access::Interrupted
    }

    /// Writes what waits, unless `is_open` says that its window was closed since.
    fn deliver(&self, traffic: &mut Traffic, is_open: impl Fn(u64, usize) -> bool) -> Access {
        while let Some((addr, bytes)) = traffic.waiting.front() {
            if is_open(*addr, bytes.len()) && self.access(|port| port.write(*addr, bytes)) == Access::Interrupted {
                return Access::Interrupted;
            }
            traffic.waiting_bytes -= bytes.len();
            traffic.waiting.pop_front();
        }
        Access::Done
    }
}

/// The far windows of one table of memory, one after the other in a file.
#[derive(Debug)]
pub(super) struct Mirror {
    remote: Arc<Remote>,
    windows: Vec<(u64, u64)>,
    mapping: Arc<MmapRegion>,
    fetched: AtomicU64,
}

impl Mirror {
    /// A mirror for `windows`: address and size of each, by address.
    pub fn new(remote: Arc<Remote>, windows: Vec<(u64, u64)>) -> io::Result<Self> {
        let size = windows.iter().try_fold(0u64, |sum, (_, size)| sum.checked_add(*size));
        let size = size.ok_or(io::ErrorKind::FileTooLarge)?;
        let fd = memfd_create("far-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, size)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let length = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mapping = MmapRegion::from_file(FileOffset::new(fd.into(), 0), length).map_err(io::Error::other)?;
        Ok(Self { remote, windows, mapping: Arc::new(mapping), fetched: AtomicU64::new(0) })
    }

    /// The windows that it is of.
    pub fn windows(&self) -> &[(u64, u64)] {
        &self.windows
    }

    fn is_open(&self, addr: u64, len: usize) -> bool {
        let at = self.windows.partition_point(|(start, _)| *start <= addr);
        let Some((start, size)) = at.checked_sub(1).and_then(|at| self.windows.get(at)) else { return false };
        size.checked_sub(addr - start).is_some_and(|room| room >= len as u64)
    }

    fn fetch_all(&self, addr: u64, target: VolatileSlice<'_>) -> Option<()> {
        let mut traffic = self.remote.traffic();
        let traffic = &mut *traffic;
        if self.remote.deliver(traffic, |addr, len| self.is_open(addr, len)) == Access::Interrupted {
            return None;
        }
        traffic.buffer.resize(CHUNK, 0);
        for at in (0..target.len()).step_by(CHUNK) {
            let part = CHUNK.min(target.len() - at);
            let buffer = &mut traffic.buffer[..part];
            let from = addr.checked_add(at as u64)?;
            let done = self.remote.access(|port| port.read(from, buffer));
            (done == Access::Done).then_some(())?;
            self.fetched.fetch_add(part as u64, Ordering::Relaxed);
            target.subslice(at, part).ok()?.copy_from(buffer);
        }
        Some(())
    }

    fn store_all(&self, addr: u64, source: VolatileSlice<'_>) -> Option<()> {
        let mut traffic = self.remote.traffic();
        let traffic = &mut *traffic;
        let mut late = self.remote.deliver(traffic, |addr, len| self.is_open(addr, len)) == Access::Interrupted;
        for at in (0..source.len()).step_by(CHUNK) {
            let part = CHUNK.min(source.len() - at);
            let mut bytes = vec![0; part];
            source.subslice(at, part).ok()?.copy_to(&mut bytes);
            self.fetched.fetch_add(part as u64, Ordering::Relaxed);
            let to = addr.checked_add(at as u64)?;
            if !late {
                match self.remote.access(|port| port.write(to, &bytes)) {
                    Access::Done => continue,
                    Access::Refused => return None,
                    Access::Interrupted => late = true,
                }
            }
            // What comes after it must not come before it.
            (traffic.waiting_bytes + part <= WAITING).then_some(())?;
            traffic.waiting_bytes += part;
            traffic.waiting.push_back((to, bytes));
        }
        Some(())
    }
}

impl Far for Mirror {
    fn mirror(&self) -> &Arc<MmapRegion> {
        &self.mapping
    }

    fn fetch(&self, addr: u64, target: VolatileSlice<'_>) -> bool {
        self.fetch_all(addr, target).is_some()
    }

    fn store(&self, addr: u64, source: VolatileSlice<'_>) -> bool {
        self.store_all(addr, source).is_some()
    }

    fn interruptions(&self) -> u64 {
        self.remote.interruptions.load(Ordering::Relaxed)
    }

    fn rest(&self) -> Rest {
        if self.fetched.load(Ordering::Relaxed) > KEPT
            && let Some(file) = self.mapping.file_offset()
        {
            let whole = self.mapping.size() as u64;
            // Where that cannot be done, memory stays in use, and that is all.
            let _ = fallocate(file.file(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, whole);
            self.fetched.store(0, Ordering::Relaxed);
        }
        let mut traffic = self.remote.traffic();
        if traffic.waiting.is_empty() {
            return Rest::Quiet;
        }
        match self.remote.deliver(&mut traffic, |addr, len| self.is_open(addr, len)) {
            Access::Interrupted => Rest::Waiting,
            Access::Done | Access::Refused => Rest::Delivered,
        }
    }

    fn forget(&self) {
        let mut traffic = self.remote.traffic();
        traffic.waiting.clear();
        traffic.waiting_bytes = 0;
    }
}

#[cfg(test)]
mod tests;
