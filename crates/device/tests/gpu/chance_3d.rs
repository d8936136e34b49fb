//! Conversations about 3D that nobody wrote: when a library answers must change no reply, and whatever it answers, nothing
//! may be left.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use device::{Answer, Front, Memory, Outbox, Request, Start, VirtioDevice, WindowRequest};
use proptest::prelude::*;
use renderer::{Late, Mood, Null3d, Soft};

use crate::asks::{
    Ask, IMAGE, attach, close, create_2d, create_3d, detach, flush, from_host, join, leave, map, mappable, open,
    scanout, submit, to_host, unmap, unref,
};
use crate::machine::{PIECES, gpu};
use crate::strict::{PAGE, Pace};
use crate::window::{FEATURES, Guest, WINDOW};

/// What the conversation begins with: something to talk about.
fn prelude() -> [Ask; 6] {
    [open(1, 1), open(2, 4), create_3d(1, IMAGE), attach(1, 0x1000, 0x400), join(1, 1), mappable(2, 2, 2 * PAGE)]
}

/// Whether its effect depends on what has been answered: heads show what was read, and who goes is not waited for.
fn depends(ask: &Ask) -> bool {
    let bytes = ask.bytes();
    matches!(bytes[..2], [2..=4, 1] | [9, 2])
}

