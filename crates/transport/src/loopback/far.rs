//! A guest whose memory is not shared: the device has it by messages, which here are calls.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::Memory;
use vm_memory::VolatileSlice;

use crate::mapped::Files;
use crate::vfio_user::dma::DmaTable;
use crate::vfio_user::{DmaPort, Window};

const PAGE: usize = 4096;

/// Where the device's memory is, and how it gets there.
#[derive(Debug)]
pub(super) struct Elsewhere {
    /// The guest's own.
    pub memory: Arc<Memory>,
    port: Arc<Port>,
    table: DmaTable,
}

/// Copies what is asked for.
#[derive(Debug)]
struct Port {
    memory: Mutex<Arc<Memory>>,
    suspended: AtomicBool,
    asked: AtomicU64,
}

impl Elsewhere {
    pub fn new() -> Self {
        let memory = Arc::new(Memory::empty());
        let port = Arc::new(Port {
            memory: Mutex::new(memory.clone()),
            suspended: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        });
        Self { memory, port, table: DmaTable::new(Files::default()) }
    }

    /// The guest has this memory now; returns what the device gets to see of it.
    pub fn set(&mut self, memory: Arc<Memory>) -> Arc<Memory> {
        self.table.clear();
        self.table.connected(self.port.clone());
        for region in memory.regions().iter().filter(|region| region.usable) {
            let window = Window { iova: region.start, size: region.len, offset: 0, readable: true, writable: true };
            if let Err(refusal) = self.table.map(window, None) {
                panic!("No far memory for the guest: {refusal}");
            }
        }
        *self.port.memory() = memory.clone();
        self.memory = memory;
        self.table.take_table().unwrap_or_else(|| Arc::new(Memory::empty()))
    }

    /// Every answer is an error from now on.
    pub fn lose(&mut self) {
        *self.port.memory() = Arc::new(Memory::empty());
    }

    /// Messages so far.
    pub fn asked(&self) -> u64 {
        self.port.asked.load(Ordering::Relaxed)
    }

    /// Whether the device has to do without answers for a while.
    pub fn suspend(&mut self, suspended: bool) {
        if suspended {
            self.table.suspend();
        } else {
            self.table.resume();
        }
    }
}

impl Port {
    fn memory(&self) -> MutexGuard<'_, Arc<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `each` for the pages that make up `length` bytes at `address`: where they are in that range, and in memory.
    fn pages(&self, address: u64, length: usize, mut each: impl FnMut(Range<usize>, VolatileSlice<'_>)) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let memory = self.memory();
        let mut done = 0;
        while done < length && !self.suspended.load(Ordering::Relaxed) {
            let at = address.wrapping_add(done as u64);
            let part = (PAGE - (at % PAGE as u64) as usize).min(length - done);
            let Some(slice) = memory.slice(at, part as u64) else { return false };
            each(done..done + part, slice);
            done += part;
        }
        done == length
    }
}

impl DmaPort for Port {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.pages(address, data.len(), |part, page| {
            page.copy_to(&mut data[part]);
        })
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.pages(address, data.len(), |part, page| page.copy_from(&data[part]))
    }

    fn suspend(&self) {
        self.suspended.store(true, Ordering::Relaxed);
    }

    fn resume(&self) {
        self.suspended.store(false, Ordering::Relaxed);
    }
}
