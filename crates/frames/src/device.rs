//! The device's end: what is to be seen, and the credits to say so.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use crate::image::Shared;
use crate::message::{MAGIC, MAX_MESSAGE, ToDevice, ToViewer};
use crate::socket::{self, Received, Sent};
use crate::{
    Cursor, Damage, Geometry, MAX_HEADS, MAX_IMAGES, MAX_NAME, MESSAGES_PER_POLL, ModeRequest, Rect, ScreenLayout,
    SharedImage, VERSION,
};

/// What a viewer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A viewer began, perhaps after another one died.
    Connected,
    /// It speaks another version: it was told ours and gets nothing.
    WrongVersion(u16),
    /// It wants a head to have another size. The last wish of a poll, for each head.
    Resize(ModeRequest),
    /// Somebody closed the window. Asks; never kills a VM.
    Close,
    /// It sent something that is no message: it gets nothing until it begins again.
    Garbage,
    /// Nobody holds the viewer's end of the socket any more. Said once.
    Closed,
}

/// Why a picture cannot be shown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShowError {
    /// There is no such head.
    #[error("Head {0} does not exist")]
    Head(u32),
    /// It is not all in its memory, or too large.
    #[error("Picture {width}x{height} is not in its memory of {size} bytes")]
    Geometry {
        /// Width.
        width: u32,
        /// Height.
        height: u32,
        /// Size of the memory.
        size: u64,
    },
    /// Not as many bytes as its size says, or more than [`crate::MAX_CURSOR`].
    #[error("Cursor {width}x{height} with {bytes} bytes")]
    Cursor {
        /// Width.
        width: u32,
        /// Height.
        height: u32,
        /// Bytes.
        bytes: usize,
    },
}

/// What passed, for statistics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Viewers that began.
    pub sessions: u64,
    /// Messages sent.
    pub messages: u64,
    /// Updates sent; each spent a credit.
    pub frames: u64,
    /// Times that the socket was full.
    pub full: u64,
    /// Messages that were none.
    pub garbage: u64,
}

/// A viewer's permission to send one update.
#[derive(Clone, Copy, Debug, Default)]
struct Credit {
    now: bool,
    pointer: bool,
}

/// What is to be seen on a head, and which of it the viewer does not know yet.
#[derive(Debug, Default)]
struct Head {
    layout: ScreenLayout,
    picture: Option<(SharedImage, Geometry)>,
    cursor: Option<Cursor>,
    pointer: (i32, i32),
    layout_changed: bool,
    picture_changed: bool,
    cursor_changed: bool,
    pointer_moved: bool,
    damage: Damage,
    /// Its pixels are not where the viewer could read them yet.
    held: bool,
    credit: Option<Credit>,
}

impl Head {
    /// A new viewer knows nothing.
    fn tell_everything(&mut self) {
        (self.layout_changed, self.picture_changed, self.cursor_changed, self.pointer_moved) = (true, true, true, true);
        self.damage = self.picture.as_ref().map(|(_, geometry)| Damage::of(geometry.rect())).unwrap_or_default();
        self.credit = None;
    }

    fn may_send(&self) -> bool {
        let Some(credit) = self.credit.filter(|_| !self.held) else { return false };
        let news = self.layout_changed || self.picture_changed || self.cursor_changed || !self.damage.is_empty();
        news || credit.now || (credit.pointer && self.pointer_moved)
    }

    /// What was shown may be gone, and what comes instead is not there yet.
    fn must_blank(&self) -> bool {
        self.held && self.credit.is_some() && self.picture_changed && self.picture.is_none()
    }
}

/// The socket would not take it.
struct Stop(Sent);

/// The device's end of the seam. It never blocks; a call costs a system call only when a viewer waits for news.
#[derive(Debug)]
pub struct DeviceEnd {
    socket: OwnedFd,
    name: String,
    heads: Vec<Head>,
    /// A viewer said hello.
    session: bool,
    /// The answer to its hello, not sent yet.
    hello: Option<u64>,
    /// The images that the viewer has, the latest shown last.
    known: Vec<(u64, Weak<Shared>)>,
    full: bool,
    closed: bool,
    counters: Counters,
}

