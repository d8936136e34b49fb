//! One message in, one message out, with at most one fd; never blocking.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// A connected pair of sockets for a [`crate::DeviceEnd`] and a [`crate::ViewerEnd`].
pub fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// What became of a message that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    /// No room: nothing was sent.
    Full,
    Closed,
}

/// Sends one message made of two parts.
pub(crate) fn send(socket: BorrowedFd, words: &[u8], pixels: &[u8], fd: Option<BorrowedFd>) -> Sent {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        // Cannot fail: the space is for one fd.
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(words), IoSlice::new(pixels)];
    loop {
        match sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Sent::Whole,
            Err(Errno::INTR) => {}
            // ETOOMANYREFS: too many fds are in flight; they will have landed later.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => return Sent::Full,
            Err(_) => return Sent::Closed,
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    /// That many bytes, and the fd that came with them.
    Message(usize, Option<OwnedFd>),
    /// A message that was too long, or empty.
    Garbage,
    Nothing,
    Closed,
}

/// Receives one message. Of several fds all but one are closed.
pub(crate) fn receive(socket: BorrowedFd, bytes: &mut [u8]) -> Received {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(bytes)];
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            // A reset is said once, before what the other end said until then.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Received::Nothing,
            Err(_) => return Received::Closed,
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fds.for_each(|received| fd = Some(received));
        }
    }
    if received.bytes == 0 {
        // An empty message looks like the end of the stream.
        return if hung_up(socket) { Received::Closed } else { Received::Garbage };
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Received::Garbage;
    }
    Received::Message(received.bytes, fd)
}

fn hung_up(socket: BorrowedFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => true,
    }
}

/// Makes every call on it return at once.
pub(crate) fn set_nonblocking(socket: impl AsFd) -> std::io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, true)?)
}
