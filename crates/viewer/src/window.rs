//! A window for each head on the desktop of whoever started the VM.
//!
//! The display server's events come to the process' first thread, the rest of the viewer runs on another one; what they share is
//! the hub, and `desk`, what the windows have in it. `app` gets the events, a `pane` is one window, `picture` knows what of it
//! is not on the screen yet, `placement` how pixels of the head become the window's, `x11` and `wayland` bring them there.
//!
//! All that is needed of the host is opened by [`Window::open`], before the viewer locks itself in: the connection to the
//! display server, the libraries that speak to it, its keyboard's map. No cursor theme and no font is ever read.
//!
//! A display server that goes takes the windows along and nothing else: see `lost`.

mod app;
mod canvas;
mod cursor;
mod desk;
mod hotkey;
mod lost;
mod overlay;
mod pane;
mod picture;
mod placement;
mod pointer;
mod wayland;
mod x11;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::{AddressFamily, SocketType, getpeername, sockopt};
use tokio::runtime::Handle;
use tracing::{debug, warn};
use winit::error::EventLoopError;
use winit::event_loop::EventLoop;
use winit::platform::wayland::EventLoopBuilderExtWayland;
use winit::platform::x11::EventLoopBuilderExtX11;

use crate::hub::Hub;
use crate::listen::inherited;
use crate::{RunError, WindowSpec};

use app::{App, Display, End, News};
use desk::Desk;
use lost::Rest;
use x11::{Server, Unusable};

/// Windows, connected to a display server. They open when it is known what the heads show.
pub struct Window {
    spec: WindowSpec,
    events: EventLoop<News>,
    display: Display,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
enum NoDisplay {
    #[error("Neither WAYLAND_DISPLAY nor DISPLAY names a display server")]
    Unnamed,
    #[error("The Wayland compositor at {path} does not answer: {source}")]
    Absent { path: PathBuf, source: std::io::Error },
    #[error("WAYLAND_SOCKET is {0:?}, which is no connection to a compositor that was inherited: unset it")]
    NotInherited(OsString),
    #[error(transparent)]
    X11(#[from] Unusable),
    #[error("{kind} cannot be used: {said} (it takes {})", kind.libraries())]
    Unusable { kind: Kind, said: String },
    #[error("The Wayland compositor takes no pixels: {0}")]
    Pixels(#[from] softbuffer::SoftBufferError),
}

/// Which kind of display server there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    X11,
    Wayland,
}

impl Kind {
    /// What is loaded for it, as long as nobody asks for a window nothing.
    fn libraries(self) -> &'static str {
        match self {
            Kind::X11 => "libX11, libX11-xcb, libXcursor, libXi, libxkbcommon and libxkbcommon-x11",
            Kind::Wayland => "libwayland-client and libxkbcommon",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::X11 => "The X server",
            Kind::Wayland => "The Wayland compositor",
        })
    }
}

impl Window {
    /// Connects to the display server. None, with a line in the log: there is none, and the viewer does without.
    pub(crate) fn open(spec: WindowSpec) -> Option<Self> {
        let opened = kind().and_then(|kind| {
            let panicked = |said: String| {
                let said = said.trim_end_matches('.').to_owned();
                Err(NoDisplay::Unusable { kind, said })
            };
            contained(|| Self::connect(spec, kind)).unwrap_or_else(panicked)
        });
        opened.map_err(|error| warn!("{error}: there is no window, all else goes on")).ok()
    }

    fn connect(spec: WindowSpec, kind: Kind) -> Result<Self, NoDisplay> {
        let server = match kind {
            Kind::X11 => Some(Rc::new(Server::connect()?)),
            Kind::Wayland => None,
        };
        let mut builder = EventLoop::with_user_event();
        match kind {
            Kind::X11 => builder.with_x11(),
            Kind::Wayland => builder.with_wayland(),
        };
        if kind == Kind::X11 {
            lost::watch_xlib();
        }
        let events = builder.build().map_err(|error| NoDisplay::Unusable { kind, said: reason(&error) })?;
        let display = match server {
            Some(server) => Display::X11(server),
            None => Display::Wayland(softbuffer::Context::new(events.owned_display_handle())?),
        };
        Ok(Self { spec, events, display })
    }

