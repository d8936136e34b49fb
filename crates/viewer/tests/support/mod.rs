//! A device without a guest, a viewer in a thread, and a VNC client written from RFC 6143.

#![allow(clippy::unwrap_used, dead_code)]

pub mod web;
pub mod zrle;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use frames::{
    DeviceEnd, DeviceEvent, Format, Geometry, Input, InputEnd, InputEvent, InputSession, Leds, Rect, SharedImage,
    ViewerEnd,
};
use rustix::event::{PollFd, PollFlags, poll};
use viewer::{Listening, Options, TokensFile};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// A device whose socket is served by a thread, so that a test can say what it shows at any time.
pub struct Device {
    end: Arc<Mutex<DeviceEnd>>,
    pub events: Receiver<DeviceEvent>,
}

impl Device {
    pub fn new(socket: OwnedFd, heads: usize) -> Self {
        let end = Arc::new(Mutex::new(DeviceEnd::new(socket, "guest", heads).unwrap()));
        let (sender, events) = channel();
        let served = Arc::downgrade(&end);
        let fd = end.lock().unwrap().as_fd().try_clone_to_owned().unwrap();
        thread::spawn(move || {
            loop {
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
                let Some(end) = served.upgrade() else { return };
                for event in end.lock().unwrap().poll() {
                    let closed = event == DeviceEvent::Closed;
                    if sender.send(event).is_err() || closed {
                        return;
                    }
                }
            }
        });
        Self { end, events }
    }

    pub fn lock(&self) -> MutexGuard<'_, DeviceEnd> {
        self.end.lock().unwrap()
    }

    pub fn show(&self, head: u32, picture: &Picture) {
        self.lock().show(head, &picture.image, picture.geometry).unwrap();
    }

    /// The next wish for another size.
    pub fn resize(&self) -> (u32, u32) {
        loop {
            if let DeviceEvent::Resize(wish) = self.events.recv().unwrap() {
                return (wish.width, wish.height);
            }
        }
    }
}

/// A keyboard and pointer, or a touch screen, of a guest. Served by a thread once it is started.
pub struct Keyboard {
    end: Arc<Mutex<InputEnd>>,
    sender: Sender<InputEvent>,
    events: Receiver<InputEvent>,
    /// The other end of the lasting socket.
    lasting: OwnedFd,
    serve: bool,
}

impl Keyboard {
    pub fn new(socket: OwnedFd, lasting: &OwnedFd) -> Self {
        let end = Arc::new(Mutex::new(InputEnd::new(socket).unwrap()));
        let (sender, events) = channel();
        Self { end, sender, events, lasting: lasting.try_clone().unwrap(), serve: false }
    }

    /// Hears what is said from now on, and what was said before.
    pub fn start(&mut self) {
        if std::mem::replace(&mut self.serve, true) {
            return;
        }
        let (served, sender) = (Arc::downgrade(&self.end), self.sender.clone());
        let fd = self.end.lock().unwrap().as_fd().try_clone_to_owned().unwrap();
        thread::spawn(move || {
            loop {
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
                let Some(end) = served.upgrade() else { return };
                if forward(&mut end.lock().unwrap(), &sender).is_none() {
                    return;
                }
            }
        });
    }

    /// All that was said so far and not looked at yet.
    pub fn heard(&self) -> Vec<InputEvent> {
        let mut end = self.end.lock().unwrap();
        while forward(&mut end, &self.sender).is_some_and(|events| events > 0) {}
        self.events.try_iter().collect()
    }

    /// Another viewer begins, whose session counts from now on.
    pub fn replace(&self) -> InputSession {
        InputSession::begin(self.lasting.try_clone().unwrap()).unwrap()
    }

    /// The guest sets its lights.
    pub fn leds(&self, leds: Leds) {
        self.end.lock().unwrap().leds(leds);
    }

    /// What comes next.
    pub fn next(&self) -> InputEvent {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// What comes next on the first head.
    pub fn input(&self) -> Input {
        match self.next() {
            InputEvent::Input { head: 0, input } => input,
            other => panic!("{other:?}"),
        }
    }

    /// All up to and with an input.
    pub fn until(&self, last: Input) -> Vec<InputEvent> {
        let mut events = Vec::new();
        while events.last() != Some(&InputEvent::Input { head: 0, input: last }) {
            events.push(self.next());
        }
        events
    }

    /// Expects a key that goes down and up.
    pub fn typed(&self, code: u16) {
        for pressed in [true, false] {
            assert_eq!(self.input(), Input::Key { code, pressed });
        }
    }
}

/// Passes on what was said, in its order, and how much it was; none: nobody wants it any more.
fn forward(end: &mut InputEnd, sender: &Sender<InputEvent>) -> Option<usize> {
    let mut events = Vec::new();
    end.poll(&mut events);
    let count = events.len();
    events.into_iter().try_for_each(|event| sender.send(event)).ok()?;
    Some(count)
}

/// Memory with a picture in it, and bytes around it that nobody may see.
#[derive(Clone)]
pub struct Picture {
    pub image: SharedImage,
    pub geometry: Geometry,
}

/// What lies around a picture, and in its padding.
pub const CANARY: u8 = 0xa5;

impl Picture {
    pub fn new(width: u32, height: u32, format: Format) -> Self {
        let stride = width * 4 + 24;
        let geometry = Geometry { offset: 40, width, height, stride, format };
        let size = 40 + u64::from(stride) * u64::from(height) + 100;
        let image = SharedImage::create(size).unwrap();
        image.slice().unwrap().copy_from(&vec![CANARY; size as usize]);
        let picture = Self { image, geometry };
        picture.fill(geometry.rect(), |_, _| 0);
        picture
    }

