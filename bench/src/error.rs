//! What can go wrong in a measurement.

use crate::frontend;

/// An error of a measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("Cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The conversation with the daemon went wrong.
    #[error(transparent)]
    Talk(#[from] frontend::Error),
    /// The daemon did something else than what is measured.
    #[error("{0}")]
    NotDone(String),
}

/// The result of a measurement.
pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// Turns the error into an [`Error`] that says what failed.
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Io { what: what.into(), source: error.into() })
    }
}
