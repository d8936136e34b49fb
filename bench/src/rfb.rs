//! A VNC client that types, points and reads all that it is sent, but looks at no pixel.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Doing, Error, Result};

/// Numbers of encodings.
#[allow(missing_docs)]
pub mod encoding {
    pub const RAW: i32 = 0;
    pub const ZRLE: i32 = 16;
    pub const CURSOR: i32 = -239;
    pub const DESKTOP_SIZE: i32 = -223;
    pub const KEY_CODES: i32 = -258;
}

/// The longest silence of a server that has something to say.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for one read.
const BUFFER: usize = 256 << 10;
/// Bytes of a pixel in the format that servers offer and nobody changes here.
const PIXEL: usize = 4;

/// A key: what is printed on it, and where it is (XT set 1).
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// X11's number of the character.
    pub symbol: u32,
    /// The keyboard's code.
    pub code: u32,
}

/// The key A.
pub const KEY_A: Key = Key { symbol: 0x61, code: 0x1e };

/// A client.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    buffer: Vec<u8>,
    /// What was read and not understood yet.
    unread: std::ops::Range<usize>,
    size: (u16, u16),
    received: u64,
}

impl Client<TcpStream> {
    /// Connects to a server that asks for no password.
    pub fn connect(address: SocketAddr, encodings: &[i32]) -> Result<Self> {
        let stream = TcpStream::connect(address).doing("connect to the VNC server")?;
        stream.set_nodelay(true).doing("set up a connection")?;
        stream.set_read_timeout(Some(PATIENCE)).doing("set up a connection")?;
        Self::greet(stream, encodings)
    }

    /// Another hold on the connection, to type while this one reads.
    pub fn typist(&self) -> Result<Self> {
        let stream = self.stream.try_clone().doing("duplicate a connection")?;
        Ok(Self { stream, buffer: Vec::new(), unread: 0..0, size: self.size, received: 0 })
    }

    /// Another hold on the connection, to end it.
    pub fn hang_up(&self) -> Result<HangUp> {
        Ok(HangUp(self.stream.try_clone().doing("duplicate a connection")?))
    }
}

