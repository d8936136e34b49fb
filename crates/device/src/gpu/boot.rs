//! The screen before a driver, and when it gives way to the driver's.

use super::Gpu;
use crate::vga::Vga;

impl Gpu {
    /// Shows what firmware draws until a driver shows something, and again when that one is gone.
    pub fn with_boot(mut self, vga: Vga) -> Self {
        self.boot = Some(vga);
        self
    }
}
