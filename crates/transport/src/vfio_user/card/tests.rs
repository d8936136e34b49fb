use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use device::vga::{Vga, VgaOptions};
use device::{Memory, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

use super::super::pci::Model;
use super::*;
use crate::engine::Engine;
use crate::fake::{Fake, LATER, Shared};
use crate::feature;
use crate::loopback::{Descriptor, DriverQueue, WRITE};
use crate::ring::Layout;
use crate::worker::apply;

const MEMORY: u64 = 1 << 20;
const QUEUE: Layout = Layout { size: 16, descriptors: 0x1000, available: 0x2000, used: 0x3000 };
const SHAPE: Shape = Shape { model: Model::Vga, msix: true, pio: true };

/// The gpu thread, which does what it is told at once, or when it is waited for.
struct Thread {
    engine: Engine<Arc<Irqs>>,
    kicks: [Option<OwnedFd>; 2],
    late: bool,
    waiting: VecDeque<Change<Infallible>>,
    told: Vec<String>,
    settled: usize,
}

impl Thread {
    fn take(&mut self, change: Change<Infallible>) {
        match apply(&mut self.engine, change, Instant::now()) {
            Some(Change::Kick(queue, fd)) => self.kicks[usize::from(queue)] = fd,
            Some(Change::Reset) => self.kicks = [None, None],
            _ => {}
        }
    }

    fn run(&mut self) {
        while let Some(change) = self.waiting.pop_front() {
            self.take(change);
        }
        for (queue, kick) in (0..).zip(&self.kicks) {
            if kick.as_ref().is_some_and(|kick| rustix::io::read(kick, &mut [0; 8]).is_ok()) {
                self.engine.kick(queue);
            }
        }
        while self.engine.run(Instant::now()) {}
    }
}

#[derive(Clone)]
struct Inline(Arc<Mutex<Thread>>);

impl Inline {
    fn lock(&self) -> MutexGuard<'_, Thread> {
        self.0.lock().unwrap()
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().told)
    }
}

