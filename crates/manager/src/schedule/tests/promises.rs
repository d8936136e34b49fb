//! Shares, as they are promised.

use std::time::Duration;

use super::super::{Doing, Mode, Options, Policy, Quantum, Share};
use super::machine::{BOTH, Delays, FREEZE, Habit, Machine, jain, ms, us, worst};
use crate::profile::Priority;

const BUSY: Habit = Habit::Busy { threads: 1 };

fn busy(options: Options, weights: &[u32], delays: Delays) -> Machine {
    let mut machine = Machine::new(options).delays(delays);
    for weight in weights {
        machine.add(*weight, BUSY);
    }
    // All have been seen.
    machine.run(ms(300));
    machine
}

/// The worst over seconds, one beginning 100 ms after another, and what was used in all of them.
fn over_each_second(machine: &mut Machine, weights: &[u32]) -> (f64, f64, Vec<f64>) {
    let mut points = vec![machine.used()];
    for _ in 0..40 {
        machine.run(ms(100));
        points.push(machine.used());
    }
    let between = |before: &[Duration], after: &[Duration]| -> Vec<f64> {
        before.iter().zip(after).map(|(before, after)| (*after - *before).as_secs_f64()).collect()
    };
    let uses = points.iter().zip(&points[10..]).map(|(before, after)| between(before, after));
    let (low, high) =
        uses.fold((1.0, 0.0), |(low, high), uses| (f64::min(low, jain(&uses)), f64::max(high, worst(&uses, weights))));
    (low, high, between(&points[0], &points[40]))
}

#[test]
fn equal_weights_have_equal_shares() {
    for policy in [Policy::BestEffort, Policy::EqualShare, Policy::FixedShare] {
        for count in [2, 4, 8, 15] {
            let weights = vec![1; count];
            let options = Options { policy, ..Options::default() };
            // Each second, where all stop as soon as they usually do.
            let mut machine = busy(options, &weights, Delays::Exact(us(100)));
            let (least, most, _) = over_each_second(&mut machine, &weights);
            println!("{policy:?} {count}: Jain {least:.4}, {:.2} % off in a second", most * 100.0);
            assert!(least >= 0.99 && most <= 0.05, "{policy:?} {count}: Jain {least}, {most} off");
            // Where one goes on for milliseconds now and then that is more of its part of one second; it is made up for.
            let mut machine = busy(options, &weights, Delays::Measured);
            let (least, most, uses) = over_each_second(&mut machine, &weights);
            let all = worst(&uses, &weights);
            println!("  late: Jain {least:.4}, {:.2} % off, {:.2} % in four seconds", most * 100.0, all * 100.0);
            assert!(least >= 0.99 && all <= 0.05, "{policy:?} {count}: Jain {least}, {all} off");
        }
    }
}

#[test]
fn weights_are_followed_in_each_second() {
    let weights = [2, 4, 8, 16];
    for policy in [Policy::BestEffort, Policy::FixedShare] {
        for delays in [Delays::Exact(us(100)), Delays::Measured] {
            let mut machine = busy(Options { policy, ..Options::default() }, &weights, delays);
            let (_, most, _) = over_each_second(&mut machine, &weights);
            println!("{policy:?}, {delays:?}: {:.2} % off", most * 100.0);
            assert!(most <= 0.05, "{policy:?}, {delays:?}: {most}");
        }
    }
}

#[test]
fn weights_mean_nothing_where_all_have_the_same() {
    let mut machine = busy(Options { policy: Policy::EqualShare, ..Options::default() }, &[1, 1000], Delays::Measured);
    assert!(worst(&machine.uses(ms(1000)), &[1, 1]) <= 0.05);
}

#[test]
fn time_of_one_that_idles_is_used_in_best_effort_and_not_in_fixed_share() {
    // More than all there is: one that is told to stop comes to rest while the next one runs.
    for (policy, least, most) in [(Policy::BestEffort, 0.99, 1.02), (Policy::FixedShare, 0.70, 0.76)] {
        let mut machine = busy(Options { policy, ..Options::default() }, &[1, 1, 1], Delays::Measured);
        machine.add(1, Habit::Still);
        machine.run(ms(300));
        let used: f64 = machine.uses(ms(2000)).iter().sum::<f64>() / 2.0;
        assert!((least..=most).contains(&used), "{policy:?}: {used}");
    }
}

