//! Contexts, fences, and pixels that are read back: what a driver relies on, and what it must not cost.

use device::stats::Kind;
use device::{Front, Gpu, Start, VirtioDevice};
use protocol::feature;
use renderer::{Null3d, Soft};

use crate::asks::{
    Ask, IMAGE, attach, capset, capset_info, close, create_2d, create_3d, detach, display_info, flush, guest_blob,
    join, map, mappable, open, raw, scanout, submit, to_host, unmap, unref,
};
use crate::machine::gpu;
use crate::strict::{PAGE, Pace};
use crate::window::{Guest, WINDOW};

const VIRGL2: u32 = 2;
const VENUS: u32 = 4;
/// The whole of [`IMAGE`].
const ALL: [u32; 6] = [0, 0, 0, 16, 16, 1];
/// What the library draws.
const DRAWN: Option<[u8; 4]> = Some([0x5a; 4]);

fn cursor(resource: u32, hot: u32, at: u32) -> Ask {
    raw(0x300, &[0, at, at, 0, resource, hot, hot, 0]).on_cursor_queue()
}

fn move_cursor(at: u32) -> Ask {
    raw(0x301, &[0, at, at, 0, 0, 0, 0, 0]).on_cursor_queue()
}

fn called(guest: &Guest, names: &[&str]) -> Vec<u64> {
    let known = guest.library.known();
    names.iter().map(|name| known.called(name)).collect()
}

/// The pixels of the first head.
fn picture(guest: &Guest) -> Option<Vec<Option<[u8; 4]>>> {
    guest.screen.seen().heads.get(&0).map(|head| head.pixels.clone())
}

#[test]
fn a_console_in_a_context_asks_the_library_for_nothing() {
    let mut guest = Guest::new(Pace::Never);
    let asks = [
        open(1, 0),
        create_2d(5, 16, 16).of(1),
        join(1, 5),
        attach(5, 0x1000, 0x400),
        raw(0x105, &[0, 0, 16, 16, 0, 0, 5, 0]).fenced(1),
        to_host(1, 5, ALL, 0, [0; 3]).fenced(2),
        scanout(0, 5, 16, 16),
        flush(5, 16, 16).fenced(3),
        submit(1, &[]).fenced(4),
        submit(1, &[]).fenced(5).on(0),
        guest_blob(6, 0x1000, 0x1000),
        join(1, 6),
        cursor(5, 1, 1),
        close(1),
        unref(5),
        unref(6),
    ];
    guest.all("ok", &asks);
    let known = guest.library.known();
    let worked: Vec<_> = known.calls.keys().filter(|name| !["memory", "reset"].contains(*name)).collect();
    assert!(worked.is_empty(), "{worked:?}");
    drop(known);
    guest.finish();
}

#[test]
fn the_first_work_opens_a_context_and_its_members_join() {
    let mut guest = Guest::new(Pace::Late);
    guest.all("ok", &[open(1, VIRGL2), create_2d(5, 8, 8), create_3d(10, IMAGE), create_3d(11, IMAGE)]);
    guest.all("ok", &[join(1, 5), join(1, 10), join(1, 10), join(1, 11), unref(11)]);
    assert_eq!(called(&guest, &["open", "join"]), [0, 0]);
    guest.all("ok", &[submit(1, &[0])]);
    let members: Vec<_> = guest.library.known().contexts[&1].members.iter().copied().collect();
    assert_eq!(members, [5, 10]);
    guest.all("ok", &[create_3d(12, IMAGE), join(1, 12)]);
    assert_eq!(called(&guest, &["open", "join"]), [1, 3]);
    guest.finish();
}

