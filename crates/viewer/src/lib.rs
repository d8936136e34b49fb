//! Shows frames to people, over VNC, on a web page and in a window, and takes what they type and point at.
//!
//! A process of its own: it gets pixels through [`frames`] and knows no virtio. Killing it is invisible to the guest, and another
//! one takes over its socket. One thread serves everybody; an idle screen costs no wake-up.
//!
//! The walk of a pixel: `hub` hears of a frame, `screen` reads what was damaged (once) and finds the tiles that changed, each
//! client's `unseen` tiles wait until it asks, `client` copies, packs and sends them, `wire` carries them.
//!
//! The walk of a key: `wire` and `rfb::decode` (VNC), `web` or `window` hear it, `keys` names it, `floor` says whether this person
//! may and whose turn it is, and sends it to the device on a socket of its own.

#![cfg_attr(not(feature = "window"), forbid(unsafe_code))]

mod args;
mod client;
mod floor;
pub mod fuzz;
mod hand;
mod hub;
mod keys;
mod link;
mod listen;
mod log;
mod rfb;
mod screen;
mod tiles;
mod tokens;
mod vnc;
mod web;
#[cfg_attr(not(feature = "window"), path = "window/none.rs")]
mod window;
mod wire;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use frames::{ViewerEnd, ViewerError};
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tracing::{info, warn};

pub use args::{Args, Monitor, NoWindow, WindowSpec};
pub use floor::Right;
pub use listen::{ListenAddress, ListenError, ListenFd, Listening};
pub use tokens::{Tokens, TokensError, TokensFile};
pub use web::guard;
pub use window::Window;

use floor::{Floor, Inputs, Which};
use hub::Hub;
use tokens::Door;

/// Wishes for another size are passed on this often. Stops a storm of resizes.
const RESIZE_EACH: Duration = Duration::from_millis(100);

/// What a viewer needs.
#[derive(Debug)]
pub struct Options {
    /// The way to the device.
    pub device: ViewerEnd,
    /// Sockets for VNC clients.
    pub vnc: Vec<Listening>,
    /// Sockets for browsers.
    pub web: Vec<Listening>,
    /// Windows on this desktop.
    pub window: Option<Window>,
    /// The lasting socket to the VM's keyboard and pointer.
    pub input: Option<OwnedFd>,
    /// The lasting socket to the VM's touch screen.
    pub touch: Option<OwnedFd>,
    /// Only who knows one of these is let in.
    pub tokens: Option<TokensFile>,
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
    /// Nobody can be let in.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The system refused.
    #[error("The viewer cannot run")]
    System(#[from] io::Error),
}

/// Runs a viewer until the device is gone. A window takes the calling thread, which must be the process' first.
pub fn run(mut options: Options) -> Result<(), RunError> {
    let window = options.window.take();
    let core = Core::new(options);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match window {
        None => core.run(runtime),
        Some(window) => {
            let (hub, handle) = (core.hub.clone(), runtime.handle().clone());
            window.run(hub, handle, move || core.run(runtime))
        }
    }
}

/// All but the window.
struct Core {
    hub: Arc<Hub>,
    vnc: Vec<Listening>,
    web: Vec<Listening>,
    tokens: Option<TokensFile>,
}

impl Core {
    fn new(options: Options) -> Self {
        let Options { device, vnc, web, input, touch, mut tokens, name, .. } = options;
        let door = tokens.as_mut().map_or_else(Door::open, |tokens| Door::guarded(tokens.first()));
        let floor = Floor::new(Inputs::begin(input, touch));
        Self { hub: Arc::new(Hub::new(device, name, floor, door)), vnc, web, tokens }
    }

    /// Serves until the device is gone.
    fn run(self, runtime: Runtime) -> Result<(), RunError> {
        let ended = runtime.block_on(self.serve());
        // Clients that do not read keep nobody waiting.
        runtime.shutdown_background();
        ended
    }

