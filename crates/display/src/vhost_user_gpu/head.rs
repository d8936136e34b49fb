//! A head as this display sees it: what is shown, and how much of it the VMM has not seen.

use device::{Cursor, Frame};
use frames::Damage;
use protocol::vhost_user_gpu::{self as words, CURSOR_BYTES, CURSOR_SIDE, Message, Position, update_prefix};
use protocol::{Format, Rect, ScanoutId};

use super::update::Update;
use crate::pixels::to_argb;

/// Bytes of pixels in one UPDATE. The VMM takes a message into memory as a whole and does nothing else meanwhile.
const MAX_UPDATE: u64 = 32 << 20;

/// A head.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// The size that the VMM was told.
    told: Option<(u32, u32)>,
    /// The size of what is shown.
    shown: Option<(u32, u32)>,
    damage: Damage,
    /// The device was asked for these pixels and has not brought any since.
    pub(super) asked: Option<Rect>,
    pub(super) pointer: Pointer,
}

impl Head {
    /// Another image is shown: the VMM has seen none of it.
    pub(super) fn show(&mut self, frame: Option<&Frame<'_>>) {
        self.shown = frame.map(|frame| (frame.width, frame.height));
        self.damage = frame.map(|frame| Damage::of(to_frames(frame.rect()))).unwrap_or_default();
        self.asked = None;
    }

    /// Pixels changed.
    pub(super) fn add_damage(&mut self, frame: &Frame<'_>, damage: Rect) {
        // A device that knows only one way to bring pixels answers so, too: nothing new changed.
        let is_answer = self.asked == Some(damage);
        self.take_supply(frame);
        if !is_answer {
            self.damage.add(to_frames(damage));
        }
    }

    /// The device brought what it was asked for.
    pub(super) fn take_supply(&mut self, frame: &Frame<'_>) {
        self.asked = None;
        if self.shown != Some((frame.width, frame.height)) {
            self.show(Some(frame));
        }
    }

    /// Pixels to ask the device for: unseen ones, unless it was asked and had none.
    pub(super) fn to_ask(&self) -> Option<Rect> {
        let unseen = self.damage.rects().first().map(of_frames);
        unseen.filter(|_| self.asked.is_none())
    }

    /// Whether what is shown has such pixels.
    pub(super) fn has(&self, rect: &Rect) -> bool {
        self.shown.is_some_and(|(width, height)| rect.is_within(width, height))
    }

    /// The VMM saw black in place of these pixels: they are told again when there are some.
    pub(super) fn repeat(&mut self, rect: Rect) {
        if self.has(&rect) {
            self.damage.add(to_frames(rect));
        }
    }

    /// The next message with pixels.
    pub(super) fn next_update(&mut self, index: usize) -> Option<Update> {
        let (width, height) = self.shown?;
        let mut prefix = Vec::with_capacity(64);
        if self.told != self.shown {
            self.damage = Damage::of(frames::Rect::new(0, 0, width, height));
            Message::Scanout(ScanoutId(index as u32), width, height).encode(&mut prefix);
            self.told = self.shown;
        }
        let damage = std::mem::take(&mut self.damage);
        let (first, later) = damage.rects().split_first()?;
        let rect = of_frames(first);
        let rows = MAX_UPDATE / (u64::from(rect.width.max(1)) * u64::from(Format::BYTES_PER_PIXEL));
        let rows = u32::try_from(rows).unwrap_or(u32::MAX).clamp(1, rect.height.max(1));
        let band = Rect { height: rows, ..rect };
        let rest = Rect { y: rect.y + rows, height: rect.height.saturating_sub(rows), ..rect };
        later.iter().copied().chain([to_frames(rest)]).for_each(|rect| self.damage.add(rect));
        prefix.extend(update_prefix(ScanoutId(index as u32), band)?);
        Some(Update::new(index, band, prefix))
    }

    /// The next message without pixels of the head.
    pub(super) fn next_words(&mut self, index: usize, out: &mut Vec<u8>) -> bool {
        let scanout = ScanoutId(index as u32);
        if self.shown.is_none() && self.told.take().is_some() {
            Message::Scanout(scanout, 0, 0).encode(out);
            return true;
        }
        self.pointer.next_words(scanout, out)
    }
}

/// The pointer on a head.
#[derive(Debug, Default)]
pub(super) struct Pointer {
    image: Option<Box<[u8; CURSOR_BYTES]>>,
    hot: (u32, u32),
    position: (u32, u32),
    changed: bool,
    moved: bool,
}

impl Pointer {
    /// Another picture, or none.
    pub(super) fn set(&mut self, cursor: &Cursor<'_>) {
        self.image = cursor.image.as_ref().map(|frame| picture(frame, self.image.take()));
        self.hot = (cursor.hot_x, cursor.hot_y);
        self.position = (cursor.x, cursor.y);
        self.changed = true;
    }

    /// Another place.
    pub(super) fn go(&mut self, x: u32, y: u32) {
        self.position = (x, y);
        self.moved = true;
    }

    fn next_words(&mut self, scanout: ScanoutId, out: &mut Vec<u8>) -> bool {
        if !self.changed && !self.moved {
            return false;
        }
        let position = Position { scanout, x: self.position.0, y: self.position.1 };
        let message = match &self.image {
            None => Message::CursorHide(position),
            Some(_) if !self.changed => Message::CursorPosition(position),
            Some(image) => {
                Message::CursorUpdate(words::Cursor { position, hot_x: self.hot.0, hot_y: self.hot.1, image })
            }
        };
        message.encode(out);
        (self.changed, self.moved) = (false, false);
        true
    }
}

/// The picture in the size that the protocol has: what a smaller one leaves is transparent.
fn picture(frame: &Frame<'_>, room: Option<Box<[u8; CURSOR_BYTES]>>) -> Box<[u8; CURSOR_BYTES]> {
    let mut image = room.unwrap_or_else(|| Box::new([0; CURSOR_BYTES]));
    image.fill(0);
    let side = CURSOR_SIDE as u32;
    let rect = Rect::of_size(frame.width.min(side), frame.height.min(side));
    for (row, target) in (0..rect.height).zip(image.chunks_exact_mut(CURSOR_SIDE * 4)) {
        let target = &mut target[..rect.width as usize * 4];
        frame.read_row(&rect, row, target);
        to_argb(frame.format, target);
    }
    image
}

fn to_frames(rect: Rect) -> frames::Rect {
    frames::Rect::new(rect.x, rect.y, rect.width, rect.height)
}

fn of_frames(rect: &frames::Rect) -> Rect {
    Rect::new(rect.x, rect.y, rect.width, rect.height)
}