#[test]
fn fences_are_one_timeline_for_the_console_too_and_commands_without_one_do_not_wait() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(1, VIRGL2), open(2, VENUS), create_2d(5, 8, 8), scanout(0, 5, 8, 8)]);
    guest.all("ok", &[submit(1, &[0]), submit(2, &[0])]);
    guest.library.known().pace = Pace::Never;
    let job = guest.send(&submit(1, &[0]).fenced(1));
    let ring = guest.send(&submit(2, &[0]).fenced(2).on(7));
    let console = guest.send(&flush(5, 8, 8).fenced(3));
    assert_eq!(guest.ask_now(&flush(5, 8, 8)), Some("ok"));
    assert_eq!(guest.ask_now(&display_info()), Some("display_info"));
    assert_eq!([job, ring, console].map(|index| guest.reply(index)), [None; 3]);
    assert_eq!(guest.gpu.parked(), 3);
    guest.library.release(Pace::Prompt);
    guest.wait();
    assert_eq!([job, ring, console].map(|index| guest.reply(index)), [Some("ok"); 3]);
    // What is not under way needs no word of the library's.
    let before = called(&guest, &["fence"]);
    guest.all("ok", &[flush(5, 8, 8).fenced(4), submit(1, &[]).fenced(5), create_3d(10, IMAGE).fenced(6)]);
    assert_eq!(called(&guest, &["fence"]), before);
    guest.finish();
}

#[test]
fn a_resource_is_read_once_at_a_time_and_what_changes_meanwhile_is_read_together() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[create_3d(10, IMAGE), scanout(0, 10, 16, 16), flush(10, 1, 1)]);
    assert_eq!(guest.stats.readback_bytes.get(), 16 * 16 * 4, "a new image is read as a whole");
    guest.library.known().pace = Pace::Never;
    let rect = |x, y, width, height| raw(0x104, &[x, y, width, height, 10, 0]);
    let flushes = [rect(0, 0, 4, 4), rect(0, 0, 2, 2), rect(8, 8, 2, 2), rect(4, 4, 1, 1)].map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!(called(&guest, &["read"]), [2]);
    assert_eq!(flushes.map(|index| guest.reply(index)), [None; 4]);
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!(flushes.map(|index| guest.reply(index)), [Some("ok"); 4]);
    assert_eq!(called(&guest, &["read"]), [3]);
    assert_eq!(guest.stats.readback_bytes.get(), (16 * 16 + 4 * 4 + 10 * 10) * 4);
    assert_eq!(guest.stats.frames.get(), 3);
    assert!(picture(&guest).unwrap().iter().all(|pixel| *pixel == DRAWN));
    // Only what is seen is read.
    guest.all("ok", &[rect(3, 3, 2, 2), scanout(0, 0, 0, 0), rect(0, 0, 16, 16)]);
    assert_eq!(guest.stats.readback_bytes.get(), (16 * 16 + 4 * 4 + 10 * 10 + 2 * 2) * 4);
    guest.all("invalid_parameter", &[rect(0, 0, 17, 16), rect(16, 0, 1, 1)]);
    guest.finish();
}

#[test]
fn pixels_that_are_read_are_charged_and_those_that_nobody_sees_make_room() {
    let mut guest = Guest::new(Pace::Late);
    let square = |side| [2, 1, 2, side, side, 1, 1, 0, 0, 0];
    let bytes = |side: u64| side * side * 4;
    let shadows = |guest: &Guest| guest.stats.memory.get(Kind::Shadows) / bytes(1024);
    // 64 MiB in all: beside ten images of four five are there once more.
    let empty = guest.stats.charged_bytes();
    for image in 10..20 {
        guest.all("ok", &[create_3d(image, square(1024)), scanout(0, image, 16, 16)]);
        let before = shadows(&guest);
        guest.all("ok", &[flush(image, 16, 16), flush(image, 1, 1)]);
        assert!(shadows(&guest) <= before + 1 && guest.stats.charged_bytes() <= 64 << 20);
    }
    assert_eq!(shadows(&guest), 5);
    assert!((1..10).contains(&called(&guest, &["forget_pixels"])[0]));
    // What is on a head stays.
    (10..16).for_each(|image| guest.must(&unref(image)));
    guest.all("ok", &[create_3d(30, square(1800)), scanout(0, 30, 16, 16), flush(30, 16, 16)]);
    guest.all("ok", &[create_3d(31, square(1800)), scanout(1, 31, 16, 16)]);
    guest.all("out_of_memory", &[flush(31, 16, 16)]);
    guest.all("ok", &[unref(30), flush(31, 16, 16), flush(31, 1, 1)]);
    for image in (16..20).chain([31]) {
        guest.all("ok", &[unref(image)]);
    }
    assert_eq!(guest.stats.charged_bytes(), empty);
    guest.finish();
}

