//! Real processes, arranged as a device's are: a launcher in the device's group, leaders of groups below it.

use super::*;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::clocks::Meter;
use crate::processes::Processes;

/// One that ends with all it started.
struct Device(Child);

impl Device {
    /// `renderers` are words of the shell, each run as the leader of a group.
    fn start(renderers: &[&str]) -> Self {
        let jobs: String = renderers.iter().map(|job| format!("setsid sh -c '{job}' & ")).collect();
        // The launcher is one more shell. Whatever becomes of us, nobody spins for ever.
        let launcher = format!("{jobs} wait");
        let mut command = Command::new("sh");
        command.arg("-c").arg("ulimit -t 20; sh -c \"$1\" & wait").arg("sh").arg(launcher);
        Device(command.process_group(0).stderr(Stdio::null()).spawn().expect("a shell"))
    }

    /// Its renderers, once there are so many processes of theirs.
    fn renderers(&self, count: usize) -> Renderers {
        let processes = Processes::default();
        let identity = processes.stat(self.0.id() as i32).expect("it is there").identity();
        let mut renderers = Renderers::of(processes, identity).expect("it is there");
        let limit = Instant::now() + LONG;
        while renderers.members().count() < count {
            assert!(Instant::now() < limit, "There are not {count}: {renderers:?}");
            renderers.find();
            std::thread::sleep(Duration::from_millis(1));
        }
        renderers
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let processes = Processes::default();
        let stat = processes.stat(self.0.id() as i32);
        if let Some(mut renderers) = stat.and_then(|stat| Renderers::of(processes, stat.identity())) {
            while renderers.find() {}
            renderers.signal(Signal::KILL, false);
        }
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = self.0.wait();
    }
}

const SPIN: &str = "while :; do :; done";
/// One that stands still may wait for a processor in the kernel, and has its time there yet: far less than those that run.
const STANDING: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(30);

fn stop(freezer: &Freezer, renderers: &mut Renderers) -> bool {
    freezer.begin(renderers);
    freezer.finish(renderers, LONG)
}

/// What they use in a while, in which they could use much more.
fn uses(meter: &mut Meter, renderers: &mut Renderers) -> Duration {
    let before = meter.read(renderers);
    std::thread::sleep(Duration::from_millis(50));
    meter.read(renderers) - before
}

fn wait_until_they_run(meter: &mut Meter, renderers: &mut Renderers) {
    let before = meter.read(renderers);
    while meter.read(renderers) <= before + Duration::from_millis(1) {
        std::thread::yield_now();
    }
}

fn freezers() -> Vec<(Freezer, Option<Cgroup>)> {
    let mut freezers = vec![(Freezer::Signals, None)];
    let mount = Cgroup::mount(&Processes::default());
    // Not the number of this process: in another PID namespace another one has it, and control groups are there for all.
    let chance = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
    let name = format!("beamsplit-test-{chance:016x}");
    match mount.map(|mount| Cgroup::at(mount).child(&name)) {
        Some(Ok(group)) => freezers.push((Freezer::with(Some(group.clone())), Some(group))),
        _ => eprintln!("Not tried: no control group may be made here"),
    }
    freezers
}

fn remove(group: Option<Cgroup>) {
    if let Some(group) = group {
        // Refused as long as somebody is in it.
        let limit = Instant::now() + LONG;
        while let Err(error) = std::fs::remove_dir(group.path()) {
            assert!(Instant::now() < limit, "{}: {error}", group.path().display());
            std::thread::yield_now();
        }
    }
}

#[test]
fn stopped_ones_use_nothing_and_go_on_afterwards() {
    for (freezer, group) in freezers() {
        let device = Device::start(&[&format!("sh -c \"{SPIN}\" & {SPIN}"), SPIN]);
        let mut renderers = device.renderers(3);
        let mut meter = Meter::default();
        for _ in 0..5 {
            wait_until_they_run(&mut meter, &mut renderers);
            assert!(stop(&freezer, &mut renderers), "{}", freezer.name());
            assert!(uses(&mut meter, &mut renderers) <= STANDING, "{}", freezer.name());
            freezer.go_on(&mut renderers);
        }
        wait_until_they_run(&mut meter, &mut renderers);
        drop(device);
        remove(group);
    }
}

#[test]
fn those_that_start_processes_all_the_time_are_stopped_with_all_of_them() {
    for (freezer, group) in freezers() {
        let device = Device::start(&["while :; do sh -c \":; :\" & sh -c \":\"; done"]);
        let mut renderers = device.renderers(1);
        let mut meter = Meter::default();
        for _ in 0..20 {
            // On a busy machine one may wait for a processor in the middle of a fork, and seem to stand. Its child is found by the
            // next look, and stopped as all are. There is none after that: those that start processes stand.
            let all_stand = (0..4).any(|_| {
                assert!(stop(&freezer, &mut renderers), "{}", freezer.name());
                let used = uses(&mut meter, &mut renderers);
                let found = renderers.find();
                assert!(found || used <= STANDING, "{}: {used:?}", freezer.name());
                !found
            });
            assert!(all_stand, "{}: some are started again and again", freezer.name());
            freezer.go_on(&mut renderers);
            std::thread::sleep(Duration::from_millis(3));
        }
        drop(device);
        remove(group);
    }
}

#[test]
fn the_device_its_launcher_and_strangers_are_never_stopped() {
    let mut stranger = Command::new("sleep").arg("1000").process_group(0).spawn().expect("sleep");
    let device = Device::start(&[SPIN]);
    let mut renderers = device.renderers(1);
    assert!(stop(&Freezer::Signals, &mut renderers));
    let processes = Processes::default();
    let limit = Instant::now() + LONG;
    // On a busy machine they get to it later, without having done anything.
    while renderers.members().any(|member| processes.stat(member.pid()).is_some_and(|stat| stat.state != 'T')) {
        assert!(Instant::now() < limit, "One does not stop");
    }
    let states: Vec<_> = processes.all().filter(|stat| stat.state == 'T').map(|stat| stat.pid).collect();
    assert!(renderers.members().all(|member| states.contains(&member.pid())));
    let group = processes.stat(device.0.id() as i32).expect("it is there").group;
    let stands = |stat: &crate::processes::Stat| stat.group == group && stat.state == 'T';
    assert_eq!(processes.all().filter(stands).count(), 0);
    assert!(!states.contains(&(stranger.id() as i32)) && !states.contains(&(std::process::id() as i32)));
    let _ = stranger.kill();
    let _ = stranger.wait();
}

#[test]
fn one_whose_parent_died_is_found_by_its_group() {
    // The leader stays, the one in the middle ends, the last is nobody's child any more.
    let device = Device::start(&[&format!("sh -c \"sh -c \\\"{SPIN}\\\" & exit\"; while :; do sleep 1000; done")]);
    // The leader, its sleep, and the orphan.
    let mut renderers = device.renderers(3);
    assert!(stop(&Freezer::Signals, &mut renderers));
    let mut meter = Meter::default();
    assert!(uses(&mut meter, &mut renderers) <= STANDING);
    assert!(!meter.total().is_zero(), "The orphan is among them");
}

#[test]
fn time_of_those_that_have_ended_is_not_forgotten() {
    let device = Device::start(&[SPIN]);
    let mut renderers = device.renderers(1);
    let mut meter = Meter::default();
    wait_until_they_run(&mut meter, &mut renderers);
    let used = meter.total();
    renderers.signal(Signal::KILL, false);
    while !renderers.is_empty() {
        renderers.bury();
    }
    assert!(meter.read(&mut renderers) >= used);
}
