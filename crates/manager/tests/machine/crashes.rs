//! The manager dies: between any two things that it does, and with thousands of vGPUs.

use std::time::Duration;

use manager::machine::{Ending, Outcome, RESTARTS};
use manager::record::Held;
use manager::vgpu::Start;
use manager::{Definition, Event, State};

use crate::world::{KINDS, MEMORY, World, definition, process, uuid};

fn hung() -> Held {
    Held { why: "It did not finish in time".to_owned(), last: Some("SUBMIT_3D".to_owned()) }
}

/// One vGPU in every state that there is.
fn one_of_each() -> World {
    let mut world = World::new(64 << 30);
    for number in 0..=8 {
        let start = if number == 8 { Start::Auto } else { Start::Manual };
        world.tell(Event::Define { definition: Definition { start, ..definition(number, "small") } });
    }
    world.tell(Event::Create { definition: definition(9, "small"), start: false });
    world.tell(Event::Create { definition: definition(10, "small"), start: true });
    for number in 1..=7 {
        world.tell(Event::Start { uuid: uuid(number) });
    }
    // 0 rests, 1 starts, 2 runs, 3 is held, 4 stops, 5 failed for good, 6 waits for another try, 7 runs undefined.
    for number in [2, 3, 4, 6, 7, 10] {
        world.answer(uuid(number));
    }
    world.tell(Event::Hung { uuid: uuid(3), held: hung() });
    world.tell(Event::Stop { uuid: uuid(4) });
    world.end(uuid(5), Ending::Code(1));
    world.end(uuid(6), Ending::Signal(11));
    world.tell(Event::Undefine { uuid: uuid(7) });
    world.check();
    world
}

#[test]
fn a_manager_that_is_started_anew_knows_what_the_one_before_knew() {
    let mut world = one_of_each();
    let before = world.view();
    let states: Vec<String> = before.values().map(|status| status.state.to_string()).collect();
    assert_eq!(
        states,
        [
            "defined", "starting", "running", "held", "stopping", "failed", "failed", "running", "defined", "defined",
            "running"
        ]
    );
    for _ in 0..3 {
        world.restart();
        world.check();
        assert_eq!(world.view(), before);
    }
    world.settle();
    assert_eq!(world.state(1), Some(State::Running));
    assert_eq!(world.state(4), Some(State::Defined));
    assert_eq!(world.state(6), Some(State::Running), "It waited for another try");
}

#[test]
fn one_that_ended_while_no_manager_watched_is_started_again_as_if_one_had() {
    let mut world = one_of_each();
    let ended: Vec<u32> = world.devices.keys().copied().collect();
    for pid in ended {
        world.devices.remove(&pid);
    }
    world.restart();
    world.check();
    for number in [1, 2, 3, 6, 7, 10] {
        let status = world.machine.status(uuid(number)).unwrap();
        assert!(status.retry_ms.is_some(), "{status:?}");
    }
    assert_eq!(world.state(4), Some(State::Defined), "It was to end");
    world.settle();
    for number in [1, 2, 3, 6, 7, 10] {
        assert_eq!(world.state(number), Some(State::Running));
    }
}

