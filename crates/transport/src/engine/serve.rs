//! One batch of one ring.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Answer, Memory, Request, Ticket, VirtioDevice, guest_log};

use super::{Parked, guarded};
use crate::chain::{Chain, Segment, scatter};
use crate::ring::{Popped, RingError, View};

/// How long, in milliseconds of the coarse clock, a batch may keep the driver and the device's own news waiting.
const BATCH_LIMIT: i64 = 5;

/// How a batch ended.
pub(super) enum Batch {
    /// Nothing is left, and the driver kicks when there is more.
    Drained,
    /// There may be more.
    Interrupted,
    /// There is more, and the device has no room for it.
    Full,
    /// The device panicked.
    Panicked,
    /// The device gave up.
    Broken,
}

/// Buffers that every chain uses.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub chain: Chain,
    pub reply: Vec<u8>,
    /// Lists of chains that were parked once.
    pub spare: Vec<Vec<Segment>>,
}

/// What serving a ring takes.
pub(super) struct Batcher<'a> {
    pub device: &'a mut dyn VirtioDevice,
    pub memory: &'a Memory,
    pub queue: u16,
    pub incarnation: u64,
    pub parked: &'a mut HashMap<Ticket, Parked>,
    pub scratch: &'a mut Scratch,
    pub attention: &'a AtomicBool,
    pub tick: fn() -> i64,
    /// Tells the driver that chains were given back.
    pub signal: &'a mut dyn FnMut(),
    /// Chains of this ring that were parked.
    pub newly_parked: usize,
}

impl Batcher<'_> {
    /// Serves chains until there are no more, but no more than the ring is long, and ends early when someone waits.
    pub fn run(&mut self, ring: &mut View<'_>) -> Result<Batch, RingError> {
        ring.silence()?;
        let mut pending = ring.pending()?;
        let mut since = None;
        for served in 0..=ring.size() {
            if pending == 0 {
                // A driver on the same core runs inside this and has its next chain ready when we look again: no kick.
                if ring.wants_interrupt()? {
                    (self.signal)();
                }
                pending = ring.listen()?;
                if pending == 0 {
                    return Ok(Batch::Drained);
                }
                ring.silence()?;
            }
            if served == ring.size() || self.is_late(served, &mut since) {
                break;
            }
            if self.device.is_full(self.queue) {
                return Ok(Batch::Full);
            }
            pending -= 1;
            if let Some(end) = self.serve_one(ring)? {
                return Ok(end);
            }
        }
        Ok(Batch::Interrupted)
    }

    /// Whether the control thread waits for us, or the batch lasts long already. The first command never is late, and pays
    /// for no clock.
    fn is_late(&self, served: u16, since: &mut Option<i64>) -> bool {
        if served == 0 {
            return false;
        }
        if self.attention.load(Ordering::Relaxed) {
            return true;
        }
        let now = (self.tick)();
        now - *since.get_or_insert(now) >= BATCH_LIMIT
    }

    /// Pops a chain, has it executed and gives it back, or parks it.
    fn serve_one(&mut self, ring: &mut View<'_>) -> Result<Option<Batch>, RingError> {
        let Scratch { chain, reply, .. } = &mut *self.scratch;
        let (memory, queue) = (self.memory, self.queue);
        let head = match ring.pop(chain)? {
            Popped::Chain { head } => head,
            Popped::Bad { head, why } => {
                guest_log!(warn, "Queue {queue}: {why}; the chain is given back");
                ring.push(head, 0)?;
                return Ok(None);
            }
        };
        reply.clear();
        let request = Request { bytes: chain.bytes(), carried: chain.carried(), writable: chain.room() };
        match guarded(self.device, |device| device.request(memory, queue, request, reply)) {
            Some(Answer::Done) => ring.push(head, scatter(memory, chain.writable(), reply))?,
            Some(Answer::Later(ticket)) => self.park(ticket, head),
            Some(Answer::Broken) => return Ok(Some(Batch::Broken)),
            None => {
                ring.push(head, 0)?;
                return Ok(Some(Batch::Panicked));
            }
        }
        Ok(None)
    }

    /// Keeps what is needed to give the chain back, whatever the driver does to its descriptors meanwhile.
    fn park(&mut self, ticket: Ticket, head: u16) {
        let mut writable = self.scratch.spare.pop().unwrap_or_default();
        writable.clear();
        writable.extend_from_slice(self.scratch.chain.writable());
        let (queue, incarnation) = (self.queue, self.incarnation);
        let before = self.parked.insert(ticket, Parked { queue, incarnation, head, writable });
        // A device that uses a ticket twice breaks its promise: the chain before is lost, and no longer waited for.
        let lost = before.is_some_and(|lost| lost.queue == queue && lost.incarnation == incarnation);
        self.newly_parked += usize::from(!lost);
    }
}
