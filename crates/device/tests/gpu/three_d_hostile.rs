//! What a guest may do with contexts, their resources and blobs to bring a device down: HOSTILE's rows on 3D that need no library.

mod blobs;

use std::time::Duration;

use device::{Front, Start, VirtioDevice, caps};

use crate::asks::{
    Ask, Desc, IMAGE, attach, blob, capset, capset_info, close, create_2d, create_3d, detach, display_info, flush,
    from_host, guest_blob, join, leave, map, mappable, named, open, raw, scanout, scanout_blob, submit, submit_sized,
    to_host, unmap, unref,
};
use crate::strict::{PAGE, Pace};
use crate::window::{Guest, WINDOW};

const VIRGL: u32 = 1;
const VENUS: u32 = 4;
/// The whole of [`IMAGE`].
const ALL: [u32; 6] = [0, 0, 0, 16, 16, 1];
const PLAIN: [u32; 3] = [0; 3];

/// A guest with an image, a backing of it and a context of each kind that are in use.
fn in_use(pace: Pace) -> Guest {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(1, VIRGL), create_3d(10, IMAGE), attach(10, 0x1000, 0x1000), join(1, 10)]);
    guest.all("ok", &[submit(1, &[0]), open(2, VENUS), submit(2, &[0])]);
    guest.library.known().pace = pace;
    guest
}

#[test]
fn a_context_is_of_what_was_offered_and_has_an_id_of_its_own() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(1, VIRGL), open(2, 2), open(3, VENUS), open(4, 0), open(u32::MAX, VENUS)]);
    guest.all("invalid_context", &[open(0, VIRGL), open(1, VIRGL), open(1, VENUS), open(u32::MAX, 0)]);
    guest.all("invalid_parameter", &[open(9, 3), open(9, 5), open(9, 6), open(9, 9), open(9, 63), open(9, 255)]);
    guest.all("invalid_context", &[close(0), close(9), submit(0, &[0]), submit(9, &[0]), join(9, 1), leave(9, 1)]);
    guest.all("ok", &[close(1), open(1, VENUS), submit(1, &[0]), close(1), close(2), close(3), close(4)]);
    guest.all("invalid_context", &[close(1), submit(1, &[0])]);
    // Nobody but the third one had work.
    let called = ["open", "close"].map(|method| guest.library.known().called(method));
    assert_eq!(called, [1, 1]);
    guest.finish();
}

#[test]
fn a_context_s_name_is_cut() {
    let mut guest = Guest::new(Pace::Prompt);
    for (ctx, length) in [(1, 0), (2, 64), (3, 65), (4, 200), (5, u32::MAX)] {
        guest.all("ok", &[named(ctx, VENUS, length), submit(ctx, &[0])]);
    }
    guest.finish();
}

#[test]
fn exhaustion_of_contexts() {
    for kind in [VIRGL, VENUS] {
        let mut guest = Guest::new(Pace::Prompt);
        let opened = (1..10_000).find(|ctx| guest.ask(&open(*ctx, kind)) != "ok").unwrap() - 1;
        assert!((16..=1024).contains(&opened), "{opened}");
        guest.all("out_of_memory", &[open(20_000, kind), open(20_000, kind)]);
        guest.all("ok", &[close(1), open(20_000, kind)]);
        guest.all("out_of_memory", &[open(1, kind)]);
        assert_eq!(guest.stats.contexts.get(), u64::from(opened));
        guest.finish();
    }
}

#[test]
fn a_context_s_id_is_used_again_while_the_first_one_opens() {
    for last in [Pace::Prompt, Pace::Late] {
        let mut guest = Guest::new(Pace::Never);
        guest.must(&open(1, VENUS));
        let first = guest.send(&submit(1, &[1]).fenced(1));
        let second = guest.send(&close(1));
        let third = guest.send(&open(1, VIRGL));
        let fourth = guest.send(&submit(1, &[2]).fenced(2));
        let fifth = guest.send(&close(1));
        guest.settle();
        guest.library.release(last);
        guest.wait();
        assert!(guest.reply(first).is_some());
        assert_eq!([second, third, fourth, fifth].map(|index| guest.reply(index)), [Some("ok"); 4]);
        guest.finish();
    }
}

