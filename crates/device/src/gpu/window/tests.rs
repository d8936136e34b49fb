use std::collections::VecDeque;
use std::fs::File;

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 16 * PAGE;

fn window() -> Window {
    Window::new(SIZE, Arc::default())
}

fn memory(len: u64) -> HostMapping {
    let file = File::open("/dev/null").unwrap();
    HostMapping { file: Arc::new(file), offset: 0, len, caching: 1 }
}

fn requests(window: &mut Window) -> Vec<WindowRequest> {
    let mut requests = Vec::new();
    window.requests(&mut requests);
    requests
}

/// A blob that the guest sees at `at`.
fn mapped(window: &mut Window, resource: u32, at: u64, size: u64) {
    let resource = ResourceId(resource);
    window.place(Ticket(0), resource, at, size).unwrap();
    assert!(window.show(resource, memory(pages(size))).is_none());
    let asked = requests(window);
    let [WindowRequest::Map(request)] = &asked[..] else { panic!("{asked:?}") };
    let answer = window.answered(request.ticket, true);
    assert_eq!(answer, Some((Ticket(0), Reply::MapInfo(1))));
}

#[test]
fn a_place_outside_the_window_or_that_is_taken_is_refused() {
    let mut window = window();
    mapped(&mut window, 1, 4 * PAGE, 2 * PAGE);
    let mut place = |at, size| window.place(Ticket(9), ResourceId(2), at, size);
    for (at, size) in [(1, PAGE), (SIZE, PAGE), (0, SIZE + 1), (SIZE - PAGE, PAGE + 1), (u64::MAX - PAGE + 1, PAGE)] {
        assert_eq!(place(at, size), Err(ReplyError::InvalidParameter), "{size:#x} at {at:#x}");
    }
    for at in [0, 3, 4, 5] {
        assert_eq!(place(at * PAGE, 5 * PAGE), Err(ReplyError::InvalidParameter), "page {at}");
    }
    assert_eq!(window.place(Ticket(9), ResourceId(1), 0, PAGE), Err(ReplyError::Unspec), "a blob is shown once");
    assert_eq!(window.place(Ticket(9), ResourceId(2), 0, 4 * PAGE), Ok(()));
    assert_eq!(window.place(Ticket(9), ResourceId(3), 6 * PAGE, 10 * PAGE), Ok(()));
}

#[test]
fn more_blobs_than_a_vmm_has_slots_for_are_refused() {
    let mut window = Window::new(1 << 30, Arc::default());
    for resource in 0..caps::MAPPED_BLOBS as u32 {
        mapped(&mut window, resource, u64::from(resource) * PAGE, 1);
    }
    let more = ResourceId(u32::MAX);
    assert_eq!(window.place(Ticket(9), more, 1 << 29, 1), Err(ReplyError::OutOfMemory));
    window.take_away(ResourceId(0));
    assert_eq!(window.place(Ticket(9), more, 1 << 29, 1), Ok(()));
}

#[test]
fn who_waits_too_long_is_answered_and_what_comes_then_is_undone() {
    let mut window = window();
    let [wanted, asked] = [1, 2].map(ResourceId);
    window.place(Ticket(1), wanted, 0, PAGE).unwrap();
    window.place(Ticket(2), asked, PAGE, PAGE).unwrap();
    window.show(asked, memory(PAGE));
    let [WindowRequest::Map(request)] = &requests(&mut window)[..] else { panic!("No request") };
    assert_eq!(window.deadline(), None, "nobody said what time it is");
    let (now, mut answers) = (Instant::now(), Vec::new());
    window.pass(now, &mut answers);
    assert_eq!(window.deadline(), Some(now + PATIENCE));
    window.pass(now + PATIENCE - Duration::from_nanos(1), &mut answers);
    assert!(answers.is_empty());
    window.pass(now + PATIENCE, &mut answers);
    answers.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(answers, [(Ticket(1), FAILED), (Ticket(2), FAILED)]);
    assert!(matches!(requests(&mut window)[..], [WindowRequest::Unmap(UnmapRequest { at: PAGE, len: PAGE, .. })]));
    assert_eq!(window.answered(request.ticket, true), None);
    assert_eq!(window.deadline(), None);
    mapped(&mut window, 2, PAGE, PAGE);
}

#[test]
fn memory_shorter_than_its_blob_is_not_shown() {
    let mut window = window();
    for mapping in [memory(PAGE), HostMapping { offset: 1, ..memory(2 * PAGE) }] {
        window.place(Ticket(5), ResourceId(1), 0, PAGE + 1).unwrap();
        assert_eq!(window.show(ResourceId(1), mapping), Some((Ticket(5), FAILED)));
        assert!(requests(&mut window).is_empty() && window.taken.is_empty());
    }
}

