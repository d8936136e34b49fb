//! A process that does not keep up: what is asked of it waits, and how long it may stand still is its own time.

use super::script::{Script, play};
use super::*;
use crate::isolated::host::{QUEUED, QUEUED_BYTES};

fn desk() -> (Desk, Arc<Script>) {
    let script = Arc::new(Script::default());
    let mut desk = Desk::new(play(&script));
    desk.open(1, CapsetId::VIRGL2);
    desk.open(2, CapsetId::VENUS);
    desk.settle();
    script.state().closed = true;
    (desk, script)
}

/// Asks until there is no room, and says how often.
fn fill(desk: &mut Desk, commands: &[u8]) -> usize {
    let mut asked = 0;
    while !desk.isolated.is_full(CapsetId::VIRGL2) {
        desk.submit(1, commands);
        asked += 1;
    }
    asked
}

#[test]
fn one_that_stands_still_has_no_room_at_some_time_and_again_when_it_goes_on() {
    let (mut desk, script) = desk();
    desk.submit(1, b"draw");
    desk.until("the first submit", |_| script.state().submitted.len() == 1);
    let asked = fill(&mut desk, b"draw");
    assert_eq!(asked, wire::REQUESTS as usize + QUEUED);
    assert!(desk.isolated.is_full(CapsetId::VIRGL) && !desk.isolated.is_full(CapsetId::VENUS));
    desk.turn();
    assert!(desk.isolated.is_full(CapsetId::VIRGL2));
    // What is asked for all the same is carried out too.
    let last = desk.fence(1, 0);
    desk.isolated.close(ContextId(1));
    script.let_go();
    desk.until("room", |desk| !desk.isolated.is_full(CapsetId::VIRGL2));
    desk.settle();
    assert!(desk.is_ok(last) && desk.answers.values().all(|result| *result == Ok(())));
    assert_eq!(script.state().submitted.len(), asked + 1);
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
}

#[test]
fn long_streams_fill_it_sooner() {
    let (mut desk, script) = desk();
    let long = vec![7; 1 << 20];
    let asked = fill(&mut desk, &long);
    let most = (wire::ARENA_BYTES as usize + QUEUED_BYTES) >> 20;
    assert!(asked <= most + 2, "{asked} MiB");
    script.let_go();
    desk.settle();
    assert_eq!(script.state().submitted.len(), asked);
}

#[test]
fn one_that_is_full_and_makes_no_progress_is_ended_and_the_next_one_has_room() {
    let (mut desk, script) = desk();
    fill(&mut desk, b"draw");
    desk.until("the first submit", |_| script.state().submitted.len() == 1);
    desk.turn();
    desk.pass(2 * PATIENCE);
    assert_eq!(desk.stats.renderer_deaths.get(), 1);
    assert!(!desk.isolated.is_full(CapsetId::VIRGL2));
    desk.settle();
    script.let_go();
    let opened = desk.open(3, CapsetId::VIRGL2);
    desk.settle();
    assert!(desk.is_ok(opened));
}

#[test]
fn one_that_makes_progress_however_slowly_is_not_ended() {
    let (mut desk, script) = desk();
    fill(&mut desk, b"draw");
    for taken in 1..20 {
        desk.until("the next submit", |_| script.state().submitted.len() == taken);
        desk.turn();
        desk.pass(PATIENCE / 2);
        script.step();
    }
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
    script.let_go();
    desk.settle();
}
