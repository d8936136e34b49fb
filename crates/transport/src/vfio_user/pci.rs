//! What a guest sees in configuration space.

/// What the function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A virtio-gpu that is a VGA device as well: firmware draws on it.
    Vga,
    /// A virtio-gpu.
    Virtio,
    /// A display that is nothing but a framebuffer.
    Bochs,
    /// A keyboard or pointer.
    Input,
}

/// What of a function can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is.
    pub model: Model,
    /// Whether MSI-X is offered.
    pub msix: bool,
    /// Whether queues can be notified by a port.
    pub pio: bool,
}

impl Model {
    /// Whether it has a framebuffer, and firmware draws on it.
    pub fn has_boot_display(self) -> bool {
        matches!(self, Self::Vga | Self::Bochs)
    }

    /// Whether it is a virtio device.
    pub fn is_virtio(self) -> bool {
        self != Self::Bochs
    }
}

/// Vendor and device.
pub fn ids(model: Model) -> (u16, u16) {
    match model {
        Model::Vga | Model::Virtio => (0x1af4, 0x1050),
        Model::Bochs => (0x1234, 0x1111),
        Model::Input => (0x1af4, 0x1052),
    }
}
