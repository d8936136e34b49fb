//! The device over vhost-user: the VMM's words on a Unix socket, the guest's in shared memory.
//!
//! Two threads: *control* (the caller's) reads messages, never touches the device and answers at once; *gpu* waits on the
//! kicks, executes and signals. A front-end's mistake ends its connection, never the process.

pub mod answers;
pub mod channel;
mod control;
mod dialect;
mod eventfd;
mod exports;
pub mod memory;
pub mod message;
pub mod replay;
mod server;
mod window;

use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use crate::serve::{Endpoint, ServeError};
use device::{Incidents, VirtioDevice};
pub use server::Server;

/// What a server can be told besides its device.
pub struct Options {
    /// Called on the control thread with the socket of a front-end that shows the picture itself; each replaces the one
    /// before.
    pub on_gpu_socket: Box<dyn FnMut(OwnedFd) + Send>,
    /// Where panics and vanished memory are counted.
    pub stats: Option<Arc<dyn Incidents>>,
    /// What the device's thread is called, at most 15 bytes, and its front-end in the log: a process may serve several
    /// devices.
    pub name: String,
    /// Readable when it is time to stop.
    pub stop: Option<OwnedFd>,
}

impl Default for Options {
    fn default() -> Self {
        Self { on_gpu_socket: Box::new(drop), stats: None, name: "gpu".into(), stop: None }
    }
}

/// Serves front-ends: [`Server::prepare`] and [`Server::run`] in one.
pub fn serve(endpoint: Endpoint, device: Box<dyn VirtioDevice>, options: Options) -> Result<(), ServeError> {
    Server::prepare(endpoint, device, options)?.run()
}

#[cfg(test)]
mod tests;
