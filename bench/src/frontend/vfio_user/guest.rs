//! A VMM's start of a PCI function, and a guest's driver of the virtio-gpu that it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::EventfdFlags;

use super::wire::{Doorbell, Wire, command, region};
use crate::frontend::command::Reply;
use crate::frontend::driver::Driver;
use crate::frontend::error::{Doing, Error, Result};
use crate::frontend::memory::Memory;
use crate::frontend::options::{Options, feature};
use crate::frontend::ring::Queue;

/// What QEMU says of itself.
const CAPABILITIES: &str =
    r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#;
/// Regions that a VMM asks about when it starts: the BARs and the configuration space.
const REGIONS: [u32; 7] = [0, 1, 2, 3, 4, 5, region::CONFIG];
/// DMA_MAP's flags: it may be read and written.
const READ_WRITE: u32 = 3;
/// SET_IRQS' flags: trigger by eventfds.
const TRIGGER_BY_EVENTFD: u32 = 0x24;
/// Kinds of interrupts.
const MSIX: u32 = 2;
/// PCI's command register and the bits that a driver sets: memory, bus master, no pin.
const COMMAND: u64 = 0x04;
const COMMAND_BITS: u16 = 0x0406;
/// Where the list of capabilities begins, and how long it can be.
const FIRST_CAPABILITY: u64 = 0x34;
const CAPABILITIES_AT_MOST: usize = 48;
const VENDOR: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;
/// MSI-X's control: enabled, all masked.
const MSIX_ENABLED: u16 = 0x8000;
const MSIX_MASKED: u16 = 0x4000;

/// Registers of the common configuration (virtio 1.3, section 4.1.4.3).
mod register {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, one more each time.
const STATUS: [u8; 4] = [1, 3, 11, 15];

/// Where the function has virtio's registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// The BAR of all of them.
    pub region: u32,
    /// The common configuration.
    pub common: u64,
    /// The interrupt status.
    pub isr: u64,
    /// The device's own configuration.
    pub device: u64,
    /// Where queues are notified, and how far apart.
    pub notify: u64,
    /// See [`notify`](Self::notify).
    pub multiplier: u64,
    /// The MSI-X capability in the configuration space; 0 without one.
    pub msix: u64,
}

/// The VMM and the guest's driver in one.
#[derive(Debug)]
pub struct PciGuest {
    options: Options,
    wire: Arc<Wire>,
    memory: Arc<Memory>,
    queues: Vec<Queue>,
    registers: Registers,
    config_changes: OwnedFd,
    acknowledged: u64,
}

