//! A socket with messages on it.
//!
//! Nothing here blocks without end: a message may arrive in pieces, over any time, and is put together between waits.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;

use super::message::{HEADER_BYTES, Header, MAX_FDS, MessageError};

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
    Message(#[from] MessageError),
    /// The socket failed.
    #[error("Socket failed")]
    Socket(#[from] Errno),
}

/// A message, not yet parsed.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The file descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// The back-end's end of a vhost-user socket.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    header: [u8; HEADER_BYTES],
    payload: Vec<u8>,
    /// Bytes of header and payload that have come.
    have: usize,
    fds: Vec<OwnedFd>,
}

impl Channel {
    /// Speaks over `socket`.
    pub fn new(socket: UnixStream) -> Result<Self, ChannelError> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, header: [0; HEADER_BYTES], payload: Vec::new(), have: 0, fds: Vec::new() })
    }

    /// The next message, as far as it has come: `None` when its rest is still to come.
    pub fn receive(&mut self) -> Result<Option<Message>, ChannelError> {
        while self.have < HEADER_BYTES {
            if !self.read()? {
                return Ok(None);
            }
        }
        let header = Header::parse(&self.header)?;
        self.payload.resize(header.size, 0);
        while self.have < HEADER_BYTES + header.size {
            if !self.read()? {
                return Ok(None);
            }
        }
        self.have = 0;
        let (payload, fds) = (std::mem::take(&mut self.payload), std::mem::take(&mut self.fds));
        Ok(Some(Message { header, payload, fds }))
    }

    /// Reads what there is of the header or of the payload, never of what follows: descriptors belong to one message.
    fn read(&mut self) -> Result<bool, ChannelError> {
        let buffer = match self.have.checked_sub(HEADER_BYTES) {
            None => &mut self.header[self.have..],
            Some(have) => &mut self.payload[have..],
        };
        // One more than allowed, so that too many are seen.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::CONNRESET) => return Err(self.end()),
                Err(error) => return Err(error.into()),
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MAX_FDS {
            return Err(ChannelError::TooManyFds);
        }
        if received.bytes == 0 {
            return Err(self.end());
        }
        self.have += received.bytes;
        Ok(true)
    }

    fn end(&self) -> ChannelError {
        if self.have == 0 { ChannelError::HungUp } else { ChannelError::Truncated }
    }

    /// Sends `bytes`; a peer that does not take them, or `stop`, ends the wait.
    pub fn send(&mut self, bytes: &[u8], stop: BorrowedFd<'_>) -> Result<(), ChannelError> {
        let deadline = Instant::now() + PATIENCE;
        let mut left = bytes;
        while !left.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(left)], &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => left = &left[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_writable(deadline, stop)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::HungUp),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait_writable(&self, deadline: Instant, stop: BorrowedFd<'_>) -> Result<(), ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => Err(ChannelError::Deaf),
            Ok(_) if !fds[1].revents().is_empty() => Err(ChannelError::HungUp),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
