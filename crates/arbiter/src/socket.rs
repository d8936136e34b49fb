//! What goes over the socket, a stream: one message each way, of eight bytes, sent at once and so received at once.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::{Error, VERSION};

/// Descriptors that come with the manager's message: the page, the bell for the device, the bell for the manager.
pub const FDS: usize = 3;

/// Messages taken at a time. Stops a side that talks for ever.
const MOST: usize = 4;

const MAGIC: u32 = u32::from_le_bytes(*b"arbt");

/// The message of either side.
fn hello() -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Sends the message.
pub fn send(socket: impl AsFd, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        // Cannot fail: there is room for as many as are ever sent.
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let bytes = hello();
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the message in with its descriptors. `None`: it has not come yet.
pub fn receive(socket: impl AsFd) -> Result<Option<Vec<OwnedFd>>, Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(_) => return Err(Error::Gone),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    let (words, _) = bytes.as_chunks::<4>();
    match received.bytes {
        0 => Err(Error::Gone),
        _ if received.flags.contains(ReturnFlags::CTRUNC) => Err(Error::Garbage),
        8 if u32::from_le_bytes(words[0]) != MAGIC => Err(Error::Garbage),
        8 => match u32::from_le_bytes(words[1]) {
            VERSION => Ok(Some(fds)),
            other => Err(Error::Version(other)),
        },
        _ => Err(Error::Garbage),
    }
}

/// Whether the other side is there. It has one thing to say; who goes on talking is as good as gone.
pub fn is_there(socket: impl AsFd) -> bool {
    for _ in 0..MOST {
        match receive(&socket) {
            Ok(None) => return true,
            Ok(Some(_)) => {}
            Err(_) => return false,
        }
    }
    false
}