impl DeviceEnd {
    /// Takes one socket of a [`crate::pair`]. Nothing is sent before a viewer says hello.
    ///
    /// A longer name is cut at [`MAX_NAME`] bytes, more heads than [`MAX_HEADS`] are left out.
    pub fn new(socket: OwnedFd, name: &str, heads: usize) -> std::io::Result<Self> {
        socket::set_nonblocking(&socket)?;
        Ok(Self {
            socket,
            name: name[..name.floor_char_boundary(MAX_NAME)].to_owned(),
            heads: (0..heads.min(MAX_HEADS)).map(|_| Head::default()).collect(),
            session: false,
            hello: None,
            known: Vec::new(),
            full: false,
            closed: false,
            counters: Counters::default(),
        })
    }

    /// Where a head is and what size it asked for. Heads that do not exist are ignored here and below.
    pub fn layout(&mut self, head: u32, layout: ScreenLayout) {
        if let Some(state) = self.heads.get_mut(head as usize)
            && state.layout != layout
        {
            state.layout = layout;
            state.layout_changed = true;
            self.flush();
        }
    }

    /// Shows a picture on a head. Another picture than before, or another geometry, is damage all over.
    pub fn show(&mut self, head: u32, image: &SharedImage, geometry: Geometry) -> Result<(), ShowError> {
        let Geometry { width, height, .. } = geometry;
        if !geometry.fits(image.size()) {
            return Err(ShowError::Geometry { width, height, size: image.size() });
        }
        let state = self.heads.get_mut(head as usize).ok_or(ShowError::Head(head))?;
        let same = |(old, have): &(SharedImage, Geometry)| old.id() == image.id() && *have == geometry;
        if !state.picture.as_ref().is_some_and(same) {
            state.picture = Some((image.clone(), geometry));
            state.picture_changed = true;
            state.damage = Damage::of(geometry.rect());
            self.flush();
        }
        Ok(())
    }

    /// Shows nothing on a head.
    pub fn blank(&mut self, head: u32) {
        if let Some(state) = self.heads.get_mut(head as usize)
            && state.picture.take().is_some()
        {
            state.picture_changed = true;
            state.damage.clear();
            self.flush();
        }
    }

    /// Pixels of a head's picture changed.
    pub fn damage(&mut self, head: u32, rect: Rect) {
        if let Some(state) = self.heads.get_mut(head as usize)
            && let Some((_, geometry)) = &state.picture
        {
            state.damage.add(rect.clipped(geometry.width, geometry.height));
            self.flush();
        }
    }

    /// Several parts of a head's picture changed, and are told in one update.
    pub fn damage_all(&mut self, head: u32, damage: &Damage) {
        if let Some(state) = self.heads.get_mut(head as usize)
            && let Some((_, geometry)) = &state.picture
        {
            let (width, height) = (geometry.width, geometry.height);
            damage.rects().iter().for_each(|rect| state.damage.add(rect.clipped(width, height)));
            self.flush();
        }
    }

    /// True when a viewer waits for news of a head: pixels that have to be fetched for it are worth fetching now.
    pub fn is_awaited(&self, head: u32) -> bool {
        let waits = |state: &Head| state.credit.is_some();
        self.session && !self.full && self.heads.get(head as usize).is_some_and(waits)
    }

    /// Holds what there is to say of a head back, or lets it go: pixels are being fetched, and without them a viewer that
    /// asks what the head shows now would be told of those before.
    pub fn hold(&mut self, head: u32, held: bool) {
        if let Some(state) = self.heads.get_mut(head as usize)
            && std::mem::replace(&mut state.held, held)
            && !held
        {
            self.flush();
        }
    }

    /// Gives a head's cursor another picture; none hides it.
    pub fn cursor(&mut self, head: u32, cursor: Option<Cursor>) -> Result<(), ShowError> {
        if let Some(Cursor { width, height, pixels, .. }) = &cursor
            && cursor.as_ref().and_then(|cursor| cursor.shape().bytes()) != Some(pixels.len())
        {
            return Err(ShowError::Cursor { width: *width, height: *height, bytes: pixels.len() });
        }
        let state = self.heads.get_mut(head as usize).ok_or(ShowError::Head(head))?;
        if state.cursor != cursor {
            state.cursor = cursor;
            state.cursor_changed = true;
            self.flush();
        }
        Ok(())
    }

