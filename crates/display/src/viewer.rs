//! The viewer process: VNC, the web page.
//!
//! An image in a sealed memfd of ours is shown where it is ([`device::Pixels::Shared`]): after the transfer from the guest
//! nothing is copied here. Other pixels (the guest's own pages, which a viewer may not see as a whole) are fetched into such
//! a memfd, the damaged rows only, and only when a viewer waits for them.

mod images;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use device::stats::Kind;
use device::{Cursor, Display, DisplayEvent, Frame, Pixels, Stats, guest_log};
use frames::{Damage, DeviceEnd, DeviceEvent, Geometry, MAX_HEADS, ScreenLayout};
use protocol::{Format, Rect, ScanoutId};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::pixels::{of_frames, to_argb};
use images::{Adopted, Fetched};

/// So many polls in a row may ask the kernel nothing, so that a poll after each batch of a busy guest's commands is cheap.
const QUIET_POLLS: u8 = 4;

/// What a head shows to viewers.
#[derive(Debug, Default)]
struct Head {
    /// Where fetched pixels are; none while the head is off or shows a shared image.
    fetched: Option<Fetched>,
    /// What changed since pixels were fetched.
    unseen: Damage,
    /// The device was asked for pixels and has not brought any since.
    asked: bool,
    /// The device does not know whether what it brought is the newest.
    held: bool,
}

/// Shows heads to people, by a process of its own that may die and come back.
pub struct Viewer {
    end: DeviceEnd,
    /// One descriptor, whatever is waited for behind it.
    epoll: OwnedFd,
    waits_for_room: bool,
    closed: bool,
    heads: Vec<Head>,
    adopted: Adopted,
    /// Bytes that may be used for fetched pixels.
    memory: u64,
    quiet_polls: u8,
    stats: Arc<Stats>,
}

