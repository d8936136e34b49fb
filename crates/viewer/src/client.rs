//! One client: its handshake, what it says, and the updates it gets.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use frames::Rect;
use tokio::time::{sleep, timeout};

use crate::hub::{Hub, Joined, Update};
use crate::link::Link;
use crate::rfb::decode::{ClientMessage, Decoder, Version, Violation};
use crate::rfb::encodings::{self, Abilities, CursorKind, Packing};
use crate::rfb::message::{self, SECURITY_NONE};
use crate::rfb::pixel::{PixelFormat, Translator};
use crate::rfb::zrle::Zrle;
use crate::wire::{Sink, Source};

/// Time for the handshake. Stops clients that connect and say nothing.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for the device to say what it shows now; after that the client is told what is known.
const SYNC: Duration = Duration::from_secs(1);

/// Wishes for another size are passed on this often. Stops a storm of resizes.
const RESIZE_EACH: Duration = Duration::from_millis(100);

/// Pixels that are copied, packed and sent at a time. Bounds what a client that does not read makes us hold, and the time that
/// others wait.
const STRIP: u32 = 128 << 10;

/// Small rectangles are collected up to that many bytes before they are sent.
const COLLECT: usize = 64 << 10;

/// What a client is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) head: u8,
    /// Draw the guest's cursor into the picture, where the guest has it.
    pub(crate) drawn_cursor: bool,
}

/// Why a client was sent away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("It said nothing for {} s", HANDSHAKE.as_secs())]
    Silent,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("The connection broke")]
    Broken(#[from] io::Error),
}

/// Serves a client until it goes.
pub(crate) async fn serve(hub: Arc<Hub>, source: Source, mut sink: Sink, choice: Choice) -> Result<(), End> {
    let mut listener = Listener { source, buffer: BytesMut::new(), decoder: Decoder::new() };
    let greeting = async {
        if !listener.agree(&mut sink).await? {
            return Ok::<_, End>(None);
        }
        let joined = hub.join(choice.head, choice.drawn_cursor);
        let synced = async {
            while !joined.is_synced() {
                joined.wake.notified().await;
            }
        };
        // A device that hangs still has a last picture.
        let _ = timeout(SYNC, synced).await;
        let (width, height, name) = joined.begin();
        let mut out = Vec::new();
        message::init(width, height, &name, &mut out);
        sink.send(&mut out).await?;
        Ok(Some(joined))
    };
    let Some(joined) = timeout(HANDSHAKE, greeting).await.map_err(|_| End::Silent)?? else { return Ok(()) };
    let mut packer = Packer::new();
    tokio::select! {
        ended = listener.listen(&hub, &joined) => ended,
        ended = packer.show(&joined, &mut sink) => ended,
    }
}

/// Understands what the client says.
struct Listener {
    source: Source,
    buffer: BytesMut,
    decoder: Decoder,
}

impl Listener {
    /// The next message; none: the client is gone.
    async fn next(&mut self) -> Result<Option<ClientMessage>, End> {
        loop {
            if let Some(message) = self.decoder.next(&mut self.buffer)? {
                return Ok(Some(message));
            }
            if !self.source.read(&mut self.buffer).await? {
                return Ok(None);
            }
        }
    }

    /// Agrees on the version and on no authentication. False: the client went.
    async fn agree(&mut self, sink: &mut Sink) -> Result<bool, End> {
        let mut out = message::VERSION.to_vec();
        sink.send(&mut out).await?;
        let Some(ClientMessage::Version(version)) = self.next().await? else { return Ok(false) };
        if version == Version::Rfb33 {
            out.extend(u32::from(SECURITY_NONE).to_be_bytes());
            sink.send(&mut out).await?;
        } else {
            out.extend([1, SECURITY_NONE]);
            sink.send(&mut out).await?;
            let Some(ClientMessage::Security(choice)) = self.next().await? else { return Ok(false) };
            if choice != SECURITY_NONE {
                return Err(Violation("a way to authenticate that was not offered").into());
            }
            if version == Version::Rfb38 {
                out.extend([0; 4]);
                sink.send(&mut out).await?;
            }
        }
        Ok(matches!(self.next().await?, Some(ClientMessage::Init)))
    }

    /// Takes what the client says until it goes.
    async fn listen(&mut self, hub: &Arc<Hub>, joined: &Joined) -> Result<(), End> {
        while let Some(message) = self.next().await? {
            match message {
                ClientMessage::PixelFormat(format) => joined.set_format(format),
                ClientMessage::Encodings(list) => joined.set_abilities(Abilities::from_list(&list)),
                ClientMessage::UpdateRequest { incremental, rect } => joined.request(incremental, rect),
                ClientMessage::DesktopSize { width, height } => {
                    if let Some(head) = joined.wish(width, height) {
                        tokio::spawn(pass_wishes(hub.clone(), head));
                    }
                }
                // Viewers only look: what they type is understood, so that their stream goes on, and dropped.
                ClientMessage::Key { .. } | ClientMessage::Pointer { .. } | ClientMessage::CutText => {}
                ClientMessage::Version(_) | ClientMessage::Security(_) | ClientMessage::Init => {}
            }
        }
        Ok(())
    }
}

