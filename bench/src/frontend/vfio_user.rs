//! The same guest on the other side of vfio-user: the VMM's messages ([`Wire`]), and the driver of the PCI function behind
//! them ([`PciGuest`]). It does what QEMU and Linux do, in their order.

mod guest;
mod wire;

pub use guest::{PciGuest, Registers};
pub use wire::{Doorbell, Wire, command, region};