#[test]
fn a_front_end_that_is_gone_is_asked_for_nothing() {
    let mut window = window();
    mapped(&mut window, 1, 0, PAGE);
    window.place(Ticket(2), ResourceId(2), PAGE, PAGE).unwrap();
    window.take_all_away();
    window.forget();
    assert!(requests(&mut window).is_empty());
    assert_eq!(window.stats.blob_bytes.get(), 0);
    mapped(&mut window, 1, 0, PAGE);
}

/// What befalls the window next; places and blobs by small numbers.
#[derive(Clone, Copy, Debug)]
enum Step {
    Place(u32, u64, u64),
    Show(u32),
    TakeAway(u32),
    /// The front-end does what it was asked first, or cannot.
    Serve(bool),
    TooLate,
    Abandon,
    Renew,
}

fn any_step() -> impl Strategy<Value = Step> {
    let blob = 0u32..6;
    prop_oneof![
        6 => (blob.clone(), 0u64..16, 1u64..6).prop_map(|(blob, at, len)| Step::Place(blob, at, len)),
        6 => blob.clone().prop_map(Step::Show),
        3 => blob.prop_map(Step::TakeAway),
        8 => prop::bool::weighted(0.8).prop_map(Step::Serve),
        1 => Just(Step::TooLate),
        1 => Just(Step::Abandon),
        1 => Just(Step::Renew),
    ]
}

/// A front-end that refuses what overlaps, and the answers it owes.
#[derive(Default)]
struct FrontEnd {
    pages: [Option<Ticket>; 16],
    asked: VecDeque<WindowRequest>,
}

impl FrontEnd {
    fn serve(&mut self, willing: bool) -> Option<(Ticket, bool)> {
        match self.asked.pop_front()? {
            WindowRequest::Map(MapRequest { ticket, at, mapping, .. }) => {
                let range = (at / PAGE) as usize..((at + mapping.len) / PAGE) as usize;
                assert!(self.pages[range.clone()].iter().all(Option::is_none), "a place that is taken");
                if willing {
                    self.pages[range].fill(Some(ticket));
                }
                Some((ticket, willing))
            }
            WindowRequest::Unmap(UnmapRequest { ticket, at, len, .. }) => {
                let range = (at / PAGE) as usize..((at + len) / PAGE) as usize;
                let was = self.pages[range.clone()].iter().all(Option::is_some);
                self.pages[range].fill(None);
                Some((ticket, was))
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_overlaps_each_command_is_answered_once_and_all_that_is_seen_is_known(
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let mut window = window();
        let mut front_end = FrontEnd::default();
        let (mut open, mut last, mut now) = (Vec::new(), 0, Instant::now());
        for step in steps {
            let mut answers = Vec::new();
            match step {
                Step::Place(blob, at, len) => {
                    last += 1;
                    if window.place(Ticket(last), ResourceId(blob), at * PAGE, len * PAGE).is_ok() {
                        open.push(Ticket(last));
                    }
                }
                Step::Show(blob) => answers.extend(window.show(ResourceId(blob), memory(SIZE))),
                Step::TakeAway(blob) => answers.extend(window.take_away(ResourceId(blob))),
                Step::Serve(willing) => {
                    if let Some((ticket, ok)) = front_end.serve(willing) {
                        answers.extend(window.answered(ticket, ok));
                    }
                }
                Step::TooLate => {
                    window.pass(now, &mut answers);
                    now += PATIENCE;
                    window.pass(now, &mut answers);
                }
                Step::Abandon => {
                    window.abandon();
                    open.clear();
                }
                Step::Renew => {
                    window.take_all_away();
                    open.clear();
                }
            }
            front_end.asked.extend(requests(&mut window));
            for (ticket, _) in answers {
                let at = open.iter().position(|open| *open == ticket);
                prop_assert!(at.is_some(), "{:?} has no open answer", ticket);
                open.remove(at.unwrap());
            }
            prop_assert_eq!(window.open, open.len());
            prop_assert_eq!(window.taken.len(), window.mappings.len());
            if window.mappings.is_empty() {
                prop_assert_eq!(window.deadline(), None);
            }
        }
        window.take_all_away();
        front_end.asked.extend(requests(&mut window));
        while front_end.serve(true).is_some() {}
        prop_assert_eq!(front_end.pages, [None; 16], "what is seen and was forgotten");
        prop_assert_eq!(window.stats.blob_bytes.get(), 0);
    }
}
