//! The socket between a device and the process of a library: whole messages, with what carries file descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::MESSAGE_BYTES;

/// File descriptors that a message may have.
pub const MESSAGE_FDS: usize = 3;

/// A connected pair of sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The other end has it.
    Whole,
    /// There is no room: nothing was sent.
    Full,
    /// The other end is gone.
    Closed,
}

/// Sends a message, or nothing, at once.
pub fn send(socket: BorrowedFd<'_>, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Sent {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_BYTES];
    let Ok(bytes) = postcard::to_slice(message, &mut bytes) else { return Sent::Closed };
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Sent::Closed;
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Sent::Whole,
            Err(Errno::INTR) => {}
            // ETOOMANYREFS: too many descriptors are on their way; they will have arrived later.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => return Sent::Full,
            Err(_) => return Sent::Closed,
        }
    }
}

/// Sends a message, when there is room for it.
pub fn send_whole(socket: BorrowedFd<'_>, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    loop {
        match send(socket, message, fds) {
            Sent::Whole => return Ok(()),
            Sent::Full => wait(socket, PollFlags::OUT)?,
            Sent::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Waits until there is something to receive, or the other end is gone.
pub fn wait_to_receive(socket: BorrowedFd<'_>) -> io::Result<()> {
    wait(socket, PollFlags::IN)
}

fn wait(socket: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(socket, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What came.
#[derive(Debug)]
pub enum Received<M> {
    /// A message and its descriptors.
    Message(M, Vec<OwnedFd>),
    /// Not a message.
    Garbage,
    /// Nothing yet.
    Nothing,
    /// The other end is gone.
    Closed,
}

/// Receives a message, if there is one.
pub fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> Received<M> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_BYTES];
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            // A reset is told once, before what the other end said until then.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Received::Nothing,
            // The descriptors could not be taken, and are gone.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => return Received::Garbage,
            Err(_) => return Received::Closed,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    if received.bytes == 0 {
        // An empty message looks like the end.
        return if hung_up(socket) { Received::Closed } else { Received::Garbage };
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Received::Garbage;
    }
    match postcard::from_bytes(&bytes[..received.bytes]) {
        Ok(message) => Received::Message(message, fds),
        Err(_) => Received::Garbage,
    }
}

/// Whether nothing can come any more.
fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&rustix::event::Timespec::default())) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => true,
    }
}
