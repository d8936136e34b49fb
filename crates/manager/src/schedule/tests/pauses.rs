//! How long somebody stands still at most, whatever the others do. Guests' drivers have deadlines (docs/vgpus.md, "Pauses").

use std::time::Duration;

use proptest::prelude::*;

use super::super::{Mode, Options, Policy, Quantum, Share};
use super::machine::{BOTH, Delays, FREEZE, Habit, Machine, ms};
use super::properties::{options, shares};
use crate::profile::Priority;

/// The longest that anybody stands still who has work and is not held, for at most so many that share a GPU: a second, and then a turn
/// of each.
const MANY: usize = 40;
const LONGEST: Duration = Duration::from_millis(1500);
const ENDLESS: Habit = Habit::Batches { length: Duration::from_secs(3600) };

/// The longest time for which one stood still.
fn longest_pause(
    options: Options,
    delays: Delays,
    seed: u64,
    clients: impl IntoIterator<Item = (Share, Habit)>,
) -> Duration {
    // Coarse: this is about seconds.
    let mut machine = Machine::new(options).delays(delays).step(ms(1)).chance(seed);
    for (share, habit) in clients {
        machine.add_as(share, habit);
    }
    machine.run(ms(6000));
    machine.clients.values().map(|client| client.longest_wait).max().unwrap_or_default()
}

fn each_policy() -> impl Iterator<Item = Options> {
    let policies = [Policy::BestEffort, Policy::EqualShare, Policy::FixedShare];
    policies.into_iter().flat_map(|policy| {
        let quantum = Quantum::milliseconds(30).expect("a quantum");
        // The longest that a configuration may say.
        let preempt_timeout = ms(1000);
        [Mode::Strict, Mode::Batch].map(|mode| Options {
            policy,
            mode,
            quantum,
            preempt_timeout,
            capacity: 100,
            ..Options::default()
        })
    })
}

/// Of each priority, very light ones among them, some that cannot be gated.
fn crowd(habit: Habit) -> impl Iterator<Item = (Share, Habit)> {
    (0..MANY).map(move |at| {
        let priority = [Priority::Low, Priority::Normal, Priority::High][at % 3];
        let grips = if at % 5 == 4 { FREEZE } else { BOTH };
        (Share { weight: [1, 30, 1000][at / 3 % 3], priority, grips }, habit)
    })
}

#[test]
fn batches_without_an_end_keep_nobody_from_a_sign_of_life() {
    for options in each_policy() {
        let longest = longest_pause(options, Delays::Measured, 1, crowd(ENDLESS));
        println!("{:?} {:?}: {longest:?}", options.policy, options.mode);
        assert!(longest <= LONGEST, "{options:?}: {longest:?}");
    }
}

#[test]
fn processes_that_do_not_come_to_rest_keep_nobody_from_a_sign_of_life() {
    for options in each_policy() {
        let longest = longest_pause(options, Delays::Stuck(ms(1500)), 1, crowd(Habit::Busy { threads: 1 }));
        println!("{:?} {:?}: {longest:?}", options.policy, options.mode);
        assert!(longest <= LONGEST, "{options:?}: {longest:?}");
    }
}

#[test]
fn with_what_is_set_by_default_nobody_stands_still_for_half_a_second() {
    for policy in [Policy::BestEffort, Policy::FixedShare] {
        let options = Options { policy, ..Options::default() };
        let longest = longest_pause(options, Delays::Measured, 1, crowd(ENDLESS).take(15));
        println!("{policy:?}: {longest:?}");
        assert!(longest <= ms(500), "{policy:?}: {longest:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn nobody_stands_still_for_seconds(
        options in options(),
        batch in any::<bool>(),
        preempt in 1u64..1001,
        stuck in prop::option::of(1u64..3000),
        clients in prop::collection::vec((shares(), (0u64..4, 1u64..5000)), 2..24),
        seed in any::<u64>(),
    ) {
        let mode = if batch { Mode::Batch } else { Mode::Strict };
        let options = Options { mode, preempt_timeout: ms(preempt), ..options };
        let delays = stuck.map_or(Delays::Measured, |time| Delays::Stuck(ms(time)));
        let habit = |(kind, time)| match kind {
            0 => Habit::Busy { threads: 1 + time as u32 % 3 },
            1 => Habit::Bursts { work: ms(1 + time % 60), pause: ms(1 + time % 200) },
            2 => Habit::Batches { length: ms(time) },
            _ => Habit::Later { begins: ms(time) },
        };
        let clients = clients.into_iter().map(|(share, kind)| (share, habit(kind)));
        let longest = longest_pause(options, delays, seed, clients);
        prop_assert!(longest <= LONGEST, "{:?}", longest);
    }
}
