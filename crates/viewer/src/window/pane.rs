//! One window: it shows a head, and what happens over it goes to the guest.

mod hand;

use std::sync::Arc;
use std::time::{Duration, Instant};

use frames::Rect;
use tracing::debug;
use winit::dpi::{PhysicalPosition, PhysicalSize};
use winit::event_loop::ActiveEventLoop;
use winit::keyboard::{ModifiersState, PhysicalKey};
use winit::window::{CustomCursor, Window};

use super::canvas::{Broken, Canvas, Painted};
use super::cursor::Pointer;
use super::desk::Desk;
use super::overlay::Overlay;
use super::picture::Picture;
use super::pointer::{Fingers, Wheel};
use crate::floor::FloorNews;
use crate::hub::Update;
use crate::rfb::cursor::{CursorImage, hidden};
use crate::rfb::encodings::{Abilities, CursorKind};

/// A window that is pulled at has come to rest after that long: then the guest hears of it.
const REST: Duration = Duration::from_millis(250);

/// How long a notice is shown.
const NOTICE: Duration = Duration::from_secs(4);

/// Pixels that a size may lose or win on its way through a desktop whose pixels are one and a quarter of the monitor's.
const ROUNDED: u32 = 2;

/// What an event asks of whoever has the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Close this one.
    Close,
    /// Look at the head again: the window can be seen.
    Look,
    /// Look at it no more.
    LookAway,
}

/// What lies over the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Over {
    #[default]
    Nothing,
    Question,
    Notice(Instant),
}

/// One window.
pub(super) struct Pane {
    pub(super) head: u8,
    pub(super) window: Arc<Window>,
    canvas: Box<dyn Canvas>,
    /// Of an X server, which differs in small things.
    x11: bool,
    desk: Arc<Desk>,
    picture: Picture,
    /// News of the head that are not drawn yet.
    pending: Option<Update>,
    /// A picture was asked for.
    asked: bool,
    /// We look at the head; not while nobody can see the window.
    pub(super) looking: bool,
    /// Other windows lie over all of this one.
    occluded: bool,
    /// The size that we asked for: when it comes nobody pulled at the window.
    own_size: (u32, u32),
    /// When the guest hears of the window's size.
    rest: Option<Instant>,
    over: Over,
    guest_cursor: Arc<CursorImage>,
    shown: Option<(Pointer, Option<CustomCursor>)>,
    at: PhysicalPosition<f64>,
    modifiers: ModifiersState,
    /// A key that was for the window, until it goes up.
    eaten: Option<PhysicalKey>,
    pressed: u32,
    wheel: Wheel,
    fingers: Fingers,
    grabbed: bool,
    watching: bool,
    /// The guest hears what is typed.
    input: bool,
    /// Of the window, as long as there is nothing to say in it, and as it is.
    plain_title: String,
    title: String,
    /// Of the virtual machine.
    name: String,
}

/// What a window begins with.
pub(super) struct Beginning {
    pub(super) head: u8,
    pub(super) window: Arc<Window>,
    pub(super) canvas: Box<dyn Canvas>,
    pub(super) x11: bool,
    pub(super) desk: Arc<Desk>,
    /// Of the head.
    pub(super) size: (u32, u32),
    pub(super) own_size: (u32, u32),
    pub(super) name: String,
    pub(super) title: String,
}

