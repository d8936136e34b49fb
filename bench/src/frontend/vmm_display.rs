//! QEMU's end of the side socket (GPU_SET_SOCKET): answers what a device asks a display, takes what it shows.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::command::Rectangle;
use super::error::{Doing, Error, Result};
use super::message::receive_some;
use super::ring::readable;

/// Messages of the side socket, by their names in the vhost-user-gpu specification.
#[allow(missing_docs)]
pub mod word {
    pub const GET_PROTOCOL_FEATURES: u32 = 1;
    pub const SET_PROTOCOL_FEATURES: u32 = 2;
    pub const GET_DISPLAY_INFO: u32 = 3;
    pub const CURSOR_POS: u32 = 4;
    pub const CURSOR_POS_HIDE: u32 = 5;
    pub const CURSOR_UPDATE: u32 = 6;
    pub const SCANOUT: u32 = 7;
    pub const UPDATE: u32 = 8;
    pub const DMABUF_SCANOUT: u32 = 9;
    pub const DMABUF_UPDATE: u32 = 10;
    pub const GET_EDID: u32 = 11;
    pub const DMABUF_SCANOUT2: u32 = 12;
}

const HEADER: usize = 12;
const REPLY: u32 = 4;
const MAX_SCANOUTS: usize = 16;
/// Longest message but UPDATE: CURSOR_UPDATE carries 64x64 pixels.
const MAX_SMALL: usize = 20 + 64 * 64 * 4;
/// Room for one read of the socket.
const BUFFER: usize = 1 << 20;

/// How the display is set up, and what it does with what it gets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Width and height of each head.
    pub heads: Vec<(u32, u32)>,
    /// What GET_PROTOCOL_FEATURES answers: 1 is EDID, 2 is DMABUF2.
    pub protocol_features: u64,
    /// Without it questions stay unanswered, as those of a VMM that is stuck.
    pub answers: bool,
    /// Keeps the pixels of each scanout, so that they can be compared.
    pub keeps_pixels: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { heads: vec![(1280, 800)], protocol_features: 3, answers: true, keeps_pixels: false }
    }
}

/// What a message said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A question: its message number. It was answered if the settings say so.
    Asked(u32),
    /// SET_PROTOCOL_FEATURES.
    ProtocolFeatures(u64),
    /// CURSOR_POS: scanout, x, y.
    CursorMoved([u32; 3]),
    /// CURSOR_POS_HIDE: scanout, x, y.
    CursorHidden([u32; 3]),
    /// CURSOR_UPDATE: scanout, x, y, hot x, hot y, and the pixels.
    CursorImage([u32; 5], Vec<u8>),
    /// SCANOUT: scanout, width, height.
    Scanout([u32; 3]),
    /// UPDATE: scanout and what was drawn, completely received.
    Updated(u32, Rectangle),
    /// DMABUF_SCANOUT or DMABUF_SCANOUT2: the words; the buffer is taken by [`VmmDisplay::take_fds`].
    DmabufScanout(Vec<u32>),
    /// DMABUF_UPDATE: scanout and what was drawn. It was answered if the settings say so.
    DmabufUpdated(u32, Rectangle),
}

/// Pixels of a scanout, as x8r8g8b8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canvas {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Rows without gaps.
    pub bytes: Vec<u8>,
}

/// Counts of what was shown; shared with whoever waits for them.
#[derive(Debug, Default)]
pub struct Shown {
    updates: AtomicU64,
    bytes: AtomicU64,
    cursors: AtomicU64,
    scanouts: AtomicU64,
    questions: AtomicU64,
    closed: AtomicU64,
    waiter: Mutex<Option<Thread>>,
    canvases: Mutex<Vec<Canvas>>,
}