/// Passes a head's wishes for another size on until there are none.
async fn pass_wishes(hub: Arc<Hub>, head: u8) {
    loop {
        sleep(RESIZE_EACH).await;
        if !hub.pass_wish(head) {
            return;
        }
    }
}

/// Makes a client's bytes.
struct Packer {
    translator: Translator,
    format: PixelFormat,
    zrle: Zrle,
    link: Link,
    pixels: Vec<u32>,
    out: Vec<u8>,
}

impl Packer {
    fn new() -> Self {
        Self {
            translator: Translator::new(PixelFormat::NATIVE),
            format: PixelFormat::NATIVE,
            zrle: Zrle::new(),
            link: Link::default(),
            pixels: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Sends updates as they are asked for.
    async fn show(&mut self, joined: &Joined, sink: &mut Sink) -> Result<(), End> {
        loop {
            match joined.next_update() {
                Some(update) => self.send(update, joined, sink).await?,
                None => joined.wake.notified().await,
            }
        }
    }

    async fn send(&mut self, update: Update, joined: &Joined, sink: &mut Sink) -> Result<(), End> {
        if update.format != self.format {
            self.format = update.format;
            self.translator = Translator::new(update.format);
        }
        let Update { abilities, colour_map, size, cursor, rects, .. } = update;
        let strips: Vec<Rect> = rects.into_iter().flat_map(strips).collect();
        if colour_map {
            message::colour_map(&mut self.out);
        }
        message::update(usize::from(size.is_some()) + usize::from(cursor.is_some()) + strips.len(), &mut self.out);
        match size {
            Some((width, height, news)) if abilities.extended_desktop_size => {
                message::extended_desktop_size(width, height, news, &mut self.out);
            }
            Some((width, height, _)) => {
                message::rect(Rect::new(0, 0, width, height), message::DESKTOP_SIZE, &mut self.out);
            }
            None => {}
        }
        // TigerVNC 1.12 decodes with several threads and changes the pixel format under them when a cursor with alpha follows:
        // cursors go first. The raw decoder of noVNC 1.3 wants its pixels on a multiple of four bytes: VMware's goes last.
        let (first, last) = match abilities.cursor {
            CursorKind::Vmware => (None, cursor),
            _ => (cursor, None),
        };
        if let Some(cursor) = first {
            cursor.append(abilities.cursor, &self.translator, &mut self.out);
        }
        let packing = if self.link.is_fast() { Packing::Raw } else { abilities.packing };
        let (mut sent, mut waited) = (0, 0);
        for strip in strips {
            // Copied when its turn comes: what changed meanwhile is the newest, and comes once more.
            joined.copy(strip, &mut self.pixels);
            self.pack(strip, packing);
            if self.out.len() >= COLLECT {
                let (bytes, start) = (self.out.len(), Instant::now());
                sink.send(&mut self.out).await?;
                sent += bytes;
                waited += start.elapsed().as_nanos();
            }
        }
        self.link.sample(sent, waited);
        if let Some(cursor) = last {
            cursor.append(abilities.cursor, &self.translator, &mut self.out);
        }
        Ok(sink.send(&mut self.out).await?)
    }

    fn pack(&mut self, strip: Rect, packing: Packing) {
        match packing {
            Packing::Raw => {
                message::rect(strip, encodings::RAW, &mut self.out);
                self.translator.append(&self.pixels, &mut self.out);
            }
            Packing::Zrle => {
                message::rect(strip, encodings::ZRLE, &mut self.out);
                self.zrle.append(&self.pixels, strip.width as usize, &self.translator, &mut self.out);
            }
        }
    }
}

/// Cuts a rectangle into strips of at most [`STRIP`] pixels, whole rows of tiles where that is possible.
fn strips(rect: Rect) -> impl Iterator<Item = Rect> {
    let rows = (STRIP / rect.width.max(1)).max(1);
    let rows = if rows > 64 { rows - rows % 64 } else { rows };
    (rect.y..rect.bottom()).step_by(rows as usize).map(move |y| Rect { y, height: rows.min(rect.bottom() - y), ..rect })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_sent_away() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (_device, viewer) = frames::pair().unwrap();
        let hub = Arc::new(Hub::new(frames::ViewerEnd::new(viewer).unwrap(), None));
        let (source, sink) = crate::wire::tcp(stream);
        let ended = serve(hub, source, sink, Choice { head: 0, drawn_cursor: false }).await;
        assert!(matches!(ended, Err(End::Silent)));
        drop(silent);
    }

    #[test]
    fn strips_are_bounded_and_cover_the_rectangle_once() {
        for rect in [Rect::new(3, 5, 1920, 1080), Rect::new(0, 0, 16384, 100), Rect::new(1, 1, 1, 16384)] {
            let mut next = rect.y;
            for strip in strips(rect) {
                assert!(strip.area() <= u64::from(STRIP));
                assert_eq!((strip.x, strip.y, strip.width), (rect.x, next, rect.width));
                next = strip.bottom();
            }
            assert_eq!(next, rect.bottom());
        }
    }
}