impl Worker<Infallible> for Inline {
    fn change(&mut self, change: Change<Infallible>) -> Result<(), Gone> {
        let mut thread = self.lock();
        let name = format!("{change:?}").split(['(', ' ']).next().unwrap().to_owned();
        thread.told.push(name);
        match thread.late {
            true => thread.waiting.push_back(change),
            false => thread.take(change),
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Gone> {
        let mut thread = self.lock();
        thread.settled += 1;
        while let Some(change) = thread.waiting.pop_front() {
            thread.take(change);
        }
        Ok(())
    }

    fn stop_ring(&mut self, _queue: u16) -> Result<u16, Gone> {
        Ok(0)
    }
}

/// A guest and its VMM.
struct Machine {
    card: Card<Inline>,
    thread: Inline,
    seen: Shared,
    irqs: Arc<Irqs>,
    file: File,
    memory: Memory,
    driver: DriverQueue,
}

impl Machine {
    fn new(shape: Shape) -> Self {
        Self::with(shape, |_| {})
    }

    /// One whose device says something else of itself.
    fn with(shape: Shape, change: impl FnOnce(&mut Identity)) -> Self {
        let (fake, seen) = Fake::new();
        let mut identity = Identity::of(&fake);
        change(&mut identity);
        if !shape.model.is_virtio() {
            identity.queue_sizes.clear();
        }
        let irqs = Arc::new(Irqs::new(identity.queue_sizes.len()));
        let engine = Engine::new(Box::new(fake), irqs.clone(), || 0);
        let thread =
            Thread { engine, kicks: [None, None], late: false, waiting: VecDeque::new(), told: Vec::new(), settled: 0 };
        let thread = Inline(Arc::new(Mutex::new(thread)));
        let boot = shape.model.has_boot_display().then(|| Vga::new(VgaOptions::default()).unwrap().1);
        let card = Card::new(shape, identity, boot, None, thread.clone(), irqs.clone()).unwrap();
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, MEMORY).unwrap();
        let mapping = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), MEMORY as usize).unwrap();
        let region = Region { start: 0, len: MEMORY, mapping: Arc::new(mapping), offset: 0, usable: true };
        let memory = Memory::new(vec![region]).unwrap();
        let driver = DriverQueue::new(QUEUE, feature::VERSION_1);
        Self { card, thread, seen, irqs, file, memory, driver }
    }

    fn map(&mut self) {
        let window = Window { iova: 0, size: MEMORY, offset: 0, readable: true, writable: true };
        self.card.map(window, Some(self.file.try_clone().unwrap().into())).unwrap();
    }

    fn write(&mut self, region: usize, offset: u64, width: usize, value: u64) {
        self.card.write(region, offset, &value.to_le_bytes()[..width]).unwrap();
    }

    fn read(&mut self, region: usize, offset: u64, width: usize) -> u64 {
        let mut bytes = [0; 8];
        self.card.read(region, offset, &mut bytes[..width]).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn status(&mut self) -> u64 {
        self.read(region::BAR2, 0x1014, 1)
    }

    /// A driver sets queue 0 up.
    fn start(&mut self) {
        self.file.write_all_at(&[0; 0x4000], 0).unwrap();
        self.driver = DriverQueue::new(QUEUE, feature::VERSION_1);
        self.write(region::CONFIG, 4, 2, 0x107);
        for (offset, width, value) in [
            (0x14, 1, 0),
            (0x14, 1, 3),
            (0x08, 4, 1),
            (0x0c, 4, 1),
            (0x14, 1, 0xb),
            (0x16, 2, 0),
            (0x18, 2, QUEUE.size.into()),
            (0x1a, 2, 1),
            (0x20, 8, QUEUE.descriptors),
            (0x28, 8, QUEUE.available),
            (0x30, 8, QUEUE.used),
            (0x1c, 2, 1),
            (0x14, 1, 0xf),
        ] {
            self.write(region::BAR2, 0x1000 + offset, width, value);
        }
        assert_eq!(self.status(), 0xf);
    }

    /// One that runs, with an eventfd for the vector of its queue.
    fn running(shape: Shape) -> (Self, OwnedFd) {
        let mut machine = Self::new(shape);
        machine.map();
        machine.write(region::CONFIG, 0x9a, 2, 0x8002);
        machine.start();
        let bell = machine.bell(irq::MSIX, 1);
        (machine, bell)
    }

    fn bell(&mut self, index: usize, vector: u32) -> OwnedFd {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let data = IrqData::Eventfds(vec![bell.try_clone().unwrap()]);
        let set = IrqSet { index, start: vector, count: 1, action: IrqAction::Trigger, data };
        self.card.set_irqs(set).unwrap();
        bell
    }

    fn irq(&mut self, index: usize, count: u32, action: IrqAction, data: IrqData) -> Result<(), Refused> {
        self.card.set_irqs(IrqSet { index, start: 0, count, action, data })
    }

    /// Puts a request into the ring; a kick is up to the test.
    fn offer(&mut self, request: &[u8]) {
        self.memory.slice(0x8000, request.len() as u64).unwrap().copy_from(request);
        let buffers = [
            Descriptor { addr: 0x8000, len: request.len() as u32, flags: 0, next: 0 },
            Descriptor { addr: 0x9000, len: 64, flags: WRITE, next: 0 },
        ];
        let head = self.driver.chain(&self.memory, &buffers).unwrap();
        self.driver.offer(&self.memory, head);
        self.driver.publish(&self.memory);
    }

    /// The answer, if there is one.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let used = self.driver.take(&self.memory)?;
        let mut bytes = vec![0; used.len as usize];
        self.memory.slice(0x9000, used.len.into()).unwrap().copy_to(&mut bytes);
        Some(bytes)
    }

    fn kick(&mut self) {
        self.write(region::BAR2, 0x3000, 2, 0);
        self.card.flush().unwrap();
        self.thread.lock().run();
    }
}

