//! Several servers in one process: a GPU and its input devices.

use super::super::Options;
use super::front::{Front, Served};
use crate::fake;

/// Names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().into())
        .collect()
}

fn named(name: &str) -> Served {
    Served::new(Options { name: name.into(), ..Options::default() })
}

#[test]
fn each_server_has_a_thread_of_its_own_name() {
    let (first, second) = (named("first of two"), named("second of two"));
    let mut fronts = [Front::ready(&first), Front::ready(&second)];
    for front in &mut fronts {
        assert_eq!(front.request(0, b"e", 1), b"e");
    }
    let threads = threads();
    assert!(["first of two", "second of two"].iter().all(|name| threads.iter().any(|thread| thread == name)));
}

#[test]
fn memory_that_vanishes_is_counted_where_it_was_missed() {
    let (first, second) = (named("first"), named("second"));
    let (mut near, mut far) = (Front::ready(&first), Front::ready(&second));
    far.request_in_vanished_memory(0);
    assert_eq!(far.wait_used(0).len, 16);
    assert_eq!(near.request(0, b"echo", 16), b"echo");
    // A turn of the thread is over, and what befell it counted, when the next change is in force.
    near.enable(0, true);
    far.enable(0, true);
    assert_eq!(first.stats.memory_faults.get(), 0);
    assert!(second.stats.memory_faults.get() >= 2);
}

#[test]
fn a_panic_and_a_front_end_that_goes_concern_one_server_only() {
    let (first, second) = (named("first"), named("second"));
    let (mut near, mut far) = (Front::ready(&first), Front::ready(&second));
    near.offer(0, &[fake::LATER], 1);
    near.publish(0);
    first.wait_for_requests(1);
    far.request(0, &[fake::PANIC], 1);
    far.enable(0, true);
    assert_eq!((second.stats.panics.get(), first.stats.panics.get()), (1, 0));
    drop(far);
    first.seen.release();
    assert_eq!(near.wait_used(0).len, 1);
    let mut again = Front::ready(&second);
    assert_eq!(again.request(0, b"e", 1), b"e");
}
