//! Rows about blobs of the host and the window that a guest sees them in.

use super::*;

#[test]
fn blobs_of_impossible_kinds_and_sizes() {
    let mut guest = in_use(Pace::Prompt);
    let bad = [
        mappable(2, 20, 0),
        mappable(2, 20, 1 << 63),
        mappable(2, 20, u64::MAX),
        mappable(2, 20, 1 << 40),
        blob(2, 20, 0, 1, PAGE),
        blob(2, 20, 4, 1, PAGE),
        blob(2, 20, 255, 1, PAGE),
        blob(2, 20, 2, 8, PAGE),
        blob(2, 20, 2, u32::MAX, PAGE),
    ];
    for ask in bad {
        let reply = guest.ask(&ask);
        assert!(["invalid_parameter", "out_of_memory", "unspec"].contains(&reply), "{reply} to {ask:?}");
    }
    guest.all("invalid_resource", &[mappable(2, 0, PAGE), mappable(2, 10, PAGE)]);
    guest.all("invalid_context", &[mappable(99, 20, PAGE)]);
    guest.all("invalid_context", &[mappable(0, 20, PAGE)]);
    assert_eq!(guest.library.known().called("create_blob"), 0);
    // One that is not a whole number of pages is, to who maps it.
    guest.all("ok", &[mappable(2, 20, 4097)]);
    guest.all("map_info", &[map(20, 0)]);
    assert_eq!(guest.window.seen[&0], 2 * PAGE);
    guest.finish();
}

#[test]
fn maps_where_nothing_can_be() {
    let mut guest = in_use(Pace::Prompt);
    guest.all("ok", &[mappable(2, 20, 2 * PAGE), mappable(2, 21, PAGE), guest_blob(22, 0x1000, 0x1000)]);
    guest.all("ok", &[create_2d(23, 8, 8)]);
    let bad = [
        map(20, 1),
        map(20, PAGE - 1),
        map(20, WINDOW),
        map(20, WINDOW - PAGE),
        map(20, u64::MAX),
        map(20, 0u64.wrapping_sub(PAGE)),
        map(20, 1 << 63),
    ];
    guest.all("invalid_parameter", &bad);
    guest.all("invalid_resource", &[map(99, 0), map(0, 0), unmap(99), unmap(0)]);
    for ask in [map(22, 0), map(23, 0), map(10, 0)] {
        assert!(["invalid_parameter", "unspec"].contains(&guest.ask(&ask)), "{ask:?}");
    }
    for ask in [unmap(20), unmap(22), unmap(23), unmap(10)] {
        assert!(["invalid_parameter", "unspec"].contains(&guest.ask(&ask)), "{ask:?}");
    }
    assert!(guest.window.seen.is_empty());
    guest.all("map_info", &[map(20, 4 * PAGE)]);
    for ask in [map(20, 4 * PAGE), map(20, 0), map(21, 4 * PAGE), map(21, 5 * PAGE)] {
        assert!(["invalid_parameter", "unspec"].contains(&guest.ask(&ask)), "twice or over another: {ask:?}");
    }
    guest.all("map_info", &[map(21, 3 * PAGE)]);
    guest.all("ok", &[unmap(21)]);
    guest.all("map_info", &[map(21, 6 * PAGE)]);
    assert_eq!(guest.window.seen.len(), 2);
    guest.finish();
}

#[test]
fn a_front_end_without_a_window_has_no_maps() {
    let mut guest = Guest::behind(Front { maps: false, context_init: true }, Pace::Prompt);
    guest.all("ok", &[open(1, VIRGL), submit(1, &[0])]);
    guest.all("invalid_parameter", &[open(2, VENUS)]);
    assert_ne!(guest.ask(&mappable(1, 20, PAGE)), "ok");
    for resource in [20, 10, 0] {
        assert!(["invalid_resource", "unspec", "invalid_parameter"].contains(&guest.ask(&map(resource, 0))));
    }
    guest.finish();
}

#[test]
fn a_map_that_the_front_end_refuses_fails_and_leaves_its_place_free() {
    let mut guest = in_use(Pace::Prompt);
    guest.all("ok", &[mappable(2, 20, PAGE), mappable(2, 21, PAGE)]);
    guest.window.refuse = true;
    guest.all("unspec", &[map(20, 0)]);
    guest.window.refuse = false;
    guest.all("map_info", &[map(21, 0), map(20, PAGE)]);
    assert_eq!(guest.stats.blob_bytes.get(), 2 * PAGE);
    guest.finish();
}

#[test]
fn a_blob_whose_memory_cannot_be_had_is_not_mapped() {
    let mut guest = in_use(Pace::Prompt);
    guest.library.known().exports = false;
    guest.ask(&mappable(2, 20, PAGE));
    assert_ne!(guest.ask(&map(20, 0)), "map_info");
    assert!(guest.window.seen.is_empty());
    guest.finish();
}