#[test]
fn work_of_a_context_that_is_closed_under_it_is_answered() {
    let mut guest = in_use(Pace::Never);
    let asks = [
        submit(2, &[1]).fenced(1).on(5),
        submit(2, &[1]).fenced(2),
        mappable(2, 77, PAGE),
        close(2),
        unref(77),
        open(2, VENUS),
        submit(2, &[1]).fenced(3).on(63),
    ];
    let sent = asks.map(|ask| guest.send(&ask));
    guest.settle();
    guest.library.release(Pace::Late);
    guest.wait();
    assert!(sent.iter().all(|index| guest.reply(*index).is_some()));
    assert_eq!([sent[3], sent[5], sent[6]].map(|index| guest.reply(index)), [Some("ok"); 3]);
    guest.finish();
}

#[test]
fn joining_and_leaving_in_any_order() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(1, VIRGL), create_2d(5, 8, 8), guest_blob(6, 0x1000, 0x1000)]);
    guest.all("invalid_resource", &[join(1, 99), join(1, 0), leave(1, 99), leave(1, 0)]);
    // Before the context has work; twice; and 2D resources, which stay where they are.
    guest.all("ok", &[create_3d(10, IMAGE), join(1, 10), join(1, 10), join(1, 5), join(1, 6), submit(1, &[0])]);
    guest.all("ok", &[leave(1, 10), join(1, 10), leave(1, 5), leave(1, 6), unref(5), unref(6)]);
    // A resource that goes leaves.
    guest.all("ok", &[unref(10), create_3d(10, IMAGE), join(1, 10), close(1), open(1, VIRGL), submit(1, &[0])]);
    guest.finish();
}

#[test]
fn exhaustion_of_joins() {
    let mut guest = Guest::new(Pace::Prompt);
    let contexts = 1..=60;
    let resources = 1..=2000;
    contexts.clone().for_each(|ctx| guest.must(&open(ctx, VENUS)));
    resources.clone().for_each(|resource| guest.must(&create_2d(resource, 1, 1)));
    let mut joined = 0;
    let refused =
        contexts.flat_map(|ctx| resources.clone().map(move |resource| (ctx, resource))).find(|(ctx, resource)| {
            joined += 1;
            guest.ask(&join(*ctx, *resource)) == "out_of_memory"
        });
    let (ctx, resource) = refused.expect("an end");
    assert!((1 << 14..=1 << 17).contains(&joined), "{joined}");
    guest.all("ok", &[leave(1, 1), join(ctx, resource)]);
    guest.all("out_of_memory", &[join(1, 1)]);
    guest.all("ok", &[unref(2), join(1, 1)]);
    guest.finish();
}

#[test]
fn fences_on_timelines_that_are_not_there() {
    let mut guest = in_use(Pace::Prompt);
    let nothing = [0];
    guest.all("ok", &[submit(2, &nothing).fenced(1).on(0), submit(2, &nothing).fenced(2).on(63)]);
    guest.all("ok", &[submit(1, &nothing).fenced(3).on(0)]);
    let bad = [
        submit(2, &nothing).fenced(4).on(64),
        submit(2, &nothing).fenced(5).on(255),
        submit(1, &nothing).fenced(6).on(1),
        submit(1, &nothing).fenced(7).on(64),
    ];
    guest.all("invalid_parameter", &bad);
    // A number without a flag says nothing.
    guest.all("ok", &[submit(1, &nothing).fenced(8).on(0)]);
    guest.finish();
}

#[test]
fn timelines_of_a_driver_that_did_not_accept_contexts_of_several_kinds() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.stop();
    guest.gpu.reset();
    guest.gpu.start(0b01111, Start::Fresh);
    guest.must(&open(1, 0));
    let index = guest.send(&submit(1, &[0]).fenced(9).on(7));
    guest.wait();
    // It is answered, whatever with, and with its fence.
    let reply = guest.reply_bytes(index).unwrap();
    assert_eq!(reply[8..16], 9u64.to_le_bytes());
    guest.finish();
}

