//! The screen before a driver, and when it gives way to the driver's.
//!
//! What a driver shows is on the heads from its first SET_SCANOUT with a resource on. What firmware draws is on the first head
//! before that, when the driver is gone (its device was reset), and when the boot display is switched on under it: then the
//! guest has another driver, of those registers. What a virtio driver showed is kept meanwhile, for a guest that only slept.

use std::time::{Duration, Instant};

use protocol::{Rect, ScanoutId};

use super::Gpu;
use crate::display::{Cursor, Display, Frame};
use crate::guest_log;
use crate::memory::Memory;
use crate::stats::Stats;
use crate::vga::{Cost, Mode, Picture, Rows, Vga, VgaPort};

/// Between two looks at the framebuffer.
const TICK: Duration = Duration::from_millis(33);

/// Time that must pass for each byte that a look read: what changes all the time costs no more of a core than a still screen may.
const NANOSECONDS_PER_BYTE: u64 = 8;

/// The head that shows it.
const HEAD: ScanoutId = ScanoutId(0);

/// Whose picture the heads show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Screen {
    Boot,
    Driver,
}

/// The boot display of a GPU.
pub(super) struct Boot {
    port: VgaPort,
    /// Whether there is a virtio-gpu beside it.
    pub virtio: bool,
    screen: Screen,
    /// The registers' generation that was looked at last.
    generation: u64,
    /// How often the display had been switched on then.
    enables: u64,
    /// The mode that they set then.
    mode: Option<Mode>,
    /// What the head shows.
    picture: Option<Picture>,
    /// Nothing is shown or looked at before.
    due: Instant,
    /// The guest may have drawn anywhere.
    all: bool,
    /// It was looked at all over since the last tick.
    caught_up: bool,
    /// Whether the display does not answer who asks.
    held: bool,
    /// Bytes of the framebuffer that are memory.
    framebuffer: u64,
}

impl Boot {
    fn new(vga: Vga) -> Self {
        let Vga { port, virtio } = vga;
        let generation = port.registers.generation();
        let settings = port.registers.settings();
        Self {
            framebuffer: port.framebuffer().memory(),
            port,
            virtio,
            screen: Screen::Boot,
            generation,
            enables: settings.enables,
            mode: Mode::of(&settings.dispi),
            picture: None,
            due: Instant::now(),
            all: true,
            caught_up: false,
            held: false,
        }
    }

    /// Takes in what was written to the registers. Returns whether the display was switched on.
    fn take_registers(&mut self) -> bool {
        let generation = self.port.registers.generation();
        if generation == self.generation {
            return false;
        }
        // Read before the settings: what is written between the two is taken in once more.
        self.generation = generation;
        let settings = self.port.registers.settings();
        self.mode = Mode::of(&settings.dispi);
        self.all = true;
        std::mem::replace(&mut self.enables, settings.enables) != settings.enables
    }

    /// Whether a driver that shows something now takes the heads over. What the guest wrote before it said so is not news
    /// after it.
    pub fn gives_way(&mut self) -> bool {
        self.take_registers();
        self.is_shown()
    }

