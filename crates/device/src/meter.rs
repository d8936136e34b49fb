//! Counts commands by name, and how long they took, beside the GPU: on its thread, with one look at the clock for each batch.
//!
//! A batch begins when its thread woke, which a [poll](crate::VirtioDevice::poll) is told, and its commands that were answered
//! at once took, each, until the batch was over. So a time is what a driver waits at most, not what one command costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use protocol::Header;

use crate::stats::Stats;
use crate::virtio::{Answer, Completion, Ticket};

/// The least type that is an error (virtio 1.3, section 5.7.6.7, `VIRTIO_GPU_RESP_ERR_UNSPEC`).
const FIRST_ERROR: u32 = 0x1200;

/// What one device's commands are counted with.
#[derive(Debug)]
pub struct Meter {
    stats: Arc<Stats>,
    /// Commands of this batch that were answered at once, and how many of them carried fences.
    done: u64,
    fenced: u64,
    /// Those that were not; the batch's beginning is not known yet.
    fresh: Vec<(Ticket, Asked)>,
    /// Those of earlier batches, with their beginning. The device's own cap of parked commands bounds it.
    open: HashMap<Ticket, (Asked, Instant)>,
}

/// A command that is to be counted.
#[derive(Clone, Copy, Debug)]
struct Asked {
    place: usize,
    fenced: bool,
}

impl Meter {
    /// Counts into `stats`.
    pub fn new(stats: Arc<Stats>) -> Self {
        Self { stats, done: 0, fenced: 0, fresh: Vec::new(), open: HashMap::new() }
    }

    /// Errors that the device has counted: [`count`](Self::count) wants to know how many there were before its command.
    #[inline]
    pub fn errors(&self) -> u64 {
        self.stats.errors.get()
    }

    /// A command came, and this became of it. Counted afterwards, so that nothing of it has to be kept meanwhile.
    #[inline]
    pub fn count(&mut self, bytes: &[u8], errors: u64, answer: Answer, reply: &[u8]) {
        let header = Header::peek(bytes).unwrap_or_default();
        let asked = Asked { place: header.place(), fenced: header.fence().is_some() };
        self.stats.traffic.came(asked.place);
        match answer {
            Answer::Later(ticket) => return self.fresh.push((ticket, asked)),
            // The pointer's commands have no room for a reply, so the device's own count is looked at as well.
            Answer::Done if is_error(reply) || self.errors() != errors => self.stats.traffic.failed(asked.place),
            Answer::Done => {}
            Answer::Broken => self.stats.traffic.failed(asked.place),
        }
        self.done += 1;
        self.fenced += u64::from(asked.fenced);
    }

    /// A batch that began at `began` is over. `clock` is asked once, if there were commands that are done.
    #[inline]
    pub fn batch(&mut self, began: Instant, clock: impl FnOnce() -> Instant) {
        if !self.fresh.is_empty() {
            self.open.extend(self.fresh.drain(..).map(|(ticket, asked)| (ticket, (asked, began))));
        }
        if self.done > 0 {
            let time = clock().saturating_duration_since(began);
            self.stats.traffic.queue.add(time, std::mem::take(&mut self.done));
            if self.fenced > 0 {
                self.stats.traffic.fence.add(time, std::mem::take(&mut self.fenced));
            }
        }
    }

    /// Commands of earlier batches have their answers. `clock` is asked once, if there are any. An error that has no room for
    /// its reply is not seen here.
    #[inline]
    pub fn complete(&mut self, completions: &[Completion], clock: impl FnOnce() -> Instant) {
        if completions.is_empty() {
            return;
        }
        let now = clock();
        for Completion { ticket, reply } in completions {
            let Some((asked, began)) = self.open.remove(ticket) else { continue };
            let time = now.saturating_duration_since(began);
            let traffic = &self.stats.traffic;
            traffic.queue.add(time, 1);
            if asked.fenced {
                traffic.fence.add(time, 1);
            }
            if is_error(reply) {
                traffic.failed(asked.place);
            }
        }
    }

