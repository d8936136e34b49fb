//! The input device (virtio 1.3, section 5.8): keyboard, pointer and wheel in one, or a touch screen.

mod desktop;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

pub use desktop::Desktop;

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

/// A virtio-input device.
pub struct Input {
    source: Box<dyn InputSource>,
    options: InputOptions,
    desktop: Arc<Desktop>,
    stats: Arc<InputStats>,
}

impl Input {
    /// A device whose guest has not started yet.
    pub fn new(
        options: InputOptions,
        source: Box<dyn InputSource>,
        desktop: Arc<Desktop>,
        stats: Arc<InputStats>,
    ) -> Self {
        Self { source, options, desktop, stats }
    }

    /// What this device counts.
    pub fn stats(&self) -> &Arc<InputStats> {
        &self.stats
    }
}

impl ConfigSpace for InputOptions {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
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
        let _ = &self.desktop;
        Arc::new(self.options.clone())
    }

    fn start(&mut self, _features: u64, _start: Start) {}

    fn stop(&mut self) {}

    fn reset(&mut self) {}

    fn request(&mut self, _memory: &Memory, _queue: u16, _request: Request<'_>, _reply: &mut Vec<u8>) -> Answer {
        Answer::Done
    }

    fn poll(&mut self, _memory: &Memory, _now: Instant, _out: &mut Outbox) {
        let mut events = Vec::new();
        self.source.poll(&mut events);
    }

    fn supplies(&self, queue: u16) -> bool {
        queue == EVENT_QUEUE
    }

    fn abandon(&mut self, _out: &mut Outbox) {}

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.source.poll_fd()]
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
