//! Pixels into windows of an X server, through memory that it can read.
//!
//! On a connection of our own, by the same messages that Xlib would send: pure Rust, so that an error is an error and not the
//! end of the process; what this connection draws into is the other one's window, which the server does not mind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use frames::{Rect, SharedImage};
use rustix::net::{AddressFamily, getsockname};
use tracing::debug;
use x11rb::connection::{Connection, RequestConnection};
use x11rb::errors::{ConnectError, ReplyError};
use x11rb::protocol::Event;
use x11rb::protocol::shm::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{
    ChangeWindowAttributesAux, ConnectionExt as _, CreateGCAux, EventMask, ImageFormat, ImageOrder, MapState, Screen,
    Setup,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

use super::canvas::{Broken, Canvas, Painted};
use super::picture::Picture;

/// Bytes of a pixel.
const BYTES: usize = 4;

/// Bytes of an image's words before its pixels, and some.
const WORDS: usize = 64;

/// Why an X server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("Cannot connect to the X server: {0}")]
    Connect(#[from] ConnectError),
    #[error("The X server does not answer: {0}")]
    Reply(#[from] ReplyError),
    #[error("The X server has no screen of 24 bits a pixel")]
    Pixels,
}

/// What is known of a window.
#[derive(Debug, Default)]
struct Seen {
    mapped: bool,
    exposed: Vec<Rect>,
}

/// An X server.
#[derive(Debug)]
pub(super) struct Server {
    connection: RustConnection,
    /// It reads our memory.
    shares: bool,
    windows: RefCell<BTreeMap<u32, Seen>>,
}

impl Server {
    /// Connects to the one that DISPLAY names.
    pub(super) fn connect() -> Result<Self, Unusable> {
        let (connection, screen) = RustConnection::connect(None)?;
        let setup = connection.setup();
        let fits = setup.roots.get(screen).is_some_and(|screen| has_our_pixels(setup, screen));
        if !fits {
            return Err(Unusable::Pixels);
        }
        let shares = shares(&connection)?;
        debug!("The X server {} our memory", if shares { "reads" } else { "cannot read" });
        Ok(Self { connection, shares, windows: RefCell::default() })
    }

    /// Takes in what happened to windows; all that the server did before it got this question.
    fn listen(&self) -> Result<(), Broken> {
        self.connection.sync()?;
        let mut windows = self.windows.borrow_mut();
        while let Some(event) = self.connection.poll_for_event()? {
            match event {
                Event::MapNotify(event) => with(&mut windows, event.window, |seen| seen.mapped = true),
                Event::UnmapNotify(event) => with(&mut windows, event.window, |seen| seen.mapped = false),
                Event::Expose(event) => with(&mut windows, event.window, |seen| {
                    let [x, y, width, height] = [event.x, event.y, event.width, event.height].map(u32::from);
                    seen.exposed.push(Rect::new(x, y, width, height));
                }),
                // Of a request that found its window gone.
                _ => {}
            }
        }
        Ok(())
    }
}

fn with(windows: &mut BTreeMap<u32, Seen>, window: u32, act: impl FnOnce(&mut Seen)) {
    if let Some(seen) = windows.get_mut(&window) {
        act(seen);
    }
}

/// True when a pixel is the four bytes that we have: 0x00RRGGBB.
fn has_our_pixels(setup: &Setup, screen: &Screen) -> bool {
    let order = if cfg!(target_endian = "little") { ImageOrder::LSB_FIRST } else { ImageOrder::MSB_FIRST };
    let four =
        setup.pixmap_formats.iter().any(|format| format.depth == screen.root_depth && format.bits_per_pixel == 32);
    let mut visuals = screen.allowed_depths.iter().flat_map(|depth| &depth.visuals);
    let masks = visuals.any(|visual| {
        let masks = (visual.red_mask, visual.green_mask, visual.blue_mask);
        visual.visual_id == screen.root_visual && masks == (0x00ff_0000, 0x0000_ff00, 0x0000_00ff)
    });
    setup.image_byte_order == order && four && masks
}

/// True when the server is on this host and takes descriptors of memory.
fn shares(connection: &RustConnection) -> Result<bool, ReplyError> {
    let here = getsockname(connection.stream()).is_ok_and(|address| address.address_family() == AddressFamily::UNIX);
    if !here || connection.extension_information(shm::X11_EXTENSION_NAME)?.is_none() {
        return Ok(false);
    }
    let version = connection.shm_query_version()?.reply()?;
    Ok((version.major_version, version.minor_version) >= (1, 2))
}

/// A window of the server.
pub(super) struct Window {
    server: Rc<Server>,
    window: u32,
    context: u32,
    depth: u8,
    /// What the window shows, or will.
    size: (u32, u32),
    shown: bool,
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    image: SharedImage,
    segment: shm::Seg,
}

impl Window {
    pub(super) fn new(server: &Rc<Server>, window: u32) -> Result<Self, Broken> {
        let connection = &server.connection;
        let news = EventMask::STRUCTURE_NOTIFY | EventMask::EXPOSURE;
        connection.change_window_attributes(window, &ChangeWindowAttributesAux::new().event_mask(news))?;
        let attributes = connection.get_window_attributes(window)?;
        let depth = connection.get_geometry(window)?.reply()?.depth;
        let mapped = attributes.reply()?.map_state != MapState::UNMAPPED;
        let context = connection.generate_id()?;
        connection.create_gc(context, window, &CreateGCAux::new().graphics_exposures(0))?.check()?;
        server.windows.borrow_mut().insert(window, Seen { mapped, exposed: Vec::new() });
        let server = server.clone();
        Ok(Self { server, window, context, depth, size: (0, 0), shown: false, memory: None })
    }

    fn resize(&mut self, size: (u32, u32)) -> Result<(), Broken> {
        if self.size == size {
            return Ok(());
        }
        self.size = size;
        self.shown = false;
        if !self.server.shares {
            return Ok(());
        }
        let bytes = u64::from(size.0) * u64::from(size.1) * BYTES as u64;
        if self.memory.as_ref().is_some_and(|memory| memory.image.size() >= bytes) {
            return Ok(());
        }
        self.detach()?;
        let connection = &self.server.connection;
        let image = SharedImage::create(bytes)?;
        let segment = connection.generate_id()?;
        let fd = image.fd().try_clone_to_owned().map_err(|error| frames::ImageError::System(errno(&error)))?;
        connection.shm_attach_fd(segment, fd, true)?.check()?;
        self.memory = Some(Memory { image, segment });
        Ok(())
    }

    fn detach(&mut self) -> Result<(), Broken> {
        if let Some(memory) = self.memory.take() {
            self.server.connection.shm_detach(memory.segment)?;
        }
        Ok(())
    }

    /// A part of the window, through the memory that it shares.
    fn share(&self, memory: &Memory, picture: &mut Picture, part: Rect) -> Result<(), Broken> {
        let slice = memory.image.slice();
        picture.draw(part, &mut |y, row| {
            let start = (y as usize * self.size.0 as usize + part.x as usize) * BYTES;
            if let Some(Ok(room)) = slice.as_ref().map(|slice| slice.offset(start)) {
                room.copy_from(bytemuck::cast_slice::<u32, u8>(row));
            }
        });
        let [total_width, total_height] = [self.size.0, self.size.1].map(length);
        let [x, y, width, height] = [part.x, part.y, part.width, part.height].map(length);
        let (format, depth) = (ImageFormat::Z_PIXMAP.into(), self.depth);
        let connection = &self.server.connection;
        #[rustfmt::skip]
        connection.shm_put_image(
            self.window, self.context, total_width, total_height, x, y, width, height, x as i16, y as i16, depth, format,
            false, memory.segment, 0,
        )?;
        Ok(())
    }

    /// A part of the window, through the socket, in as many messages as it takes.
    fn send(&self, picture: &mut Picture, part: Rect) -> Result<(), Broken> {
        let connection = &self.server.connection;
        let room = connection.maximum_request_bytes().saturating_sub(WORDS);
        let rows = (room / (part.width as usize * BYTES).max(1)).max(1) as u32;
        let mut bytes = Vec::new();
        for y in (part.y..part.bottom()).step_by(rows as usize) {
            let strip = Rect { y, height: rows.min(part.bottom() - y), ..part };
            bytes.clear();
            picture.draw(strip, &mut |_, row| bytes.extend_from_slice(bytemuck::cast_slice(row)));
            let [x, y, width, height] = [strip.x, strip.y, strip.width, strip.height].map(length);
            let (format, depth) = (ImageFormat::Z_PIXMAP, self.depth);
            connection.put_image(
                format,
                self.window,
                self.context,
                width,
                height,
                x as i16,
                y as i16,
                0,
                depth,
                &bytes,
            )?;
        }
        Ok(())
    }
}

impl Canvas for Window {
    fn paint(&mut self, picture: &mut Picture) -> Result<Painted, Broken> {
        // After this the server has read what it was given the last time.
        self.server.listen()?;
        let mut hidden = false;
        with(&mut self.server.windows.borrow_mut(), self.window, |seen| {
            seen.exposed.drain(..).for_each(|part| picture.spoil(part));
            hidden = !seen.mapped;
        });
        if hidden {
            return Ok(Painted::Hidden);
        }
        let window = picture.placement().window();
        self.resize((window.width, window.height))?;
        let damage = picture.begin(u8::from(self.shown));
        for part in damage.rects() {
            match &self.memory {
                Some(memory) => self.share(memory, picture, *part)?,
                None => self.send(picture, *part)?,
            }
        }
        self.shown |= !damage.is_empty();
        self.server.connection.flush()?;
        Ok(Painted::Shown)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.server.windows.borrow_mut().remove(&self.window);
        // A server that is gone needs no tidying.
        let _ = self.detach();
        let _ = self.server.connection.free_gc(self.context);
        let _ = self.server.connection.flush();
    }
}

/// Lengths of X are 16 bits wide, windows no larger.
fn length(length: u32) -> u16 {
    length.min(u32::from(u16::MAX)) as u16
}

fn errno(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}
