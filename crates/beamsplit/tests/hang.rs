//! Those who never answer: folders, managers, drivers. Nobody else waits for them.

#![allow(clippy::unwrap_used)]

#[path = "support/silent.rs"]
mod silent;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use serde_json::json;
use silent::Silent;
use support::{Home, TYPE, wait_until};

/// Answers all who connect as a device does.
fn answer(listener: UnixListener, name: &str) {
    let body = json!({ "name": name }).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

#[test]
fn a_folder_of_a_user_that_never_answers_hangs_nobody_and_hides_nobody_elses_devices() {
    let home = Home::new();
    let Some(silent) = Silent::new() else {
        eprintln!("Skipped: this host has no FUSE");
        return;
    };
    // In mounts that nobody else sees.
    let script = "mount -t tmpfs tmpfs /run; mkdir -p /run/user/0/beamsplit /run/user/7/beamsplit; \
                  mount -i -t fuse -o \"$0\" silent /run/user/7/beamsplit; exec \"$@\" < /dev/null";
    let mut words = vec!["--mount", "--propagation", "private"];
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0).unwrap() {
        words.push("--map-root-user");
    }
    words.extend(["sh", "-ec", script, silent::OPTIONS]);
    let mut command = home.command_by("unshare", &words);
    let mut manager = command.stdin(silent.device()).spawn().unwrap();
    wait_until("the manager answers or ends", || manager.try_wait().unwrap().is_some() || home.log().contains("Ready"));
    if manager.try_wait().unwrap().is_some() && !home.log().contains("Ready") {
        eprintln!("Skipped: nothing can be mounted here: {}", home.log());
        return;
    }
    // The folder answers before anybody waits for the end of who hangs in it.
    let (manager, silent) = (support::Manager { process: manager }, silent);
    let pid = manager.process.id();
    let place = format!("/proc/{pid}/root/run/user/0/beamsplit/good.sock");
    answer(UnixListener::bind(place).unwrap(), "good");
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();

    let foreign =
        |name: &str| home.json(&["list"])["foreign"].as_array().unwrap().iter().any(|one| one["name"] == name);
    wait_until("somebody waits for the one that never answers", || {
        home.json(&["list"]);
        silent.waiting() > 0
    });
    wait_until("the other user's device is told of", || foreign("good"));
    let before = threads();
    for _ in 0..10 {
        home.json(&["list"]);
        home.json(&["top"]);
    }
    // One thread hangs, however often it is looked. Others come and go.
    assert_eq!(silent.waiting(), 1);
    assert!(threads() < before + 10, "{} {before}", threads());
    let uuid = home.ok(&["define", TYPE, "--start"]);
    home.ok(&["stop", &uuid]);
    drop(silent);
    wait_until("the other user's device is told of", || foreign("good"));
}
