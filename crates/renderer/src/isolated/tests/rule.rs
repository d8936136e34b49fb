//! A guest whose time is granted by somebody else.

use std::sync::PoisonError;

use super::script::{Script, play};
use super::*;
use crate::isolated::arbiter::{Arbiter, Grant, Progress as Reported};

/// What the one says who grants time, and what it was told.
#[derive(Clone)]
struct Ruler {
    words: Arc<Mutex<(Grant, Duration, Vec<Reported>)>>,
    bell: Arc<OwnedFd>,
}

impl Ruler {
    fn words(&self) -> std::sync::MutexGuard<'_, (Grant, Duration, Vec<Reported>)> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, grant: Grant) {
        self.words().0 = grant;
        ring_bell(&self.bell);
    }

    fn told(&self) -> Reported {
        self.words().2.last().copied().unwrap_or_default()
    }
}

impl Arbiter for Ruler {
    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn poll(&mut self) {
        stop_bell(&self.bell);
    }

    fn granted(&self) -> Grant {
        self.words().0
    }

    fn stopped(&mut self) -> Duration {
        self.words().1
    }

    fn report(&mut self, progress: Reported) {
        self.words().2.push(progress);
    }
}

fn desk() -> (Desk, Arc<Script>, Ruler) {
    let script = Arc::new(Script::default());
    let mut desk = Desk::new(play(&script));
    let ruler = Ruler { words: Arc::default(), bell: Arc::new(bell().unwrap()) };
    desk.isolated = desk.isolated.under(Box::new(ruler.clone())).unwrap();
    (desk, script, ruler)
}

#[test]
fn behind_a_gate_nothing_is_begun_and_what_was_asked_for_comes_in_order_when_it_opens() {
    let (mut desk, script, ruler) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    ruler.grant(Grant::Gated);
    desk.turn();
    let asked = [b"one", b"two"].map(|commands| desk.submit(1, commands));
    let fence = desk.fence(1, 0);
    // It has nothing to do meanwhile: it does not hang.
    desk.pass(10 * PATIENCE);
    assert_eq!(desk.open, [asked[0], asked[1], fence]);
    assert!(script.state().submitted.is_empty());
    // So for a process that starts meanwhile.
    let opened = desk.open(2, CapsetId::VENUS);
    desk.turn();
    assert!(desk.open.contains(&opened));
    ruler.grant(Grant::Open);
    desk.settle();
    assert_eq!(script.state().submitted, [b"one", b"two"]);
    assert!(desk.is_ok(opened) && desk.is_ok(fence));
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
}

#[test]
fn a_guest_that_is_held_is_answered_with_errors_until_it_is_released() {
    let (mut desk, script, ruler) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    script.state().closed = true;
    let under_way = desk.submit(1, b"draw");
    desk.until("the submit", |_| script.state().submitted.len() == 1);
    ruler.grant(Grant::Held);
    desk.settle();
    assert_eq!(desk.answers[&under_way], Err(ReplyError::Unspec));
    assert_eq!(desk.killed.lock().unwrap().len(), 1, "its process is ended");
    script.let_go();
    for capset in [CapsetId::VIRGL2, CapsetId::VENUS] {
        let opened = desk.open(2, capset);
        desk.settle();
        assert_eq!(desk.answers[&opened], Err(ReplyError::Unspec), "{capset}");
    }
    assert_eq!(desk.stats.renderer_starts.get(), 1, "none is started");
    ruler.grant(Grant::Open);
    desk.turn();
    let opened = desk.open(3, CapsetId::VIRGL2);
    let drawn = desk.submit(3, b"again");
    desk.settle();
    assert!(desk.is_ok(opened) && desk.is_ok(drawn));
}

#[test]
fn one_that_is_held_before_it_draws_never_starts() {
    let (mut desk, _script, ruler) = desk();
    ruler.grant(Grant::Held);
    desk.turn();
    let opened = desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    assert_eq!(desk.answers[&opened], Err(ReplyError::Unspec));
    assert_eq!(desk.stats.renderer_starts.get(), 0);
}

#[test]
fn time_for_which_its_processes_were_stopped_is_not_theirs() {
    let (mut desk, script, ruler) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    script.state().closed = true;
    desk.submit(1, b"draw");
    desk.until("the submit", |_| script.state().submitted.len() == 1);
    // Of each second it had a tenth.
    for _ in 0..9 {
        ruler.words().1 += PATIENCE * 9 / 10;
        desk.pass(PATIENCE);
    }
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
    desk.pass(PATIENCE);
    assert_eq!(desk.stats.renderer_deaths.get(), 1, "it hangs when it has all of it");
    script.let_go();
}

#[test]
fn one_that_was_stopped_for_long_has_the_rest_of_its_patience_and_no_more() {
    let (mut desk, script, ruler) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    script.state().closed = true;
    let submitted = desk.submit(1, b"draw");
    desk.until("the submit", |_| script.state().submitted.len() == 1);
    desk.pass(PATIENCE / 2);
    ruler.words().1 += 100 * PATIENCE;
    desk.pass(100 * PATIENCE);
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
    assert_eq!(desk.open, [submitted]);
    // It hangs indeed.
    desk.pass(PATIENCE);
    assert_eq!(desk.stats.renderer_deaths.get(), 1);
    assert_eq!(desk.answers[&submitted], Err(ReplyError::Unspec));
    script.let_go();
}

#[test]
fn it_is_told_what_waits_what_gets_on_and_what_was_begun_last() {
    let (mut desk, script, ruler) = desk();
    desk.turn();
    assert_eq!(ruler.told(), Reported::default());
    desk.open(7, CapsetId::VIRGL2);
    desk.settle();
    desk.turn();
    let before = ruler.told();
    assert_eq!(before.waiting, 0);
    script.state().closed = true;
    desk.submit(7, b"draw");
    desk.fence(7, 0);
    desk.until("the submit", |_| script.state().submitted.len() == 1);
    desk.turn();
    let during = ruler.told();
    assert_eq!((during.waiting, during.last), (2, Some(("SUBMIT_3D", ContextId(7)))));
    script.let_go();
    desk.settle();
    desk.turn();
    let after = ruler.told();
    assert_eq!(after.waiting, 0);
    assert!(after.done.wrapping_sub(before.done) >= 4, "two were taken and two answered: {before:?} {after:?}");
    // The process goes, what it did was done.
    desk.isolated.reset();
    desk.turn();
    assert!(ruler.told().done >= after.done && ruler.told().last.is_some());
}