/// Ends a connection whoever waits for it.
#[derive(Debug)]
pub struct HangUp(TcpStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl<S: Read + Write> Client<S> {
    /// Does the handshake, and says which encodings it can take.
    pub fn greet(stream: S, encodings: &[i32]) -> Result<Self> {
        let mut client = Self { stream, buffer: vec![0; BUFFER], unread: 0..0, size: (0, 0), received: 0 };
        let version = client.exactly::<12>()?;
        client.say(&version)?;
        let [ways] = client.exactly()?;
        client.skip(usize::from(ways))?;
        client.say(&[1])?;
        if client.exactly()? != [0; 4] {
            return Err(Error::NotDone("The VNC server wants a password".into()));
        }
        client.say(&[1])?;
        let init = client.exactly::<24>()?;
        client.size = (half(&init, 0), half(&init, 2));
        client.skip(u32::from_be_bytes([init[20], init[21], init[22], init[23]]) as usize)?;
        let mut message = vec![2, 0];
        message.extend((encodings.len() as u16).to_be_bytes());
        message.extend(encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
        client.say(&message)?;
        Ok(client)
    }

    /// The connection.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Bytes that came so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// A key goes down or up, by QEMU's extended key event.
    pub fn key(&mut self, key: Key, pressed: bool) -> Result<()> {
        let mut message = [255, 0, 0, pressed.into(), 0, 0, 0, 0, 0, 0, 0, 0];
        message[4..8].copy_from_slice(&key.symbol.to_be_bytes());
        message[8..].copy_from_slice(&key.code.to_be_bytes());
        self.say(&message)
    }

    /// The pointer is there, with no button down.
    pub fn point(&mut self, x: u16, y: u16) -> Result<()> {
        let ([x1, x0], [y1, y0]) = (x.to_be_bytes(), y.to_be_bytes());
        self.say(&[5, 0, x1, x0, y1, y0])
    }

    /// Asks for the screen, or for what changes on it.
    pub fn ask(&mut self, changes: bool) -> Result<()> {
        let ([w1, w0], [h1, h0]) = (self.size.0.to_be_bytes(), self.size.1.to_be_bytes());
        self.say(&[3, changes.into(), 0, 0, 0, 0, w1, w0, h1, h0])
    }

    /// Reads an update; returns whether there were pixels in it.
    pub fn update(&mut self) -> Result<bool> {
        let [kind, ..] = self.exactly::<1>()?;
        match kind {
            0 => {}
            kind => return Err(Error::NotDone(format!("The VNC server said {kind}"))),
        }
        let [_, count @ ..] = self.exactly::<3>()?;
        let mut pixels = false;
        for _ in 0..u16::from_be_bytes(count) {
            pixels |= self.rectangle()?;
        }
        Ok(pixels)
    }

    fn rectangle(&mut self) -> Result<bool> {
        let head = self.exactly::<12>()?;
        let (width, height) = (half(&head, 4), half(&head, 6));
        let area = usize::from(width) * usize::from(height);
        let encoding = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        match encoding {
            encoding::RAW => self.skip(area * PIXEL)?,
            encoding::ZRLE => {
                let length = u32::from_be_bytes(self.exactly()?);
                self.skip(length as usize)?;
            }
            encoding::CURSOR => {
                self.skip(area * PIXEL + usize::from(width).div_ceil(8) * usize::from(height))?;
            }
            encoding::DESKTOP_SIZE => self.size = (width, height),
            encoding::KEY_CODES => {}
            encoding => return Err(Error::NotDone(format!("The VNC server sent encoding {encoding}"))),
        }
        Ok(matches!(encoding, encoding::RAW | encoding::ZRLE))
    }

    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).doing("write to the VNC server")
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            if self.unread.is_empty() {
                self.fill()?;
            }
            *byte = self.buffer[self.unread.start];
            self.unread.start += 1;
        }
        Ok(bytes)
    }

    fn skip(&mut self, mut length: usize) -> Result<()> {
        while length > 0 {
            if self.unread.is_empty() {
                self.fill()?;
            }
            let some = length.min(self.unread.len());
            self.unread.start += some;
            length -= some;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let read = self.stream.read(&mut self.buffer).doing("read from the VNC server")?;
        if read == 0 {
            return Err(Error::NotDone("The VNC server hung up".into()));
        }
        self.received += read as u64;
        self.unread = 0..read;
        Ok(())
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's bytes, in pieces of one length, and what was said to it.
    struct Played {
        bytes: Vec<u8>,
        piece: usize,
        said: Vec<u8>,
    }

    impl Read for Played {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let length = self.piece.min(self.bytes.len()).min(into.len());
            into[..length].copy_from_slice(&self.bytes[..length]);
            self.bytes.drain(..length);
            Ok(length)
        }
    }

    impl Write for Played {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.said.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn updates_are_read_to_their_end_however_they_are_cut() {
        let rectangle = |width: u8, height: u8, encoding: i32, data: &[u8]| {
            [&[0, 0, 0, 0, 0, width, 0, height], &encoding.to_be_bytes()[..], data].concat()
        };
        let update = [
            &[0, 0, 0, 4][..],
            &rectangle(3, 2, encoding::RAW, &[9; 24]),
            &rectangle(3, 2, encoding::ZRLE, &[0, 0, 0, 5, 1, 2, 3, 4, 5]),
            &rectangle(9, 2, encoding::CURSOR, &[7; 72 + 4]),
            &rectangle(0, 0, encoding::KEY_CODES, &[]),
        ]
        .concat();
        let mut hello = b"RFB 003.008\n\x01\x01\0\0\0\0\x07\x80\x04\x38".to_vec();
        hello.extend([0; 16]);
        hello.extend(*b"\0\0\0\x03abc");
        let bytes =
            [hello, update.clone(), [&[0, 0, 0, 1][..], &rectangle(0, 0, encoding::KEY_CODES, &[])].concat()].concat();
        for piece in [1, 7, 1000] {
            let length = bytes.len() as u64;
            let played = Played { bytes: bytes.clone(), piece, said: Vec::new() };
            let mut client = Client::greet(played, &[encoding::ZRLE]).expect("a handshake");
            assert_eq!(client.size, (1920, 1080));
            assert!(client.update().expect("pixels"));
            assert!(!client.update().expect("no pixels"));
            assert_eq!(client.received(), length);
            assert!(client.update().is_err(), "the end");
            assert!(client.stream.said.ends_with(&[2, 0, 0, 1, 0, 0, 0, 16]));
        }
    }
}
