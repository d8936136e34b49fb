//! What every event means in every state.

use std::time::Duration;

use manager::machine::{Ending, KILL_PATIENCE, START_PATIENCE};
use manager::record::{Goal, Held, Record, VERSION};
use manager::{Definition, Event, Machine, State};

use crate::world::{World, catalogue, definition, process, uuid};

/// The vGPU of each table.
const ONE: u32 = 1;
/// The process of the device that runs, where one does.
const PID: u32 = 101;

fn defined() -> World {
    let mut world = World::new(4 << 30);
    world.tell(Event::Define { definition: definition(ONE, "small") });
    world
}

fn started() -> World {
    let mut world = defined();
    world.tell(Event::Start { uuid: uuid(ONE) });
    world
}

fn running() -> World {
    let mut world = started();
    world.answer(uuid(ONE));
    world
}

fn then(mut world: World, event: Event) -> World {
    world.tell(event);
    world
}

fn held() -> Held {
    Held { why: "It hung".to_owned(), last: None }
}

fn states() -> Vec<(&'static str, World)> {
    let transient = |start| then(World::new(4 << 30), Event::Create { definition: definition(ONE, "small"), start });
    let mut failed = started();
    failed.end(uuid(ONE), Ending::Code(1));
    let mut trying = running();
    trying.end(uuid(ONE), Ending::Signal(11));
    let mut own = transient(true);
    own.answer(uuid(ONE));
    let broken = Event::Loaded { uuid: uuid(ONE), definition: Err("line 1".to_owned()) };
    vec![
        ("absent", World::new(4 << 30)),
        ("defined", defined()),
        ("broken", then(World::new(4 << 30), broken)),
        ("failed", failed),
        ("trying", trying),
        ("starting", started()),
        ("running", running()),
        ("held", then(running(), Event::Hung { uuid: uuid(ONE), held: held() })),
        ("stopping", then(running(), Event::Stop { uuid: uuid(ONE) })),
        ("transient", transient(false)),
        ("t-running", own),
    ]
}

fn record(goal: Goal) -> Record {
    let grant = running().machine.status(uuid(ONE)).unwrap().grant.unwrap();
    Record {
        version: VERSION,
        definition: grant.definition,
        profile: Some(grant.profile),
        process: Some(process(PID)),
        goal,
        held: None,
        failed: None,
        crashes: 0,
    }
}

fn events() -> Vec<(&'static str, Event)> {
    let uuid = uuid(ONE);
    let same = definition(ONE, "small");
    let other = definition(ONE, "large");
    vec![
        ("create", Event::Create { definition: same.clone(), start: false }),
        ("create --start", Event::Create { definition: same.clone(), start: true }),
        ("create other", Event::Create { definition: other.clone(), start: false }),
        ("define", Event::Define { definition: same.clone() }),
        ("define other", Event::Define { definition: other.clone() }),
        ("define nonsense", Event::Define { definition: definition(ONE, "none") }),
        ("modify", Event::Modify { definition: same.clone() }),
        ("modify other", Event::Modify { definition: other.clone() }),
        ("undefine", Event::Undefine { uuid }),
        ("start", Event::Start { uuid }),
        ("stop", Event::Stop { uuid }),
        ("loaded other", Event::Loaded { uuid, definition: Ok(other) }),
        ("loaded broken", Event::Loaded { uuid, definition: Err("line 1".to_owned()) }),
        ("unloaded", Event::Unloaded { uuid }),
        ("adopted", Event::Adopted { record: record(Goal::Run), process: process(PID), ready: true }),
        ("spawned", Event::Spawned { uuid, process: process(PID) }),
        ("spawn failed", Event::SpawnFailed { uuid, why: "No".to_owned() }),
        ("ready", Event::Ready { uuid }),
        ("exited", Event::Exited { uuid, pid: Some(PID), how: Ending::Signal(9) }),
        ("exited, no process", Event::Exited { uuid, pid: None, how: Ending::Unseen }),
        ("exited, another", Event::Exited { uuid, pid: Some(1), how: Ending::Code(0) }),
        ("hung", Event::Hung { uuid, held: held() }),
        ("saved", Event::Saved { uuid }),
        ("not saved", Event::NotSaved { uuid, why: "No".to_owned() }),
        ("late tick", Event::Tick),
    ]
}

/// What of a vGPU can be seen, in a word.
fn seen(machine: &Machine) -> String {
    let Some(status) = machine.status(uuid(ONE)) else { return "absent".to_owned() };
    let word = match status.state {
        State::Failed { .. } if status.retry_ms.is_some() => "trying".to_owned(),
        State::Failed { .. } if status.kind.is_none() => "broken".to_owned(),
        state => state.to_string(),
    };
    match (status.persistent, word.as_str()) {
        (true, _) => word,
        (false, "defined") => "transient".to_owned(),
        (false, _) => format!("t-{word}"),
    }
}