/// Whatever is asked of a vGPU in whatever state, the manager dies before or after every single thing that follows.
#[test]
fn a_manager_that_dies_at_any_step_leaves_what_was_or_what_was_to_be() {
    type Verb = (&'static str, fn(u32) -> Event);
    let verbs: [Verb; 6] = [
        ("start", |n| Event::Start { uuid: uuid(n) }),
        ("stop", |n| Event::Stop { uuid: uuid(n) }),
        ("undefine", |n| Event::Undefine { uuid: uuid(n) }),
        ("define", |n| Event::Define { definition: definition(n, "large") }),
        ("modify", |n| Event::Modify { definition: definition(n, "large") }),
        ("create", |n| Event::Create { definition: definition(n, "small"), start: true }),
    ];
    let origin = one_of_each();
    let mut deaths = 0;
    for (name, verb) in verbs {
        for number in 0..=11 {
            for fuse in 0.. {
                let mut world = origin.clone();
                world.fuse = Some(fuse);
                if world.tell(verb(number)).is_some() {
                    break;
                }
                world.check();
                deaths += 1;
                // Asked again, it does what it was to do, and everything comes to its end.
                let again = world.tell(verb(number)).unwrap();
                world.check();
                world.settle();
                world.check();
                let mut straight = origin.clone();
                straight.tell(verb(number));
                straight.settle();
                // Whoever was not answered asks again; a stop that was under way is no start.
                let busy = again.as_ref().is_err_and(|refusal| refusal.code() == "busy");
                if !busy {
                    let state = |world: &World| world.state(number).map(|state| state.to_string());
                    assert_eq!(state(&world), state(&straight), "{name} {number}, dead after {fuse}");
                }
            }
        }
    }
    assert!(deaths > 60, "The manager died {deaths} times");
}

/// The same where nobody asks: a device answers, ends, hangs; time passes.
#[test]
fn a_manager_that_dies_over_news_sees_them_again() {
    let origin = one_of_each();
    let mut deaths = 0;
    for number in 0..=10 {
        for fuse in 0..8 {
            for news in 0..3 {
                let mut world = origin.clone();
                world.fuse = Some(fuse);
                match news {
                    0 => world.end(uuid(number), Ending::Signal(9)),
                    1 => drop(world.tell(Event::Hung { uuid: uuid(number), held: hung() })),
                    _ => world.advance(Duration::from_secs(31)),
                }
                deaths += world.deaths;
                world.check();
                world.settle();
                world.check();
                for lost in [0, 8, 9] {
                    assert_eq!(world.state(lost), Some(State::Defined));
                }
            }
        }
    }
    assert!(deaths > 50, "The manager died {deaths} times");
}

#[test]
fn a_device_that_was_started_and_not_written_down_yet_is_found_and_none_is_started_beside_it() {
    let mut world = World::new(MEMORY);
    world.tell(Event::Define { definition: definition(1, "small") });
    // Note, its answer, Spawn: dead before the process is noted.
    world.fuse = Some(3);
    assert_eq!(world.tell(Event::Start { uuid: uuid(1) }), None);
    let pid = world.device_of(uuid(1)).unwrap();
    let status = world.machine.status(uuid(1)).unwrap();
    assert_eq!((status.state, status.process), (State::Starting, Some(process(pid))));
    world.settle();
    assert_eq!(world.device_of(uuid(1)), Some(pid));
}

#[test]
fn one_that_ends_again_and_again_is_given_up_and_its_memory_given_on() {
    let mut world = World::new(MEMORY);
    world.tell(Event::Create { definition: definition(1, "large"), start: true });
    world.answer(uuid(1));
    let mut pauses = Vec::new();
    while let Some(pid) = world.device_of(uuid(1)) {
        world.end(uuid(1), Ending::Signal(11));
        let status = world.machine.status(uuid(1)).unwrap();
        pauses.extend(status.retry_ms);
        world.advance(Duration::from_secs(60));
        world.answer(uuid(1));
        assert_ne!(world.device_of(uuid(1)), Some(pid));
    }
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 16000]);
    let status = world.machine.status(uuid(1)).unwrap();
    assert_eq!((status.crashes, status.grant, status.retry_ms), (RESTARTS + 1, None, None));
    let State::Failed { why } = status.state else { panic!("{:?}", status.state) };
    assert!(why.contains("signal 11") && why.contains("not tried again"), "{why}");
    assert_eq!(world.tell(Event::Start { uuid: uuid(1) }), Some(Ok(Outcome::Changed)));
    world.settle();
    assert_eq!(world.state(1), Some(State::Running));
}

#[test]
fn one_that_ran_for_a_while_starts_over_counting() {
    let mut world = World::new(MEMORY);
    world.tell(Event::Create { definition: definition(1, "large"), start: true });
    for _ in 0..20 {
        world.answer(uuid(1));
        world.advance(Duration::from_secs(61));
        world.end(uuid(1), Ending::Signal(11));
        world.advance(Duration::from_secs(2));
    }
    assert_eq!(world.machine.status(uuid(1)).unwrap().crashes, 1);
}

#[test]
fn one_that_cannot_be_killed_keeps_its_memory_and_is_killed_again_and_again() {
    let mut world = World::new(2 << 30);
    world.tell(Event::Create { definition: definition(1, "large"), start: true });
    world.answer(uuid(1));
    world.stuck = true;
    world.tell(Event::Stop { uuid: uuid(1) });
    for _ in 0..100 {
        world.advance(Duration::from_secs(10));
        world.check();
        let refusal =
            world.tell(Event::Create { definition: definition(2, "large"), start: true }).unwrap().unwrap_err();
        assert!(refusal.to_string().contains(&uuid(1).to_string()), "{refusal}");
    }
    world.stuck = false;
    world.advance(Duration::from_secs(10));
    assert_eq!(world.state(1), None);
    world.tell(Event::Create { definition: definition(2, "large"), start: true }).unwrap().unwrap();
}

