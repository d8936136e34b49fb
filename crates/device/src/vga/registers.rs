//! The registers of a bochs display adapter, as they lie in BAR 2.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0x000 | 0x3ff | EDID of the first head |
//! | 0x400 | 0x41f | the VGA ports 0x3c0 to 0x3df |
//! | 0x500 | 0x515 | DISPI: registers of 16 bits |
//! | 0x600 | 0x607 | size of this block, order of a pixel's bytes |
//!
//! All else reads 0. An access of several bytes is one of each byte in turn, but what it covers of a DISPI register or of the
//! order of bytes is written at once.

mod ports;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::mode::{Dispi, index};
use crate::virtio::ConfigSpace;
use ports::Ports;

const EDID: usize = 0x400;
const PORTS: u64 = 0x400;
const PORTS_END: u64 = 0x420;
const DISPI: u64 = 0x500;
const DISPI_END: u64 = DISPI + 2 * index::COUNT as u64;
const SIZE: u64 = 0x600;
const SIZE_END: u64 = 0x604;
const ORDER: u64 = 0x604;
const ORDER_END: u64 = 0x608;

/// What the block at 0x600 says of its own size.
const BLOCK_SIZE: [u8; 4] = 8u32.to_le_bytes();
const LITTLE: [u8; 4] = [0x1e; 4];
const BIG: [u8; 4] = [0xbe; 4];

/// The registers, shared by the thread that serves accesses and the one that shows pixels.
#[derive(Debug)]
pub struct VgaRegisters {
    /// Grows with each write that may change what is seen.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    edid: [u8; EDID],
    ports: Ports,
    dispi: Dispi,
    /// How often the display was switched on.
    enables: u64,
}

/// What the registers say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub dispi: Dispi,
    /// How often the display was switched on since the device was made.
    pub enables: u64,
}

impl VgaRegisters {
    /// Registers as after a reset, of a framebuffer of so many bytes.
    pub(super) fn new(framebuffer: u64) -> Self {
        let state = State { edid: [0; EDID], ports: Ports::default(), dispi: Dispi::new(framebuffer), enables: 0 };
        Self { generation: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Differs when something was written since that may change what is seen.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What they say now.
    pub(crate) fn settings(&self) -> Settings {
        let state = self.lock();
        Settings { dispi: state.dispi, enables: state.enables }
    }

    /// The monitor of the first head says this of itself.
    pub(crate) fn set_edid(&self, edid: &[u8]) {
        let mut state = self.lock();
        let count = edid.len().min(EDID);
        state.edid.fill(0);
        state.edid[..count].copy_from_slice(&edid[..count]);
    }

    /// As the guest finds them when it starts. The monitor stays.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.ports = Ports::default();
        state.dispi.reset();
        drop(state);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl ConfigSpace for VgaRegisters {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.lock();
        for (at, byte) in (0..).zip(data) {
            *byte = offset.checked_add(at).map_or(0, |offset| state.read(offset));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        if state.write(offset, data) {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }
}

impl State {
    fn read(&mut self, offset: u64) -> u8 {
        match offset {
            ..PORTS => self.edid[offset as usize],
            PORTS..PORTS_END => self.ports.read((offset - PORTS) as u8),
            DISPI..DISPI_END => {
                let value = self.dispi.read(((offset - DISPI) / 2) as usize);
                value.to_le_bytes()[(offset % 2) as usize]
            }
            SIZE..SIZE_END => BLOCK_SIZE[(offset - SIZE) as usize],
            ORDER..ORDER_END => {
                if self.dispi.big_endian {
                    BIG[0]
                } else {
                    LITTLE[0]
                }
            }
            _ => 0,
        }
    }

    /// Returns whether what is seen may be another picture now.
    fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let Some(end) = offset.checked_add(data.len() as u64) else { return false };
        let byte = |at: u64| at.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?)).copied();
        for port in PORTS.max(offset)..PORTS_END.min(end) {
            self.ports.write((port - PORTS) as u8, byte(port).unwrap_or(0));
        }
        let mut seen = false;
        for register in 0..index::COUNT {
            let at = DISPI + 2 * register as u64;
            let written = [byte(at), byte(at + 1)];
            if written == [None; 2] {
                continue;
            }
            let [low, high] = self.dispi.stored(register).to_le_bytes();
            let value = [written[0].unwrap_or(low), written[1].unwrap_or(high)];
            let was_enabled = self.dispi.is_enabled();
            self.dispi.write(register, u16::from_le_bytes(value));
            self.enables += u64::from(!was_enabled && self.dispi.is_enabled());
            seen = true;
        }
        match [0, 1, 2, 3].map(|at| byte(ORDER + at)) {
            order if order == LITTLE.map(Some) => (self.dispi.big_endian, seen) = (false, true),
            order if order == BIG.map(Some) => (self.dispi.big_endian, seen) = (true, true),
            _ => {}
        }
        seen
    }
}