#[test]
fn fences_and_contexts_on_the_cursor_queue() {
    let mut guest = in_use(Pace::Prompt);
    let lost = [
        submit(1, &[0]).fenced(1),
        open(9, VIRGL).fenced(2),
        mappable(2, 70, PAGE),
        close(1),
        create_3d(70, IMAGE),
        map(10, 0),
        capset_info(0),
    ];
    guest.all("unspec", &lost.map(Ask::on_cursor_queue));
    let index = guest.send(&raw(0x301, &[0, 3, 4, 0, 0, 0, 0, 0]).fenced(77).of(1).on(200).on_cursor_queue());
    guest.wait();
    assert_eq!(guest.reply_bytes(index).unwrap()[8..16], 77u64.to_le_bytes());
    guest.finish();
}

#[test]
fn transfers_of_parts_that_are_not_there() {
    let mut guest = in_use(Pace::Prompt);
    let mipped: Desc = [2, 1, 2, 64, 32, 1, 1, 5, 0, 0];
    guest.all("ok", &[create_3d(11, mipped), attach(11, 0x2000, 0x4000), join(1, 11)]);
    for way in [to_host, from_host] {
        guest.all("ok", &[way(1, 10, ALL, 0, PLAIN), way(1, 11, [0, 0, 0, 2, 1, 1], 0, [5, 0, 0])]);
        let most = u32::MAX;
        let bad = [
            way(1, 10, [0, 0, 0, 17, 16, 1], 0, PLAIN),
            way(1, 10, [1, 0, 0, 16, 16, 1], 0, PLAIN),
            way(1, 10, [0, most, 0, 16, 2, 1], 0, PLAIN),
            way(1, 10, [most, most, most, most, most, most], 0, PLAIN),
            // width * height * depth wraps in 32 and in 64 bits.
            way(1, 10, [0, 0, 0, 1 << 16, 1 << 16, 1], 0, PLAIN),
            way(1, 10, [0, 0, 0, 1 << 31, 1 << 31, 1 << 31], 0, PLAIN),
            way(1, 10, ALL, 0, [1, 0, 0]),
            way(1, 10, ALL, 0, [32, 0, 0]),
            way(1, 10, ALL, 0, [most, 0, 0]),
            way(1, 11, [0, 0, 0, 3, 1, 1], 0, [5, 0, 0]),
            way(1, 11, [0, 0, 0, 1, 1, 1], 0, [6, 0, 0]),
            // Past the end of the backing.
            way(1, 10, ALL, 1 << 63, PLAIN),
            way(1, 10, ALL, u64::MAX, PLAIN),
            way(1, 10, ALL, 0x1001, PLAIN),
        ];
        guest.all("invalid_parameter", &bad);
        guest.all("invalid_resource", &[way(1, 99, ALL, 0, PLAIN), way(1, 0, ALL, 0, PLAIN)]);
        guest.all("invalid_context", &[way(99, 10, ALL, 0, PLAIN)]);
        // Whatever the answer to a stride that wraps, it comes.
        for rest in [[0, 1 << 31, 0], [0, most, most], [0, 1, 1], [0, 0, 1 << 31]] {
            guest.ask(&way(1, 10, ALL, 0, rest));
            guest.ask(&way(0, 10, ALL, 4, rest));
        }
        guest.must(&detach(10));
        assert_ne!(guest.ask(&way(1, 10, ALL, 0, PLAIN)), "ok", "without pages");
        guest.must(&attach(10, 0x1000, 0x1000));
    }
    guest.finish();
}