#[test]
fn a_head_shows_what_it_did_until_its_next_image_was_read_and_then_all_of_that() {
    let mut guest = Guest::new(Pace::Late);
    guest.all("ok", &[create_3d(10, IMAGE), create_3d(11, IMAGE), scanout(0, 10, 16, 16)]);
    assert_eq!(picture(&guest), None);
    guest.all("ok", &[flush(10, 16, 16), scanout(0, 11, 16, 16)]);
    assert!(picture(&guest).unwrap().iter().all(|pixel| *pixel == DRAWN));
    let sets = guest.screen.seen().sets;
    guest.all("ok", &[flush(11, 1, 1)]);
    assert_eq!(guest.screen.seen().sets, sets + 1);
    assert!(picture(&guest).unwrap().iter().all(|pixel| *pixel == DRAWN), "another image is damaged everywhere");
    guest.all("ok", &[scanout(0, 10, 16, 16), unref(10)]);
    assert_eq!(picture(&guest), None, "an image that never came takes the one before with it");
    guest.finish();
}

#[test]
fn a_flush_of_what_goes_meanwhile_is_answered() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[create_3d(10, IMAGE), scanout(0, 10, 16, 16)]);
    guest.library.known().pace = Pace::Never;
    let flushes = [flush(10, 16, 16).fenced(1), flush(10, 1, 1)].map(|ask| guest.send(&ask));
    guest.send(&unref(10));
    guest.settle();
    assert_eq!(flushes.map(|index| guest.reply(index)), [Some("ok"); 2]);
    // Its name is another's when the read is answered.
    guest.send(&create_3d(10, IMAGE));
    guest.send(&scanout(0, 10, 16, 16));
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!(picture(&guest), None);
    guest.finish();
}

#[test]
fn the_pointer_gets_its_picture_from_the_library_and_keeps_the_newest() {
    let mut guest = Guest::new(Pace::Late);
    guest.all("ok", &[create_3d(10, IMAGE), cursor(10, 3, 7)]);
    let pointer = guest.screen.seen().pointer.clone();
    assert_eq!((pointer.at, pointer.hot), ((7, 7), (3, 3)));
    assert_eq!(pointer.image, Some((16, 16, vec![0x5a; 16 * 16 * 4])));
    // It moves while its next picture is read.
    let next = guest.send(&cursor(10, 4, 8));
    guest.send(&move_cursor(9));
    guest.wait();
    let pointer = guest.screen.seen().pointer.clone();
    assert_eq!((guest.reply(next), pointer.at, pointer.hot), (Some("ok"), (9, 9), (4, 4)));
    // It is hidden while one is read.
    guest.send(&cursor(10, 5, 5));
    guest.send(&cursor(0, 0, 6));
    guest.wait();
    assert_eq!(guest.screen.seen().pointer.image, None);
    let large = [2, 1, 2, 65, 16, 1, 1, 0, 0, 0];
    guest.all("ok", &[create_3d(11, large)]);
    guest.all("invalid_parameter", &[cursor(11, 0, 0)]);
    guest.finish();
}

#[test]
fn pages_are_the_guest_s_again_only_when_the_library_says_so() {
    let mut guest = Guest::new(Pace::Prompt);
    guest
        .all("ok", &[create_3d(10, IMAGE), create_3d(11, IMAGE), attach(10, 0x1000, 0x400), attach(11, 0x1000, 0x400)]);
    guest.library.known().pace = Pace::Never;
    let waiting = [unref(10), detach(11)].map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!(waiting.map(|index| guest.reply(index)), [None; 2]);
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!(waiting.map(|index| guest.reply(index)), [Some("ok"); 2]);
    guest.all("invalid_resource", &[detach(10)]);
    guest.finish();
}

