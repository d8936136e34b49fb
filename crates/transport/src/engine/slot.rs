//! What is known of one queue.

use std::time::Instant;

use crate::ring::{Layout, Ring};

/// A queue: its ring while it is started, and how it stopped last.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// There while the ring is started and its parts are in memory.
    pub ring: Option<Ring>,
    /// Where the ring was started; `None` while it is stopped.
    pub started_at: Option<u16>,
    /// Whether chains are popped.
    pub enabled: bool,
    /// Whether it could not be followed, or its device gave up.
    pub broken: bool,
    /// Whether there may be chains that were not seen.
    pub ready: bool,
    /// Whether there are chains that the device has no room for.
    pub held: bool,
    /// Differs between two rings of this queue.
    pub incarnation: u64,
    /// Chains of this incarnation whose reply comes later.
    pub parked: usize,
    /// The ring is to stop; when it must have.
    pub stopping: Option<Instant>,
    /// Where it stopped last, unless it was broken.
    pub stopped_at: Option<u16>,
}

impl Slot {
    /// Whether chains are popped now.
    pub fn serves(&self) -> bool {
        self.ring.is_some() && self.enabled && !self.broken && self.stopping.is_none()
    }

    /// Whether the ring already is what is asked for.
    pub fn runs_as(&self, layout: Option<Layout>, base: Option<u16>) -> bool {
        let Some(ring) = &self.ring else { return false };
        !self.broken
            && self.stopping.is_none()
            && layout == Some(ring.layout())
            && base.is_none_or(|base| base == ring.next_available())
    }

    /// Whether the ring was started where it had stopped.
    pub fn goes_on(&self) -> bool {
        self.started_at.is_some() && self.started_at == self.stopped_at
    }

    /// Where the ring would go on.
    pub fn base(&self) -> u16 {
        self.ring.as_ref().map(Ring::next_available).or(self.started_at).or(self.stopped_at).unwrap_or(0)
    }

    /// Stops it and returns where it would go on.
    pub fn stop(&mut self) -> u16 {
        let base = self.base();
        self.stopped_at = (!self.broken).then_some(base);
        self.ring = None;
        self.started_at = None;
        self.broken = false;
        self.ready = false;
        self.held = false;
        self.stopping = None;
        self.incarnation += 1;
        base
    }
}
