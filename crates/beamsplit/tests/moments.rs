//! A manager that is killed at each moment of each transition, one after the other, and what the next one finds.
//!
//! `serve` counts its moments in programs that are built for tests (`serve/fuse.rs`): before and after all that it does, and in the
//! middle of each file. Not among these transitions is a vGPU's becoming `held`, which takes 3D that hangs.

#![allow(clippy::unwrap_used)]
#![cfg(debug_assertions)]

mod support;

use std::fs;
use std::process::Output;

use serde_json::{Value, json};
use support::{Home, TYPE, signal, wait_until};

/// More moments than any transition has.
const MOST: u32 = 100;

/// What is done to a vGPU, and what must be so whether it was done or not.
struct Transition {
    /// Makes the vGPU, with a manager that lives. Returns its UUID.
    prepare: fn(&Home) -> String,
    /// What is changed behind the back of managers.
    meanwhile: fn(&Home, &str),
    /// What is done by a manager that dies over it.
    act: fn(&Home, &str) -> Output,
    /// What the next manager must have: whether it was said to be done, and the vGPU as it is listed.
    check: fn(bool, &Value),
}

impl Transition {
    /// Kills the manager at each of its moments. Returns how many there were.
    fn at_each_moment(&self) -> u32 {
        let home = Home::new();
        let mut manager = home.serve();
        for moment in 0..MOST {
            let uuid = (self.prepare)(&home);
            drop(manager);
            (self.meanwhile)(&home, &uuid);
            let mut mortal = home.command().env("BEAMSPLIT_TEST_DIES_AT", moment.to_string()).spawn().unwrap();
            let mut died = || mortal.try_wait().unwrap().is_some();
            wait_until("the manager answers, or dies", || died() || home.run(&["list"]).status.success());
            let output = (self.act)(&home, &uuid);
            // Whoever is not told that it is done sees the manager die.
            let died = !output.status.success() || died();
            match died {
                true => wait_until("the manager dies", || mortal.try_wait().unwrap().is_some()),
                false => mortal.kill().unwrap(),
            }
            mortal.wait().unwrap();

            manager = home.serve();
            let all = home.settled();
            let seen = all.iter().find(|vgpu| vgpu["uuid"] == uuid.as_str()).cloned().unwrap_or(Value::Null);
            println!("Moment {moment}: died {died}, {}", seen["state"]);
            (self.check)(output.status.success(), &seen);
            for vgpu in all {
                let uuid = vgpu["uuid"].as_str().unwrap();
                home.ok(&["stop", uuid]);
                if vgpu["persistent"] == true {
                    home.ok(&["undefine", uuid]);
                }
            }
            assert_eq!(home.settled(), [] as [Value; 0]);
            assert!(home.devices().is_empty());
            let left = fs::read_dir(home.runtime()).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = left.filter(|name| !name.to_str().unwrap().starts_with("manager.")).collect();
            assert_eq!(left, ["begun"], "moment {moment}");
            if !died {
                return moment;
            }
        }
        panic!("There is no end of moments");
    }
}

fn nothing(_: &Home, _: &str) {}

fn defined(home: &Home) -> String {
    home.ok(&["define", TYPE, "--name", "old"])
}

fn running(home: &Home) -> String {
    home.ok(&["define", TYPE, "--start"])
}

fn was(done: bool, state: &Value, after: &str, before: &str) {
    assert!(state == after || (!done && state == before), "done: {done}, {state}");
}

#[test]
fn define() {
    const UUID: &str = "11111111-2222-4333-8444-555555555555";
    let moments = Transition {
        prepare: |_| UUID.to_owned(),
        meanwhile: nothing,
        act: |home, uuid| home.run(&["define", TYPE, "--uuid", uuid]),
        check: |done, seen| assert!(seen["state"] == "defined" || (!done && seen.is_null()), "{seen}"),
    };
    assert!(moments.at_each_moment() >= 4);
}

#[test]
fn modify() {
    let moments = Transition {
        prepare: defined,
        meanwhile: nothing,
        act: |home, uuid| home.run(&["modify", uuid, "--name", "new"]),
        check: |done, seen| was(done, &seen["name"], "new", "old"),
    };
    assert!(moments.at_each_moment() >= 4);
}

