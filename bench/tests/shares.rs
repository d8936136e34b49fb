//! The real software GPU, two devices, and the thread that gives out time.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use bench::shares::{Guest, Habit, Programs, Slices};
use tests::{bed, workspace};

/// Programs where the bed's library is, if there is a bed.
fn programs() -> Option<Programs> {
    let inside = std::env::var("BEAMSPLIT_INSIDE").ok().or_else(|| {
        let tree = bed::mesa().map_err(|error| eprintln!("Not tried: {error:#}")).ok()?;
        Some(bed::run::words(&bed::run::with_udmabuf(tree, "").ok()?).trim_end().to_owned())
    })?;
    let device = workspace::built("beamsplit-backend", "beamsplit-device").unwrap();
    let beamsplit = workspace::built("beamsplit", "beamsplit").unwrap();
    let device = inside.lines().map(str::to_owned).chain([device.display().to_string()]).collect();
    Some(Programs { device, beamsplit })
}

#[test]
fn two_that_draw_without_rest_have_what_their_weights_say_and_both_draw() {
    let Some(programs) = programs() else { return };
    let weights = [1, 3];
    let guests: Vec<_> = weights.iter().map(|_| Guest::start(&programs).unwrap()).collect();
    let mut slices = Slices::start(&programs, &[]).unwrap();
    for (number, guest) in guests.iter().enumerate() {
        guest.does(Habit::Busy);
        slices.add(number, guest, weights[number]).unwrap();
    }
    let limit = Instant::now() + Duration::from_secs(300);
    // So much work, not so much time: the machine may be busy.
    let mut until = |all: f64| loop {
        let used = slices.used().unwrap();
        if used.len() == 2 && used.iter().sum::<f64>() > all && used.iter().all(|used| *used > 0.1) {
            return used;
        }
        assert!(Instant::now() < limit, "{used:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let before = until(0.0);
    let frames: Vec<_> = guests.iter().map(Guest::frames).collect();
    let after = until(before.iter().sum::<f64>() + 3.0);
    // Between two batches a guest has nothing to do for the device until it gets a processor itself, and where it gets none for a while
    // the other one has that time: three times as much is had where there is room for both guests beside what draws. Alike it is nowhere,
    // and neither is the wait.
    let ratio = (after[1] - before[1]) / (after[0] - before[0]);
    let told = slices.snapshot().unwrap();
    assert!((1.2..4.5).contains(&ratio), "{ratio}, not 3: {told:?}");
    let waited = |number| told[&number]["waited"].as_u64();
    assert!(waited(1) < waited(0), "The heavier one waits longer: {told:?}");
    for (number, slice) in &told {
        assert!(slice["slices"].as_u64() >= Some(20) && slice["stops"].as_u64() >= Some(20), "{slice}");
        assert!(guests[*number].frames() > frames[*number], "{number} draws nothing");
    }
    // Nobody is left stopped.
    drop(slices);
    let frames: Vec<_> = guests.iter().map(Guest::frames).collect();
    while guests.iter().zip(&frames).any(|(guest, before)| guest.frames() <= before + 8) {
        assert!(Instant::now() < limit, "One stands still");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_alone_that_draws_does_not_wake_who_gives_out_time_with_its_batches() {
    const BATCHES: u64 = 1000;
    let Some(programs) = programs() else { return };
    let guest = Guest::start(&programs).unwrap();
    let mut slices = Slices::start(&programs, &[]).unwrap();
    slices.add(0, &guest, 1).unwrap();
    guest.does(Habit::Busy);
    let limit = Instant::now() + Duration::from_secs(300);
    while guest.frames() < BATCHES * 8 {
        assert!(Instant::now() < limit, "It draws nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    // What it rang although nobody waited for it is counted when it is listened to again.
    guest.does(Habit::Still);
    let told = loop {
        let told = slices.snapshot().unwrap().remove(&0).unwrap();
        if told["doing"] == "idle" {
            break told;
        }
        assert!(Instant::now() < limit, "It has work: {told}");
        std::thread::sleep(Duration::from_millis(20));
    };
    // A few times its guest may have been kept waiting for so long that it idled.
    assert!(told["rings"].as_u64() < Some(BATCHES / 10), "{told}");
    assert_eq!((&told["stops"], &told["gates"]), (&0.into(), &0.into()));
}

#[test]
fn at_the_ends_of_batches_time_is_given_out_without_stopping_anybody() {
    let Some(programs) = programs() else { return };
    let weights = [1, 3];
    let guests: Vec<_> = weights.iter().map(|_| Guest::start(&programs).unwrap()).collect();
    // Long: no batch is stopped for its length on a busy machine.
    let mut slices = Slices::start(&programs, &["--mode", "batch", "--preempt-timeout", "2000"]).unwrap();
    for (number, guest) in guests.iter().enumerate() {
        guest.does(Habit::Busy);
        slices.add(number, guest, weights[number]).unwrap();
    }
    let limit = Instant::now() + Duration::from_secs(300);
    let gates = |told: &BTreeMap<usize, Value>| told.values().map(|slice| slice["gates"].as_u64()).min().flatten();
    let mut until = |count: u64| loop {
        let told = slices.snapshot().unwrap();
        if told.len() == weights.len() && gates(&told) >= Some(count) {
            return told;
        }
        assert!(Instant::now() < limit, "{told:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let used = |told: &BTreeMap<usize, Value>, number: usize| told[&number]["used"].as_f64().unwrap();
    let (before, after) = (until(20), until(150));
    let gained = |number| used(&after, number) - used(&before, number);
    assert!(after.values().all(|slice| slice["stops"] == 0), "{after:?}");
    let ratio = gained(1) / gained(0);
    assert!((1.2..4.5).contains(&ratio), "{ratio}, not 3: {after:?}");
    let waited = |number| after[&number]["waited"].as_u64().unwrap() - before[&number]["waited"].as_u64().unwrap();
    assert!(waited(1) < waited(0), "The heavier one waits longer: {after:?}");
}

#[test]
fn all_go_on_when_who_gave_out_time_is_killed() {
    let Some(programs) = programs() else { return };
    let guests: Vec<_> = (0..2).map(|_| Guest::start(&programs).unwrap()).collect();
    let mut slices = Slices::start(&programs, &[]).unwrap();
    for (number, guest) in guests.iter().enumerate() {
        guest.does(Habit::Busy);
        slices.add(number, guest, 1).unwrap();
    }
    let limit = Instant::now() + Duration::from_secs(300);
    while !slices.snapshot().unwrap().values().any(|slice| slice["stops"].as_u64() > Some(5)) {
        assert!(Instant::now() < limit, "Nobody is stopped");
        std::thread::sleep(Duration::from_millis(20));
    }
    slices.kill();
    let frames: Vec<_> = guests.iter().map(Guest::frames).collect();
    // Further than what was under way just then.
    while guests.iter().zip(&frames).any(|(guest, before)| guest.frames() <= before + 16) {
        assert!(Instant::now() < limit, "One stands still");
        std::thread::sleep(Duration::from_millis(20));
    }
}
