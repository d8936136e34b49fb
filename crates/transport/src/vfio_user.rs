//! A PCI function over vfio-user: the VMM's accesses to registers on a Unix socket, the guest's rings in shared memory.
//!
//! Two threads: *control* (the caller's) reads messages, never touches the device and answers at once, because a vCPU stands
//! still meanwhile; *gpu* waits on the kicks, executes and signals. What a guest does is never answered with an error, and a
//! front-end's mistake ends its connection, never the process.
//!
//! [`wire`] knows the bytes, [`channel`] the socket, [`session`] the rules, [`function`] is the seam to the device.

mod capabilities;
pub mod card;
pub mod channel;
pub mod dma;
#[cfg(test)]
mod dummy;
mod far;
pub mod function;
pub mod irqs;
pub mod pci;
pub mod port;
pub mod replay;
pub mod rom;
mod server;
pub mod session;
pub mod virtio;
pub mod wire;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::Incidents;

pub use crate::serve::{Endpoint, ServeError};
pub use function::{
    DmaPort, IrqAction, IrqData, IrqInfo, IrqSet, Mapping, PciFunction, Refusal, Refused, RegionInfo, Window,
};
pub use server::{Server, serve_function};

/// What a server can be told besides its device.
pub struct Options {
    /// Where panics and vanished memory are counted.
    pub stats: Option<Arc<dyn Incidents>>,
    /// What the device's thread is called, at most 15 bytes, and its front-end in the log: a process may serve several
    /// functions.
    pub name: String,
    /// Readable when it is time to stop.
    pub stop: Option<OwnedFd>,
}

impl Default for Options {
    fn default() -> Self {
        Self { stats: None, name: "gpu".into(), stop: None }
    }
}

#[cfg(test)]
mod tests;
