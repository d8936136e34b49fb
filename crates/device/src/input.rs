//! The input device (virtio 1.3, section 5.8): keyboard, pointer and wheel in one, or a touch screen.
//!
//! What a source said becomes changes (`pending`); changes become frames of events, by what the guest believes (`guest`);
//! and a frame is put into the event queue only when all of it fits.

mod codes;
mod config;
mod desktop;
mod guest;
mod pending;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

pub use desktop::Desktop;

use codes::{BTN_EXTRA, BTN_LEFT, EV_LED, Event, FINGERS, LED_CAPSL, LED_NUML, LED_SCROLLL};
use config::Table;
use guest::{Guest, Step};
use pending::{Change, Outcome, Pending, Point, Wheel};

use crate::memory::Memory;
use crate::stats::InputStats;
use crate::virtio::{Answer, ConfigSpace, Outbox, Request, Start, VirtioDevice};

/// The queue of events (virtio 1.3, section 5.8.2).
pub const EVENT_QUEUE: u16 = 0;
/// The queue by which the driver sets LEDs.
pub const STATUS_QUEUE: u16 = 1;

/// What an input device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// A keyboard with LEDs, a pointer with absolute axes and five buttons, and a wheel.
    Console,
    /// A screen for ten fingers. A device of its own: one that has both kinds of axes loses its pointer in the guest.
    Touch,
}

/// How a guest sees an input device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputOptions {
    /// What the guest calls it; at most 128 bytes are told.
    pub name: String,
    /// Tells devices of one guest apart; may be empty.
    pub serial: String,
    /// What it can do.
    pub kind: InputKind,
}

/// What a finger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TouchPhase {
    /// It came down.
    Down,
    /// It moved.
    Move,
    /// It was lifted.
    Up,
}

/// What a person did. Codes are Linux evdev codes; positions are shares of a head: 0 is its first pixel, 65535 the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// A key of the keyboard went down or up. A second down without an up is ignored: the guest repeats by itself.
    Key {
        /// KEY_*.
        code: u16,
        /// Down.
        pressed: bool,
    },
    /// The pointer is there.
    Pointer {
        /// The head that it is on.
        head: u8,
        /// Share of the width.
        x: u16,
        /// Share of the height.
        y: u16,
    },
    /// A button of the pointer went down or up.
    Button {
        /// BTN_*.
        code: u16,
        /// Down.
        pressed: bool,
    },
    /// The wheel turned, in 120ths of a notch; positive is up and right.
    Wheel {
        /// Up and down.
        vertical: i16,
        /// Left and right.
        horizontal: i16,
    },
    /// A finger.
    Touch {
        /// Which one.
        slot: u8,
        /// What it does.
        phase: TouchPhase,
        /// The head that it is on.
        head: u8,
        /// Share of the width.
        x: u16,
        /// Share of the height.
        y: u16,
    },
    /// Everything that is down goes up: focus was lost.
    ReleaseAll,
    /// The session ended, or another one took its place: everything that is down goes up.
    Gone,
}

/// Lamps of a keyboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leds {
    /// Num Lock.
    pub num: bool,
    /// Caps Lock.
    pub caps: bool,
    /// Scroll Lock.
    pub scroll: bool,
}

/// Where events come from. No method blocks.
pub trait InputSource: Send {
    /// Readable when there are events. The same descriptor for the source's life.
    fn poll_fd(&self) -> BorrowedFd<'_>;

    /// Appends events, a bounded number each time; the descriptor stays readable when there are more. Cheap when there are
    /// none.
    fn poll(&mut self, events: &mut Vec<SourceEvent>);

    /// The guest set its LEDs. Only changes are told, all off being the first state; whoever comes later is told by the
    /// source.
    fn leds(&mut self, leds: Leds);
}

/// Whether a guest is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No driver has come yet.
    Off,
    Running,
    /// It stopped, and may go on or start anew: what it is told until then waits.
    Paused,
}

/// A virtio-input device.
pub struct Input {
    kind: InputKind,
    config: Arc<Table>,
    source: Box<dyn InputSource>,
    desktop: Arc<Desktop>,
    stats: Arc<InputStats>,
    phase: Phase,
    pending: Pending,
    guest: Guest,
    /// As the guest set them, and as the source was told.
    leds: Leds,
    leds_told: Leds,
    // Kept between polls so that an idle one allocates nothing.
    events: Vec<SourceEvent>,
}

impl Input {
    /// A device whose guest has not started yet.
    pub fn new(
        options: InputOptions,
        source: Box<dyn InputSource>,
        desktop: Arc<Desktop>,
        stats: Arc<InputStats>,
    ) -> Self {
        Self {
            kind: options.kind,
            config: Arc::new(Table::new(&options)),
            source,
            desktop,
            stats,
            phase: Phase::Off,
            pending: Pending::default(),
            guest: Guest::default(),
            leds: Leds::default(),
            leds_told: Leds::default(),
            events: Vec::new(),
        }
    }

    /// What this device counts.
    pub fn stats(&self) -> &Arc<InputStats> {
        &self.stats
    }