    pub fn native(width: u32, height: u32) -> Self {
        Self::new(width, height, Format::B8G8R8X8)
    }

    /// Writes 0x00RRGGBB colours.
    pub fn fill(&self, rect: Rect, colour: impl Fn(u32, u32) -> u32) {
        for y in rect.y..rect.bottom() {
            let row: Vec<u8> = (rect.x..rect.right()).flat_map(|x| self.bytes(colour(x, y))).collect();
            let at = self.geometry.offset + u64::from(y) * u64::from(self.geometry.stride) + u64::from(rect.x) * 4;
            self.image.slice().unwrap().offset(at as usize).unwrap().copy_from(&row);
        }
    }

    /// A colour as the format's name spells it, with the canary where it carries none.
    fn bytes(&self, colour: u32) -> Vec<u8> {
        let [_, red, green, blue] = colour.to_be_bytes();
        let name = format!("{:?}", self.geometry.format);
        let byte = |letter| match letter {
            'R' => red,
            'G' => green,
            'B' => blue,
            _ => CANARY,
        };
        name.chars().filter(|letter| letter.is_alphabetic()).map(byte).collect()
    }
}

/// A picture in which every pixel differs from its neighbours.
pub fn colourful(x: u32, y: u32) -> u32 {
    u32::from_be_bytes([0, (x * 7 + y * 3) as u8, (y * 11 + x / 3) as u8, (x ^ (y * 5)) as u8])
}

/// A viewer in a thread.
pub struct Stage {
    pub device: Device,
    pub keyboard: Keyboard,
    pub touch: Keyboard,
    pub vnc: Vec<SocketAddr>,
    pub web: SocketAddr,
    viewer: Option<thread::JoinHandle<Result<(), viewer::RunError>>>,
}

pub fn bind(address: &str) -> Listening {
    address.parse::<viewer::ListenAddress>().unwrap().bind().unwrap()
}

/// What a viewer is given.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Further heads than the first.
    pub more_heads: usize,
    /// There is no keyboard and no pointer.
    pub no_input: bool,
    /// There is a touch screen.
    pub touch: bool,
    /// What is typed waits until the keyboard is started.
    pub busy: bool,
    pub tokens: Option<PathBuf>,
}

impl Stage {
    /// One VNC listener for each head, and a web page; no input.
    pub fn new(heads: usize) -> Self {
        Self::with(Setup { more_heads: heads - 1, no_input: true, ..Setup::default() })
    }

    pub fn with(setup: Setup) -> Self {
        let (ours, theirs) = frames::pair().unwrap();
        let (keys_ours, keys_theirs) = frames::pair().unwrap();
        let (touch_ours, touch_theirs) = frames::pair().unwrap();
        let heads = 1 + setup.more_heads;
        let vnc: Vec<Listening> = (0..heads).map(|head| bind(&format!("127.0.0.1:0,head={head}"))).collect();
        let web = bind("127.0.0.1:0");
        let addresses = vnc.iter().map(|listening| listening.address().unwrap()).collect();
        let page = web.address().unwrap();
        let device = Device::new(ours, heads);
        let mut keyboard = Keyboard::new(keys_ours, &keys_theirs);
        let mut touch = Keyboard::new(touch_ours, &touch_theirs);
        if !setup.busy {
            keyboard.start();
            touch.start();
        }
        let device_end = ViewerEnd::new(theirs).unwrap();
        let input = Some(keys_theirs).filter(|_| !setup.no_input);
        let touch_end = Some(touch_theirs).filter(|_| setup.touch);
        let tokens = setup.tokens.as_deref().map(|path| TokensFile::open(path).unwrap());
        // A window could not change threads.
        let viewer = Some(thread::spawn(move || {
            let (device, web, window, touch, name) = (device_end, vec![web], None, touch_end, None);
            viewer::run(Options { device, vnc, web, window, input, touch, tokens, name })
        }));
        Self { device, keyboard, touch, vnc: addresses, web: page, viewer }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.vnc[0])
    }

    /// How the viewer ended by itself.
    pub fn ended(mut self) -> Result<(), viewer::RunError> {
        self.viewer.take().unwrap().join().unwrap()
    }

    /// Ends the device: the viewer goes by itself.
    pub fn end(mut self) {
        let viewer = self.viewer.take().unwrap();
        // The thread of the device holds a duplicate of its socket until it has heard of the viewer's end.
        rustix::net::shutdown(self.device.lock().as_fd(), rustix::net::Shutdown::Both).unwrap();
        viewer.join().unwrap().unwrap();
    }
}

