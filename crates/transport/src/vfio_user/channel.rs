//! A socket with messages on it: one thread receives, two send.
//!
//! Nothing here blocks without end: a message may arrive in pieces, over any time, and is put together between waits. Each
//! message goes out by one call, because who reads it may take what one call wrote for all of it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;

use super::wire::{HEADER_BYTES, Header, MAX_FDS, Message, WireError};

/// What is read at once: a header and as much of a payload as an access to registers has.
const AHEAD: usize = 64;
/// How long a peer may leave a reply unread.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a conversation ended.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// Between two messages, as it should be.
    #[error("The peer hung up")]
    HungUp,
    /// In the middle of a message.
    #[error("The peer hung up in the middle of a message")]
    Truncated,
    /// More than any message has.
    #[error("More than {MAX_FDS} file descriptors came with a message")]
    TooManyFds,
    /// A reply was not read for too long.
    #[error("The peer does not read its replies")]
    Deaf,
    /// Not a message.
    #[error(transparent)]
    Message(#[from] WireError),
    /// The socket failed.
    #[error("Socket failed")]
    Socket(#[from] Errno),
}

/// Both ends of our end of `socket`. `stop` ends the wait for a peer that does not read.
pub fn split(socket: UnixStream, stop: Arc<OwnedFd>) -> (Receiver, Arc<Sender>) {
    let socket = Arc::new(socket);
    let sender = Sender { socket: socket.clone(), stop, patience: PATIENCE, turn: Mutex::default() };
    let receiver = Receiver {
        socket,
        header: [0; HEADER_BYTES],
        payload: Vec::new(),
        expected: 0,
        have: 0,
        fds: Vec::new(),
        ahead: [0; AHEAD],
        unused: 0..0,
        late: Vec::new(),
    };
    (receiver, Arc::new(sender))
}

/// Puts messages together.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<UnixStream>,
    header: [u8; HEADER_BYTES],
    /// Kept from message to message; the first `expected` bytes count.
    payload: Vec<u8>,
    expected: usize,
    /// Bytes of header and payload that have come.
    have: usize,
    /// Descriptors of this message.
    fds: Vec<OwnedFd>,
    /// What was read at once, and which of it no message has taken yet.
    ahead: [u8; AHEAD],
    unused: Range<usize>,
    /// Descriptors that came with the last read: those of the last message that began in it, for the kernel reads nothing
    /// across what carries descriptors.
    late: Vec<OwnedFd>,
}

impl Receiver {
    /// The next message, as far as it has come: `None` when its rest is still to come.
    pub fn receive(&mut self) -> Result<Option<Message<'_>>, ChannelError> {
        while self.have < HEADER_BYTES {
            if self.unused.is_empty() && !self.read_ahead()? {
                return Ok(None);
            }
            self.have += take(&self.ahead, &mut self.unused, &mut self.header[self.have..]);
        }
        let header = Header::parse(&self.header)?;
        self.expected = header.size;
        if self.payload.len() < header.size {
            self.payload.resize(header.size, 0);
        }
        while self.have < HEADER_BYTES + header.size {
            if self.unused.is_empty() && !self.read_payload()? {
                return Ok(None);
            }
            let rest = &mut self.payload[self.have - HEADER_BYTES..header.size];
            self.have += take(&self.ahead, &mut self.unused, rest);
        }
        self.have = 0;
        if self.unused.is_empty() {
            self.fds.append(&mut self.late);
        }
        Ok(Some(Message { header, payload: &self.payload[..header.size], fds: std::mem::take(&mut self.fds) }))
    }

    /// Whether a message, or its beginning, is here already: nobody need wait for the socket.
    pub fn holds(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Reads what there is of a short message; perhaps the beginning of the next one with it.
    fn read_ahead(&mut self) -> Result<bool, ChannelError> {
        self.fds.append(&mut self.late);
        let Some(bytes) = read(&self.socket, &mut self.ahead, &mut self.late)? else { return Ok(false) };
        self.check(bytes)?;
        self.unused = 0..bytes;
        Ok(true)
    }

    /// Reads what there is of the payload, and nothing of what follows.
    fn read_payload(&mut self) -> Result<bool, ChannelError> {
        self.fds.append(&mut self.late);
        let buffer = &mut self.payload[self.have - HEADER_BYTES..self.expected];
        let Some(bytes) = read(&self.socket, buffer, &mut self.late)? else { return Ok(false) };
        self.check(bytes)?;
        self.have += bytes;
        Ok(true)
    }

    fn check(&self, bytes: usize) -> Result<(), ChannelError> {
        match (bytes, self.have) {
            (0, 0) => Err(ChannelError::HungUp),
            (0, _) => Err(ChannelError::Truncated),
            _ if self.fds.len() + self.late.len() > MAX_FDS => Err(ChannelError::TooManyFds),
            _ => Ok(()),
        }
    }
}

/// Moves what there is of `source` into `target`, and returns how much that is.
fn take(source: &[u8], unused: &mut Range<usize>, target: &mut [u8]) -> usize {
    let bytes = unused.len().min(target.len());
    target[..bytes].copy_from_slice(&source[unused.start..unused.start + bytes]);
    unused.start += bytes;
    bytes
}

/// Reads what there is, at most what fits; `None` when that is nothing, 0 at the end.
fn read(socket: &UnixStream, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, ChannelError> {
    // One more than allowed, so that too many are seen.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            Err(error) => return Err(error.into()),
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(ChannelError::TooManyFds);
    }
    Ok(Some(received.bytes))
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends whole messages, for the control thread and for the device's.
#[derive(Debug)]
pub struct Sender {
    socket: Arc<UnixStream>,
    stop: Arc<OwnedFd>,
    patience: Duration,
    /// Held from a message's first byte to its last.
    turn: Mutex<()>,
}

impl Sender {
    /// Sends a message in two parts, with a descriptor; a peer that does not take it, or the word to stop, ends the wait.
    pub fn send(&self, head: &[u8], tail: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), ChannelError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = 0;
        let mut deadline = None;
        while sent < head.len() + tail.len() {
            let parts = [
                IoSlice::new(&head[sent.min(head.len())..]),
                IoSlice::new(&tail[sent.saturating_sub(head.len()).min(tail.len())..]),
            ];
            match self.push(&parts, fd.filter(|_| sent == 0)) {
                Ok(bytes) => sent += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.patience);
                    self.wait_writable(deadline)?;
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::HungUp),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn push(&self, parts: &[IoSlice<'_>], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let Some(fd) = fd else {
            return sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags);
        };
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.socket, parts, &mut control, flags)
    }

    fn wait_writable(&self, deadline: Instant) -> Result<(), ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT), PollFd::new(&self.stop, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => Err(ChannelError::Deaf),
            Ok(_) if !fds[1].revents().is_empty() => Err(ChannelError::HungUp),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the conversation: the receiving side reads its end.
    pub fn shut_down(&self) {
        // Who hung up already needs it no more.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
