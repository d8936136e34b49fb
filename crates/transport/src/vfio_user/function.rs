//! The seam between the vfio-user server and what it serves: one PCI function.
//!
//! The control thread calls it. Nothing blocks but [`unmap`](PciFunction::unmap), [`reset`](PciFunction::reset) and
//! [`hung_up`](PciFunction::hung_up), which wait for one command of the device.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;

use crate::worker::Gone;

/// A region of a PCI device, as VFIO numbers them.
pub mod region {
    /// BAR 0; the others follow.
    pub const BAR0: usize = 0;
    /// BAR 2.
    pub const BAR2: usize = 2;
    /// BAR 4.
    pub const BAR4: usize = 4;
    /// BAR 5.
    pub const BAR5: usize = 5;
    /// The expansion ROM.
    pub const ROM: usize = 6;
    /// The configuration space.
    pub const CONFIG: usize = 7;
    /// The legacy VGA ranges, which nobody asks for.
    pub const VGA: usize = 8;
    /// How many there are.
    pub const COUNT: usize = 9;
}

/// A kind of interrupt of a PCI device, as VFIO numbers them.
pub mod irq {
    /// The pin.
    pub const INTX: usize = 0;
    /// Message-signalled interrupts.
    pub const MSI: usize = 1;
    /// MSI-X.
    pub const MSIX: usize = 2;
    /// Errors of the bus.
    pub const ERR: usize = 3;
    /// A request to give the device back.
    pub const REQ: usize = 4;
    /// How many there are.
    pub const COUNT: usize = 5;
    /// VFIO_IRQ_INFO_EVENTFD: told by eventfd.
    pub const EVENTFD: u32 = 1;
    /// VFIO_IRQ_INFO_MASKABLE.
    pub const MASKABLE: u32 = 2;
    /// VFIO_IRQ_INFO_AUTOMASKED: masked once it was told.
    pub const AUTOMASKED: u32 = 4;
    /// VFIO_IRQ_INFO_NORESIZE.
    pub const NORESIZE: u32 = 8;
}

/// What a region is. All zeros: it is not there.
#[derive(Clone, Debug, Default)]
pub struct RegionInfo {
    /// Bytes.
    pub size: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// What of it the guest may have mapped.
    pub mapping: Option<Mapping>,
}

/// The file behind a region.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// A region's byte is at the same offset in the file.
    pub file: Arc<File>,
    /// Offset and length of each piece that may be mapped; when empty, all of it.
    pub areas: Vec<(u64, u64)>,
}

/// What a kind of interrupt is. All zeros: it is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// Of [`irq`]'s flags.
    pub flags: u32,
    /// How many vectors.
    pub count: u32,
}

/// A window of guest memory that the device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first address, as the device says it.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
    /// Where it begins in its file.
    pub offset: u64,
    /// Whether the device may read it.
    pub readable: bool,
    /// Whether the device may write it.
    pub writable: bool,
}

/// What is done with interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// VFIO_IRQ_SET_ACTION_TRIGGER.
    Trigger,
    /// VFIO_IRQ_SET_ACTION_MASK.
    Mask,
    /// VFIO_IRQ_SET_ACTION_UNMASK.
    Unmask,
}

/// By what.
#[derive(Debug)]
pub enum IrqData {
    /// VFIO_IRQ_SET_DATA_NONE: at once. [`IrqAction::Trigger`] of no vector takes all eventfds of the kind away.
    None,
    /// VFIO_IRQ_SET_DATA_EVENTFD: one for each vector. None at all: those vectors have none any more.
    Eventfds(Vec<OwnedFd>),
}

/// A SET_IRQS whose numbers were checked: `start + count` is at most what [`PciFunction::irq`] says.
#[derive(Debug)]
pub struct IrqSet {
    /// Which kind, of [`irq`].
    pub index: usize,
    /// The first vector.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// What to do.
    pub action: IrqAction,
    /// By what.
    pub data: IrqData,
}

/// A VMM's request that is refused: the error of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{why} ({errno})")]
pub struct Refusal {
    /// Goes over the wire.
    pub errno: Errno,
    /// Goes to the log.
    pub why: &'static str,
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The VMM asked for what cannot be.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The device's thread has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// A PCI function.
pub trait PciFunction {
    /// What a region is, by its number of [`region`]. The same answer for as long as a front-end is there.
    fn region(&self, index: usize) -> RegionInfo;

    /// What a kind of interrupt is, by its number of [`irq`]. As constant.
    fn irq(&self, index: usize) -> IrqInfo;

    /// A guest's read inside a region. There is always an answer: a front-end makes noise of errors, and a guest may ask often.
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Result<(), Gone>;

    /// A guest's write inside a region.
    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Result<(), Gone>;

    /// How interrupts are told from now on, or that one is due.
    fn set_irqs(&mut self, set: IrqSet) -> Result<(), Refused>;

    /// The device may use a window of memory: that of a file, or one that can only be asked for by messages.
    fn map(&mut self, window: Window, file: Option<OwnedFd>) -> Result<(), Refused>;

    /// The device may not use a window (address and size) any more, or none at all. In force when this returns.
    fn unmap(&mut self, range: Option<(u64, u64)>) -> Result<(), Refused>;

    /// The front-end asks what device this is, having said what memory there is: the last moment to refuse.
    fn ready(&mut self) -> Result<(), Refused>;

    /// The function's reset. In force when this returns.
    fn reset(&mut self) -> Result<(), Gone>;

    /// The replies to what was said before have been sent: what need not hold them up is done now.
    fn flush(&mut self) -> Result<(), Gone>;

    /// A front-end is there, which can be asked for memory by this.
    fn connected(&mut self, port: Arc<dyn DmaPort>);

    /// It is gone, and its guest with it. In force when this returns.
    fn hung_up(&mut self) -> Result<(), Gone>;

    /// Readable when [`poll`](Self::poll) has something to do.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Does what [`poll_fd`](Self::poll_fd) calls for.
    fn poll(&mut self) -> Result<(), Gone>;

    /// The front-end answered a request for memory, perhaps [one of ours](DmaPort::ask_later).
    fn answered(&mut self) -> Result<(), Gone> {
        Ok(())
    }
}

/// Guest memory by messages to the front-end: DMA_READ and DMA_WRITE. Slow, and only for the device's thread: the control
/// thread brings the answers.
pub trait DmaPort: Send + Sync + std::fmt::Debug {
    /// Fills `data` from `address` on. False: it could not be had.
    fn read(&self, address: u64, data: &mut [u8]) -> bool;
    /// Writes `data` to `address`. False: it could not be done.
    fn write(&self, address: u64, data: &[u8]) -> bool;
    /// Asks for a few bytes at `address` and does not wait: for the control thread, which brings the answer. It is asked one
    /// thing at a time; another one takes the place of the one before.
    fn ask_later(&self, _address: u64, _length: usize) {}
    /// What came of it, once it came.
    fn take_answer(&self) -> Option<Vec<u8>> {
        None
    }
    /// Whoever waits gets nothing, and neither does who asks from now on: the control thread is about to wait itself.
    fn suspend(&self);
    /// The control thread answers again.
    fn resume(&self);
}
