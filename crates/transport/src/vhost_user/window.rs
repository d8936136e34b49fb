//! The back-end's own messages: memory that the front-end is to map, and news of the configuration.
//!
//! QEMU 11.1 crashes when it takes such a request from its socket after it stopped the device, and it looks into the socket
//! only between two other things. So a request is sent in two steps: its first byte, and when that was taken, the rest. Who
//! has taken a byte waits for the rest and does nothing else meanwhile, so that a device that ran at that moment runs until the
//! request is carried out. A stop that began before is known before, because the front-end waits for our word then: the byte
//! becomes the beginning of a message that nobody knows, and means nothing.
//!
//! QEMU answers a map before its guest sees what was mapped, and a store that comes too early is lost. It is there when QEMU
//! tells us of a change of its guest's memory next, and surely when it does something else for us: so there is a [`fence`]
//! behind each map, and the device is told when either comes.
//!
//! Other front-ends get a request in one piece, and their answer is believed: [`Dialect`] says whom it is to.
//!
//! There is one request at a time, and none once a stop began. A front-end that answers what it was not asked is not asked
//! again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{Ticket, WindowRequest, guest_log};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use super::dialect::{Answer, Dialect, fence};
use super::exports::{Name, Shared, name};
use super::message::{code, notice};
use crate::kernel::unread::unread;
use crate::window::{Mapper, Requests, place};

/// The channel on which the back-end asks, and what was asked.
#[derive(Debug)]
pub struct BackendChannel {
    socket: Option<OwnedFd>,
    shared: Arc<Shared>,
    requests: Requests,
    /// How the last request was put.
    dialect: Dialect,
    /// What the socket did not take of a message.
    rest: Vec<u8>,
    /// What follows when the front-end has taken the first byte of a request.
    held: Option<Held>,
    /// How often something of ours had come back as memory when the rest of the last request was sent; nothing where that was
    /// perhaps while the front-end did what came before.
    returned_before: Option<u64>,
    /// The last request was a map and is answered, but perhaps not in force.
    unseen: bool,
    /// How many fences were sent and not answered. The last one is the last request's.
    fences: usize,
    /// It was said that nobody knows how much the front-end has read.
    complained: bool,
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
}

/// The rest of a request.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    /// What is sent instead once a stop began.
    instead: Vec<u8>,
    /// When to look whether the beginning was taken, if nothing wakes us.
    look: Option<Instant>,
}

/// So many bytes of a request go ahead.
const BEGINNING: usize = 1;
/// How often to look.
const LOOK: Duration = Duration::from_millis(20);