impl Shown {
    /// UPDATE messages that arrived completely.
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Acquire)
    }

    /// Bytes of pixels in them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Cursor messages.
    pub fn cursors(&self) -> u64 {
        self.cursors.load(Ordering::Acquire)
    }

    /// SCANOUT messages.
    pub fn scanouts(&self) -> u64 {
        self.scanouts.load(Ordering::Acquire)
    }

    /// Questions that the device asked.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Acquire)
    }

    /// The pixels of a scanout, if the settings keep them.
    pub fn canvas(&self, scanout: u32) -> Option<Canvas> {
        self.canvases.lock().unwrap_or_else(PoisonError::into_inner).get(scanout as usize).cloned()
    }

    /// Waits until `enough` holds.
    pub fn wait(&self, limit: Duration, mut enough: impl FnMut(&Self) -> bool) -> Result<()> {
        if enough(self) {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut("a picture"));
            }
            if self.closed.load(Ordering::Acquire) != 0 {
                return Err(Error::HungUp);
            }
            std::thread::park_timeout(left);
        }
        Ok(())
    }

    /// Counts a picture that came another way, and wakes who waits for it.
    pub(crate) fn add_update(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.updates.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Nothing comes any more.
    pub(crate) fn close(&self) {
        self.closed.store(1, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waiter) = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waiter.unpark();
        }
    }
}

/// The VMM's end of the side socket.
#[derive(Debug)]
pub struct VmmDisplay {
    socket: UnixStream,
    settings: Settings,
    shown: Arc<Shown>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    fds: Vec<OwnedFd>,
}

impl VmmDisplay {
    /// Takes the VMM's end; the other end goes to the device.
    pub fn new(socket: UnixStream, settings: Settings) -> Self {
        let canvases = Mutex::new(vec![Canvas::default(); MAX_SCANOUTS]);
        let shown = Arc::new(Shown { canvases, ..Shown::default() });
        Self { socket, settings, shown, buffer: vec![0; BUFFER], start: 0, end: 0, fds: Vec::new() }
    }