/// CVE-2026-3886, CVE-2019-18388 and their kin: sizes that cannot be, or whose product wraps.
#[test]
fn resources_of_impossible_sizes() {
    let mut guest = Guest::new(Pace::Prompt);
    let most = u32::MAX;
    let bad: [Desc; 14] = [
        [2, 1, 2, 0, 16, 1, 1, 0, 0, 0],
        [2, 1, 2, 16, 0, 1, 1, 0, 0, 0],
        [2, 1, 2, 16, 16, 0, 1, 0, 0, 0],
        [2, 1, 2, 16, 16, 1, 0, 0, 0, 0],
        [2, 1, 2, most, 16, 1, 1, 0, 0, 0],
        [2, 1, 2, 16, most, 1, 1, 0, 0, 0],
        [2, 1, 2, 16, 16, most, 1, 0, 0, 0],
        [2, 1, 2, 16, 16, 1, 1 << 31, 0, 0, 0],
        [2, 1, 2, 100_000, 16, 1, 1, 0, 0, 0],
        [2, 1, 2, 16, 16, 1, 1, 16, 0, 0],
        [2, 1, 2, 16, 16, 1, 1, most, 0, 0],
        [2, 1, 2, 16, 16, 1, 1, 0, 255, 0],
        [99, 1, 2, 16, 16, 1, 1, 0, 0, 0],
        [2, 9999, 2, 16, 16, 1, 1, 0, 0, 0],
    ];
    for desc in bad {
        let reply = guest.ask(&create_3d(1, desc));
        assert!(["invalid_parameter", "out_of_memory"].contains(&reply), "{reply} to {desc:?}");
    }
    // 64 GiB, each side of which is fine.
    guest.all("out_of_memory", &[create_3d(1, [2, 1, 2, 16384, 16384, 1, 2048, 0, 0, 0])]);
    guest.all("invalid_resource", &[create_3d(0, IMAGE)]);
    guest.all("ok", &[create_3d(1, IMAGE)]);
    guest.all("invalid_resource", &[create_3d(1, IMAGE), create_2d(1, 8, 8), guest_blob(1, 0x1000, 0x1000)]);
    guest.finish();
}

#[test]
fn exhaustion_of_a_library_s_memory() {
    let mut guest = Guest::new(Pace::Prompt);
    let large: Desc = [2, 1, 2, 2048, 2048, 1, 1, 0, 0, 0];
    let made = (1..10_000).find(|resource| guest.ask(&create_3d(*resource, large)) != "ok").expect("an end") - 1;
    // 16 MiB each, and 64 in all, which also has what is written down of them.
    assert_eq!(made, 3);
    guest.all("out_of_memory", &[create_3d(20_000, large)]);
    guest.all("ok", &[unref(1), create_3d(20_000, large)]);
    guest.all("out_of_memory", &[create_3d(1, large)]);
    guest.finish();
}

/// CVE-2017-5578 and its kin: a second backing, and one that nobody takes back.
#[test]
fn cve_2017_5578_second_backing_of_a_3d_resource() {
    let mut guest = in_use(Pace::Prompt);
    guest.all("unspec", &[attach(10, 0x1000, 0x1000)]);
    guest.all("ok", &[detach(10)]);
    assert_ne!(guest.ask(&detach(10)), "ok");
    guest.all("invalid_parameter", &[attach(10, 0x10_0000, 0x1000), attach(10, u64::MAX - 0x10, 0x1000)]);
    guest.all("ok", &[attach(10, 0x1000, 0x1000), unref(10), create_3d(10, IMAGE), attach(10, 0x1000, 0x1000)]);
    guest.finish();
}

/// QEMU 11.1.1: SUBMIT_3D whose size is another one than its bytes.
#[test]
fn qemu_11_1_1_submits_of_wrong_sizes() {
    let mut guest = in_use(Pace::Prompt);
    guest.all("ok", &[submit(1, &[]), submit(1, &[0; 100]), submit_sized(1, 4, &[0; 100]), submit(1, &[0; 16_384])]);
    let bad = [
        submit_sized(1, 8, &[0]),
        submit_sized(1, u32::MAX, &[0]),
        submit_sized(1, 1 << 31, &[0]),
        submit_sized(1, 3, &[0]),
        submit_sized(1, 1, &[0]),
        submit_sized(1, 0x1001, &[0; 0x1000]),
    ];
    guest.all("invalid_parameter", &bad);
    // More than a library should be asked to swallow.
    let over = vec![0; (4 << 20) / 4 + 1];
    assert!(["invalid_parameter", "out_of_memory"].contains(&guest.ask(&submit(1, &over))));
    guest.all("ok", &[submit(1, &[0])]);
    guest.finish();
}