    /// Nobody waits for answers any more.
    pub fn forget(&mut self) {
        (self.done, self.fenced) = (0, 0);
        self.fresh.clear();
        self.open.clear();
    }
}

fn is_error(reply: &[u8]) -> bool {
    reply.first_chunk().is_some_and(|kind| u32::from_le_bytes(*kind) >= FIRST_ERROR)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OK: [u8; 4] = 0x1100_u32.to_le_bytes();
    const ERROR: [u8; 4] = 0x1203_u32.to_le_bytes();

    fn bytes(kind: u32, fenced: bool) -> Vec<u8> {
        [kind, u32::from(fenced), 0, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn of(pairs: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
        pairs.filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_batch_costs_one_look_at_the_clock_and_an_idle_poll_none() {
        let stats = Arc::new(Stats::default());
        let (mut meter, start) = (Meter::new(stats.clone()), Instant::now());
        let looks = std::cell::Cell::new(0);
        let clock = |after: u64| {
            looks.set(looks.get() + 1);
            start + Duration::from_micros(after)
        };
        for (kind, fenced, reply) in [(0x104, false, OK), (0x104, true, OK), (0x102, false, ERROR)] {
            meter.count(&bytes(kind, fenced), 0, Answer::Done, &reply);
        }
        meter.batch(start, || clock(10));
        meter.complete(&[], || clock(0));
        meter.batch(start, || clock(0));
        assert_eq!(looks.get(), 1);
        assert_eq!(of(stats.traffic.commands()), [("resource_unref", 1), ("resource_flush", 2)]);
        assert_eq!(of(stats.traffic.errors()), [("resource_unref", 1)]);
        let (queue, fence) = (stats.traffic.queue.times(), stats.traffic.fence.times());
        assert_eq!((queue.counts[2], queue.sum_us, fence.counts[2], fence.sum_us), (3, 30, 1, 10));
    }

    #[test]
    fn a_parked_command_took_from_its_batch_to_its_answer() {
        let stats = Arc::new(Stats::default());
        let (mut meter, start) = (Meter::new(stats.clone()), Instant::now());
        let after = |micros| start + Duration::from_micros(micros);
        for (ticket, fenced) in [(1, true), (2, false), (3, true)] {
            meter.count(&bytes(0x207, fenced), 0, Answer::Later(Ticket(ticket)), &[]);
        }
        meter.batch(start, || panic!("nothing is done"));
        let done = |ticket, reply: &[u8]| Completion { ticket: Ticket(ticket), reply: reply.to_vec() };
        meter.complete(&[done(1, &ERROR), done(9, &ERROR)], || after(1000));
        meter.complete(&[done(2, &OK)], || after(5));
        meter.forget();
        meter.complete(&[done(3, &OK)], || after(5));
        let (queue, fence) = (stats.traffic.queue.times(), stats.traffic.fence.times());
        assert_eq!((queue.sum_us, fence.sum_us), (1005, 1000));
        assert_eq!((queue.counts.iter().sum::<u64>(), fence.counts[5], fence.counts.iter().sum()), (2, 1, 1));
        assert_eq!(of(stats.traffic.errors()), [("submit_3d", 1)]);
    }

    #[test]
    fn what_is_no_command_is_counted_as_unknown_and_an_error_without_room_is_one() {
        let stats = Arc::new(Stats::default());
        let mut meter = Meter::new(stats.clone());
        for bytes in [vec![], bytes(7, false)] {
            let errors = meter.errors();
            stats.errors.add(1);
            meter.count(&bytes, errors, Answer::Done, &[]);
        }
        meter.count(&bytes(0x300, false), meter.errors(), Answer::Done, &[]);
        assert_eq!(of(stats.traffic.commands()), [("update_cursor", 1), ("unknown", 2)]);
        assert_eq!(of(stats.traffic.errors()), [("unknown", 2)]);
    }
}
