//! What a device and its launcher say about processes that draw 3D. One message, one packet, at most one descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use renderer::library::Kind;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest message.
const LONGEST: usize = 1024;

/// From the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Start a process of this kind that serves the socket which comes along.
    Start {
        /// What the device calls it.
        id: u32,
        /// What it is to draw.
        kind: Kind,
    },
    /// Start a render server that serves the socket which comes along.
    Serve {
        /// What the device calls it.
        id: u32,
    },
    /// End it, and all that it started.
    Kill {
        /// Which.
        id: u32,
    },
}

/// From the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// It runs.
    Started {
        /// Which.
        id: u32,
        /// Its process.
        pid: u32,
    },
    /// It ended, or never ran.
    Ended {
        /// Which.
        id: u32,
        /// How, in words.
        how: String,
    },
}

/// Sends one. `Ok(false)`: there is no room now.
pub fn send(socket: impl AsFd, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<bool, Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        // Cannot fail: the space is for one.
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// What came, if anything did.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// A message.
    Message(T),
    /// Nothing yet.
    Nothing,
    /// The other end is gone.
    End,
}

/// Receives one, and its descriptor.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> (Received<T>, Option<OwnedFd>) {
    let mut bytes = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return (Received::Nothing, None),
            Err(_) => return (Received::End, None),
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    // Each end is ours: a word that is none means that the other is no launcher, or no device, any more.
    match serde_json::from_slice(&bytes[..length]) {
        Ok(message) => (Received::Message(message), fd),
        Err(_) => (Received::End, None),
    }
}