#[test]
fn what_a_driver_is_offered_is_what_its_front_end_can_do() {
    for (maps, context_init, ids) in
        [(false, false, &[1, 2][..]), (false, true, &[1, 2]), (true, false, &[1, 2]), (true, true, &[1, 2, 4])]
    {
        let mut guest = Guest::behind(Front { maps, context_init }, Pace::Prompt);
        let mut count = [0; 4];
        guest.gpu.config().read(12, &mut count);
        assert_eq!(u32::from_le_bytes(count) as usize, ids.len());
        for (index, id) in (0..).zip(ids) {
            let asked = guest.send(&capset_info(index));
            let info = guest.reply_bytes(asked).unwrap();
            assert_eq!((info.len(), info[24]), (40, *id as u8));
            let size = u32::from_le_bytes(info[32..36].try_into().unwrap()) as usize;
            let asked = guest.send(&capset(*id, 0));
            assert_eq!(guest.reply_bytes(asked).unwrap()[24..], vec![7; size]);
        }
        guest.all("invalid_parameter", &[capset_info(ids.len() as u32), capset(2, 3), capset(3, 0)]);
        let venus = if ids.contains(&VENUS) { "ok" } else { "invalid_parameter" };
        guest.all(venus, &[open(2, VENUS)]);
        guest.finish();
    }
}

#[test]
fn features_and_a_window_are_offered_with_a_library_only() {
    let (plain, ..) = gpu(Box::new(Soft::new()), false);
    let three_d = feature::VIRGL | feature::CONTEXT_INIT;
    assert_eq!((plain.features() & three_d, plain.shared_memory()), (0, vec![]));
    assert_eq!(plain.with_three_d(Box::new(Null3d::new(Vec::new())), 0).features() & three_d, 0);
    let with =
        |window| -> Gpu { gpu(Box::new(Soft::new()), false).0.with_three_d(Box::new(Null3d::default()), window) };
    assert_eq!((with(0).features() & three_d, with(0).shared_memory()), (three_d, vec![]));
    assert_eq!(with(WINDOW).shared_memory(), [0, WINDOW]);
}

#[test]
fn a_driver_that_accepts_no_contexts_has_none() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.stop();
    guest.gpu.start(feature::EDID | feature::RESOURCE_BLOB, Start::Fresh);
    guest.all("unspec", &[create_3d(10, IMAGE), submit(1, &[0]), open(1, 0), close(1), join(1, 1)]);
    guest.finish();
}

#[test]
fn a_blob_that_is_made_late_is_mapped_when_it_is_there() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(2, VENUS), submit(2, &[0])]);
    guest.library.known().pace = Pace::Never;
    let sent = [mappable(2, 20, 5000), map(20, PAGE), mappable(2, 21, 1), map(21, 0)].map(|ask| guest.send(&ask));
    let dropped = [mappable(2, 22, 1), map(22, 4 * PAGE), unmap(22)].map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!(sent.map(|index| guest.reply(index)), [None; 4]);
    assert_eq!(dropped.map(|index| guest.reply(index)), [None, Some("unspec"), Some("ok")]);
    assert_eq!(guest.ask_now(&submit(2, &[])), Some("ok"), "its context does not wait for it");
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!(sent.map(|index| guest.reply(index)), [Some("ok"), Some("map_info"), Some("ok"), Some("map_info")]);
    assert_eq!(
        guest.window.seen.iter().map(|(at, len)| (*at, *len)).collect::<Vec<_>>(),
        [(0, PAGE), (PAGE, 2 * PAGE)]
    );
    assert_eq!((guest.stats.blob_maps.get(), guest.stats.blob_bytes.get()), (2, 3 * PAGE));
    guest.finish();
}

