//! Guest memory by messages: the device's thread asks, the control thread brings the answer.
//!
//! One request is in flight, and it is short: a front-end writes its answer by one call without waiting, so what its socket
//! does not hold is lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use device::guest_log;

use super::channel::Sender;
use super::function::DmaPort;
use super::wire::{Kind, Message, command, dma_request, parse_dma};

/// What is asked for at once.
pub const CHUNK: usize = 64 << 10;
/// How long an answer may take: less than a front-end's own patience with us.
const LIMIT: Duration = Duration::from_secs(4);

/// The way to the memory of one front-end's guest.
#[derive(Debug)]
pub struct Port {
    sender: Arc<Sender>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Nobody may ask, for as long as the control thread does not listen.
    suspended: bool,
    /// How often that was said: who waits may wake up only after the end of it.
    suspensions: u64,
    /// .. or the front-end is gone.
    closed: bool,
    /// What it takes at once.
    chunk: usize,
    /// The number of the next request.
    next: u16,
    asked: Option<Asked>,
    /// What the control thread wants to know, and what was answered.
    question: Option<(Asked, Vec<u8>)>,
    /// What came last, kept for the next.
    bytes: Vec<u8>,
}

/// A request without its answer, or with it.
#[derive(Debug)]
struct Asked {
    id: u16,
    command: u16,
    address: u64,
    count: u64,
    answered: Option<bool>,
}

impl Port {
    /// Asks over `sender`.
    pub fn new(sender: Arc<Sender>) -> Self {
        let state = State {
            suspended: false,
            suspensions: 0,
            closed: false,
            chunk: CHUNK,
            next: 0,
            asked: None,
            question: None,
            bytes: Vec::new(),
        };
        Self { sender, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The front-end takes so much at once.
    pub fn limit(&self, bytes: usize) {
        self.state().chunk = bytes.clamp(1, CHUNK);
    }

    /// Takes a reply. One to nothing that is asked, or was given up, means nothing any more.
    pub fn answered(&self, message: &Message<'_>) {
        let mut state = self.state();
        let State { asked, question, bytes, .. } = &mut *state;
        let open = asked.as_mut().map(|asked| (asked, bytes)).into_iter();
        let mut open = open.chain(question.as_mut().map(|(asked, bytes)| (asked, bytes)));
        let found = open.find(|(asked, _)| asked.answered.is_none() && asked.id == message.header.id);
        drop(open);
        let Some((asked, bytes)) = found else { return };
        let answer = match message.header.kind {
            Kind::Reply => parse_dma(message.payload),
            Kind::Request { .. } => return,
            Kind::Error(errno) => {
                guest_log!(warn, "Front-end refused access to memory at {:#x}: error {errno}", asked.address);
                None
            }
        };
        let data = answer.filter(|(address, count, data)| {
            let expected = if asked.command == command::DMA_READ { asked.count } else { 0 };
            (message.header.command, *address, *count) == (asked.command, asked.address, asked.count)
                && data.len() as u64 == expected
        });
        asked.answered = Some(data.is_some());
        bytes.clear();
        bytes.extend(data.map_or(&[][..], |(_, _, data)| data));
        self.changed.notify_all();
    }

    /// The front-end is gone: who waits gets nothing, now and from now on.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Asks once; `take` sees the answer's data.
    fn ask(&self, command: u16, address: u64, count: usize, data: &[u8], take: impl FnOnce(&[u8])) -> bool {
        let mut state = self.state();
        if state.suspended || state.closed || state.asked.is_some() {
            return false;
        }
        let suspensions = state.suspensions;
        let id = state.next;
        state.next = id.wrapping_add(1);
        state.asked = Some(Asked { id, command, address, count: count as u64, answered: None });
        drop(state);
        let head = dma_request(id, command, address, count as u64, data.len());
        let sent = self.sender.send(&head, data, None);
        let deadline = Instant::now() + LIMIT;
        let mut state = self.state();
        while sent.is_ok() && state.suspensions == suspensions && !state.closed {
            if state.asked.as_ref().is_none_or(|asked| asked.answered.is_some()) {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                guest_log!(warn, "Front-end did not answer for memory at {address:#x}");
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let done = state.asked.take().and_then(|asked| asked.answered) == Some(true);
        if done {
            take(&state.bytes);
        }
        drop(state);
        if sent.is_err() {
            // Part of a message may be out: nothing can follow it.
            self.sender.shut_down();
        }
        done
    }

    fn chunk(&self) -> usize {
        self.state().chunk
    }
}

impl DmaPort for Port {
    fn ask_later(&self, address: u64, length: usize) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let (id, command, count) = (state.next, command::DMA_READ, length as u64);
        state.next = id.wrapping_add(1);
        state.question = Some((Asked { id, command, address, count, answered: None }, Vec::new()));
        drop(state);
        if self.sender.send(&dma_request(id, command, address, count, 0), &[], None).is_err() {
            // Part of a message may be out: nothing can follow it.
            self.sender.shut_down();
        }
    }

    fn take_answer(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        let answered = state.question.as_ref().is_some_and(|(asked, _)| asked.answered.is_some());
        let (asked, bytes) = state.question.take_if(|_| answered)?;
        (asked.answered == Some(true)).then_some(bytes)
    }

    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let mut at = address;
        data.chunks_mut(self.chunk()).all(|part| {
            let length = part.len();
            let done = self.ask(command::DMA_READ, at, length, &[], |bytes| part.copy_from_slice(bytes));
            at = at.wrapping_add(length as u64);
            done
        })
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        let mut at = address;
        data.chunks(self.chunk()).all(|part| {
            let done = self.ask(command::DMA_WRITE, at, part.len(), part, |_| ());
            at = at.wrapping_add(part.len() as u64);
            done
        })
    }

    fn suspend(&self) {
        let mut state = self.state();
        state.suspended = true;
        state.suspensions += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn resume(&self) {
        self.state().suspended = false;
    }
}