    /// Shows the windows until the last one is closed or the display server is gone, and ends when `serve` does, which is
    /// called in a thread of its own.
    pub(crate) fn run(
        self,
        hub: Arc<Hub>,
        runtime: Handle,
        serve: impl FnOnce() -> Result<(), RunError> + Send + 'static,
    ) -> Result<(), RunError> {
        let Self { spec, events, display } = self;
        let proxy = events.create_proxy();
        let desk = Arc::new(Desk::new(hub));
        let mut app = App::new(spec, display, desk.clone(), proxy.clone(), runtime);
        let thread = thread::Builder::new().name("viewer".into()).spawn(move || {
            let ended = serve();
            // Nobody hears it when there are no windows any more.
            let _ = proxy.send_event(News::Ended);
            ended
        })?;
        lost::outlive(Rest { desk, thread });
        let shown = contained(move || {
            let shown = events.run_app(&mut app);
            (shown, app.end)
        });
        // Else the other end of the windows was found first, and this thread is not here.
        let Some(Rest { desk, thread }) = lost::rest() else { return Ok(()) };
        let why = match shown {
            // Whoever closed the windows knows it, and so does who ended the virtual machine.
            Ok((_, Some(End::Closed | End::Served))) => None,
            Ok((_, Some(End::Gone(gone)))) => Some(gone.to_string()),
            Ok((ended, None)) => {
                debug!("The display server's events ended: {ended:?}");
                Some("The display server is gone".to_owned())
            }
            Err(panic) => Some(format!("The display server is gone ({panic})")),
        };
        if let Some(why) = why {
            warn!("{why}: the windows are gone; the virtual machine and all others who look go on");
        }
        desk.give_up();
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

/// What an error of winit says, without the line of its source.
fn reason(error: &EventLoopError) -> String {
    let text = error.to_string();
    text.rsplit(": ").next().unwrap_or(&text).to_owned()
}

/// Looks for a display server: Wayland first, for an X server may be there for its sake.
fn kind() -> Result<Kind, NoDisplay> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty());
    let x11 = named("DISPLAY").map(|_| Kind::X11);
    if let Some(number) = named("WAYLAND_SOCKET") {
        return if is_connection(&number) { Ok(Kind::Wayland) } else { Err(NoDisplay::NotInherited(number)) };
    }
    let Some(wayland) = named("WAYLAND_DISPLAY") else { return x11.ok_or(NoDisplay::Unnamed) };
    let path = PathBuf::from(named("XDG_RUNTIME_DIR").unwrap_or_default()).join(wayland);
    // Asked here, because who asks for an event loop gets one answer in the life of a process.
    match (UnixStream::connect(&path), x11) {
        (Ok(_), _) => Ok(Kind::Wayland),
        (Err(_), Some(x11)) => Ok(x11),
        (Err(source), None) => Err(NoDisplay::Absent { path, source }),
    }
}

/// Whether a number names a descriptor by which a compositor can be spoken to. A library would take it for its own unseen.
fn is_connection(number: &OsStr) -> bool {
    let Some(Ok(fd)) = number.to_str().and_then(|number| number.parse().ok()).map(inherited) else { return false };
    sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&fd) == Ok(SocketType::STREAM)
        && getpeername(&fd).is_ok()
}

/// Calls into libraries that panic when a display server behaves badly: what they say then is the error, not a report on the
/// standard error output.
fn contained<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    let said = Arc::new(Mutex::new(String::new()));
    let (here, hears) = (thread::current().id(), said.clone());
    let before = Arc::new(panic::take_hook());
    let others = before.clone();
    panic::set_hook(Box::new(move |info| {
        if thread::current().id() == here {
            let words = info.payload_as_str().unwrap_or("a panic without words").replace('\n', " ");
            *hears.lock().unwrap_or_else(PoisonError::into_inner) = words;
        } else {
            others(info);
        }
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(act));
    panic::set_hook(Box::new(move |info| before(info)));
    result.map_err(|_| std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::AsRawFd;

    #[test]
    fn only_a_connection_is_taken_for_a_compositor() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (frames, _device) = frames::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let is = |fd: i32| is_connection(OsStr::new(&fd.to_string()));
        assert!(is(ours.as_raw_fd()));
        assert!(!is(frames.as_raw_fd()) && !is(listener.as_raw_fd()) && !is(60_000) && !is(-1));
        assert!(!is_connection(OsStr::new("")) && !is_connection(OsStr::new("wayland-0")));
    }

    #[test]
    fn a_panic_of_a_library_becomes_an_error_with_its_words() {
        let panicked = contained(|| -> u32 { panic!("the server\nis mad") });
        assert_eq!(panicked.unwrap_err(), "the server is mad");
        assert_eq!(contained(|| 5), Ok(5));
    }
}