#[test]
fn bursts_are_filled_by_others() {
    let mut machine = busy(Options::default(), &[1], Delays::Measured);
    for _ in 0..3 {
        machine.add(1, Habit::Bursts { work: ms(40), pause: ms(60) });
    }
    machine.run(ms(300));
    let used: f64 = machine.uses(ms(4000)).iter().sum::<f64>() / 4.0;
    assert!(used >= 0.95, "{used}");
}

#[test]
fn a_fixed_share_is_what_it_is_whoever_else_is_there() {
    for others in [0, 3] {
        let options = Options { policy: Policy::FixedShare, capacity: 8, ..Options::default() };
        let mut machine = busy(options, &vec![1; others + 1], Delays::Measured);
        let used = machine.uses(ms(2000))[0] / 2.0;
        assert!((0.115..=0.13).contains(&used), "{used} beside {others}");
    }
}

#[test]
fn two_threads_are_charged_for_two() {
    let mut machine = busy(Options::default(), &[1], Delays::Measured);
    machine.add(1, Habit::Busy { threads: 2 });
    machine.run(ms(300));
    let uses = machine.uses(ms(2000));
    assert!(worst(&uses, &[1, 1]) <= 0.05, "{uses:?}");
}

#[test]
fn one_alone_is_never_stopped_and_hardly_looked_at() {
    let mut machine = busy(Options::default(), &[1], Delays::Measured);
    let (acts, looks) = (machine.acts, machine.looks);
    let uses = machine.uses(ms(10_000));
    assert_eq!(machine.acts, acts);
    assert!(machine.looks - looks <= 100, "{}", machine.looks - looks);
    assert!(uses[0] > 9.99);
}

#[test]
fn nobody_is_looked_at_who_has_no_process() {
    let mut machine = busy(Options::default(), &[1, 1], Delays::Measured);
    machine.set_alive(0, false);
    machine.set_alive(1, false);
    machine.run(ms(200));
    let looks = machine.looks;
    machine.run(ms(10_000));
    assert_eq!(machine.looks, looks);
    assert_eq!(machine.account(0).doing, Doing::Absent);
}

#[test]
fn those_that_do_nothing_are_not_stopped() {
    let mut machine = Machine::new(Options::default());
    for _ in 0..64 {
        machine.add(1, Habit::Still);
    }
    machine.run(ms(5000));
    assert_eq!(machine.acts, 0);
    assert!(machine.looks <= 51, "{}", machine.looks);
}

#[test]
fn fine_quanta_are_two_milliseconds_and_one_for_more_than_eight() {
    for (count, quantum) in [(2, 2), (8, 2), (9, 1), (15, 1)] {
        let options = Options { quantum: Quantum::Fine, policy: Policy::EqualShare, ..Options::default() };
        let mut machine = Machine::new(options).delays(Delays::Exact(us(20))).step(us(10));
        for _ in 0..count {
            machine.add(1, BUSY);
        }
        machine.run(ms(200));
        let before = machine.account(0).slices;
        let uses = machine.uses(ms(1000));
        let slices = machine.account(0).slices - before;
        // A slice, and the stop after it.
        let expected = 1000.0 / (count as f64 * (quantum as f64 + 0.02));
        assert!((slices as f64 / expected - 1.0).abs() < 0.05, "{count}: {slices} slices, not {expected}");
        assert!(jain(&uses) >= 0.99 && worst(&uses, &vec![1; count]) <= 0.05, "{count}: {uses:?}");
        assert_eq!(machine.together, Duration::ZERO);
    }
}

#[test]
fn fine_quanta_grow_where_stopping_takes_long() {
    let options = Options { quantum: Quantum::Fine, ..Options::default() };
    let mut machine = Machine::new(options).delays(Delays::Exact(us(400)));
    for _ in 0..4 {
        machine.add(1, BUSY);
    }
    machine.run(ms(300));
    assert!(machine.schedule.quantum() >= ms(4), "{:?}", machine.schedule.quantum());
    let used: f64 = machine.uses(ms(2000)).iter().sum::<f64>() / 2.0;
    assert!(used >= 0.9, "{used}");
}

