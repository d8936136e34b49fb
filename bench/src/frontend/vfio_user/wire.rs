//! Messages of vfio-user, as its specification has them: a header of sixteen bytes, a payload, descriptors beside it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

use crate::frontend::error::{Doing, Error, Result};
use crate::frontend::message::{receive_some, send_some};

/// Commands that a VMM sends.
#[allow(missing_docs)]
pub mod command {
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const GET_INFO: u16 = 4;
    pub const GET_REGION_INFO: u16 = 5;
    pub const GET_IRQ_INFO: u16 = 7;
    pub const SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
    pub const RESET: u16 = 13;
}

/// Regions of a PCI function.
#[allow(missing_docs)]
pub mod region {
    pub const BAR0: u32 = 0;
    pub const BAR2: u32 = 2;
    pub const CONFIG: u32 = 7;
}

/// Bytes of a header, and of what precedes the data of an access.
const HEADER: usize = 16;
const ACCESS: usize = 16;
/// The longest access that needs no memory of its own.
const SHORT: usize = 8;
/// The most that an answer may have.
const MOST: usize = 1 << 16;

/// Flags of a header.
const REPLY: u32 = 1;
const NO_REPLY: u32 = 0x10;
const ERROR: u32 = 0x20;

/// A VMM's end of the socket.
#[derive(Debug)]
pub struct Wire {
    socket: UnixStream,
    next: AtomicU16,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// What follows the header.
    pub payload: Vec<u8>,
    /// What came beside it.
    pub fds: Vec<OwnedFd>,
}

impl Wire {
    /// Takes a socket that is connected; an answer may take so long.
    pub fn new(socket: UnixStream, patience: Duration) -> Result<Self> {
        socket.set_read_timeout(Some(patience)).doing("set the socket's time limit")?;
        socket.set_write_timeout(Some(patience)).doing("set the socket's time limit")?;
        Ok(Self { socket, next: AtomicU16::new(0) })
    }

    /// The socket, to say anything else.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Asks and waits for the answer.
    pub fn ask(&self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let id = self.id();
        let bytes = [&header(id, command, payload.len(), 0)[..], payload].concat();
        send_some(&self.socket, &bytes, fds)?;
        let (mut head, mut fds) = ([0; HEADER], Vec::new());
        self.receive(&mut head, &mut fds)?;
        let length = check(&head, id, command)?;
        let mut payload = vec![0; length];
        self.receive(&mut payload, &mut fds)?;
        Ok(Answer { payload, fds })
    }

    /// A guest's load from a register, of at most eight bytes: two system calls.
    pub fn load(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        let id = self.id();
        let length = data.len().min(SHORT);
        self.send(&access(id, command::REGION_READ, 0, region, offset, length))?;
        let mut answer = [0; HEADER + ACCESS + SHORT];
        let answer = &mut answer[..HEADER + ACCESS + length];
        self.receive(answer, &mut Vec::new())?;
        check(answer, id, command::REGION_READ)?;
        data[..length].copy_from_slice(&answer[HEADER + ACCESS..]);
        Ok(())
    }

    /// A guest's store to a register, of at most eight bytes, until the device has taken it: two system calls.
    pub fn store(&self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let id = self.id();
        self.put(id, 0, region, offset, data)?;
        let mut answer = [0; HEADER + ACCESS];
        self.receive(&mut answer, &mut Vec::new())?;
        check(&answer, id, command::REGION_WRITE).map(drop)
    }

