//! A PCI function over vfio-user: the VMM's accesses to registers on a Unix socket, the guest's rings in shared memory.

pub mod dma;
pub mod function;
pub mod irqs;
pub mod pci;
pub mod rom;

pub use function::{
    DmaPort, IrqAction, IrqData, IrqInfo, IrqSet, Mapping, PciFunction, Refusal, Refused, RegionInfo, Window,
};
