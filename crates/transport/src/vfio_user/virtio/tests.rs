use std::collections::BTreeSet;
use std::sync::Mutex;

use proptest::prelude::*;

use super::super::irqs::Enabled;
use super::*;
use crate::engine::Engine;
use crate::fake;
use crate::worker::{Change, apply};

const LAYOUT: &str = include_str!("../../../../../docs/bar-layout.md");
/// What the device offers of its own.
const FEATURES: u64 = 0b11;

/// A configuration of sixteen bytes.
#[derive(Default)]
struct Config(Mutex<[u8; 16]>);

impl ConfigSpace for Config {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.0.lock().unwrap();
        for (at, byte) in (offset..).zip(data) {
            *byte = bytes.get(at as usize).copied().unwrap_or(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = self.0.lock().unwrap();
        for (at, byte) in (offset..).zip(data) {
            if let Some(place) = bytes.get_mut(at as usize) {
                *place = *byte;
            }
        }
    }
}

/// A driver in front of the registers, and a gpu thread that does what it is told when the test says so.
struct Bench {
    registers: Registers,
    irqs: Arc<Irqs>,
    deeds: Vec<Deed>,
    gpu: Engine<Arc<Irqs>>,
}

impl Bench {
    fn new() -> Self {
        let irqs = Arc::new(Irqs::new(2));
        let config = Arc::new(Config::default());
        let mut registers = Registers::new(FEATURES, vec![64, 16], config, irqs.clone());
        registers.set_master(true, &mut Vec::new());
        let gpu = Engine::new(Box::new(fake::Fake::new().0), irqs.clone(), || 0);
        Self { registers, irqs, deeds: Vec::new(), gpu }
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        self.registers.write(0x1000 + offset, &value.to_le_bytes()[..width], &mut self.deeds);
    }

    fn read(&self, offset: u64, width: usize) -> u64 {
        let mut bytes = [0; 8];
        self.registers.read(0x1000 + offset, &mut bytes[..width]);
        u64::from_le_bytes(bytes)
    }

    fn status(&self) -> u64 {
        self.read(0x14, 1)
    }

    /// What the writes since the last call set off. The gpu thread has not heard of it.
    fn deeds(&mut self) -> Vec<String> {
        self.deeds.iter().map(|deed| format!("{deed:?}").split("Done").next().unwrap().to_owned()).collect()
    }

    /// The gpu thread does it.
    fn carry_out(&mut self) {
        let now = std::time::Instant::now();
        for deed in std::mem::take(&mut self.deeds) {
            let change = match deed {
                Deed::Halt => Change::Halt(self.irqs.halts().clone()),
                Deed::Drop(queue, done) => Change::DropRing(queue, done),
                _ => continue,
            };
            assert!(apply(&mut self.gpu, change, now).is_none());
        }
    }

    /// As every driver begins, up to the features.
    fn negotiate(&mut self, features: u64) {
        self.write(0x14, 1, 1);
        self.write(0x14, 1, 3);
        for word in 0..2 {
            self.write(0x08, 4, word);
            self.write(0x0c, 4, features >> (32 * word) & 0xffff_ffff);
        }
        self.write(0x14, 1, 0xb);
    }

    fn set_queue(&mut self, queue: u64) {
        self.write(0x16, 2, queue);
        for part in 0..3 {
            let address = 0x10_0000 * (queue + 1) + 0x1000 * part;
            self.write(0x20 + 8 * part, 4, address);
            self.write(0x24 + 8 * part, 4, 0);
        }
        self.write(0x1c, 2, 1);
    }

