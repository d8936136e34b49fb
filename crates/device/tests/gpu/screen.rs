//! A display that remembers what it was shown, and insists on what a display may rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use device::{Cursor, Display, DisplayEvent, Frame, Modes, Pixels};
use protocol::{Format, Rect, ScanoutId};

/// What a head shows. A pixel that no flush has brought yet is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub format: Format,
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<Option<[u8; 4]>>,
}

/// The pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pointer {
    pub scanout: u32,
    pub at: (u32, u32),
    pub hot: (u32, u32),
    /// Width, height and bytes; `None` is hidden.
    pub image: Option<(u32, u32, Vec<u8>)>,
}

/// What somebody in front of the display sees, and what they do.
#[derive(Debug, Default)]
pub struct Seen {
    pub heads: BTreeMap<u32, Picture>,
    pub pointer: Pointer,
    /// How often a head was told what it shows.
    pub sets: u64,
    pub flushes: u64,
    pub supplies: u64,
    pub resets: u64,
    pub refreshes: u64,
    /// Each [`Display::catch_up`]: the head, and its first pixel.
    pub caught_up: Vec<(u32, u32)>,
    /// What [`Display::modes`] says; the device's own otherwise.
    pub modes: Option<Modes>,
    /// What the next [`Display::poll`] tells.
    pub events: Vec<DisplayEvent>,
    /// Whether the next flush panics.
    pub panic: bool,
    /// Whether nobody looks.
    pub unwatched: bool,
    /// The heads of which nothing is told to who asks.
    pub held: BTreeSet<u32>,
}

/// The display. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    pub seen: Arc<Mutex<Seen>>,
    pub shared: bool,
}

impl Screen {
    /// What is seen now, also after a panic that was injected.
    pub fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Every row of a frame lies inside its pixels.
fn check(frame: &Frame<'_>) {
    let len = match &frame.pixels {
        Pixels::Private(bytes) => bytes.len() as u64,
        Pixels::Shared(shared) => {
            assert_eq!(shared.file.metadata().unwrap().len(), shared.slice.len() as u64);
            shared.slice.len() as u64
        }
        Pixels::Guest(pages) => pages.len(),
    };
    let row = u64::from(frame.width) * 4;
    assert!(frame.width > 0 && frame.height > 0 && row <= u64::from(frame.stride));
    assert!(frame.offset + u64::from(frame.height - 1) * u64::from(frame.stride) + row <= len);
}

fn read(frame: &Frame<'_>, rect: &Rect) -> Vec<Vec<u8>> {
    let rows = (0..rect.height).map(|row| {
        let mut bytes = vec![0; rect.width as usize * 4];
        frame.read_row(rect, row, &mut bytes);
        bytes
    });
    rows.collect()
}

impl Display for Screen {
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        let mut seen = self.seen();
        seen.sets += 1;
        seen.heads.remove(&scanout.0);
        if let Some(frame) = frame {
            check(frame);
            let Frame { format, width, height, .. } = *frame;
            let pixels = vec![None; width as usize * height as usize];
            seen.heads.insert(scanout.0, Picture { format, width, height, pixels });
        }
    }

    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, damage: Rect) {
        check(frame);
        assert!(!damage.is_empty() && damage.is_within(frame.width, frame.height));
        let mut seen = self.seen();
        if std::mem::take(&mut seen.panic) {
            panic!("Injected into a flush");
        }
        seen.flushes += 1;
        let picture = seen.heads.get_mut(&scanout.0).expect("a head that was set");
        assert_eq!((picture.format, picture.width, picture.height), (frame.format, frame.width, frame.height));
        for (row, bytes) in (damage.y..).zip(read(frame, &damage)) {
            let start = (row * picture.width + damage.x) as usize;
            for (target, pixel) in picture.pixels[start..].iter_mut().zip(bytes.as_chunks::<4>().0) {
                *target = Some(*pixel);
            }
        }
    }

    fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, damage: Rect) {
        self.seen().supplies += 1;
        if let Some(frame) = frame
            && !damage.is_empty()
        {
            self.flush(scanout, frame, damage);
        }
    }

    fn catch_up(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
        check(frame);
        let mut seen = self.seen();
        assert!(seen.heads.contains_key(&scanout.0), "a head that is off");
        let pixel = read(frame, &Rect::of_size(1, 1)).concat();
        seen.caught_up.push((scanout.0, u32::from_le_bytes(pixel.try_into().unwrap())));
    }

    fn cursor(&mut self, cursor: &Cursor<'_>) {
        let image = cursor.image.as_ref().map(|frame| {
            check(frame);
            assert!(frame.width <= 64 && frame.height <= 64);
            (frame.width, frame.height, read(frame, &frame.rect()).concat())
        });
        let hot = (cursor.hot_x, cursor.hot_y);
        self.seen().pointer = Pointer { scanout: cursor.scanout.0, at: (cursor.x, cursor.y), hot, image };
    }

    fn move_cursor(&mut self, scanout: ScanoutId, x: u32, y: u32) {
        let mut seen = self.seen();
        (seen.pointer.scanout, seen.pointer.at) = (scanout.0, (x, y));
    }

    fn modes(&self) -> Modes {
        self.seen().modes.clone().unwrap_or(Modes::Device)
    }

    fn is_watched(&self, _scanout: ScanoutId) -> bool {
        !self.seen().unwatched
    }

    fn hold(&mut self, scanout: ScanoutId, held: bool) {
        let mut seen = self.seen();
        match held {
            true => seen.held.insert(scanout.0),
            false => seen.held.remove(&scanout.0),
        };
    }

    fn wants_shared(&self) -> bool {
        self.shared
    }

    fn refresh_modes(&mut self) {
        self.seen().refreshes += 1;
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn poll(&mut self, _now: Instant, events: &mut Vec<DisplayEvent>) {
        events.append(&mut self.seen().events);
    }

    fn reset(&mut self) {
        let mut seen = self.seen();
        seen.heads.clear();
        seen.held.clear();
        seen.pointer = Pointer::default();
        seen.resets += 1;
    }
}
