//! A PNG file of what a head shows, renewed while it changes.
//!
//! A worker writes the files. The device's thread copies a picture for it a few times a second at most, and never waits: the
//! place for the next picture holds one, the newest.

#[cfg(test)]
mod tests;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{Cursor, Display, DisplayEvent, Frame, Stats, guest_log};
use protocol::{Format, MAX_SCANOUTS, Rect, ScanoutId};

use worker::{Picture, Worker};

/// At least so long between two pictures of a head.
const INTERVAL: Duration = Duration::from_millis(200);

/// Pixels of a picture. Stops a guest that has us copy a gigabyte five times a second.
const MAX_PIXELS: u64 = 8192 * 8192;

/// Writes what heads show into PNG files.
pub struct Capture {
    path: PathBuf,
    heads: [Head; MAX_SCANOUTS as usize],
    /// When it was polled last.
    now: Instant,
    worker: Worker,
    stats: Arc<Stats>,
}

/// What is known of a head.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// What changed since the last picture, and when that may be told.
    changed: Option<Rect>,
    due: Instant,
    /// The device was asked for pixels and has not brought any since.
    asked: bool,
    /// Until then no picture is taken out of turn.
    rests: Instant,
}

impl Capture {
    /// Writes head 0 to `path`, and head N, if there is one, to the file with `.N` before its extension. Files are replaced
    /// as a whole: who reads one sees a complete picture.
    ///
    /// The last picture of a head is in its file when this is dropped.
    pub fn new(path: &Path, stats: Arc<Stats>) -> Self {
        let now = Instant::now();
        let head = Head { changed: None, due: now, asked: false, rests: now };
        Self { path: path.to_owned(), heads: [head; MAX_SCANOUTS as usize], now, worker: Worker::default(), stats }
    }

    fn take(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
        let Some(head) = self.heads.get_mut(scanout.0 as usize) else { return };
        (head.changed, head.asked) = (None, false);
        if u64::from(frame.width) * u64::from(frame.height) > MAX_PIXELS {
            return guest_log!(warn, "Head {scanout} is too large for a PNG file: {}x{}", frame.width, frame.height);
        }
        let row_bytes = frame.width as usize * Format::BYTES_PER_PIXEL as usize;
        let bytes = row_bytes * frame.height as usize;
        let mut pixels = self.worker.spare();
        pixels.clear();
        if bytes == 0 || pixels.try_reserve_exact(bytes).is_err() {
            return guest_log!(warn, "No memory for a PNG file of head {scanout}");
        }
        pixels.resize(bytes, 0);
        for (row, target) in (0..frame.height).zip(pixels.chunks_exact_mut(row_bytes)) {
            frame.read_row(&frame.rect(), row, target);
        }
        self.stats.bytes_copied.add(bytes as u64);
        self.stats.bytes_shown.add(bytes as u64);
        let path = file_of(&self.path, scanout);
        self.worker.write(
            scanout.0 as usize,
            Picture { path, format: frame.format, width: frame.width, height: frame.height, pixels },
        );
    }
}

/// The file of a head.
fn file_of(path: &Path, scanout: ScanoutId) -> PathBuf {
    if scanout.0 == 0 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{scanout}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

impl Display for Capture {
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        if let Some(head) = self.heads.get_mut(scanout.0 as usize) {
            // The file of a head that goes off keeps the last picture.
            (head.changed, head.asked) = (frame.map(Frame::rect), false);
        }
    }

    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, _damage: Rect) {
        if let Some(head) = self.heads.get_mut(scanout.0 as usize) {
            (head.changed, head.asked) = (Some(frame.rect()), false);
        }
    }

    fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, _damage: Rect) {
        if let Some(frame) = frame {
            self.take(scanout, frame);
        }
    }

    /// Out of turn, but not more often than in turn: a guest can switch a head off and on as fast as it likes.
    fn catch_up(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
        let Some(head) = self.heads.get_mut(scanout.0 as usize) else { return };
        if head.changed.is_some() && self.now >= head.rests {
            head.rests = self.now + INTERVAL;
            self.take(scanout, frame);
        }
    }

    fn cursor(&mut self, _cursor: &Cursor<'_>) {}

    fn move_cursor(&mut self, _scanout: ScanoutId, _x: u32, _y: u32) {}

    fn poll(&mut self, now: Instant, events: &mut Vec<DisplayEvent>) {
        self.now = now;
        for (scanout, head) in (0..).map(ScanoutId).zip(&mut self.heads) {
            if let Some(damage) = head.changed
                && !head.asked
                && now >= head.due
            {
                head.asked = true;
                head.due = now + INTERVAL;
                events.push(DisplayEvent::Ready { scanout, damage });
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.heads.iter().filter(|head| head.changed.is_some() && !head.asked).map(|head| head.due).min()
    }
}
