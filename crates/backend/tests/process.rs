//! The program as its starter sees it: words, exit codes, one line for each failure, sockets, and what is left behind.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod support;

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use support::{Device, PROGRAM, copy_program, run, shell};

/// The one line that a failure is.
#[track_caller]
fn failure(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("beamsplit-device: "), "{text}");
    assert!(output.stdout.is_empty());
    text
}

#[test]
fn wrong_words_end_with_code_2_and_one_line() {
    for (words, named) in [
        (&[][..], "--socket-path"),
        (&["--fd"], "--fd"),
        (&["--fd", "3", "--nonsense"], "--nonsense"),
        (&["--fd", "3", "--socket-path", "/x"], "--socket-path"),
        (&["--fd", "3", "--heads", "wide"], "wide"),
        (&["--fd", "3", "--renderer", "soft", "--virgl"], "--virgl"),
        (&["--fd", "3", "--transport", "vfio-user", "--virgl", "--capsets", "venus"], "changes all the time"),
        (&["--fd", "3", "--display", "vnc=0.0.0.0:5900"], "password"),
        (&["--fd", "3", "--input-socket", "/x"], "needs somebody who types"),
        (&["--fd", "3", "--display", "none", "--input-socket", "/x,touch"], "needs somebody who types"),
        (&["--fd", "3", "--display", "web=0", "--input-socket", "/x,tuch"], "tuch"),
        (&["--fd", "3", "--display", "web=0", "--input-socket", "/x", "--input-socket", "/y"], "one too many"),
        (&["--fd", "3", "--display", "window,maximised"], "fullscreen=MONITOR"),
        (&["--fd", "3", "--display", "window", "--tokens", "/x"], "--display vnc or web"),
        (&["--fd", "3", "--model", "vga"], "--transport vfio-user"),
        (&["--fd", "3", "--transport", "vfio-user", "--model", "cirrus"], "cirrus"),
        (&["--fd", "3", "--transport", "vfio-user", "--model", "bochs", "--heads", "640x480,640x480"], "--heads"),
        (&["--fd", "3", "--transport", "vfio-user", "--memory", "32M"], "at least 64M"),
    ] {
        let line = failure(&run(words), 2);
        assert!(line.contains(named), "{line}");
    }
}

#[test]
fn what_the_machine_refuses_ends_with_code_1_one_line_and_nothing_made() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let [socket, control] = ["gpu", "control"].map(|name| folder.path().join(name).display().to_string());
    let vnc = format!("vnc={}", taken.local_addr().unwrap());
    for (words, named) in [
        (&["--display", &vnc][..], "another program has that port"),
        (&["--display", "capture=/nonexistent/screen.png"], "mkdir -p"),
        (&["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["--edid", "/nonexistent.bin"], "/nonexistent.bin"),
        (&["--display", "web=0", "--tokens", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["--display", "web=0", "--input-socket", "/nonexistent/in"], "mkdir -p"),
        (&["--display", "web=0", "--input-socket", &control], "name two"),
        (&["--transport", "vfio-user", "--display", "none", "--rom", "/nonexistent.bin"], "/nonexistent.bin"),
        (&["--transport", "vfio-user", "--display", "none", "--rom", "/dev/null"], "no expansion ROM"),
    ] {
        let words = [&["--socket-path", socket.as_str(), "--control-socket", control.as_str()], words].concat();
        let line = failure(&run(&words), 1);
        assert!(line.contains(named), "{line}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{words:?}");
    }
    let line = failure(&run(&["--fd", "987"]), 1);
    assert!(line.contains("987 is not open"), "{line}");
}

#[test]
fn a_folder_that_belongs_to_a_group_names_the_group() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("Not root: nobody's view of a folder of root's cannot be taken");
        return;
    }
    let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o711)).tempdir().unwrap();
    let private = folder.path().join("private");
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, PermissionsExt::from_mode(0o770)).unwrap();
    // Where the project is may be closed to others.
    let program = folder.path().join("beamsplit-device");
    copy_program(&program);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .arg("--socket-path")
        .arg(private.join("gpu"))
        .output()
        .unwrap();
    let line = failure(&output, 1);
    assert!(line.contains("group root") && line.contains("usermod -aG root"), "{line}");
}

