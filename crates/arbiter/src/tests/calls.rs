//! Who rings, when, and that nobody is missed.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{is_readable, place, work};
use crate::page::{Call, Page, Wanted};
use crate::{Grant, Report, Ward};

#[test]
fn one_that_is_not_waited_for_never_rings() {
    let mut place = place();
    let mut ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    let batches = |place: &mut super::Place| (0..1000).for_each(|at| place.seat.report(work((at + 1) % 2)));
    batches(&mut place);
    assert!(!is_readable(&ward.work));
    // What is waited for is told once, however often it is so.
    assert!(!ward.call(Call::Work));
    batches(&mut place);
    assert!(ward.heard() && !ward.heard());
    batches(&mut place);
    ward.call(Call::Work);
    assert_eq!(ward.rings(), 1);
    assert_eq!(ward.report(), work(0));
}

#[test]
fn one_that_is_waited_for_rings_when_it_has_work_and_again_only_when_it_is_called_again() {
    let mut place = place();
    let mut ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    for round in 1..=3 {
        assert!(!ward.call(Call::Work) && !ward.call(Call::Work));
        place.seat.report(work(0));
        assert!(ward.bell().is_some() && !ward.heard(), "{round}: it has none");
        place.seat.report(work(1));
        assert!(ward.heard(), "{round}");
        assert!(ward.bell().is_none());
        place.seat.report(work(0));
        place.seat.report(work(2));
        assert_eq!(ward.rings(), round);
        // It has some already: that is told at once, and it may go on ringing for it.
        assert!(ward.call(Call::Work));
        ward.call(Call::Nothing);
        place.seat.report(work(0));
    }
}

#[test]
fn a_manager_that_called_before_its_device_looked_is_answered() {
    let mut place = place();
    place.seat.report(work(1));
    let mut ward = Ward::connect(&place.path).unwrap();
    assert!(!ward.call(Call::Work), "Nothing is said in a new page");
    place.seat.poll();
    assert!(ward.heard());
}

#[test]
fn behind_a_gate_it_rings_when_it_knows_the_gate_and_nothing_is_under_way() {
    let mut place = place();
    let mut ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    place.seat.report(work(0));
    assert!(!ward.call(Call::Rest), "that it has nothing is no answer before it knows the gate");
    ward.grant(Grant::Gated);
    place.seat.report(work(0));
    assert!(!ward.heard(), "it may begin something still");
    place.seat.poll();
    place.seat.report(work(0));
    assert!(ward.heard());
    // With something under way.
    place.seat.report(work(2));
    ward.call(Call::Rest);
    for waiting in [2, 1, 0] {
        assert!(!ward.heard());
        place.seat.report(work(waiting));
    }
    assert!(ward.heard());
}

#[test]
fn who_rings_without_end_is_not_listened_to_and_who_scribbles_calls_itself() {
    let mut place = place();
    let mut ward = Ward::connect(&place.path).unwrap();
    place.seat.poll();
    for _ in 0..100 {
        crate::seat::ring(&ward.work);
    }
    assert!(ward.bell().is_none() && !ward.heard(), "nobody waits for it");
    assert!(!ward.call(Call::Work));
    assert!(!ward.heard(), "what it rang before is no answer");
    assert_eq!(ward.rings(), 100);
    // A device that calls itself away is not heard; what is wanted of it is what the manager remembers.
    rustix::io::pwrite(ward.page.fd().unwrap(), &[0xff; 4], 0x18).unwrap();
    assert_eq!(ward.called(), Call::Work);
    place.seat.report(work(1));
    assert!(!ward.heard());
    ward.call(Call::Nothing);
    assert!(ward.call(Call::Work), "it says that it has work");
}

/// The moments at which one of two sides can be: it has written its own word, then read the other's. A processor may keep what
/// was written back for a while, as x86 does, and others see it then only; a fence waits for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Side {
    wrote: bool,
    seen: bool,
    read: Option<bool>,
}