    /// Moves a head's cursor: the upper left pixel of its picture is at that one.
    pub fn move_cursor(&mut self, head: u32, x: i32, y: i32) {
        if let Some(state) = self.heads.get_mut(head as usize)
            && state.pointer != (x, y)
        {
            state.pointer = (x, y);
            state.pointer_moved = true;
            self.flush();
        }
    }

    /// The memory is about to go: heads that show it go blank and the viewer unmaps it.
    ///
    /// Without this call it does so when the last clone of the image was dropped and something else is said.
    pub fn forget(&mut self, image: &SharedImage) {
        for head in 0..self.heads.len() as u32 {
            let picture = self.heads[head as usize].picture.as_ref();
            if picture.is_some_and(|(shown, _)| shown.id() == image.id()) {
                self.blank(head);
            }
        }
        for (_, memory) in self.known.iter_mut().filter(|(id, _)| *id == image.id()) {
            *memory = Weak::new();
        }
        self.flush();
    }

    /// Call it when the socket is readable, or writable while [`Self::wants_write`]. Reads at most [`MESSAGES_PER_POLL`]
    /// messages, so use a level-triggered wait.
    pub fn poll(&mut self) -> Vec<DeviceEvent> {
        let mut events = Vec::new();
        if self.closed {
            return events;
        }
        let mut bytes = [0; MAX_MESSAGE];
        for _ in 0..MESSAGES_PER_POLL {
            match socket::receive(self.socket.as_fd(), &mut bytes) {
                Received::Message(length, _) => match postcard::from_bytes(&bytes[..length]) {
                    Ok(message) => self.take(message, &mut events),
                    Err(_) => self.garbage(&mut events),
                },
                Received::Garbage => self.garbage(&mut events),
                Received::Nothing => break,
                Received::Closed => {
                    self.close();
                    break;
                }
            }
        }
        self.full = false;
        self.flush();
        if self.closed {
            events.push(DeviceEvent::Closed);
        }
        events
    }

    /// True when something waits for room in the socket: wait for writable too.
    pub fn wants_write(&self) -> bool {
        self.full && !self.closed
    }