#[test]
fn the_program_says_what_it_can_do_before_it_looks_at_anything_else() {
    let output = run(&["--print-capabilities", "--virgl", "--socket-path", "/nonexistent/gpu"]);
    assert!(output.status.success());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["type"], "gpu");
    // Which of them depends on the host.
    let features = value["features"].as_array().unwrap();
    assert!(features.iter().all(|feature| feature == "virgl" || feature == "render-node"), "{value}");
    assert_eq!(value.as_object().unwrap().len(), 2);
}

#[test]
fn a_device_answers_questions_from_inside_its_sandbox() {
    let device = Device::listening(&["--display", "none", "--sandbox", "on"]);
    // It listens before it is locked in, and answers after.
    assert_eq!(device.stats()["device"]["commands"], 0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", device.process.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    assert!(device.ask("GET /v1/screenshot HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    let body = r#"{"width":1024,"height":768}"#;
    let resize = format!("POST /v1/resize HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // Without a VMM the sizes are ours.
    assert!(device.ask(&resize).starts_with("HTTP/1.1 200"));
    assert!(device.ask("GET /v1/heads HTTP/1.1\r\n\r\n").contains("\"width\":1024"));
}

#[test]
fn lines_that_a_front_end_can_trigger_are_held_back_and_counted() {
    let device = Device::listening(&["--display", "none"]);
    let held_back = || device.stats()["device"]["log_lines_suppressed"].as_u64().unwrap();
    assert_eq!(held_back(), 0);
    // Each makes two lines, and no second is so short that as many may be written.
    let counted = (0..10_000).any(|_| {
        drop(UnixStream::connect(device.folder.path().join("gpu")).unwrap());
        held_back() > 0
    });
    assert!(counted);
}

#[test]
fn a_second_device_does_not_take_the_first_ones_socket() {
    let device = Device::listening(&[]);
    let socket = device.folder.path().join("gpu");
    let line = failure(&run(&["--socket-path", socket.to_str().unwrap()]), 1);
    assert!(line.contains("another program"), "{line}");
    assert_eq!(device.stats()["device"]["commands"], 0);
}

#[test]
fn a_device_with_a_passed_socket_takes_its_config_file_and_ends_when_the_vmm_hangs_up() {
    let folder = tempfile::tempdir().unwrap();
    let (vmm, passed) = UnixStream::pair().unwrap();
    let passed = OwnedFd::from(passed);
    let config = folder.path().join("device.toml");
    std::fs::write(&config, format!("control-socket = \"{}/{{pid}}\"\n", folder.path().display())).unwrap();
    // The next program gets it. Another test's, too, perhaps: it is the other end whose closing counts.
    fcntl_setfd(&passed, FdFlags::empty()).unwrap();
    let mut process = Command::new(PROGRAM)
        .arg(format!("--fd={}", passed.as_raw_fd()))
        .env("BEAMSPLIT_CONFIG", &config)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(passed);
    let control = folder.path().join(process.id().to_string());
    while UnixStream::connect(&control).is_err() {
        assert_eq!(process.try_wait().unwrap(), None, "The device ended at its start");
        std::thread::yield_now();
    }
    drop(vmm);
    assert!(process.wait().unwrap().success());
}

#[test]
fn a_viewer_is_replaced_and_ends_with_a_killed_device() {
    // A program is found beside the device's own: here a script stands in for the viewer.
    let folder = tempfile::tempdir().unwrap();
    let [program, viewer] = ["beamsplit-device", "beamsplit"].map(|name| folder.path().join(name));
    copy_program(&program);
    let script = "#!/bin/sh\n[ \"$1\" = viewer ] || exit 1\nexec sleep 1000\n";
    shell("printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", &[script.as_ref(), viewer.as_ref()]);
    let socket = format!("--socket-path={}", folder.path().join("gpu").display());
    let mut device = Device::start(&program, folder, &[&socket, "--display=web=0", "--display=vnc=0"]);

    let viewer = |device: &Device, starts: u64| {
        loop {
            let stats = device.stats();
            if stats["viewer"]["starts"] == starts && stats["viewer"]["pid"].is_u64() {
                return stats["viewer"].clone();
            }
            std::thread::yield_now();
        }
    };
    let first = viewer(&device, 1);
    let pid =
        |status: &serde_json::Value| rustix::process::Pid::from_raw(status["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid(&first), rustix::process::Signal::KILL).unwrap();
    let second = viewer(&device, 2);
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!((&first["web"], &first["vnc"]), (&second["web"], &second["vnc"]));

    device.process.kill().unwrap();
    device.process.wait().unwrap();
    while rustix::process::test_kill_process(pid(&second)).is_ok() {
        std::thread::yield_now();
    }
}