    /// What firmware drew, if that is what a head shows.
    pub fn frame(&self, scanout: ScanoutId) -> Option<Frame<'_>> {
        self.picture.as_ref().filter(|_| scanout == HEAD && self.is_shown())?.frame()
    }

    /// Bytes that it takes now.
    pub fn bytes(&self) -> u64 {
        self.framebuffer + self.picture.as_ref().map_or(0, |picture| picture.mode().image_bytes())
    }

    fn is_shown(&self) -> bool {
        self.screen == Screen::Boot
    }

    /// Whether the head shows another mode than the registers set.
    fn is_turning(&self) -> bool {
        self.mode != self.picture.as_ref().map(Picture::mode)
    }

    /// Shows the mode that the registers set. Returns whether the head changed its size, or went on or off.
    fn turn(&mut self, display: &mut dyn Display) -> bool {
        let Some(mode) = self.mode else { return self.leave(display) };
        self.all = true;
        if self.picture.as_mut().is_some_and(|picture| picture.turn_to(mode)) {
            return false;
        }
        self.leave(display);
        match Picture::new(mode) {
            Ok(picture) => {
                self.hold(display, true);
                display.set_scanout(HEAD, picture.frame().as_ref());
                self.picture = Some(picture);
            }
            Err(error) => guest_log!(warn, "No memory for a screen of {}x{}: {error}", mode.width, mode.height),
        }
        true
    }

    /// The head shows nothing. Whether it showed something.
    fn leave(&mut self, display: &mut dyn Display) -> bool {
        let Some(picture) = self.picture.take() else { return false };
        if let Some(frame) = picture.frame() {
            display.catch_up(HEAD, &frame);
        }
        display.set_scanout(HEAD, None);
        self.hold(display, false);
        true
    }

    /// What the head shows is not the newest as long as nobody looks, and nobody does for a head that nobody watches.
    fn hold(&mut self, display: &mut dyn Display, held: bool) {
        if std::mem::replace(&mut self.held, held) != held {
            display.hold(HEAD, held);
        }
    }

    /// Looks at the framebuffer, and has the display see what changed. Returns when it may look again.
    fn look(&mut self, display: &mut dyn Display, rows: Rows, stats: &Stats) -> Duration {
        let Some(picture) = &mut self.picture else { return TICK };
        let mut cost = Cost::default();
        picture.look(&self.port.framebuffer(), rows, &mut cost);
        self.all = false;
        stats.boot_scans.add(1);
        stats.boot_rows.add(cost.rows);
        stats.boot_bytes.add(cost.bytes);
        stats.bytes_copied.add(cost.copied);
        if let Some(frame) = picture.frame().filter(|_| !picture.runs().is_empty()) {
            stats.frames.add(1);
            // All of it is one piece of news.
            display.hold(HEAD, true);
            self.held = true;
            for damage in picture.runs() {
                display.flush(HEAD, &frame, *damage);
            }
        }
        self.hold(display, false);
        let watched = display.is_watched(HEAD);
        self.hold(display, !watched);
        TICK.max(Duration::from_nanos(cost.bytes * NANOSECONDS_PER_BYTE))
    }
}

impl Gpu {
    /// Shows what firmware draws until a driver shows something, and again when that one is gone.
    pub fn with_boot(mut self, vga: Vga) -> Self {
        self.boot = Some(Boot::new(vga));
        self.lay_out();
        self
    }

    /// Whether there is a virtio-gpu, and not just the boot display.
    pub(super) fn is_virtio(&self) -> bool {
        self.boot.as_ref().is_none_or(|boot| boot.virtio)
    }

    /// Whether heads show what the driver tells.
    pub(super) fn shows_driver(&self) -> bool {
        self.boot.as_ref().is_none_or(|boot| !boot.is_shown())
    }

    /// Looks after the boot display: registers, and if it is shown and watched, what is drawn.
    pub(super) fn poll_boot(&mut self, memory: &Memory, now: Instant) {
        let Some(boot) = &mut self.boot else { return };
        let was_lit = boot.mode.is_some();
        if boot.take_registers() && !boot.is_shown() {
            self.catch_up_with_all(memory);
            self.enter_boot();
        }
        let Some(boot) = self.boot.as_mut().filter(|boot| boot.is_shown()) else { return };
        if was_lit && boot.mode.is_none() && now >= boot.due {
            // Setting a mode begins with switching the one before off: the head need not show that.
            boot.due = now + TICK;
        }
        if now >= boot.due {
            self.tick(now);
        } else if !boot.held && boot.picture.is_some() && !self.display.is_watched(HEAD) {
            boot.hold(self.display.as_mut(), true);
        }
    }

    /// When [`poll_boot`](Self::poll_boot) is due although nobody wrote to registers.
    pub(super) fn boot_deadline(&self) -> Option<Instant> {
        let boot = self.boot.as_ref().filter(|boot| boot.is_shown())?;
        let looks = || boot.picture.is_some() && self.display.is_watched(HEAD);
        (boot.is_turning() || looks()).then_some(boot.due)
    }

