//! Managers that are killed, devices that are, and what the next manager finds.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Home, Manager, TYPE, lives, signal, wait_until};

fn kill(mut manager: Manager) {
    manager.process.kill().unwrap();
    manager.process.wait().unwrap();
}

fn pid_of(shown: &Value) -> u64 {
    shown["pid"].as_u64().unwrap_or_else(|| panic!("{shown}"))
}

#[test]
fn a_device_outlives_its_manager_and_is_found_by_the_next() {
    let home = Home::new();
    let manager = home.serve();
    let [kept, gone] = ["kept", "gone"].map(|name| home.ok(&["define", TYPE, "--name", name, "--start"]));
    let transient = home.ok(&["create", TYPE, "--start"]);
    let pids = [&kept, &transient].map(|uuid| pid_of(&home.show(uuid)));
    kill(manager);
    // One of them ends while nobody looks.
    signal(pid_of_record(&home, &gone), "-9");
    wait_until("it ends", || !lives(pid_of_record(&home, &gone)));
    let _manager = home.serve();
    assert_eq!([&kept, &transient].map(|uuid| pid_of(&home.show(uuid))), pids);
    assert_eq!(home.state(&kept), "running");
    UnixStream::connect(home.device(&kept).join("gpu.sock")).unwrap();
    // What was to run runs again.
    wait_until("it is started again", || home.state(&gone) == "running");
    for uuid in [&kept, &gone, &transient] {
        home.ok(&["stop", uuid]);
    }
    assert!(pids.iter().all(|pid| !lives(*pid)) && home.devices().is_empty());
    assert_eq!(home.seen(&transient), Value::Null);
}

fn pid_of_record(home: &Home, uuid: &str) -> u64 {
    let record: Value = serde_json::from_slice(&fs::read(home.device(uuid).join("record.json")).unwrap()).unwrap();
    record["process"]["pid"].as_u64().unwrap_or_else(|| panic!("{record}"))
}

#[test]
fn a_device_that_dies_is_said_to_have_and_comes_back() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--start", "--display", "web=127.0.0.1:0"]);
    let first = pid_of(&home.show(&uuid));
    // Viewer and launcher are below it, and must not stay behind.
    assert!(home.devices().contains(&(first as u32)));
    signal(first, "-6");
    let mut told = String::new();
    wait_until("it is another", || {
        let shown = home.show(&uuid);
        told.push_str(&shown.to_string());
        shown["state"] == "running" && shown["pid"] != first
    });
    assert!(told.contains("signal 6"), "{told}");
    assert_eq!(home.show(&uuid)["crashes"], 1);
    home.ok(&["stop", &uuid]);
    assert!(home.devices().is_empty());
}

#[test]
fn a_program_that_is_no_device_fails_with_its_own_words() {
    let home = Home::new();
    fs::write(
        home.config().join("serve.toml"),
        "users = \"none\"\ndevice = [\"/bin/sh\", \"-c\", \"echo no library >&2; exit 3\"]\n",
    )
    .unwrap();
    let _manager = home.serve();
    let uuid = home.ok(&["define", TYPE]);
    let told = home.fails(&["start", &uuid]);
    assert!(told.contains("exit code 3"), "{told}");
    assert!(home.ok(&["log", &uuid]).contains("no library"));
    home.ok(&["stop", &uuid]);
}

