//! Tickets: how a page's RFB WebSocket shows that it belongs to the person at its control WebSocket.
//!
//! A ticket is 128 random bits, good for one connection, and for as long as the control WebSocket is open. So the token itself is in
//! no address, and what is in one is worth nothing once it was used.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::floor::Seat;

/// Bytes of a ticket.
const BYTES: usize = 16;

/// A ticket.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ticket([u8; BYTES]);

impl Ticket {
    fn new() -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        let mut filled = 0;
        while filled < BYTES {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
        }
        Ok(Self(bytes))
    }

    /// Reads what a page shows; none: no ticket looks like this.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * BYTES {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let digit = |letter: u8| char::from(letter).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
        }
        Some(Self(bytes))
    }

    /// As it is told to the page.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

/// Tickets that nobody has used yet: at most one for each page.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<Vec<(Ticket, Place)>>);

/// What a ticket is for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) seat: Arc<Seat>,
    gone: watch::Receiver<()>,
}

impl Place {
    /// Waits until the page's control WebSocket is closed.
    pub(super) async fn gone(mut self) {
        while self.gone.changed().await.is_ok() {}
    }
}

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, Vec<(Ticket, Place)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a ticket: whoever shows it first gets the place.
    pub(super) fn redeem(&self, shown: &Ticket) -> Option<Place> {
        let mut tickets = self.lock();
        let at = tickets.iter().position(|(ticket, _)| ticket.0.ct_eq(&shown.0).into())?;
        Some(tickets.swap_remove(at).1)
    }
}

/// A page's seat, for as long as its control WebSocket is open. Dropped: its RFB WebSocket ends too.
#[derive(Debug)]
pub(super) struct Page {
    tickets: Arc<Tickets>,
    place: Place,
    _open: watch::Sender<()>,
}

impl Page {
    pub(super) fn open(tickets: Arc<Tickets>, seat: Seat) -> Self {
        let (open, gone) = watch::channel(());
        Self { tickets, place: Place { seat: Arc::new(seat), gone }, _open: open }
    }

    pub(super) fn seat(&self) -> &Seat {
        &self.place.seat
    }

    /// Another ticket; one that was not used is good no more.
    pub(super) fn ticket(&self) -> io::Result<Ticket> {
        let ticket = Ticket::new()?;
        self.forget();
        self.tickets.lock().push((ticket.clone(), self.place.clone()));
        Ok(ticket)
    }

    fn forget(&self) {
        self.tickets.lock().retain(|(_, place)| place.seat.id() != self.place.seat.id());
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_was_written_and_is_in_no_log() {
        let ticket = Ticket::new().unwrap();
        assert_eq!(Ticket::parse(&ticket.text()), Some(ticket.clone()));
        assert_ne!(Ticket::new().unwrap(), ticket);
        assert_eq!(format!("{ticket:?}"), "Ticket");
        for wrong in ["", "0", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32), &"+0".repeat(16), &"é".repeat(16)] {
            assert_eq!(Ticket::parse(wrong), None, "{wrong}");
        }
    }
}