    /// The counts.
    pub fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }

    /// The socket.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The file descriptors that came along so far.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Serves the device on a thread of its own until it hangs up.
    pub fn spawn(mut self) -> Result<JoinHandle<Result<()>>> {
        let serve = move || {
            let result = loop {
                match self.next_event() {
                    // The counts of pictures wake by themselves.
                    Ok(Some(Event::Updated(..))) => {}
                    Ok(Some(_)) => self.shown.wake(),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            self.shown.close();
            result
        };
        std::thread::Builder::new().name("vmm display".into()).spawn(serve).doing("start the display's thread")
    }

    /// Whether something comes within the limit.
    pub fn is_readable(&self, limit: Duration) -> Result<bool> {
        Ok(self.start != self.end || readable(self.socket.as_fd(), Some(limit))?)
    }

    /// Takes one message and answers it; nothing when the device hung up.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        if self.start == self.end
            && let Err(error) = self.fill()
        {
            return if matches!(error, Error::HungUp) { Ok(None) } else { Err(error) };
        }
        let header = words(self.peek(HEADER)?);
        let (kind, size) = (header[0], header[2] as usize);
        self.start += HEADER;
        if kind == word::UPDATE {
            return self.take_update(size).map(Some);
        }
        if size > MAX_SMALL {
            return Err(Error::Protocol(format!("a side message {kind} of {size} bytes")));
        }
        let payload = self.peek(size)?.to_vec();
        self.start += size;
        self.take_small(kind, &payload).map(Some)
    }

    fn take_small(&mut self, kind: u32, payload: &[u8]) -> Result<Event> {
        let body = words(payload);
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::AcqRel);
        Ok(match (kind, body.as_slice()) {
            (word::GET_PROTOCOL_FEATURES | word::GET_DISPLAY_INFO | word::GET_EDID, _) => {
                self.answer(kind, &body)?;
                count(&self.shown.questions);
                Event::Asked(kind)
            }
            (word::SET_PROTOCOL_FEATURES, &[low, high]) => {
                Event::ProtocolFeatures(u64::from(low) | u64::from(high) << 32)
            }
            (word::CURSOR_POS | word::CURSOR_POS_HIDE, &[scanout, x, y]) => {
                count(&self.shown.cursors);
                let at = [scanout, x, y];
                if kind == word::CURSOR_POS { Event::CursorMoved(at) } else { Event::CursorHidden(at) }
            }
            (word::CURSOR_UPDATE, &[scanout, x, y, hot_x, hot_y, ..]) => {
                count(&self.shown.cursors);
                Event::CursorImage([scanout, x, y, hot_x, hot_y], payload[20..].to_vec())
            }
            (word::SCANOUT, &[scanout, width, height]) => {
                self.resize_canvas(scanout, width, height);
                count(&self.shown.scanouts);
                Event::Scanout([scanout, width, height])
            }
            (word::DMABUF_SCANOUT | word::DMABUF_SCANOUT2, _) => {
                count(&self.shown.scanouts);
                Event::DmabufScanout(body)
            }
            (word::DMABUF_UPDATE, &[scanout, x, y, width, height]) => {
                self.answer(kind, &body)?;
                count(&self.shown.updates);
                Event::DmabufUpdated(scanout, [x, y, width, height])
            }
            _ => return Err(Error::Protocol(format!("a side message {kind} of {} bytes", payload.len()))),
        })
    }

    fn answer(&self, kind: u32, body: &[u32]) -> Result<()> {
        if !self.settings.answers {
            return Ok(());
        }
        let payload = match kind {
            word::GET_PROTOCOL_FEATURES => self.settings.protocol_features.to_ne_bytes().to_vec(),
            word::GET_DISPLAY_INFO => display_info(&self.settings.heads),
            word::GET_EDID => match self.settings.heads.get(body.first().map_or(usize::MAX, |&head| head as usize)) {
                Some(&head) => edid_reply(head),
                // QEMU never answers for a head that it lacks.
                None => return Ok(()),
            },
            _ => Vec::new(),
        };
        let mut message = Vec::with_capacity(HEADER + payload.len());
        for word in [kind, REPLY, payload.len() as u32] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(payload);
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let sent = rustix::net::send(&self.socket, rest, rustix::net::SendFlags::NOSIGNAL).doing("answer")?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    fn take_update(&mut self, size: usize) -> Result<Event> {
        let body = words(self.peek(20)?);
        self.start += 20;
        let &[scanout, x, y, width, height] = body.as_slice() else {
            return Err(Error::Protocol("an UPDATE that is cut off".into()));
        };
        let pixels = u64::from(width) * u64::from(height) * 4;
        if pixels + 20 != size as u64 {
            return Err(Error::Protocol(format!("an UPDATE of {width}x{height} in {size} bytes")));
        }
        let rectangle = [x, y, width, height];
        let mut done = 0;
        while done < pixels as usize {
            if self.start == self.end {
                self.fill()?;
            }
            let piece = (self.end - self.start).min(pixels as usize - done);
            if self.settings.keeps_pixels {
                self.draw(scanout, rectangle, done, self.start..self.start + piece)?;
            }
            self.start += piece;
            done += piece;
        }
        self.shown.add_update(pixels);
        Ok(Event::Updated(scanout, rectangle))
    }

    fn draw(&self, scanout: u32, rectangle: Rectangle, done: usize, piece: std::ops::Range<usize>) -> Result<()> {
        let [x, y, width, _] = rectangle.map(|word| word as usize);
        let mut canvases = self.shown.canvases.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = || Error::Protocol(format!("an UPDATE {rectangle:?} outside of scanout {scanout}"));
        let canvas = canvases.get_mut(scanout as usize).ok_or_else(lost)?;
        let (row_bytes, stride) = (width * 4, canvas.width as usize * 4);
        if (x + width) * 4 > stride {
            return Err(lost());
        }
        let mut source = &self.buffer[piece];
        let mut done = done;
        while !source.is_empty() {
            let (row, column) = (done / row_bytes, done % row_bytes);
            let length = (row_bytes - column).min(source.len());
            let target = (y + row) * stride + x * 4 + column;
            let (now, later) = source.split_at(length);
            canvas.bytes.get_mut(target..target + length).ok_or_else(lost)?.copy_from_slice(now);
            source = later;
            done += length;
        }
        Ok(())
    }

    fn resize_canvas(&self, scanout: u32, width: u32, height: u32) {
        let mut canvases = self.shown.canvases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(canvas) = canvases.get_mut(scanout as usize)
            && self.settings.keeps_pixels
        {
            let bytes = vec![0; width as usize * height as usize * 4];
            *canvas = Canvas { width, height, bytes };
        }
    }

    /// The next `length` bytes, which stay unread.
    fn peek(&mut self, length: usize) -> Result<&[u8]> {
        while self.end - self.start < length {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.start + length])
    }

    fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < MAX_SMALL + HEADER {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let received = receive_some(&self.socket, &mut self.buffer[self.end..], &mut self.fds)
            .doing("receive from the side socket")?;
        if received == 0 {
            return Err(Error::HungUp);
        }
        self.end += received;
        Ok(())
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// The answer to GET_DISPLAY_INFO: sixteen modes of 24 bytes behind a header.
fn display_info(heads: &[(u32, u32)]) -> Vec<u8> {
    let mut info = vec![0; 24 + MAX_SCANOUTS * 24];
    info[..4].copy_from_slice(&super::command::RESP_OK_DISPLAY_INFO.to_le_bytes());
    let mut left = 0;
    for (mode, &(width, height)) in info[24..].chunks_exact_mut(24).zip(heads) {
        for (at, word) in [left, 0, width, height, 1, 0].into_iter().enumerate() {
            mode[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        left += width;
    }
    info
}

/// The answer to GET_EDID: a bare EDID 1.4 with one detailed timing, in 1024 bytes behind a header.
fn edid_reply((width, height): (u32, u32)) -> Vec<u8> {
    let mut reply = vec![0; 24 + 8 + 1024];
    reply[..4].copy_from_slice(&super::command::RESP_OK_EDID.to_le_bytes());
    reply[24..28].copy_from_slice(&128u32.to_le_bytes());
    let edid = &mut reply[32..160];
    edid[..8].copy_from_slice(&[0, 255, 255, 255, 255, 255, 255, 0]);
    edid[18..20].copy_from_slice(&[1, 4]);
    let low = |value: u32| value as u8;
    let high = |value: u32| ((value >> 4) & 0xf0) as u8;
    edid[54..62].copy_from_slice(&[0, 0x20, low(width), 160, high(width), low(height), 30, high(height)]);
    let sum = edid[..127].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    edid[127] = sum.wrapping_neg();
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn display(settings: Settings) -> (UnixStream, VmmDisplay) {
        let (device, vmm) = UnixStream::pair().expect("socket pair");
        (device, VmmDisplay::new(vmm, settings))
    }

    fn message(kind: u32, body: &[u32]) -> Vec<u8> {
        [kind, 0, body.len() as u32 * 4].iter().chain(body).flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn an_update_lands_in_its_rectangle_whatever_pieces_it_came_in() {
        let (mut device, mut display) = display(Settings { keeps_pixels: true, ..Settings::default() });
        device.write_all(&message(word::SCANOUT, &[0, 4, 4])).expect("scanout");
        let update = message(word::UPDATE, &[0, 1, 2, 2, 2, 11, 12, 13, 14]);
        assert_eq!(display.next_event().expect("event"), Some(Event::Scanout([0, 4, 4])));
        let (first, rest) = update.split_at(37);
        device.write_all(first).expect("first piece");
        let writer = std::thread::spawn({
            let rest = rest.to_vec();
            move || device.write_all(&rest)
        });
        assert_eq!(display.next_event().expect("event"), Some(Event::Updated(0, [1, 2, 2, 2])));
        writer.join().expect("writer").expect("rest");
        let canvas = display.shown().canvas(0).expect("canvas");
        assert_eq!(words(&canvas.bytes), [0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 12, 0, 0, 13, 14, 0]);
        assert_eq!((display.shown().updates(), display.shown().bytes()), (1, 16));
    }

    #[test]
    fn questions_are_answered_and_a_head_that_is_not_there_is_not() {
        let (mut device, mut display) = display(Settings { heads: vec![(640, 480)], ..Settings::default() });
        device.write_all(&message(word::GET_EDID, &[7])).expect("edid 7");
        device.write_all(&message(word::GET_DISPLAY_INFO, &[])).expect("info");
        assert_eq!(display.next_event().expect("event"), Some(Event::Asked(word::GET_EDID)));
        assert_eq!(display.next_event().expect("event"), Some(Event::Asked(word::GET_DISPLAY_INFO)));
        let mut answer = [0; 12 + 408];
        device.read_exact(&mut answer).expect("answer");
        assert_eq!(words(&answer)[..3], [word::GET_DISPLAY_INFO, REPLY, 408]);
        assert_eq!(words(&answer)[9..14], [0, 0, 640, 480, 1]);
    }

    #[test]
    fn an_update_whose_size_lies_is_an_error() {
        let (mut device, mut display) = display(Settings::default());
        device.write_all(&message(word::UPDATE, &[0, 0, 0, 2, 2, 1])).expect("update");
        assert!(matches!(display.next_event(), Err(Error::Protocol(_))));
    }

    #[test]
    fn a_device_that_hangs_up_ends_the_display() {
        let (device, mut display) = display(Settings::default());
        drop(device);
        assert_eq!(display.next_event().expect("end"), None);
    }
}