#[test]
fn unref_while_a_map_is_under_way_or_a_blob_is_mapped() {
    let mut guest = in_use(Pace::Prompt);
    guest.must(&mappable(2, 20, PAGE));
    guest.window.hold = true;
    let mapping = guest.send(&map(20, 0));
    let gone = guest.send(&unref(20));
    guest.settle();
    // The name is free once it is gone, the place once the front-end said so.
    guest.window.hold = false;
    guest.wait();
    assert!(guest.reply(mapping).is_some());
    assert_eq!(guest.reply(gone), Some("ok"));
    guest.must(&mappable(2, 20, PAGE));
    guest.all("map_info", &[map(20, 0)]);
    guest.window.hold = true;
    let sent = [unref(20), mappable(2, 20, PAGE)].map(|ask| guest.send(&ask));
    guest.settle();
    guest.window.hold = false;
    guest.wait();
    assert_eq!(sent.map(|index| guest.reply(index)), [Some("ok"); 2]);
    guest.all("map_info", &[map(20, 0)]);
    assert_eq!(guest.window.seen.len(), 1);
    guest.finish();
}

#[test]
fn a_front_end_that_never_answers_a_map_is_not_waited_for() {
    let mut guest = in_use(Pace::Prompt);
    guest.must(&mappable(2, 20, PAGE));
    guest.window.hold = true;
    let mapping = guest.send(&map(20, 0));
    guest.settle();
    assert_eq!(guest.reply(mapping), None);
    assert_eq!(guest.ask_now(&display_info()), Some("display_info"));
    guest.pass(Duration::from_secs(60));
    guest.settle();
    assert_eq!(guest.reply(mapping), Some("unspec"), "a guest's kernel waits for it without a limit");
    // The late answer is undone.
    guest.window.hold = false;
    guest.wait();
    assert!(guest.window.seen.is_empty(), "{:?}", guest.window.seen);
    guest.finish();
}

#[test]
fn ten_thousand_blobs_one_after_the_other_leave_nothing() {
    let mut guest = in_use(Pace::Prompt);
    for round in 0..10_000 {
        let at = round % 1024 * PAGE;
        guest.must(&mappable(2, 20, PAGE));
        guest.must(&map(20, at));
        if round % 3 != 0 {
            guest.must(&unmap(20));
        }
        guest.must(&unref(20));
    }
    guest.settle();
    assert!(guest.window.seen.is_empty());
    assert_eq!((guest.stats.blob_bytes.get(), guest.stats.blob_maps.get()), (0, 10_000));
    assert_eq!(guest.library.known().resources.len(), 1);
    guest.finish();
}

#[test]
fn exhaustion_of_maps() {
    let mut guest = in_use(Pace::Prompt);
    let mut mapped = 0;
    for resource in 0..1024 {
        guest.must(&mappable(2, 100 + resource, PAGE));
        match guest.ask(&map(100 + resource, u64::from(resource) * PAGE)) {
            "map_info" => mapped += 1,
            reply => {
                assert_eq!(reply, "out_of_memory");
                break;
            }
        }
    }
    // More than a hundred at once, and fewer than QEMU has places for.
    assert!((101..=500).contains(&mapped), "{mapped}");
    assert_eq!(guest.window.most, mapped as usize);
    guest.all("ok", &[unmap(100)]);
    guest.all("map_info", &[map(100 + mapped, 1000 * PAGE)]);
    guest.finish();
}

#[test]
fn exhaustion_of_blob_bytes() {
    let mut guest = in_use(Pace::Prompt);
    let size = WINDOW;
    let made = (20..100).find(|resource| guest.ask(&mappable(2, *resource, size)) != "ok").expect("an end") - 20;
    assert!(made >= 1, "{made}");
    guest.all("out_of_memory", &[mappable(2, 500, size)]);
    guest.all("ok", &[unref(20), mappable(2, 500, size)]);
    guest.finish();
}

#[test]
fn heads_that_show_blobs_of_the_host() {
    let mut guest = in_use(Pace::Prompt);
    guest.all("ok", &[mappable(2, 20, PAGE)]);
    guest.all("invalid_parameter", &[scanout(0, 20, 16, 16), scanout_blob(0, 20, 32, 33), scanout_blob(0, 10, 16, 16)]);
    guest.all("invalid_scanout", &[scanout_blob(9, 20, 16, 16)]);
    assert!(guest.screen.seen().heads.is_empty());
    // Its pages are the guest's for as long as somebody looks, whatever becomes of the blob.
    guest.all("ok", &[scanout_blob(0, 20, 16, 16), scanout_blob(1, 20, 16, 8), flush(20, 16, 16)]);
    assert_eq!(guest.screen.seen().flushes, 2);
    guest.all("ok", &[unref(20)]);
    assert!(guest.screen.seen().heads.is_empty());
    guest.all("invalid_resource", &[flush(20, 16, 16), scanout_blob(0, 20, 16, 16)]);
    guest.screen.seen().flushes = 0;
    // A 3D image is read, and may go while it is.
    guest.all("ok", &[scanout(0, 10, 16, 16), flush(10, 16, 16)]);
    assert_eq!(guest.screen.seen().flushes, 1);
    guest.library.known().pace = Pace::Never;
    let flushed = guest.send(&flush(10, 16, 16));
    let gone = guest.send(&unref(10));
    guest.settle();
    guest.library.release(Pace::Prompt);
    guest.wait();
    assert!(guest.reply(flushed).is_some());
    assert_eq!(guest.reply(gone), Some("ok"));
    assert!(guest.screen.seen().heads.is_empty());
    guest.finish();
}
