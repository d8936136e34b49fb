//! The viewer's end: gives credits, gets pictures.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vm_memory::MmapRegion;

use crate::image::map_announced;
use crate::message::{CursorShape, MAGIC, MAX_MESSAGE, ToDevice, ToViewer};
use crate::socket::{self, Received, Sent};
use crate::{Cursor, Damage, ImageError, MAX_HEADS, MAX_IMAGES, ModeRequest, ScreenLayout, VERSION, View};

/// What a device said. Everything up to a `Frame` is one update.
#[derive(Debug)]
pub enum News {
    /// It knows us; said once, first.
    Session(Session),
    /// A head changed its place or size.
    Layout(u8, ScreenLayout),
    /// A head shows that from now on.
    Show(u8, View),
    /// A head shows nothing.
    Blank(u8),
    /// A head's cursor looks like that; none: it is hidden.
    Cursor(u8, Option<Cursor>),
    /// A head's cursor points there.
    CursorMoved(u8, i32, i32),
    /// The end of an update: read these pixels now. The credit is spent.
    Frame(u8, Damage),
}

/// Who the device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name of the VM.
    pub name: String,
    /// Number of heads.
    pub heads: usize,
}

/// Why a viewer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ViewerError {
    /// Nobody holds the device's end.
    #[error("The device is gone")]
    Closed,
    /// Another build.
    #[error("The device speaks version {0} of the frame protocol, this viewer {VERSION}: use the same build for both")]
    Version(u16),
    /// Not a message, or not where it belongs.
    #[error("The device sent what no device sends: {0}")]
    Garbage(&'static str),
    /// Memory that cannot be mapped safely.
    #[error("The device's picture cannot be shown")]
    Image(#[from] ImageError),
    /// The socket cannot be used.
    #[error("The device's socket cannot be used")]
    Socket(#[from] std::io::Error),
}

/// The viewer's end of the seam. It never blocks.
#[derive(Debug)]
pub struct ViewerEnd {
    socket: OwnedFd,
    nonce: u64,
    begun: bool,
    heads: usize,
    images: BTreeMap<u64, Arc<MmapRegion>>,
    /// Credits that did not fit into the socket.
    owed: [Option<ToDevice>; MAX_HEADS],
    hello: Option<ToDevice>,
    bytes: Vec<u8>,
}

impl ViewerEnd {
    /// Takes one socket of a [`crate::pair`], perhaps from a viewer that died, and says hello.
    pub fn new(socket: OwnedFd) -> Result<Self, ViewerError> {
        socket::set_nonblocking(&socket)?;
        let nonce = nonce()?;
        let mut end = Self {
            socket,
            nonce,
            begun: false,
            heads: 0,
            images: BTreeMap::new(),
            owed: [None; MAX_HEADS],
            hello: Some(ToDevice::Hello { magic: MAGIC, version: VERSION, nonce }),
            bytes: vec![0; MAX_MESSAGE],
        };
        end.flush()?;
        Ok(end)
    }

    /// The next piece of news, if there is one. Call it until there is none whenever the socket is readable.
    pub fn receive(&mut self) -> Result<Option<News>, ViewerError> {
        self.flush()?;
        loop {
            let (length, fd) = match socket::receive(self.socket.as_fd(), &mut self.bytes) {
                Received::Message(length, fd) => (length, fd),
                Received::Nothing => return Ok(None),
                Received::Closed => return Err(ViewerError::Closed),
                Received::Garbage if !self.begun => continue,
                Received::Garbage => return Err(ViewerError::Garbage("a message of a wrong length")),
            };
            let bytes = std::mem::take(&mut self.bytes);
            let news = self.take(&bytes[..length], fd);
            self.bytes = bytes;
            if let Some(news) = news? {
                return Ok(Some(news));
            }
        }
    }

    /// Asks for the next news of a head: one credit. With `now` the answer comes at once, even if nothing changed; with
    /// `pointer` also when only the pointer moved.
    pub fn ready(&mut self, head: u8, now: bool, pointer: bool) -> Result<(), ViewerError> {
        if let Some(owed) = self.owed.get_mut(usize::from(head)) {
            let earlier = match owed {
                Some(ToDevice::Ready { now, pointer, .. }) => (*now, *pointer),
                _ => (false, false),
            };
            *owed = Some(ToDevice::Ready { head, now: now || earlier.0, pointer: pointer || earlier.1 });
        }
        self.flush()
    }

    /// Asks for another size of a head. False: the device is too busy to hear it.
    pub fn resize(&mut self, wish: ModeRequest) -> Result<bool, ViewerError> {
        self.say(&ToDevice::Resize(wish))
    }

    /// Says that somebody closed the window.
    pub fn close(&mut self) -> Result<bool, ViewerError> {
        self.say(&ToDevice::Close)
    }

    /// True when a credit waits for room in the socket: wait for writable too, then call [`Self::flush`].
    pub fn wants_write(&self) -> bool {
        self.hello.is_some() || self.owed.iter().any(Option::is_some)
    }

    /// Sends the credits that found no room before.
    pub fn flush(&mut self) -> Result<(), ViewerError> {
        if let Some(hello) = self.hello {
            if !self.say(&hello)? {
                return Ok(());
            }
            self.hello = None;
        }
        for head in 0..self.owed.len() {
            if let Some(ready) = self.owed[head] {
                if !self.say(&ready)? {
                    return Ok(());
                }
                self.owed[head] = None;
            }
        }
        Ok(())
    }

    fn say(&mut self, message: &ToDevice) -> Result<bool, ViewerError> {
        let mut bytes = [0; 64];
        let words = postcard::to_slice(message, &mut bytes).map_err(|_| ViewerError::Garbage("ours"))?;
        match socket::send(self.socket.as_fd(), words, &[], None) {
            Sent::Whole => Ok(true),
            Sent::Full => Ok(false),
            Sent::Closed => Err(ViewerError::Closed),
        }
    }

    /// One message. None: it was only for us, or for a viewer before us.
    fn take(&mut self, bytes: &[u8], fd: Option<OwnedFd>) -> Result<Option<News>, ViewerError> {
        let message = postcard::take_from_bytes::<ToViewer>(bytes);
        if !self.begun {
            return match message {
                Ok((ToViewer::Hello { magic: MAGIC, version, nonce, heads, name }, _)) if nonce == self.nonce => {
                    if version != VERSION {
                        return Err(ViewerError::Version(version));
                    }
                    self.begun = true;
                    self.heads = usize::from(heads).min(MAX_HEADS);
                    Ok(Some(News::Session(Session { name: name.to_owned(), heads: self.heads })))
                }
                _ => Ok(None),
            };
        }
        let (message, pixels) = message.map_err(|_| ViewerError::Garbage("not a message"))?;
        let news = match message {
            ToViewer::Hello { .. } => return Err(ViewerError::Garbage("hello again")),
            ToViewer::Buffer { id, size } => {
                let fd = fd.ok_or(ViewerError::Garbage("a buffer without its memory"))?;
                if self.images.len() >= MAX_IMAGES {
                    return Err(ViewerError::Garbage("too many buffers"));
                }
                self.images.insert(id, map_announced(fd, size)?);
                return Ok(None);
            }
            ToViewer::Forget { id } => {
                self.images.remove(&id);
                return Ok(None);
            }
            ToViewer::Head { head, layout } => News::Layout(self.existing(head)?, layout),
            ToViewer::Show { head, id, geometry } => {
                let memory = self.images.get(&id).ok_or(ViewerError::Garbage("a buffer that it never sent"))?;
                let view = View::new(memory.clone(), geometry);
                let view = view.ok_or(ViewerError::Garbage("a picture outside its buffer"))?;
                News::Show(self.existing(head)?, view)
            }
            ToViewer::Blank { head } => News::Blank(self.existing(head)?),
            ToViewer::Cursor { head, shape } => News::Cursor(self.existing(head)?, Some(cursor(shape, pixels)?)),
            ToViewer::CursorHide { head } => News::Cursor(self.existing(head)?, None),
            ToViewer::CursorMove { head, x, y } => News::CursorMoved(self.existing(head)?, x, y),
            ToViewer::Frame { head, damage } => News::Frame(self.existing(head)?, damage),
        };
        Ok(Some(news))
    }

    fn existing(&self, head: u8) -> Result<u8, ViewerError> {
        if usize::from(head) < self.heads { Ok(head) } else { Err(ViewerError::Garbage("a head that does not exist")) }
    }
}

impl AsFd for ViewerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn cursor(shape: CursorShape, pixels: &[u8]) -> Result<Cursor, ViewerError> {
    if shape.bytes() != Some(pixels.len()) {
        return Err(ViewerError::Garbage("a cursor of a wrong size"));
    }
    let CursorShape { width, height, hot_x, hot_y } = shape;
    Ok(Cursor { width, height, hot_x: hot_x.min(width - 1), hot_y: hot_y.min(height - 1), pixels: pixels.to_vec() })
}

/// A number that no viewer before us had.
fn nonce() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}