    /// True when nobody holds the other end.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What passed.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn take(&mut self, message: ToDevice, events: &mut Vec<DeviceEvent>) {
        match message {
            ToDevice::Hello { magic: MAGIC, version, nonce } => {
                self.hello = Some(nonce);
                self.session = version == VERSION;
                self.known.clear();
                self.heads.iter_mut().for_each(Head::tell_everything);
                self.counters.sessions += 1;
                events.push(match self.session {
                    true => DeviceEvent::Connected,
                    false => DeviceEvent::WrongVersion(version),
                });
            }
            ToDevice::Hello { .. } => self.garbage(events),
            // Left over from a viewer that misbehaved.
            _ if !self.session => {}
            ToDevice::Ready { head, now, pointer } => {
                if let Some(state) = self.heads.get_mut(usize::from(head)) {
                    // Credits do not add up, but what the first one asked for is not forgotten.
                    let earlier = state.credit.unwrap_or_default();
                    state.credit = Some(Credit { now: now || earlier.now, pointer: pointer || earlier.pointer });
                }
            }
            ToDevice::Resize(wish) => {
                events.retain(|event| !matches!(event, DeviceEvent::Resize(earlier) if earlier.head == wish.head));
                events.push(DeviceEvent::Resize(wish));
            }
            ToDevice::Close => events.push(DeviceEvent::Close),
        }
    }

    fn garbage(&mut self, events: &mut Vec<DeviceEvent>) {
        self.counters.garbage += 1;
        if self.session {
            events.push(DeviceEvent::Garbage);
        }
        self.session = false;
    }

    fn close(&mut self) {
        self.closed = true;
        self.session = false;
        self.hello = None;
        self.known.clear();
    }

    /// Says what there is to say and may be said.
    fn flush(&mut self) {
        if self.full || self.closed {
            return;
        }
        match self.say_all() {
            Ok(()) => {}
            Err(Stop(Sent::Closed)) => self.full = true, // `poll` will find out.
            Err(Stop(_)) => {
                self.full = true;
                self.counters.full += 1;
            }
        }
    }

    fn say_all(&mut self) -> Result<(), Stop> {
        if let Some(nonce) = self.hello {
            let heads = self.heads.len() as u8;
            let name = std::mem::take(&mut self.name);
            let said = self.say(&ToViewer::Hello { magic: MAGIC, version: VERSION, nonce, heads, name: &name }, &[]);
            self.name = name;
            said?;
            self.hello = None;
        }
        if !self.session {
            return Ok(());
        }
        self.forget_the_dead()?;
        for head in 0..self.heads.len() {
            if self.heads[head].may_send() {
                self.update(head)?;
            } else if self.heads[head].must_blank() {
                // Not the end of an update: that comes with the pixels.
                self.say(&ToViewer::Blank { head: head as u8 }, &[])?;
                self.heads[head].picture_changed = false;
            }
        }
        Ok(())
    }

    /// Sends one update. Each flag falls only when its message is in the socket, so a full socket loses nothing.
    fn update(&mut self, index: usize) -> Result<(), Stop> {
        let head = index as u8;
        if self.heads[index].layout_changed {
            self.say(&ToViewer::Head { head, layout: self.heads[index].layout }, &[])?;
            self.heads[index].layout_changed = false;
        }
        if self.heads[index].picture_changed {
            match self.heads[index].picture.clone() {
                Some((image, geometry)) => {
                    self.introduce(&image)?;
                    self.say(&ToViewer::Show { head, id: image.id(), geometry }, &[])?;
                }
                None => self.say(&ToViewer::Blank { head }, &[])?,
            }
            self.heads[index].picture_changed = false;
        }
        if self.heads[index].cursor_changed {
            match self.heads[index].cursor.take() {
                Some(cursor) => {
                    let said = self.say(&ToViewer::Cursor { head, shape: cursor.shape() }, &cursor.pixels);
                    self.heads[index].cursor = Some(cursor);
                    said?;
                }
                None => self.say(&ToViewer::CursorHide { head }, &[])?,
            }
            self.heads[index].cursor_changed = false;
        }
        if self.heads[index].pointer_moved {
            let (x, y) = self.heads[index].pointer;
            self.say(&ToViewer::CursorMove { head, x, y }, &[])?;
            self.heads[index].pointer_moved = false;
        }
        self.say(&ToViewer::Frame { head, damage: self.heads[index].damage }, &[])?;
        self.heads[index].damage.clear();
        self.heads[index].credit = None;
        self.counters.frames += 1;
        Ok(())
    }

    /// Makes sure that the viewer has the memory.
    fn introduce(&mut self, image: &SharedImage) -> Result<(), Stop> {
        if let Some(at) = self.known.iter().position(|(id, _)| *id == image.id()) {
            let known = self.known.remove(at);
            self.known.push(known);
            return Ok(());
        }
        if self.known.len() >= MAX_IMAGES
            && let Some(at) = self.known.iter().position(|(id, _)| !self.is_shown(*id))
        {
            self.say(&ToViewer::Forget { id: self.known[at].0 }, &[])?;
            self.known.remove(at);
        }
        let message = ToViewer::Buffer { id: image.id(), size: image.size() };
        self.transmit(&message, &[], Some(image.fd()))?;
        self.known.push((image.id(), Arc::downgrade(image.shared())));
        Ok(())
    }

    fn is_shown(&self, id: u64) -> bool {
        self.heads.iter().filter_map(|head| head.picture.as_ref()).any(|(image, _)| image.id() == id)
    }

    fn forget_the_dead(&mut self) -> Result<(), Stop> {
        while let Some(at) = self.known.iter().position(|(_, memory)| memory.strong_count() == 0) {
            self.say(&ToViewer::Forget { id: self.known[at].0 }, &[])?;
            self.known.remove(at);
        }
        Ok(())
    }

    fn say(&mut self, message: &ToViewer, pixels: &[u8]) -> Result<(), Stop> {
        self.transmit(message, pixels, None)
    }

    fn transmit(&mut self, message: &ToViewer, pixels: &[u8], fd: Option<BorrowedFd>) -> Result<(), Stop> {
        let mut bytes = [0; 512];
        // The words of a message are bounded by their types: at most a name, or eight rectangles.
        let words = postcard::to_slice(message, &mut bytes).map_err(|_| Stop(Sent::Closed))?;
        match socket::send(self.socket.as_fd(), words, pixels, fd) {
            Sent::Whole => {
                self.counters.messages += 1;
                Ok(())
            }
            stopped => Err(Stop(stopped)),
        }
    }
}

impl AsFd for DeviceEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
