//! What firmware draws, what a driver shows, and which of the two is seen.

mod budget;

use std::sync::Arc;
use std::time::Duration;

use device::{ConfigSpace, Desktop, Framebuffer, Start, VgaPort, VirtioDevice};
use protocol::ScanoutId;
use transport::loopback::Loopback;

use crate::machine::{Machine, gpu};
use crate::script::Request;

const TICK: Duration = Duration::from_millis(33);
/// What firmware sets; no head of the machine has this size.
const SIZE: (u32, u32) = (96, 72);

/// DISPI registers by number.
mod dispi {
    pub const X: u64 = 1;
    pub const Y: u64 = 2;
    pub const BPP: u64 = 3;
    pub const ENABLE: u64 = 4;
    pub const VIRT_WIDTH: u64 = 6;
    pub const Y_OFFSET: u64 = 9;
}

/// A machine with a boot display, and the guest's program.
struct Bed {
    machine: Machine,
    port: VgaPort,
    registers: Arc<dyn ConfigSpace>,
    framebuffer: Arc<Framebuffer>,
    desktop: Arc<Desktop>,
}

impl Bed {
    fn with(virtio: bool) -> Self {
        let (mut machine, port) = Machine::boot(virtio);
        let desktop = Arc::new(Desktop::new());
        machine.gpu.lay_out_on(desktop.clone());
        Self { registers: port.registers(), framebuffer: port.framebuffer(), machine, port, desktop }
    }

    fn new() -> Self {
        Self::with(true)
    }

    /// With a mode that is seen.
    fn lit() -> Self {
        let mut bed = Self::new();
        bed.set_mode(SIZE);
        bed.wait();
        bed
    }

    fn set(&self, register: u64, value: u32) {
        self.registers.write(0x500 + 2 * register, &(value as u16).to_le_bytes());
    }

    /// As SeaBIOS does it.
    fn set_mode(&self, (width, height): (u32, u32)) {
        for (register, value) in [(dispi::X, width), (dispi::Y, height), (dispi::BPP, 32), (dispi::ENABLE, 1)] {
            self.set(register, value);
        }
    }

    fn switch_off_and_on(&self) {
        self.set(dispi::ENABLE, 0);
        self.set(dispi::ENABLE, 0x41);
    }

    /// Writes one pixel of the mode.
    fn draw(&self, x: u32, y: u32, pixel: [u8; 4]) {
        self.framebuffer.write(u64::from(y * SIZE.0 + x) * 4, &pixel);
    }

    /// The pixel of the first head as the screen has it.
    fn pixel(&self, x: u32, y: u32) -> [u8; 4] {
        let seen = self.machine.screen.seen();
        let picture = seen.heads.get(&0).expect("a head that is on");
        picture.pixels[(y * picture.width + x) as usize].unwrap_or_default()
    }

    /// As a transport does it: polls when that is due, until nothing is left to do or a second has passed.
    fn wait(&mut self) {
        let end = self.machine.now + Duration::from_secs(1);
        self.machine.poll();
        while let Some(deadline) = self.machine.gpu.deadline().filter(|deadline| *deadline < end) {
            self.machine.now = self.machine.now.max(deadline);
            self.machine.poll();
        }
        self.machine.now = end;
    }

    fn tick(&mut self) {
        self.machine.pass(TICK);
        self.machine.poll();
    }

    /// What the first head shows.
    fn shown(&self) -> Shown {
        let seen = self.machine.screen.seen();
        match seen.heads.get(&0).map(|picture| (picture.width, picture.height)) {
            None => Shown::Nothing,
            Some(SIZE) => Shown::Boot,
            Some((16, 16)) => Shown::Driver,
            Some(other) => panic!("{other:?}"),
        }
    }

    /// Rows of the framebuffer that were read by now.
    fn rows(&self) -> u64 {
        self.machine.stats.boot_rows.get()
    }

    fn edid_of_registers(&self) -> Vec<u8> {
        let mut edid = vec![0xee; 1024];
        self.registers.read(0, &mut edid);
        edid
    }

