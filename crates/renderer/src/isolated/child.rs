//! The process of a library: does what the other end of its socket says.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::library::{Library, Sink};

/// Serves `socket` until it hangs up. `make` starts the library.
pub fn run(socket: OwnedFd, make: impl FnOnce(Arc<dyn Sink>) -> Result<Box<dyn Library>, String>) -> io::Result<()> {
    let _ = (socket, make);
    Ok(())
}
