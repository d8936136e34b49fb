//! A virtio device, a boot display or both as one PCI function.
//!
//! The control thread owns it. What concerns rings goes to the gpu thread as changes; registers are answered here.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use device::vga::VgaPort;
use device::{ConfigSpace, Front, VirtioDevice, guest_log};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::dma::DmaTable;
use super::function::{irq, region};
use super::irqs::{Irqs, VECTORS};
use super::pci::{LENGTH, PciConfig, Shape, command};
use super::rom::Rom;
use super::virtio::{Deed, Registers, window};
use super::{DmaPort, IrqAction, IrqData, IrqInfo, IrqSet, Mapping, PciFunction, Refusal, Refused, RegionInfo, Window};
use crate::mapped::Files;
use crate::worker::{Change, Gone, Worker};

/// Changes that are given to the gpu thread before it is waited for. Fewer than make it wait by itself: by then nobody would
/// answer it.
const UNSETTLED: usize = 32;
/// Entries of a ring. Behind an IOMMU of the guest a ring is in one piece only inside a page, and so many fit into one; a ring
/// that is far is copied as a whole.
const LARGEST_QUEUE: u16 = 128;
/// So many windows are made into a table for each that comes while rings run.
const FEW_WINDOWS: usize = 2048;
/// The registers of BAR 2 that say what is shown, and how.
const MODE: std::ops::Range<u64> = 0x500..0x608;
/// Where the table of MSI-X ends and the pending bits are, in BAR 4.
const TABLE: usize = 16 * VECTORS as usize;
const PENDING: u64 = 0x1000;

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
        let config = device.config();
        // A VMM takes the memory of a BAR once, when it begins: nothing can be mapped into it later.
        config.front(Front { maps: false, context_init: true });
        Self { features: device.features(), queue_sizes: device.queue_sizes().to_vec(), config }
    }
}

/// The function, for the control thread. The device is on the other side of `W`.
pub struct Card<W> {
    shape: Shape,
    config: PciConfig,
    registers: Registers,
    boot: Option<VgaPort>,
    rom: Option<Rom>,
    /// The table of MSI-X: kept for who reads it back, who uses eventfds has one of its own.
    vectors: [u8; TABLE],
    irqs: Arc<Irqs>,
    /// Readable when the VMM has seen what was told by the pin.
    unmask: Option<OwnedFd>,
    dma: DmaTable,
    worker: W,
    /// Changes since the gpu thread was waited for.
    unsettled: usize,
    /// Whether it knows a table of memory.
    knows_memory: bool,
    /// Windows that are open.
    windows: usize,
    kicks: Vec<Kick>,
    /// Kept for its memory.
    deeds: Vec<Deed>,
}

