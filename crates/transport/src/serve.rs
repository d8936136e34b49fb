//! Front-ends come and go: who waits for them, one after the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use device::guest_log;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;

use crate::worker::Gone;

/// How long to wait before another try to accept, when the process is short of something.
const ACCEPT_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Where front-ends come from.
#[derive(Debug)]
pub enum Endpoint {
    /// One after the other, until told to stop.
    Listener(UnixListener),
    /// The one at the other end, until it hangs up.
    Connection(UnixStream),
}

/// Why a server had to stop.
#[derive(Debug, Error)]
pub enum ServeError {
    /// What it needs could not be opened, or waited for.
    #[error("Cannot {doing}")]
    System {
        /// What failed.
        doing: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
    /// The gpu thread ended unexpectedly.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// What was waited for is there.
    Readable,
    /// It is time to stop.
    Stop,
    /// Neither, so long.
    Timeout,
}

/// What every wait of a control thread ends with.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'a> {
    /// Readable when it is time to stop.
    pub stop: &'a OwnedFd,
    /// Readable once the gpu thread has ended.
    pub ended: &'a OwnedFd,
}

impl Watch<'_> {
    /// Waits for `fd`, for the word to stop, and for the gpu thread, whose end is an error.
    pub fn wait(&self, fd: BorrowedFd<'_>, limit: Option<Timespec>) -> Result<Woken, ServeError> {
        self.wait_either(fd, None, limit).map(|(woken, _)| woken)
    }

    /// As [`wait`](Self::wait), for one of two; says whether each is readable. Allocates nothing.
    pub fn wait_either(
        &self,
        first: BorrowedFd<'_>,
        second: Option<BorrowedFd<'_>>,
        limit: Option<Timespec>,
    ) -> Result<(Woken, [bool; 2]), ServeError> {
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = [watched(self.ended.as_fd()), watched(self.stop.as_fd()), watched(first), watched(first)];
        let count = match second {
            Some(second) => {
                fds[3] = watched(second);
                4
            }
            None => 3,
        };
        loop {
            match poll(&mut fds[..count], limit.as_ref()) {
                Ok(0) => return Ok((Woken::Timeout, [false; 2])),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(system("wait for a front-end")(error)),
            }
            let [ended, stopped, first, second] = std::array::from_fn(|index| !fds[index].revents().is_empty());
            return match (ended, stopped) {
                (true, _) => Err(Gone.into()),
                (false, true) => Ok((Woken::Stop, [false; 2])),
                (false, false) => Ok((Woken::Readable, [first, second])),
            };
        }
    }
}

/// Makes a listening socket one that can be waited for.
pub fn ready(endpoint: &Endpoint) -> Result<(), ServeError> {
    match endpoint {
        Endpoint::Listener(listener) => listener.set_nonblocking(true).map_err(system("use the listening socket")),
        Endpoint::Connection(_) => Ok(()),
    }
}

/// Serves front-ends, of a listener until told to stop. `converse` serves one, and says [`Woken::Stop`] when told to stop.
pub fn serve(
    endpoint: Endpoint,
    watch: Watch<'_>,
    name: &str,
    mut converse: impl FnMut(UnixStream) -> Result<Woken, ServeError>,
) -> Result<(), ServeError> {
    match endpoint {
        Endpoint::Connection(socket) => converse(socket).map(drop),
        Endpoint::Listener(listener) => listen(&listener, watch, name, converse),
    }
}

fn listen(
    listener: &UnixListener,
    watch: Watch<'_>,
    name: &str,
    mut converse: impl FnMut(UnixStream) -> Result<Woken, ServeError>,
) -> Result<(), ServeError> {
    while watch.wait(listener.as_fd(), None)? != Woken::Stop {
        match listener.accept() {
            Ok((socket, _)) => {
                if converse(socket)? == Woken::Stop {
                    break;
                }
            }
            // It went away before we came to it.
            Err(error) if Errno::from_io_error(&error).is_some_and(is_passing) => {}
            Err(error) => {
                guest_log!(error, "Cannot accept a front-end of {name}: {error}");
                if watch.wait(watch.stop.as_fd(), Some(ACCEPT_AGAIN))? != Woken::Timeout {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Errors of accept that concern only the front-end that did not come.
fn is_passing(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM)
}

/// Says what failed.
pub fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> ServeError {
    move |error| ServeError::System { doing, source: error.into() }
}
