//! The registers of a virtio PCI device (virtio 1.3, section 4.1.4) at 1000-3fff of BAR 2.
//!
//! They know no thread: what a write sets off comes back as [`Deed`]s.

use std::sync::Arc;

use device::ConfigSpace;

use super::irqs::{Irqs, NO_VECTOR};
use crate::feature;
use crate::ring::Layout;
use crate::worker::Done;

/// Where the windows of BAR 2 begin.
pub mod window {
    /// Common configuration.
    pub const COMMON: u64 = 0x1000;
    /// The ISR status.
    pub const ISR: u64 = 0x1800;
    /// The device's own configuration.
    pub const DEVICE: u64 = 0x2000;
    /// A write notifies the queue at its place.
    pub const NOTIFY: u64 = 0x3000;
    /// The end.
    pub const END: u64 = 0x4000;
    /// Bytes between the places of two queues.
    pub const MULTIPLIER: u64 = 4;
}

/// VIRTIO_F_ACCESS_PLATFORM: the driver uses the addresses that the platform gives it. Behind an IOMMU only those reach us.
pub const ACCESS_PLATFORM: u64 = 1 << 33;

/// Bits of the device status (virtio 1.3, section 2.1).
pub mod status {
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// The features are settled.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on.
    pub const NEEDS_RESET: u8 = 0x40;
}

/// What a write sets off, in this order.
#[derive(Debug)]
pub enum Deed {
    /// Every ring is gone. Counted in [`Irqs::halts`].
    Halt,
    /// Rings run from now on, under these features.
    Run(u64),
    /// A ring runs.
    Start(u16, Layout),
    /// A ring is gone. Counted.
    Drop(u16, Done),
    /// The driver has news in a queue.
    Notify(u16),
    /// The device's own configuration was written.
    Written,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    Queues,
    Status,
    Generation,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotify,
    /// Half of an address: which part of the ring, and whether it is the upper half.
    Address(usize, bool),
    QueueReset,
}

/// Offset and width of each. What is not here reads 0: the admin queues, data for notifications.
const COMMON: [(u64, usize, Register); 20] = [
    (0x00, 4, Register::DeviceFeatureSelect),
    (0x04, 4, Register::DeviceFeature),
    (0x08, 4, Register::DriverFeatureSelect),
    (0x0c, 4, Register::DriverFeature),
    (0x10, 2, Register::ConfigVector),
    (0x12, 2, Register::Queues),
    (0x14, 1, Register::Status),
    (0x15, 1, Register::Generation),
    (0x16, 2, Register::QueueSelect),
    (0x18, 2, Register::QueueSize),
    (0x1a, 2, Register::QueueVector),
    (0x1c, 2, Register::QueueEnable),
    (0x1e, 2, Register::QueueNotify),
    (0x20, 4, Register::Address(0, false)),
    (0x24, 4, Register::Address(0, true)),
    (0x28, 4, Register::Address(1, false)),
    (0x2c, 4, Register::Address(1, true)),
    (0x30, 4, Register::Address(2, false)),
    (0x34, 4, Register::Address(2, true)),
    (0x3a, 2, Register::QueueReset),
];

impl Register {
    /// Whether a write of some of its bytes changes these; else only one of the whole register counts.
    fn takes_bytes(self) -> bool {
        use Register::{Address, DeviceFeatureSelect, DriverFeature, DriverFeatureSelect, QueueSelect};
        matches!(self, DeviceFeatureSelect | DriverFeatureSelect | DriverFeature | QueueSelect | Address(..))
    }
}

/// What the driver said of a queue.
#[derive(Clone, Debug)]
struct Queue {
    size: u16,
    enabled: bool,
    /// Descriptors, driver area, device area.
    addresses: [u64; 3],
    /// Resets of this queue that were carried out, and that were asked for.
    drops: Done,
    asked: u64,
}

impl Queue {
    fn new(size: u16) -> Self {
        Self { size, enabled: false, addresses: [0; 3], drops: Done::default(), asked: 0 }
    }

