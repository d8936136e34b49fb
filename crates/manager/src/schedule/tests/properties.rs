//! What is true whatever clients do.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{Doing, Mode, Options, Policy, Quantum, Share};
use super::machine::{BOTH, FREEZE, Habit, Machine, ms};
use crate::profile::Priority;

fn habits() -> impl Strategy<Value = Habit> {
    prop_oneof![
        (1u32..4).prop_map(|threads| Habit::Busy { threads }),
        (1u64..60, 1u64..200).prop_map(|(work, pause)| Habit::Bursts { work: ms(work), pause: ms(pause) }),
        (1u64..3000).prop_map(|length| Habit::Batches { length: ms(length) }),
        Just(Habit::Still),
        (0u64..2000).prop_map(|begins| Habit::Later { begins: ms(begins) }),
    ]
}

pub fn shares() -> impl Strategy<Value = Share> {
    let priorities = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    (1u32..100, priorities, any::<bool>()).prop_map(|(weight, priority, gate)| Share {
        weight,
        priority,
        grips: if gate { BOTH } else { FREEZE },
    })
}

pub fn options() -> impl Strategy<Value = Options> {
    let policies = prop_oneof![Just(Policy::BestEffort), Just(Policy::EqualShare), Just(Policy::FixedShare)];
    (policies, 1u32..31, 0u32..200).prop_map(|(policy, quantum, capacity)| Options {
        policy,
        quantum: Quantum::milliseconds(quantum).expect("a quantum"),
        capacity,
        ..Options::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn never_two_at_a_time_nobody_starves_and_debts_are_bounded(
        options in options(),
        clients in prop::collection::vec((shares(), habits()), 1..12),
        deaths in prop::collection::vec((0u64..2000, 0usize..12), 0..6),
        seed in any::<u64>(),
    ) {
        let mut machine = Machine::new(options).chance(seed);
        for (share, habit) in &clients {
            machine.add_as(*share, *habit);
        }
        let mut deaths = deaths;
        deaths.sort();
        for (at, who) in deaths {
            machine.run(ms(at).saturating_sub(machine.now));
            let key = (who % clients.len()) as u32;
            let alive = machine.clients[&key].alive;
            machine.set_alive(key, !alive);
        }
        machine.run(ms(2500).saturating_sub(machine.now));
        prop_assert_eq!(machine.together, Duration::ZERO, "Two had their turn at a time");

        // A window, and what late stops and those who begin in it add.
        let window = ms(100).max(machine.schedule.quantum() * 6);
        let bound = window * 2;
        for (key, client) in &machine.clients {
            prop_assert!(client.longest_wait <= bound, "{key} stood still for {:?}", client.longest_wait);
            let account = machine.account(*key);
            // Ten windows of its share, and what its last moments added.
            prop_assert!(account.debt <= window * 11, "{key} owes {:?}", account.debt);
            prop_assert!(account.doing != Doing::Held);
        }
    }

    #[test]
    fn batches_of_any_length_leave_the_others_their_share(
        lengths in prop::collection::vec(1u64..5000, 1..4),
        seed in any::<u64>(),
    ) {
        let mut machine = Machine::new(Options { mode: Mode::Batch, ..Options::default() }).chance(seed);
        let share = Share { weight: 1, priority: Priority::Normal, grips: BOTH };
        for length in &lengths {
            machine.add_as(share, Habit::Batches { length: ms(*length) });
        }
        machine.add_as(share, Habit::Busy { threads: 1 });
        machine.run(ms(2000));
        let uses = machine.uses(ms(8000));
        let weights = vec![1; uses.len()];
        prop_assert!(super::machine::worst(&uses, &weights) <= 0.08, "{uses:?}");
    }

    #[test]
    fn any_facts_in_any_order_bring_no_panic(
        options in options(),
        looks in prop::collection::vec(
            (0u32..4, any::<bool>(), any::<u64>(), any::<bool>(), any::<Option<bool>>(), any::<Option<u64>>(), any::<u32>()),
            0..200,
        ),
    ) {
        let mut schedule = super::super::Schedule::new(options);
        for key in 0..4 {
            schedule.add(key, Share { weight: key, priority: Priority::Normal, grips: BOTH });
        }
        for (key, alive, used, stopped, pending, progress, now) in looks {
            let used = Duration::from_nanos(used);
            let measured = super::super::Measured { alive, used, stopped, runnable: now % 3 == 0, pending, progress };
            let step = schedule.tick(Duration::from_micros(now.into()), &[(key, measured)]);
            prop_assert!(step.next.is_none_or(|next| next > Duration::ZERO));
            prop_assert!(schedule.accounts().filter(|(_, account)| account.doing == Doing::Running).count() <= 1);
        }
    }
}
