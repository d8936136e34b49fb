//! A model of a front-end: whatever it answers, whenever, each request is answered once and nothing overlaps.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{HostMapping, MapRequest, Ticket, UnmapRequest, WindowRequest};
use proptest::prelude::*;

use super::{Requests, place};
use crate::window::ANSWER_LIMIT;

const LEN: u64 = 0x4000;

#[derive(Clone, Copy, Debug)]
enum Step {
    Map {
        at: u64,
    },
    /// Of the n-th that the device believes to be mapped.
    Unmap(usize),
    /// The front-end carries the oldest request out, or refuses it.
    Answer {
        refuse: bool,
    },
    Stop,
    Start,
    Pass(u64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u64).prop_map(|at| Step::Map { at: at * 0x2000 }),
        3 => any::<usize>().prop_map(Step::Unmap),
        6 => any::<u8>().prop_map(|odds| Step::Answer { refuse: odds % 5 == 0 }),
        1 => Just(Step::Stop),
        2 => Just(Step::Start),
        1 => (0..5000u64).prop_map(Step::Pass),
        1 => Just(Step::Clear),
    ]
}

/// The requests, a device that asks, and a front-end that answers.
struct Model {
    requests: Requests,
    file: Arc<File>,
    now: Instant,
    shut: bool,
    tickets: u64,
    /// Maps that the device waits for, and unmaps.
    open: HashMap<Ticket, (u64, bool)>,
    /// What the device believes: places that are taken.
    taken: BTreeMap<u64, bool>,
    /// What the front-end has been sent.
    wire: Vec<(bool, u64)>,
    /// What it has mapped.
    shown: Vec<u64>,
}

impl Model {
    fn new() -> Self {
        Self {
            requests: Requests::default(),
            file: Arc::new(File::open("/dev/null").unwrap()),
            now: Instant::now(),
            shut: false,
            tickets: 0,
            open: HashMap::new(),
            taken: BTreeMap::new(),
            wire: Vec::new(),
            shown: Vec::new(),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Map { at } if !self.taken.keys().any(|other| at < other + LEN && *other < at + LEN) => {
                let ticket = self.ticket();
                let mapping = HostMapping { file: self.file.clone(), offset: 0, len: LEN, caching: 1 };
                self.requests.ask(WindowRequest::Map(MapRequest { ticket, region: 1, at, mapping }));
                self.open.insert(ticket, (at, true));
                self.taken.insert(at, false);
            }
            Step::Map { .. } => {}
            Step::Unmap(which) => {
                let mapped: Vec<u64> = self.taken.iter().filter(|(_, mapped)| **mapped).map(|(at, _)| *at).collect();
                let Some(at) = mapped.get(which % mapped.len().max(1)).copied() else { return };
                let ticket = self.ticket();
                self.requests.ask(WindowRequest::Unmap(UnmapRequest { ticket, region: 1, at, len: LEN }));
                self.open.insert(ticket, (at, false));
                self.taken.remove(&at);
            }
            Step::Answer { refuse } => self.answer(refuse),
            Step::Stop => self.shut = true,
            Step::Start => self.shut = false,
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
            Step::Clear => {
                self.requests.clear();
                self.hear();
                self.taken.clear();
            }
        }
        self.poll();
    }

    fn answer(&mut self, refuse: bool) {
        if self.wire.is_empty() {
            assert!(self.requests.oldest().is_none());
            return;
        }
        let (map, at) = self.wire.remove(0);
        let done = match map {
            true if refuse => false,
            true => {
                assert!(!self.shown.iter().any(|other| at < other + LEN && *other < at + LEN), "{at:#x} is taken");
                self.shown.push(at);
                true
            }
            false => {
                let before = self.shown.len();
                self.shown.retain(|other| *other != at);
                self.shown.len() < before
            }
        };
        self.requests.was_answered(done);
    }

    fn poll(&mut self) {
        if self.shut {
            self.requests.stop();
        } else {
            self.requests.expire(self.now);
            while let Some(next) = self.requests.next() {
                self.wire.push((matches!(next, WindowRequest::Map(_)), place(next).1));
                self.requests.was_sent(self.now);
            }
        }
        self.hear();
    }

    fn hear(&mut self) {
        let mut answers = Vec::new();
        self.requests.take_answers(&mut answers);
        for (ticket, done) in answers {
            let (at, map) = self.open.remove(&ticket).expect("answered once");
            match (map, done) {
                (true, true) => drop(self.taken.insert(at, true)),
                (true, false) => drop(self.taken.remove(&at)),
                (false, _) => {}
            }
        }
    }

    /// In the end the front-end shows what the device believes it shows.
    fn end(mut self) {
        self.shut = false;
        for _ in 0..1000 {
            self.poll();
            if self.wire.is_empty() {
                break;
            }
            self.answer(false);
        }
        self.poll();
        assert!(self.open.is_empty(), "{:?} were never answered", self.open);
        assert!(self.requests.is_idle());
        self.shown.sort_unstable();
        assert_eq!(self.shown, self.taken.keys().copied().collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn each_request_is_answered_once_and_nothing_overlaps(steps in prop::collection::vec(step(), 0..80)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.end();
    }
}

#[test]
fn nothing_is_awaited_longer_than_the_limit() {
    let mut model = Model::new();
    for at in 0..4 {
        model.step(Step::Map { at: at * LEN });
    }
    assert_eq!(model.requests.deadline(), Some(model.now + ANSWER_LIMIT));
    model.step(Step::Pass(3_999));
    assert_eq!(model.open.len(), 4);
    model.step(Step::Pass(1));
    assert_eq!((model.open.len(), model.requests.deadline()), (0, None));
    // The device may use the place again; the front-end does not hear of it before what it does there late is undone.
    model.step(Step::Map { at: 0 });
    assert_eq!(model.wire.len(), 4);
    model.step(Step::Answer { refuse: false });
    assert_eq!(model.wire[3..], [(false, 0), (true, 0)]);
    model.end();
}
