//! One client: its handshake, what it says, and the updates it gets.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use frames::Rect;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use crate::floor::Seat;
use crate::hand::{Hand, Pace};
use crate::hub::{Hub, Joined, Update};
use crate::link::Link;
use crate::rfb::decode::{ClientMessage, Decoder, Version, Violation};
use crate::rfb::encodings::{self, Abilities, CursorKind, Packing};
use crate::rfb::message::{self, SECURITY_NONE, SECURITY_VENCRYPT};
use crate::rfb::pixel::{PixelFormat, Translator};
use crate::rfb::zrle::Zrle;
use crate::tokens::Secret;
use crate::wire::{Sink, Source};

/// Time for the handshake. Stops clients that connect and say nothing.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for the device to say what it shows now; after that the client is told what is known.
const SYNC: Duration = Duration::from_secs(1);

/// Time that a client may hold something down and say nothing; whoever holds a key repeats it. Stops keys that stay down for a
/// client whose network is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Time before somebody with a wrong token hears so. Stops guessing.
const WRONG: Duration = Duration::from_secs(1);

/// Pixels that are copied, packed and sent at a time. Bounds what a client that does not read makes us hold, and the time that
/// others wait.
const STRIP: u32 = 128 << 10;

/// Small rectangles are collected up to that many bytes before they are sent.
const COLLECT: usize = 64 << 10;

/// What a client is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) head: u8,
    /// Draw the guest's cursor into the picture, where the guest has it, while somebody else controls.
    pub(crate) drawn_cursor: bool,
}

/// How a client comes in.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A stranger, who shows a token where one is needed, and gets a seat of that name.
    Door(String),
    /// A person who has a seat already: a page that said its token elsewhere.
    Seated(Arc<Seat>),
}

/// Why a client was sent away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("It said nothing for {} s", HANDSHAKE.as_secs())]
    Silent,
    #[error("It showed no token that is good")]
    NoToken,
    #[error("Its token is not good any more")]
    Revoked,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("The connection broke")]
    Broken(#[from] io::Error),
}

/// Serves a client until it goes.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    source: Source,
    mut sink: Sink,
    choice: Choice,
    entry: Entry,
) -> Result<(), End> {
    let mut listener = Listener { source, buffer: BytesMut::new(), decoder: Decoder::new() };
    let greeting = async {
        let Some(seat) = listener.agree(&hub, entry, &mut sink).await? else { return Ok::<_, End>(None) };
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
        Ok(Some((joined, seat)))
    };
    let Some((joined, seat)) = timeout(HANDSHAKE, greeting).await.map_err(|_| End::Silent)?? else { return Ok(()) };
    let mut packer = Packer::new();
    let mut hand = Hand::new(&hub, &seat, &joined, choice.head);
    tokio::select! {
        ended = listener.listen(&joined, &mut hand) => ended,
        ended = packer.show(&joined, &mut sink) => ended,
        () = seat.revoked() => Err(End::Revoked),
        () = follow_cursor(&hub, &seat, &joined), if choice.drawn_cursor => Ok(()),
    }
}

