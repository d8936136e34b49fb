use super::*;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// A `/proc` of our making: number, parent, group, start time.
pub(super) fn tree(processes: &[(i32, i32, i32, u64)], with_children: bool) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    for (pid, parent, group, start_time) in processes {
        let task = root.path().join(format!("{pid}/task/{pid}"));
        fs::create_dir_all(&task).expect("a folder");
        // A name that looks like the rest of the line.
        let zeros = "0 ".repeat(15);
        let line = format!("{pid} (a) R 1 1) S {parent} {group} 1 {zeros}{start_time} 0\n");
        fs::write(root.path().join(format!("{pid}/stat")), &line).expect("a file");
        fs::write(task.join("stat"), &line).expect("a file");
        fs::write(root.path().join(format!("{pid}/status")), "Name:\ta\nUid:\t7\t7\t7\t7\n").expect("a file");
        if with_children {
            let children = processes.iter().filter(|(_, of, ..)| of == pid);
            let text: String = children.map(|(child, ..)| format!("{child} ")).collect();
            fs::write(task.join("children"), text).expect("a file");
        }
    }
    root
}

#[test]
fn a_name_may_look_like_anything() {
    let line = b"12 (a) R 1 (2) 3) T 4 5 6 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 99 1 2\n";
    let stat = Stat { pid: 12, state: 'T', parent: 4, group: 5, session: 6, start_time: 99 };
    assert_eq!(Stat::parse(line), Some(stat));
    for cut in 0..line.len() - 6 {
        assert_ne!(Stat::parse(&line[..cut]), Some(stat), "{cut}");
    }
    for garbage in [&b""[..], b"12", b"12 (", b")", b"x (a) R 1 2 3", b"12 (a) R -1 99999999999 3", b"12 (a)"] {
        assert_eq!(Stat::parse(garbage), None);
    }
}

#[test]
fn all_below_a_device_are_found_with_and_without_the_kernels_lists_of_children() {
    let list = [(10, 1, 10, 1), (11, 10, 10, 2), (12, 11, 12, 3), (13, 12, 12, 4), (20, 1, 20, 5), (21, 20, 12, 6)];
    for with_children in [true, false] {
        let root = tree(&list, with_children);
        let below = Processes::at(root.path()).below(&BTreeSet::from([10]));
        assert_eq!(below, BTreeSet::from([11, 12, 13]), "{with_children}");
    }
}

#[test]
fn processes_that_seem_to_be_their_own_ancestors_end_no_search() {
    for with_children in [true, false] {
        let root = tree(&[(10, 12, 10, 1), (11, 10, 11, 1), (12, 11, 11, 1)], with_children);
        assert_eq!(Processes::at(root.path()).below(&BTreeSet::from([10])), BTreeSet::from([11, 12]));
    }
}

pub(super) fn sleeper() -> Child {
    Command::new("sleep").arg("1000").process_group(0).spawn().expect("sleep")
}

pub(super) fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_number_that_is_anothers_by_now_is_not_held() {
    let child = sleeper();
    let pid = child.id() as i32;
    let real = Processes::default();
    let identity = real.stat(pid).expect("it is there").identity();
    assert!(real.hold(identity).expect("held").is_some());
    // The number is the same, the process of another time.
    let earlier = Identity { start_time: identity.start_time - 1, ..identity };
    assert!(real.hold(earlier).expect("gone").is_none());
    assert!(Renderers::of(real.clone(), earlier).is_none());
    end(child);
    assert!(real.hold(identity).expect("gone").is_none());
    for pid in [i32::MIN, -1, 0] {
        assert!(real.hold(Identity { pid, start_time: 0 }).expect("gone").is_none(), "{pid}");
    }
    let first = real.identity(1).expect("it is there");
    assert!(Renderers::of(real, first).is_none(), "Everything is below the first process");
}