    fn clear(&mut self, size: u16) {
        *self = Self { drops: self.drops.clone(), asked: self.asked, ..Self::new(size) };
    }

    fn is_resetting(&self) -> bool {
        self.drops.count() < self.asked
    }

    fn layout(&self) -> Layout {
        let [descriptors, available, used] = self.addresses;
        Layout { size: self.size, descriptors, available, used }
    }
}

/// The registers.
pub struct Registers {
    offered: u64,
    limits: Vec<u16>,
    config: Arc<dyn ConfigSpace>,
    irqs: Arc<Irqs>,
    /// Whether the function may use the guest's memory: no ring runs without.
    master: bool,
    device_select: u32,
    driver_select: u32,
    driver: [u32; 2],
    /// The driver accepted features of words that nobody offered.
    beyond: bool,
    status: u8,
    /// The status before the reset that is under way.
    before: u8,
    select: u16,
    queues: Vec<Queue>,
    /// How often every ring was to go.
    halts: u64,
}

impl Registers {
    /// Those of a device that was just switched on. `features` are the device's own.
    pub fn new(features: u64, limits: Vec<u16>, config: Arc<dyn ConfigSpace>, irqs: Arc<Irqs>) -> Self {
        Self {
            offered: features | feature::TRANSPORT | ACCESS_PLATFORM,
            queues: limits.iter().map(|limit| Queue::new(*limit)).collect(),
            limits,
            config,
            halts: irqs.halts().count(),
            irqs,
            master: false,
            device_select: 0,
            driver_select: 0,
            driver: [0; 2],
            beyond: false,
            status: 0,
            before: 0,
            select: 0,
        }
    }

    /// Fills `data` with what is at `offset` of BAR 2.
    pub fn read(&self, mut offset: u64, mut data: &mut [u8]) {
        while let Some(end) = window_end(offset)
            && !data.is_empty()
        {
            let (here, rest) = data.split_at_mut(data.len().min((end - offset) as usize));
            let length = here.len() as u64;
            here.fill(0);
            match end {
                window::ISR => self.read_common(offset - window::COMMON, here),
                window::DEVICE if offset == window::ISR => here[0] = self.irqs.take_isr(),
                window::NOTIFY => self.config.read(offset - window::DEVICE, here),
                _ => {}
            }
            (offset, data) = (offset + length, rest);
        }
        data.fill(0);
    }

    /// Takes what the driver wrote at `offset` of BAR 2.
    pub fn write(&mut self, mut offset: u64, mut data: &[u8], deeds: &mut Vec<Deed>) {
        while let Some(end) = window_end(offset)
            && !data.is_empty()
        {
            let (here, rest) = data.split_at(data.len().min((end - offset) as usize));
            match end {
                window::ISR => self.write_common(offset - window::COMMON, here, deeds),
                window::NOTIFY => {
                    self.config.write(offset - window::DEVICE, here);
                    deeds.push(Deed::Written);
                }
                window::END => self.notify((offset - window::NOTIFY) / window::MULTIPLIER, deeds),
                _ => {}
            }
            (offset, data) = (offset + here.len() as u64, rest);
        }
    }

    /// The driver has news in a queue.
    pub fn notify(&self, queue: u64, deeds: &mut Vec<Deed>) {
        if queue < self.queues.len() as u64 {
            deeds.push(Deed::Notify(queue as u16));
        }
    }

    /// The function may use the guest's memory, or may not any more.
    pub fn set_master(&mut self, master: bool, deeds: &mut Vec<Deed>) {
        let ran = self.runs();
        self.master = master;
        match (ran, self.runs()) {
            (false, true) => self.run(deeds),
            (true, false) => {
                self.status &= !status::DRIVER_OK;
                self.halt(deeds);
            }
            _ => {}
        }
    }

    /// As when the driver writes 0 into the status, but not by the driver: the function is reset.
    pub fn reset(&mut self, deeds: &mut Vec<Deed>) {
        self.master = false;
        self.reset_device(deeds);
    }

