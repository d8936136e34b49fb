//! One UPDATE on its way: a few words, then pixels from where they are.

use std::os::fd::BorrowedFd;

use device::{Frame, Pixels};
use protocol::{Format, Rect};
use rustix::io::Errno;

use crate::gather::Gather;
use crate::pixels::{is_xrgb, to_xrgb};

/// Rows shorter than this are put together first: a call with 64 pieces of 256 bytes costs 1.5 times as much as copying
/// them and sending one piece; from a kilobyte on the pieces are cheaper.
const SHORT_ROW: usize = 1024;
/// Pixels that are put together at a time, in bytes (or one row, when it is longer).
const STAGED: usize = 256 << 10;
/// What stands in for pixels that are not there any more.
static BLACK: [u8; 64 << 10] = [0; 64 << 10];

/// What became of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// The socket takes no more now.
    Blocked,
    /// Nobody is there any more.
    Closed,
}

/// A message that may be half sent. What is left is taken from the newest pixels.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) head: usize,
    pub(super) rect: Rect,
    /// A SCANOUT perhaps, then an UPDATE without its pixels.
    prefix: Vec<u8>,
    sent: usize,
    /// The pixels cannot be read.
    lost: bool,
    /// The device has no pixels for it any more: what is left is black.
    pub(super) orphaned: bool,
}

impl Update {
    /// A message that starts with `prefix`, which ends with the words of the UPDATE of `rect`.
    pub(super) fn new(head: usize, rect: Rect, prefix: Vec<u8>) -> Self {
        Self { head, rect, prefix, sent: 0, lost: false, orphaned: false }
    }

    /// Bytes of its pixels.
    pub(super) fn pixel_bytes(&self) -> usize {
        self.rect.width as usize * self.rect.height as usize * Format::BYTES_PER_PIXEL as usize
    }

    /// The rows of which some pixels are not sent.
    pub(super) fn missing(&self) -> Rect {
        let done = self.sent.saturating_sub(self.prefix.len()) / self.row_bytes();
        let done = (done as u32).min(self.rect.height);
        Rect { y: self.rect.y + done, height: self.rect.height - done, ..self.rect }
    }

    fn row_bytes(&self) -> usize {
        (self.rect.width as usize * Format::BYTES_PER_PIXEL as usize).max(1)
    }

    /// Sends as much as the socket takes. Without a frame, or with one that is too small, black is sent: the VMM waits for
    /// the rest of the message and can do nothing else.
    pub(super) fn advance(
        &mut self,
        socket: BorrowedFd<'_>,
        frame: Option<&Frame<'_>>,
        staging: &mut Vec<u8>,
        copied: &mut u64,
    ) -> Sent {
        let total = self.prefix.len() + self.pixel_bytes();
        let frame = frame.filter(|frame| self.rect.is_within(frame.width, frame.height));
        while self.sent < total {
            let mut gather = Gather::new();
            gather.push(&self.prefix[self.sent.min(self.prefix.len())..]);
            let words = gather.len();
            let at = self.sent.saturating_sub(self.prefix.len());
            let mut staged = 0;
            match frame.filter(|_| !self.lost) {
                Some(frame) if self.goes_directly(frame) => self.gather_rows(frame, at, &mut gather),
                Some(frame) => {
                    staged = self.stage(frame, at, staging);
                    gather.push(&staging[at % self.row_bytes()..staged]);
                }
                None => push_black(total - self.sent - words, &mut gather),
            }
            match gather.send(socket) {
                Ok(sent) => {
                    self.sent += sent;
                    if staged > 0 {
                        *copied += sent.saturating_sub(words) as u64;
                    }
                    if sent < gather.len() {
                        return Sent::Blocked;
                    }
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Sent::Blocked,
                // The guest's memory was truncated under the front-end's feet.
                Err(Errno::FAULT) if !self.lost => self.lost = true,
                Err(_) => return Sent::Closed,
            }
        }
        Sent::Whole
    }

    fn goes_directly(&self, frame: &Frame<'_>) -> bool {
        is_xrgb(frame.format) && (self.is_one_run(frame) || self.row_bytes() >= SHORT_ROW)
    }

    /// Whether nothing lies between the rows.
    fn is_one_run(&self, frame: &Frame<'_>) -> bool {
        self.row_bytes() == frame.stride as usize || self.rect.height == 1
    }

    /// Appends the pixels from byte `at` on, as many as there is room for.
    fn gather_rows<'a>(&self, frame: &Frame<'a>, at: usize, gather: &mut Gather<'a>) {
        if self.is_one_run(frame) {
            push_pixels(frame, frame.row_offset(&self.rect, 0) + at as u64, self.pixel_bytes() - at, gather);
            return;
        }
        let mut skip = at % self.row_bytes();
        for row in (at / self.row_bytes()) as u32..self.rect.height {
            if gather.is_full() {
                break;
            }
            push_pixels(frame, frame.row_offset(&self.rect, row) + skip as u64, self.row_bytes() - skip, gather);
            skip = 0;
        }
    }

    /// Puts rows together, from the one of byte `at` on, and returns how many bytes that are.
    fn stage(&self, frame: &Frame<'_>, at: usize, staging: &mut Vec<u8>) -> usize {
        let row_bytes = self.row_bytes();
        let first = (at / row_bytes) as u32;
        let rows = (STAGED / row_bytes).max(1).min((self.rect.height - first) as usize);
        let bytes = rows * row_bytes;
        if staging.len() < bytes {
            staging.resize(bytes, 0);
        }
        let staging = &mut staging[..bytes];
        for (row, target) in (first..).zip(staging.chunks_exact_mut(row_bytes)) {
            frame.read_row(&self.rect, row, target);
        }
        to_xrgb(frame.format, staging);
        bytes
    }
}

/// Appends `len` bytes of pixels at `offset`. Bytes that are not there (which the device does not let happen) are black.
fn push_pixels<'a>(frame: &Frame<'a>, offset: u64, len: usize, gather: &mut Gather<'a>) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    match &frame.pixels {
        Pixels::Private(bytes) => match start.checked_add(len).and_then(|end| bytes.get(start..end)) {
            Some(bytes) => gather.push(bytes),
            None => push_black(len, gather),
        },
        Pixels::Shared(shared) => match shared.slice.subslice(start, len) {
            Ok(bytes) => gather.push_volatile(&bytes),
            Err(_) => push_black(len, gather),
        },
        Pixels::Guest(pages) => match pages.runs(offset, len as u64) {
            Some(runs) => runs.for_each(|run| gather.push_volatile(&run)),
            None => push_black(len, gather),
        },
    }
}

fn push_black(mut len: usize, gather: &mut Gather<'_>) {
    while len > 0 && !gather.is_full() {
        let piece = len.min(BLACK.len());
        gather.push(&BLACK[..piece]);
        len -= piece;
    }
}
