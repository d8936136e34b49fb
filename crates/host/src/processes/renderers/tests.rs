use super::*;

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::tests::{end, sleeper, tree};

fn started(pid: i32) -> u64 {
    Processes::default().stat(pid).expect("it is there").start_time
}

#[test]
fn one_that_took_over_a_number_while_it_was_looked_for_is_neither_held_nor_signalled() {
    // What is seen below the device was there a moment ago; the number is a stranger's now.
    let stranger = sleeper();
    let pid = stranger.id() as i32;
    let device = std::process::id() as i32;
    let seen = [(device, 1, device, started(device)), (pid, device, pid, started(pid) - 5)];
    let root = tree(&seen, true);
    let processes = Processes::at(root.path());
    let identity = processes.stat(device).expect("a line").identity();
    let mut renderers = Renderers::of(processes, identity).expect("a device");
    // The tree says that it lives; the kernel's own answer is the one that counts, and both are asked.
    fs::write(root.path().join(format!("{pid}/stat")), "gone").expect("a file");
    assert!(!renderers.find());
    renderers.signal(Signal::STOP, false);
    assert_ne!(Processes::default().stat(pid).expect("it is there").state, 'T');
    end(stranger);
}

#[test]
fn one_of_another_user_is_left_alone() {
    let child = sleeper();
    let (pid, device) = (child.id() as i32, std::process::id() as i32);
    let root = tree(&[(device, 1, device, started(device)), (pid, device, pid, started(pid))], true);
    fs::write(root.path().join(format!("{pid}/status")), "Uid:\t8\t8\t8\t8\n").expect("a file");
    let processes = Processes::at(root.path());
    let identity = processes.stat(device).expect("a line").identity();
    let mut renderers = Renderers::of(processes, identity).expect("a device");
    assert!(!renderers.find());
    fs::write(root.path().join(format!("{pid}/status")), "Uid:\t7\t7\t7\t7\n").expect("a file");
    assert!(renderers.find());
    assert!(renderers.has(pid));
    end(child);
    assert_eq!(renderers.bury(), [pid]);
}

#[test]
fn a_device_whose_number_is_anothers_has_no_renderers() {
    let child = sleeper();
    let (pid, device) = (child.id() as i32, std::process::id() as i32);
    let root = tree(&[(device, 1, device, 100), (pid, device, pid, started(pid))], true);
    let processes = Processes::at(root.path());
    let mut renderers = Renderers::of(processes, Identity { pid: device, start_time: 100 }).expect("a device");
    let line = fs::read_to_string(root.path().join(format!("{device}/stat"))).expect("a line");
    fs::write(root.path().join(format!("{device}/stat")), line.replace(" 100 ", " 200 ")).expect("a file");
    assert!(!renderers.find() && renderers.is_empty());
    end(child);
}

#[test]
fn the_number_of_a_group_that_is_over_is_nobodys() {
    let [gone, left, stranger] = [sleeper(), sleeper(), sleeper()];
    let [gone_pid, left_pid, stranger_pid] = [&gone, &left, &stranger].map(|child| child.id() as i32);
    let device = std::process::id() as i32;
    // One that draws, and one of its group whose parent is gone.
    let known = (device, 1, device, started(device));
    let first = [known, (gone_pid, device, gone_pid, started(gone_pid)), (left_pid, 1, gone_pid, started(left_pid))];
    let root = tree(&first, true);
    let processes = Processes::at(root.path());
    let identity = processes.identity(device).expect("a line");
    let mut renderers = Renderers::of(processes, identity).expect("a device");
    while renderers.find() {}
    assert!(renderers.has(gone_pid) && renderers.has(left_pid));
    end(gone);
    end(left);
    assert_eq!(renderers.bury().len(), 2);
    // Somebody else's, who got the number for a group of his own.
    let second = tree(&[known, (stranger_pid, 1, gone_pid, started(stranger_pid))], true);
    renderers.processes = Processes::at(second.path());
    renderers.searched = None;
    assert!(!renderers.find() && renderers.is_empty());
    end(stranger);
}

#[test]
fn in_the_session_that_a_device_leads_nobody_hides_by_losing_its_parent() {
    let [drawing, orphan] = [sleeper(), sleeper()];
    let [drawing_pid, orphan_pid] = [&drawing, &orphan].map(|child| child.id() as i32);
    let device = std::process::id() as i32;
    let list = [
        (device, 1, device, started(device)),
        (drawing_pid, device, drawing_pid, started(drawing_pid)),
        (orphan_pid, 1, orphan_pid, started(orphan_pid)),
    ];
    let root = tree(&list, true);
    for (pid, ..) in list {
        let path = root.path().join(format!("{pid}/stat"));
        let line = fs::read_to_string(&path).expect("a line");
        let (name, rest) = line.rsplit_once(')').expect("a name");
        let mut words: Vec<_> = rest.split(' ').collect();
        let session = device.to_string();
        words[4] = &session;
        fs::write(&path, format!("{name}){}", words.join(" "))).expect("a file");
    }
    let processes = Processes::at(root.path());
    let mut renderers =
        Renderers::of(processes.clone(), processes.identity(device).expect("a line")).expect("a device");
    while renderers.find() {}
    assert!(renderers.has(drawing_pid) && renderers.has(orphan_pid));
    end(drawing);
    end(orphan);
}

#[test]
fn those_that_are_too_many_are_counted_as_they_are_now() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("as many as there may be");
    let device = std::process::id() as i32;
    let child = sleeper();
    let pid = child.id() as i32;
    let root = tree(&[(device, 1, device, started(device)), (pid, device, pid, started(pid))], true);
    let processes = Processes::at(root.path());
    let mut renderers =
        Renderers::of(processes.clone(), processes.identity(device).expect("a line")).expect("a device");
    // As many as there may be, all of them this one: it is the number that counts.
    for number in 0..MOST as i32 {
        let pidfd = processes.hold(processes.identity(pid).expect("a line")).expect("held").expect("it is there");
        let identity = Identity { pid: -1 - number, start_time: 0 };
        renderers.members.insert(identity.pid, Member { identity, pidfd, group: (0, 0), stands: false, clock: None });
    }
    for _ in 0..2 {
        assert!(!renderers.find());
        assert_eq!((renderers.beyond(), renderers.has(pid)), (1, false));
    }
    renderers.members.remove(&-1);
    assert!(renderers.find());
    assert_eq!((renderers.beyond(), renderers.has(pid)), (0, true));
    end(child);
}
