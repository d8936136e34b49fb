//! The screen before a driver: a framebuffer, and registers as those of the bochs display adapter.
//!
//! Firmware sets a mode in registers and then only writes pixels. Nobody says what changed, so the device looks. Registers
//! are read and written by a transport's control thread, and looked at by the device's.

mod framebuffer;
mod mode;
mod registers;
mod scan;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

pub use framebuffer::Framebuffer;
pub(crate) use mode::Mode;
pub use registers::VgaRegisters;
pub(crate) use scan::{Cost, Picture, Rows};

use crate::virtio::ConfigSpace;

/// What a boot display is made of.
#[derive(Clone, Copy, Debug)]
pub struct VgaOptions {
    /// Bytes of the framebuffer, a power of two from 16 to 64 MiB.
    pub framebuffer: u64,
    /// Whether there is a virtio-gpu beside it; without, the device has no queue.
    pub virtio: bool,
}

impl Default for VgaOptions {
    fn default() -> Self {
        Self { framebuffer: Self::LEAST, virtio: true }
    }
}

impl VgaOptions {
    const LEAST: u64 = 16 << 20;
    const MOST: u64 = 64 << 20;

    /// Bytes that a boot display takes at most: the framebuffer, and what is shown of it, where a pixel of two bytes has four.
    pub fn memory(&self) -> u64 {
        self.framebuffer.saturating_mul(3)
    }
}

/// A boot display, for [`crate::Gpu::with_boot`].
#[derive(Debug)]
pub struct Vga {
    pub(crate) port: VgaPort,
    pub(crate) virtio: bool,
}

impl Vga {
    /// A boot display, and the way to it for who serves the guest's accesses.
    pub fn new(options: VgaOptions) -> io::Result<(Self, VgaPort)> {
        let len = options.framebuffer;
        if !len.is_power_of_two() || !(VgaOptions::LEAST..=VgaOptions::MOST).contains(&len) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "A framebuffer has 16, 32 or 64 MiB"));
        }
        let framebuffer = Mutex::new(Arc::new(Framebuffer::new(len)?));
        let port = VgaPort { framebuffer: Arc::new(framebuffer), registers: Arc::new(VgaRegisters::new(len)) };
        Ok((Self { port: port.clone(), virtio: options.virtio }, port))
    }
}

/// The way to a boot display. Clones are the same one.
#[derive(Clone, Debug)]
pub struct VgaPort {
    framebuffer: Arc<Mutex<Arc<Framebuffer>>>,
    pub(crate) registers: Arc<VgaRegisters>,
}

impl VgaPort {
    /// The framebuffer of this session of the front-end: another one once [`VirtioDevice::reset`] was called.
    ///
    /// [`VirtioDevice::reset`]: crate::VirtioDevice::reset
    pub fn framebuffer(&self) -> Arc<Framebuffer> {
        self.lock().clone()
    }

    /// What BAR 2 has from 0 to 0xfff: EDID, the VGA ports, DISPI, byte order. After a write the device is to be polled.
    pub fn registers(&self) -> Arc<dyn ConfigSpace> {
        self.registers.clone()
    }

    /// The function was reset: the screen is dark. What is in the framebuffer stays.
    pub fn reset(&self) {
        self.registers.reset();
    }

    /// The front-end is gone, but who had the framebuffer may still map it: the next one gets another.
    pub(crate) fn renew(&self) {
        let mut framebuffer = self.lock();
        let len = framebuffer.len();
        *framebuffer = Arc::new(Framebuffer::new(len).unwrap_or_else(|error| {
            tracing::error!("Cannot make a new framebuffer, the screen stays dark: {error}");
            Framebuffer::absent(len)
        }));
        self.registers.reset();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Framebuffer>> {
        self.framebuffer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