    /// The gpu thread did all that it was told, whether it counted it or failed.
    pub fn settled(&mut self) {
        self.halts = self.irqs.halts().count();
        self.irqs.await_halts(self.halts);
        for queue in &mut self.queues {
            queue.asked = queue.drops.count();
        }
    }

    /// Whether rings run.
    pub fn runs(&self) -> bool {
        self.master && self.status & status::DRIVER_OK != 0
    }

    fn status(&self) -> u8 {
        if self.status == 0 && self.irqs.halts().count() < self.halts {
            return self.before;
        }
        self.status | if self.irqs.needs_reset() { status::NEEDS_RESET } else { 0 }
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let end = offset + data.len() as u64;
        for (at, width, register) in COMMON {
            if at + width as u64 <= offset || end <= at {
                continue;
            }
            for (at, byte) in (at..).zip(&self.get(register).to_le_bytes()[..width]) {
                if let Some(place) = at.checked_sub(offset).and_then(|index| data.get_mut(index as usize)) {
                    *place = *byte;
                }
            }
        }
    }

    fn write_common(&mut self, offset: u64, data: &[u8], deeds: &mut Vec<Deed>) {
        let end = offset + data.len() as u64;
        for (at, width, register) in COMMON {
            let touched = offset < at + width as u64 && at < end;
            let whole = offset <= at && at + width as u64 <= end;
            if !touched || !whole && !register.takes_bytes() {
                continue;
            }
            let mut bytes = self.get(register).to_le_bytes();
            for (at, byte) in (at..).zip(&mut bytes[..width]) {
                if let Some(new) = at.checked_sub(offset).and_then(|index| data.get(index as usize)) {
                    *byte = *new;
                }
            }
            self.set(register, u32::from_le_bytes(bytes), deeds);
        }
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.select))
    }

    fn get(&self, register: Register) -> u32 {
        let queue = self.queue();
        match register {
            Register::DeviceFeatureSelect => self.device_select,
            Register::DeviceFeature => match self.device_select {
                0 => self.offered as u32,
                1 => (self.offered >> 32) as u32,
                _ => 0,
            },
            Register::DriverFeatureSelect => self.driver_select,
            Register::DriverFeature => self.driver.get(self.driver_select as usize).copied().unwrap_or(0),
            Register::ConfigVector => self.irqs.config_vector().into(),
            Register::Queues => self.queues.len() as u32,
            Register::Status => self.status().into(),
            Register::Generation => self.irqs.generation().into(),
            Register::QueueSelect => self.select.into(),
            Register::QueueSize => queue.map_or(0, |queue| queue.size.into()),
            Register::QueueVector => self.irqs.queue_vector(self.select).into(),
            Register::QueueEnable => queue.map_or(0, |queue| u32::from(queue.enabled || queue.is_resetting())),
            Register::QueueNotify => queue.map_or(0, |_| self.select.into()),
            Register::Address(part, upper) => {
                let address = queue.map_or(0, |queue| queue.addresses[part]);
                if upper { (address >> 32) as u32 } else { address as u32 }
            }
            Register::QueueReset => queue.map_or(0, |queue| queue.is_resetting().into()),
        }
    }

    fn set(&mut self, register: Register, value: u32, deeds: &mut Vec<Deed>) {
        match register {
            Register::DeviceFeatureSelect => self.device_select = value,
            Register::DriverFeatureSelect => self.driver_select = value,
            Register::DriverFeature if self.status & status::FEATURES_OK == 0 => {
                match self.driver.get_mut(self.driver_select as usize) {
                    Some(word) => *word = value,
                    None => self.beyond |= value != 0,
                }
            }
            Register::ConfigVector => self.irqs.set_config_vector(value as u16),
            Register::Status => self.set_status(value as u8, deeds),
            Register::QueueSelect => self.select = value as u16,
            Register::QueueVector => self.irqs.set_queue_vector(self.select, value as u16),
            Register::QueueSize | Register::QueueEnable | Register::Address(..) | Register::QueueReset => {
                self.set_queue(register, value, deeds);
            }
            Register::DeviceFeature
            | Register::DriverFeature
            | Register::Queues
            | Register::Generation
            | Register::QueueNotify => {}
        }
    }

    /// A queue that runs, or is being reset, does not change; but it can be reset.
    fn set_queue(&mut self, register: Register, value: u32, deeds: &mut Vec<Deed>) {
        let (runs, features, index) = (self.runs(), self.features(), self.select);
        let limit = self.limits.get(usize::from(index)).copied().unwrap_or(0);
        let Some(queue) = self.queues.get_mut(usize::from(index)).filter(|queue| !queue.is_resetting()) else { return };
        match register {
            Register::QueueReset if value == 1 && features & feature::RING_RESET != 0 => {
                queue.clear(limit);
                queue.asked += 1;
                deeds.push(Deed::Drop(index, queue.drops.clone()));
                self.irqs.set_queue_vector(index, NO_VECTOR);
            }
            _ if queue.enabled => {}
            Register::QueueSize => {
                let size = value as u16;
                if size.is_power_of_two() && size <= limit {
                    queue.size = size;
                }
            }
            Register::QueueEnable if value == 1 => {
                queue.enabled = true;
                if runs {
                    deeds.push(Deed::Start(index, queue.layout()));
                }
            }
            Register::Address(part, upper) => {
                let (shift, value) = (if upper { 32 } else { 0 }, u64::from(value));
                queue.addresses[part] = queue.addresses[part] & !(0xffff_ffff << shift) | value << shift;
            }
            _ => {}
        }
    }

    fn features(&self) -> u64 {
        u64::from(self.driver[0]) | u64::from(self.driver[1]) << 32
    }

    fn set_status(&mut self, value: u8, deeds: &mut Vec<Deed>) {
        if value == 0 {
            return self.reset_device(deeds);
        }
        let ran = self.runs();
        let features = self.features();
        let acceptable = !self.beyond && features & !self.offered == 0 && features & feature::VERSION_1 != 0;
        let mut value = value & !status::NEEDS_RESET;
        if !acceptable {
            value &= !status::FEATURES_OK;
        }
        if value & status::FEATURES_OK == 0 {
            value &= !status::DRIVER_OK;
        }
        self.status = value;
        match (ran, self.runs()) {
            (false, true) => self.run(deeds),
            (true, false) => self.halt(deeds),
            _ => {}
        }
    }

    fn run(&self, deeds: &mut Vec<Deed>) {
        deeds.push(Deed::Run(self.features()));
        for (index, queue) in (0..).zip(&self.queues) {
            if queue.enabled {
                deeds.push(Deed::Start(index, queue.layout()));
            }
        }
    }

    fn halt(&mut self, deeds: &mut Vec<Deed>) {
        self.halts += 1;
        self.irqs.await_halts(self.halts);
        deeds.push(Deed::Halt);
    }

    /// The driver may take its rings back when it reads 0. It need not read: what it writes meanwhile is the new status.
    fn reset_device(&mut self, deeds: &mut Vec<Deed>) {
        let (before, resetting) = (self.status(), self.status == 0);
        self.device_select = 0;
        self.driver_select = 0;
        self.driver = [0; 2];
        self.beyond = false;
        self.status = 0;
        self.select = 0;
        for (queue, limit) in self.queues.iter_mut().zip(&self.limits) {
            queue.clear(*limit);
        }
        if !resetting {
            self.before = before;
            self.halt(deeds);
        }
        self.irqs.reset_driver();
    }
}

/// Where the window ends in which `offset` is.
fn window_end(offset: u64) -> Option<u64> {
    match offset {
        window::COMMON..window::ISR => Some(window::ISR),
        window::ISR..window::DEVICE => Some(window::DEVICE),
        window::DEVICE..window::NOTIFY => Some(window::NOTIFY),
        window::NOTIFY..window::END => Some(window::END),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