impl BackendChannel {
    /// One that goes nowhere yet.
    pub fn new(shared: Arc<Shared>) -> Result<Self, Errno> {
        Ok(Self {
            socket: None,
            shared,
            requests: Requests::default(),
            dialect: Dialect::default(),
            rest: Vec::new(),
            held: None,
            returned_before: None,
            unseen: false,
            fences: 0,
            complained: false,
            news: false,
            answer: Vec::new(),
            exported: BTreeMap::new(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            ready: false,
        })
    }

    /// Speaks over this socket from now on, or to nobody.
    pub fn connect(&mut self, socket: Option<OwnedFd>) {
        self.close();
        let Some(socket) = socket else { return };
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        match epoll::add(&self.epoll, &socket, EventData::new_u64(0), events) {
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
        self.held = None;
        self.unseen = false;
        self.fences = 0;
        self.news = false;
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
        // It has become readable, or something in it was read: what that was is looked at anyway.
        let mut events = [MaybeUninit::uninit(); 1];
        self.ready = !matches!(epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())), Ok(([], _)));
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
                Ok((0, _)) | Err(Errno::CONNRESET) => {
                    self.shared.set_dialect(None);
                    return self.close();
                }
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(error) => return self.give_up(&error),
            };
            self.answer.extend_from_slice(&bytes[self.answer.len()..][..count]);
            if let Some(bytes) = self.answer.first_chunk() {
                let answer = Answer::parse(bytes);
                self.answer.clear();
                match (self.requests.oldest(), answer) {
                    // There is no such object, so whether that was done does not count.
                    (_, Some(Answer { request: code::BACKEND_SHARED_OBJECT_REMOVE, .. })) if self.fences > 0 => {
                        self.fences -= 1;
                        if self.fences == 0 {
                            self.see();
                        }
                    }
                    // Not twice.
                    (Some(asked), Some(answer)) if self.dialect.number(asked) == answer.request && !self.unseen => {
                        if answer.done && self.dialect.is_fenced(asked) {
                            self.unseen = true;
                        } else {
                            self.take_answer(answer.done);
                        }
                    }
                    _ => return self.give_up(&"it answered what it was not asked"),
                }
            }
        }
    }

    /// What was mapped, if something was, is in force.
    fn see(&mut self) {
        if std::mem::take(&mut self.unseen) {
            self.take_answer(true);
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
        while self.send_held(now) && self.send_rest() && now.is_some_and(|now| self.send_next(now)) {}
    }

    /// Sends the rest of a request whose beginning was taken. Returns whether something else may be sent.
    fn send_held(&mut self, now: Option<Instant>) -> bool {
        let (Some(socket), Some(held)) = (&self.socket, &mut self.held) else { return true };
        let taken = match unread(socket) {
            // The kernel counts more than it was given, until all is taken.
            Ok(unread) if unread > BEGINNING => {
                if let Some(now) = now {
                    held.look = Some(now + LOOK);
                }
                return false;
            }
            Ok(_) => true,
            // Where that cannot be known it is not waited for.
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    guest_log!(
                        warn,
                        "What the front-end has read is not known: a stop of its guest may end QEMU: {error}"
                    );
                }
                false
            }
        };
        self.finish_held(taken);
        self.socket.is_some()
    }

    /// Sends the rest of a request; `taken` if its beginning was read.
    fn finish_held(&mut self, taken: bool) {
        let Some(Held { bytes, instead, .. }) = self.held.take() else { return };
        let shared = self.shared.clone();
        // Who has taken a byte is done with what came before.
        self.returned_before = taken.then(|| shared.returned());
        match shared.while_running(|| self.send(&bytes, None)) {
            Some(sent) => {
                let fenced = self.requests.oldest().is_some_and(|asked| self.dialect.is_fenced(asked));
                self.fences += usize::from(fenced);
                self.keep_rest(bytes, sent);
            }
            None => {
                if let Some(WindowRequest::Map(map)) = self.requests.oldest() {
                    let (place, name) = ((map.region, map.at), name(&map.mapping.file));
                    self.unexport(place, |names| names.iter().rposition(|held| Some(*held) == name));
                }
                self.requests.was_taken_back();
                let sent = self.send(&instead, None);
                self.keep_rest(instead, sent);
            }
        }
    }

    fn keep_rest(&mut self, mut bytes: Vec<u8>, sent: Result<usize, Errno>) {
        match sent {
            Ok(sent) => drop(bytes.drain(..sent)),
            Err(Errno::AGAIN) => {}
            Err(error) => return self.give_up(&error),
        }
        self.rest = bytes;
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

    /// Begins one request, if there is one and it may be sent. Returns whether something else may be sent.
    fn send_next(&mut self, now: Instant) -> bool {
        let Some(request) = self.requests.next().filter(|_| self.requests.under_way() == 0) else { return false };
        let (region, at, _) = place(request);
        let dialect = self.shared.dialect().unwrap_or(self.dialect);
        let file = match request {
            WindowRequest::Map(map) => Some(map.mapping.file.clone()),
            // crosvm ends its VM when it is to unmap what is not there.
            WindowRequest::Unmap(_) if !self.requests.is_mapped(region, at) => {
                self.requests.was_refused();
                return true;
            }
            WindowRequest::Unmap(_) => None,
        };
        let (mut bytes, instead) = (dialect.request(request), dialect.taken_back(request));
        if dialect.is_fenced(request) {
            bytes.extend(fence());
        }
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
        let first = if dialect.in_two_steps() { BEGINNING } else { bytes.len() };
        let shared = self.shared.clone();
        let file = file.as_ref().map(|file| file.as_fd());
        match shared.while_running(|| self.send(&bytes[..first], file)) {
            Some(Ok(sent)) => {
                let mut left = bytes;
                left.drain(..sent);
                if dialect.in_two_steps() {
                    self.held = Some(Held { bytes: left, instead: instead[sent..].to_vec(), look: None });
                } else {
                    self.rest = left;
                }
                self.dialect = dialect;
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
        // When something was read there is room again, and we are woken.
        if error != Errno::AGAIN {
            self.give_up(&error);
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
        self.shared.set_dialect(None);
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
        if self.returned_before.is_some_and(|before| before != self.shared.returned()) {
            self.see();
        }
        if runs {
            self.requests.expire(now);
        } else {
            self.requests.stop();
            // It is mapped, and nobody waits for it: it is undone.
            self.see();
            // The front-end, which takes the beginning later, must not wait for the rest.
            self.finish_held(false);
        }
        self.flush(Some(now));
        self.requests.take_answers(answers);
    }

    fn deadline(&self) -> Option<Instant> {
        let look = self.held.as_ref().and_then(|held| held.look);
        self.requests.deadline().into_iter().chain(look).min()
    }

    fn clear(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        self.requests.clear();
        self.requests.take_answers(answers);
    }
}