    async fn serve(self) -> Result<(), RunError> {
        let Self { hub, vnc, web, tokens } = self;
        // Only to learn when it is ready: for that a socket of messages is as good as a stream.
        let socket = UnixStream::from_std(hub.device()?.into())?;
        let room = Arc::new(Semaphore::new(vnc::MAX_CONNECTIONS));
        let (broken, mut failure) = mpsc::channel::<RunError>(1);
        for listening in vnc {
            info!("VNC on {}, head {}", listening.address()?, listening.head());
            let (listener, head) = listening.into_parts()?;
            let (hub, room, broken) = (hub.clone(), room.clone(), broken.clone());
            tokio::spawn(async move { broken.send(vnc::serve(listener, head, hub, room).await.into()).await });
        }
        if !web.is_empty() {
            let novnc = Arc::new(web::NoVnc::find());
            for listening in web {
                info!("Web page on http://{}/, head {}", listening.address()?, listening.head());
                let (listener, head) = listening.into_parts()?;
                let (hub, room, novnc, broken) = (hub.clone(), room.clone(), novnc.clone(), broken.clone());
                tokio::spawn(
                    async move { broken.send(web::serve(listener, head, hub, novnc, room).await.into()).await },
                );
            }
        }
        for which in [Which::Console, Which::Touch] {
            if let Some(socket) = hub.floor.socket(which) {
                let socket = std::os::unix::net::UnixStream::from(socket);
                socket.set_nonblocking(true)?;
                tokio::spawn(attend(hub.clone(), which, UnixStream::from_std(socket)?));
            }
        }
        if let Some(file) = tokens {
            // What can be waited for by a descriptor can be waited for as if it were a pipe.
            let watch = pipe::Receiver::from_owned_fd_unchecked(file.watch()?)?;
            let (hub, broken) = (hub.clone(), broken.clone());
            tokio::spawn(async move { broken.send(follow(file, watch, hub).await).await });
        }
        tokio::spawn(pass_wishes(hub.clone()));
        tokio::select! {
            ended = hear(&hub, &socket) => match ended {
                Err(RunError::Device(ViewerError::Closed)) => {
                    info!("The device is gone");
                    Ok(())
                }
                ended => ended,
            },
            Some(error) = failure.recv() => Err(error),
        }
    }
}

/// Passes wishes for other sizes on, at most ten times a second.
async fn pass_wishes(hub: Arc<Hub>) {
    loop {
        hub.wished.notified().await;
        sleep(RESIZE_EACH).await;
        hub.pass_wishes();
    }
}

/// Hears what a device for input says, and tells it what it had no room for, until it ends.
async fn attend(hub: Arc<Hub>, which: Which, socket: UnixStream) {
    let mut open = true;
    while open {
        let wants_write = hub.floor.wants_write(which);
        let interest = if wants_write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        tokio::select! {
            ready = socket.ready(interest) => {
                let Ok(ready) = ready else { return };
                open = begin_anew(&socket, ready, || hub.attend(which));
            }
            () = hub.floor.until_lost(which) => {}
        }
    }
}

/// Reads and writes all that can be, after which readiness begins anew.
fn begin_anew<T>(socket: &UnixStream, ready: Ready, act: impl FnOnce() -> T) -> T {
    let result = act();
    for (is, interest) in [(ready.is_readable(), Interest::READABLE), (ready.is_writable(), Interest::WRITABLE)] {
        if is {
            let _ = socket.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
    result
}

/// Follows the file of the tokens until it is replaced.
async fn follow(mut file: TokensFile, watch: pipe::Receiver, hub: Arc<Hub>) -> RunError {
    loop {
        if let Err(error) = watch.readable().await {
            return error.into();
        }
        let changed = file.has_changed();
        let _ = watch.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        if !changed {
            continue;
        }
        match file.read() {
            Ok(tokens) => {
                info!("The tokens changed");
                hub.change_tokens(tokens);
            }
            Err(replaced @ TokensError::Replaced(_)) => return replaced.into(),
            Err(error) => {
                // Whoever took a token out of it wants it to be gone now.
                warn!("Nobody is let in: {error}");
                hub.change_tokens(Tokens::default());
            }
        }
    }
}

/// Takes in what the device says, for ever.
async fn hear(hub: &Hub, socket: &UnixStream) -> Result<(), RunError> {
    loop {
        let interest = if hub.wants_write() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        tokio::select! {
            ready = socket.ready(interest) => {
                begin_anew(socket, ready?, || hub.hear())?;
            }
            () = hub.full.notified() => {}
        }
    }
}
