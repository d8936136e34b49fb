//! How long somebody waits, and who is held.

use std::time::Duration;

use super::super::{Doing, Options, Policy};
use super::machine::{Delays, Habit, Machine, ms, p99, us};

const BUSY: Habit = Habit::Busy { threads: 1 };

/// Stops take at most so long in [`Delays::Measured`], ninety-nine of a hundred times.
const STOP: Duration = Duration::from_micros(500);

#[test]
fn a_light_client_waits_for_one_slice_of_each_other_at_most() {
    for count in [2, 4, 8, 15] {
        for policy in [Policy::BestEffort, Policy::EqualShare] {
            let options = Options { policy, ..Options::default() };
            let mut machine = Machine::new(options).chance(count);
            let light = machine.add(1, Habit::Bursts { work: us(1500), pause: ms(23) });
            for _ in 1..count {
                machine.add(1, BUSY);
            }
            machine.run(ms(10_000));
            let delays = &machine.clients[&light].delays;
            let bound = (ms(16) + STOP) * (count as u32 - 1) + options.preempt_timeout;
            println!("{policy:?} {count}: {:?} of {bound:?}", p99(delays));
            assert!(delays.len() >= 50, "{policy:?} {count}: {}", delays.len());
            assert!(p99(delays) <= bound, "{policy:?} {count}: {:?}, not {bound:?}", p99(delays));
        }
    }
}

#[test]
fn each_runs_within_a_window_after_any_pause() {
    // GVT-g gave out time at some looks only, so that one that came back stood still for hundreds of milliseconds.
    let window = ms(100);
    for pause in [1, 16, 99, 100, 101, 250, 1000, 4321, 12_000] {
        for sleeper in [0, 3] {
            let mut machine = Machine::new(Options::default()).chance(pause);
            for _ in 0..4 {
                machine.add(1, BUSY);
            }
            machine.run(ms(500));
            // One does nothing for a while and comes back.
            machine.client(sleeper).habit = Habit::Later { begins: machine.now + ms(pause) };
            machine.run(ms(pause));
            machine.forget_waits();
            machine.run(ms(1000));
            for (key, client) in &machine.clients {
                let wait = client.longest_wait;
                assert!(wait <= window, "{key} stood still for {wait:?} after {sleeper} had paused for {pause} ms");
            }
        }
    }
}

#[test]
fn each_runs_within_a_window_after_nobody_looked_for_a_while() {
    for pause in [50, 300, 5000] {
        let mut machine = Machine::new(Options::default()).chance(pause);
        for _ in 0..4 {
            machine.add(1, BUSY);
        }
        machine.run(ms(500));
        machine.blind_until = machine.now + ms(pause);
        machine.run(ms(pause));
        machine.forget_waits();
        machine.run(ms(2000));
        for (key, client) in &machine.clients {
            assert!(client.longest_wait <= ms(100), "{key}: {:?}", client.longest_wait);
        }
        // .. and all are even again after the debt that was carried.
        machine.run(ms(2000));
        let uses = machine.uses(ms(1000));
        assert!(super::machine::worst(&uses, &[1; 4]) <= 0.05, "{uses:?}");
    }
}

#[test]
fn one_that_begins_late_has_its_share_at_once_and_no_more() {
    let mut machine = Machine::new(Options::default());
    machine.add(1, BUSY);
    machine.run(ms(20_000));
    let late = machine.add(1, BUSY);
    machine.run(ms(200));
    let uses = machine.uses(ms(1000));
    assert!(super::machine::worst(&uses, &[1, 1]) <= 0.05, "{uses:?}");
    assert!(machine.clients[&late].longest_wait <= ms(100));
}

#[test]
fn stops_that_take_milliseconds_leave_each_a_turn_in_a_window() {
    let mut machine = Machine::new(Options::default()).delays(Delays::Exact(ms(4)));
    for _ in 0..15 {
        machine.add(1, BUSY);
    }
    machine.run(ms(1000));
    machine.forget_waits();
    machine.run(ms(2000));
    let longest = machine.clients.values().map(|client| client.longest_wait).max();
    // Stops alone are 60 ms of it.
    assert!(longest <= Some(ms(150)), "{longest:?}");
}

#[test]
fn the_slot_of_one_that_dies_is_the_others_at_once() {
    let mut machine = Machine::new(Options::default());
    for _ in 0..3 {
        machine.add(1, BUSY);
    }
    machine.run(ms(500));
    let running = (0..3).find(|key| machine.account(*key).doing == Doing::Running).expect("one runs");
    machine.set_alive(running, false);
    machine.unused = Duration::ZERO;
    machine.run(ms(10));
    assert!(machine.unused <= ms(2), "{:?}", machine.unused);
    // Another process in its place is stopped and charged as the first was.
    machine.set_alive(running, true);
    machine.run(ms(300));
    let uses = machine.uses(ms(1000));
    assert!(super::machine::worst(&uses, &[1; 3]) <= 0.05, "{uses:?}");
}

#[test]
fn one_that_gets_nothing_done_in_its_own_time_is_held_until_it_is_released() {
    let options = Options { hang_timeout: ms(500), ..Options::default() };
    let mut machine = Machine::new(options);
    let (good, bad) = (machine.add(1, BUSY), machine.add(1, BUSY));
    machine.client(good).talks = true;
    machine.client(bad).talks = true;
    machine.run(ms(2000));
    assert!(machine.held.is_empty(), "Waiting is no hang");
    machine.client(bad).stuck = true;
    machine.run(ms(900));
    assert!(machine.held.is_empty(), "Half of that was not its own time");
    machine.run(ms(1000));
    assert_eq!(machine.held, [bad]);
    let account = machine.account(bad);
    let held = account.held.expect("the reason");
    assert_eq!(account.doing, Doing::Held);
    assert!(held.why.contains("0.5 s"), "{}", held.why);
    let uses = machine.uses(ms(1000));
    assert!(uses[0] > 0.99 && uses[1] == 0.0, "{uses:?}");

    machine.client(bad).stuck = false;
    machine.release(bad);
    machine.run(ms(200));
    let uses = machine.uses(ms(1000));
    assert!(super::machine::worst(&uses, &[1, 1]) <= 0.05, "{uses:?}");
    assert!(!machine.schedule.release(good));
}
