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
pub mod function;
pub mod irqs;
pub mod pci;
pub mod port;
pub mod rom;
mod server;
pub mod session;
pub mod wire;

pub use crate::serve::{Endpoint, ServeError};
pub use function::{
    DmaPort, IrqAction, IrqData, IrqInfo, IrqSet, Mapping, PciFunction, Refusal, Refused, RegionInfo, Window,
};
pub use server::serve_function;
