//! The thread with devices that have a seam: it is woken by what it acts on, and by nothing else.
//!
//! A device is this program once more, told by its input what to do; what draws for it is a shell that is busy or waits.

use super::*;

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::net::UnixListener;
use std::process::{ChildStdin, ChildStdout};

use arbiter::{Report, Seat};

/// Set for the device: where its manager connects, and what draws for it.
const SEAT: &str = "BEAMSPLIT_TEST_SEAT";
const DRAWS: &str = "BEAMSPLIT_TEST_DRAWS";

/// Always busy, or never; for a minute of the processor's time at most, or for as long as its device is there.
const BUSY: &str = "ulimit -t 60; while :; do :; done";
const STILL: &str = "read word";

/// The device: does nothing where it is run as a test.
#[test]
fn a_device_for_the_other_tests() {
    let (Ok(path), Ok(draws)) = (std::env::var(SEAT), std::env::var(DRAWS)) else { return };
    let listener = UnixListener::bind(path).expect("a socket");
    let mut seat = Seat::new(listener.into()).expect("a seat");
    let mut command = Command::new("sh");
    // It leads a group of its own, as what draws for a device does.
    command.args(["-c", &draws]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut renderer = command.spawn().expect("a shell");
    println!("\nready {}", renderer.id());
    let mut done = 0;
    for line in io::stdin().lines() {
        seat.poll();
        let line = line.expect("a line");
        let (word, count) = line.split_once(' ').expect("a word and a number");
        let count: u32 = count.parse().expect("a number");
        let mut report = |waiting| {
            done += u32::from(waiting == 0);
            seat.report(Report { waiting, done, ..Report::default() });
        };
        match word {
            "waiting" => report(count),
            "batches" => (0..2 * count).for_each(|at| report((at + 1) % 2)),
            other => panic!("There is no {other}"),
        }
        println!("\ndone");
    }
    let _ = renderer.kill();
    let _ = renderer.wait();
}

/// A device with a seam.
struct Seated {
    process: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    renderer: i32,
    folder: tempfile::TempDir,
}

impl Seated {
    fn start(draws: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let test = "serve::slices::tests::ringing::a_device_for_the_other_tests";
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture"]).env(SEAT, folder.path().join("seat")).env(DRAWS, draws);
        let mut process = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a device");
        let (orders, output) = (process.stdin.take(), process.stdout.take().expect("a pipe"));
        let mut device = Seated { process, orders, answers: BufReader::new(output).lines(), renderer: 0, folder };
        device.renderer = device.hear("ready ").parse().expect("a number");
        device
    }

    /// What follows this word in its next answer. What is said around it is the test harness's.
    fn hear(&mut self, word: &str) -> String {
        let mut lines = self.answers.by_ref().map(|line| line.expect("a line"));
        lines.find_map(|line| line.strip_prefix(word).map(str::to_owned)).expect("an answer")
    }

    fn does(&mut self, what: &str, count: u32) {
        writeln!(self.orders.as_mut().expect("a pipe"), "{what} {count}").expect("an order");
        self.hear("done");
    }

    fn device(&self) -> Device {
        let stat = Processes::default().stat(self.process.id() as i32).expect("it is there");
        Device {
            gpu: GpuId("software".to_owned()),
            process: stat.identity(),
            weight: 1,
            priority: Priority::Normal,
            promise: Promise::Advisory,
            timed: Timed::Processor,
            gate: true,
            arbiter: Some(self.folder.path().join("seat")),
            cgroup: None,
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        // It ends what draws for it when it has no more to read.
        self.orders = None;
        let _ = self.process.wait();
    }
}

/// What is told of the only one, when it is so.
fn told(slices: &Handle, what: &str, is_so: impl Fn(&Slice) -> bool) -> Slice {
    let now = || slices.snapshot().remove(&uuid(1)).filter(|slice| is_so(slice));
    wait_until(what, || now().is_some());
    now().unwrap_or_else(|| slices.snapshot().remove(&uuid(1)).expect("it is there"))
}

#[test]
fn one_alone_that_draws_a_thousand_batches_wakes_nobody() {
    let mut device = Seated::start(BUSY);
    let slices = start();
    slices.add(uuid(1), device.device());
    told(&slices, "it runs", |slice| slice.doing == "running");
    device.does("batches", 1000);
    // All that it rang is counted when it is listened to again: when nothing draws for it any more.
    let _ = Pid::from_raw(device.renderer).map(|group| kill_process_group(group, Signal::KILL));
    let slice = told(&slices, "it is gone", |slice| slice.doing == "absent");
    assert!(slice.rings <= 5, "{slice:?}");
    assert_eq!((slice.stops, slice.gates), (0, 0));
}

#[test]
fn one_that_idles_wakes_the_thread_with_each_work_that_it_gets() {
    const ROUNDS: u64 = 20;
    let mut device = Seated::start(STILL);
    let slices = start();
    slices.add(uuid(1), device.device());
    let before = told(&slices, "it idles", |slice| slice.doing == "idle").rings;
    for _ in 0..ROUNDS {
        device.does("waiting", 1);
        told(&slices, "it has its turn", |slice| slice.doing == "running");
        device.does("waiting", 0);
        told(&slices, "it idles again", |slice| slice.doing == "idle");
    }
    let rings = told(&slices, "it idles", |slice| slice.doing == "idle").rings - before;
    // Not by its looks, of which there are ten a second. (One of these may have been just then.)
    assert!((ROUNDS / 2..=ROUNDS + 5).contains(&rings), "{rings} rings in {ROUNDS} rounds");
}
