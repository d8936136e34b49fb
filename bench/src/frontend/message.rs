//! Raw vhost-user messages: any request, any bytes, any file descriptors.
//!
//! This layer checks nothing that it sends, so a test can say everything that a broken or hostile VMM could say.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::error::{Doing, Error, Result};

/// Requests of a front-end, by the names of the vhost-user specification.
#[allow(missing_docs)]
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_LOG_FD: u32 = 7;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const GPU_SET_SOCKET: u32 = 33;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_STATUS: u32 = 39;
    pub const GET_STATUS: u32 = 40;
    pub const GET_SHMEM_CONFIG: u32 = 44;
}

/// Bits of the vhost-user protocol features.
#[allow(missing_docs)]
pub mod protocol_feature {
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const SHMEM: u64 = 1 << 22;
}

/// The version bits that every message carries.
pub const VERSION: u32 = 1;
/// Flag of an answer.
pub const REPLY: u32 = 1 << 2;
/// Flag of a request that wants an answer even if it has none by nature.
pub const NEED_REPLY: u32 = 1 << 3;

/// Bytes of a message's header.
pub const HEADER: usize = 12;
/// The most payload that a receiver here takes.
const MAX_PAYLOAD: usize = 1 << 20;
/// The most file descriptors that a receiver here takes with one message.
const MAX_FDS: usize = 64;

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    /// The request's number; in an answer, the number of the request it answers.
    pub request: u32,
    /// Version, [`REPLY`], [`NEED_REPLY`].
    pub flags: u32,
    /// The bytes after the header.
    pub payload: Vec<u8>,
    /// The file descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The payload as one u64.
    pub fn u64(&self) -> Result<u64> {
        let bytes: [u8; 8] = self.payload.as_slice().try_into().map_err(|_| {
            Error::Protocol(format!("{} bytes instead of a u64 to request {}", self.payload.len(), self.request))
        })?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// One end of a vhost-user socket.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
}

impl Channel {
    /// Connects to a listening device. No answer is waited for longer than `patience`.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self> {
        Self::new(UnixStream::connect(path).doing("connect to the device's socket")?, patience)
    }

    /// Uses a socket that is connected already.
    pub fn new(socket: UnixStream, patience: Duration) -> Result<Self> {
        socket.set_read_timeout(Some(patience)).doing("set the socket's time limit")?;
        socket.set_write_timeout(Some(patience)).doing("set the socket's time limit")?;
        Ok(Self { socket })
    }

    /// The socket itself.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends a message with a true header.
    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend(request.to_ne_bytes());
        bytes.extend((flags | VERSION).to_ne_bytes());
        bytes.extend((payload.len() as u32).to_ne_bytes());
        bytes.extend(payload);
        self.send_bytes(&bytes, fds)
    }

    /// Sends any bytes at all: half a header, a lying size, two messages at once.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        send_some(&self.socket, bytes, fds)
    }

    /// Receives one message.
    pub fn receive(&self) -> Result<Message> {
        let mut header = [0u8; HEADER];
        let mut fds = Vec::new();
        self.receive_exactly(&mut header, &mut fds)?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let size = word(8) as usize;
        if size > MAX_PAYLOAD {
            return Err(Error::Protocol(format!("a message of {size} bytes")));
        }
        let mut payload = vec![0; size];
        self.receive_exactly(&mut payload, &mut fds)?;
        Ok(Message { request: word(0), flags: word(4), payload, fds })
    }

    /// Receives the answer to `request`.
    pub fn receive_reply(&self, request: u32) -> Result<Message> {
        let message = self.receive()?;
        if message.request != request || message.flags & REPLY == 0 {
            return Err(Error::Protocol(format!(
                "message {} with flags {:#x} instead of the answer to {request}",
                message.request, message.flags
            )));
        }
        Ok(message)
    }

    /// Sends a request that has an answer by nature and returns it.
    pub fn ask(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Message> {
        self.send(request, 0, payload, fds)?;
        self.receive_reply(request)
    }

    /// Sends a request with [`NEED_REPLY`] and returns the device's u64: 0 is success.
    pub fn acknowledge(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u64> {
        self.send(request, NEED_REPLY, payload, fds)?;
        self.receive_reply(request)?.u64()
    }

    fn receive_exactly(&self, mut into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<()> {
        while !into.is_empty() {
            let received = receive_some(&self.socket, into, fds).doing("receive a message")?;
            if received == 0 {
                return Err(Error::HungUp);
            }
            into = &mut into[received..];
        }
        Ok(())
    }
}

/// Sends all of it, the file descriptors with the first byte.
pub(crate) fn send_some(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::Order("A message carries at most 64 file descriptors here"));
    }
    let sent = rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
        .doing("send a message")?;
    let mut rest = &bytes[sent..];
    while !rest.is_empty() {
        let sent = rustix::net::send(&socket, rest, SendFlags::NOSIGNAL).doing("send a message")?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// Receives what is there, with its file descriptors; 0 when the other side hung up.
pub(crate) fn receive_some(socket: impl AsFd, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(into)], &mut control, flags))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(received.bytes)
}