#[test]
fn a_quantum_is_one_to_thirty_milliseconds() {
    assert!([0, 31, u32::MAX].into_iter().all(|count| Quantum::milliseconds(count).is_err()));
    for count in [1, 4, 16, 30] {
        let quantum = Quantum::milliseconds(count).expect("a quantum");
        let mut machine = Machine::new(Options { quantum, ..Options::default() }).delays(Delays::Exact(us(50)));
        for _ in 0..4 {
            machine.add(1, BUSY);
        }
        machine.run(ms(500));
        let uses = machine.uses(ms(1000));
        assert!(jain(&uses) >= 0.99 && worst(&uses, &[1; 4]) <= 0.05, "{count}: {uses:?}");
    }
}

#[test]
fn the_one_of_higher_priority_goes_first_and_has_no_more_than_its_share() {
    let mut machine = busy(Options::default(), &[1, 1, 1], Delays::Measured);
    let share = |priority| Share { weight: 1, priority, grips: FREEZE };
    let high = machine.add_as(share(Priority::High), Habit::Bursts { work: ms(2), pause: ms(30) });
    machine.add_as(share(Priority::Low), BUSY);
    machine.run(ms(3000));
    // A look, the stop of the running one, and what is left of an earlier stop.
    let delays = &machine.clients[&high].delays;
    assert!(delays.len() > 50);
    assert!(super::machine::p99(delays) <= ms(8), "{:?}", super::machine::p99(delays));

    machine.client(high).habit = BUSY;
    machine.run(ms(500));
    let uses = machine.uses(ms(2000));
    assert!(worst(&uses, &[1; 5]) <= 0.05, "{uses:?}");
}

#[test]
fn batches_that_overrun_are_charged() {
    let options = Options { mode: Mode::Batch, preempt_timeout: ms(100), ..Options::default() };
    let mut machine = Machine::new(options);
    let share = Share { weight: 1, priority: Priority::Normal, grips: BOTH };
    machine.add_as(share, Habit::Batches { length: ms(45) });
    machine.add_as(share, Habit::Batches { length: ms(3) });
    machine.add_as(share, Habit::Batches { length: ms(8) });
    machine.run(ms(1000));
    let uses = machine.uses(ms(10_000));
    assert!(worst(&uses, &[1; 3]) <= 0.05, "{uses:?}");
    assert_eq!(machine.account(1).overruns, 0);
    assert_eq!(machine.together, Duration::ZERO);
}

#[test]
fn a_batch_without_an_end_is_stopped_after_the_timeout() {
    let options = Options { mode: Mode::Batch, ..Options::default() };
    let mut machine = Machine::new(options);
    let share = Share { weight: 1, priority: Priority::Normal, grips: BOTH };
    let endless = machine.add_as(share, Habit::Batches { length: ms(100_000) });
    machine.add_as(share, Habit::Batches { length: ms(2) });
    machine.run(ms(1000));
    let uses = machine.uses(ms(5000));
    assert!(worst(&uses, &[1; 2]) <= 0.05, "{uses:?}");
    assert!(machine.account(endless).overruns > 10);
}

#[test]
fn one_that_cannot_be_gated_is_stopped_in_batch_mode_too() {
    let mut machine = busy(Options { mode: Mode::Batch, ..Options::default() }, &[1, 3], Delays::Measured);
    let uses = machine.uses(ms(2000));
    assert!(worst(&uses, &[1, 3]) <= 0.05, "{uses:?}");
}

#[test]
fn one_that_runs_although_it_was_stopped_is_charged_and_stopped_again() {
    let mut machine = busy(Options::default(), &[1, 1], Delays::Measured);
    for _ in 0..20 {
        machine.run(ms(50));
        // Somebody lets it go on behind our back.
        let waits = [0, 1].into_iter().find(|key| machine.account(*key).doing == Doing::Waiting);
        let cheat = waits.expect("one waits");
        machine.let_go(cheat);
    }
    machine.run(ms(1000));
    assert!(machine.account(0).escapes + machine.account(1).escapes >= 10);
    assert!(worst(&machine.uses(ms(1000)), &[1, 1]) <= 0.05);
}