impl Viewer {
    /// Takes one socket of a [`frames::pair`]; the viewer has the other one. `name` is the VM's, `sizes` are those that the
    /// heads ask the guest for, `memory` is what pixels may take that have to be fetched.
    pub fn new(
        socket: OwnedFd,
        name: &str,
        sizes: &[(u32, u32)],
        memory: u64,
        stats: Arc<Stats>,
    ) -> std::io::Result<Self> {
        let mut end = DeviceEnd::new(socket, name, sizes.len())?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &end, EventData::new_u64(0), EventFlags::IN)?;
        let mut x = 0u32;
        for (head, (width, height)) in (0..).zip(sizes) {
            end.layout(head, ScreenLayout { enabled: true, rect: frames::Rect::new(x, 0, *width, *height) });
            x = x.saturating_add(*width);
        }
        Ok(Self {
            end,
            epoll,
            waits_for_room: false,
            closed: false,
            heads: (0..sizes.len().min(MAX_HEADS)).map(|_| Head::default()).collect(),
            adopted: Adopted::default(),
            memory,
            quiet_polls: 0,
            stats,
        })
    }

    /// Shows a shared image where it is, or notes that pixels have to be fetched.
    fn show(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
        let Some(head) = self.heads.get_mut(scanout.0 as usize) else { return };
        head.asked = false;
        if let Pixels::Shared(shared) = &frame.pixels {
            let geometry = Geometry {
                offset: frame.offset,
                width: frame.width,
                height: frame.height,
                stride: frame.stride,
                format: of_frames(frame.format),
            };
            match self.adopted.get(scanout, shared) {
                Ok(image) if self.end.show(scanout.0, &image, geometry).is_ok() => {
                    head.unseen.clear();
                    head.fetched = None;
                    return;
                }
                Ok(_) => {}
                Err(error) => guest_log!(debug, "Cannot share an image with viewers: {error}"),
            }
        }
        if self.adopted.drop_head(scanout) {
            // That image is the guest's no more: not even until the new one is fetched.
            self.end.blank(scanout.0);
        }
        head.unseen = Damage::of(frames::Rect::new(0, 0, frame.width, frame.height));
    }

    /// Whether viewers see the frame's own memory.
    fn is_in_place(&self, scanout: ScanoutId, frame: &Frame<'_>) -> bool {
        matches!(&frame.pixels, Pixels::Shared(shared) if self.adopted.is_shown(scanout, shared.id))
    }

    /// Fetches what is unseen for a viewer that waits.
    fn fetch(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
        let index = scanout.0 as usize;
        let others: u64 = (0..self.heads.len()).filter(|other| *other != index).map(|other| self.fetched(other)).sum();
        let Some(head) = self.heads.get_mut(index) else { return };
        if head.unseen.is_empty() || !self.end.is_awaited(scanout.0) {
            return;
        }
        let geometry = Geometry::packed(frame.width, frame.height, of_frames(frame.format));
        let kept = head.fetched.take().filter(|fetched| fetched.has(&geometry));
        let is_new = kept.is_none();
        let fetched = match kept.map_or_else(|| Fetched::new(geometry, self.memory.saturating_sub(others)), Ok) {
            Ok(fetched) => fetched,
            Err(error) => {
                guest_log!(warn, "Viewers cannot see head {scanout} of {}x{}: {error}", frame.width, frame.height);
                head.unseen.clear();
                return self.end.blank(scanout.0);
            }
        };
        if is_new {
            head.unseen = Damage::of(geometry.rect());
        }
        let unseen = std::mem::take(&mut head.unseen);
        for rect in unseen.rects() {
            let rect = Rect::new(rect.x, rect.y, rect.width, rect.height);
            let bytes = u64::from(rect.width) * u64::from(rect.height) * u64::from(Format::BYTES_PER_PIXEL);
            fetched.fetch(frame, &rect);
            self.stats.bytes_copied.add(bytes);
            self.stats.bytes_shown.add(bytes);
        }
        // A picture that is shown for the first time is damage all over by itself.
        if !is_new {
            self.end.damage_all(scanout.0, &unseen);
        } else if let Err(error) = self.end.show(scanout.0, fetched.image(), geometry) {
            guest_log!(warn, "Viewers cannot see head {scanout}: {error}");
        }
        head.fetched = Some(fetched);
    }

    /// As long as pixels have to be fetched, a viewer that asks is not answered with those before.
    fn hold_back(&mut self, scanout: ScanoutId) {
        let held = self.heads.get(scanout.0 as usize).is_some_and(|head| head.held || !head.unseen.is_empty());
        self.end.hold(scanout.0, held);
    }

    /// Says how much memory the copies take.
    fn count_frames(&self) {
        let bytes = (0..self.heads.len()).map(|head| self.fetched(head)).sum();
        self.stats.memory.set(Kind::Frames, bytes);
    }

    fn fetched(&self, head: usize) -> u64 {
        self.heads.get(head).and_then(|head| head.fetched.as_ref()).map_or(0, |fetched| fetched.image().size())
    }

    fn take_news(&mut self, events: &mut Vec<DisplayEvent>) {
        for event in self.end.poll() {
            match event {
                DeviceEvent::Resize(wish) => {
                    let (width, height) = (wish.width, wish.height);
                    events.push(DisplayEvent::Resize { scanout: ScanoutId(u32::from(wish.head)), width, height });
                }
                DeviceEvent::Closed => {
                    self.closed = true;
                    let _ = epoll::delete(&self.epoll, &self.end);
                }
                DeviceEvent::WrongVersion(version) => {
                    guest_log!(
                        warn,
                        "The viewer speaks version {version} of the frame protocol: use the same build for both"
                    );
                }
                DeviceEvent::Garbage => guest_log!(warn, "The viewer sent what no viewer sends: it is ignored"),
                // A viewer that begins is told everything by `DeviceEnd`.
                DeviceEvent::Connected | DeviceEvent::Close => {}
            }
        }
        self.wait_for_room();
    }

    /// What found no room in the socket is said when there is some.
    fn wait_for_room(&mut self) {
        let wants = self.end.wants_write();
        if wants != self.waits_for_room && !self.closed {
            let flags = if wants { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            self.waits_for_room = epoll::modify(&self.epoll, &self.end, EventData::new_u64(0), flags).is_ok() && wants;
        }
    }

    fn is_ready(&self) -> bool {
        let mut room = [MaybeUninit::<Event>::uninit(); 1];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.epoll, &mut room, Some(&now)).is_ok_and(|(ready, _)| !ready.is_empty())
    }
}

