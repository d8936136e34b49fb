use std::collections::HashSet;

use proptest::prelude::*;
use protocol::ReplyError;

use super::*;

/// A guest's and a renderer's next word.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// A command comes on one of four timelines; with `true` the renderer is asked for a fence.
    Enter(u8, bool),
    /// One of the commands that are under way is done.
    Done(usize),
    /// One of the fences is retired.
    Retire(usize),
    /// What never was is retired, or retired again.
    Lie(u64),
    /// The ring stops.
    Stop,
}

fn any_word() -> impl Strategy<Value = Word> {
    prop_oneof![
        6 => (0u8..4, any::<bool>()).prop_map(|(line, fence)| Word::Enter(line, fence)),
        5 => any::<usize>().prop_map(Word::Done),
        3 => any::<usize>().prop_map(Word::Retire),
        1 => any::<u64>().prop_map(Word::Lie),
        1 => prop_oneof![20 => Just(Word::Lie(0)), 1 => Just(Word::Stop)],
    ]
}

fn line(number: u8) -> Line {
    match number {
        0 => Line::Global,
        1 => Line::Ring(ContextId(1), 0),
        2 => Line::Ring(ContextId(1), 1),
        _ => Line::Ring(ContextId(2), 0),
    }
}

/// What anybody could know of a command.
#[derive(Debug)]
struct Known {
    ticket: Ticket,
    line: Line,
    fence: Option<Ticket>,
    done: bool,
    retired: bool,
    released: bool,
}

proptest! {
    #[test]
    fn each_command_is_answered_once_in_the_order_of_its_timeline_and_not_before_it_is_complete(
        words in prop::collection::vec(any_word(), 0..200),
    ) {
        let mut timelines = Timelines::default();
        let mut all: Vec<Known> = Vec::new();
        let mut tickets = 1u64..;
        let mut ticket = || tickets.next().map(Ticket).unwrap();
        for word in words.into_iter().chain([Word::Stop]) {
            let mut released = Vec::new();
            match word {
                Word::Enter(number, fenced) => {
                    let known = Known {
                        ticket: ticket(),
                        line: line(number),
                        fence: fenced.then(&mut ticket),
                        done: false,
                        retired: false,
                        released: false,
                    };
                    timelines.enter(known.line, known.ticket, Header::default());
                    if let Some(fence) = known.fence {
                        timelines.wait_for(known.ticket, fence);
                    }
                    all.push(known);
                }
                Word::Done(pick) => {
                    let mut open: Vec<_> = all.iter_mut().filter(|known| !known.done).collect();
                    if !open.is_empty() {
                        let at = pick % open.len();
                        open[at].done = true;
                        timelines.done(open[at].ticket, Header::default(), Reply::OkNoData, &mut released);
                    }
                }
                Word::Retire(pick) => {
                    let mut open: Vec<_> = all.iter_mut().filter(|known| known.fence.is_some() && !known.retired).collect();
                    if !open.is_empty() {
                        let at = pick % open.len();
                        open[at].retired = true;
                        prop_assert!(timelines.retired(open[at].fence.unwrap(), &mut released));
                    }
                }
                Word::Lie(number) => {
                    let is_open = |known: &Known| known.fence == Some(Ticket(number)) && !known.retired;
                    if !all.iter().any(is_open) {
                        prop_assert!(!timelines.retired(Ticket(number), &mut released));
                        prop_assert!(released.is_empty());
                    }
                }
                Word::Stop => {
                    let expected: HashSet<_> =
                        all.iter().filter(|known| known.done && !known.released).map(|known| known.ticket).collect();
                    let given: HashSet<_> = timelines.take_all().into_iter().map(|(ticket, ..)| ticket).collect();
                    prop_assert_eq!(expected, given);
                    prop_assert_eq!(timelines.held(), 0);
                    all.clear();
                }
            }
            for (ticket, _, reply) in released {
                let at = all.iter().position(|known| known.ticket == ticket).unwrap();
                prop_assert_eq!(reply, Reply::OkNoData);
                prop_assert!(all[at].done && (all[at].fence.is_none() || all[at].retired) && !all[at].released);
                prop_assert!(all[..at].iter().all(|earlier| earlier.line != all[at].line || earlier.released));
                all[at].released = true;
            }
            // Nobody waits for nothing: the first of each timeline is not complete.
            for number in 0..4 {
                if let Some(first) = all.iter().find(|known| known.line == line(number) && !known.released) {
                    prop_assert!(!first.done || first.fence.is_some() && !first.retired);
                }
            }
            let held = all.iter().filter(|known| known.done && !known.released).count();
            prop_assert_eq!(timelines.held(), held);
        }
    }
}

#[test]
fn a_command_on_no_timeline_is_answered_at_once_and_a_slow_ring_holds_up_no_other() {
    let mut timelines = Timelines::default();
    let mut released = Vec::new();
    let header = Header::default();
    timelines.enter(Line::Ring(ContextId(1), 1), Ticket(1), header);
    timelines.wait_for(Ticket(1), Ticket(2));
    timelines.done(Ticket(1), header, Reply::OkNoData, &mut released);
    timelines.enter(Line::Ring(ContextId(1), 2), Ticket(3), header);
    timelines.done(Ticket(3), header, Reply::OkNoData, &mut released);
    timelines.done(Ticket(4), header, Reply::Error(ReplyError::Unspec), &mut released);
    assert_eq!(released.iter().map(|(ticket, ..)| ticket.0).collect::<Vec<_>>(), [3, 4]);
    assert!(timelines.retired(Ticket(2), &mut released));
    assert_eq!(released.len(), 3);
    assert!(timelines.lines.is_empty() && timelines.places.is_empty() && timelines.fences.is_empty());
}