fn table() -> String {
    let mut text = format!("{:19}", "event");
    let states = states();
    for (name, world) in &states {
        assert_eq!(seen(&world.machine), *name, "The table begins with another state than it says");
        text.push_str(&format!("{name:>11}"));
    }
    text.push('\n');
    for (name, event) in events() {
        let mut line = format!("{name:19}");
        for (_, world) in &states {
            let mut world = world.clone();
            let before = (seen(&world.machine), world.view());
            let now = world.now + START_PATIENCE.max(KILL_PATIENCE);
            // A verb with all that it does; of news what follows at once.
            let cell = match &event {
                Event::Create { .. }
                | Event::Define { .. }
                | Event::Modify { .. }
                | Event::Undefine { .. }
                | Event::Start { .. }
                | Event::Stop { .. } => match world.tell(event.clone()).unwrap() {
                    Err(refusal) => format!("!{}", refusal.code()),
                    Ok(_) => String::new(),
                },
                news => {
                    let late = matches!(news, Event::Tick);
                    let _ = world.machine.step(if late { now } else { world.now }, news.clone());
                    String::new()
                }
            };
            let after = (seen(&world.machine), world.view());
            let cell = match cell {
                refused if !refused.is_empty() => refused,
                _ if after == before => ".".to_owned(),
                _ if after.0 == before.0 => "changed".to_owned(),
                _ => after.0,
            };
            line.push_str(&format!("{cell:>11}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A dot: nothing happens. An exclamation mark: refused. Else the state that follows, or that something of it is another now.
const TABLE: &str = "\
event                   absent    defined     broken     failed     trying   starting    running       held   stopping  transient  t-running
create               transient  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict          .          .
create --start      t-starting  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict t-starting          .
create other         transient  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict
define                 defined          .  !conflict          .          .          .          .          .          .    defined    running
define other           defined  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict    defined    running
define nonsense       !invalid  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict  !conflict   !invalid   !invalid
modify              !not-found          .  !conflict          .          .          .          .          .          .  !conflict  !conflict
modify other        !not-found    changed  !conflict    changed    changed    changed    changed    changed    changed  !conflict  !conflict
undefine            !not-found     absent     absent     absent     absent t-starting  t-running     t-held t-stopping     absent  !conflict
start               !not-found   starting  !conflict   starting   starting          .          .    running      !busy t-starting          .
stop                !not-found          .          .    defined    defined   stopping   stopping   stopping          .     absent t-stopping
loaded other           defined    changed    defined    changed    changed    changed    changed    changed    changed    defined    running
loaded broken           broken     broken          .     broken    changed    changed    changed    changed    changed     broken    running
unloaded                     .     absent     absent     absent     absent t-starting  t-running     t-held t-stopping          .          .
adopted              t-running    running    running          .          .          .          .          .          .  t-running          .
spawned                      .          .          .          .          .          .          .          .          .          .          .
spawn failed                 .          .          .          .          .          .          .          .          .          .          .
ready                        .          .          .          .          .    running          .          .          .          .          .
exited                       .          .          .          .          .     failed     trying     trying    defined          .   t-trying
exited, no process           .          .          .          .          .     failed     trying     trying    defined          .   t-trying
exited, another              .          .          .          .          .          .          .          .          .          .          .
hung                         .          .          .          .          .          .       held          .          .          .     t-held
saved                        .          .          .          .          .          .          .          .          .          .          .
not saved                    .          .          .          .          .          .          .          .          .          .          .
late tick                    .          .          .          .   starting   stopping          .          .          .          .          .
";

#[test]
fn every_event_has_a_meaning_in_every_state() {
    let table = table();
    assert!(table == TABLE, "It is now:\n{table}");
}

#[test]
fn before_it_begins_a_machine_hears_what_there_is_and_does_nothing_that_is_asked() {
    let mut machine = Machine::new(catalogue(1 << 30));
    let step = machine.step(Duration::ZERO, Event::Start { uuid: uuid(ONE) });
    assert_eq!(step.reply.unwrap_err().code(), "busy");
    let loaded = Event::Loaded { uuid: uuid(ONE), definition: Ok(definition(ONE, "small")) };
    let _ = machine.step(Duration::ZERO, loaded);
    let _ = machine.step(Duration::ZERO, Event::Begin { autostart: false });
    let step = machine.step(Duration::ZERO, Event::Start { uuid: uuid(ONE) });
    assert!(step.reply.is_ok() && !step.actions.is_empty());
}

#[test]
fn names_find_one_and_are_had_by_one() {
    let mut world = defined();
    let named = |number, name: &str| Definition { name: Some(name.to_owned()), ..definition(number, "small") };
    world.tell(Event::Define { definition: named(2, "desk") }).unwrap().unwrap();
    assert_eq!(world.machine.find("desk"), Ok(uuid(2)));
    assert_eq!(world.machine.find(&uuid(ONE).to_string()), Ok(uuid(ONE)));
    assert_eq!(world.machine.find("chair").unwrap_err().code(), "not-found");
    assert_eq!(world.machine.find(&uuid(9).to_string()).unwrap_err().code(), "not-found");
    let refusal = world.tell(Event::Define { definition: named(3, "desk") }).unwrap().unwrap_err();
    assert!(refusal.to_string().contains(&uuid(2).to_string()), "{refusal}");
    // Two files that somebody wrote by hand.
    world.tell(Event::Loaded { uuid: uuid(3), definition: Ok(named(3, "desk")) });
    assert_eq!(world.machine.find("desk").unwrap_err().code(), "conflict");
}

#[test]
fn a_file_that_is_named_after_another_vgpu_is_no_definition_of_either() {
    let mut world = defined();
    world.tell(Event::Loaded { uuid: uuid(2), definition: Ok(definition(ONE, "large")) });
    let State::Failed { why } = world.state(2).unwrap() else { panic!() };
    assert!(why.contains(&uuid(ONE).to_string()), "{why}");
    assert_eq!(world.machine.definition(uuid(ONE)), Some(&definition(ONE, "small")));
}
