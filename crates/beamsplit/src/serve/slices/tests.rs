//! The thread with real processes, arranged as a device's are. None of them says anything: as Vulkan's, which take their work from
//! memory, they just use time.

mod ringing;

use super::*;

use std::os::unix::process::CommandExt;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process_group};

const LONG: Duration = Duration::from_secs(60);

/// A device with one renderer that never rests.
struct Busy {
    process: Child,
    renderer: i32,
}

impl Busy {
    fn start() -> Self {
        let mut command = Command::new("sh");
        // It ends by itself, whatever becomes of us.
        command.args(["-c", "ulimit -t 60; setsid sh -c 'while :; do :; done' & echo $!; wait"]);
        let mut process =
            command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell");
        let mut line = String::new();
        let output = process.stdout.as_mut().expect("a pipe");
        std::io::BufRead::read_line(&mut io::BufReader::new(output), &mut line).expect("a line");
        let renderer = line.trim().parse().expect("a number");
        // It has left the device's group.
        wait_until("it leads", || Processes::default().stat(renderer).is_some_and(|stat| stat.group == renderer));
        Busy { process, renderer }
    }

    fn device(&self, weight: u32) -> Device {
        let stat = Processes::default().stat(self.process.id() as i32).expect("it is there");
        Device {
            gpu: GpuId("software".to_owned()),
            process: stat.identity(),
            weight,
            priority: Priority::Normal,
            promise: Promise::Advisory,
            timed: Timed::Processor,
            gate: false,
            arbiter: None,
            cgroup: None,
        }
    }

    fn stands(&self) -> bool {
        Processes::default().stat(self.renderer).expect("it is there").state == 'T'
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for group in [self.renderer, self.process.id() as i32] {
            let _ = Pid::from_raw(group).map(|group| kill_process_group(group, Signal::KILL));
        }
        let _ = self.process.wait();
    }
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn start() -> Handle {
    // The guard would be this test.
    Slices::start(Options { guarded: false, ..Options::default() }).expect("a thread")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < limit, "Not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn weights_are_followed_by_what_is_charged_though_nobody_says_a_word() {
    let (light, heavy) = (Busy::start(), Busy::start());
    let slices = start();
    slices.add(uuid(1), light.device(1));
    slices.add(uuid(3), heavy.device(3));
    let used =
        |slices: &Handle| [1, 3].map(|number| slices.snapshot().get(&uuid(number)).map_or(0, |slice| slice.used));
    wait_until("both are seen", || used(&slices).iter().all(|used| *used > 50_000_000));
    let before = used(&slices);
    // So much work, not so much time: the machine may be busy.
    wait_until("they work", || used(&slices)[1] - before[1] > 1_500_000_000);
    let after = used(&slices);
    let ratio = (after[1] - before[1]) as f64 / (after[0] - before[0]) as f64;
    assert!((2.0..4.5).contains(&ratio), "{ratio}, not 3: {:?}", slices.snapshot());
    let told = slices.snapshot();
    assert!(told.values().all(|slice| slice.slices >= 10 && slice.stops >= 10), "{told:?}");
    assert_eq!(told[&uuid(1)].stopped_by, "SIGSTOP");
}

#[test]
fn one_alone_is_never_stopped() {
    let busy = Busy::start();
    let slices = start();
    slices.add(uuid(1), busy.device(1));
    wait_until("it works", || slices.snapshot().get(&uuid(1)).is_some_and(|slice| slice.used > 300_000_000));
    assert_eq!(slices.snapshot()[&uuid(1)].stops, 0);
}

#[test]
fn all_go_on_when_they_are_removed_and_when_the_thread_ends() {
    let both = [Busy::start(), Busy::start()];
    let slices = start();
    for (number, busy) in both.iter().enumerate() {
        slices.add(uuid(number as u128), busy.device(1));
    }
    wait_until("one is stopped", || both.iter().any(Busy::stands));
    slices.remove(uuid(0));
    wait_until("it goes on", || !both[0].stands());
    drop(slices);
    assert!(!both.iter().any(Busy::stands));
}

#[test]
fn one_that_is_held_stands_still_until_it_is_released() {
    let busy = Busy::start();
    let slices = start();
    slices.add(uuid(1), busy.device(1));
    slices.hold(uuid(1), "It was".to_owned());
    wait_until("it is held", || slices.snapshot().get(&uuid(1)).is_some_and(|slice| slice.held.is_some()));
    wait_until("it stands", || busy.stands());
    slices.release(uuid(1));
    wait_until("it goes on", || !busy.stands());
}

#[test]
fn a_control_group_that_all_have_left_does_not_keep_the_next_one_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let group = folder.path().join("renderers");
    std::fs::create_dir(&group).expect("a folder");
    for (name, text) in [("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 1\n"), ("cgroup.procs", "")] {
        std::fs::write(group.join(name), text).expect("a file");
    }
    let said = || std::fs::read_to_string(group.join("cgroup.freeze")).expect("a file");
    let busy = Busy::start();
    let slices = start();
    slices.add(uuid(1), Device { cgroup: Some(folder.path().to_owned()), ..busy.device(1) });
    wait_until("it works", || slices.snapshot().get(&uuid(1)).is_some_and(|slice| slice.used > 0));
    slices.hold(uuid(1), "a test".to_owned());
    wait_until("its group is stopped", || said() == "1");
    // As a device does when it is told that it is held.
    let _ = Pid::from_raw(busy.renderer).map(|group| kill_process_group(group, Signal::KILL));
    wait_until("its group goes on", || said() == "0");
}

#[test]
fn a_device_that_was_left_stopped_goes_on_when_it_is_added() {
    let busy = Busy::start();
    let group = Pid::from_raw(busy.renderer).expect("a number");
    kill_process_group(group, Signal::STOP).expect("stopped");
    wait_until("it stands", || busy.stands());
    let slices = start();
    slices.add(uuid(1), busy.device(1));
    wait_until("it goes on", || !busy.stands());
}