    /// A driver that runs.
    fn running() -> Self {
        let mut bench = Self::new();
        bench.negotiate(feature::TRANSPORT | FEATURES);
        bench.set_queue(0);
        bench.set_queue(1);
        bench.write(0x14, 1, 0xf);
        bench.carry_out();
        bench
    }
}

fn running(queue: u16, size: u16) -> String {
    let base = 0x10_0000 * (u64::from(queue) + 1);
    let layout = Layout { size, descriptors: base, available: base + 0x1000, used: base + 0x2000 };
    format!("Start({queue}, {layout:?})")
}

#[test]
fn the_document_has_the_registers_where_they_are() {
    let rows = LAYOUT.lines().skip_while(|line| !line.starts_with("### Common")).skip(1);
    let rows = rows.take_while(|line| !line.starts_with('#'));
    let cells = rows.map(|row| row.split('|').map(str::trim).skip(1).collect::<Vec<_>>());
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let documented: BTreeSet<_> = cells
        .filter(|cells| cells.len() > 3 && !cells[2].is_empty())
        .filter_map(|cells| Some((number(cells[0])?, cells[1].parse::<usize>().ok()?)))
        .collect();
    let mut actual: BTreeSet<_> = COMMON.iter().map(|(at, width, _)| (*at, *width)).collect();
    // Always 0.
    actual.extend([(0x38, 2), (0x3c, 2), (0x3e, 2)]);
    assert_eq!(documented, actual);
}

/// As recorded from Linux 7.3.
#[test]
fn linux_sets_the_device_up() {
    let mut bench = Bench::new();
    bench.irqs.enable(Enabled { msix: true, ..Enabled::default() });
    bench.write(0x14, 1, 0);
    assert_eq!(bench.status(), 0, "a device at rest resets at once");
    bench.write(0x14, 1, 1);
    assert_eq!(bench.status(), 1);
    bench.write(0x14, 1, 3);
    let words = [0, 1, 2, 3].map(|word| {
        bench.write(0x00, 4, word);
        bench.read(0x04, 4)
    });
    assert_eq!(words, [0x3000_0003, 0x103, 0, 0]);
    for (word, features) in [(0, 0x3000_0003), (1, 0x103), (2, 0), (3, 0)] {
        bench.write(0x08, 4, word);
        bench.write(0x0c, 4, features);
    }
    bench.write(0x14, 1, 0xb);
    assert_eq!(bench.status(), 0xb);
    bench.write(0x10, 2, 0);
    assert_eq!((bench.read(0x10, 2), bench.read(0x12, 2)), (0, 2));
    for (queue, size) in [(0, 64), (1, 16)] {
        bench.write(0x16, 2, queue);
        assert_eq!((bench.read(0x18, 2), bench.read(0x1c, 2)), (size, 0));
        bench.write(0x18, 2, size);
        bench.write(0x1a, 2, queue + 1);
        assert_eq!((bench.read(0x1a, 2), bench.read(0x1e, 2)), (queue + 1, queue));
        bench.set_queue(queue);
    }
    assert_eq!(bench.deeds(), [""; 0], "nothing runs before the driver is ready");
    bench.write(0x14, 1, 0xf);
    assert_eq!(bench.status(), 0xf);
    assert_eq!(bench.deeds(), [format!("Run({})", 0x103_3000_0003u64), running(0, 64), running(1, 16)]);
    bench.carry_out();
    bench.write(0x2000, 2, 0);
    bench.write(0x2004, 2, 1);
    assert_eq!(bench.deeds(), ["Notify(0)", "Notify(1)"]);
}

/// OVMF writes 0, 1 and 3 without reading, knows no MSI-X, sets up one queue of two and polls.
#[test]
fn ovmf_sets_the_device_up_while_the_last_driver_is_still_being_halted() {
    let mut bench = Bench::running();
    bench.write(0x14, 1, 0);
    bench.negotiate(feature::VERSION_1);
    assert_eq!(bench.status(), 0xb, "what was written since counts");
    bench.set_queue(0);
    bench.write(0x14, 1, 0xf);
    assert_eq!(bench.deeds(), ["Halt".to_owned(), format!("Run({})", feature::VERSION_1), running(0, 64)]);
    bench.carry_out();
    assert_eq!(bench.status(), 0xf);
    bench.write(0x16, 2, 0);
    assert_eq!(bench.read(0x1e, 2), 0);
    bench.write(0x16, 2, 0);
    bench.write(0x2000, 2, 0);
    assert_eq!(bench.deeds(), ["Notify(0)"]);
}

/// The Windows driver resets, polls the status, accepts no EDID and does not look whether a queue is enabled.
#[test]
fn windows_sets_the_device_up() {
    let mut bench = Bench::running();
    bench.write(0x14, 1, 0);
    assert_ne!(bench.status(), 0);
    bench.carry_out();
    assert_eq!(bench.status(), 0);
    for status in [1, 3] {
        bench.write(0x14, 1, bench.status() | status);
    }
    bench.write(0x00, 4, 0);
    let low = bench.read(0x04, 4);
    bench.write(0x00, 4, 1);
    let high = bench.read(0x04, 4);
    assert_ne!(high << 32 & feature::VERSION_1, 0);
    bench.write(0x08, 4, 0);
    bench.write(0x0c, 4, low & feature::EVENT_IDX);
    bench.write(0x08, 4, 1);
    bench.write(0x0c, 4, high & 1);
    bench.write(0x14, 1, bench.status() | 8);
    assert_eq!(bench.status(), 0xb);
    for queue in 0..2 {
        bench.write(0x16, 2, queue);
        assert_ne!(bench.read(0x18, 2), 0);
        bench.set_queue(queue);
        bench.write(0x16, 2, queue);
        bench.write(0x1a, 2, queue + 1);
        assert_eq!(bench.read(0x1a, 2), queue + 1);
    }
    bench.write(0x14, 1, bench.status() | 4);
    assert_eq!(bench.status(), 0xf);
    let features = feature::EVENT_IDX | feature::VERSION_1;
    assert_eq!(bench.deeds(), [format!("Run({features})"), running(0, 64), running(1, 16)]);
}

#[test]
fn a_reset_reads_as_the_status_before_until_the_rings_are_let_go() {
    let mut bench = Bench::running();
    bench.write(0x14, 1, 0);
    bench.write(0x14, 1, 0);
    assert_eq!(bench.status(), 0xf);
    assert_eq!(bench.deeds(), ["Halt"], "one is enough");
    bench.carry_out();
    assert_eq!(bench.status(), 0);
    bench.write(0x14, 1, 0);
    assert_eq!(bench.deeds(), [""; 0]);
}

#[test]
fn a_reset_forgets_all_the_driver_said() {
    let mut bench = Bench::running();
    bench.write(0x10, 2, 0);
    bench.write(0x1a, 2, 1);
    bench.write(0x14, 1, 0);
    bench.carry_out();
    let mut fresh = Bench::new();
    for queue in 0..3 {
        bench.write(0x16, 2, queue);
        fresh.write(0x16, 2, queue);
        for offset in 0..0x40 {
            assert_eq!(bench.read(offset, 1), fresh.read(offset, 1), "{offset:#x} of queue {queue}");
        }
    }
}

#[test]
fn features_are_settled_only_when_offered_and_modern() {
    for (features, ok) in [
        (feature::VERSION_1, true),
        (feature::VERSION_1 | FEATURES | ACCESS_PLATFORM, true),
        (FEATURES, false),
        (feature::VERSION_1 | 1 << 5, false),
        (feature::VERSION_1 | 1 << 63, false),
    ] {
        let mut bench = Bench::new();
        bench.negotiate(features);
        assert_eq!(bench.status(), if ok { 0xb } else { 3 }, "{features:#x}");
        bench.write(0x14, 1, 0xf);
        assert_eq!(bench.status(), if ok { 0xf } else { 3 }, "{features:#x}");
    }
    let mut bench = Bench::new();
    bench.write(0x08, 4, 2);
    bench.write(0x0c, 4, 1);
    bench.negotiate(feature::VERSION_1);
    assert_eq!(bench.status(), 3, "a feature of a word that nobody offered");
}

#[test]
fn settled_features_stay() {
    let mut bench = Bench::new();
    bench.negotiate(feature::VERSION_1);
    bench.write(0x08, 4, 0);
    bench.write(0x0c, 4, 3);
    assert_eq!(bench.read(0x0c, 4), 0);
    bench.write(0x14, 1, 0xf);
    assert_eq!(bench.deeds(), [format!("Run({})", feature::VERSION_1)]);
}

#[test]
fn no_ring_runs_while_the_function_may_not_use_memory() {
    let mut bench = Bench::new();
    bench.registers.set_master(false, &mut bench.deeds);
    bench.negotiate(feature::VERSION_1);
    bench.set_queue(0);
    bench.write(0x14, 1, 0xf);
    assert_eq!(bench.deeds(), [""; 0]);
    bench.registers.set_master(true, &mut bench.deeds);
    assert_eq!(bench.deeds(), [format!("Run({})", feature::VERSION_1), running(0, 64)]);
    bench.carry_out();
    bench.registers.set_master(false, &mut bench.deeds);
    assert_eq!(bench.deeds(), ["Halt"]);
    bench.carry_out();
    assert_eq!(bench.status(), 0xb, "the driver has to say again that it is ready");
    bench.registers.set_master(true, &mut bench.deeds);
    assert_eq!(bench.deeds(), [""; 0]);
}

#[test]
fn a_queue_is_reset_while_the_others_run() {
    let mut bench = Bench::running();
    bench.write(0x16, 2, 1);
    bench.write(0x1a, 2, 2);
    bench.write(0x3a, 2, 1);
    assert_eq!((bench.read(0x3a, 2), bench.read(0x1c, 2)), (1, 1), "until it is done");
    bench.write(0x1c, 2, 1);
    bench.write(0x20, 4, 0x1234);
    assert_eq!(bench.deeds(), ["Drop(1, "]);
    bench.carry_out();
    assert_eq!((bench.read(0x3a, 2), bench.read(0x1c, 2)), (0, 0));
    assert_eq!((bench.read(0x1a, 2), bench.read(0x18, 2), bench.read(0x20, 8)), (0xffff, 16, 0));
    bench.write(0x16, 2, 0);
    assert_eq!(bench.read(0x1c, 2), 1);
    bench.set_queue(1);
    assert_eq!(bench.deeds(), [running(1, 16)], "and runs again");
}

#[test]
fn a_queue_is_not_reset_by_a_driver_that_did_not_accept_it() {
    let mut bench = Bench::new();
    bench.negotiate(feature::VERSION_1);
    bench.set_queue(0);
    bench.write(0x14, 1, 0xf);
    bench.carry_out();
    bench.write(0x3a, 2, 1);
    assert_eq!((bench.read(0x3a, 2), bench.read(0x1c, 2), bench.deeds().len()), (0, 1, 0));
}

#[test]
fn a_queue_has_only_sizes_that_can_be() {
    let mut bench = Bench::new();
    for (size, kept) in [(32, 32), (0, 32), (3, 32), (128, 32), (0x8001, 32), (0x8000, 32), (1, 1), (64, 64)] {
        bench.write(0x18, 2, size);
        assert_eq!(bench.read(0x18, 2), kept, "{size}");
    }
}

#[test]
fn a_queue_that_runs_does_not_change() {
    let mut bench = Bench::running();
    bench.write(0x16, 2, 0);
    let before: Vec<_> = (0x18..0x40).map(|offset| bench.read(offset, 1)).collect();
    bench.write(0x18, 2, 8);
    bench.write(0x1c, 2, 0);
    bench.write(0x1c, 2, 1);
    bench.write(0x1e, 2, 7);
    for offset in (0x20..0x38).step_by(8) {
        bench.write(offset, 8, u64::MAX);
    }
    assert_eq!((0x18..0x40).map(|offset| bench.read(offset, 1)).collect::<Vec<_>>(), before);
    assert_eq!(bench.deeds(), [""; 0]);
}

#[test]
fn a_queue_that_is_not_there_has_no_size_and_takes_nothing() {
    let mut bench = Bench::new();
    for queue in [2, 3, 0x7fff, 0xffff] {
        bench.write(0x16, 2, queue);
        for offset in 0x18..0x40 {
            bench.write(offset & !1, 2, 1);
        }
        assert_eq!((bench.read(0x18, 2), bench.read(0x1a, 2), bench.read(0x1c, 4)), (0, 0xffff, 0));
        assert!((0x20..0x40).all(|offset| bench.read(offset, 1) == 0));
    }
    for place in [8, 0xffc] {
        bench.write(0x2000 + place, 2, 0);
    }
    assert_eq!(bench.deeds(), [""; 0]);
}

#[test]
fn an_address_is_written_by_eight_bytes_or_by_each() {
    let mut bench = Bench::new();
    bench.write(0x28, 8, 0x1122_3344_5566_7788);
    assert_eq!((bench.read(0x28, 4), bench.read(0x2c, 4)), (0x5566_7788, 0x1122_3344));
    bench.write(0x2a, 1, 0xee);
    bench.write(0x2b, 2, 0xddcc);
    assert_eq!(bench.read(0x28, 8), 0x1122_33dd_ccee_7788);
    assert_eq!((bench.read(0x20, 8), bench.read(0x30, 8)), (0, 0));
}

#[test]
fn half_a_register_sets_nothing_off() {
    let mut bench = Bench::running();
    bench.write(0x16, 2, 0);
    bench.write(0x3a, 1, 1);
    bench.write(0x18, 1, 1);
    bench.write(0x1a, 1, 0);
    bench.write(0x10, 1, 0);
    assert_eq!((bench.read(0x3a, 2), bench.read(0x18, 2), bench.read(0x1a, 2)), (0, 64, 0xffff));
    assert_eq!((bench.read(0x10, 2), bench.deeds().len()), (0xffff, 0));
    let mut bench = Bench::new();
    bench.write(0x1c, 1, 1);
    assert_eq!(bench.read(0x1c, 2), 0);
}

#[test]
fn a_vector_that_is_not_there_reads_back_as_none() {
    let mut bench = Bench::new();
    for (vector, kept) in [(2, 2), (3, 0xffff), (0, 0), (0xffff, 0xffff), (0x100, 0xffff)] {
        bench.write(0x10, 2, vector);
        bench.write(0x1a, 2, vector);
        assert_eq!((bench.read(0x10, 2), bench.read(0x1a, 2)), (kept, kept), "{vector:#x}");
    }
}

#[test]
fn the_isr_status_is_read_once_by_any_width() {
    use crate::Interrupt;
    let bench = Bench::new();
    for width in [1, 2, 4, 8] {
        bench.irqs.clone().queue(0);
        assert_eq!(bench.read(0x801, width), 0, "not its place");
        assert_eq!(bench.read(0x800, width), 1);
        assert_eq!(bench.read(0x800, width), 0);
    }
}

#[test]
fn a_broken_device_says_so_until_it_is_reset() {
    use crate::Interrupt;
    let mut bench = Bench::running();
    bench.irqs.clone().broken(0);
    assert_eq!(bench.status(), 0x4f);
    bench.write(0x14, 1, 0x4f);
    bench.write(0x14, 1, 0);
    bench.carry_out();
    assert_eq!(bench.status(), 0);
    bench.write(0x14, 1, 0x40);
    assert_eq!(bench.status(), 0, "the driver cannot say it");
}

#[test]
fn the_devices_own_configuration_ends_before_the_notifications() {
    let mut bench = Bench::new();
    bench.write(0x1004, 4, 0x0403_0201);
    assert_eq!(bench.deeds(), ["Written"]);
    bench.carry_out();
    assert_eq!((bench.read(0x1004, 4), bench.read(0x1005, 2), bench.read(0x1010, 8)), (0x0403_0201, 0x0302, 0));
    bench.write(0x1ffe, 4, u64::MAX);
    assert_eq!(bench.deeds(), ["Written", "Notify(0)"]);
    assert_eq!(bench.read(0x2000, 8), 0);
}

/// What a driver can read, each with the register it belongs to.
fn snapshot(bench: &Bench) -> Vec<(std::ops::Range<u64>, u64)> {
    let Registers { device_select, driver_select, driver, beyond, status, select, queues, .. } = &bench.registers;
    let mut seen: Vec<(std::ops::Range<u64>, u64)> = vec![
        (0x00..0x04, (*device_select).into()),
        (0x08..0x0c, (*driver_select).into()),
        (0x0c..0x10, driver[0].into()),
        (0x0c..0x10, driver[1].into()),
        (0x0c..0x10, (*beyond).into()),
        (0x10..0x12, bench.irqs.config_vector().into()),
        (0x14..0x15, (*status).into()),
        (0x16..0x18, (*select).into()),
    ];
    for (index, queue) in (0..).zip(queues) {
        seen.push((0x18..0x1a, queue.size.into()));
        seen.push((0x1a..0x1c, bench.irqs.queue_vector(index).into()));
        seen.push((0x1c..0x1e, queue.enabled.into()));
        seen.extend((0..3).map(|part| (0x20 + 8 * part..0x28 + 8 * part, queue.addresses[part as usize])));
        seen.push((0x3a..0x3c, queue.asked));
    }
    seen
}

proptest! {
    #[test]
    fn a_write_changes_no_register_beside_it(
        before in proptest::collection::vec((0u64..0x40, 1usize..=8, any::<u64>()), 0..12),
        offset in 0u64..0x48,
        width in 1usize..=8,
        value in prop_oneof![Just(0), Just(u64::MAX), Just(1), any::<u64>()],
        runs in any::<bool>(),
    ) {
        let mut bench = if runs { Bench::running() } else { Bench::new() };
        for (offset, width, value) in before {
            bench.write(offset, width, value);
            bench.carry_out();
        }
        let before = snapshot(&bench);
        bench.write(offset, width, value);
        let end = offset + width as u64;
        // A reset is written to one register and concerns all; that of a queue all of the queue.
        let resets = [(0x14, 1), (0x3a, 2)].iter().any(|(at, bytes)| offset <= *at && at + bytes <= end);
        if !resets {
            for ((range, old), (_, new)) in before.into_iter().zip(snapshot(&bench)) {
                prop_assert!(old == new || range.start < end && offset < range.end, "{range:x?}: {old:#x} became {new:#x}");
            }
        }
        bench.carry_out();
    }

    #[test]
    fn a_read_changes_nothing_and_bytes_are_those_of_the_registers(
        offset in 0u64..0x3010,
        width in 1usize..=64,
        runs in any::<bool>(),
    ) {
        let bench = if runs { Bench::running() } else { Bench::new() };
        let before = snapshot(&bench);
        let mut whole = vec![0xee; width];
        bench.registers.read(0x1000 + offset, &mut whole);
        let bytes: Vec<_> = (offset..).take(width).map(|at| bench.read(at, 1) as u8).collect();
        prop_assert_eq!(whole, bytes);
        prop_assert_eq!(snapshot(&bench), before);
    }
}
