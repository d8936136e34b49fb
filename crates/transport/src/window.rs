//! Memory of the host in the guest's address space: who maps it there.
//!
//! A device asks for changes in an order, and that is the order in which the front-end hears of them. None is sent between
//! the moment a stop began and the next start: QEMU 11.1 does not survive one. Whoever waits for an answer then is answered at
//! once, as failed, and
//!
//! - a map that was not sent never is, and one that succeeds later is undone;
//! - an unmap is carried out all the same, before whatever is asked for later.

mod requests;

use std::time::{Duration, Instant};

use device::{Ticket, WindowRequest};

pub(crate) use requests::{Requests, place, ticket};

/// How long a device waits for a front-end's answer: a guest's kernel waits for its map without limit.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// A front-end that maps memory of the host into shared memory regions. No method blocks.
///
/// Each request that was [asked](Self::ask) for is answered by [`poll`](Self::poll) or [`clear`](Self::clear), exactly once. An
/// unmap that failed is to be taken for done: nothing is there, or nothing will be before anything else is.
pub trait Mapper {
    /// Takes a request, after those before it.
    fn ask(&mut self, request: WindowRequest);

    /// Sends what can be sent and appends the answers that came: whose request, and whether it was done. Cheap when there is
    /// nothing.
    fn poll(&mut self, now: Instant, answers: &mut Vec<(Ticket, bool)>);

    /// When [`poll`](Self::poll) is due although nothing came.
    fn deadline(&self) -> Option<Instant>;

    /// The device forgets all it asked for: what is mapped is to be unmapped. What is still open is answered as failed.
    fn clear(&mut self, answers: &mut Vec<(Ticket, bool)>);
}
