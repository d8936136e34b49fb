//! Full disks, many vGPUs, files that change under the manager.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::Command;

use support::{Home, TYPE, wait_until};

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let home = Home::new();
    // Four pages for definitions, in a mount that nobody else sees.
    let config = home.config();
    let mut words = vec!["--mount".to_owned()];
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0).unwrap() {
        words.push("--map-root-user".to_owned());
    }
    let script = "mkdir -p \"$0/vgpus\"; mount -t tmpfs -o size=16k tmpfs \"$0/vgpus\"; exec \"$@\"";
    words.extend(["sh".to_owned(), "-ec".to_owned(), script.to_owned(), config.display().to_string()]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let manager = home.serve_by(home.command_by("unshare", &words));
    let inside = format!("/proc/{}/root{}/vgpus", manager.process.id(), config.display());
    let mut defined = Vec::new();
    let told = loop {
        let output = home.run(&["define", TYPE]);
        if !output.status.success() {
            break String::from_utf8(output.stderr).unwrap();
        }
        defined.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        assert!(defined.len() < 100, "it is never full");
    };
    assert!(told.contains("No space left"), "{told}");
    assert_eq!(home.json(&["list"])["vgpus"].as_array().unwrap().len(), defined.len());
    let before = fs::read_to_string(format!("{inside}/{}.toml", defined[0])).unwrap();
    assert!(home.fails(&["modify", &defined[0], "--name", "other"]).contains("No space left"));
    assert_eq!(fs::read_to_string(format!("{inside}/{}.toml", defined[0])).unwrap(), before);
    assert_eq!(home.show(&defined[0])["name"], serde_json::Value::Null);
    let names: Vec<_> = fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), defined.len(), "{names:?}");
    // With room again all goes on.
    home.ok(&["undefine", &defined[1]]);
    home.ok(&["modify", &defined[0], "--name", "other"]);
    home.ok(&["start", "other"]);
    home.ok(&["stop", "other"]);
}

#[test]
fn a_thousand_are_listed() {
    let home = Home::new();
    let vgpus = home.config().join("vgpus");
    fs::create_dir_all(&vgpus).unwrap();
    for number in 0..1000u32 {
        let uuid = format!("{number:08x}-2222-4333-8444-555555555555");
        fs::write(
            vgpus.join(format!("{uuid}.toml")),
            format!("uuid = \"{uuid}\"\ntype = \"{TYPE}\"\nname = \"n{number}\"\n"),
        )
        .unwrap();
    }
    let _manager = home.serve();
    let begin = std::time::Instant::now();
    let table = home.ok(&["list"]);
    println!("list of 1000: {:?}", begin.elapsed());
    assert_eq!(table.lines().count(), 1001);
    assert_eq!(home.show("n999")["uuid"], "000003e7-2222-4333-8444-555555555555");
}

#[test]
fn twenty_come_and_go_and_leave_nothing() {
    let home = Home::new();
    let manager = home.serve();
    let held = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", manager.process.id())).unwrap().flatten();
        let names = fds.filter_map(|entry| entry.path().read_link().ok());
        names.filter(|name| name.to_string_lossy().contains("pidfd")).count()
    };
    let before = held();
    for _ in 0..20 {
        let begin = std::time::Instant::now();
        let uuid = home.ok(&["create", TYPE, "--start"]);
        let started = begin.elapsed();
        home.ok(&["stop", &uuid]);
        println!("create and start {started:?}, all {:?}", begin.elapsed());
        assert!(!home.device(&uuid).exists());
    }
    assert!(home.devices().is_empty());
    assert_eq!(home.json(&["list"])["vgpus"], serde_json::json!([]));
    wait_until("no process is held", || held() == before);
}

#[test]
fn files_that_change_count_after_a_reload_and_wrong_ones_change_nothing() {
    let home = Home::new();
    let manager = home.serve();
    let reload = || Command::new("kill").args(["-HUP", &manager.process.id().to_string()]).status().unwrap();
    let kept = home.ok(&["define", TYPE, "--start"]);
    let types = home.config().join("types.toml");
    fs::write(&types, "[[type]]\nname = \"small\"\nmemory = \"64M\"\n").unwrap();
    let later = "11111111-2222-4333-8444-555555555555";
    fs::write(home.config().join(format!("vgpus/{later}.toml")), format!("uuid = \"{later}\"\ntype = \"small\"\n"))
        .unwrap();
    reload();
    wait_until("the type is there", || home.ok(&["types"]).contains("small"));
    wait_until("the vGPU is there", || home.run(&["show", later]).status.success());
    assert_eq!(home.state(&kept), "running");
    fs::write(&types, "[[type]]\nname = \"other\"\nmemory = \"lots\"\n").unwrap();
    reload();
    wait_until("it says why not", || home.log().contains("lots"));
    assert!(home.ok(&["types"]).contains("small"));
    let answer = home.say(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 422") && answer.contains("line 3"), "{answer}");
}

#[test]
fn a_declared_set_is_made_so_once() {
    let home = Home::new();
    let _manager = home.serve();
    let file = home.path().join("set.toml");
    let one = "11111111-2222-4333-8444-555555555555";
    let other = "22222222-2222-4333-8444-555555555555";
    fs::write(&file, format!(
        "[[vgpu]]\nuuid = \"{one}\"\ntype = \"{TYPE}\"\nname = \"desk\"\nstate = \"running\"\n[[vgpu]]\nuuid = \"{other}\"\ntype = \"{TYPE}\"\n"
    )).unwrap();
    let file = file.to_str().unwrap();
    assert!(home.fails_with_output(&["assert", file]).contains("define 11111111"));
    assert!(home.ok(&["apply", file]).contains("start 11111111"));
    assert_eq!((home.state(one), home.state(other)), ("running".to_owned(), "defined".to_owned()));
    assert_eq!(home.ok(&["apply", file]), "");
    assert_eq!(home.ok(&["assert", file]), "");
    home.ok(&["stop", "desk"]);
    assert!(home.fails_with_output(&["assert", file]).contains("start 11111111"));
}