#[test]
fn capability_sets_by_bad_index_id_and_room() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("capset_info", &[capset_info(0), capset_info(1), capset_info(2)]);
    guest.all("invalid_parameter", &[capset_info(3), capset_info(5), capset_info(u32::MAX)]);
    guest.all("capset", &[capset(1, 1), capset(2, 2), capset(2, 1), capset(4, 0)]);
    guest.all("invalid_parameter", &[capset(99, 0), capset(0, 0), capset(6, 0), capset(u32::MAX, u32::MAX)]);
    // CVE-2016-10028, CVE-2021-3546: no room for it.
    guest.all("invalid_parameter", &[capset(2, 2).room(24), capset(2, 2).room(24 + 1383), capset_info(0).room(24)]);
    guest.all("nothing", &[capset(2, 2).room(0), capset(2, 2).room(23)]);
    let index = guest.send(&capset(1, 1).room(24 + 308));
    assert_eq!(guest.reply_bytes(index).unwrap().len(), 24 + 308);
    guest.finish();
}

/// Each request of 3D, cut off after each of its bytes.
#[test]
fn requests_that_are_cut_short() {
    let asks = [
        open(9, VIRGL),
        close(9),
        join(1, 10),
        leave(1, 10),
        create_3d(70, IMAGE),
        to_host(1, 10, ALL, 0, PLAIN),
        from_host(1, 10, ALL, 0, PLAIN),
        submit(1, &[0; 4]),
        map(20, 0),
        unmap(20),
        mappable(2, 20, PAGE),
        capset_info(0),
        capset(1, 1),
    ];
    let mut guest = in_use(Pace::Prompt);
    for ask in asks {
        for cut in 0..ask.bytes().len() {
            let reply = guest.ask(&ask.clone().cut(cut));
            assert!(["unspec", "invalid_parameter"].contains(&reply), "{reply} to {cut} bytes of {ask:?}");
        }
    }
    guest.finish();
}

/// A library whose fences never retire keeps only so much of a guest, and is given up when the guest's rings stop.
#[test]
fn exhaustion_of_fences() {
    let mut guest = in_use(Pace::Never);
    let fences = 3 * caps::PARKED as u64;
    let refused = (0..fences).filter(|fence| {
        let index = guest.send(&submit(2, &[0]).fenced(*fence).on((fence % 64) as u8));
        guest.reply(index) == Some("out_of_memory")
    });
    let refused = refused.count();
    assert!(refused >= caps::PARKED, "{refused} were refused");
    assert!(guest.open() <= caps::PARKED, "{}", guest.open());
    guest.stop();
    guest.start(Start::Resumed);
    guest.library.release(Pace::Prompt);
    guest.settle();
    guest.all("ok", &[submit(2, &[0]).fenced(1).on(1)]);
    guest.finish();
}

/// CVE-less, but seen: the fences of one dead process hold up everybody who waits on the same timeline.
#[test]
fn a_library_that_dies_answers_everything_and_the_screen_goes_on() {
    let mut guest = in_use(Pace::Never);
    guest.must(&create_2d(5, 8, 8));
    let asks = [
        submit(1, &[0]).fenced(1),
        submit(2, &[0]).fenced(2).on(9),
        mappable(2, 20, PAGE),
        map(20, 0),
        create_3d(30, IMAGE),
        to_host(1, 10, ALL, 0, PLAIN).fenced(3),
        flush(5, 8, 8).fenced(4),
    ];
    let sent = asks.map(|ask| guest.send(&ask));
    guest.settle();
    guest.library.die();
    guest.wait();
    assert!(sent.iter().all(|index| guest.reply(*index).is_some()));
    assert_eq!(guest.reply(sent[6]), Some("ok"));
    assert_ne!(guest.reply(sent[3]), Some("map_info"));
    guest.is_well();
    // What is lost can still be let go, and its names can be used again.
    guest.all("unspec", &[submit(1, &[0]), submit(2, &[0]).fenced(5).on(9)]);
    guest.all("ok", &[close(1), close(2), detach(10), unref(10)]);
    guest.ask(&unref(20));
    guest.ask(&unref(30));
    guest.library.known().lost = false;
    guest.all("ok", &[open(1, VIRGL), submit(1, &[0]).fenced(6), create_3d(10, IMAGE), close(1), unref(10)]);
    guest.finish();
}

