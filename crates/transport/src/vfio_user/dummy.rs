//! A function that does nothing but remember what it was told.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::function::*;
use crate::worker::Gone;

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Read { region: usize, offset: u64, count: usize },
    Write { region: usize, offset: u64, data: Vec<u8> },
    Irqs { index: usize, start: u32, count: u32, action: IrqAction, eventfds: Option<usize> },
    Map { window: Window, file: bool },
    Unmap(Option<(u64, u64)>),
    Ready,
    Reset,
    Flush,
    Connected,
    HungUp,
    Poll,
}

/// A function with a framebuffer (BAR 0, mapped whole), registers (BAR 2, one page of two mapped), a ROM and 256 bytes of
/// configuration.
pub struct Dummy {
    pub calls: Arc<Mutex<Vec<Call>>>,
    /// What it says to everything that can be refused.
    pub refusal: Option<Refused>,
    /// What becomes readable when it is to be polled.
    pub due: Option<OwnedFd>,
    pub port: Arc<Mutex<Option<Arc<dyn DmaPort>>>>,
    pub registers: Vec<u8>,
    pub file: Arc<File>,
}

pub const FRAMEBUFFER: u64 = 1 << 16;
pub const REGISTERS: u64 = 2 * 4096;

impl Default for Dummy {
    fn default() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(FRAMEBUFFER).unwrap();
        Self {
            calls: Arc::default(),
            refusal: None,
            due: None,
            port: Arc::default(),
            registers: vec![0; REGISTERS as usize],
            file: Arc::new(file),
        }
    }
}

impl Dummy {
    /// What it was told since this was asked last.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn call(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }

    fn answer(&self) -> Result<(), Refused> {
        self.refusal.map_or(Ok(()), Err)
    }
}

impl PciFunction for Dummy {
    fn region(&self, index: usize) -> RegionInfo {
        let mapping = |areas| Some(Mapping { file: self.file.clone(), areas });
        let (size, writable, mapping) = match index {
            region::BAR0 => (FRAMEBUFFER, true, mapping(Vec::new())),
            region::BAR2 => (REGISTERS, true, mapping(vec![(4096, 4096)])),
            region::ROM => (2048, false, None),
            region::CONFIG => (256, true, None),
            _ => return RegionInfo::default(),
        };
        RegionInfo { size, readable: true, writable, mapping }
    }

    fn irq(&self, index: usize) -> IrqInfo {
        match index {
            irq::INTX => IrqInfo { flags: irq::EVENTFD | irq::MASKABLE | irq::AUTOMASKED, count: 1 },
            irq::MSIX => IrqInfo { flags: irq::EVENTFD | irq::NORESIZE, count: 3 },
            irq::ERR => IrqInfo { flags: irq::EVENTFD, count: 1 },
            _ => IrqInfo::default(),
        }
    }

    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Result<(), Gone> {
        self.call(Call::Read { region, offset, count: data.len() });
        match region {
            region::BAR2 => data.copy_from_slice(&self.registers[offset as usize..][..data.len()]),
            _ => data.fill(region as u8),
        }
        Ok(())
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Result<(), Gone> {
        self.call(Call::Write { region, offset, data: data.to_vec() });
        if region == region::BAR2 {
            self.registers[offset as usize..][..data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet) -> Result<(), Refused> {
        let eventfds = match set.data {
            IrqData::None => None,
            IrqData::Eventfds(fds) => Some(fds.len()),
        };
        let IrqSet { index, start, count, action, .. } = set;
        self.call(Call::Irqs { index, start, count, action, eventfds });
        self.answer()
    }

    fn map(&mut self, window: Window, file: Option<OwnedFd>) -> Result<(), Refused> {
        self.call(Call::Map { window, file: file.is_some() });
        self.answer()
    }

    fn unmap(&mut self, range: Option<(u64, u64)>) -> Result<(), Refused> {
        self.call(Call::Unmap(range));
        self.answer()
    }

    fn ready(&mut self) -> Result<(), Refused> {
        self.call(Call::Ready);
        self.answer()
    }

    fn reset(&mut self) -> Result<(), Gone> {
        self.call(Call::Reset);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.call(Call::Flush);
        Ok(())
    }

    fn connected(&mut self, port: Arc<dyn DmaPort>) {
        *self.port.lock().unwrap() = Some(port);
        self.call(Call::Connected);
    }

    fn hung_up(&mut self) -> Result<(), Gone> {
        self.call(Call::HungUp);
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.due.as_ref().map(AsFd::as_fd)
    }

    fn poll(&mut self) -> Result<(), Gone> {
        let mut count = [0; 8];
        rustix::io::read(self.due.as_ref().unwrap(), &mut count).unwrap();
        self.call(Call::Poll);
        Ok(())
    }
}