#[test]
fn undefine() {
    let moments = Transition {
        prepare: defined,
        meanwhile: nothing,
        act: |home, uuid| home.run(&["undefine", uuid]),
        check: |done, seen| assert!(seen.is_null() || (!done && seen["name"] == "old"), "{seen}"),
    };
    assert!(moments.at_each_moment() >= 4);
}

#[test]
fn start() {
    let moments = Transition {
        prepare: defined,
        meanwhile: nothing,
        act: |home, uuid| home.run(&["start", uuid]),
        check: |done, seen| was(done, &seen["state"], "running", "defined"),
    };
    assert!(moments.at_each_moment() >= 11);
}

#[test]
fn create_and_start() {
    const UUID: &str = "11111111-2222-4333-8444-555555555556";
    let moments = Transition {
        prepare: |_| UUID.to_owned(),
        meanwhile: nothing,
        act: |home, uuid| home.run(&["create", TYPE, "--uuid", uuid, "--start"]),
        check: |done, seen| assert!(seen["state"] == "running" || (!done && seen.is_null()), "{seen}"),
    };
    assert!(moments.at_each_moment() >= 11);
}

#[test]
fn stop() {
    let moments = Transition {
        prepare: running,
        meanwhile: nothing,
        act: |home, uuid| home.run(&["stop", uuid]),
        check: |done, seen| was(done, &seen["state"], "defined", "running"),
    };
    assert!(moments.at_each_moment() >= 8);
}

#[test]
fn stop_of_one_that_is_gone_then() {
    let moments = Transition {
        prepare: |home| home.ok(&["create", TYPE, "--start"]),
        meanwhile: nothing,
        act: |home, uuid| home.run(&["stop", uuid]),
        check: |done, seen| assert!(seen.is_null() || (!done && seen["state"] == "running"), "{seen}"),
    };
    assert!(moments.at_each_moment() >= 8);
}

#[test]
fn a_device_that_ends_by_itself() {
    let moments = Transition {
        prepare: running,
        meanwhile: nothing,
        act: |home, uuid| {
            let record: Value =
                serde_json::from_slice(&fs::read(home.device(uuid).join("record.json")).unwrap()).unwrap();
            let first = record["process"]["pid"].as_u64().unwrap();
            signal(first, "-9");
            let mut output = None;
            wait_until("it is another, or the manager is dead", || {
                let shown = home.run(&["show", uuid, "--json"]);
                let another = serde_json::from_slice::<Value>(&shown.stdout)
                    .is_ok_and(|shown| shown["state"] == "running" && shown["pid"] != first);
                let answers = shown.status.success();
                output = Some(shown);
                another || !answers
            });
            output.unwrap()
        },
        check: |_, seen| assert_eq!(seen["state"], "running"),
    };
    assert!(moments.at_each_moment() >= 15);
}

#[test]
fn one_that_is_held_is_adopted_and_released() {
    let moments = Transition {
        prepare: running,
        meanwhile: |home, uuid| {
            let path = home.device(uuid).join("record.json");
            let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            record["held"] = json!({ "why": "It hung", "last": null });
            fs::write(path, record.to_string()).unwrap();
        },
        act: |home, uuid| home.run(&["start", uuid]),
        check: |done, seen| was(done, &seen["state"], "running", "held"),
    };
    assert!(moments.at_each_moment() >= 6);
}

#[test]
fn a_device_that_left_others_behind_while_no_manager_ran() {
    let moments = Transition {
        prepare: |home| home.ok(&["define", TYPE, "--start", "--display", "web=127.0.0.1:0"]),
        meanwhile: |home, uuid| {
            let record: Value =
                serde_json::from_slice(&fs::read(home.device(uuid).join("record.json")).unwrap()).unwrap();
            signal(record["process"]["pid"].as_u64().unwrap(), "-9");
        },
        act: |home, uuid| {
            let mut output = None;
            wait_until("it runs again, or the manager is dead", || {
                let shown = home.run(&["show", uuid, "--json"]);
                let runs = serde_json::from_slice::<Value>(&shown.stdout)
                    .is_ok_and(|shown| shown["state"] == "running" && shown["crashes"] == 1);
                let answers = shown.status.success();
                output = Some(shown);
                runs || !answers
            });
            output.unwrap()
        },
        check: |_, seen| assert_eq!(seen["state"], "running"),
    };
    assert!(moments.at_each_moment() >= 10);
}
