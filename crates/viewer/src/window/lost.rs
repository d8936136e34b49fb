//! The end of an X server, outlived.
//!
//! When the connection to its server breaks, Xlib calls a function, and ends the process when that returns: VNC clients and
//! browsers would lose their viewer because a desktop's session ended. So this function does not return. It gives back what the
//! windows have, and becomes what the process' first thread would be without windows: it waits for the rest.
//!
//! The one module of this crate with unsafe code: Xlib takes the function by a pointer, and has no safe binding.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tracing::{error, warn};
use x11_dl::xlib::{Display, Xlib};

use super::desk::Desk;
use crate::RunError;

/// What goes on without windows.
pub(super) struct Rest {
    pub(super) desk: Arc<Desk>,
    pub(super) thread: JoinHandle<Result<(), RunError>>,
}

static REST: Mutex<Option<Rest>> = Mutex::new(None);

/// From now on the loss of the X server costs the windows only.
pub(super) fn outlive(rest: Rest) {
    *REST.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
}

/// What goes on without windows, for who finds their end first.
pub(super) fn rest() -> Option<Rest> {
    REST.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Has Xlib call us when it loses its server. Where there is no Xlib there is nothing to lose.
pub(super) fn watch_xlib() {
    if let Ok(xlib) = Xlib::open() {
        // SAFETY: the library is loaded and is never unloaded, the function has the type that it declares, and it does not unwind.
        // It replaces the one that ends the process; nobody else in this process sets one.
        unsafe { (xlib.XSetIOErrorHandler)(Some(server_is_gone)) };
    }
}

/// Called by Xlib in the windows' thread. Never returns, and never unwinds into it.
extern "C" fn server_is_gone(_display: *mut Display) -> c_int {
    let ended = std::panic::catch_unwind(|| {
        // Without a rest there was no window yet: whoever starts viewers starts another one.
        let rest = rest()?;
        warn!("The X server is gone, and the windows with it; the virtual machine and all others who look go on");
        rest.desk.give_up();
        rest.thread.join().ok()
    });
    match ended {
        Ok(Some(Ok(()))) => exit(0),
        Ok(Some(Err(why))) => error!("{why}"),
        Ok(None) => error!("The X server went while the window opened"),
        Err(_) => {}
    }
    exit(1)
}