impl Pane {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning { head, window, canvas, x11, desk, size, own_size, name, title } = beginning;
        let PhysicalSize { width, height } = window.inner_size();
        Self {
            head,
            window,
            canvas,
            x11,
            desk,
            picture: Picture::new(size, (width, height)),
            pending: None,
            asked: false,
            looking: true,
            occluded: false,
            own_size,
            rest: None,
            over: Over::Nothing,
            guest_cursor: Arc::new(hidden()),
            shown: None,
            at: PhysicalPosition::default(),
            modifiers: ModifiersState::empty(),
            eaten: None,
            pressed: 0,
            wheel: Wheel::default(),
            fingers: Fingers::default(),
            grabbed: false,
            watching: false,
            input: false,
            plain_title: title,
            title: String::new(),
            name,
        }
    }

    /// Begins to look at the head: what we have of it may be old.
    pub(super) fn look(&mut self, news: &FloorNews) {
        self.listen(news);
        let size = self.desk.at(self.head, |joined| {
            joined.set_abilities(self.abilities());
            let (width, height, _) = joined.begin();
            joined.request(true, Rect::new(0, 0, width, height));
            (width, height)
        });
        if let Some(size) = size.filter(|size| *size != self.picture.size()) {
            self.picture.change_size(size);
        }
        self.pending = None;
        self.poll();
    }

    fn abilities(&self) -> Abilities {
        // A cursor that somebody else moves is part of the picture.
        let cursor = if self.watching || !self.input { CursorKind::Drawn } else { CursorKind::Alpha };
        Abilities { cursor, desktop_size: true, ..Abilities::default() }
    }

    /// There may be news of the head.
    pub(super) fn poll(&mut self) {
        if !self.looking {
            return;
        }
        if self.pending.is_none() {
            let update = self.desk.at(self.head, |joined| joined.is_synced().then(|| joined.next_update()).flatten());
            self.pending = update.flatten();
        }
        if self.pending.is_some() {
            self.ask();
        }
    }

    /// Asks for a time to draw.
    fn ask(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.window.request_redraw();
        }
    }

    /// Other windows lie over all of this one, or do so no more.
    pub(super) fn occluded(&mut self, occluded: bool) -> Option<Wish> {
        self.occluded = occluded;
        Some(if occluded { Wish::LookAway } else { Wish::Look })
    }

    /// It is time to draw.
    pub(super) fn redraw(&mut self) -> Result<Option<Wish>, Broken> {
        self.asked = false;
        if self.occluded {
            return Ok(None);
        }
        let update = self.pending.take();
        let had_news = update.is_some();
        if let Some(update) = update {
            self.apply(update);
        }
        let painted = self.canvas.paint(&mut self.picture)?;
        match (painted, self.looking) {
            (Painted::Hidden, true) => return Ok(Some(Wish::LookAway)),
            (Painted::Shown, false) => return Ok(Some(Wish::Look)),
            (Painted::Hidden, false) => return Ok(None),
            (Painted::Shown, true) => {}
        }
        if had_news {
            let (width, height) = self.picture.size();
            self.desk.at(self.head, |joined| joined.request(true, Rect::new(0, 0, width, height)));
        }
        self.poll();
        Ok(None)
    }

    fn apply(&mut self, update: Update) {
        if let Some((width, height, _)) = update.size {
            debug!("Head {} is {width}x{height}", self.head);
            self.picture.change_size((width, height));
        }
        let copied = self.desk.at(self.head, |joined| {
            self.picture.take(&update.rects, |rect, pixels| joined.copy(rect, pixels));
        });
        if copied.is_some()
            && let Some(cursor) = update.cursor
        {
            self.guest_cursor = cursor;
        }
    }

    /// The window has another size.
    pub(super) fn resized(&mut self, size: PhysicalSize<u32>) {
        let size = (size.width.max(1), size.height.max(1));
        self.picture.change_window(size.0, size.1);
        let is_own = is_near(size, self.own_size);
        self.rest = (!is_own && size != self.picture.size()).then(|| Instant::now() + REST);
        if !is_own {
            // From now on it is the person's.
            self.own_size = (0, 0);
        }
        self.ask();
    }

    /// The window came to a monitor of another density. Some: the size that it keeps, in that monitor's pixels.
    pub(super) fn keeps_size(&mut self) -> Option<PhysicalSize<u32>> {
        self.ask();
        (self.own_size != (0, 0)).then(|| PhysicalSize::new(self.own_size.0, self.own_size.1))
    }

    /// The next time at which something is to be done.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let notice = match self.over {
            Over::Notice(until) => Some(until),
            _ => None,
        };
        [self.rest, notice].into_iter().flatten().min()
    }

    /// Does what it is time for.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.rest.is_some_and(|rest| rest <= now) {
            self.rest = None;
            let Rect { width, height, .. } = self.picture.placement().window();
            if (width, height) != self.picture.size() {
                let outcome = self.desk.resize(self.head, width, height);
                debug!("Head {} shall be {width}x{height}: {outcome:?}", self.head);
            }
        }
        if matches!(self.over, Over::Notice(until) if until <= now) {
            self.cover(Over::Nothing);
        }
    }

    fn cover(&mut self, over: Over) {
        self.over = over;
        let scale = (self.window.scale_factor().round() as u32).clamp(1, 4);
        let overlay = match over {
            Over::Nothing => None,
            Over::Question => Some(Overlay::close(&self.name, scale)),
            Over::Notice(_) if self.watching => {
                Some(Overlay::notice("Somebody else controls: Ctrl+Alt+T takes control", scale))
            }
            Over::Notice(_) => Some(Overlay::notice("This virtual machine takes no keys and no pointer", scale)),
        };
        self.picture.set_overlay(overlay);
        self.ask();
    }

    /// Says for a while why nothing came of what the person did.
    fn explain(&mut self) {
        if self.over != Over::Question {
            self.cover(Over::Notice(Instant::now() + NOTICE));
        }
    }

    /// Somebody else may control now.
    pub(super) fn listen(&mut self, news: &FloorNews) {
        let watching = self.desk.is_watching(news);
        if (watching, news.input) != (self.watching, self.input) {
            (self.watching, self.input) = (watching, news.input);
            self.desk.at(self.head, |joined| joined.set_abilities(self.abilities()));
            if matches!(self.over, Over::Notice(_)) {
                self.cover(Over::Nothing);
            }
        }
        self.entitle();
    }

    fn entitle(&mut self) {
        let state = match (self.watching, self.grabbed) {
            (true, _) => " - watching, Ctrl+Alt+T takes control",
            (false, true) => " - Ctrl+Alt+G frees the pointer",
            (false, false) => "",
        };
        let title = format!("{}{state}", self.plain_title);
        if title != self.title {
            self.window.set_title(&title);
            self.title = title;
        }
    }

    /// Shows the pointer that belongs here now.
    pub(super) fn point(&mut self, event_loop: &ActiveEventLoop) {
        let at = self.at;
        let ours = self.over == Over::Question || self.watching || !self.input;
        let pointer = if ours || !self.picture.placement().is_inside(at.x, at.y) {
            Pointer::Arrow
        } else {
            Pointer::of_guest(&self.guest_cursor, self.picture.placement().zoom())
        };
        if self.shown.as_ref().is_some_and(|(shown, _)| *shown == pointer) {
            return;
        }
        let cursor = match pointer.source(self.x11) {
            None => None,
            Some(Ok(source)) => Some(event_loop.create_custom_cursor(source)),
            Some(Err(error)) => {
                debug!("A cursor that cannot be shown: {error}");
                None
            }
        };
        if let Some(cursor) = &cursor {
            self.window.set_cursor(cursor.clone());
        }
        self.window.set_cursor_visible(cursor.is_some());
        self.shown = Some((pointer, cursor));
    }
}

/// True for a size that differs by no more than what a desktop rounds that counts in larger pixels.
fn is_near((width, height): (u32, u32), other: (u32, u32)) -> bool {
    width.abs_diff(other.0) <= ROUNDED && height.abs_diff(other.1) <= ROUNDED
}