impl PciGuest {
    /// What a VMM says before its guest runs: the version, the memory, what the function has.
    pub fn realize(socket: UnixStream, options: Options) -> Result<Self> {
        let memory = Arc::new(Memory::new(&options.memory)?);
        let wire = Self::power_on(socket, &options, &memory)?;
        let config_changes = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).doing("make an eventfd")?;
        let registers = find_registers(&wire)?;
        let make = |index: u16| {
            wire.store(registers.region, registers.common + register::QUEUE_SELECT, &index.to_le_bytes())?;
            let longest = wire.load_u16(registers.region, registers.common + register::QUEUE_SIZE)?;
            if longest == 0 {
                return Err(Error::Lacks(format!("queue {index}")));
            }
            Queue::new(index, longest.min(options.queue_size), memory.clone(), options.wait)
        };
        let queues = (0..options.queues).map(make).collect::<Result<_>>()?;
        Ok(Self { options, wire, memory, queues, registers, config_changes, acknowledged: 0 })
    }

    /// The same where no driver will come, for a guest that knows registers alone.
    pub fn switch_on(socket: UnixStream, options: &Options) -> Result<Arc<Wire>> {
        Self::power_on(socket, options, &Memory::new(&options.memory)?)
    }

    fn power_on(socket: UnixStream, options: &Options, memory: &Memory) -> Result<Arc<Wire>> {
        let wire = Arc::new(Wire::new(socket, options.patience)?);
        let version = [&[0; 4], CAPABILITIES.as_bytes(), &[0]].concat();
        wire.ask(command::VERSION, &version, &[])?;
        for piece in memory.regions() {
            let mut payload = [32, READ_WRITE].iter().flat_map(|word: &u32| word.to_le_bytes()).collect::<Vec<_>>();
            payload.extend([piece.offset, piece.guest, piece.size].iter().flat_map(|word| word.to_le_bytes()));
            wire.ask(command::DMA_MAP, &payload, &[piece.fd()])?;
        }
        wire.ask(command::GET_INFO, &words(&[16, 0, 0, 0]), &[])?;
        for index in REGIONS {
            wire.ask(command::GET_REGION_INFO, &words(&[32, 0, index, 0, 0, 0, 0, 0]), &[])?;
        }
        wire.ask(command::GET_IRQ_INFO, &words(&[16, 0, MSIX, 0]), &[])?;
        wire.ask(command::RESET, &[], &[])?;
        Ok(wire)
    }

    /// What a driver does up to DRIVER_OK. With `posted` it does not wait for its kicks to be taken, as under a VMM that has
    /// nothing of the function mapped.
    pub fn start(&mut self, posted: bool) -> Result<()> {
        self.wire.store(region::CONFIG, COMMAND, &COMMAND_BITS.to_le_bytes())?;
        self.reset()?;
        self.set_status(STATUS[0])?;
        self.set_status(STATUS[1])?;
        self.negotiate()?;
        self.route_interrupts()?;
        for index in 0..self.queues.len() {
            self.start_queue(index)?;
            let Registers { region, notify, multiplier, .. } = self.registers;
            let offset = notify + multiplier * index as u64;
            let doorbell = Doorbell { wire: self.wire.clone(), region, offset, posted };
            self.queues[index].knock_at(doorbell);
            self.queues[index].set_event_idx(self.acknowledged & feature::EVENT_IDX != 0);
        }
        self.set_status(STATUS[3])
    }

    /// The socket, for accesses to registers.
    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Where virtio's registers are.
    pub fn registers(&self) -> Registers {
        self.registers
    }

    /// A reset takes as long as the device needs for it.
    fn reset(&self) -> Result<()> {
        self.set_status(0)?;
        let mut status = [1];
        while status[0] != 0 {
            self.wire.load(self.registers.region, self.registers.common + register::STATUS, &mut status)?;
        }
        Ok(())
    }

    fn negotiate(&mut self) -> Result<()> {
        let mut offered = 0;
        for half in 0..2u32 {
            self.set(register::DEVICE_FEATURE_SELECT, &half.to_le_bytes())?;
            let word = self.wire.load_u32(self.registers.region, self.registers.common + register::DEVICE_FEATURE)?;
            offered |= u64::from(word) << (32 * half);
        }
        self.acknowledged = offered & self.options.features;
        for half in 0..2u32 {
            self.set(register::DRIVER_FEATURE_SELECT, &half.to_le_bytes())?;
            self.set(register::DRIVER_FEATURE, &((self.acknowledged >> (32 * half)) as u32).to_le_bytes())?;
        }
        self.set_status(STATUS[2])?;
        let mut status = [0];
        self.wire.load(self.registers.region, self.registers.common + register::STATUS, &mut status)?;
        if status[0] == STATUS[2] { Ok(()) } else { Err(Error::Lacks("the features that it offers".into())) }
    }

    /// MSI-X: one message for changes of the configuration, one for each queue.
    fn route_interrupts(&self) -> Result<()> {
        if self.registers.msix == 0 {
            return Err(Error::Lacks("MSI-X".into()));
        }
        let control = self.registers.msix + 2;
        self.wire.store(region::CONFIG, control, &(MSIX_ENABLED | MSIX_MASKED).to_le_bytes())?;
        let mut fds = vec![self.config_changes.as_fd()];
        fds.extend(self.queues.iter().map(|queue| queue.eventfds()[1]));
        self.set_irqs(&fds)?;
        self.wire.store(region::CONFIG, control, &MSIX_ENABLED.to_le_bytes())?;
        self.set(register::CONFIG_VECTOR, &0u16.to_le_bytes())
    }

    fn set_irqs(&self, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let payload = words(&[20, TRIGGER_BY_EVENTFD, MSIX, 0, fds.len() as u32]);
        self.wire.ask(command::SET_IRQS, &payload, fds).map(drop)
    }

    fn start_queue(&mut self, index: usize) -> Result<()> {
        let queue = &mut self.queues[index];
        // A driver clears its rings: a device may take pages that nobody wrote for memory that it was not given.
        queue.reset()?;
        let table = vec![0; 16 * usize::from(queue.size())];
        self.memory.write(queue.layout().descriptors, &table)?;
        let queue = &self.queues[index];
        let layout = queue.layout();
        self.set(register::QUEUE_SELECT, &queue.index().to_le_bytes())?;
        self.set(register::QUEUE_SIZE, &queue.size().to_le_bytes())?;
        let vector = queue.index() + 1;
        self.set(register::QUEUE_VECTOR, &vector.to_le_bytes())?;
        let routed = self.wire.load_u16(self.registers.region, self.registers.common + register::QUEUE_VECTOR)?;
        if routed != vector {
            return Err(Error::Lacks(format!("a vector {vector}")));
        }
        let parts = [
            (register::QUEUE_DESCRIPTORS, layout.descriptors),
            (register::QUEUE_DRIVER, layout.available),
            (register::QUEUE_DEVICE, layout.used),
        ];
        for (register, address) in parts {
            self.set(register, &(address as u32).to_le_bytes())?;
            self.set(register + 4, &((address >> 32) as u32).to_le_bytes())?;
        }
        self.set(register::QUEUE_ENABLE, &1u16.to_le_bytes())
    }

    fn set_status(&self, status: u8) -> Result<()> {
        self.set(register::STATUS, &[status])
    }

    fn set(&self, register: u64, bytes: &[u8]) -> Result<()> {
        self.wire.store(self.registers.region, self.registers.common + register, bytes)
    }
}