#[test]
fn whatever_a_record_says_nobody_elses_process_is_touched() {
    let home = Home::new();
    let manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--start"]);
    home.ok(&["stop", &uuid]);
    let folder = home.device(&uuid);
    let path = folder.join("record.json");
    home.ok(&["start", &uuid]);
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    home.ok(&["stop", &uuid]);
    kill(manager);
    let mut innocent = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let with = |pointer: &str, value: Value| {
        let mut record = good.clone();
        *record.pointer_mut(pointer).unwrap() = value;
        record.to_string()
    };
    let half = good.to_string();
    for (text, what) in [
        (with("/process/pid", innocent.id().into()), "another process has its number"),
        (with("/process/pid", 4_194_303.into()), "nobody has its number"),
        (with("/process/pid", 0.into()), "no process has such a number"),
        (with("/process/pid", u32::MAX.into()), "nor such a number"),
        (with("/process/pid", 1.into()), "the first of all"),
        (with("/process/boot_id", json!("another")), "of another boot"),
        (with("/process", Value::Null), "no process was started yet"),
        (with("/goal", json!("stop")), "it was to stop"),
        (with("/version", 99.into()), "of a later version"),
        (half[..half.len() / 2].to_owned(), "half of it"),
        (String::new(), "nothing"),
        ("\u{0}\u{1}\u{2}".to_owned(), "garbage"),
        (with("/definition/uuid", json!("11111111-2222-4333-8444-555555555555")), "of another vGPU"),
    ] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, &text).unwrap();
        let manager = home.serve();
        assert!(innocent.try_wait().unwrap().is_none(), "{what}");
        // Whatever it was, from here on it is as any other.
        home.ok(&["start", &uuid]);
        assert_eq!(home.state(&uuid), "running", "{what}");
        home.ok(&["stop", &uuid]);
        assert_eq!(home.state(&uuid), "defined", "{what}");
        assert!(home.devices().is_empty(), "{what}");
        kill(manager);
    }
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn what_a_device_left_behind_is_ended_by_the_next_manager_and_others_of_its_number_are_not() {
    let home = Home::new();
    let manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--start"]);
    let path = home.device(&uuid).join("record.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    home.ok(&["stop", &uuid]);
    kill(manager);
    for (mark, ours) in [(uuid.as_str(), true), ("11111111-2222-4333-8444-555555555555", false)] {
        // A session whose leader has ended, and one that it started.
        let mut leader = Command::new("setsid");
        leader.args(["--wait", "sh", "-c", "sleep 1000 >&- & echo $$ $!; read word"]).env("BEAMSPLIT_VGPU", mark);
        let mut leader = leader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(leader.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pids: Vec<u64> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        let stat = fs::read_to_string(format!("/proc/{}/stat", pids[0])).unwrap();
        let start_time: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
        record["process"]["pid"] = pids[0].into();
        record["process"]["start_time"] = start_time.into();
        fs::create_dir_all(home.device(&uuid)).unwrap();
        fs::write(&path, record.to_string()).unwrap();
        drop(leader.stdin.take());
        leader.wait().unwrap();

        let manager = home.serve();
        // As any that ended by itself: it is started again.
        wait_until("it runs again", || home.show(&uuid)["state"] == "running" && home.show(&uuid)["crashes"] == 1);
        assert_eq!(lives(pids[1]), !ours);
        home.ok(&["stop", &uuid]);
        kill(manager);
        if !ours {
            signal(pids[1], "-9");
        }
    }
}

#[test]
fn definitions_that_cannot_be_read_are_seen_and_left_as_they_are() {
    let home = Home::new();
    let manager = home.serve();
    let good = home.ok(&["define", TYPE, "--name", "desk"]);
    drop(manager);
    let vgpus = home.config().join("vgpus");
    let broken = "11111111-2222-4333-8444-555555555555";
    let path = vgpus.join(format!("{broken}.toml"));
    for (text, named) in [
        ("", "line 1"),
        ("uuid = \"x\"", "line 1"),
        ("colour = 3", "line 1"),
        ("\u{0}", "line 1"),
        (&format!("uuid = \"{good}\"\ntype = \"{TYPE}\"\n"), "speaks of"),
    ] {
        fs::write(&path, text).unwrap();
        fs::write(vgpus.join("notes"), "x").unwrap();
        let _manager = home.serve();
        assert_eq!(home.state(&good), "defined");
        let seen = home.seen(broken);
        assert!(seen.to_string().contains(named), "{text:?}: {seen}");
        assert!(home.run(&["start", broken]).status.code() == Some(1));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_manager_that_is_killed_at_any_moment_loses_nothing() {
    // A moment for each round, in microseconds after the command was given: from before it arrives until after it is done.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let home = Home::new();
    let mut manager = home.serve();
    let uuids: Vec<String> = (0..3).map(|number| home.ok(&["define", TYPE, "--name", &format!("v{number}")])).collect();
    for round in 0..40 {
        let uuid = &uuids[random(3) as usize];
        let name = format!("v{round}x");
        let words: Vec<&str> = match random(6) {
            0 | 1 => vec!["start", uuid],
            2 | 3 => vec!["stop", uuid],
            4 => vec!["modify", uuid, "--name", &name],
            _ => vec!["create", TYPE, "--start"],
        };
        let mut command = Command::new(support::PROGRAM)
            .args(&words)
            .arg("--runtime-dir")
            .arg(home.runtime())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random(40_000)));
        kill(manager);
        command.wait().unwrap();
        manager = home.serve();
        let all = home.settled();
        for uuid in &uuids {
            assert!(
                all.iter().any(|vgpu| vgpu["uuid"] == uuid.as_str() && vgpu["persistent"] == true),
                "round {round}: {words:?}"
            );
        }
    }
    let all = home.json(&["list"]);
    for vgpu in all["vgpus"].as_array().unwrap() {
        home.ok(&["stop", vgpu["uuid"].as_str().unwrap()]);
    }
    assert!(home.devices().is_empty());
}