/// A request about one of four resources and three contexts, often a possible one.
fn any_ask() -> impl Strategy<Value = Ask> {
    let (id, ctx) = (1u32..5, 1u32..4);
    let both = (ctx.clone(), id.clone());
    let part = prop_oneof![3 => Just([0, 0, 0, 16, 16, 1]), 1 => any::<[u8; 6]>().prop_map(|part| part.map(u32::from))];
    let plain = prop_oneof![
        3 => (ctx.clone(), prop_oneof![Just(1u32), Just(4), 0u32..6]).prop_map(|(ctx, kind)| open(ctx, kind)),
        1 => ctx.clone().prop_map(close),
        3 => both.clone().prop_map(|(ctx, id)| join(ctx, id)),
        1 => both.clone().prop_map(|(ctx, id)| leave(ctx, id)),
        3 => id.clone().prop_map(|id| create_3d(id, IMAGE)),
        1 => id.clone().prop_map(|id| create_2d(id, 16, 16)),
        3 => both.clone().prop_map(|(ctx, id)| mappable(ctx, id, 2 * PAGE)),
        3 => (id.clone(), 0u64..5).prop_map(|(id, at)| map(id, at * PAGE)),
        1 => id.clone().prop_map(unmap),
        2 => id.clone().prop_map(unref),
        2 => id.clone().prop_map(|id| attach(id, 0x1000, 0x400)),
        1 => id.clone().prop_map(detach),
        4 => (both.clone(), part.clone()).prop_map(|((ctx, id), part)| to_host(ctx, id, part, 0, [0; 3])),
        2 => (both, part).prop_map(|((ctx, id), part)| from_host(ctx, id, part, 0, [0; 3])),
        5 => (ctx, any::<bool>()).prop_map(|(ctx, empty)| submit(ctx, if empty { &[] } else { &[0] })),
        2 => (0u32..2, 0u32..5).prop_map(|(head, id)| scanout(head, id, 16, 16)),
        3 => id.prop_map(|id| flush(id, 16, 16)),
    ];
    let fence = prop_oneof![2 => Just((false, None)), 2 => Just((true, None)), 1 => (0u8..3).prop_map(|ring| (true, Some(ring)))];
    (plain, fence).prop_map(|(ask, (fenced, ring))| {
        let ask = if fenced { ask.fenced(7) } else { ask };
        ring.map_or(ask.clone(), |ring| ask.on(ring))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_late_library_changes_no_reply_and_no_picture(
        asks in prop::collection::vec(any_ask(), 1..60),
        pace in 1usize..5,
        room in prop_oneof![Just(usize::MAX), 1usize..6],
    ) {
        let asks: Vec<Ask> = prelude().into_iter().chain(asks).collect();
        let mut prompt = Guest::new(Pace::Prompt);
        let mut late = Guest::new(Pace::Late);
        late.library.known().room = room;
        let mut sent = Vec::new();
        for (at, ask) in asks.iter().enumerate() {
            let expected = prompt.ask(ask);
            if depends(ask) {
                late.wait();
            }
            sent.push((ask, expected, late.send(ask)));
            if at.is_multiple_of(pace) || depends(ask) {
                late.wait();
            }
        }
        late.wait();
        for (ask, expected, index) in sent {
            prop_assert_eq!(late.reply(index), Some(expected), "{:?}", ask);
        }
        let heads = |guest: &Guest| guest.screen.seen().heads.clone();
        prop_assert_eq!(heads(&prompt), heads(&late));
        prop_assert_eq!(&prompt.window.seen, &late.window.seen);
        let left = |guest: &Guest| {
            let stats = guest.stats.snapshot();
            (stats.resources, stats.contexts, stats.image_bytes, stats.blob_bytes, stats.panics)
        };
        prop_assert_eq!(left(&prompt), left(&late));
        for mut guest in [prompt, late] {
            prop_assert!(guest.library.known().faults.is_empty(), "{:?}", guest.library.known().faults);
            guest.finish();
        }
    }

    #[test]
    fn a_library_and_a_front_end_that_answer_anything_at_all_leave_nothing_and_each_request_is_answered_once(
        asks in prop::collection::vec(any_ask(), 1..60),
        seed in any::<u64>(),
        (never, twice, fail) in any::<(u8, u8, u8)>(),
    ) {
        let (gpu, screen, stats) = gpu(Box::new(Soft::new()), false);
        let mood = Mood { seed, delay: 9, never: never / 4, twice, fail: fail / 2, blind: 0 };
        let mut gpu = gpu.with_three_d(Box::new(Late::new(Null3d::default(), mood).unwrap()), WINDOW);
        gpu.config().front(Front { maps: true, context_init: true });
        let memory = Memory::new(PIECES.clone()).unwrap();
        gpu.memory(&memory);
        gpu.start(FEATURES, Start::Fresh);
        let (mut open, mut now, mut chance) = (HashSet::new(), Instant::now(), seed);
        for ask in prelude().iter().chain(&asks) {
            let (bytes, mut reply) = (ask.bytes(), Vec::new());
            let request = Request { bytes: &bytes, carried: bytes.len() as u64, writable: 4096 };
            if let Answer::Later(ticket) = gpu.request(&memory, 0, request, &mut reply) {
                prop_assert!(open.insert(ticket));
            }
            chance = chance.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if chance.is_multiple_of(3) {
                now += Duration::from_secs(chance % 3);
                let mut out = Outbox::default();
                gpu.poll(&memory, now, &mut out);
                for completion in out.completions {
                    prop_assert!(open.remove(&completion.ticket), "{:?} is answered twice", completion.ticket);
                }
                for (at, request) in out.window.into_iter().enumerate() {
                    let (WindowRequest::Map(device::MapRequest { ticket, .. })
                    | WindowRequest::Unmap(device::UnmapRequest { ticket, .. })) = request;
                    // It answers, refuses, answers twice, or never.
                    match (chance >> 8).wrapping_add(at as u64) % 4 {
                        0 => gpu.mapped(ticket, true),
                        1 => gpu.mapped(ticket, false),
                        2 => (0..2).for_each(|_| gpu.mapped(ticket, true)),
                        _ => {}
                    }
                }
            }
        }
        let mut out = Outbox::default();
        gpu.abandon(&mut out);
        for completion in out.completions {
            prop_assert!(open.remove(&completion.ticket), "{:?} is answered twice", completion.ticket);
        }
        prop_assert!(open.is_empty() && gpu.parked() == 0, "{open:?} were never answered");
        gpu.stop();
        gpu.reset();
        let stats = stats.snapshot();
        let left = (stats.resources, stats.contexts, stats.charged_bytes, stats.blob_bytes, stats.panics);
        prop_assert_eq!(left, (0, 0, 0, 0, 0));
        prop_assert!(screen.seen().heads.is_empty());
    }
}