#[test]
fn what_comes_up_with_the_host_does_and_a_failure_to_is_seen() {
    let mut world = World::new(MEMORY);
    for number in 1..=3 {
        world.tell(Event::Define { definition: Definition { start: Start::Auto, ..definition(number, "large") } });
    }
    world.tell(Event::Define { definition: definition(4, "small") });
    // The host was switched off and on: no process, no record; and a file that somebody has broken.
    world.records.clear();
    world.devices.clear();
    let mut machine = manager::Machine::new(crate::world::catalogue(MEMORY));
    for (uuid, text) in &world.files {
        let definition = Definition::parse(text).map_err(|error| error.to_string());
        let _ = machine.step(world.now, Event::Loaded { uuid: *uuid, definition });
    }
    let broken = Event::Loaded { uuid: uuid(5), definition: Err("line 3: what is that".to_owned()) };
    let _ = machine.step(world.now, broken);
    let begun = machine.step(world.now, Event::Begin { autostart: true });
    assert!(begun.actions.len() >= 3);
    let states: Vec<String> = machine.list().map(|status| status.state.to_string()).collect();
    assert_eq!(states, ["starting", "starting", "failed", "defined", "failed"]);
    let State::Failed { why } = machine.status(uuid(3)).unwrap().state else { panic!() };
    assert!(why.contains("0 left and 2G are needed"), "{why}");
    let State::Failed { why } = machine.status(uuid(5)).unwrap().state else { panic!() };
    assert!(why.contains("line 3"), "{why}");
    for event in [
        Event::Start { uuid: uuid(5) },
        Event::Define { definition: definition(5, "small") },
        Event::Modify { definition: definition(5, "small") },
        Event::Create { definition: definition(5, "small"), start: true },
    ] {
        let step = machine.step(world.now, event);
        assert_eq!(
            (step.reply.unwrap_err().code(), step.actions.len()),
            ("conflict", 0),
            "Its file is not to be touched"
        );
    }
}

#[test]
fn a_full_disk_refuses_and_leaves_everything_as_it_was() {
    let mut world = one_of_each();
    let before = world.view();
    world.disk_full = true;
    world.tell(Event::Define { definition: definition(20, "small") });
    world.tell(Event::Modify { definition: definition(0, "large") });
    world.tell(Event::Undefine { uuid: uuid(0) });
    world.tell(Event::Define { definition: definition(9, "small") });
    world.tell(Event::Create { definition: definition(21, "small"), start: false });
    assert!(world.unwritten);
    world.check();
    assert_eq!(world.view(), before);
    world.tell(Event::Start { uuid: uuid(0) });
    let State::Failed { why } = world.state(0).unwrap() else { panic!() };
    assert!(why.contains("No space left"), "{why}");
    assert_eq!(world.device_of(uuid(0)), None);
}

/// A host with thousands of vGPUs on which everything that can fail does, and the manager dies now and then.
#[test]
fn thousands_live_through_failures_of_everything() {
    const VGPUS: u32 = 2000;
    let mut world = World::new(500 << 30);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |below: u32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        u32::try_from(random >> 33).unwrap_or(0) % below
    };
    for number in 0..VGPUS {
        let start = if number % 3 == 0 { Start::Auto } else { Start::Manual };
        world
            .tell(Event::Define { definition: Definition { start, ..definition(number, KINDS[number as usize % 2]) } });
    }
    let mut started = 0;
    for round in 0..8000 {
        let number = next(VGPUS);
        match next(14) {
            0..=5 => {
                let reply = world.tell(Event::Start { uuid: uuid(number) });
                started += u32::from(reply == Some(Ok(Outcome::Changed)));
                if next(4) > 0 {
                    world.answer(uuid(number));
                }
            }
            6 => drop(world.tell(Event::Stop { uuid: uuid(number) })),
            7 => world.end(uuid(number), Ending::Signal(6)),
            8 => drop(world.tell(Event::Hung { uuid: uuid(number), held: hung() })),
            9 => world.leave(),
            10 => world.advance(Duration::from_millis(u64::from(next(5000)))),
            11 => (world.disk_full, world.spawns_fail) = (next(8) == 0, next(8) == 0),
            12 if next(40) == 0 => world.fuse = Some(next(20)),
            12 if next(100) == 0 => world.restart(),
            _ => drop(world.tell(Event::Tick)),
        }
        if round % 500 == 0 {
            world.check();
        }
    }
    world.settle();
    world.check();
    assert_eq!(world.machine.list().count(), VGPUS as usize);
    assert!(started > 500 && world.deaths > 10, "{started} were started, the manager died {} times", world.deaths);
    let running = world.machine.list().filter(|status| status.state == State::Running).count();
    assert_eq!(running + world.held.len(), world.devices.len());
}
