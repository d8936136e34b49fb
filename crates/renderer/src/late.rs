//! For tests: a renderer that answers when it likes.
//!
//! The device must give the same replies through it as through the renderer inside it, whatever the seed.

mod three_d;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use device::{Pages, Pixels, Progress, Rendered, Renderer, ResourceDesc, Ticket, Transfer};
use protocol::{MemEntry, ReplyError, ResourceId};
use rustix::event::{EventfdFlags, eventfd};

/// How often a [`Late`] does what: chances in 256 for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mood {
    /// All randomness comes from here.
    pub seed: u64,
    /// The most events (calls of any method) that an answer waits, at least 1; with 0 nothing is late.
    pub delay: u8,
    /// Answers that never come.
    pub never: u8,
    /// Answers that come a second time, which no renderer may do.
    pub twice: u8,
    /// Requests that fail and are not carried out.
    pub fail: u8,
    /// Pixels that are not there when asked for.
    pub blind: u8,
}

impl Mood {
    /// Late and out of order, but true to its word.
    pub fn honest(seed: u64) -> Self {
        Self { seed, delay: 5, never: 0, twice: 0, fail: 0, blind: 0 }
    }
}

/// Carries each request out at once and answers some events later, in another order, or never.
#[derive(Debug)]
pub struct Late<R> {
    inner: R,
    mood: Mood,
    state: u64,
    now: u64,
    waiting: Vec<Waiting>,
    /// Readable while somebody waits.
    ready: OwnedFd,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: u64,
    /// Order among those that are due together.
    order: u64,
    rendered: Rendered,
}

impl<R> Late<R> {
    /// Puts off what `inner` answers.
    pub fn new(inner: R, mood: Mood) -> io::Result<Self> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inner, mood, state: mood.seed, now: 0, waiting: Vec::new(), ready })
    }

    /// The renderer inside.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// splitmix64: small, and the same everywhere for one seed.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, of_256: u8) -> bool {
        of_256 != 0 && self.random() % 256 < u64::from(of_256)
    }

    fn answer(&mut self, ticket: Ticket, work: impl FnOnce(&mut R) -> Progress) -> Progress {
        self.now += 1;
        let progress = match self.chance(self.mood.fail) {
            true => Progress::Done(Err(ReplyError::OutOfMemory)),
            false => work(&mut self.inner),
        };
        let Progress::Done(result) = progress else { return progress };
        if self.chance(self.mood.never) {
            return Progress::Later;
        }
        // One in so many comes at once: the device must not rely on lateness either.
        let delay = self.random() % (u64::from(self.mood.delay) + 1);
        if delay == 0 {
            return progress;
        }
        for _ in 0..1 + u8::from(self.chance(self.mood.twice)) {
            let order = self.random();
            let rendered = Rendered { ticket, result };
            self.waiting.push(Waiting { due: self.now + delay, order, rendered });
        }
        // A counter that is already full is readable all the same.
        let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        Progress::Later
    }

    /// Appends the answers that are due.
    fn give(&mut self, done: &mut Vec<Rendered>) {
        self.now += 1;
        let now = self.now;
        let mut due: Vec<Waiting> = self.waiting.extract_if(.., |waiting| waiting.due <= now).collect();
        due.sort_by_key(|waiting| waiting.order);
        done.extend(due.iter().map(|waiting| waiting.rendered));
        if self.waiting.is_empty() {
            // Nothing to read is as good.
            let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
        }
    }
}

impl<R: Renderer> Renderer for Late<R> {
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress {
        self.answer(ticket, |inner| inner.create(ticket, resource, desc))
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.now += 1;
        self.inner.destroy(resource);
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        self.answer(ticket, |inner| inner.attach(ticket, resource, entries))
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        self.answer(ticket, |inner| inner.detach(ticket, resource))
    }

    fn transfer_to_host(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        transfer: Transfer,
        pages: &Pages<'_>,
    ) -> Progress {
        self.answer(ticket, |inner| inner.transfer_to_host(ticket, resource, transfer, pages))
    }

    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>> {
        self.now += 1;
        if self.chance(self.mood.blind) {
            return None;
        }
        self.inner.pixels(resource, shared)
    }

    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError> {
        self.now += 1;
        self.inner.restore(resource, pixels)
    }

    /// What is still on its way comes all the same: the device has to know that nobody waits for it any more.
    fn reset(&mut self) {
        self.now += 1;
        self.inner.reset();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn poll(&mut self, done: &mut Vec<Rendered>) {
        self.give(done);
        self.inner.poll(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Null;

    fn readable(late: &Late<Null>) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&late.ready, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    /// The tickets in the order in which a hundred requests were answered, those at once included.
    fn order(mood: Mood) -> Vec<u64> {
        let mut late = Late::new(Null, mood).unwrap();
        let mut order = Vec::new();
        for ticket in 0..100 {
            match late.detach(Ticket(ticket), ResourceId(1)) {
                Progress::Done(result) => {
                    assert_eq!(result.is_err(), mood.fail == 255);
                    order.push(ticket);
                }
                Progress::Later => {}
            }
        }
        let mut done = Vec::new();
        for _ in 0..=mood.delay {
            late.poll(&mut done);
        }
        assert!(!readable(&late));
        order.extend(done.iter().map(|rendered| rendered.ticket.0));
        order
    }

    #[test]
    fn every_answer_comes_once_in_an_order_that_the_seed_decides() {
        let first = order(Mood::honest(1));
        assert_eq!(first, order(Mood::honest(1)));
        assert_ne!(first, order(Mood::honest(2)));
        let mut sorted = first.clone();
        sorted.sort();
        assert_ne!(first, sorted);
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn without_delay_it_is_the_renderer_inside() {
        assert_eq!(order(Mood { delay: 0, ..Mood::honest(1) }), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn answers_get_lost_and_come_twice_when_wanted() {
        let never = order(Mood { never: 128, ..Mood::honest(1) }).len();
        assert!((20..80).contains(&never), "{never}");
        let twice = order(Mood { twice: 128, ..Mood::honest(1) }).len();
        assert!((110..180).contains(&twice), "{twice}");
    }

    #[test]
    fn the_descriptor_is_readable_while_an_answer_is_to_come() {
        let mut late = Late::new(Null, Mood { delay: 1, ..Mood::honest(0) }).unwrap();
        assert!(!readable(&late));
        while late.detach(Ticket(1), ResourceId(1)) != Progress::Later {}
        assert!(readable(&late));
        let mut done = Vec::new();
        late.poll(&mut done);
        assert_eq!(done, [Rendered { ticket: Ticket(1), result: Ok(()) }]);
        assert!(!readable(&late));
    }
}
