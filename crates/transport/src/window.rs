//! Memory of the host in the guest's address space: who maps it there.
//!
//! A device asks for changes in an order, and that is the order in which the front-end hears of them. None is sent between
//! the moment a stop began and the next start: QEMU 11.1 does not survive one. What is not sent then:
//!
//! - a map is answered as failed, at once; so is one whose answer has not come, which is undone should it come later;
//! - an unmap is remembered, and sent before anything else after the next start.

use std::time::{Duration, Instant};

use device::{Ticket, WindowRequest};

/// How long a front-end may take to answer. A guest's kernel waits for its map without limit.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// A front-end that maps memory of the host into shared memory regions. No method blocks.
///
/// Each request that was [asked](Self::ask) is answered by [`poll`](Self::poll) or [`clear`](Self::clear) exactly once.
pub trait Mapper {
    /// Takes a request, after those before it.
    fn ask(&mut self, request: WindowRequest);

    /// Sends what can be sent and appends the answers that came: whose request, and whether it was done.
    fn poll(&mut self, now: Instant, answers: &mut Vec<(Ticket, bool)>);

    /// When [`poll`](Self::poll) is due although nothing came.
    fn deadline(&self) -> Option<Instant>;

    /// The device forgets all it asked for: what is mapped will not be. What is still open is answered as failed.
    fn clear(&mut self, answers: &mut Vec<(Ticket, bool)>);
}

/// Whom a request is of.
pub(crate) fn ticket(request: &WindowRequest) -> Ticket {
    match request {
        WindowRequest::Map(map) => map.ticket,
        WindowRequest::Unmap(unmap) => unmap.ticket,
    }
}