fn rung(bell: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(bell, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

#[test]
fn a_request_goes_through_registers_rings_and_an_interrupt() {
    let (mut machine, bell) = Machine::running(SHAPE);
    assert_eq!(machine.thread.told(), ["Features", "Memory", "Kick", "Start", "Enable"]);
    machine.thread.lock().run();
    machine.offer(b"echo");
    machine.write(region::BAR2, 0x3000, 2, 0);
    machine.thread.lock().run();
    assert_eq!(machine.answer(), None, "a kick waits until the VMM has its reply");
    machine.card.flush().unwrap();
    machine.thread.lock().run();
    assert_eq!((machine.answer(), rung(&bell)), (Some(b"echo".to_vec()), 1));
    machine.card.flush().unwrap();
    machine.offer(b"echo");
    machine.thread.lock().run();
    assert_eq!(machine.answer(), None, "a kick counts once");
    assert_eq!(machine.thread.told(), [""; 0], "registers of a running device change nothing");
}

#[test]
fn a_queue_is_kicked_by_the_port_and_through_configuration_space_too() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.thread.lock().run();
    machine.offer(b"echo by port");
    machine.write(region::BAR5, 0, 2, 7);
    machine.write(region::BAR5, 0, 2, 0);
    machine.card.flush().unwrap();
    machine.thread.lock().run();
    assert_eq!(machine.answer(), Some(b"echo by port".to_vec()));
    machine.offer(b"echo by configuration");
    for (at, value) in [(0x88, region::BAR2 as u64), (0x8c, 0x3000), (0x90, 2), (0x94, 0)] {
        machine.write(region::CONFIG, at, 4, value);
    }
    machine.card.flush().unwrap();
    machine.thread.lock().run();
    assert_eq!(machine.answer(), Some(b"echo by configuration".to_vec()));
}

#[test]
fn registers_are_reached_through_configuration_space_and_nothing_else_is() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.card.boot.as_ref().unwrap().framebuffer().write(0, &[0xaa; 8]);
    let mut ask = |bar: u64, offset: u64, length: u64| {
        for (at, value) in [(0x88, bar), (0x8c, offset), (0x90, length)] {
            machine.write(region::CONFIG, at, 4, value);
        }
        machine.read(region::CONFIG, 0x94, 4)
    };
    assert_eq!(ask(2, 0x1014, 1), 0xf);
    assert_eq!(ask(2, 0x1012, 2), 2);
    assert_eq!(ask(2, 0x500, 2), 0xb0c5);
    for (bar, offset, length) in [
        (0, 0, 4),
        (4, 0, 4),
        (7, 0, 4),
        (255, 0, 4),
        (2, 0x1014, 0),
        (2, 0x1014, 3),
        (2, 0x1014, 8),
        (2, 0x1012, 4),
        (2, 0x3fff, 2),
        (2, 0x4000, 1),
        (2, 0xffff_fffc, 4),
        (5, 4, 4),
    ] {
        assert_eq!(ask(bar, offset, length), 0, "{length} bytes at {offset:#x} of BAR {bar}");
    }
    assert_eq!(ask(2, 0x1014, 1), 0xf);
    // The whole configuration space shows it too; a write that does not begin there does nothing.
    let mut all = [0; LENGTH];
    machine.card.read(region::CONFIG, 0, &mut all).unwrap();
    assert_eq!(all[0x94..0x98], [0xf, 0, 0, 0]);
    machine.write(region::CONFIG, 0x95, 1, 0);
    assert_eq!(machine.status(), 0xf);
    machine.write(region::CONFIG, 0x94, 1, 0);
    assert_eq!(machine.status(), 0);
}

#[test]
fn regions_and_interrupts_are_those_of_the_model() {
    let sizes = |shape| {
        let machine = Machine::new(shape);
        let regions: [u64; region::COUNT] = std::array::from_fn(|index| machine.card.region(index).size);
        let irqs: [u32; irq::COUNT] = std::array::from_fn(|index| machine.card.irq(index).count);
        (regions, irqs)
    };
    let (fb, k) = (16 << 20, 1 << 10);
    assert_eq!(sizes(SHAPE), ([fb, 0, 16 * k, 0, 8 * k, 4, 0, 256, 0], [1, 1, 3, 1, 0]));
    let bare = Shape { msix: false, pio: false, ..SHAPE };
    assert_eq!(sizes(bare), ([fb, 0, 16 * k, 0, 0, 0, 0, 256, 0], [1, 1, 0, 1, 0]));
    let of = |model| sizes(Shape { model, ..SHAPE });
    assert_eq!(of(Model::Virtio), ([0, 0, 16 * k, 0, 8 * k, 0, 0, 256, 0], [1, 1, 3, 1, 0]));
    assert_eq!(of(Model::Input), of(Model::Virtio));
    assert_eq!(of(Model::Bochs), ([fb, 0, 4 * k, 0, 0, 0, 0, 256, 0], [0, 0, 0, 1, 0]));
}

