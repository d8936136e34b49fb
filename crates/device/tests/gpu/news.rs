//! Heads that change while a driver asks about them: whatever comes first, it ends up knowing the newest.

use std::collections::VecDeque;

use device::{Start, VirtioDevice};
use proptest::prelude::*;
use protocol::ScanoutId;

use crate::machine::Machine;
use crate::script::Request;

const QUESTIONS: [&str; 3] = ["edid 0", "edid 1", "display_info"];
const EVENTS_READ: u64 = 0;
const EVENTS_CLEAR: u64 = 4;

/// A machine whose driver does as Linux's: an interrupt has a worker read the event, send its questions, and clear the
/// event without waiting for the answers.
struct Conversation {
    machine: Machine,
    interrupts: usize,
    /// The worker is to run (again).
    due: bool,
    /// The event that the worker read, and how many of its steps are done.
    working: Option<(bool, usize)>,
    ring: VecDeque<&'static str>,
    /// The device was not told yet that the driver wrote into the configuration.
    config_accessed: bool,
    knows: [Option<Vec<u8>>; QUESTIONS.len()],
}

impl Conversation {
    fn new() -> Self {
        let (machine, ring, knows) = (Machine::soft(), VecDeque::new(), Default::default());
        let mut new = Self { machine, interrupts: 0, due: false, working: None, ring, config_accessed: false, knows };
        new.ask_all();
        new
    }

    /// What a driver asks when it is loaded.
    fn ask_all(&mut self) {
        self.ring.extend(QUESTIONS);
        while self.serve() {}
    }

    fn resize(&mut self, head: u32, width: u32) {
        let changed = self.machine.gpu.resize(ScanoutId(head), width, 100);
        self.interrupt(changed);
    }

    fn interrupt(&mut self, config_changed: bool) {
        self.interrupts += usize::from(config_changed);
        self.due |= config_changed;
    }

    fn poll(&mut self) {
        let changed = self.machine.poll().config_changed;
        self.interrupt(changed);
    }

    fn is_event_set(&self) -> bool {
        let mut events = [0; 4];
        self.machine.gpu.config().read(EVENTS_READ, &mut events);
        events != [0; 4]
    }

    fn clear(&mut self) {
        self.machine.gpu.config().write(EVENTS_CLEAR, &1u32.to_le_bytes());
        self.config_accessed = true;
    }

    /// The worker's next step; `false` when it sleeps.
    fn work(&mut self) -> bool {
        match self.working {
            None if !std::mem::take(&mut self.due) => return false,
            None => self.working = Some((self.is_event_set(), 0)),
            Some((true, step)) if step < QUESTIONS.len() => {
                self.ring.push_back(QUESTIONS[step]);
                self.working = Some((true, step + 1));
            }
            Some((is_set, _)) => {
                if is_set {
                    self.clear();
                }
                self.working = None;
            }
        }
        true
    }

    /// The device takes the next question from the ring; `false` when there is none.
    fn serve(&mut self) -> bool {
        let Some(question) = self.ring.pop_front() else { return false };
        let reply = self.answer(question);
        let index = QUESTIONS.iter().position(|known| *known == question).unwrap();
        self.knows[index] = Some(reply);
        true
    }

    fn answer(&mut self, question: &str) -> Vec<u8> {
        let index = self.machine.send(&Request::parse(question));
        self.poll();
        self.machine.reply_bytes(index).unwrap().to_vec()
    }

    /// The device hears that the configuration was written; `false` when it was not.
    fn hear(&mut self) -> bool {
        if !std::mem::take(&mut self.config_accessed) {
            return false;
        }
        self.machine.gpu.config_accessed();
        self.poll();
        true
    }

    /// Everybody does what is left to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if !(self.work() | self.serve() | self.hear()) {
                return;
            }
        }
        panic!("They talk for ever");
    }

    #[track_caller]
    fn assert_knows_the_newest(&mut self) {
        let newest = QUESTIONS.map(|question| Some(self.answer(question)));
        assert!(self.knows == newest, "The driver does not know the newest");
    }
}

/// The order in which a resize was lost: it falls between the answers and the clearing.
#[test]
fn a_resize_between_the_answer_and_the_clearing_of_its_event_is_told_again() {
    let mut driver = Conversation::new();
    driver.resize(0, 800);
    for _ in 0..4 {
        assert!(driver.work());
    }
    while driver.serve() {}
    driver.resize(0, 801);
    assert!(driver.work(), "it clears the event");
    assert!(!driver.is_event_set());
    assert!(driver.hear());
    assert!(driver.is_event_set(), "and is told again");
    driver.settle();
    driver.assert_knows_the_newest();
    assert_eq!(driver.interrupts, 3);
}

#[test]
fn a_driver_that_clears_the_event_without_asking_is_not_told_for_ever() {
    let mut driver = Conversation::new();
    driver.resize(1, 800);
    for _ in 0..10 {
        driver.clear();
        driver.hear();
    }
    assert_eq!(driver.interrupts, 2);
    assert!(!driver.is_event_set());
    driver.resize(1, 801);
    assert!(driver.is_event_set());
}

#[test]
fn a_driver_that_knows_the_newest_is_not_told_again() {
    let mut driver = Conversation::new();
    for width in 800..810 {
        driver.resize(0, width);
        driver.settle();
    }
    assert_eq!(driver.interrupts, 10);
    driver.assert_knows_the_newest();
}

/// A suspended guest's driver goes on without asking; it is told. One of another boot asks by itself.
#[test]
fn a_resize_while_the_guest_sleeps_is_told_when_it_wakes() {
    for wakes in [true, false] {
        let mut driver = Conversation::new();
        driver.machine.must("create_2d 1 bgrx 16x16");
        driver.machine.stop();
        driver.resize(0, 800);
        (driver.due, driver.interrupts) = (false, 0);
        driver.machine.start(Start::Fresh);
        assert!(!driver.is_event_set());
        match wakes {
            true => driver.machine.must("scanout 0 1 0,0+16x16"),
            false => driver.ask_all(),
        }
        driver.poll();
        assert_eq!(driver.interrupts, usize::from(wakes));
        driver.settle();
        driver.assert_knows_the_newest();
        driver.machine.finish();
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Resize(u32, u32),
    Work,
    Serve,
    Hear,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0u32..2, 1u32..2000).prop_map(|(head, width)| Step::Resize(head, width)),
        4 => Just(Step::Work),
        3 => Just(Step::Serve),
        1 => Just(Step::Hear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_first_the_driver_ends_up_knowing_the_newest(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut driver = Conversation::new();
        let mut resizes = 0;
        for step in steps {
            match step {
                Step::Resize(head, width) => {
                    driver.resize(head, width);
                    resizes += 1;
                }
                Step::Work => _ = driver.work(),
                Step::Serve => _ = driver.serve(),
                Step::Hear => _ = driver.hear(),
            }
        }
        driver.settle();
        driver.assert_knows_the_newest();
        prop_assert!(driver.interrupts <= 2 * resizes, "{} interrupts for {resizes} resizes", driver.interrupts);
    }
}