    fn take(&mut self, event: SourceEvent) {
        self.stats.events.add(1);
        if event == SourceEvent::Gone {
            self.stats.sessions.add(1);
        }
        if self.phase == Phase::Off || !self.note(event) {
            self.stats.ignored.add(1);
        }
    }

    /// False: this device cannot say such a thing.
    fn note(&mut self, event: SourceEvent) -> bool {
        let Self { kind, config, desktop, pending, stats, .. } = self;
        let place = |head, x, y| {
            let (x, y) = desktop.place(head, x, y);
            Point { x, y }
        };
        let count = |outcome| match outcome {
            Outcome::Kept | Outcome::Idle => {}
            Outcome::Coalesced => stats.coalesced.add(1),
            Outcome::Dropped => stats.dropped.add(1),
        };
        match (kind, event) {
            (_, SourceEvent::ReleaseAll | SourceEvent::Gone) => pending.release(),
            (InputKind::Console, SourceEvent::Key { code, pressed }) if config.has_key(code) && !is_button(code) => {
                count(pending.key(code, pressed));
            }
            (InputKind::Console, SourceEvent::Button { code, pressed }) if is_button(code) => {
                count(pending.button(code, pressed));
            }
            (InputKind::Console, SourceEvent::Pointer { head, x, y }) => count(pending.pointer(place(head, x, y))),
            (InputKind::Console, SourceEvent::Wheel { vertical, horizontal }) => {
                count(pending.wheel(Wheel::Vertical, vertical));
                count(pending.wheel(Wheel::Horizontal, horizontal));
            }
            (InputKind::Touch, SourceEvent::Touch { slot, phase, head, x, y }) if slot < FINGERS => {
                count(pending.touch(slot, phase, place(head, x, y)));
            }
            _ => return false,
        }
        true
    }

    /// What the guest is to be told next; whether a change is done with it, and whether it lifts what the source did not.
    fn next_step(&mut self) -> Option<(Step, bool)> {
        let Self { pending, guest, .. } = self;
        while let Some(change) = pending.first() {
            if let Some(step) = guest.step(change) {
                return Some((step, *change == Change::Release));
            }
            pending.pop();
        }
        // What was dropped is made up for: nothing stays down, and the pointer is where it is.
        let held = pending.held();
        let owed = |frame| Step { frame, is_last: false };
        let release = guest.release(held).map(|frame| (owed(frame), true));
        release.or_else(|| Some((owed(guest.movement(held.position)?), false)))
    }

    fn forget(&mut self) {
        self.pending.clear();
        self.guest = Guest::default();
        self.leds = Leds::default();
    }

    fn tell_leds(&mut self) {
        if self.leds != self.leds_told {
            self.leds_told = self.leds;
            self.source.leds(self.leds);
        }
    }
}

fn is_button(code: u16) -> bool {
    (BTN_LEFT..=BTN_EXTRA).contains(&code)
}

impl VirtioDevice for Input {
    fn device_id(&self) -> u32 {
        18
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64; 2]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.config.clone()
    }

    fn start(&mut self, _features: u64, start: Start) {
        if start == Start::Fresh || self.phase == Phase::Off {
            self.forget();
        }
        self.phase = Phase::Running;
    }

    fn stop(&mut self) {
        self.phase = Phase::Paused;
    }

    fn reset(&mut self) {
        self.forget();
        self.tell_leds();
        self.config.deselect();
        self.phase = Phase::Off;
    }

    /// The driver sets LEDs; what else it says (its repeat rates) is of no use to anybody.
    fn request(&mut self, _memory: &Memory, _queue: u16, request: Request<'_>, _reply: &mut Vec<u8>) -> Answer {
        let (events, _) = request.bytes.as_chunks();
        for event in events.iter().map(Event::from_bytes) {
            match (event.kind, event.code) {
                (EV_LED, LED_NUML) => self.leds.num = event.value != 0,
                (EV_LED, LED_CAPSL) => self.leds.caps = event.value != 0,
                (EV_LED, LED_SCROLLL) => self.leds.scroll = event.value != 0,
                _ => {}
            }
        }
        Answer::Done
    }

    fn poll(&mut self, _memory: &Memory, _now: Instant, _out: &mut Outbox) {
        self.tell_leds();
        let mut events = std::mem::take(&mut self.events);
        self.source.poll(&mut events);
        for event in events.drain(..) {
            self.take(event);
        }
        self.events = events;
    }

    fn supplies(&self, queue: u16) -> bool {
        queue == EVENT_QUEUE
    }

    fn supply(&mut self, _queue: u16, mut free: usize, put: &mut dyn FnMut(&[u8])) -> bool {
        while let Some((Step { frame, is_last }, is_ours)) = self.next_step() {
            let Some(left) = free.checked_sub(frame.len()) else { return true };
            free = left;
            frame.messages().for_each(|message| put(&message));
            self.guest.see(&frame);
            if is_last {
                self.pending.pop();
            }
            self.stats.frames.add(1);
            self.stats.released.add(is_ours.into());
        }
        false
    }

    fn abandon(&mut self, _out: &mut Outbox) {}

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.source.poll_fd()]
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
