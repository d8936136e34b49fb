//! The SIGBUS guard: guest memory that its owner truncates does not end the process.
//!
//! Guest memory is a file of the VMM. When that file is cut short after we mapped it, the next access raises SIGBUS, and
//! nothing but a signal handler can survive that. The handler maps a page of zeros over the one that is gone, counts it,
//! and the access goes on. This needs `unsafe`: a handler has to be installed, the faulting address read and a page mapped at a
//! fixed address. Anything that is not guest memory dies as it would without us.

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use vm_memory::MmapRegion;

/// Mappings that can be guarded at once: a process may serve several devices, each of which maps all of the guest's memory
/// ([`MAX_REGIONS`](crate::vhost_user::memory::MAX_REGIONS)), twice while one table takes the place of another.
const RANGES: usize = 4096;

/// A guarded mapping. `end` is 0 while the entry is free; it is written last and cleared first.
struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Size of the blocks the mapping can be cut at: that of a huge page, where it consists of these.
    block: AtomicUsize,
}

static GUARDED: [Range; RANGES] =
    [const { Range { start: AtomicUsize::new(0), end: AtomicUsize::new(0), block: AtomicUsize::new(0) } }; RANGES];
/// Size of a page; asking for it in the handler might read a file.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
thread_local! {
    /// Needs no initialisation and no destructor, so that the handler may use it.
    static FAULTS_HERE: Cell<u64> = const { Cell::new(0) };
}
/// What was to happen on SIGBUS before we came.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
/// Whose range each entry is, so that it is free again once the mapping is gone.
static OWNERS: Mutex<Vec<Weak<MmapRegion>>> = Mutex::new(Vec::new());

/// Pages of guest memory that had vanished when they were accessed.
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// Those that this thread accessed.
pub fn faults_here() -> u64 {
    FAULTS_HERE.get()
}

/// Installs the handler, once for the process.
pub(crate) fn install() -> io::Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if *done {
        return Ok(());
    }
    PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both actions are valid for the call; a zeroed one is a valid value, and the handler has the type that
    // SA_SIGINFO promises.
    let before = unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        before.assume_init()
    };
    let _ = BEFORE.set(before);
    *done = true;
    Ok(())
}

/// Guards `mapping` for as long as it lives. `block` is the block size of its file. False when there are too many.
pub(crate) fn guard(mapping: &Arc<MmapRegion>, block: usize) -> bool {
    let mut owners = OWNERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    owners.resize(RANGES, Weak::new());
    for (owner, range) in owners.iter_mut().zip(&GUARDED) {
        if owner.strong_count() > 0 {
            continue;
        }
        let start = mapping.as_ptr() as usize;
        range.end.store(0, Ordering::Release);
        range.start.store(start, Ordering::Relaxed);
        range.block.store(block, Ordering::Relaxed);
        range.end.store(start.saturating_add(mapping.size()), Ordering::Release);
        *owner = Arc::downgrade(mapping);
        return true;
    }
    false
}

/// As `guard`, of memory that consists of small pages: what a device maps besides guest memory.
pub fn guard_pages(mapping: &Arc<MmapRegion>) -> bool {
    guard(mapping, rustix::param::page_size())
}

/// Runs on the thread that touched the page, in the middle of whatever it did: atomics and plain system calls only.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo, and for SIGBUS its address field is there.
    let (addr, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // Codes above 0 are faults; others were sent by a process.
    if code > 0 && replace(addr) {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        FAULTS_HERE.set(FAULTS_HERE.get() + 1);
        return;
    }
    let default = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a zeroed action is the default one. On return a fault is raised again, and then meets that action.
    unsafe {
        let default = default.assume_init();
        libc::sigaction(signal, BEFORE.get().unwrap_or(&default), std::ptr::null_mut());
        if code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Maps zeros over the page at `addr` if that lies in guest memory.
fn replace(addr: usize) -> bool {
    let page = PAGE.load(Ordering::Relaxed);
    for range in &GUARDED {
        let end = range.end.load(Ordering::Acquire);
        let start = range.start.load(Ordering::Relaxed);
        if addr < start || addr >= end {
            continue;
        }
        // Huge pages cannot be cut into small ones: then the whole block goes.
        for size in [page, range.block.load(Ordering::Relaxed)] {
            let at = addr - addr % size.max(page);
            let inside = at >= start && at.checked_add(size).is_some_and(|last| last <= end);
            if inside && zeros_at(at, size) {
                return true;
            }
        }
    }
    false
}

fn zeros_at(at: usize, size: usize) -> bool {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
    // SAFETY: the range lies in a mapping of guest memory, which is only ever accessed through volatile slices, by anybody
    // at any time, and whose bytes mean nothing to the compiler. The faulting thread holds the mapping, so it is not
    // unmapped meanwhile. An entry may outlive its mapping until it is used again: a fault in whatever file was mapped
    // there since, which would have ended the process, then reads zeros.
    unsafe { mmap_anonymous(at as *mut c_void, size, prot, flags) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vm_memory::{Bytes, FileOffset, VolatileMemory};

    fn truncated(len: u64, left: u64) -> Arc<MmapRegion> {
        install().unwrap();
        let fd = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        let file = std::fs::File::from(fd);
        let mapping = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), len as usize).unwrap();
        let mapping = Arc::new(mapping);
        assert!(guard(&mapping, 4096));
        mapping.as_volatile_slice().write_slice(&[7; 16], 0).unwrap();
        file.set_len(left).unwrap();
        mapping
    }

    #[test]
    fn vhost_user_a_page_that_was_truncated_reads_as_zeros_and_can_be_written() {
        let mapping = truncated(3 * 4096, 0);
        let before = faults();
        let memory = mapping.as_volatile_slice();
        let mut bytes = [1; 16];
        memory.read_slice(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 16]);
        memory.write_slice(&[9; 16], 2 * 4096 - 8).unwrap();
        memory.read_slice(&mut bytes, 2 * 4096 - 8).unwrap();
        assert_eq!(bytes, [9; 16]);
        assert!(faults() >= before + 3);
        assert_eq!(faults_here(), 3);
    }

    #[test]
    fn what_is_left_of_the_file_stays() {
        let mapping = truncated(2 * 4096, 4096);
        let mut bytes = [1; 16];
        mapping.as_volatile_slice().read_slice(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 16]);
    }

    #[test]
    fn entries_are_free_again_when_their_mapping_is_gone() {
        for _ in 0..2 * RANGES {
            assert!(guard(&Arc::new(MmapRegion::new(4096).unwrap()), 4096));
        }
    }

    #[test]
    fn an_address_that_is_not_guest_memory_is_left_alone() {
        let other = MmapRegion::<()>::new(4096).unwrap();
        install().unwrap();
        assert!(!replace(other.as_ptr() as usize));
    }
}