    fn tick(&mut self, now: Instant) {
        let Some(boot) = &mut self.boot else { return };
        let turned = boot.is_turning() && boot.turn(self.display.as_mut());
        if boot.picture.is_some() && self.display.is_watched(HEAD) {
            // Who was not looked at for a while may have drawn anything.
            let rows = if boot.all || now >= boot.due + TICK { Rows::All } else { Rows::Some };
            let rest = boot.look(self.display.as_mut(), rows, &self.stats);
            (boot.due, boot.caught_up) = (now + rest, false);
        } else {
            let held = boot.picture.is_some();
            boot.hold(self.display.as_mut(), held);
            if turned {
                boot.due = now + TICK;
            }
        }
        if turned {
            self.lay_out();
        }
    }

    /// Heads show what firmware draws, from the next poll on.
    pub(super) fn enter_boot(&mut self) {
        if self.boot.is_none() || !self.shows_driver() {
            return;
        }
        for scanout in self.scanouts.darken() {
            self.display.set_scanout(scanout, None);
        }
        if let Some(pointer) = &self.scanouts.pointer {
            let (scanout, x, y) = (pointer.scanout, pointer.x, pointer.y);
            self.display.cursor(&Cursor { scanout, x, y, hot_x: 0, hot_y: 0, image: None });
        }
        if let Some(boot) = &mut self.boot {
            boot.take_registers();
            (boot.screen, boot.all) = (Screen::Boot, true);
        }
        self.lay_out();
    }

    /// A driver shows something on a head: from now on all heads show what it tells.
    pub(super) fn leave_boot(&mut self, memory: &Memory) {
        self.yield_boot();
        self.show_all(memory);
        self.lay_out();
    }

    /// The heads are the driver's, and dark until they are shown.
    pub(super) fn yield_boot(&mut self) {
        if let Some(boot) = self.boot.as_mut().filter(|boot| boot.is_shown()) {
            boot.screen = Screen::Driver;
            boot.leave(self.display.as_mut());
        }
    }

    /// A display that knows nothing is told what firmware drew.
    pub(super) fn show_boot(&mut self) {
        if let Some(frame) = self.boot.as_ref().and_then(|boot| boot.frame(HEAD)) {
            self.display.set_scanout(HEAD, Some(&frame));
            self.display.flush(HEAD, &frame, frame.rect());
        }
    }

    /// The guest may be gone after this.
    pub(super) fn catch_up_with_boot(&mut self) {
        let Some(boot) = self.boot.as_mut().filter(|boot| boot.is_shown()) else { return };
        // Once a tick: a guest can reset its device as often as it likes.
        if self.display.is_watched(HEAD) && !std::mem::replace(&mut boot.caught_up, true) {
            boot.look(self.display.as_mut(), Rows::All, &self.stats);
        }
        if let Some(frame) = boot.frame(HEAD) {
            self.display.catch_up(HEAD, &frame);
        }
    }

    /// Somebody wants to see what is there now, whether a display is watched or not.
    pub(super) fn refresh_boot(&mut self) {
        let Some(boot) = self.boot.as_mut().filter(|boot| boot.is_shown()) else { return };
        boot.take_registers();
        let turned = boot.is_turning() && boot.turn(self.display.as_mut());
        boot.look(self.display.as_mut(), Rows::All, &self.stats);
        if turned {
            self.lay_out();
        }
    }

    /// A new front-end: another framebuffer, registers as after a reset.
    pub(super) fn reset_boot(&mut self) {
        if let Some(boot) = &mut self.boot {
            boot.port.renew();
            boot.framebuffer = boot.port.framebuffer().memory();
            boot.take_registers();
            // The display is reset by itself.
            (boot.screen, boot.picture, boot.all, boot.held) = (Screen::Boot, None, true, false);
            self.lay_out();
        }
    }

    /// What the display knows of it is not known any more.
    pub(super) fn forget_boot(&mut self) {
        if let Some(boot) = self.boot.as_mut().filter(|boot| boot.is_shown()) {
            (boot.picture, boot.held) = (None, false);
            self.display.set_scanout(HEAD, None);
            self.display.hold(HEAD, false);
        }
    }

    /// Gives the first monitor's words to the registers. Returns the size of the only head, if firmware draws on one.
    pub(super) fn lay_out_boot(&self) -> Option<Rect> {
        let boot = self.boot.as_ref()?;
        boot.port.registers.set_edid(self.heads.edid(self.display.as_ref(), HEAD).unwrap_or_default());
        boot.frame(HEAD).map(|frame| frame.rect())
    }
}
