//! Memory that the driver and the device share, and the configuration space.
//!
//! The drivers want pointers, raw lifetimes and a trait with an unsafe function: the one module of this test with `unsafe`.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use vm_memory::{FileOffset, MmapRegion};

use crate::vmm::{Vmm, memfd};

/// The configuration space.
pub struct Space(pub Rc<Vmm>);

impl ConfigurationAccess for Space {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        if (function.device, function.function) != (0, 0) {
            return u32::MAX;
        }
        self.0.read_word(7, offset.into(), 4) as u32
    }

    fn write_word(&mut self, _function: DeviceFunction, offset: u8, data: u32) {
        self.0.write_word(7, offset.into(), 4, data.into());
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// All that any of the tests uses.
pub const LEN: u64 = 64 << 20;

/// One file for all tests of this program: the drivers know no other way than statics.
static MEMORY: LazyLock<Shared> = LazyLock::new(|| {
    let file = memfd(LEN);
    let mapped = FileOffset::new(file.try_clone().unwrap().into(), 0);
    let mapping = Arc::new(MmapRegion::from_file(mapped, LEN as usize).unwrap());
    Shared { file, mapping, pages: Mutex::new(Pages { next: PAGE_SIZE as u64, free: HashMap::new() }) }
});

struct Shared {
    file: OwnedFd,
    mapping: Arc<MmapRegion>,
    pages: Mutex<Pages>,
}

struct Pages {
    next: u64,
    /// What was given back, by its number of pages.
    free: HashMap<usize, Vec<u64>>,
}

/// The file, for the VMM to share.
pub fn file() -> OwnedFd {
    MEMORY.file.try_clone().unwrap()
}

fn pages() -> MutexGuard<'static, Pages> {
    MEMORY.pages.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn pointer(address: u64) -> NonNull<u8> {
    // Inside the mapping, which is never unmapped.
    NonNull::new(MEMORY.mapping.as_ptr().wrapping_add(address as usize)).unwrap()
}

fn take(count: usize) -> u64 {
    let mut pages = pages();
    let address = pages.free.get_mut(&count).and_then(Vec::pop).unwrap_or_else(|| {
        let address = pages.next;
        pages.next += (count * PAGE_SIZE) as u64;
        assert!(pages.next <= LEN, "the memory is full");
        address
    });
    drop(pages);
    // SAFETY: the pages lie inside the mapping and belong to nobody else.
    unsafe { pointer(address).as_ptr().write_bytes(0, count * PAGE_SIZE) };
    address
}

fn give_back(address: u64, count: usize) {
    pages().free.entry(count).or_default().push(address);
}

/// The drivers' way to that memory.
pub struct SharedMemory;

// SAFETY: pages are zeroed, page-aligned, inside a mapping that stays, and handed out once until they are given back.
unsafe impl Hal for SharedMemory {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let address = take(pages);
        (address, pointer(address))
    }

    unsafe fn dma_dealloc(address: PhysAddr, _pointer: NonNull<u8>, pages: usize) -> i32 {
        give_back(address, pages);
        0
    }

    unsafe fn mmio_phys_to_virt(_address: PhysAddr, _size: usize) -> NonNull<u8> {
        panic!("registers are reached by messages")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let address = take(buffer.len().div_ceil(PAGE_SIZE));
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: both are valid for the buffer's length, and do not overlap.
            unsafe { pointer(address).copy_from_nonoverlapping(buffer.cast(), buffer.len()) };
        }
        address
    }

    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as above.
            unsafe { buffer.cast().copy_from_nonoverlapping(pointer(address), buffer.len()) };
        }
        give_back(address, buffer.len().div_ceil(PAGE_SIZE));
    }
}
