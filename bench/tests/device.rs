//! The front-end and the shortest run of the bench against the project's own daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bench::daemon::{Daemon, Program};
use bench::frontend::{Canvas, Channel, FrontEnd, Kind, Options, command};
use bench::run::{Plan, run};
use bench::workload::{self, Budget, Workload};

const LIMIT: Duration = Duration::from_secs(60);

/// The daemon, built in the profile of this test.
fn daemon() -> Program {
    let own = std::env::current_exe().expect("this program's path");
    let folder = own.ancestors().nth(2).expect("a profile's folder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--package", "beamsplit-backend", "--package", "beamsplit"])
        .arg("--target-dir")
        .arg(target(folder));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo").success(), "The daemon does not build");
    let arguments = ["--renderer", "soft", "--display", "vmm"].map(String::from).to_vec();
    Program { name: "beamsplit".into(), path: folder.join("beamsplit-device"), arguments, environment: Vec::new() }
}

fn target(folder: &Path) -> PathBuf {
    folder.parent().expect("a target folder").to_path_buf()
}

#[test]
fn a_picture_arrives_byte_for_byte() {
    let folder = tempfile::tempdir().expect("a folder for sockets");
    let mut daemon = Daemon::start(&daemon(), folder.path()).expect("a daemon");
    let mut options = Options::new(Kind::Gpu);
    options.display.keeps_pixels = true;
    let channel = Channel::new(daemon.take_stream().expect("a connection"), options.patience).expect("a channel");
    let mut guest = FrontEnd::over(channel, options).expect("a front-end");
    guest.negotiate().expect("negotiation");
    let display = guest.start().expect("start").expect("a display");
    let shown = display.shown();
    display.spawn().expect("a thread");

    let (width, height) = (300, 200);
    let picture: Vec<u8> =
        (0..width * height).flat_map(|at: u32| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let backing = guest.memory().allocate(picture.len() as u64, 4096).expect("memory");
    guest.memory().write(backing, &picture).expect("memory");
    let whole = [0, 0, width, height];
    for command in [
        command::create_2d(1, command::FORMAT_B8G8R8X8, width, height),
        command::attach_backing(1, &[(backing, picture.len() as u32)]),
        command::set_scanout(0, 1, whole),
        command::transfer_to_host_2d(1, whole, 0),
        command::flush(1, whole),
    ] {
        let reply = guest.command(&command).expect("a reply");
        assert_eq!(reply.kind(), command::RESP_OK_NODATA);
    }
    // The head's black first picture may come before it.
    let is_shown = |canvas: &Canvas| (canvas.width, canvas.height) == (width, height) && canvas.bytes == picture;
    shown.wait(LIMIT, |shown| shown.canvas(0).as_ref().is_some_and(is_shown)).expect("the guest's picture");
}

#[test]
fn every_workload_on_the_vmm_s_display_has_a_number() {
    has_numbers(workload::Screen::Vmm);
}

#[test]
fn every_workload_without_a_display_has_a_number() {
    has_numbers(workload::Screen::None);
}

#[test]
fn every_workload_of_the_console_has_a_number() {
    has_numbers(workload::Screen::Console);
}

fn has_numbers(screen: workload::Screen) {
    let workloads: Vec<&Workload> = workload::ALL.iter().filter(|workload| workload.screen == screen).collect();
    let budget = Budget { time: Duration::from_millis(1), many: 100, idle: Duration::from_millis(1) };
    let plan = Plan {
        programs: vec![daemon()],
        workloads,
        limits: screen == workload::Screen::Vmm,
        rounds: 1,
        budget,
        quick: true,
        absent: Vec::new(),
    };
    let folder = tempfile::tempdir().expect("a folder for sockets");
    let report = run(&plan, folder.path(), |_| ()).expect("a report");
    for line in &report.lines {
        let outcome = &line.outcomes["beamsplit"];
        assert!(outcome.value.is_some(), "{}: {:?}", line.name, outcome.failure);
    }
}