/// Any rectangle of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub rect: Rect,
    pub encoding: i32,
    pub data: Vec<u8>,
}

pub const RAW: i32 = 0;
pub const ZRLE: i32 = 16;
pub const DESKTOP_SIZE: i32 = -223;
pub const CURSOR: i32 = -239;
pub const KEY_CODES: i32 = -258;
pub const LEDS: i32 = -261;
pub const EXTENDED_DESKTOP_SIZE: i32 = -308;
pub const MORE_BUTTONS: i32 = -316;
pub const CURSOR_WITH_ALPHA: i32 = -314;
pub const VMWARE_CURSOR: i32 = 0x574d_5664;

/// A VNC client that believes nothing.
pub struct Client<S = TcpStream> {
    pub stream: S,
    pub width: u32,
    pub height: u32,
    pub name: String,
    /// Bytes of a pixel.
    pub bytes: usize,
    pub colour_map: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::greet(TcpStream::connect(address).unwrap())
    }

    /// Asks that nobody else is served.
    pub fn connect_alone(address: SocketAddr) -> Self {
        let mut client = Self::new(TcpStream::connect(address).unwrap());
        client.agree();
        client.begin(false);
        client
    }

    /// Shows a token by VeNCrypt; or what the viewer says to it.
    pub fn connect_with(address: SocketAddr, token: &str) -> Result<Self, String> {
        let mut client = Self::new(TcpStream::connect(address).unwrap());
        client.show_token(token)?;
        client.begin(true);
        Ok(client)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn greet(stream: S) -> Self {
        let mut client = Self::new(stream);
        client.agree();
        client.begin(true);
        client
    }

    /// One that has said nothing yet.
    pub fn new(stream: S) -> Self {
        let (width, height) = (0, 0);
        Self { stream, width, height, name: String::new(), bytes: 4, colour_map: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The handshake where no token is needed.
    pub fn agree(&mut self) {
        assert_eq!(self.read(12), b"RFB 003.008\n");
        self.write(b"RFB 003.008\n");
        assert_eq!(self.read(2), [1, 1]);
        self.write(&[1]);
        assert_eq!(self.read(4), [0; 4]);
    }

    /// The handshake where one is: VeNCrypt 0.2, Plain.
    pub fn show_token(&mut self, token: &str) -> Result<(), String> {
        assert_eq!(self.read(12), b"RFB 003.008\n");
        self.write(b"RFB 003.008\n");
        assert_eq!(self.read(2), [1, 19]);
        self.write(&[19]);
        assert_eq!(self.read(2), [0, 2]);
        self.write(&[0, 2]);
        assert_eq!(self.read(6), [0, 1, 0, 0, 1, 0]);
        self.write(&[0, 0, 1, 0]);
        self.write(&[&[0, 0, 0, 4, 0, 0, 0, token.len() as u8], &b"user"[..], token.as_bytes()].concat());
        match self.read(4)[3] {
            0 => Ok(()),
            _ => {
                let length = self.read(4);
                Err(String::from_utf8(self.read(length[3].into())).unwrap())
            }
        }
    }

    /// ClientInit.
    pub fn begin(&mut self, shared: bool) {
        self.write(&[shared.into()]);
        self.init();
    }

    /// A key by its keysym, and by its place if it is known.
    pub fn key(&mut self, keysym: u32, place: Option<u32>, pressed: bool) {
        let message = match place {
            Some(place) => [&[255, 0, 0, pressed.into()], &keysym.to_be_bytes()[..], &place.to_be_bytes()].concat(),
            None => [&[4, pressed.into(), 0, 0], &keysym.to_be_bytes()[..]].concat(),
        };
        self.write(&message);
    }

    /// A key that goes down and up.
    pub fn press(&mut self, keysym: u32) {
        self.key(keysym, None, true);
        self.key(keysym, None, false);
    }

    pub fn point(&mut self, buttons: u8, x: u16, y: u16) {
        let ([x1, x0], [y1, y0]) = (x.to_be_bytes(), y.to_be_bytes());
        self.write(&[5, buttons, x1, x0, y1, y0]);
    }

    /// Waits until all that was said before is understood. The client must not have asked for an update that is still to come.
    pub fn sync(&mut self) {
        self.request_part(false, Rect::new(0, 0, 1, 1));
        self.update();
    }

    /// Waits for the end of the connection, by a close or a reset.
    pub fn sees_the_end(&mut self) {
        let _ = std::io::copy(&mut self.stream, &mut std::io::sink());
    }

    pub fn init(&mut self) {
        let init = self.read(24);
        (self.width, self.height) = (word(&init[..2]), word(&init[2..4]));
        let length = u32::from_be_bytes(init[20..].try_into().unwrap());
        self.name = String::from_utf8(self.read(length as usize)).unwrap();
    }

    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn encodings(&mut self, list: &[i32]) {
        let mut message = vec![2, 0];
        message.extend((list.len() as u16).to_be_bytes());
        list.iter().for_each(|encoding| message.extend(encoding.to_be_bytes()));
        self.stream.write_all(&message).unwrap();
    }

    pub fn pixel_format(&mut self, format: [u8; 13]) {
        let mut message = vec![0; 4];
        message.extend(format);
        message.extend([0; 3]);
        self.bytes = usize::from(format[0] / 8);
        self.stream.write_all(&message).unwrap();
    }

    pub fn request(&mut self, incremental: bool) {
        let rect = Rect::new(0, 0, self.width, self.height);
        self.request_part(incremental, rect);
    }

    pub fn request_part(&mut self, incremental: bool, rect: Rect) {
        let mut message = vec![3, incremental.into()];
        for number in [rect.x, rect.y, rect.width, rect.height] {
            message.extend((number as u16).to_be_bytes());
        }
        self.stream.write_all(&message).unwrap();
    }

    pub fn wish(&mut self, width: u16, height: u16) {
        let mut message = vec![251, 0];
        message.extend(width.to_be_bytes());
        message.extend(height.to_be_bytes());
        message.extend([1, 0]);
        message.extend([0; 16]);
        self.stream.write_all(&message).unwrap();
    }

    /// The next update.
    pub fn update(&mut self) -> Vec<Part> {
        let mut head = self.read(1);
        if head == [1] {
            assert_eq!(self.read(5), [0, 0, 0, 1, 0]);
            self.colour_map = self.read(256 * 6);
            head = self.read(1);
        }
        assert_eq!(head, [0]);
        let head = self.read(3);
        (0..word(&head[1..])).map(|_| self.part()).collect()
    }

    fn part(&mut self) -> Part {
        let head = self.read(12);
        let rect = Rect::new(word(&head[..2]), word(&head[2..4]), word(&head[4..6]), word(&head[6..8]));
        let encoding = i32::from_be_bytes(head[8..].try_into().unwrap());
        let area = rect.area() as usize;
        let data = match encoding {
            RAW => self.read(area * self.bytes),
            ZRLE => {
                let length = self.read(4);
                let rest = self.read(u32::from_be_bytes(length.clone().try_into().unwrap()) as usize);
                [length, rest].concat()
            }
            CURSOR => self.read(area * self.bytes + rect.width.div_ceil(8) as usize * rect.height as usize),
            CURSOR_WITH_ALPHA => self.read(4 + area * 4),
            VMWARE_CURSOR => self.read(2 + area * 4),
            EXTENDED_DESKTOP_SIZE => self.read(4 + 16),
            LEDS => self.read(1),
            DESKTOP_SIZE | KEY_CODES | MORE_BUTTONS => vec![],
            _ => panic!("encoding {encoding} was not asked for"),
        };
        if matches!(encoding, DESKTOP_SIZE | EXTENDED_DESKTOP_SIZE) {
            (self.width, self.height) = (rect.width, rect.height);
        }
        Part { rect, encoding, data }
    }

    /// Asks for everything and puts it together.
    pub fn picture(&mut self) -> Vec<u8> {
        self.request(false);
        let parts = self.update();
        self.assemble(&parts)
    }

    pub fn assemble(&self, parts: &[Part]) -> Vec<u8> {
        let mut picture = vec![None; (self.width * self.height) as usize * self.bytes];
        for part in parts.iter().filter(|part| part.encoding == RAW) {
            let width = part.rect.width as usize * self.bytes;
            for (y, row) in (part.rect.y..).zip(part.data.chunks_exact(width)) {
                let at = ((y * self.width + part.rect.x) as usize) * self.bytes;
                picture[at..at + width].iter_mut().zip(row).for_each(|(have, byte)| *have = Some(*byte));
            }
        }
        picture.into_iter().map(|byte| byte.expect("a pixel that was not sent")).collect()
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from(u16::from_be_bytes(bytes.try_into().unwrap()))
}
