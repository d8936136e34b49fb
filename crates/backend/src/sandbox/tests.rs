//! Each test runs itself again in a process of its own, because there is no way back out of a sandbox.

use super::*;
use std::fs::File;
use std::io::{Error, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

/// Names the folder that the worker may write; its presence makes a test the worker.
const FOLDER: &str = "BEAMSPLIT_TEST_SANDBOX_FOLDER";

/// Runs the test `name` again as a worker, locked in as `grants` say, and returns what it prints, one outcome a line.
fn worker(name: &str, mode: SandboxMode, work: impl FnOnce(&Path) -> Vec<String>) -> Option<Vec<String>> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        let own = std::env::current_exe().unwrap();
        let grants = [Grant::replace_files(folder), Grant::name_functions(&own)];
        let mut report = File::create(folder.join("report")).unwrap();
        lock_in(mode, &grants, &[]).unwrap();
        for line in work(folder) {
            writeln!(report, "{line}").unwrap();
        }
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let report = std::fs::read_to_string(folder.path().join("report")).unwrap_or_default();
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    Some(report.lines().map(str::to_owned).collect())
}

fn outcome<T>(what: &str, result: Result<T, Error>) -> String {
    match result {
        Ok(_) => format!("{what}: done"),
        Err(error) => format!("{what}: refused {}", error.raw_os_error().unwrap_or(0)),
    }
}

/// What every program does, and a locked-in device must not.
fn reach_out() -> Vec<String> {
    vec![
        outcome("read a foreign file", File::open("/etc/passwd")),
        outcome("write a foreign file", File::create("/tmp/beamsplit-sandbox-test")),
        outcome("list a folder", std::fs::read_dir("/")),
        outcome("TCP", TcpListener::bind("127.0.0.1:0")),
        outcome("UDP", UdpSocket::bind("127.0.0.1:0")),
        outcome("connect", UnixStream::connect("/run/nobody")),
        outcome("execute", Command::new("/bin/true").status()),
    ]
}

/// What only an intruder does.
fn break_out() -> Vec<String> {
    vec![
        outcome("ptrace", crate::inherited::tests::trace_me()),
        outcome("signal", rustix::process::test_kill_process(rustix::process::getpid()).map_err(Error::from)),
        outcome("code", crate::inherited::tests::map_code()),
    ]
}

/// Whether a backtrace from here names a function.
fn backtrace_names(function: &str) -> Result<(), Error> {
    let backtrace = std::backtrace::Backtrace::force_capture().to_string();
    if backtrace.contains(function) { Ok(()) } else { Err(Error::other(backtrace)) }
}

/// Everything that a device goes on doing.
fn go_on(folder: &Path) -> Vec<String> {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let thread = std::thread::Builder::new().name("another".to_owned()).spawn(move || {
        let _panic = std::panic::catch_unwind(|| panic!("caught"));
        other.write_all(b"x")
    });
    let memfd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::ALLOW_SEALING).map_err(Error::from);
    vec![
        outcome("threads", thread.map(|thread| thread.join().unwrap())),
        outcome("sockets", one.read_exact(&mut [0])),
        outcome("what a front-end has read", crate::inherited::tests::unread(&one)),
        outcome("allocate", Ok(std::hint::black_box(vec![1u8; 64 << 20]))),
        outcome("memfd", memfd.and_then(|memfd| Ok(rustix::fs::ftruncate(memfd, 4096)?))),
        outcome("capture", std::fs::write(folder.join("new"), b"png")),
        outcome("replace", std::fs::rename(folder.join("new"), folder.join("screen.png"))),
        outcome("names", backtrace_names("go_on")),
        outcome("log", writeln!(std::io::stderr(), "still here")),
    ]
}

#[test]
fn a_locked_in_device_cannot_leave() {
    let name = "sandbox::tests::a_locked_in_device_cannot_leave";
    if let Some(lines) = worker(name, SandboxMode::On, |_| [reach_out(), break_out()].concat()) {
        assert_eq!(lines.len(), 10);
        let escaped: Vec<_> = lines.iter().filter(|line| !line.contains("refused")).collect();
        assert!(escaped.is_empty(), "{escaped:?}");
    }
}

#[test]
fn a_locked_in_device_goes_on() {
    let name = "sandbox::tests::a_locked_in_device_goes_on";
    if let Some(lines) = worker(name, SandboxMode::On, go_on) {
        assert_eq!(lines.len(), 9);
        let refused: Vec<_> = lines.iter().filter(|line| !line.contains("done")).collect();
        assert!(refused.is_empty(), "{refused:?}");
    }
}

#[test]
fn sandbox_log_refuses_nothing() {
    let name = "sandbox::tests::sandbox_log_refuses_nothing";
    if let Some(lines) = worker(name, SandboxMode::Log, |_| reach_out()) {
        let _ = std::fs::remove_file("/tmp/beamsplit-sandbox-test");
        for what in ["read a foreign file", "TCP", "UDP", "execute"] {
            assert!(lines.contains(&format!("{what}: done")), "{what}: {lines:?}");
        }
    }
}

#[test]
fn no_capability_is_left_and_no_core_is_dumped() {
    let name = "sandbox::tests::no_capability_is_left_and_no_core_is_dumped";
    // Opened before, read after: the kernel writes these files as they are read.
    let files = ["/proc/thread-self/status", "/proc/self/limits"].map(|path| File::open(path).unwrap());
    let status = |_: &Path| {
        let text = files.map(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).map(|_| text).unwrap()
        });
        let wanted = ["CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp:", "Max core"];
        let lines = text.iter().flat_map(|text| text.lines());
        let lines = lines.filter(|line| wanted.iter().any(|name| line.starts_with(name)));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    if let Some(mut lines) = worker(name, SandboxMode::On, status) {
        let bounding = lines.iter().position(|line| line.starts_with("CapBnd")).map(|at| lines.remove(at)).unwrap();
        if rustix::process::geteuid().is_root() {
            assert_eq!(bounding, "CapBnd: 0000000000000000");
        }
        let none = "0000000000000000";
        let expected = [
            format!("CapInh: {none}"),
            format!("CapPrm: {none}"),
            format!("CapEff: {none}"),
            "NoNewPrivs: 1".to_owned(),
            "Seccomp: 2".to_owned(),
            "Max core file size 0 0 bytes".to_owned(),
        ];
        assert_eq!(lines, expected);
    }
}
