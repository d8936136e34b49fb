//! One head: what the device shows there, and our copy of it.

use std::sync::Arc;

use frames::{Damage, Geometry, MAX_DIMENSION, Rect, ScreenLayout, View};

use crate::rfb::cursor::CursorImage;
use crate::screen::{MAX_PIXELS, Screen};
use crate::tiles::Tiles;

/// The desktop when nothing is shown and no monitor says a size.
pub(super) const EMPTY: (u32, u32) = (640, 480);

/// A head as the status page tells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct HeadStatus {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The guest shows something.
    pub(crate) showing: bool,
    /// It shows more than fits here.
    pub(crate) too_large: bool,
    pub(crate) viewers: usize,
}

/// What is known of a head.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) layout: ScreenLayout,
    pub(super) view: Option<View>,
    /// Our copy, while somebody looks.
    pub(super) screen: Option<Screen>,
    /// `screen` is a copy of `view`, not the black that stands for none.
    live: bool,
    pub(super) cursor: Option<Arc<CursorImage>>,
    pub(super) pointer: (i32, i32),
    /// A credit is out; true: also for moves of the pointer.
    pub(super) credit: Option<bool>,
    /// Updates that came.
    pub(super) updates: u64,
    pub(super) wish: Option<(u32, u32)>,
}

impl Head {
    /// The size of its desktop: the picture's, else the monitor's.
    pub(super) fn size(&self) -> (u32, u32) {
        let fits = |(width, height): (u32, u32)| is_possible(width, height);
        let picture = self.view.as_ref().map(|view| (view.geometry().width, view.geometry().height));
        let monitor = Some((self.layout.rect.width, self.layout.rect.height)).filter(|_| self.layout.enabled);
        picture.filter(|size| fits(*size)).or(monitor.filter(|size| fits(*size))).unwrap_or(EMPTY)
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.geometry().rect().area() > MAX_PIXELS)
    }

    pub(super) fn cursor_rect(&self) -> Rect {
        let (width, height) = self.size();
        let (x, y) = self.pointer;
        self.cursor.as_ref().map(|cursor| cursor.covers(x, y, width, height)).unwrap_or_default()
    }

    /// Brings our copy up to date. Returns what changed; none: everything, it is another picture.
    pub(super) fn refresh(&mut self, damage: &Damage) -> Option<Tiles> {
        let (width, height) = self.size();
        let view = self.view.as_ref().filter(|view| {
            let Geometry { width: w, height: h, .. } = *view.geometry();
            (w, h) == (width, height)
        });
        let mut changed = Tiles::none(width, height);
        match (&mut self.screen, view) {
            (Some(screen), Some(view)) if self.live && screen.size() == (width, height) => {
                screen.read(view, damage, &mut changed);
                Some(changed)
            }
            (Some(screen), None) if !self.live && screen.size() == (width, height) => Some(changed),
            (screen, view) => {
                *screen = Screen::black(width, height);
                self.live = view.is_some();
                if let (Some(screen), Some(view)) = (screen, view) {
                    screen.read(view, &Damage::of(Rect::new(0, 0, width, height)), &mut changed);
                }
                None
            }
        }
    }
}

/// True for sizes that a guest can be asked for and that can be shown.
pub(crate) fn is_possible(width: u32, height: u32) -> bool {
    let sane = |length| (1..=MAX_DIMENSION).contains(&length);
    sane(width) && sane(height) && u64::from(width) * u64::from(height) <= MAX_PIXELS
}

/// The share of a length at one of its pixels, where what lies outside is its nearest end: 0 is the first pixel, 65535 the last.
pub(crate) fn share(at: u32, length: u32) -> u16 {
    match u64::from(length.saturating_sub(1)) {
        0 => 0,
        last => ((u64::from(at).min(last) * 65535 + last / 2) / last) as u16,
    }
}
