//! Shows frames to people: VNC and a web page.
//!
//! A process of its own: it gets pixels through [`frames`] and knows no virtio. Killing it is invisible to the guest, and another
//! one takes over its socket. One thread serves everybody; an idle screen costs no wake-up.
//!
//! The walk of a pixel: `hub` hears of a frame, `screen` reads what was damaged (once) and finds the tiles that changed, each
//! client's `unseen` tiles wait until it asks, `client` copies, packs and sends them, `wire` carries them.

#![forbid(unsafe_code)]

mod args;
mod client;
pub mod fuzz;
mod hub;
mod link;
mod listen;
mod rfb;
mod screen;
mod tiles;
mod vnc;
mod web;
mod wire;

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;

use frames::{ViewerEnd, ViewerError};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tracing::info;

pub use args::Args;
pub use listen::{ListenAddress, ListenError, ListenFd, Listening};

use hub::Hub;

/// What a viewer needs.
#[derive(Debug)]
pub struct Options {
    /// The way to the device.
    pub device: ViewerEnd,
    /// Sockets for VNC clients.
    pub vnc: Vec<Listening>,
    /// Sockets for browsers.
    pub web: Vec<Listening>,
    /// Shown instead of the name that the device says.
    pub name: Option<String>,
}

/// Why a viewer ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nobody could connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The device said what cannot be, or speaks another version.
    #[error(transparent)]
    Device(#[from] ViewerError),
    /// The fd of the device's socket is not there.
    #[error("File descriptor {fd} is not the device's socket")]
    Fd {
        /// Its number.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
    /// The system refused.
    #[error("The viewer cannot run")]
    System(#[from] io::Error),
}

/// Runs a viewer until the device is gone.
pub fn run(options: Options) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(options));
    // Clients that do not read keep nobody waiting.
    runtime.shutdown_background();
    ended
}

async fn serve(options: Options) -> Result<(), RunError> {
    let Options { device, vnc, web, name } = options;
    // Only to learn when it is ready: for that a socket of messages is as good as a stream.
    let socket = UnixStream::from_std(device.as_fd().try_clone_to_owned()?.into())?;
    let hub = Arc::new(Hub::new(device, name));
    let room = Arc::new(Semaphore::new(vnc::MAX_CONNECTIONS));
    let (broken, mut failure) = tokio::sync::mpsc::channel::<io::Error>(1);
    for listening in vnc {
        info!("VNC on {}, head {}", listening.address()?, listening.head());
        let (listener, head) = listening.into_parts()?;
        let (hub, room, broken) = (hub.clone(), room.clone(), broken.clone());
        tokio::spawn(async move { broken.send(vnc::serve(listener, head, hub, room).await).await });
    }
    if !web.is_empty() {
        let novnc = Arc::new(web::NoVnc::find());
        for listening in web {
            info!("Web page on http://{}/, head {}", listening.address()?, listening.head());
            let (listener, head) = listening.into_parts()?;
            let (hub, room, novnc, broken) = (hub.clone(), room.clone(), novnc.clone(), broken.clone());
            tokio::spawn(async move { broken.send(web::serve(listener, head, hub, novnc, room).await).await });
        }
    }
    tokio::select! {
        ended = hear(&hub, &socket) => match ended {
            Err(RunError::Device(ViewerError::Closed)) => {
                info!("The device is gone");
                Ok(())
            }
            ended => ended,
        },
        Some(error) = failure.recv() => Err(error.into()),
    }
}

/// Takes in what the device says, for ever.
async fn hear(hub: &Hub, socket: &UnixStream) -> Result<(), RunError> {
    loop {
        let interest = if hub.wants_write() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        tokio::select! {
            ready = socket.ready(interest) => {
                let ready = ready?;
                // All is read and written after this, so that readiness begins anew.
                let mut heard = Ok(());
                for (is, interest) in [(ready.is_readable(), Interest::READABLE), (ready.is_writable(), Interest::WRITABLE)] {
                    if is {
                        let _ = socket.try_io(interest, || {
                            heard = hub.hear();
                            Err::<(), _>(io::ErrorKind::WouldBlock.into())
                        });
                    }
                }
                heard?;
            }
            () = hub.full.notified() => {}
        }
    }
}
