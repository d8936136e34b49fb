//! The viewer's end: a session that remembers what was lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Begin, Did, Input, Leds, MAGIC, MAX_MESSAGE};
use crate::VERSION;
use crate::socket::{self, Received, Sent};

/// Why nobody can type.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The device ended the session, or is gone.
    #[error("The device takes no input from this viewer any more")]
    Closed,
    /// It does not listen, so that there is no room for another viewer.
    #[error("The device does not hear that a viewer began")]
    Busy,
    /// The socket cannot be used.
    #[error("The socket for input cannot be used")]
    Socket(#[from] std::io::Error),
}

/// The viewer's end of the seam for input. It never blocks. Dropped, or dead with its process: all that is down goes up.
#[derive(Debug)]
pub struct InputSession {
    socket: OwnedFd,
    /// Something found no room: all that is down has to go up first.
    lost: bool,
    closed: bool,
}

impl InputSession {
    /// Begins a session through the socket that lasts, perhaps inherited from a viewer that died. A session that is still
    /// going on, of whomever, ends.
    pub fn begin(lasting: OwnedFd) -> Result<Self, InputError> {
        let (ours, theirs) = crate::pair()?;
        let mut bytes = [0; MAX_MESSAGE];
        let begin = Begin { magic: MAGIC, version: VERSION };
        let words = postcard::to_slice(&begin, &mut bytes).map_err(std::io::Error::other)?;
        match socket::send(lasting.as_fd(), words, &[], Some(theirs.as_fd())) {
            Sent::Whole => Ok(Self { socket: ours, lost: false, closed: false }),
            Sent::Full => Err(InputError::Busy),
            Sent::Closed => Err(InputError::Closed),
        }
    }

    /// Passes on what a person did. False: the device is too busy to hear it; it will be told that everything goes up
    /// before the next event, or by [`Self::flush`].
    pub fn send(&mut self, head: u8, input: Input) -> Result<bool, InputError> {
        let heard = self.flush()? && self.say(head, input)?;
        self.lost |= !heard;
        Ok(heard)
    }

    /// True when something was lost: wait for writable too, then call [`Self::flush`], so that no key stays down when
    /// nobody does anything any more.
    pub fn wants_write(&self) -> bool {
        self.lost && !self.closed
    }

    /// Says that everything goes up if something was lost. False: there is no room for that either.
    pub fn flush(&mut self) -> Result<bool, InputError> {
        if self.lost && self.say(0, Input::ReleaseAll)? {
            self.lost = false;
        }
        Ok(!self.lost)
    }

    /// The newest lights of the guest's keyboard, if the device said any since the last call. Call it when the session is
    /// readable; then see whether it [`Self::is_closed`].
    pub fn leds(&mut self) -> Option<Leds> {
        let mut bytes = [0; MAX_MESSAGE];
        let mut newest = None;
        while !self.closed {
            match socket::receive(self.socket.as_fd(), &mut bytes) {
                Received::Message(length, _) => match postcard::from_bytes(&bytes[..length]) {
                    Ok(leds) => newest = Some(leds),
                    Err(_) => self.closed = true,
                },
                Received::Nothing => break,
                Received::Garbage | Received::Closed => self.closed = true,
            }
        }
        newest
    }

    /// True when [`Self::leds`] or [`Self::send`] found the device's end closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn say(&mut self, head: u8, input: Input) -> Result<bool, InputError> {
        let mut bytes = [0; MAX_MESSAGE];
        let words = postcard::to_slice(&Did { head, input }, &mut bytes).map_err(std::io::Error::other)?;
        match socket::send(self.socket.as_fd(), words, &[], None) {
            Sent::Whole => Ok(true),
            Sent::Full => Ok(false),
            Sent::Closed => {
                self.closed = true;
                Err(InputError::Closed)
            }
        }
    }
}

impl AsFd for InputSession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
