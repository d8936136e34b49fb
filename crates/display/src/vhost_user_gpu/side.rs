//! A side socket: what was sent to the last byte, what is half sent, what came.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use device::Frame;
use protocol::vhost_user_gpu::{Reply, ReplyReader};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::update::{Sent, Update};
use crate::gather::Gather;

/// Bytes read at a time; an EDID's answer has 1068.
const READ: usize = 4096;
/// Reads of one poll. Stops a VMM that talks for ever.
const READS: usize = 16;

/// The device's end of a side socket.
#[derive(Debug)]
pub(super) struct Side {
    socket: OwnedFd,
    /// Small messages, of which `words_sent` bytes are gone.
    words: Vec<u8>,
    words_sent: usize,
    pub(super) update: Option<Update>,
    replies: ReplyReader,
    waits_for_room: bool,
}

impl Side {
    /// Takes a socket and has `epoll` watch it as `token`.
    pub(super) fn new(socket: OwnedFd, epoll: &OwnedFd, token: u64) -> rustix::io::Result<Self> {
        epoll::add(epoll, &socket, EventData::new_u64(token), EventFlags::IN)?;
        let (words, replies) = (Vec::new(), ReplyReader::default());
        Ok(Self { socket, words, words_sent: 0, update: None, replies, waits_for_room: false })
    }

    /// Whether the socket took less than it was given.
    pub(super) fn is_blocked(&self) -> bool {
        self.waits_for_room
    }

    /// The place for small messages; empty after [`send_words`](Self::send_words) said whole.
    pub(super) fn words(&mut self) -> &mut Vec<u8> {
        &mut self.words
    }

    /// Sends the small messages.
    pub(super) fn send_words(&mut self) -> Sent {
        while self.words_sent < self.words.len() {
            let mut gather = Gather::new();
            gather.push(&self.words[self.words_sent..]);
            match gather.send(self.socket.as_fd()) {
                Ok(sent) => self.words_sent += sent,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Sent::Blocked,
                Err(_) => return Sent::Closed,
            }
        }
        self.words.clear();
        self.words_sent = 0;
        Sent::Whole
    }

    /// Goes on with the message with pixels.
    pub(super) fn send_update(
        &mut self,
        frame: Option<&Frame<'_>>,
        staging: &mut Vec<u8>,
        copied: &mut u64,
    ) -> (Sent, Option<Update>) {
        let Some(update) = &mut self.update else { return (Sent::Whole, None) };
        let sent = update.advance(self.socket.as_fd(), frame, staging, copied);
        (sent, if sent == Sent::Whole { self.update.take() } else { None })
    }

    /// Has the epoll wake us when there is room again, or not any more. Two calls for each time that the socket is full.
    pub(super) fn wait_for_room(&mut self, epoll: &OwnedFd, token: u64, wait: bool) {
        if self.waits_for_room != wait {
            let flags = if wait { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            // It cannot fail: the socket is in there until it is closed.
            self.waits_for_room = wait && epoll::modify(epoll, &self.socket, EventData::new_u64(token), flags).is_ok();
            if !wait {
                let _ = epoll::modify(epoll, &self.socket, EventData::new_u64(token), flags);
            }
        }
    }

    /// Reads what came. `Err`: the socket is of no use any more, and why if somebody ought to know.
    pub(super) fn receive(
        &mut self,
        replies: &mut Vec<Reply>,
    ) -> Result<(), Option<protocol::vhost_user_gpu::SideError>> {
        let mut bytes = [0; READ];
        for _ in 0..READS {
            match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(None),
                Ok((count, _)) => {
                    self.replies.push(&bytes[..count.min(READ)], replies).map_err(Some)?;
                    if count < READ {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(None),
            }
        }
        Ok(())
    }
}

impl AsFd for Side {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