#[test]
fn a_map_that_a_pause_cut_short_is_undone_when_the_guest_goes_on() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(2, VENUS), mappable(2, 20, PAGE), mappable(2, 21, PAGE)]);
    guest.all("map_info", &[map(20, 0)]);
    guest.window.hold = true;
    let cut = guest.send(&map(21, PAGE));
    guest.settle();
    guest.stop();
    assert_eq!(guest.reply(cut), Some("unspec"));
    let asked = guest.window.held.len();
    guest.settle();
    assert_eq!(guest.window.held.len(), asked, "a front-end that stopped is asked for nothing");
    guest.window.hold = false;
    guest.start(Start::Resumed);
    guest.settle();
    assert_eq!(guest.window.seen.keys().copied().collect::<Vec<_>>(), [0]);
    guest.all("map_info", &[map(21, PAGE)]);
    guest.finish();
}

#[test]
fn a_driver_that_slept_finds_its_contexts_and_a_new_one_none() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(1, VIRGL2), submit(1, &[0])]);
    guest.stop();
    guest.start(Start::Fresh);
    guest.all("ok", &[submit(1, &[0]).fenced(1)]);
    guest.stop();
    guest.start(Start::Fresh);
    guest.all("capset_info", &[capset_info(0)]);
    guest.all("invalid_context", &[submit(1, &[0])]);
    assert!(guest.library.known().contexts.is_empty());
    guest.all("ok", &[open(1, VIRGL2)]);
    guest.stop();
    guest.start(Start::Fresh);
    // One that asks nothing may use the names of the one before.
    guest.all("ok", &[open(1, VIRGL2)]);
    guest.all("invalid_context", &[open(1, VIRGL2)]);
    guest.finish();
}

#[test]
fn our_own_failure_takes_contexts_and_maps_along_and_nothing_else() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(2, VENUS), mappable(2, 20, PAGE), create_2d(5, 8, 8), scanout(0, 5, 8, 8)]);
    guest.all("map_info", &[map(20, 0)]);
    guest.library.known().pace = Pace::Never;
    let open_fence = guest.send(&submit(2, &[0]).fenced(1).on(1));
    let held = [submit(2, &[0]).fenced(2), flush(5, 0, 0).fenced(3)].map(|ask| guest.send(&ask));
    guest.screen.seen().panic = true;
    assert_eq!(guest.ask_now(&flush(5, 8, 8)), Some("unspec"));
    assert_eq!(guest.reply(open_fence), Some("unspec"));
    assert_eq!(held.map(|index| guest.reply(index)), [Some("unspec"), Some("ok")]);
    guest.settle();
    assert!(guest.window.seen.is_empty() && guest.library.known().contexts.is_empty());
    assert_eq!((guest.open(), guest.gpu.parked(), guest.stats.panics.get()), (0, 0, 1));
    guest.library.release(Pace::Prompt);
    guest.all("ok", &[open(2, VENUS), submit(2, &[0]).fenced(4), mappable(2, 20, PAGE)]);
    guest.all("map_info", &[map(20, 0)]);
}

#[test]
fn what_the_library_has_is_saved_as_lost() {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(2, VENUS), mappable(2, 20, PAGE), create_3d(10, IMAGE), attach(10, 0x1000, 0x400)]);
    guest.all("ok", &[create_2d(5, 8, 8), scanout(0, 10, 16, 16), scanout(1, 5, 8, 8)]);
    let state = guest.gpu.state();
    let mut other = Guest::new(Pace::Prompt);
    other.gpu.restore(state).unwrap();
    assert_eq!(other.stats.resources.get(), 3);
    other.all("ok", &[open(1, VIRGL2), flush(5, 8, 8), join(1, 10)]);
    other.all("unspec", &[flush(10, 16, 16)]);
    other.all("invalid_parameter", &[scanout(0, 10, 16, 16), to_host(1, 10, ALL, 0, [0; 3]), map(20, 0)]);
    other.all("invalid_resource", &[create_3d(10, IMAGE)]);
    other.all("ok", &[submit(1, &[0]), detach(10), unref(10), unref(20), create_3d(10, IMAGE)]);
    assert_eq!(other.gpu.state(), other.gpu.state());
    other.finish();
}
