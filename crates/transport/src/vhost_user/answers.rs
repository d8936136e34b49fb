//! A front-end made of bytes, as to what it is asked: for fuzzing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{HostMapping, MapRequest, Ticket, UnmapRequest, WindowRequest};
use rustix::fs::{MemfdFlags, memfd_create};

use super::dialect::{Answer, Dialect, fence};
use super::exports::{Shared, name};
use super::message::{HEADER_BYTES, code};
use super::window::BackendChannel;
use crate::window::Mapper;

const LEN: u64 = 0x4000;

/// Carries out a conversation about a window: the first of `bytes` says in which dialect, the others what is asked for, what
/// the front-end reads, answers and does not answer, and what comes between. Panics when a promise of [`Mapper`] is broken: each
/// request is answered once, and none is heard of once a stop began; and when a front-end that says nothing but the truth is
/// asked to map where it has something, to unmap where it has nothing, or in another dialect. Returns how many were done.
pub fn answers(bytes: &[u8]) -> usize {
    let Some((dialect, mut rest)) = bytes.split_first() else { return 0 };
    let dialect = [Dialect::Careful, Dialect::Plain, Dialect::Early][usize::from(*dialect) % 3];
    let Some(mut front) = Conversation::new(dialect) else { return 0 };
    while let Some((step, next)) = rest.split_first() {
        rest = front.step(*step, next);
        front.poll();
    }
    front.end();
    front.done
}

struct Conversation {
    dialect: Dialect,
    channel: BackendChannel,
    shared: Arc<Shared>,
    theirs: UnixStream,
    file: Arc<File>,
    now: Instant,
    tickets: u64,
    open: HashMap<Ticket, u64>,
    /// Where the device believes that something is, or will be.
    taken: BTreeMap<u64, Ticket>,
    running: bool,
    done: usize,
    /// What the front-end has read and not answered.
    heard: Vec<u8>,
    /// Where it has something.
    shown: BTreeSet<u64>,
    /// Whether it has said nothing but right answers.
    honest: bool,
}

impl Conversation {
    fn new(dialect: Dialect) -> Option<Self> {
        let (ours, theirs) = UnixStream::pair().ok()?;
        theirs.set_nonblocking(true).ok()?;
        let file = File::from(memfd_create("shown", MemfdFlags::CLOEXEC).ok()?);
        file.set_len(LEN).ok()?;
        let shared = Arc::new(Shared::default());
        shared.set_dialect(Some(dialect));
        shared.set_running(true);
        let mut channel = BackendChannel::new(shared.clone()).ok()?;
        channel.connect(Some(ours.into()));
        let (now, running) = (Instant::now(), true);
        let (open, taken, heard, shown) = Default::default();
        Some(Self {
            dialect,
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
            shown,
            honest: true,
        })
    }

    fn step<'a>(&mut self, step: u8, rest: &'a [u8]) -> &'a [u8] {
        let at = u64::from(step >> 4) * (LEN / 2);
        match step & 15 {
            0..=3 if !self.taken.keys().any(|other| at < other + LEN && *other < at + LEN) => {
                let mapping = HostMapping { file: self.file.clone(), offset: 0, len: LEN, caching: 1 };
                let ticket = self.ticket(at);
                self.taken.insert(at, ticket);
                self.channel.ask(WindowRequest::Map(MapRequest { ticket, region: 1, at, mapping }));
            }
            0..=3 => {
                let ticket = self.ticket(at);
                self.taken.remove(&at);
                self.channel.ask(WindowRequest::Unmap(UnmapRequest { ticket, region: 1, at, len: LEN }));
            }
            4 => self.hear(1),
            5 => self.hear(51 + fence().len()),
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
                self.honest &= count == 0;
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
        while let Some(head) = self.heard.first_chunk::<HEADER_BYTES>() {
            let [request, _, size] = [0, 4, 8].map(|at| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| head[at + byte])));
            let len = HEADER_BYTES + size as usize;
            if self.heard.len() < len {
                return;
            }
            let payload: Vec<u8> = self.heard.drain(..len).skip(HEADER_BYTES).collect();
            if self.dialect != Dialect::Careful || request != code::BACKEND_SHARED_OBJECT_REMOVE {
                let Some(at) = self.place(request, &payload) else { continue };
                if self.honest {
                    self.carry_out(request, at, result == 0);
                }
            }
            let head = [request, 5, 8].map(u32::to_ne_bytes).concat();
            return self.say(&[&head[..], &result.to_ne_bytes()].concat()[..Answer::BYTES]);
        }
    }

    /// Where a request is to map or unmap; `None` for what wants no answer.
    fn place(&self, request: u32, payload: &[u8]) -> Option<u64> {
        let words: Vec<u64> =
            payload.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?))).collect();
        match (self.dialect, request, words.as_slice()) {
            (Dialect::Careful | Dialect::Plain, code::BACKEND_SHMEM_MAP, [1, 0, at, LEN, 1]) => Some(*at),
            (Dialect::Careful | Dialect::Plain, code::BACKEND_SHMEM_UNMAP, [1, 0, at, LEN, 0]) => Some(*at),
            (Dialect::Early, code::BACKEND_EARLY_SHMEM_MAP, [_, at, 0, LEN]) => Some(*at),
            (Dialect::Early, code::BACKEND_EARLY_SHMEM_UNMAP, [1, at, LEN]) => Some(*at),
            (_, code::BACKEND_CONFIG_CHANGE, []) => None,
            // A request that was taken back.
            (Dialect::Careful, 256.., []) => None,
            _ => panic!("{:?} has no request {request} with {payload:x?}", self.dialect),
        }
    }

    fn carry_out(&mut self, request: u32, at: u64, done: bool) {
        if matches!(request, code::BACKEND_SHMEM_MAP | code::BACKEND_EARLY_SHMEM_MAP) {
            assert!(
                !self.shown.iter().any(|other| at < other + LEN && *other < at + LEN),
                "something is there already"
            );
            if done {
                self.shown.insert(at);
            }
        } else {
            assert!(self.shown.contains(&at), "nothing is there");
            // Who says that it could not is believed to have nothing there.
            self.shown.remove(&at);
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
            if !done && self.taken.get(&at) == Some(ticket) {
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

    /// The device had asked for the next one before it heard that one failed.
    #[test]
    fn a_map_that_failed_is_not_the_one_behind_it() {
        for dialect in 0..3 {
            super::answers(&[dialect, 0x00, 0x00, 0x00, 0x00, 0x56, 0x38, 0x00, 0x56, 0x08, 0x00, 0x56, 0x08]);
        }
    }

    #[test]
    fn a_map_and_its_answer_are_done() {
        // A map: its first byte is read, then the rest; it is answered, and what is behind it. An unmap: the same.
        for dialect in 0..3 {
            let bytes = [dialect, 0x00, 0x04, 0x05, 0x07, 0x07, 0x00, 0x04, 0x05, 0x07];
            assert_eq!(super::answers(&bytes), 2, "{dialect}");
        }
    }
}
