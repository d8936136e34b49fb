//! A device without a guest, a viewer in a thread, and a VNC client written from RFC 6143.

#![allow(clippy::unwrap_used, dead_code)]

pub mod zrle;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use frames::{DeviceEnd, DeviceEvent, Format, Geometry, Rect, SharedImage, ViewerEnd};
use rustix::event::{PollFd, PollFlags, poll};
use viewer::{Listening, Options};

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
    pub vnc: Vec<SocketAddr>,
    pub web: SocketAddr,
    viewer: Option<thread::JoinHandle<Result<(), viewer::RunError>>>,
}

pub fn bind(address: &str) -> Listening {
    address.parse::<viewer::ListenAddress>().unwrap().bind().unwrap()
}

impl Stage {
    /// One VNC listener for each head, and a web page.
    pub fn new(heads: usize) -> Self {
        let (ours, theirs) = frames::pair().unwrap();
        let vnc: Vec<Listening> = (0..heads).map(|head| bind(&format!("127.0.0.1:0,head={head}"))).collect();
        let web = bind("127.0.0.1:0");
        let addresses = vnc.iter().map(|listening| listening.address().unwrap()).collect();
        let page = web.address().unwrap();
        let device = Device::new(ours, heads);
        let device_end = ViewerEnd::new(theirs).unwrap();
        let (window, input, touch, tokens, name) = (None, None, None, None, None);
        let options = Options { device: device_end, vnc, web: vec![web], window, input, touch, tokens, name };
        let viewer = Some(thread::spawn(move || viewer::run(options)));
        Self { device, vnc: addresses, web: page, viewer }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.vnc[0])
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
pub const EXTENDED_DESKTOP_SIZE: i32 = -308;
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
}

impl<S: Read + Write> Client<S> {
    pub fn greet(stream: S) -> Self {
        let (width, height) = (0, 0);
        let mut client = Self { stream, width, height, name: String::new(), bytes: 4, colour_map: Vec::new() };
        assert_eq!(client.read(12), b"RFB 003.008\n");
        client.stream.write_all(b"RFB 003.008\n").unwrap();
        assert_eq!(client.read(2), [1, 1]);
        client.stream.write_all(&[1]).unwrap();
        assert_eq!(client.read(4), [0; 4]);
        client.stream.write_all(&[1]).unwrap();
        client.init();
        client
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
            DESKTOP_SIZE => vec![],
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
