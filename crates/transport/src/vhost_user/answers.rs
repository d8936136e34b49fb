//! A front-end made of bytes, as to what it is asked: for fuzzing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{HostMapping, MapRequest, Ticket, UnmapRequest, WindowRequest};
use rustix::fs::{MemfdFlags, memfd_create};

use super::exports::{Shared, name};
use super::message::{Answer, code};
use super::window::BackendChannel;
use crate::window::Mapper;

const LEN: u64 = 0x4000;
/// Length of a request to map or unmap, with its header.
const REQUEST: usize = 52;

/// Carries out a conversation of `bytes` about a window: what is asked for, what the front-end reads, answers and does not
/// answer, and what comes between. Panics when a promise of [`Mapper`] is broken: each request is answered once, and none is
/// heard of once a stop began. Returns how many were done.
pub fn answers(bytes: &[u8]) -> usize {
    let Some(mut front) = Conversation::new() else { return 0 };
    let mut rest = bytes;
    while let Some((step, next)) = rest.split_first() {
        rest = front.step(*step, next);
        front.poll();
    }
    front.end();
    front.done
}

struct Conversation {
    channel: BackendChannel,
    shared: Arc<Shared>,
    theirs: UnixStream,
    file: Arc<File>,
    now: Instant,
    tickets: u64,
    open: HashMap<Ticket, u64>,
    /// Where the device believes that something is, or will be.
    taken: BTreeMap<u64, ()>,
    running: bool,
    done: usize,
    /// What the front-end has read and not answered.
    heard: Vec<u8>,
}

impl Conversation {
    fn new() -> Option<Self> {
        let (ours, theirs) = UnixStream::pair().ok()?;
        theirs.set_nonblocking(true).ok()?;
        let file = File::from(memfd_create("shown", MemfdFlags::CLOEXEC).ok()?);
        file.set_len(LEN).ok()?;
        let shared = Arc::new(Shared::default());
        shared.set_maps(true);
        shared.set_running(true);
        let mut channel = BackendChannel::new(shared.clone()).ok()?;
        channel.connect(Some(ours.into()));
        let (now, running) = (Instant::now(), true);
        let (open, taken, heard) = Default::default();
        Some(Self {
            channel,
            shared,
            theirs,
            file: Arc::new(file),
            now,
            tickets: 0,
            open,
            taken,
            running,
            done: 0,
            heard,
        })
    }

    fn step<'a>(&mut self, step: u8, rest: &'a [u8]) -> &'a [u8] {
        let at = u64::from(step >> 4) * (LEN / 2);
        match step & 15 {
            0..=3 if !self.taken.keys().any(|other| at < other + LEN && *other < at + LEN) => {
                let mapping = HostMapping { file: self.file.clone(), offset: 0, len: LEN, caching: 1 };
                let ticket = self.ticket(at);
                self.taken.insert(at, ());
                self.channel.ask(WindowRequest::Map(MapRequest { ticket, region: 1, at, mapping }));
            }
            0..=3 => {
                let ticket = self.ticket(at);
                self.taken.remove(&at);
                self.channel.ask(WindowRequest::Unmap(UnmapRequest { ticket, region: 1, at, len: LEN }));
            }
            4 => self.hear(1),
            5 => self.hear(51),
            6 => self.hear(usize::from(step >> 4) * 16),
            7 => {
                self.shared.set_returned();
                self.answer(0);
            }
            8 => self.answer(u64::from(step >> 4)),
            9 => self.run(false),
            10 => self.run(true),
            11 => self.now += Duration::from_millis(u64::from(step >> 4) * 300),
            12 => self.channel.tell_config(),
            13 => {
                let count = usize::from(step >> 4).min(rest.len());
                self.say(&rest[..count]);
                return &rest[count..];
            }
            14 if step >> 4 == 0 => drop(self.theirs.shutdown(std::net::Shutdown::Both)),
            14 => self.channel.look(),
            _ => {
                let mut answers = Vec::new();
                self.channel.clear(&mut answers);
                self.take(&answers);
                self.taken.clear();
            }
        }
        rest
    }

    fn ticket(&mut self, at: u64) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.open.insert(ticket, at);
        ticket
    }

    fn hear(&mut self, count: usize) {
        let mut bytes = vec![0; count];
        match self.theirs.read(&mut bytes) {
            Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset)),
        }
        self.channel.look();
    }

    /// A right answer to the oldest request that was heard, if one was.
    fn answer(&mut self, result: u64) {
        while let Some(request) = self.heard.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
            let len = match request {
                code::BACKEND_SHMEM_MAP | code::BACKEND_SHMEM_UNMAP => REQUEST,
                _ => 12,
            };
            if self.heard.len() < len {
                return;
            }
            self.heard.drain(..len);
            if len == REQUEST {
                let head = [request, 5, 8].map(u32::to_ne_bytes).concat();
                return self.say(&[&head[..], &result.to_ne_bytes()].concat()[..Answer::BYTES]);
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        // It may be full, or nobody may listen.
        let _ = self.theirs.write(bytes);
        self.channel.look();
    }

    fn run(&mut self, running: bool) {
        self.shared.set_running(running);
        if self.running && !running {
            // The rest of a message that was begun, and no request.
            let mut bytes = [0; 4096];
            self.poll();
            while let Ok(count @ 1..) = self.theirs.read(&mut bytes) {
                self.heard.extend_from_slice(&bytes[..count]);
            }
        }
        self.running = running;
    }

    fn poll(&mut self) {
        let mut answers = Vec::new();
        self.channel.poll(self.now, &mut answers);
        self.take(&answers);
        if !self.running {
            assert!(self.open.is_empty(), "somebody waits although the rings have stopped");
        }
    }

    fn take(&mut self, answers: &[(Ticket, bool)]) {
        for (ticket, done) in answers {
            let Some(at) = self.open.remove(ticket) else { panic!("{ticket:?} is answered twice") };
            self.done += usize::from(*done);
            if !done {
                self.taken.remove(&at);
            }
        }
    }

    /// Whatever was said, nobody waits for ever, and nothing is left when the front-end is gone.
    fn end(&mut self) {
        for _ in 0..3 {
            self.now += crate::window::ANSWER_LIMIT;
            self.poll();
        }
        assert!(self.open.is_empty(), "somebody waits for ever");
        self.channel.reset();
        assert!(name(&*self.file).is_none() || !self.shared.is_exported(&*self.file));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_answered_each_request_is_answered_once(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            super::answers(&bytes);
        }
    }

    #[test]
    fn a_map_and_its_answer_are_done() {
        // A map: its first byte is read, then the rest; it is answered. An unmap: the same.
        assert_eq!(super::answers(&[0x00, 0x04, 0x05, 0x07, 0x00, 0x04, 0x05, 0x07]), 2);
    }
}