impl Driver for PciGuest {
    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn queue(&mut self, index: usize) -> Result<&mut Queue> {
        self.queues.get_mut(index).ok_or(Error::Order("There is no such queue"))
    }

    fn exchange(&mut self, queue: usize, readable: &[u8], capacity: u32) -> Result<Reply> {
        let memory = self.memory.clone();
        self.queue(queue)?.exchange(&memory, &[readable], &[capacity], false)
    }
}

/// Walks the list of capabilities.
fn find_registers(wire: &Wire) -> Result<Registers> {
    let mut found = Registers::default();
    let byte = |at: u64| {
        let mut byte = [0];
        wire.load(region::CONFIG, at, &mut byte).map(|()| byte[0])
    };
    let mut at = u64::from(byte(FIRST_CAPABILITY)?);
    for _ in 0..CAPABILITIES_AT_MOST {
        if at == 0 {
            break;
        }
        let (id, next) = (byte(at)?, byte(at + 1)?);
        if id == MSIX_CAPABILITY {
            found.msix = at;
        } else if id == VENDOR {
            let (kind, bar) = (byte(at + 3)?, u32::from(byte(at + 4)?));
            let offset = u64::from(wire.load_u32(region::CONFIG, at + 8)?);
            // Of several of a kind a driver takes the first.
            let place = match kind {
                1 => &mut found.common,
                2 => &mut found.notify,
                3 => &mut found.isr,
                4 => &mut found.device,
                _ => &mut 0,
            };
            if *place == 0 && (1..=4).contains(&kind) {
                (*place, found.region) = (offset, bar);
                if kind == 2 {
                    found.multiplier = u64::from(wire.load_u32(region::CONFIG, at + 16)?);
                }
            }
        }
        at = u64::from(next);
    }
    if found.common == 0 || found.notify == 0 {
        return Err(Error::Lacks("virtio's registers".into()));
    }
    Ok(found)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