/// How the gpu thread hears of a queue.
struct Kick {
    fd: OwnedFd,
    /// Whether the gpu thread waits on it.
    given: bool,
    /// Whether the driver has news.
    due: bool,
    /// Until the first of them: where the driver says how much.
    first: Option<u64>,
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
        let Identity { features, mut queue_sizes, config } = identity;
        queue_sizes.iter_mut().for_each(|size| *size = LARGEST_QUEUE.min(*size));
        let boot = boot.filter(|_| shape.model.has_boot_display());
        let rom = rom.filter(|_| shape.model.has_boot_display());
        let framebuffer = boot.as_ref().map_or(0, |boot| boot.framebuffer().len());
        let kick = |_: &u16| {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Kick { fd, given: false, due: false, first: None })
        };
        let kicks = queue_sizes.iter().map(kick).collect::<io::Result<_>>()?;
        let config_space = PciConfig::new(shape, framebuffer, rom.as_ref().map_or(0, Rom::size));
        let mut card = Self {
            shape,
            config: config_space,
            registers: Registers::new(features, queue_sizes, config, irqs.clone()),
            boot,
            rom,
            vectors: [0; TABLE],
            irqs,
            unmask: None,
            dma: DmaTable::new(Files::default()),
            worker,
            unsettled: 0,
            knows_memory: false,
            windows: 0,
            kicks,
            deeds: Vec::new(),
        };
        card.configured();
        Ok(card)
    }

    /// Has the gpu thread do something, which nobody waits for.
    fn change(&mut self, change: Change<Infallible>) -> Result<(), Gone> {
        self.worker.change(change)?;
        self.unsettled += 1;
        if self.unsettled < UNSETTLED { Ok(()) } else { self.settle() }
    }

    /// Returns when the gpu thread did all that it was to do. It may wait for memory from the VMM, which only we could bring.
    fn settle(&mut self) -> Result<(), Gone> {
        self.unsettled = 0;
        self.dma.suspend();
        let settled = self.worker.settle();
        self.dma.resume();
        self.registers.settled();
        settled
    }

    /// Gives the gpu thread the memory of now.
    fn give_memory(&mut self) -> Result<(), Gone> {
        if let Some(memory) = self.dma.take_table() {
            self.knows_memory = true;
            self.change(Change::Memory(memory))?;
        }
        Ok(())
    }

    /// What a write set off.
    fn carry_out(&mut self) -> Result<(), Gone> {
        let mut deeds = std::mem::take(&mut self.deeds);
        for deed in deeds.drain(..) {
            match deed {
                Deed::Halt => self.change(Change::Halt(self.irqs.halts().clone()))?,
                Deed::Run(features) => {
                    self.change(Change::Features(features))?;
                    self.give_memory()?;
                }
                Deed::Start(queue, layout) => {
                    self.dma.verify(layout.available);
                    self.give_memory()?;
                    self.give_kick(queue)?;
                    if let Some(kick) = self.kicks.get_mut(usize::from(queue)) {
                        kick.first = Some(layout.available);
                    }
                    self.change(Change::Start { queue, layout: Some(layout), base: Some(0) })?;
                    self.change(Change::Enable(queue, true))?;
                }
                Deed::Drop(queue, done) => self.change(Change::DropRing(queue, done))?,
                Deed::Notify(queue) => {
                    if let Some(kick) = self.kicks.get_mut(usize::from(queue)) {
                        kick.due = true;
                    }
                }
                Deed::Written => self.change(Change::ConfigAccessed)?,
            }
        }
        self.deeds = deeds;
        Ok(())
    }

    fn give_kick(&mut self, queue: u16) -> Result<(), Gone> {
        let Some(kick) = self.kicks.get_mut(usize::from(queue)).filter(|kick| !kick.given) else { return Ok(()) };
        match kick.fd.try_clone() {
            Ok(fd) => {
                kick.given = true;
                self.change(Change::Kick(queue, Some(fd)))
            }
            Err(error) => {
                guest_log!(error, "Queue {queue} cannot be kicked: {error}");
                Ok(())
            }
        }
    }

    /// Brings everything in line with the configuration space.
    fn configured(&mut self) {
        self.irqs.enable(self.config.enabled());
        let bars: Vec<_> = self.config.bars_in_memory().collect();
        self.dma.set_own_bars(&bars);
    }

    fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
        let end = offset + data.len() as u64;
        let Some(at) = self.config.access_data().filter(|at| offset < at + 4 && *at < end) else { return };
        let Some((bar, place, length)) = self.accessed() else { return };
        let mut value = [0; 4];
        self.read_bar(bar, place, &mut value[..length]);
        for (at, byte) in (at..).zip(value) {
            if let Some(place) = at.checked_sub(offset).and_then(|index| data.get_mut(index as usize)) {
                *place = byte;
            }
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Gone> {
        let before = self.config.command();
        self.config.write(offset, data);
        self.configured();
        let now = self.config.command();
        if (before ^ now) & command::MASTER != 0 {
            let ran = self.registers.runs();
            self.registers.set_master(now & command::MASTER != 0, &mut self.deeds);
            self.carry_out()?;
            // The guest may count on it that its memory is left alone.
            if ran {
                self.settle()?;
            }
        }
        if self.config.access_data() == Some(offset)
            && let Some((bar, place, length)) = self.accessed()
            && let Some(data) = data.get(..length)
        {
            self.write_bar(bar, place, data)?;
        }
        Ok(())
    }

    /// What the PCI access capability names: registers of a BAR, and nothing else.
    fn accessed(&self) -> Option<(usize, u64, usize)> {
        let access = self.config.access()?;
        let (bar, offset, length) = (usize::from(access.bar), u64::from(access.offset), u64::from(access.length));
        let inside = matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && matches!(bar, region::BAR2 | region::BAR5)
            && offset + length <= self.config.bar_size(bar);
        inside.then_some((bar, offset, length as usize))
    }

    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        match (bar, &self.boot) {
            (region::BAR0, Some(boot)) => boot.framebuffer().read(offset, data),
            (region::BAR2, boot) => {
                let (shown, rest) = split_mut(offset, data);
                match boot {
                    Some(boot) => boot.registers().read(offset, shown),
                    None => shown.fill(0),
                }
                match self.shape.model.is_virtio() {
                    true => self.registers.read(offset + shown.len() as u64, rest),
                    false => rest.fill(0),
                }
            }
            (region::BAR4, _) => {
                let pending = self.irqs.pending().to_le_bytes();
                for (at, byte) in (offset..).zip(data) {
                    *byte = match at.checked_sub(PENDING) {
                        Some(at) => pending.get(at as usize).copied().unwrap_or(0),
                        None => self.vectors.get(at as usize).copied().unwrap_or(0),
                    };
                }
            }
            _ => data.fill(0),
        }
    }

    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]) -> Result<(), Gone> {
        match (bar, &self.boot) {
            (region::BAR0, Some(boot)) => boot.framebuffer().write(offset, data),
            (region::BAR2, boot) => {
                let (shown, rest) = data.split_at(data.len().min(shown_bytes(offset)));
                let end = offset + shown.len() as u64;
                if let Some(boot) = boot.as_ref().filter(|_| !shown.is_empty()) {
                    boot.registers().write(offset, shown);
                    if offset < MODE.end && MODE.start < end {
                        self.worker.change(Change::Look)?;
                    }
                }
                if self.shape.model.is_virtio() {
                    self.registers.write(end, rest, &mut self.deeds);
                    self.carry_out()?;
                }
            }
            (region::BAR4, _) => {
                for (at, byte) in (offset..).zip(data) {
                    if let Some(place) = self.vectors.get_mut(at as usize) {
                        *place = *byte;
                    }
                }
            }
            (region::BAR5, _) => {
                let value = data.iter().rev().fold(0, |value: u64, byte| value << 8 | u64::from(*byte));
                self.registers.notify(value & 0xffff, &mut self.deeds);
                self.carry_out()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn set_pin(&mut self, action: IrqAction, count: u32, data: IrqData) -> Result<(), Refusal> {
        match (action, data) {
            (IrqAction::Trigger, IrqData::Eventfds(mut fds)) => self.irqs.set_pin(fds.pop()),
            (IrqAction::Trigger, IrqData::None) if count == 0 => {
                self.irqs.set_pin(None);
                self.unmask = None;
            }
            (IrqAction::Trigger, IrqData::None) => self.irqs.trigger_pin(),
            (IrqAction::Mask, IrqData::None) => self.irqs.mask_pin(),
            (IrqAction::Mask, IrqData::Eventfds(_)) => {
                return Err(Refusal { errno: Errno::NOTSUP, why: "The pin cannot be masked by an eventfd" });
            }
            (IrqAction::Unmask, IrqData::None) => self.irqs.unmask_pin(),
            (IrqAction::Unmask, IrqData::Eventfds(mut fds)) => {
                let fd = fds.pop();
                if !fd.as_ref().is_none_or(is_eventfd) {
                    return Err(Refusal {
                        errno: Errno::INVAL,
                        why: "The pin is to be unmasked by what is no eventfd",
                    });
                }
                self.unmask = fd;
            }
        }
        Ok(())
    }

    fn set_messages(&mut self, set: IrqSet) -> Result<(), Refusal> {
        if set.action != IrqAction::Trigger {
            return Err(Refusal { errno: Errno::INVAL, why: "Messages cannot be masked by the VMM" });
        }
        let place = |vector: u32, fd| match set.index {
            irq::MSI => self.irqs.set_message(fd),
            _ => self.irqs.set_vector(vector, fd),
        };
        let named = set.start..set.start + set.count;
        match set.data {
            IrqData::None if set.count == 0 => (0..self.irq(set.index).count).for_each(|vector| place(vector, None)),
            IrqData::None if set.index == irq::MSI => self.irqs.trigger_message(),
            IrqData::None => named.for_each(|vector| self.irqs.trigger_vector(vector)),
            IrqData::Eventfds(fds) => {
                let mut fds = fds.into_iter();
                named.for_each(|vector| place(vector, fds.next()));
            }
        }
        Ok(())
    }
}

impl<W: Worker<Infallible>> PciFunction for Card<W> {
    fn region(&self, index: usize) -> RegionInfo {
        let memory = |size| RegionInfo { size, readable: size != 0, writable: size != 0, mapping: None };
        match (index, &self.boot, &self.rom) {
            (region::BAR0, Some(boot), _) => {
                let framebuffer = boot.framebuffer();
                let mapping = framebuffer.file().map(|file| Mapping { file: file.clone(), areas: Vec::new() });
                RegionInfo { mapping, ..memory(framebuffer.len()) }
            }
            (region::ROM, _, Some(rom)) => RegionInfo { writable: false, ..memory(rom.size()) },
            (region::CONFIG, ..) => memory(LENGTH as u64),
            _ => memory(self.config.bar_size(index)),
        }
    }

    fn irq(&self, index: usize) -> IrqInfo {
        let messages = irq::EVENTFD | irq::NORESIZE;
        let (flags, count) = match index {
            irq::INTX if self.shape.model.is_virtio() => (irq::EVENTFD | irq::MASKABLE | irq::AUTOMASKED, 1),
            irq::MSI if self.shape.model.is_virtio() => (messages, 1),
            irq::MSIX if self.shape.has_msix() => (messages, VECTORS.into()),
            // Never told. QEMU warns when it is not there.
            irq::ERR => (messages, 1),
            _ => (0, 0),
        };
        IrqInfo { flags, count }
    }

    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Result<(), Gone> {
        match (region, &self.rom) {
            (region::CONFIG, _) => self.read_config(offset, data),
            (region::ROM, Some(rom)) => rom.read(offset, data),
            _ => self.read_bar(region, offset, data),
        }
        Ok(())
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Result<(), Gone> {
        match region {
            region::CONFIG => self.write_config(offset, data),
            _ => self.write_bar(region, offset, data),
        }
    }

    fn set_irqs(&mut self, set: IrqSet) -> Result<(), Refused> {
        match set.index {
            irq::INTX => self.set_pin(set.action, set.count, set.data)?,
            irq::MSI | irq::MSIX => self.set_messages(set)?,
            // There is never an error to tell.
            _ => {}
        }
        Ok(())
    }

    /// A driver behind an IOMMU opens windows while its rings run, and uses them as soon as it is answered. With many windows a
    /// table for each takes too long: then the gpu thread hears of a row of them, right after the answers.
    fn map(&mut self, window: Window, file: Option<OwnedFd>) -> Result<(), Refused> {
        self.dma.map(window, file)?;
        self.windows += 1;
        if self.registers.runs() && self.windows <= FEW_WINDOWS {
            self.give_memory()?;
        }
        Ok(())
    }

    fn unmap(&mut self, range: Option<(u64, u64)>) -> Result<(), Refused> {
        self.dma.unmap(range)?;
        self.windows = range.map_or(0, |_| self.windows.saturating_sub(1));
        // Who never had memory has none to give back.
        if self.knows_memory
            && let Some(memory) = self.dma.take_table()
        {
            self.worker.change(Change::Memory(memory))?;
            self.settle()?;
        }
        Ok(())
    }

    fn ready(&mut self) -> Result<(), Refused> {
        self.dma.warn_if_private();
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Gone> {
        self.config.reset();
        self.configured();
        self.vectors = [0; TABLE];
        self.registers.reset(&mut self.deeds);
        self.carry_out()?;
        self.kicks.iter_mut().for_each(|kick| kick.due = false);
        if let Some(boot) = &self.boot {
            boot.reset();
            self.change(Change::Look)?;
        }
        self.settle()
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.knows_memory {
            self.give_memory()?;
        }
        for kick in &mut self.kicks {
            if std::mem::take(&mut kick.due) {
                if let Some(available) = kick.first.take() {
                    self.dma.doubt(available);
                }
                // A full counter kicks as well.
                let _ = rustix::io::write(&kick.fd, &1u64.to_ne_bytes());
            }
        }
        Ok(())
    }

    fn connected(&mut self, port: Arc<dyn DmaPort>) {
        self.dma.connected(port);
    }

    fn hung_up(&mut self) -> Result<(), Gone> {
        self.registers.reset(&mut self.deeds);
        self.carry_out()?;
        self.worker.change(Change::Reset)?;
        self.settle()?;
        for kick in &mut self.kicks {
            (kick.given, kick.due) = (false, false);
        }
        self.knows_memory = false;
        self.windows = 0;
        self.dma.clear();
        self.irqs.hang_up();
        self.unmask = None;
        self.vectors = [0; TABLE];
        self.config.reset();
        self.configured();
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unmask.as_ref().map(AsFd::as_fd)
    }

    fn answered(&mut self) -> Result<(), Gone> {
        if self.dma.answered() {
            // Only now can it be seen what the driver has.
            self.kicks.iter_mut().filter(|kick| kick.given).for_each(|kick| kick.due = true);
            self.flush()?;
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<(), Gone> {
        let Some(fd) = &self.unmask else { return Ok(()) };
        match rustix::io::read(fd, &mut [0; 8]) {
            Ok(8) => self.irqs.unmask_pin(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // It would be readable for ever.
            _ => self.unmask = None,
        }
        Ok(())
    }
}

/// How many bytes from `offset` of BAR 2 on are the boot display's.
fn shown_bytes(offset: u64) -> usize {
    window::COMMON.saturating_sub(offset) as usize
}

fn split_mut(offset: u64, data: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let length = data.len().min(shown_bytes(offset));
    data.split_at_mut(length)
}

/// Files and sockets can be readable for ever, which would keep the control thread busy.
fn is_eventfd(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Unknown)
}

#[cfg(test)]
mod tests;