/// Who watches sees the guest's cursor where the guest has it; who controls has it under the own hand, without delay.
async fn follow_cursor(hub: &Hub, seat: &Seat, joined: &Joined) {
    let (mut news, mut drawn) = (hub.floor_news(), true);
    while news.wait_for(|floor| (floor.holder == Some(seat.id())) == drawn).await.is_ok() {
        drawn = !drawn;
        joined.draw_cursor(drawn);
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

    /// Agrees on the version and on who this is. None: the client went.
    async fn agree(&mut self, hub: &Arc<Hub>, entry: Entry, sink: &mut Sink) -> Result<Option<Arc<Seat>>, End> {
        let mut out = message::VERSION.to_vec();
        sink.send(&mut out).await?;
        let Some(ClientMessage::Version(version)) = self.next().await? else { return Ok(None) };
        let needs_token = matches!(entry, Entry::Door(_)) && hub.door.needs_token();
        let security = if needs_token { SECURITY_VENCRYPT } else { SECURITY_NONE };
        match version {
            Version::Rfb33 if needs_token => {
                message::refusal(0, "A token is needed: use a client of RFB 3.8 that knows VeNCrypt Plain", &mut out);
                sink.send(&mut out).await?;
                return Err(End::NoToken);
            }
            Version::Rfb33 => {
                out.extend(u32::from(security).to_be_bytes());
                sink.send(&mut out).await?;
            }
            Version::Rfb37 | Version::Rfb38 => {
                out.extend([1, security]);
                sink.send(&mut out).await?;
                let Some(ClientMessage::Security(choice)) = self.next().await? else { return Ok(None) };
                if choice != security {
                    return Err(Violation("a way to authenticate that was not offered").into());
                }
            }
        }
        let pass = if needs_token {
            let Some(token) = self.token(sink).await? else { return Ok(None) };
            hub.door.admit(Some(&token))
        } else {
            hub.door.admit(None)
        };
        let is_known = pass.is_some() || matches!(entry, Entry::Seated(_));
        if !is_known {
            sleep(WRONG).await;
        }
        if version == Version::Rfb38 && is_known {
            out.extend([0; 4]);
        } else if version == Version::Rfb38 {
            message::refusal(1, "Wrong token", &mut out);
        } else if needs_token {
            out.extend(u32::from(!is_known).to_be_bytes());
        }
        sink.send(&mut out).await?;
        let Some(ClientMessage::Init { shared }) =
            (if is_known { self.next().await? } else { return Err(End::NoToken) })
        else {
            return Ok(None);
        };
        Ok(Some(match (entry, pass) {
            (Entry::Seated(seat), _) => seat,
            (Entry::Door(name), Some(pass)) => {
                let seat = hub.sit(pass, &name);
                if !shared {
                    seat.take();
                }
                Arc::new(seat)
            }
            (Entry::Door(_), None) => return Err(End::NoToken),
        }))
    }

    /// Asks for a token by VeNCrypt's plain password. None: the client went.
    async fn token(&mut self, sink: &mut Sink) -> Result<Option<Secret>, End> {
        let mut out = message::VENCRYPT_VERSION.to_vec();
        sink.send(&mut out).await?;
        let Some(ClientMessage::VeNCrypt(version)) = self.next().await? else { return Ok(None) };
        if version != message::VENCRYPT_VERSION {
            return Err(Violation("a version of VeNCrypt that was not offered").into());
        }
        out.extend([0, 1]);
        out.extend(message::VENCRYPT_PLAIN.to_be_bytes());
        sink.send(&mut out).await?;
        match self.next().await? {
            Some(ClientMessage::VeNCryptKind(message::VENCRYPT_PLAIN)) => {}
            Some(_) => return Err(Violation("a way to authenticate that was not offered").into()),
            None => return Ok(None),
        }
        match self.next().await? {
            Some(ClientMessage::Plain(token)) => Ok(Some(token)),
            _ => Ok(None),
        }
    }

    /// Takes what the client says until it goes.
    async fn listen(&mut self, joined: &Joined, hand: &mut Hand<'_>) -> Result<(), End> {
        let mut pace = Pace::new();
        loop {
            // Moves of the pointer wait until something else is said, or nothing: the last one counts.
            while let Some(message) = self.decoder.next(&mut self.buffer)? {
                if let ClientMessage::Pointer { buttons, x, y } = message
                    && hand.moves_only(buttons, x, y)
                {
                    pace.step_of_move().await;
                    continue;
                }
                match message {
                    ClientMessage::PixelFormat(format) => joined.set_format(format),
                    ClientMessage::Encodings(list) => {
                        let abilities = Abilities::from_list(&list);
                        self.decoder.knows_more_buttons(abilities.more_buttons);
                        joined.set_abilities(abilities);
                    }
                    ClientMessage::UpdateRequest { incremental, rect } => joined.request(incremental, rect),
                    ClientMessage::DesktopSize { width, height } => hand.resize(width, height),
                    ClientMessage::Key { keysym, pressed, code } => hand.key(keysym, pressed, code),
                    ClientMessage::Pointer { buttons, x, y } => hand.pointer(buttons, x, y),
                    // There is no way to the guest's clipboard: it is understood, so that the stream goes on, and dropped.
                    ClientMessage::CutText => {}
                    ClientMessage::Version(_)
                    | ClientMessage::Security(_)
                    | ClientMessage::VeNCrypt(_)
                    | ClientMessage::VeNCryptKind(_)
                    | ClientMessage::Plain(_)
                    | ClientMessage::Init { .. } => {}
                }
                pace.step().await;
            }
            if hand.rest() {
                pace.step().await;
            }
            let read = self.source.read(&mut self.buffer);
            let read = if hand.is_pressing() {
                match timeout(SILENCE, read).await {
                    Ok(read) => read,
                    Err(_) => {
                        hand.let_go();
                        continue;
                    }
                }
            } else {
                read.await
            };
            if !read? {
                return Ok(());
            }
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
        let Update { abilities, colour_map, size, cursor, key_codes, more_buttons, leds, rects, .. } = update;
        let strips: Vec<Rect> = rects.into_iter().flat_map(strips).collect();
        if colour_map {
            message::colour_map(&mut self.out);
        }
        let told = [size.is_some(), cursor.is_some(), key_codes, more_buttons, leds.is_some()];
        message::update(told.into_iter().filter(|told| *told).count() + strips.len(), &mut self.out);
        for (told, encoding) in [(key_codes, encodings::KEY_CODES), (more_buttons, encodings::MORE_BUTTONS)] {
            if told {
                message::rect(Rect::default(), encoding, &mut self.out);
            }
        }
        if let Some(leds) = leds {
            message::leds(leds, &mut self.out);
        }
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
            // Others have their turn, and so have this client's keys.
            yield_now().await;
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
        let hub = Arc::new(Hub::for_tests(viewer));
        let (source, sink) = crate::wire::tcp(stream);
        let choice = Choice { head: 0, drawn_cursor: false };
        let ended = serve(hub, source, sink, choice, Entry::Door("silent".into())).await;
        assert!(matches!(ended, Err(End::Silent)));
        drop(silent);
    }

    #[tokio::test]
    async fn who_holds_a_key_and_falls_silent_lets_go_and_stays() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (_device, viewer) = frames::pair().unwrap();
        let (keyboard, lasting) = frames::pair().unwrap();
        let mut keyboard = frames::InputEnd::new(keyboard).unwrap();
        let inputs = crate::floor::Inputs::begin(Some(lasting), None);
        let floor = crate::floor::Floor::new(inputs);
        let hub = Hub::new(frames::ViewerEnd::new(viewer).unwrap(), None, floor, crate::tokens::Door::open());
        // The whole conversation at once, with a key that goes down in the end.
        let said = [&b"RFB 003.008\n\x01\x01"[..], &[4, 1, 0, 0, 0, 0, 0, b'a']].concat();
        std::io::Write::write_all(&mut client, &said).unwrap();
        let (source, sink) = crate::wire::tcp(stream);
        let choice = Choice { head: 0, drawn_cursor: false };
        let served = serve(Arc::new(hub), source, sink, choice, Entry::Door("silent".into()));
        let mut hear = async |events: usize| {
            let mut heard = Vec::new();
            while heard.len() < events {
                keyboard.poll(&mut heard);
                sleep(Duration::from_millis(1)).await;
            }
            heard
        };
        let begun = tokio::time::Instant::now();
        let inputs = async {
            let down = hear(1).await;
            // Nothing more comes through a socket: from here on the clock may jump from one timer to the next.
            tokio::time::pause();
            (down, hear(1).await, begun.elapsed())
        };
        let input = |input| vec![frames::InputEvent::Input { head: 0, input }];
        tokio::select! {
            _ = served => panic!("it was sent away"),
            (down, up, silence) = inputs => {
                assert_eq!(down, input(frames::Input::Key { code: 30, pressed: true }));
                assert_eq!(up, input(frames::Input::ReleaseAll));
                assert!(silence >= SILENCE);
            }
        }
        drop(client);
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
