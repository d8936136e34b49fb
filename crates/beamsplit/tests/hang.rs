//! Those who never answer: folders, managers, drivers. Nobody else waits for them.

#![allow(clippy::unwrap_used)]

#[path = "support/silent.rs"]
mod silent;
mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::{Arc, Mutex};

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

#[test]
fn a_driver_that_hangs_while_files_are_read_again_keeps_neither_the_watchdog_nor_the_end_waiting() {
    let home = Home::new();
    // A program of devices that says nothing of the GPU for as long as there is a file.
    let [program, slow, begun, socket] = ["device", "slow", "begun", "notify"].map(|name| home.path().join(name));
    let script =
        "#!/bin/sh\ncd \"${0%/*}\"\n[ -e slow ] && touch begun\nwhile [ -e slow ]; do sleep 0.01; done\necho {}\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let config = format!("users = \"none\"\ndevice = [\"{}\"]\n", program.display());
    fs::write(home.config().join("serve.toml"), config).unwrap();

    let systemd = UnixDatagram::bind(&socket).unwrap();
    let said = Arc::new(Mutex::new(Vec::<String>::new()));
    let heard = said.clone();
    std::thread::spawn(move || {
        let mut text = [0; 256];
        while let Ok(length) = systemd.recv(&mut text) {
            let text = String::from_utf8_lossy(&text[..length]);
            heard.lock().unwrap().push(text.lines().next().unwrap().to_owned());
        }
    });
    // What was said last of all that begins so, and what came after it.
    let after = |begin: &str| {
        let said = said.lock().unwrap();
        let at = said.iter().rposition(|line| line == begin);
        at.map(|at| said[at + 1..].to_vec()).unwrap_or_default()
    };
    let mut command = home.command();
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "40000");
    let mut manager = home.serve_by(command);
    let reload_and_hang = || {
        fs::write(&slow, "").unwrap();
        let _ = fs::remove_file(&begun);
        support::signal(manager.process.id().into(), "-HUP");
        wait_until("the driver hangs", || begun.exists());
    };

    reload_and_hang();
    wait_until("the watchdog is fed", || after("RELOADING=1").iter().filter(|line| *line == "WATCHDOG=1").count() >= 3);
    assert!(!after("RELOADING=1").contains(&"READY=1".to_owned()));
    // It may take longer than a start or a reload usually has.
    assert!(after("RELOADING=1").iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")));
    fs::remove_file(&slow).unwrap();
    wait_until("the files are read", || after("RELOADING=1").contains(&"READY=1".to_owned()));

    reload_and_hang();
    support::signal(manager.process.id().into(), "-TERM");
    wait_until("it ends", || manager.process.try_wait().unwrap().is_some());
    wait_until("its last word is heard", || after("RELOADING=1").contains(&"STOPPING=1".to_owned()));
    assert!(!after("RELOADING=1").contains(&"READY=1".to_owned()), "{:?}", after("RELOADING=1"));
    fs::remove_file(&slow).unwrap();
}