#[test]
fn a_pause_keeps_what_is_mapped_and_a_reboot_does_not() {
    let mut guest = in_use(Pace::Prompt);
    guest.must(&mappable(2, 20, PAGE));
    guest.must(&mappable(2, 21, PAGE));
    guest.all("map_info", &[map(20, 0)]);
    guest.stop();
    guest.settle();
    guest.start(Start::Resumed);
    assert_eq!(guest.window.seen.len(), 1);
    guest.all("map_info", &[map(21, PAGE)]);
    guest.all("ok", &[unmap(20)]);
    guest.stop();
    guest.start(Start::Fresh);
    // The next driver finds an empty window, whatever it does first.
    guest.all("display_info", &[display_info()]);
    guest.settle();
    assert!(guest.window.seen.is_empty(), "{:?}", guest.window.seen);
    guest.all("ok", &[open(2, VENUS), mappable(2, 20, PAGE)]);
    guest.all("map_info", &[map(20, PAGE)]);
    guest.finish();
}

#[test]
fn a_front_end_that_goes_in_the_middle_of_everything_leaves_nothing() {
    for pace in [Pace::Prompt, Pace::Late, Pace::Never] {
        let mut guest = in_use(pace);
        guest.window.hold = true;
        for round in 0..3u8 {
            let asks = [
                mappable(2, 20, PAGE),
                map(20, 0),
                submit(2, &[1]).fenced(1).on(round),
                scanout(0, 10, 16, 16),
                flush(10, 16, 16),
                open(3, VENUS),
                submit(3, &[1]).fenced(2),
            ];
            for ask in &asks[..3 + usize::from(round) * 2] {
                guest.send(ask);
            }
            guest.settle();
            guest.reset();
            guest.library.known().pace = Pace::Prompt;
            guest.all("ok", &[open(2, VENUS), submit(2, &[1]), open(1, VIRGL), create_3d(10, IMAGE)]);
            guest.library.known().pace = pace;
        }
        guest.library.release(Pace::Prompt);
        guest.finish();
    }
}

/// The same requests, answered at once and late: the replies are the same, and nothing is left.
#[test]
fn a_late_library_changes_no_reply() {
    let replies = |pace| {
        let mut guest = in_use(pace);
        // What a driver sends without a wait in between.
        let hastes = [
            vec![
                create_3d(30, IMAGE).fenced(1),
                join(1, 30),
                attach(30, 0x2000, 0x1000),
                to_host(1, 30, ALL, 0, PLAIN).fenced(2),
                submit(1, &[0; 3]).fenced(3),
                submit(1, &[u32::MAX]).fenced(4),
                submit(2, &[0; 3]).fenced(5).on(3),
                mappable(2, 20, PAGE),
                map(20, PAGE),
                scanout(0, 30, 16, 16),
                flush(30, 16, 16).fenced(6),
                from_host(1, 30, ALL, 0, PLAIN).fenced(7),
            ],
            vec![
                unmap(20),
                unref(20),
                mappable(2, 20, PAGE),
                map(20, PAGE),
                detach(30),
                to_host(1, 30, ALL, 0, PLAIN),
                leave(1, 30),
                unref(30),
                submit(2, &[1]).fenced(8),
                close(1),
                submit(1, &[0]).fenced(9),
            ],
        ];
        let mut replies = Vec::new();
        for asks in hastes {
            let sent: Vec<usize> = asks.iter().map(|ask| guest.send(ask)).collect();
            guest.wait();
            replies.extend(sent.iter().map(|index| guest.reply(*index).unwrap()));
        }
        guest.finish();
        replies
    };
    let (prompt, late) = (replies(Pace::Prompt), replies(Pace::Late));
    assert_eq!(prompt, late);
    assert_eq!(prompt.iter().filter(|reply| !["ok", "map_info"].contains(reply)).count(), 3, "{prompt:?}");
}
