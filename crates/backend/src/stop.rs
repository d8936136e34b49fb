//! SIGTERM and SIGINT ask the device to end: it lets go of its VM, finishes what it writes, and ends with code 0.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// A descriptor that is readable from the first such signal on. A second one ends the process at once.
pub fn on_signals() -> io::Result<OwnedFd> {
    let (stop, told) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_default(signal, asked.clone())?;
        flag::register(signal, asked.clone())?;
        low_level::pipe::register(signal, told.try_clone()?)?;
    }
    Ok(stop)
}
