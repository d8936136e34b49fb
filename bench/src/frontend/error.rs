//! What can go wrong between a front-end and a device.

use std::io;

/// An error of the front-end side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("Cannot {what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The device closed its end of the socket.
    #[error("The device hung up")]
    HungUp,
    /// The device did not answer in the time allowed.
    #[error("No answer in time to {0}")]
    TimedOut(&'static str),
    /// The device said something that the protocol does not allow.
    #[error("The device answered wrongly: {0}")]
    Protocol(String),
    /// An address that is not in the guest's memory.
    #[error("Guest address {address:#x} (+{length:#x}) is outside of the guest's memory")]
    OutsideMemory {
        /// First byte.
        address: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The guest's memory is used up.
    #[error("The guest's memory has no room for {0} more bytes")]
    MemoryFull(u64),
    /// Every descriptor of the ring is in use.
    #[error("The ring has no free descriptor")]
    RingFull,
    /// Something that the device does not offer.
    #[error("The device lacks {0}")]
    Lacks(String),
    /// What a front-end has to do first was not done.
    #[error("{0}")]
    Order(&'static str),
}

/// The result of a front-end's action.
pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// Turns the error into an [`Error`] that says what failed.
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: &'static str) -> Result<T> {
        self.map_err(|error| {
            let source = error.into();
            match source.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                    Error::HungUp
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TimedOut(what),
                _ => Error::Io { what, source },
            }
        })
    }
}