    fn edid_of_driver(&mut self) -> Vec<u8> {
        let reply = self.machine.send(&Request::parse("edid 0"));
        let mut edid = self.machine.reply_bytes(reply).unwrap()[32..].to_vec();
        edid.resize(1024, 0);
        edid
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Boot,
    Driver,
}

/// What was before.
#[derive(Clone, Copy, Debug)]
enum State {
    /// A guest that has set no mode.
    Dark,
    /// One that has.
    Lit,
    /// A driver showed something after that, on both heads, and has a pointer.
    Driver,
    /// It reset its device then, and started it again: a reboot or the end of a sleep.
    Asleep,
    /// The boot display was switched off and on under it.
    Overlaid,
}

const STATES: [State; 5] = [State::Dark, State::Lit, State::Driver, State::Asleep, State::Overlaid];

impl State {
    fn enter(self) -> Bed {
        let mut bed = Bed::new();
        for line in [
            "create_2d 1 bgrx 16x16",
            "create_2d 2 bgrx 8x8",
            "attach 1 0x1000+0x400",
            "transfer 1 0,0+16x16",
            "blob 3 0x400 0x1000+0x400",
        ] {
            bed.machine.must(line);
        }
        if !matches!(self, State::Dark) {
            bed.set_mode(SIZE);
            bed.wait();
        }
        if matches!(self, State::Driver | State::Asleep | State::Overlaid) {
            for line in ["scanout 0 1 0,0+16x16", "scanout 1 2 0,0+8x8", "cursor 0 5,6 2 1,1"] {
                bed.machine.must(line);
            }
        }
        match self {
            State::Asleep => {
                bed.machine.stop();
                bed.machine.start(Start::Fresh);
            }
            State::Overlaid => bed.switch_off_and_on(),
            State::Dark | State::Lit | State::Driver => {}
        }
        bed.wait();
        bed
    }
}

/// What happens, and what the first head shows then in each of [`STATES`].
type Row = (&'static str, fn(&mut Bed), [Shown; 5]);

const TABLE: &[Row] = {
    use Shown::{Boot as B, Driver as D, Nothing as N};
    &[
        ("nothing", |_| {}, [N, B, D, B, B]),
        // A driver shows something: from then on all is as it says.
        ("SET_SCANOUT", |bed| bed.machine.must("scanout 0 1 0,0+16x16"), [D, D, D, D, D]),
        ("SET_SCANOUT_BLOB", |bed| bed.machine.must("scanout_blob 0 3 0,0+16x16 16x16 bgrx 64 0"), [D, D, D, D, D]),
        ("SET_SCANOUT of the other head", |bed| bed.machine.must("scanout 1 2 0,0+8x8"), [N, N, D, D, D]),
        // One that fails, or does something else, does not.
        ("SET_SCANOUT of what is not there", |bed| _ = bed.machine.ask("scanout 0 9 0,0+16x16"), [N, B, D, B, B]),
        ("SET_SCANOUT out of bounds", |bed| _ = bed.machine.ask("scanout 0 1 0,0+17x16"), [N, B, D, B, B]),
        ("SET_SCANOUT of nothing", |bed| bed.machine.must("scanout 0 0 0,0+0x0"), [N, B, N, B, B]),
        ("RESOURCE_FLUSH", |bed| bed.machine.must("flush 1 0,0+16x16"), [N, B, D, B, B]),
        ("RESOURCE_UNREF", |bed| bed.machine.must("unref 1"), [N, B, N, B, B]),
        ("UPDATE_CURSOR", |bed| bed.machine.must("cursor 0 1,1 2 0,0"), [N, B, D, B, B]),
        ("GET_DISPLAY_INFO", |bed| _ = bed.machine.ask("display_info"), [N, B, D, B, B]),
        // The boot display is switched on: it is seen, whatever the rings do.
        ("a mode is set", |bed| bed.set_mode(SIZE), [B, B, D, B, B]),
        (
            "off and on",
            |bed| {
                bed.set_mode(SIZE);
                bed.switch_off_and_on()
            },
            [B, B, B, B, B],
        ),
        ("off", |bed| bed.set(dispi::ENABLE, 0), [N, N, D, N, N]),
        // What was switched on before a command is not news after it.
        (
            "off and on, SET_SCANOUT",
            |bed| {
                bed.switch_off_and_on();
                bed.machine.must("scanout 0 1 0,0+16x16")
            },
            [D, D, D, D, D],
        ),
        (
            "SET_SCANOUT, off and on",
            |bed| {
                bed.set_mode(SIZE);
                bed.machine.must("scanout 0 1 0,0+16x16");
                bed.switch_off_and_on()
            },
            [B, B, B, B, B],
        ),
        // The driver goes.
        (
            "a virtio reset",
            |bed| {
                bed.machine.stop();
                bed.machine.start(Start::Fresh)
            },
            [N, B, B, B, B],
        ),
        (
            "a reset of the function",
            |bed| {
                bed.port.reset();
                bed.machine.stop()
            },
            [N, N, N, N, N],
        ),
        ("the front-end goes", |bed| bed.machine.reset(), [N, N, N, N, N]),
    ]
};

/// Risky enough for a table: every event in every state.
#[test]
fn who_is_seen() {
    for (event, act, expected) in TABLE {
        for (state, expected) in STATES.into_iter().zip(expected) {
            let mut bed = state.enter();
            act(&mut bed);
            bed.wait();
            let case = format!("{event} in state {state:?}");
            assert_eq!(bed.shown(), *expected, "{case}");
            // How much of the desktop the first head takes.
            let width = bed.desktop.place(0, 65535, 0).0;
            if *expected == Shown::Boot {
                assert_eq!(bed.machine.screen.seen().heads.len(), 1, "{case}: the other heads are dark");
                assert!(width > 32500, "{case}: a place is one of the mode");
            } else {
                assert!((21000..22000).contains(&width), "{case}: heads of 64 and 32 pixels lie side by side");
            }
            if matches!(state, State::Driver | State::Asleep | State::Overlaid) {
                let is_driver = bed.machine.screen.seen().heads.contains_key(&1);
                assert_eq!(bed.machine.screen.seen().pointer.image.is_some(), is_driver, "{case}: the pointer");
            }
        }
    }
}

/// Whatever happened, a driver's next SET_SCANOUT is seen, with all of its pixels.
#[test]
fn a_driver_can_always_show_something_again() {
    for (event, act, _) in TABLE {
        for state in STATES {
            let mut bed = state.enter();
            act(&mut bed);
            bed.wait();
            bed.machine.start(Start::Fresh);
            bed.machine.ask("create_2d 1 bgrx 16x16");
            bed.machine.must("scanout 0 1 0,0+16x16");
            bed.machine.must("flush 1 0,0+16x16");
            bed.wait();
            assert_eq!(bed.shown(), Shown::Driver, "{event} in state {state:?}");
        }
    }
}

/// The messages of a sleep and of a reboot are the same; the first command decides. After a sleep both heads and the pointer
/// are as they were, with their pixels.
#[test]
fn a_guest_that_slept_finds_its_picture_again() {
    let mut bed = State::Driver.enter();
    bed.machine.must("flush 1 0,0+16x16");
    let picture = |bed: &Bed| bed.machine.screen.seen().heads.clone();
    let (before, pointer) = (picture(&bed), bed.machine.screen.seen().pointer.clone());
    // It resets its device before it sleeps; then the function is reset, and the device once more.
    bed.machine.stop();
    bed.port.reset();
    bed.machine.stop();
    bed.wait();
    assert_eq!(bed.shown(), Shown::Nothing);
    bed.machine.start(Start::Fresh);
    bed.machine.must("scanout 0 1 0,0+16x16");
    assert_eq!(picture(&bed)[&0], before[&0]);
    assert_eq!((picture(&bed).len(), bed.machine.screen.seen().pointer.clone()), (2, pointer));
}

/// The driver of another boot asks first, and finds nothing; firmware stays seen until it shows something.
#[test]
fn a_guest_that_booted_again_finds_nothing_of_the_one_before() {
    let mut bed = State::Driver.enter();
    bed.port.reset();
    bed.machine.stop();
    bed.set_mode(SIZE);
    bed.draw(3, 4, [1, 2, 3, 4]);
    bed.machine.start(Start::Fresh);
    bed.wait();
    assert_eq!(bed.pixel(3, 4), [1, 2, 3, 4]);
    bed.machine.ask("display_info");
    assert_eq!(bed.machine.stats.resources.get(), 0);
    assert_eq!(bed.shown(), Shown::Boot);
    assert_eq!(bed.machine.ask("scanout 0 1 0,0+16x16"), "invalid_resource");
    bed.wait();
    assert_eq!(bed.shown(), Shown::Boot);
}

#[test]
fn what_firmware_draws_is_seen_within_eight_ticks_wherever_it_is() {
    let mut bed = Bed::lit();
    for y in 0..SIZE.1 {
        bed.draw(y, y, [y as u8, 1, 2, 3]);
        (0..8).for_each(|_| bed.tick());
        assert_eq!(bed.pixel(y, y), [y as u8, 1, 2, 3]);
    }
}

/// A driver of the boot display says by its registers that it drew.
#[test]
fn what_is_drawn_before_registers_are_written_is_seen_with_the_next_tick() {
    let mut bed = Bed::lit();
    for y in 0..SIZE.1 {
        bed.draw(0, y, [9, y as u8, 0, 0]);
        bed.set(dispi::Y_OFFSET, 0);
        bed.tick();
        assert_eq!(bed.pixel(0, y), [9, y as u8, 0, 0]);
    }
}

#[test]
fn a_page_flip_shows_the_other_page() {
    let mut bed = Bed::lit();
    let sets = bed.machine.screen.seen().sets;
    bed.draw(5, SIZE.1 + 7, [8; 4]);
    bed.set(dispi::Y_OFFSET, SIZE.1);
    bed.tick();
    assert_eq!(bed.pixel(5, 7), [8; 4]);
    bed.set(dispi::VIRT_WIDTH, SIZE.0 + 1);
    bed.tick();
    assert_eq!(bed.machine.screen.seen().sets, sets, "in the same memory");
}

#[test]
fn setting_a_mode_anew_does_not_blink() {
    let mut bed = Bed::lit();
    bed.machine.pass(TICK);
    let sets = bed.machine.screen.seen().sets;
    bed.set(dispi::ENABLE, 0);
    bed.machine.poll();
    bed.machine.pass(Duration::from_millis(5));
    bed.set_mode(SIZE);
    bed.machine.poll();
    bed.wait();
    assert_eq!((bed.shown(), bed.machine.screen.seen().sets), (Shown::Boot, sets));
}

#[test]
fn before_a_guest_stops_what_firmware_drew_is_seen_once_more() {
    let mut bed = Bed::lit();
    bed.tick();
    bed.draw(0, 0, [1, 2, 3, 4]);
    bed.machine.stop();
    let caught_up = std::mem::take(&mut bed.machine.screen.seen().caught_up);
    assert_eq!(caught_up, [(0, u32::from_le_bytes([1, 2, 3, 4]))]);
}

/// What a VM drew is not seen by the next one, nor by who watches it; and the VM before does not draw on its screen.
#[test]
fn each_front_end_has_a_framebuffer_of_its_own() {
    let mut bed = Bed::lit();
    bed.framebuffer.write(0, &[0x5a; 0x1_0000]);
    bed.wait();
    assert_eq!(bed.pixel(1, 1), [0x5a; 4]);
    bed.machine.reset();
    assert_eq!(bed.shown(), Shown::Nothing);
    let before = std::mem::replace(&mut bed.framebuffer, bed.port.framebuffer());
    assert!(!Arc::ptr_eq(&before, &bed.framebuffer));
    let mut canary = vec![0xee; 16 << 20];
    bed.framebuffer.read(0, &mut canary);
    assert!(canary.iter().all(|byte| *byte == 0));
    assert_eq!(bed.edid_of_registers(), bed.edid_of_driver());
    bed.machine.poll();
    assert_eq!(bed.shown(), Shown::Nothing, "and no mode is left");
    bed.set_mode(SIZE);
    before.write(0, &[0x66; 0x1_0000]);
    bed.wait();
    assert_eq!(bed.pixel(1, 1), [0; 4]);
}

#[test]
fn a_screenshot_is_of_this_moment() {
    for unwatched in [false, true] {
        let mut bed = Bed::new();
        bed.machine.screen.seen().unwatched = unwatched;
        let capture = |bed: &mut Bed, head| bed.machine.gpu.capture(&bed.machine.memory, ScanoutId(head));
        assert_eq!(capture(&mut bed, 0), None);
        bed.set_mode(SIZE);
        bed.draw(2, 3, [1, 2, 3, 4]);
        let picture = capture(&mut bed, 0).unwrap();
        assert_eq!((picture.width, picture.height), SIZE);
        let at = (3 * SIZE.0 as usize + 2) * 4;
        assert_eq!(picture.pixels[at..at + 4], [1, 2, 3, 4]);
        assert_eq!(capture(&mut bed, 1), None);
        assert_eq!(bed.pixel(2, 3), [1, 2, 3, 4], "displays see it as well");
        assert_eq!(bed.machine.screen.seen().held.contains(&0), unwatched);
    }
}

/// A VMM that opens its window anew knows nothing; a viewer asks for what it has not seen.
#[test]
fn a_display_that_forgot_or_asks_is_answered() {
    let mut bed = Bed::lit();
    bed.draw(1, 1, [3; 4]);
    (0..8).for_each(|_| bed.tick());
    bed.machine.screen.seen().heads.clear();
    bed.machine.screen.seen().events.push(device::DisplayEvent::Forgot);
    bed.machine.poll();
    assert_eq!(bed.pixel(1, 1), [3; 4]);
    for (head, damage) in [(0, protocol::Rect::of_size(1000, 1000)), (1, protocol::Rect::of_size(1, 1))] {
        let scanout = ScanoutId(head);
        bed.machine.screen.seen().events.push(device::DisplayEvent::Ready { scanout, damage });
    }
    bed.machine.poll();
    assert_eq!(bed.machine.screen.seen().supplies, 2);
}

#[test]
fn the_monitor_of_the_registers_is_that_of_the_driver() {
    let mut bed = Bed::new();
    assert_eq!(bed.edid_of_registers()[..8], [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    for (width, height) in [(64, 48), (1024, 768), (5120, 2880), (65, 49)] {
        bed.machine.gpu.resize(ScanoutId(0), width, height);
        assert_eq!(bed.edid_of_registers(), bed.edid_of_driver(), "{width}x{height}");
    }
    bed.set_mode(SIZE);
    bed.wait();
    assert!(bed.machine.gpu.resize(ScanoutId(0), 800, 600), "a size can be wished for before there is a driver");
    assert_eq!(bed.edid_of_registers(), bed.edid_of_driver());
    bed.port.reset();
    assert_eq!(bed.edid_of_registers(), bed.edid_of_driver());
}

/// The Windows driver does not accept the feature, and asks.
#[test]
fn windows_a_driver_without_the_feature_is_told_of_its_monitors() {
    let mut bed = Bed::new();
    bed.machine.stop();
    bed.machine.gpu.start(0, Start::Fresh);
    for (head, reply) in [(0, "edid 128"), (1, "edid 128"), (2, "invalid_scanout")] {
        assert_eq!(bed.machine.ask(&format!("edid {head}")), reply);
    }
    assert_eq!(bed.edid_of_registers(), bed.edid_of_driver());
}

#[test]
fn a_panic_while_a_picture_is_shown_costs_that_picture_and_it_comes_back() {
    let mut bed = Bed::lit();
    bed.draw(0, 0, [7; 4]);
    bed.set(dispi::Y_OFFSET, 0);
    bed.machine.screen.seen().panic = true;
    bed.tick();
    assert_eq!(bed.machine.stats.panics.get(), 1);
    bed.wait();
    assert_eq!((bed.shown(), bed.pixel(0, 0)), (Shown::Boot, [7; 4]));
    assert!(bed.machine.screen.seen().held.is_empty());
}

/// The model without virtio: no queue, nothing but time and registers.
#[test]
fn bochs_is_driven_by_its_deadlines_alone() {
    let (device, screen, stats) = gpu(Box::new(renderer::Null), false);
    let (vga, port) = device::Vga::new(device::VgaOptions { virtio: false, ..Default::default() }).unwrap();
    let device = device.with_boot(vga);
    assert_eq!((device.queue_sizes().len(), device.features()), (0, 0));
    let mut guest = Loopback::new(device);
    assert_eq!(guest.deadline(), None);
    for (register, value) in [(dispi::X, 96u16), (dispi::Y, 72), (dispi::BPP, 32), (dispi::ENABLE, 0x41)] {
        port.registers().write(0x500 + 2 * register, &value.to_le_bytes());
    }
    port.framebuffer().write(0, &[6; 4]);
    guest.run();
    let first = || screen.seen().heads.get(&0).map(|picture| picture.pixels[0]);
    assert_eq!(first(), Some(Some([6; 4])));
    port.framebuffer().write(0, &[8; 4]);
    for _ in 0..8 {
        let wait = guest.deadline().unwrap().saturating_duration_since(guest.now());
        guest.advance(wait);
        guest.run();
    }
    assert_eq!(first(), Some(Some([8; 4])));
    assert!(stats.boot_scans.get() <= 9);
    guest.reconnect();
    assert_eq!((first(), guest.deadline()), (None, None));
}

#[test]
fn only_framebuffers_that_a_bar_can_have_are_made() {
    for (framebuffer, possible) in [(16 << 20, true), (32 << 20, true), (64 << 20, true), (128 << 20, false)]
        .into_iter()
        .chain([(0, false), (8 << 20, false), (17 << 20, false), (u64::MAX, false)])
    {
        let made = device::Vga::new(device::VgaOptions { framebuffer, virtio: true });
        assert_eq!(made.is_ok(), possible, "{framebuffer}");
    }
}
