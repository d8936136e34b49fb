//! The ways to the guest: a session with the console's device, and one with the touch screen's where there is one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use frames::{Input, InputError, InputSession, Leds, TouchPhase};
use tokio::sync::Notify;
use tracing::warn;

/// BTN_LEFT.
const LEFT: u16 = 0x110;

/// Which device of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Keyboard, pointer and wheel.
    Console,
    /// The touch screen.
    Touch,
}

/// The device was too busy: everything goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

#[derive(Debug)]
struct Line {
    session: InputSession,
    lost: Arc<Notify>,
}

impl Line {
    fn send(&mut self, head: u8, input: Input) -> Result<(), Lost> {
        let heard = self.session.send(head, input);
        // Closed: whoever waits for the session finds it out.
        let heard = heard.unwrap_or(false);
        if !heard {
            self.lost.notify_one();
        }
        heard.then_some(()).ok_or(Lost)
    }
}

/// The sessions.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    console: Option<Line>,
    touch: Option<Line>,
    /// The finger that is the pointer where there is no touch screen.
    finger: Option<u8>,
}

impl Inputs {
    /// Begins sessions through the sockets that last.
    pub(crate) fn begin(console: Option<OwnedFd>, touch: Option<OwnedFd>) -> Self {
        let line = |socket: OwnedFd| match InputSession::begin(socket) {
            Ok(session) => Some(Line { session, lost: Arc::default() }),
            // One can look all the same.
            Err(error) => {
                warn!("Nobody can type: {}", chain(&error));
                None
            }
        };
        Self { console: console.and_then(line), touch: touch.and_then(line), finger: None }
    }

    pub(crate) fn has(&self, which: Which) -> bool {
        self.line(which).is_some()
    }

    /// True when the guest can be reached in any way.
    pub(super) fn any(&self) -> bool {
        self.console.is_some() || self.touch.is_some()
    }

    fn line(&self, which: Which) -> Option<&Line> {
        match which {
            Which::Console => self.console.as_ref(),
            Which::Touch => self.touch.as_ref(),
        }
    }

    fn line_mut(&mut self, which: Which) -> &mut Option<Line> {
        match which {
            Which::Console => &mut self.console,
            Which::Touch => &mut self.touch,
        }
    }

    /// Sends an event where it belongs; what has no device there is none for this guest.
    pub(super) fn send(&mut self, head: u8, input: Input) -> Result<(), Lost> {
        match input {
            Input::Touch { slot, phase, x, y } if self.touch.is_none() => self.point(head, slot, phase, (x, y)),
            Input::Touch { .. } => self.touch.as_mut().map_or(Ok(()), |line| line.send(head, input)),
            _ => self.console.as_mut().map_or(Ok(()), |line| line.send(head, input)),
        }
    }

    /// The first finger points and presses the left button.
    fn point(&mut self, head: u8, slot: u8, phase: TouchPhase, (x, y): (u16, u16)) -> Result<(), Lost> {
        if *self.finger.get_or_insert(slot) != slot {
            return Ok(());
        }
        let Some(line) = &mut self.console else { return Ok(()) };
        line.send(head, Input::Pointer { x, y })?;
        match phase {
            TouchPhase::Down => line.send(head, Input::Button { code: LEFT, pressed: true }),
            TouchPhase::Move => Ok(()),
            TouchPhase::Up => {
                self.finger = None;
                line.send(head, Input::Button { code: LEFT, pressed: false })
            }
        }
    }

    /// Everything goes up.
    pub(super) fn release(&mut self) {
        self.finger = None;
        for line in [&mut self.console, &mut self.touch].into_iter().flatten() {
            // Lost: the session says it as soon as it can.
            let _ = line.send(0, Input::ReleaseAll);
        }
    }

    /// Reads and writes what waits for it. Some: the guest's keyboard has these lights.
    pub(super) fn attend(&mut self, which: Which) -> Option<Leds> {
        let place = self.line_mut(which);
        let line = place.as_mut()?;
        let leds = line.session.leds();
        let _ = line.session.flush();
        if line.session.is_closed() {
            warn!("Nobody can type: {}", InputError::Closed);
            *place = None;
        }
        leds.filter(|_| which == Which::Console)
    }

    pub(super) fn socket(&self, which: Which) -> Option<OwnedFd> {
        self.line(which)?.session.as_fd().try_clone_to_owned().ok()
    }

    pub(super) fn wants_write(&self, which: Which) -> bool {
        self.line(which).is_some_and(|line| line.session.wants_write())
    }

    pub(super) fn lost(&self, which: Which) -> Option<Arc<Notify>> {
        self.line(which).map(|line| line.lost.clone())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