/// Whether there is an order in which neither sees the other.
fn can_be_missed(fences: bool) -> bool {
    let (mut open, mut known) = (vec![[Side::default(); 2]], BTreeSet::new());
    while let Some(sides) = open.pop() {
        if !known.insert(sides) {
            continue;
        }
        if sides.iter().all(|side| side.read == Some(false)) {
            return true;
        }
        for at in 0..2 {
            let (own, other) = (sides[at], sides[1 - at]);
            let mut go = |side| {
                let mut next = sides;
                next[at] = side;
                open.push(next);
            };
            if !own.wrote {
                go(Side { wrote: true, ..own });
            } else {
                if !own.seen {
                    go(Side { seen: true, ..own });
                }
                if own.read.is_none() && (own.seen || !fences) {
                    go(Side { read: Some(other.seen), ..own });
                }
            }
        }
    }
    false
}

#[test]
fn in_every_order_with_fences_one_of_both_sees_the_other_and_without_not() {
    assert!(!can_be_missed(true));
    assert!(can_be_missed(false));
}

/// The same with the page itself: the call and the work meet at one moment, again and again.
#[test]
fn a_call_and_work_that_meet_are_never_both_missed() {
    const ROUNDS: u32 = 10_000;
    let page = Page::new().unwrap();
    let (rounds, rang) = (AtomicU32::new(0), AtomicBool::new(false));
    let wait_for = |round: u32| {
        let mut looks = 0;
        while rounds.load(Ordering::Acquire) < round {
            looks += 1;
            if looks % 1000 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    };
    let (mut by_bell, mut by_look, mut missed) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut answered = Wanted::default();
            for round in 0..ROUNDS {
                wait_for(round * 4 + 1);
                page.report(Report { waiting: 1, ..Report::default() });
                let wanted = page.called();
                if wanted.call() == Call::Work && wanted != answered {
                    answered = wanted;
                    rang.store(true, Ordering::Relaxed);
                }
                rounds.fetch_add(1, Ordering::AcqRel);
                wait_for(round * 4 + 3);
                page.report(Report::default());
                rounds.fetch_add(1, Ordering::AcqRel);
            }
        });
        let mut wanted = Wanted::default();
        for round in 0..ROUNDS {
            rounds.fetch_add(1, Ordering::AcqRel);
            wanted = wanted.next(Call::Work);
            // Sooner and later than the other one, who needs a while to see that it is time.
            (0..round % 128).for_each(|_| std::hint::spin_loop());
            let early = page.call(wanted);
            wait_for(round * 4 + 2);
            let late = rang.swap(false, Ordering::Relaxed);
            missed += u32::from(!early && !late);
            (by_look, by_bell) = (by_look + u32::from(early), by_bell + u32::from(late));
            wanted = wanted.next(Call::Nothing);
            page.call(wanted);
            rounds.fetch_add(1, Ordering::AcqRel);
            wait_for(round * 4 + 4);
        }
    });
    println!("{ROUNDS} meetings: {by_bell} by the bell, {by_look} by the look");
    assert_eq!(missed, 0, "so often nobody was woken");
}

/// Set for this program inside of a PID namespace: where the one outside listens.
const INSIDE: &str = "BEAMSPLIT_TEST_PEER_OUTSIDE";

#[test]
fn one_from_outside_of_our_pid_namespace_has_no_number() {
    if let Ok(path) = std::env::var(INSIDE) {
        let ward = Ward::connect(path.as_ref()).unwrap();
        assert_eq!(ward.peer(), None);
        println!("It has no number");
        return;
    }
    let place = place();
    let ward = Ward::connect(&place.path).unwrap();
    assert_eq!(ward.peer(), Some(std::process::id() as i32));
    let own = std::env::current_exe().unwrap();
    let test = "tests::calls::one_from_outside_of_our_pid_namespace_has_no_number";
    for ways in [&["--pid", "--fork"][..], &["--user", "--map-root-user", "--pid", "--fork"]] {
        // Whoever may make no namespace has none to try this in.
        if !Command::new("unshare").args(ways).arg("true").status().is_ok_and(|status| status.success()) {
            continue;
        }
        let mut inner = Command::new("unshare");
        inner.args(ways).arg(own).args(["--exact", test, "--nocapture"]).env(INSIDE, &place.path);
        let output = inner.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("It has no number"), "{output:?}");
        return;
    }
    println!("Not tried: unshare may make no PID namespace here");
}
