//! The other ends: a VMM that reads as QEMU does, and a device that answers a display as ours does.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use device::{Frame, Head, Pixels};
use protocol::Format;
use protocol::vhost_user_gpu::{HEADER_SIZE, Header, Message, Reply};

use super::super::*;

/// Pixels of a head as the VMM has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canvas {
    pub width: u32,
    pub height: u32,
    pub words: Vec<u32>,
}

/// What was said, without its pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    AskedFeatures,
    SetFeatures(u64),
    AskedHeads,
    AskedEdid(u32),
    CursorAt(u32, u32, u32),
    CursorHidden(u32),
    CursorPicture { scanout: u32, x: u32, y: u32, hot: (u32, u32), words: Vec<u32> },
    Scanout(u32, u32, u32),
    Update(u32, Rect),
}

/// Reads the side socket, and panics where QEMU would crash.
pub struct Vmm {
    socket: UnixStream,
    bytes: Vec<u8>,
    pub canvases: BTreeMap<u32, Canvas>,
    /// Bytes of all that came.
    pub received: usize,
}

impl Vmm {
    /// Opens a side socket.
    pub fn connect(display: &VhostUserGpu) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        display.socket_sender().send(OwnedFd::from(theirs));
        ours.set_nonblocking(true).unwrap();
        Self { socket: ours, bytes: Vec::new(), canvases: BTreeMap::new(), received: 0 }
    }

    /// Reads at most `limit` bytes, and says what came whole.
    pub fn read_some(&mut self, limit: usize) -> Vec<Said> {
        let mut room = vec![0; limit];
        let mut filled = 0;
        while filled < limit {
            match self.socket.read(&mut room[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.received += filled;
        self.bytes.extend_from_slice(&room[..filled]);
        let mut said = Vec::new();
        while let Some(header) = self.bytes.first_chunk::<HEADER_SIZE>().map(Header::decode) {
            let end = HEADER_SIZE + header.size as usize;
            if self.bytes.len() < end {
                break;
            }
            let rest = self.bytes.split_off(end);
            let message = std::mem::replace(&mut self.bytes, rest);
            let message = Message::decode(&header, &message[HEADER_SIZE..]).unwrap();
            said.push(self.take(message));
        }
        said
    }

    pub fn read(&mut self) -> Vec<Said> {
        self.read_some(1 << 20)
    }

    /// Whether the device hung up.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.socket.read(&mut [0]), Ok(0))
    }

    /// Whether a message came in part.
    pub fn is_stuck(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub fn answer(&mut self, reply: Reply) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        self.send(&bytes);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn take(&mut self, message: Message<'_>) -> Said {
        match message {
            Message::GetProtocolFeatures => Said::AskedFeatures,
            Message::SetProtocolFeatures(features) => Said::SetFeatures(features),
            Message::GetDisplayInfo => Said::AskedHeads,
            Message::GetEdid(scanout) => Said::AskedEdid(scanout.0),
            Message::CursorPosition(at) => Said::CursorAt(at.scanout.0, at.x, at.y),
            Message::CursorHide(at) => Said::CursorHidden(at.scanout.0),
            Message::CursorUpdate(cursor) => Said::CursorPicture {
                scanout: cursor.position.scanout.0,
                x: cursor.position.x,
                y: cursor.position.y,
                hot: (cursor.hot_x, cursor.hot_y),
                words: words(cursor.image),
            },
            Message::Scanout(scanout, 0, 0) => {
                self.canvases.remove(&scanout.0);
                Said::Scanout(scanout.0, 0, 0)
            }
            Message::Scanout(scanout, width, height) => {
                let words = vec![0xdead_beef; (width * height) as usize];
                self.canvases.insert(scanout.0, Canvas { width, height, words });
                Said::Scanout(scanout.0, width, height)
            }
            Message::Update(scanout, rect, pixels) => {
                let canvas = self.canvases.get_mut(&scanout.0).expect("QEMU draws into freed memory here");
                assert!(!rect.is_empty() && rect.is_within(canvas.width, canvas.height), "{rect:?}");
                let rows = words(pixels);
                for (row, words) in (0..).zip(rows.chunks_exact(rect.width as usize)) {
                    let start = ((rect.y + row) * canvas.width + rect.x) as usize;
                    canvas.words[start..start + words.len()].copy_from_slice(words);
                }
                Said::Update(scanout.0, rect)
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

/// Pixels that differ from their neighbours and from those of another seed.
fn pixel(at: u32, seed: u32) -> [u8; 4] {
    let mixed = at.wrapping_add(1).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40503);
    ((mixed & 0x00ff_ffff) | 1).to_ne_bytes()
}

pub fn picture(width: u32, height: u32, seed: u32) -> Vec<u8> {
    (0..width * height).flat_map(|at| pixel(at, seed)).collect()
}

/// An image that a head shows.
#[derive(Clone, Debug)]
pub struct Image {
    pub width: u32,
    pub height: u32,
    pub format: Format,
    pub pixels: Vec<u8>,
}

impl Image {
    pub fn new(width: u32, height: u32, seed: u32) -> Self {
        Self { width, height, format: Format::B8G8R8X8, pixels: picture(width, height, seed) }
    }

    pub fn frame(&self) -> Frame<'_> {
        Frame {
            format: self.format,
            width: self.width,
            height: self.height,
            stride: self.width * 4,
            offset: 0,
            pixels: Pixels::Private(&self.pixels),
        }
    }

    pub fn canvas(&self) -> Canvas {
        Canvas { width: self.width, height: self.height, words: words(&self.pixels) }
    }

    /// Another picture inside `rect`.
    pub fn draw(&mut self, rect: Rect, seed: u32) {
        for row in rect.y..rect.y + rect.height {
            let start = row * self.width + rect.x;
            let bytes = &mut self.pixels[start as usize * 4..][..rect.width as usize * 4];
            for (at, target) in (start..).zip(bytes.as_chunks_mut::<4>().0) {
                *target = pixel(at, seed);
            }
        }
    }
}

/// Our side: heads with images, and a display.
pub struct Device {
    pub display: VhostUserGpu,
    pub stats: Arc<Stats>,
    pub images: BTreeMap<u32, Image>,
    /// All events so far, but those that asked for pixels.
    pub news: Vec<DisplayEvent>,
    pub now: Instant,
}

impl Device {
    pub fn new() -> Self {
        let stats = Arc::new(Stats::default());
        let display = VhostUserGpu::new(stats.clone()).unwrap();
        Self { display, stats, images: BTreeMap::new(), news: Vec::new(), now: Instant::now() }
    }

    /// With a VMM that was asked for its modes and did not answer.
    pub fn connected() -> (Self, Vmm) {
        let mut device = Self::new();
        let mut vmm = Vmm::connect(&device.display);
        device.poll();
        vmm.read();
        device.news.clear();
        (device, vmm)
    }

    pub fn show(&mut self, scanout: u32, image: Image) {
        self.display.set_scanout(ScanoutId(scanout), Some(&image.frame()));
        self.images.insert(scanout, image);
    }

    pub fn blank(&mut self, scanout: u32) {
        self.images.remove(&scanout);
        self.display.set_scanout(ScanoutId(scanout), None);
    }

    pub fn flush(&mut self, scanout: u32, damage: Rect) {
        let image = &self.images[&scanout];
        self.display.flush(ScanoutId(scanout), &image.frame(), damage);
    }

    pub fn flush_all(&mut self, scanout: u32) {
        let rect = self.images[&scanout].frame().rect();
        self.flush(scanout, rect);
    }

    /// One poll; answers what the display asks. Returns how often it asked.
    pub fn poll(&mut self) -> usize {
        let mut events = Vec::new();
        self.display.poll(self.now, &mut events);
        let mut asked = 0;
        for event in events {
            match event {
                DisplayEvent::Ready { scanout, damage } => {
                    asked += 1;
                    let image = self.images.get(&scanout.0);
                    let frame = image.map(Image::frame);
                    assert!(frame.is_none_or(|frame| damage.is_within(frame.width, frame.height)));
                    self.display.supply(scanout, frame.as_ref(), damage);
                }
                DisplayEvent::Forgot => {
                    for (scanout, image) in &self.images {
                        self.display.set_scanout(ScanoutId(*scanout), Some(&image.frame()));
                        self.display.flush(ScanoutId(*scanout), &image.frame(), image.frame().rect());
                    }
                    self.news.push(DisplayEvent::Forgot);
                }
                other => self.news.push(other),
            }
        }
        asked
    }

    /// A poll as after each batch of commands; then both go on until nothing moves any more, the device only when its
    /// descriptor says so. Returns all that was said.
    pub fn settle(&mut self, vmm: &mut Vmm) -> Vec<Said> {
        let mut said = Vec::new();
        self.poll();
        for _ in 0..10_000 {
            let before = vmm.received;
            said.extend(vmm.read());
            if self.is_due() {
                self.poll();
            } else if vmm.received == before {
                return said;
            }
        }
        panic!("it goes round in circles");
    }

    /// One poll of a device whose head 0 shows `frame`.
    pub fn poll_with(&mut self, frame: &Frame<'_>) {
        let mut events = Vec::new();
        self.display.poll(self.now, &mut events);
        for event in events {
            let DisplayEvent::Ready { scanout, damage } = event else { continue };
            self.display.supply(scanout, Some(frame), damage);
        }
    }

    /// Whether the transport would call [`poll`](Self::poll) by itself.
    pub fn is_due(&self) -> bool {
        let fd = self.display.poll_fd().unwrap();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }
}

pub fn head(width: u32, height: u32) -> Head {
    Head { enabled: true, rect: Rect::of_size(width, height) }
}