#[test]
fn the_framebuffer_is_mapped_and_written_by_messages_alike() {
    let mut machine = Machine::new(SHAPE);
    let mapping = machine.card.region(region::BAR0).mapping.unwrap();
    assert_eq!(mapping.areas, [], "all of it");
    machine.write(region::BAR0, 0x12_3456, 4, 0x1122_3344);
    let mut bytes = [0; 4];
    mapping.file.read_exact_at(&mut bytes, 0x12_3456).unwrap();
    assert_eq!(bytes, 0x1122_3344u32.to_le_bytes());
    mapping.file.write_all_at(&[9], 0xff_ffff).unwrap();
    assert_eq!(machine.read(region::BAR0, 0xff_ffff, 1), 9);
    assert!(machine.card.region(region::BAR2).mapping.is_none());
}

#[test]
fn only_registers_of_the_mode_have_the_device_look() {
    let mut machine = Machine::new(SHAPE);
    machine.write(region::BAR2, 0x508, 2, 0x41);
    machine.write(region::BAR2, 0x604, 4, 0xbebe_bebe);
    assert_eq!(machine.thread.told(), ["Look", "Look"]);
    assert_eq!((machine.read(region::BAR2, 0x508, 2), machine.read(region::BAR2, 0x604, 4)), (0x41, 0xbebe_bebe));
    machine.write(region::BAR2, 0x408, 1, 5);
    machine.write(region::BAR2, 0x700, 4, 5);
    machine.read(region::BAR2, 0x500, 2);
    assert_eq!(machine.thread.told(), [""; 0]);
}

#[test]
fn without_a_boot_display_its_registers_read_zero() {
    let mut machine = Machine::new(Shape { model: Model::Virtio, ..SHAPE });
    machine.write(region::BAR2, 0x508, 2, 0x41);
    assert!((0..0x1000).step_by(8).all(|offset| machine.read(region::BAR2, offset, 8) == 0));
    assert_eq!(machine.thread.told(), [""; 0]);
}

#[test]
fn a_drivers_reset_is_seen_when_the_rings_are_let_go() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.thread.lock().late = true;
    machine.write(region::BAR2, 0x1014, 1, 0);
    assert_eq!(machine.status(), 0xf);
    machine.thread.lock().run();
    assert_eq!(machine.status(), 0);
    assert_eq!(machine.thread.lock().settled, 0, "nobody waited");
}

#[test]
fn the_functions_reset_is_in_force_when_it_returns() {
    let (mut machine, bell) = Machine::running(SHAPE);
    machine.write(region::BAR2, 0x508, 2, 0x41);
    machine.thread.lock().late = true;
    machine.write(region::BAR2, 0x3000, 2, 0);
    machine.card.reset().unwrap();
    assert_eq!(
        (machine.status(), machine.read(region::CONFIG, 4, 2), machine.read(region::CONFIG, 0x9a, 2)),
        (0, 0, 2)
    );
    assert_eq!(machine.read(region::BAR2, 0x508, 2), 0, "the screen is dark");
    machine.offer(b"echo");
    machine.card.flush().unwrap();
    machine.thread.lock().run();
    assert_eq!((machine.answer(), rung(&bell)), (None, 0));
    machine.write(region::CONFIG, 0x9a, 2, 0x8002);
    machine.start();
    machine.offer(b"echo again");
    machine.kick();
    assert_eq!((machine.answer(), rung(&bell)), (Some(b"echo again".to_vec()), 1));
}

#[test]
fn memory_that_is_taken_away_is_let_go_before_the_answer() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.thread.told();
    machine.thread.lock().late = true;
    machine.card.unmap(Some((0, MEMORY))).unwrap();
    assert_eq!(machine.thread.told(), ["Memory"]);
    assert!(machine.thread.lock().waiting.is_empty(), "it waited");
    machine.offer(b"echo");
    machine.kick();
    assert_eq!(machine.answer(), None);
    assert_eq!(machine.status(), 0x4f, "the ring is gone, and the driver can see it");
    machine.map();
    machine.card.flush().unwrap();
    machine.start();
    machine.thread.lock().late = false;
    machine.thread.lock().run();
    machine.offer(b"echo");
    machine.kick();
    assert_eq!(machine.answer(), Some(b"echo".to_vec()));
}