    /// A posted store, which has no answer.
    pub fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        self.put(self.id(), NO_REPLY, region, offset, data)
    }

    fn put(&self, id: u16, flags: u32, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let length = data.len().min(SHORT);
        let mut bytes = [0; HEADER + ACCESS + SHORT];
        let mut head = access(id, command::REGION_WRITE, flags, region, offset, length);
        head[4..8].copy_from_slice(&((HEADER + ACCESS + length) as u32).to_le_bytes());
        bytes[..HEADER + ACCESS].copy_from_slice(&head);
        bytes[HEADER + ACCESS..][..length].copy_from_slice(&data[..length]);
        self.send(&bytes[..HEADER + ACCESS + length])
    }

    /// A guest's load of two bytes.
    pub fn load_u16(&self, region: u32, offset: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        self.load(region, offset, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// A guest's load of four bytes.
    pub fn load_u32(&self, region: u32, offset: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.load(region, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn id(&self) -> u16 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let sent = rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL).doing("send a message")?;
        if sent == bytes.len() { Ok(()) } else { Err(Error::Order("A message of a few bytes went in pieces")) }
    }

    fn receive(&self, mut into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<()> {
        while !into.is_empty() {
            // Descriptors come with the first byte.
            let received = if into.len() == HEADER {
                receive_some(&self.socket, into, fds).doing("receive a message")?
            } else {
                rustix::net::recv(&self.socket, &mut *into, RecvFlags::empty()).doing("receive a message")?.0
            };
            if received == 0 {
                return Err(Error::HungUp);
            }
            into = &mut into[received..];
        }
        Ok(())
    }
}

/// Where the driver of a queue knocks: a register, by a message.
#[derive(Debug, Clone)]
pub struct Doorbell {
    /// The socket.
    pub wire: Arc<Wire>,
    /// The register's region.
    pub region: u32,
    /// Where in it.
    pub offset: u64,
    /// Whether the driver's processor goes on before the device has taken it.
    pub posted: bool,
}

impl Doorbell {
    /// Writes the queue's number.
    pub fn ring(&self, queue: u16) -> Result<()> {
        let bytes = queue.to_le_bytes();
        if self.posted {
            self.wire.post(self.region, self.offset, &bytes)
        } else {
            self.wire.store(self.region, self.offset, &bytes)
        }
    }
}

fn header(id: u16, command: u16, payload: usize, flags: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..2].copy_from_slice(&id.to_le_bytes());
    bytes[2..4].copy_from_slice(&command.to_le_bytes());
    bytes[4..8].copy_from_slice(&((HEADER + payload) as u32).to_le_bytes());
    bytes[8..12].copy_from_slice(&flags.to_le_bytes());
    bytes
}

fn access(id: u16, command: u16, flags: u32, region: u32, offset: u64, count: usize) -> [u8; HEADER + ACCESS] {
    let mut bytes = [0; HEADER + ACCESS];
    bytes[..HEADER].copy_from_slice(&header(id, command, ACCESS, flags));
    bytes[HEADER..][..8].copy_from_slice(&offset.to_le_bytes());
    bytes[HEADER + 8..][..4].copy_from_slice(&region.to_le_bytes());
    bytes[HEADER + 12..].copy_from_slice(&(count as u32).to_le_bytes());
    bytes
}

/// Refuses an answer to something else, or an error; returns how much follows the header.
fn check(answer: &[u8], id: u16, command: u16) -> Result<usize> {
    let half = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
    let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
    if half(0) != id || half(2) != command || word(8) & 0xf != REPLY {
        let what = format!("message {} with flags {:#x} instead of the answer to {command}", half(2), word(8));
        return Err(Error::Protocol(what));
    }
    if word(8) & ERROR != 0 {
        return Err(Error::Protocol(format!("command {command} was refused with {}", word(12))));
    }
    match (word(4) as usize).checked_sub(HEADER) {
        Some(length) if length <= MOST => Ok(length),
        _ => Err(Error::Protocol(format!("an answer of {} bytes", word(4)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        (Wire::new(ours, PATIENCE).expect("a wire"), theirs)
    }

    #[test]
    fn a_load_is_one_message_each_way() {
        let (wire, mut device) = pair();
        let answer = std::thread::spawn(move || {
            let mut bytes = [0; 32];
            device.read_exact(&mut bytes).expect("a message");
            assert_eq!(bytes[..16], [0, 0, 9, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(bytes[16..], [0x14, 0x10, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]);
            (bytes[4], bytes[8]) = (34, 1);
            device.write_all(&[&bytes[..], &[0x34, 0x12]].concat()).expect("an answer");
            device
        });
        assert_eq!(wire.load_u16(region::BAR2, 0x1014).expect("a register"), 0x1234);
        drop(answer.join().expect("thread"));
    }

    #[test]
    fn a_posted_store_waits_for_nothing() {
        let (wire, mut device) = pair();
        wire.post(region::BAR2, 0x3004, &[1, 0]).expect("sent");
        let mut bytes = [0; 34];
        device.read_exact(&mut bytes).expect("a message");
        assert_eq!((bytes[2], bytes[4], bytes[8]), (10, 34, 0x10));
        assert_eq!(bytes[32..], [1, 0]);
    }

    #[test]
    fn an_error_and_an_answer_to_something_else_are_told() {
        for (id, flags) in [(0, 0x21), (1, 1), (0, 0)] {
            let (wire, mut device) = pair();
            let mut bytes = header(id, command::RESET, 0, flags);
            bytes[12] = 22;
            device.write_all(&bytes).expect("an answer");
            assert!(matches!(wire.ask(command::RESET, &[], &[]), Err(Error::Protocol(_))), "{id} {flags}");
        }
    }
}
