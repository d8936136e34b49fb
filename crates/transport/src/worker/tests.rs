use std::convert::Infallible;

use super::*;

fn link() -> Link<Infallible> {
    let eventfd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let changes = Mutex::new(Some(VecDeque::new()));
    Link { changes, attention: Arc::default(), wake: eventfd(), ended: eventfd() }
}

#[test]
fn a_guest_cannot_fill_the_backlog_with_accesses() {
    let link = link();
    link.push(Change::Features(1));
    for _ in 0..1000 {
        link.push(Change::Look);
        assert!(link.push(Change::ConfigAccessed) <= 3);
    }
    // What is not news of the same kind waits in its order.
    link.push(Change::Features(2));
    let mut kinds = std::iter::from_fn(|| link.next()).map(|change| std::mem::discriminant(&change));
    let expected: [Change<Infallible>; 4] =
        [Change::Features(0), Change::Look, Change::ConfigAccessed, Change::Features(0)];
    assert!(expected.iter().map(std::mem::discriminant).eq(kinds.by_ref()));
    // Once it was taken, the next access is news again.
    assert_eq!(link.push(Change::Look), 1);
}

#[test]
fn whoever_waits_learns_that_the_thread_has_ended() {
    let mut link = Arc::new(link());
    drop(Ended(link.clone()));
    assert_eq!(link.settle(), Err(Gone));
    assert_eq!(link.stop_ring(0), Err(Gone));
    assert_eq!(link.change(Change::Look), Ok(()));
}