/// Behind an IOMMU of the guest.
#[test]
fn a_request_may_lie_where_the_device_only_reads_and_an_answer_may_not() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.thread.lock().run();
    machine.card.unmap(Some((0, MEMORY))).unwrap();
    for (iova, size, writable) in [(0, 0x8000, true), (0x8000, 0x1000, false), (0x9000, 0x1000, true)] {
        let window = Window { iova, size, offset: iova, readable: true, writable };
        machine.card.map(window, Some(machine.file.try_clone().unwrap().into())).unwrap();
    }
    machine.offer(b"echo");
    machine.kick();
    assert_eq!(machine.answer(), Some(b"echo".to_vec()));
    machine.card.unmap(Some((0x9000, 0x1000))).unwrap();
    let window = Window { iova: 0x9000, size: 0x1000, offset: 0x9000, readable: true, writable: false };
    machine.card.map(window, Some(machine.file.try_clone().unwrap().into())).unwrap();
    machine.offer(b"echo");
    machine.kick();
    assert_eq!(machine.answer(), Some(Vec::new()), "the chain is given back");
    assert_eq!(machine.status(), 0xf);
}

#[test]
fn a_ring_fits_into_a_page() {
    let entries = u64::from(LARGEST_QUEUE);
    let used = (16 * entries + 6 + 2 * entries).next_multiple_of(64);
    assert!(used + 6 + 8 * entries <= 4096);
    for (size, offered) in [(1024, u64::from(LARGEST_QUEUE)), (64, 64)] {
        let mut machine = Machine::with(SHAPE, |identity| identity.queue_sizes[0] = size);
        assert_eq!(machine.read(region::BAR2, 0x1018, 2), offered);
    }
}

#[test]
fn firmware_takes_memory_apart_without_anybody_waiting() {
    let mut machine = Machine::new(SHAPE);
    for _ in 0..3 {
        machine.map();
        machine.card.flush().unwrap();
        machine.card.unmap(Some((0, MEMORY))).unwrap();
    }
    assert_eq!((machine.thread.told(), machine.thread.lock().settled), (Vec::new(), 0));
    machine.map();
    assert!(machine.card.unmap(Some((0, MEMORY / 2))).is_err());
}

#[test]
fn a_guest_that_takes_bus_mastering_away_finds_its_memory_left_alone() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.thread.lock().late = true;
    machine.write(region::CONFIG, 4, 2, 0x103);
    assert!(machine.thread.lock().waiting.is_empty(), "it waited");
    assert_eq!(machine.status(), 0xb);
    machine.offer(b"echo");
    machine.kick();
    assert_eq!(machine.answer(), None);
}

#[test]
fn a_front_end_that_is_gone_leaves_a_new_function() {
    let (mut machine, bell) = Machine::running(SHAPE);
    machine.write(region::BAR2, 0x508, 2, 0x41);
    machine.write(region::BAR4, 0, 4, 7);
    machine.offer(&[LATER]);
    machine.kick();
    machine.thread.lock().late = true;
    machine.card.hung_up().unwrap();
    assert!(machine.thread.lock().waiting.is_empty());
    assert_eq!(machine.seen.calls().last().map(String::as_str), Some("reset"));
    let mut fresh = Machine::new(SHAPE);
    for region in [region::BAR4, region::CONFIG] {
        let size = machine.card.region(region).size;
        for offset in (0..size).step_by(8) {
            assert_eq!(
                machine.read(region, offset, 8),
                fresh.read(region, offset, 8),
                "{offset:#x} of region {region}"
            );
        }
    }
    assert_eq!(machine.status(), 0);
    machine.thread.lock().late = false;
    machine.map();
    machine.write(region::CONFIG, 0x9a, 2, 0x8002);
    machine.start();
    machine.offer(b"echo for the next");
    machine.kick();
    assert_eq!((machine.answer(), rung(&bell)), (Some(b"echo for the next".to_vec()), 0));
    assert_eq!(machine.irqs.pending(), 2, "whose eventfd has not come yet");
}

#[test]
fn a_guest_that_only_resets_is_waited_for_now_and_then() {
    let (mut machine, _bell) = Machine::running(SHAPE);
    machine.thread.lock().late = true;
    let mut most = 0;
    for _ in 0..200 {
        machine.write(region::BAR2, 0x1014, 1, 0);
        machine.write(region::BAR2, 0x1014, 1, 1);
        most = most.max(machine.thread.lock().waiting.len());
    }
    assert!((2..=UNSETTLED).contains(&most), "{most}");
    machine.write(region::BAR2, 0x1014, 1, 0);
    machine.thread.lock().run();
    assert_eq!(machine.status(), 0);
}

