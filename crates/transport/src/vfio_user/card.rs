//! A virtio device, a boot display or both as one PCI function.

use std::convert::Infallible;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use device::vga::VgaPort;
use device::{ConfigSpace, VirtioDevice};

use super::dma::DmaTable;
use super::irqs::Irqs;
use super::pci::Shape;
use super::rom::Rom;
use super::{DmaPort, IrqInfo, IrqSet, PciFunction, Refused, RegionInfo, Window};
use crate::mapped::Files;
use crate::worker::{Gone, Worker};

/// What a device is, for the control thread.
pub struct Identity {
    /// Device-specific features.
    pub features: u64,
    /// The largest size of each queue.
    pub queue_sizes: Vec<u16>,
    /// The configuration space.
    pub config: Arc<dyn ConfigSpace>,
}

impl Identity {
    /// What a device says of itself.
    pub fn of(device: &dyn VirtioDevice) -> Self {
        Self { features: device.features(), queue_sizes: device.queue_sizes().to_vec(), config: device.config() }
    }
}

/// The function, for the control thread. The device is on the other side of `W`.
pub struct Card<W> {
    #[expect(dead_code, reason = "not used yet")]
    shape: Shape,
    #[expect(dead_code, reason = "not used yet")]
    identity: Identity,
    #[expect(dead_code, reason = "not used yet")]
    boot: Option<VgaPort>,
    #[expect(dead_code, reason = "not used yet")]
    rom: Option<Rom>,
    #[expect(dead_code, reason = "not used yet")]
    worker: W,
    #[expect(dead_code, reason = "not used yet")]
    irqs: Arc<Irqs>,
    dma: DmaTable,
}

impl<W: Worker<Infallible>> Card<W> {
    /// A function that was just switched on. `irqs` is what the gpu thread tells its driver by.
    pub fn new(
        shape: Shape,
        identity: Identity,
        boot: Option<VgaPort>,
        rom: Option<Rom>,
        worker: W,
        irqs: Arc<Irqs>,
    ) -> io::Result<Self> {
        Ok(Self { shape, identity, boot, rom, worker, irqs, dma: DmaTable::new(Files::default()) })
    }
}

impl<W: Worker<Infallible>> PciFunction for Card<W> {
    fn region(&self, _index: usize) -> RegionInfo {
        RegionInfo::default()
    }

    fn irq(&self, _index: usize) -> IrqInfo {
        IrqInfo::default()
    }

    fn read(&mut self, _region: usize, _offset: u64, data: &mut [u8]) -> Result<(), Gone> {
        data.fill(0);
        Ok(())
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Result<(), Gone> {
        Ok(())
    }

    fn set_irqs(&mut self, _set: IrqSet) -> Result<(), Refused> {
        Ok(())
    }

    fn map(&mut self, window: Window, file: Option<OwnedFd>) -> Result<(), Refused> {
        Ok(self.dma.map(window, file)?)
    }

    fn unmap(&mut self, range: Option<(u64, u64)>) -> Result<(), Refused> {
        Ok(self.dma.unmap(range)?)
    }

    fn ready(&mut self) -> Result<(), Refused> {
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn connected(&mut self, port: Arc<dyn DmaPort>) {
        self.dma.connected(port);
    }

    fn hung_up(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn poll(&mut self) -> Result<(), Gone> {
        Ok(())
    }
}
