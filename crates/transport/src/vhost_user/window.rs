//! The back-end's own messages: memory that the front-end is to map, and news of the configuration.
//!
//! Requests are sent as long as the socket takes them, and not at all once a stop began. Answers come in the order of the
//! requests. A front-end that answers anything else is not asked again; the guest goes on without.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use device::{Ticket, WindowRequest, guest_log};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use super::exports::{Name, Shared, name};
use super::message::{Answer, ShmemMessage, code, notice};
use crate::window::{Mapper, Requests, place};

/// The channel on which the back-end asks, and what was asked.
#[derive(Debug)]
pub struct BackendChannel {
    socket: Option<OwnedFd>,
    shared: Arc<Shared>,
    requests: Requests,
    /// What the socket did not take of a message.
    rest: Vec<u8>,
    /// The front-end is to hear that the configuration changed.
    news: bool,
    /// What has come of an answer.
    answer: Vec<u8>,
    /// Whose memory the front-end may have mapped, by region and place, the oldest first.
    exported: BTreeMap<(u8, u64), Vec<Name>>,
    /// Readable when the socket can be used.
    epoll: OwnedFd,
    /// Whether it was.
    ready: bool,
    /// Whether the socket took no more.
    full: bool,
    waits_for_room: bool,
}

impl BackendChannel {
    /// One that goes nowhere yet.
    pub fn new(shared: Arc<Shared>) -> Result<Self, Errno> {
        Ok(Self {
            socket: None,
            shared,
            requests: Requests::default(),
            rest: Vec::new(),
            news: false,
            answer: Vec::new(),
            exported: BTreeMap::new(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            ready: false,
            full: false,
            waits_for_room: false,
        })
    }

    /// Speaks over this socket from now on, or to nobody.
    pub fn connect(&mut self, socket: Option<OwnedFd>) {
        self.close();
        let Some(socket) = socket else { return };
        match epoll::add(&self.epoll, &socket, EventData::new_u64(0), EventFlags::IN) {
            Ok(()) => self.socket = Some(socket),
            Err(error) => guest_log!(warn, "The front-end's socket for our requests cannot be waited for: {error}"),
        }
    }

    /// Nobody is asked any more. What is mapped stays so.
    fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = epoll::delete(&self.epoll, &socket);
        }
        self.requests.forget();
        self.rest.clear();
        self.answer.clear();
        (self.news, self.full, self.waits_for_room) = (false, false, false);
    }

    /// The front-end is gone.
    pub fn reset(&mut self) {
        self.close();
        self.exported.clear();
        self.shared.reset();
    }

    /// Readable when [`poll`](Mapper::poll) has something to do, after [`look`](Self::look).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The descriptor was readable.
    pub fn look(&mut self) {
        self.ready = true;
    }

    /// The front-end is to read the configuration again. An answer is not asked for: while the front-end waits for us it
    /// would not come.
    pub fn tell_config(&mut self) {
        self.news = self.socket.is_some();
        self.flush(None);
    }

    /// Takes the answers that have come.
    fn read(&mut self) {
        while let Some(socket) = &self.socket {
            let mut bytes = [0; Answer::BYTES];
            let wanted = &mut bytes[self.answer.len()..];
            let count = match recv(socket, wanted, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return self.close(),
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(error) => return self.give_up(&error),
            };
            self.answer.extend_from_slice(&bytes[self.answer.len()..][..count]);
            if let Some(bytes) = self.answer.first_chunk() {
                let answer = Answer::parse(bytes);
                self.answer.clear();
                match (self.requests.oldest().map(ShmemMessage::of), answer) {
                    (Some(asked), Some(answer)) if asked.request == answer.request => self.take_answer(answer.done),
                    _ => return self.give_up(&"it answered what it was not asked"),
                }
            }
        }
    }

    fn take_answer(&mut self, done: bool) {
        if let Some(request) = self.requests.oldest() {
            let (region, at, _) = place(request);
            match request {
                WindowRequest::Map(_) if done => {}
                WindowRequest::Map(map) => {
                    let name = name(&map.mapping.file);
                    self.unexport((region, at), |names| names.iter().rposition(|held| Some(*held) == name));
                }
                WindowRequest::Unmap(_) if !done => {}
                WindowRequest::Unmap(_) => self.unexport((region, at), |names| (!names.is_empty()).then_some(0)),
            }
        }
        self.requests.was_answered(done);
    }

    /// Sends what waits; of requests none without a time.
    fn flush(&mut self, now: Option<Instant>) {
        self.full = false;
        while self.send_rest() && now.is_some_and(|now| self.send_next(now)) {}
        self.wait_for_room();
    }

    /// Finishes what was begun, and tells the news. Returns whether there is room for more.
    fn send_rest(&mut self) -> bool {
        loop {
            if self.rest.is_empty() {
                if !std::mem::take(&mut self.news) {
                    return self.socket.is_some();
                }
                self.rest = notice(code::BACKEND_CONFIG_CHANGE);
            }
            match self.send(&self.rest, None) {
                Ok(sent) => drop(self.rest.drain(..sent)),
                Err(error) => {
                    self.not_sent(error);
                    return false;
                }
            }
        }
    }

    /// Sends one request, if there is one and it may be sent. Returns whether there may be more.
    fn send_next(&mut self, now: Instant) -> bool {
        let Some(request) = self.requests.next() else { return false };
        let (region, at, _) = place(request);
        let message = ShmemMessage::of(request);
        let file = match request {
            WindowRequest::Map(map) => Some(map.mapping.file.clone()),
            WindowRequest::Unmap(_) => None,
        };
        // It comes back as guest memory before it is answered.
        let exported = file.as_ref().map(name);
        match exported {
            Some(Some(name)) => self.export((region, at), name),
            Some(None) => {
                self.requests.was_refused();
                return true;
            }
            None => {}
        }
        let shared = self.shared.clone();
        let bytes = message.bytes();
        match shared.while_running(|| self.send(&bytes, file.as_ref().map(|file| file.as_fd()))) {
            Some(Ok(count)) => {
                self.rest = bytes[count..].to_vec();
                self.requests.was_sent(now);
                return true;
            }
            Some(Err(error)) => self.not_sent(error),
            None => {}
        }
        if let Some(Some(name)) = exported {
            self.unexport((region, at), |names| names.iter().rposition(|held| *held == name));
        }
        false
    }

    fn not_sent(&mut self, error: Errno) {
        match error {
            Errno::AGAIN => self.full = true,
            error => self.give_up(&error),
        }
    }

    /// Sends a message, or its beginning.
    fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
        let Some(socket) = &self.socket else { return Err(Errno::PIPE) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Err(Errno::INTR) => {}
                sent => return sent,
            }
        }
    }

    fn wait_for_room(&mut self) {
        let Some(socket) = &self.socket else { return };
        if self.full != self.waits_for_room {
            let flags = if self.full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            if epoll::modify(&self.epoll, socket, EventData::new_u64(0), flags).is_ok() {
                self.waits_for_room = self.full;
            }
        }
    }

    fn export(&mut self, place: (u8, u64), name: Name) {
        self.shared.export(name);
        self.exported.entry(place).or_default().push(name);
    }

    fn unexport(&mut self, place: (u8, u64), which: impl FnOnce(&[Name]) -> Option<usize>) {
        let Some(names) = self.exported.get_mut(&place) else { return };
        if let Some(which) = which(names) {
            self.shared.unexport(names.remove(which));
        }
        if names.is_empty() {
            self.exported.remove(&place);
        }
    }

    fn give_up(&mut self, why: &dyn Display) {
        guest_log!(warn, "The front-end is not asked any more to map memory: {why}");
        self.close();
    }
}

impl Mapper for BackendChannel {
    fn ask(&mut self, request: WindowRequest) {
        match self.socket.is_some() && self.shared.maps() {
            true => self.requests.ask(request),
            false => self.requests.refuse(&request),
        }
    }

    fn poll(&mut self, now: Instant, answers: &mut Vec<(Ticket, bool)>) {
        let ready = std::mem::take(&mut self.ready);
        if !ready && self.requests.is_idle() {
            return;
        }
        // A stop that begins after this is seen next time, and by each message.
        let runs = self.shared.runs();
        if ready || self.requests.under_way() > 0 {
            self.read();
        }
        match runs {
            true => self.requests.expire(now),
            false => self.requests.stop(),
        }
        self.flush(Some(now));
        self.requests.take_answers(answers);
    }

    fn deadline(&self) -> Option<Instant> {
        self.requests.deadline()
    }

    fn clear(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        self.requests.clear();
        self.requests.take_answers(answers);
    }
}
