//! A PCI function as a guest sees it: the bus by the drivers' own code, each register access a message.

use std::os::unix::net::UnixStream;
use std::rc::Rc;

use virtio_drivers::transport::pci::bus::{BarInfo, Command, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::virtio_device_type;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hal::{self, Space};
use crate::vmm::Vmm;

/// Where a structure of registers lies.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    bar: u32,
    offset: u64,
    len: u64,
}

pub struct Function {
    pub vmm: Rc<Vmm>,
    kind: DeviceType,
    common: Place,
    isr: Place,
    device: Place,
    notify: Place,
    multiplier: u64,
}

impl Function {
    /// Connects, shares memory, and finds the function on the bus.
    pub fn realize(socket: UnixStream) -> Self {
        let mut vmm = Vmm::over(socket);
        vmm.file = hal::file();
        vmm.version();
        vmm.map(0, hal::LEN, true, Some(0)).unwrap();
        vmm.info().unwrap();
        vmm.reset();
        let vmm = Rc::new(vmm);
        let mut root = PciRoot::new(Space(vmm.clone()));
        let found: Vec<_> = root.enumerate_bus(0).collect();
        let [(at, info)] = &found[..] else { panic!("one function, not {found:?}") };
        let kind = virtio_device_type(info).expect("a virtio device");
        let mut function = Self {
            vmm: vmm.clone(),
            kind,
            common: Place::default(),
            isr: Place::default(),
            device: Place::default(),
            notify: Place::default(),
            multiplier: 0,
        };
        function.place_bars(&mut root, *at);
        let capabilities: Vec<_> = root.capabilities(*at).collect();
        for capability in capabilities.iter().filter(|capability| capability.id == 9) {
            let word = |offset: u8| vmm.read_word(7, u64::from(capability.offset + offset), 4);
            let place = Place { bar: word(4) as u32 & 0xff, offset: word(8), len: word(12) };
            match capability.private_header >> 8 {
                1 if function.common.len == 0 => function.common = place,
                2 if function.notify.len == 0 => (function.notify, function.multiplier) = (place, word(16)),
                3 if function.isr.len == 0 => function.isr = place,
                4 if function.device.len == 0 => function.device = place,
                _ => {}
            }
        }
        for place in [function.common, function.isr, function.device, function.notify] {
            let (_, size) = vmm.region(place.bar);
            assert!(place.len > 0 && place.offset + place.len <= size, "{place:x?} of {size:#x}");
        }
        root.set_command(*at, Command::MEMORY_SPACE | Command::BUS_MASTER);
        function
    }

    /// As firmware does it: each where there is room for it.
    fn place_bars(&self, root: &mut PciRoot<Space>, at: DeviceFunction) {
        let mut next = 0xe000_0000u32;
        for (index, bar) in root.bars(at).unwrap().into_iter().enumerate() {
            let region = self.vmm.region(index as u32).1;
            match bar {
                Some(BarInfo::Memory { size, .. }) if size > 0 => {
                    assert_eq!(size, region, "BAR {index}");
                    root.set_bar_32(at, index as u8, next);
                    next += 64 << 20;
                }
                Some(BarInfo::IO { size, .. }) => {
                    assert_eq!(u64::from(size), region, "BAR {index}");
                    root.set_bar_32(at, index as u8, 0xc000);
                }
                _ => assert_eq!(region, 0, "BAR {index}"),
            }
        }
    }

    fn get(&self, offset: u64, width: u32) -> u64 {
        self.vmm.read_word(self.common.bar, self.common.offset + offset, width)
    }

    fn set(&self, offset: u64, width: u32, value: u64) {
        self.vmm.write_word(self.common.bar, self.common.offset + offset, width, value);
    }
}

impl Transport for Function {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn read_device_features(&mut self) -> u64 {
        let word = |index| {
            self.set(0x00, 4, index);
            self.get(0x04, 4)
        };
        word(0) | word(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for index in 0..2 {
            self.set(0x08, 4, index);
            self.set(0x0c, 4, features >> (32 * index) & 0xffff_ffff);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.set(0x16, 2, queue.into());
        self.get(0x18, 2) as u32
    }

    fn notify(&mut self, queue: u16) {
        self.set(0x16, 2, queue.into());
        let offset = self.get(0x1e, 2) * self.multiplier;
        self.vmm.write_word(self.notify.bar, self.notify.offset + offset, 2, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.get(0x14, 1) as u32)
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.set(0x14, 1, status.bits().into());
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.set(0x16, 2, queue.into());
        self.set(0x18, 2, size.into());
        // As virtio-drivers has it: 64 bits by one access.
        self.set(0x20, 8, descriptors);
        self.set(0x28, 8, driver);
        self.set(0x30, 8, device);
        self.set(0x1c, 2, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.set(0x16, 2, queue.into());
        self.get(0x1c, 2) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(self.vmm.read_word(self.isr.bar, self.isr.offset, 1) as u32)
    }

    fn read_config_generation(&self) -> u32 {
        self.get(0x15, 1) as u32
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let bytes = self.vmm.read(self.device.bar, self.device.offset + offset as u64, size_of::<T>() as u32);
        Ok(T::read_from_bytes(&bytes).unwrap())
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        self.vmm.write(self.device.bar, self.device.offset + offset as u64, value.as_bytes());
        Ok(())
    }
}