impl Display for Viewer {
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        match frame {
            Some(frame) => self.show(scanout, frame),
            None => {
                if let Some(head) = self.heads.get_mut(scanout.0 as usize) {
                    *head = Head::default();
                }
                self.adopted.drop_head(scanout);
                self.end.blank(scanout.0);
            }
        }
        self.count_frames();
        self.hold_back(scanout);
        self.wait_for_room();
    }

    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, damage: Rect) {
        let Some(head) = self.heads.get_mut(scanout.0 as usize) else { return };
        let rect = frames::Rect::new(damage.x, damage.y, damage.width, damage.height);
        head.asked = false;
        if self.is_in_place(scanout, frame) {
            self.stats.bytes_shown.add(rect.area() * u64::from(Format::BYTES_PER_PIXEL));
            self.end.damage(scanout.0, rect);
        } else {
            self.heads[scanout.0 as usize].unseen.add(rect);
            self.fetch(scanout, frame);
            self.count_frames();
            self.hold_back(scanout);
        }
        self.wait_for_room();
    }

    fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, _damage: Rect) {
        let Some(head) = self.heads.get_mut(scanout.0 as usize) else { return };
        match frame {
            Some(frame) => {
                head.asked = false;
                self.fetch(scanout, frame);
                self.count_frames();
                self.hold_back(scanout);
            }
            // The pages are gone: there is nothing to wait for.
            None => self.end.hold(scanout.0, false),
        }
        self.wait_for_room();
    }

    fn cursor(&mut self, cursor: &Cursor<'_>) {
        let picture = cursor.image.as_ref().map(|frame| {
            let row_bytes = frame.width as usize * Format::BYTES_PER_PIXEL as usize;
            let mut pixels = vec![0; row_bytes * frame.height as usize];
            for (row, target) in (0..frame.height).zip(pixels.chunks_exact_mut(row_bytes.max(1))) {
                frame.read_row(&frame.rect(), row, target);
            }
            to_argb(frame.format, &mut pixels);
            let (hot_x, hot_y) = (cursor.hot_x, cursor.hot_y);
            frames::Cursor { width: frame.width, height: frame.height, hot_x, hot_y, pixels }
        });
        if let Err(error) = self.end.cursor(cursor.scanout.0, picture) {
            guest_log!(debug, "{error}");
        }
        self.move_cursor(cursor.scanout, cursor.x, cursor.y);
    }

    fn move_cursor(&mut self, scanout: ScanoutId, x: u32, y: u32) {
        // What is left of the first column is a wrapped number.
        self.end.move_cursor(scanout.0, x.cast_signed(), y.cast_signed());
        self.wait_for_room();
    }

    fn is_watched(&self, scanout: ScanoutId) -> bool {
        self.end.is_awaited(scanout.0)
    }

    fn hold(&mut self, scanout: ScanoutId, held: bool) {
        if let Some(head) = self.heads.get_mut(scanout.0 as usize) {
            head.held = held;
        }
        self.hold_back(scanout);
        self.wait_for_room();
    }

    fn wants_shared(&self) -> bool {
        true
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn poll(&mut self, _now: Instant, events: &mut Vec<DisplayEvent>) {
        self.quiet_polls += 1;
        if self.quiet_polls >= QUIET_POLLS || self.waits_for_room {
            self.quiet_polls = 0;
            if self.is_ready() {
                self.take_news(events);
            }
        }
        for (scanout, head) in (0..).map(ScanoutId).zip(&mut self.heads) {
            if let Some(rect) = head.unseen.rects().first()
                && !head.asked
                && self.end.is_awaited(scanout.0)
            {
                head.asked = true;
                events
                    .push(DisplayEvent::Ready { scanout, damage: Rect::new(rect.x, rect.y, rect.width, rect.height) });
            }
        }
    }

    fn reset(&mut self) {
        for scanout in (0..self.heads.len() as u32).map(ScanoutId) {
            self.set_scanout(scanout, None);
            // A head that exists cannot refuse to hide its pointer.
            let _ = self.end.cursor(scanout.0, None);
        }
    }
}