#[test]
fn the_pin_is_unmasked_by_an_eventfd() {
    let mut machine = Machine::new(SHAPE);
    machine.map();
    machine.start();
    let bell = machine.bell(irq::INTX, 0);
    let unmask = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let data = IrqData::Eventfds(vec![unmask.try_clone().unwrap()]);
    machine.irq(irq::INTX, 1, IrqAction::Unmask, data).unwrap();
    machine.offer(b"echo");
    machine.kick();
    assert_eq!(rung(&bell), 1);
    machine.card.poll().unwrap();
    assert_eq!(rung(&bell), 0);
    rustix::io::write(&unmask, &1u64.to_ne_bytes()).unwrap();
    machine.card.poll().unwrap();
    assert_eq!(rung(&bell), 1, "the driver has not looked");
    assert_eq!(machine.read(region::BAR2, 0x1800, 1), 1);
    assert!(machine.card.poll_fd().is_some());
    machine.irq(irq::INTX, 0, IrqAction::Trigger, IrqData::None).unwrap();
    assert!(machine.card.poll_fd().is_none());
}

#[test]
fn what_is_always_readable_does_not_unmask_the_pin() {
    let mut machine = Machine::new(SHAPE);
    for path in ["/dev/zero", "/"] {
        let data = IrqData::Eventfds(vec![File::open(path).unwrap().into()]);
        assert!(machine.irq(irq::INTX, 1, IrqAction::Unmask, data).is_err());
    }
    assert!(machine.card.poll_fd().is_none());
    assert!(machine.irq(irq::MSIX, 1, IrqAction::Mask, IrqData::None).is_err());
    assert!(machine.irq(irq::INTX, 1, IrqAction::Mask, IrqData::Eventfds(Vec::new())).is_err());
    machine.irq(irq::ERR, 1, IrqAction::Trigger, IrqData::Eventfds(Vec::new())).unwrap();
}

#[test]
fn vectors_are_taken_away_and_triggered_by_the_vmm() {
    let (mut machine, bell) = Machine::running(SHAPE);
    machine.irq(irq::MSIX, 3, IrqAction::Trigger, IrqData::None).unwrap();
    assert_eq!(rung(&bell), 1);
    machine.irq(irq::MSIX, 0, IrqAction::Trigger, IrqData::None).unwrap();
    machine.offer(b"echo");
    machine.kick();
    assert_eq!((rung(&bell), machine.read(region::BAR4, PENDING, 8)), (0, 2));
    let bell = machine.bell(irq::MSIX, 1);
    assert_eq!((rung(&bell), machine.read(region::BAR4, PENDING, 8)), (1, 0));
}

#[test]
fn every_access_at_every_place_is_answered() {
    for model in [Model::Vga, Model::Virtio, Model::Bochs, Model::Input] {
        let mut machine = Machine::new(Shape { model, ..SHAPE });
        for region in 0..region::COUNT {
            let size = machine.card.region(region).size;
            let last = size.saturating_sub(16);
            let places = (0..size.min(0x4000)).chain(last.max(0x4000)..size);
            for offset in places {
                for width in [1, 2, 3, 4, 8, 16].into_iter().filter(|width| offset + width <= size) {
                    let mut data = vec![0xee; width as usize];
                    machine.card.read(region, offset, &mut data).unwrap();
                    // Not those that switch the device off: the others would mean little after them.
                    machine.card.write(region, offset, &vec![0x5a; width as usize]).unwrap();
                }
            }
            machine.card.flush().unwrap();
        }
        machine.card.reset().unwrap();
    }
}

#[test]
fn a_device_knows_that_a_bar_shows_nothing_of_the_host_and_asks_in_vain() {
    let (fake, seen) = Fake::showing();
    Identity::of(&fake);
    assert_eq!(seen.lock().front, Front { maps: false, context_init: true });
    let irqs = Arc::new(Irqs::new(2));
    let mut engine = Engine::new(Box::new(fake), irqs, || 0);
    seen.map(1, 0, 0x1000);
    seen.unmap(2, 0, 0x1000);
    assert!(!engine.run(Instant::now()));
    assert_eq!(seen.lock().mapped, [(1, false), (2, false)]);
    assert_eq!(engine.deadline(), None);
}
