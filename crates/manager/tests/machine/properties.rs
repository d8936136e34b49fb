//! Random lives: whatever happens in whatever order, no memory is given twice, nothing that was promised is lost, and everything
//! that was begun comes to an end.

use std::time::Duration;

use manager::machine::Ending;
use manager::plan::{Declared, Plan, Wanted, Wish};
use manager::record::Held;
use manager::vgpu::Start;
use manager::{Definition, Event, GpuId, State};
use proptest::prelude::*;

use crate::world::{KINDS, MEMORY, World, definition, uuid};

/// How many vGPUs a random life is about.
const VGPUS: u32 = 8;

#[derive(Debug, Clone)]
enum Happening {
    Create(Definition, bool),
    Define(Definition),
    Modify(Definition),
    Undefine(u32),
    Start(u32),
    Stop(u32),
    Answers(u32),
    Ends(u32),
    Leave,
    Hangs(u32),
    Pass(u64),
    DiskFull(bool),
    SpawnsFail(bool),
    Stuck(bool),
    Take,
    Give,
    ManagerDies,
    /// After so many things that it does from now on.
    ManagerWillDie(u32),
    /// A word about a process that is long gone.
    Stale(u32),
}

fn definitions() -> impl Strategy<Value = Definition> {
    (0..VGPUS, 0..KINDS.len(), any::<bool>(), any::<bool>()).prop_map(|(number, kind, auto, named)| Definition {
        start: if auto { Start::Auto } else { Start::Manual },
        name: named.then(|| format!("name {}", number / 2)),
        ..definition(number, KINDS[kind])
    })
}

fn happenings() -> impl Strategy<Value = Happening> {
    let one = 0..VGPUS;
    prop_oneof![
        2 => (definitions(), any::<bool>()).prop_map(|(definition, start)| Happening::Create(definition, start)),
        3 => definitions().prop_map(Happening::Define),
        2 => definitions().prop_map(Happening::Modify),
        1 => one.clone().prop_map(Happening::Undefine),
        5 => one.clone().prop_map(Happening::Start),
        3 => one.clone().prop_map(Happening::Stop),
        5 => one.clone().prop_map(Happening::Answers),
        3 => one.clone().prop_map(Happening::Ends),
        2 => Just(Happening::Leave),
        1 => one.clone().prop_map(Happening::Hangs),
        4 => (1..40_000_u64).prop_map(Happening::Pass),
        1 => prop::bool::weighted(0.3).prop_map(Happening::DiskFull),
        1 => prop::bool::weighted(0.3).prop_map(Happening::SpawnsFail),
        1 => prop::bool::weighted(0.3).prop_map(Happening::Stuck),
        1 => Just(Happening::Take),
        1 => Just(Happening::Give),
        1 => Just(Happening::ManagerDies),
        1 => (0..12_u32).prop_map(Happening::ManagerWillDie),
        1 => one.prop_map(Happening::Stale),
    ]
}

fn happen(world: &mut World, happening: Happening) {
    match happening {
        Happening::Create(definition, start) => drop(world.tell(Event::Create { definition, start })),
        Happening::Define(definition) => drop(world.tell(Event::Define { definition })),
        Happening::Modify(definition) => drop(world.tell(Event::Modify { definition })),
        Happening::Undefine(number) => drop(world.tell(Event::Undefine { uuid: uuid(number) })),
        Happening::Start(number) => drop(world.tell(Event::Start { uuid: uuid(number) })),
        Happening::Stop(number) => drop(world.tell(Event::Stop { uuid: uuid(number) })),
        Happening::Answers(number) => world.answer(uuid(number)),
        Happening::Ends(number) => world.end(uuid(number), Ending::Signal(11)),
        Happening::Leave => world.leave(),
        Happening::Hangs(number) => {
            let held = Held { why: "It did not finish in time".to_owned(), last: Some("SUBMIT_3D".to_owned()) };
            drop(world.tell(Event::Hung { uuid: uuid(number), held }));
        }
        Happening::Pass(milliseconds) => world.advance(Duration::from_millis(milliseconds)),
        Happening::DiskFull(full) => world.disk_full = full,
        Happening::SpawnsFail(fail) => world.spawns_fail = fail,
        Happening::Stuck(stuck) => world.stuck = stuck,
        Happening::Take => drop(world.tell(Event::Take { gpu: GpuId::software(), by: "vm7".to_owned() })),
        Happening::Give => drop(world.tell(Event::Give { gpu: GpuId::software() })),
        Happening::ManagerDies => world.restart(),
        Happening::ManagerWillDie(later) => world.fuse = Some(later),
        Happening::Stale(number) => {
            drop(world.tell(Event::Exited { uuid: uuid(number), pid: Some(1), how: Ending::Code(0) }));
        }
    }
}

fn declared() -> impl Strategy<Value = Declared> {
    let wish = prop_oneof![Just(None), Just(Some(Wish::Running)), Just(Some(Wish::Stopped))];
    let wanted = (definitions(), wish).prop_map(|(definition, state)| Wanted { definition, state });
    (prop::collection::vec(wanted, 0..6), any::<bool>(), any::<bool>()).prop_map(|(mut vgpus, exact, restart)| {
        vgpus.sort_by_key(|wanted| wanted.definition.uuid);
        vgpus.dedup_by_key(|wanted| wanted.definition.uuid);
        let mut names = std::collections::BTreeSet::new();
        for wanted in &mut vgpus {
            wanted.definition.name.take_if(|name| !names.insert(name.clone()));
        }
        Declared { exact, restart, vgpus }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_memory_is_given_twice_and_nothing_promised_is_lost(life in prop::collection::vec(happenings(), 1..120)) {
        let mut world = World::new(MEMORY);
        for happening in life {
            happen(&mut world, happening);
            world.check();
        }
        world.settle();
        world.check();
        for status in world.machine.list() {
            prop_assert!(!matches!(status.state, State::Starting | State::Stopping), "{:?}", status);
        }
    }

    #[test]
    fn what_was_planned_and_done_is_as_declared(life in prop::collection::vec(happenings(), 0..40), declared in declared()) {
        let mut world = World::new(MEMORY);
        for happening in life {
            happen(&mut world, happening);
        }
        world.settle();
        world.tell(Event::Give { gpu: GpuId::software() });
        let plan = Plan::of(&world.machine, &declared);
        prop_assume!(plan.refusal().is_none());
        let before = world.view();
        prop_assert_eq!(Plan::of(&world.machine, &declared), plan.clone());
        prop_assert_eq!(world.view(), before, "Planning did something");
        for step in plan.steps {
            prop_assert!(world.tell(step.verb.event()).unwrap().is_ok(), "{:?}", step);
            world.settle();
            world.check();
        }
        let left = Plan::of(&world.machine, &declared);
        prop_assert!(left.is_empty(), "{}", left);
    }
}
