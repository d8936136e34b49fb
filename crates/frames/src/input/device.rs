//! The device's end: whatever viewers send, at most one session, and nobody waits.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{Begin, Did, INPUTS_PER_POLL, Input, Leds, MAGIC, MAX_MESSAGE};
use crate::socket::{self, Received, Sent};
use crate::{MESSAGES_PER_POLL, VERSION};

/// What came from a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// Somebody typed or pointed.
    Input {
        /// On this head; perhaps one that does not exist.
        head: u8,
        /// What.
        input: Input,
    },
    /// The session ended, or another one takes its place: everything goes up.
    Gone,
}

/// What passed, for statistics, logs and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputCounters {
    /// Sessions that began.
    pub sessions: u64,
    /// Events that came.
    pub events: u64,
    /// Messages that were none. On a session: it ended.
    pub garbage: u64,
    /// Sessions of another version: they were not begun.
    pub versions: u64,
}

/// Which socket is ready.
const LASTING: u64 = 0;
const SESSION: u64 = 1;

/// The device's end of the seam for input. It never blocks.
#[derive(Debug)]
pub struct InputEnd {
    /// Where viewers begin; none: nobody holds the other end any more.
    lasting: Option<OwnedFd>,
    session: Option<OwnedFd>,
    /// One descriptor, whatever is waited for behind it.
    epoll: OwnedFd,
    leds: Leds,
    /// The lights found no room in the session.
    owes_leds: bool,
    counters: InputCounters,
}

impl InputEnd {
    /// Takes one socket of a [`crate::pair`]; viewers inherit the other one.
    pub fn new(lasting: OwnedFd) -> std::io::Result<Self> {
        socket::set_nonblocking(&lasting)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &lasting, EventData::new_u64(LASTING), EventFlags::IN)?;
        Ok(Self {
            lasting: Some(lasting),
            session: None,
            epoll,
            leds: Leds::default(),
            owes_leds: false,
            counters: InputCounters::default(),
        })
    }

    /// Adds what came to `events`. Takes a bounded number of messages, so use a level-triggered wait.
    pub fn poll(&mut self, events: &mut Vec<InputEvent>) {
        let mut room = [MaybeUninit::<Event>::uninit(); 2];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut room, Some(&now)) else { return };
        let (mut lasting, mut session) = (false, false);
        for event in ready {
            match event.data.u64() {
                LASTING => lasting = true,
                _ => session = true,
            }
        }
        // First what the old session still has to say, then the new one.
        if session {
            self.read_session(events);
        }
        if lasting {
            self.read_lasting(events);
        }
    }

    /// The guest set the lights of its keyboard.
    pub fn leds(&mut self, leds: Leds) {
        if self.leds != leds {
            self.leds = leds;
            self.say_leds();
        }
    }

    /// True while a viewer may send.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// What passed.
    pub fn counters(&self) -> InputCounters {
        self.counters
    }

    fn read_session(&mut self, events: &mut Vec<InputEvent>) {
        let mut bytes = [0; MAX_MESSAGE];
        for _ in 0..INPUTS_PER_POLL {
            let Some(session) = &self.session else { return };
            match socket::receive(session.as_fd(), &mut bytes) {
                Received::Message(length, _) => match postcard::from_bytes(&bytes[..length]) {
                    Ok(Did { head, input }) => {
                        self.counters.events += 1;
                        events.push(InputEvent::Input { head, input });
                    }
                    Err(_) => self.garbage(events),
                },
                Received::Garbage => self.garbage(events),
                Received::Nothing => break,
                Received::Closed => self.end_session(events),
            }
        }
        if self.owes_leds {
            self.say_leds();
        }
    }

    fn read_lasting(&mut self, events: &mut Vec<InputEvent>) {
        let mut bytes = [0; MAX_MESSAGE];
        for _ in 0..MESSAGES_PER_POLL {
            let Some(lasting) = &self.lasting else { return };
            match socket::receive(lasting.as_fd(), &mut bytes) {
                Received::Message(length, fd) => match (postcard::from_bytes(&bytes[..length]), fd) {
                    (Ok(Begin { magic: MAGIC, version: VERSION }), Some(fd)) if is_session(&fd) => {
                        self.begin(fd, events);
                    }
                    (Ok(Begin { magic: MAGIC, version }), Some(_)) if version != VERSION => self.counters.versions += 1,
                    // It is nobody's session yet, so none ends.
                    _ => self.counters.garbage += 1,
                },
                Received::Garbage => self.counters.garbage += 1,
                Received::Nothing => return,
                Received::Closed => {
                    // Without this the wait would be over at once for ever.
                    let _ = epoll::delete(&self.epoll, lasting);
                    self.lasting = None;
                }
            }
        }
    }

    fn begin(&mut self, fd: OwnedFd, events: &mut Vec<InputEvent>) {
        self.end_session(events);
        if epoll::add(&self.epoll, &fd, EventData::new_u64(SESSION), EventFlags::IN).is_ok() {
            self.session = Some(fd);
            self.counters.sessions += 1;
            self.say_leds();
        }
    }

    fn garbage(&mut self, events: &mut Vec<InputEvent>) {
        self.counters.garbage += 1;
        self.end_session(events);
    }

    fn end_session(&mut self, events: &mut Vec<InputEvent>) {
        if let Some(session) = self.session.take() {
            // Closing would not do: whoever sent the descriptor may have kept a copy of it.
            let _ = epoll::delete(&self.epoll, &session);
            self.owes_leds = false;
            events.push(InputEvent::Gone);
        }
    }

    /// Tells the viewer the lights, or waits for room to do so.
    fn say_leds(&mut self) {
        let Some(session) = &self.session else { return };
        let mut bytes = [0; MAX_MESSAGE];
        let Ok(words) = postcard::to_slice(&self.leds, &mut bytes) else { return };
        // A session that is closed says so by itself.
        let owes = socket::send(session.as_fd(), words, &[], None) == Sent::Full;
        if owes != self.owes_leds {
            let flags = if owes { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let waits = epoll::modify(&self.epoll, session, EventData::new_u64(SESSION), flags).is_ok();
            self.owes_leds = owes && waits;
        }
    }
}

impl AsFd for InputEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Only such a socket keeps messages apart and hangs up.
fn is_session(fd: &OwnedFd) -> bool {
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX) && sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET)
}
