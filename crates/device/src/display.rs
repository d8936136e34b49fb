//! The seam between the device and who shows pixels.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use protocol::{Format, Rect, ScanoutId};
use vm_memory::VolatileSlice;

use crate::backing::Pages;

/// What a head shows: an image of `width` times `height` pixels. Lives for one call.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Order of a pixel's bytes.
    pub format: Format,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Position in `pixels` of the first pixel, in bytes.
    pub offset: u64,
    /// Where the pixels are. The device has checked that every row lies inside.
    pub pixels: Pixels<'a>,
}

/// Where a frame's pixels are.
#[derive(Clone, Copy, Debug)]
pub enum Pixels<'a> {
    /// Memory that nobody else writes.
    Private(&'a [u8]),
    /// A memfd of ours that another process may map: sealed against resizing.
    Shared(Shared<'a>),
    /// The guest's own pages, which it may change while they are read.
    Guest(Pages<'a>),
}

/// See [`Pixels::Shared`].
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// Differs from every other memfd's in this process.
    pub id: u64,
    /// The memfd.
    pub file: &'a File,
    /// Our mapping of all of it.
    pub slice: VolatileSlice<'a>,
}

impl Frame<'_> {
    /// Position in `pixels` of the first byte of `rect`'s row `row`, which must lie inside the frame.
    pub fn row_offset(&self, rect: &Rect, row: u32) -> u64 {
        self.offset
            + u64::from(rect.y + row) * u64::from(self.stride)
            + u64::from(rect.x) * u64::from(Format::BYTES_PER_PIXEL)
    }

    /// The whole frame as a rectangle.
    pub fn rect(&self) -> Rect {
        Rect::of_size(self.width, self.height)
    }

    /// Copies one row of `rect` into `target`, which has `rect.width * 4` bytes. Each pixel is read once. Rows that
    /// are not there (which the device does not let happen) leave `target` as it is.
    pub fn read_row(&self, rect: &Rect, row: u32, target: &mut [u8]) {
        let offset = self.row_offset(rect, row);
        match &self.pixels {
            Pixels::Private(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                if let Some(row) = start.checked_add(target.len()).and_then(|end| bytes.get(start..end)) {
                    target.copy_from_slice(row);
                }
            }
            Pixels::Shared(shared) => {
                if let Ok(row) = shared.slice.offset(usize::try_from(offset).unwrap_or(usize::MAX)) {
                    row.copy_to(target);
                }
            }
            Pixels::Guest(pages) => {
                let _ = pages.read(offset, target);
            }
        }
    }
}

/// A pointer's picture and place.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    /// The head that it is on.
    pub scanout: ScanoutId,
    /// Column of the picture's left edge, as the guest sent it: a negative one wraps.
    pub x: u32,
    /// Row of its upper edge.
    pub y: u32,
    /// Column of the hot spot within the picture.
    pub hot_x: u32,
    /// Row of the hot spot within the picture.
    pub hot_y: u32,
    /// The picture, at most [`crate::caps::CURSOR_SIZE`] in each direction; none hides the pointer.
    pub image: Option<Frame<'a>>,
}

/// A head as its display wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Whether a monitor is there.
    pub enabled: bool,
    /// Position on the desktop and size, in pixels.
    pub rect: Rect,
}

/// Who says what the heads are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modes {
    /// The device's own configuration.
    Device,
    /// This display.
    Display(Vec<Head>),
    /// This display, which does not know yet: [`DisplayEvent::ModesChanged`] will follow.
    Pending,
}

/// A display's news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DisplayEvent {
    /// [`Display::modes`] or [`Display::edid`] has another answer than before, the first one included.
    ModesChanged {
        /// Whether the driver is to be told (the VMM that owns the modes tells it by itself).
        notify: bool,
    },
    /// Somebody wants a head of another size.
    Resize {
        /// The head.
        scanout: ScanoutId,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The display is ready for a head's newest pixels: [`Display::supply`] is to be called with the damage given here.
    Ready {
        /// The head.
        scanout: ScanoutId,
        /// What it has not seen yet.
        damage: Rect,
    },
    /// The display lost all it knew: every head and the cursor are to be set again.
    Forgot,
}

/// Who shows pixels. No method blocks or fails: a display that cannot show keeps that to itself.
pub trait Display: Send {
    /// A head shows another image, or none. Damage follows.
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>);

    /// Pixels of a head changed inside `damage`, which lies inside the frame.
    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, damage: Rect);

    /// What [`DisplayEvent::Ready`] asked for: nothing may have changed inside `damage`, but the display has not seen it.
    /// None when the head shows nothing now. Several displays behind one tell by this who asked.
    fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, damage: Rect) {
        if let Some(frame) = frame {
            self.flush(scanout, frame, damage);
        }
    }

    /// A head's pixels may be gone after this call: what the display put off, it does now.
    fn catch_up(&mut self, _scanout: ScanoutId, _frame: &Frame<'_>) {}

    /// The pointer has another picture (or none) and place.
    fn cursor(&mut self, cursor: &Cursor<'_>);

    /// The pointer moved.
    fn move_cursor(&mut self, scanout: ScanoutId, x: u32, y: u32);

    /// Who says what the heads are. The first display of a device is asked.
    fn modes(&self) -> Modes {
        Modes::Device
    }

    /// A head's EDID, where the display has one.
    fn edid(&self, _scanout: ScanoutId) -> Option<&[u8]> {
        None
    }

    /// The front-end touched the configuration: what is known of its modes may be old.
    fn refresh_modes(&mut self) {}

    /// Whether somebody waits for a head's pixels now. Where nobody does, what has to be looked for is not. When that changes,
    /// [`poll_fd`](Self::poll_fd) or [`deadline`](Self::deadline) calls for a poll.
    fn is_watched(&self, _scanout: ScanoutId) -> bool {
        true
    }

    /// With `true`, nobody knows whether a head's pixels are the newest, or some of its damage was not told yet: who asks what
    /// it shows is not answered before this is called with `false`.
    fn hold(&mut self, _scanout: ScanoutId, _held: bool) {}

    /// Whether frames should be [`Pixels::Shared`] where they can be.
    fn wants_shared(&self) -> bool {
        false
    }

    /// Readable when [`poll`](Self::poll) has something to do. The same descriptor for the display's life.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Moves what is under way, and appends what happened.
    fn poll(&mut self, _now: Instant, _events: &mut Vec<DisplayEvent>) {}

    /// When [`poll`](Self::poll) is due although nothing is readable.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The front-end is gone: forget its guest's pixels.
    fn reset(&mut self) {}
}
