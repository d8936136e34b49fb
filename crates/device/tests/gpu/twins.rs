//! Images of RESOURCE_CREATE_2D that contexts of OpenGL draw with: the renderer has a twin of them, the truth is ours.

use std::collections::HashMap;

use device::caps;
use proptest::prelude::*;

use crate::asks::{
    Ask, attach, close, create_2d, detach, flush, from_host, guest_blob, join, leave, open, raw, scanout, submit,
    to_host, unref,
};
use crate::strict::{Pace, What};
use crate::window::Guest;

const VIRGL2: u32 = 2;
const VENUS: u32 = 4;
/// The whole of an image of 16 times 16 pixels.
const ALL: [u32; 6] = [0, 0, 0, 16, 16, 1];
const BYTES: u64 = 16 * 16 * 4;
/// A pixel that the library drew.
const DRAWN: [u8; 4] = [0x5a; 4];

/// TRANSFER_TO_HOST_2D.
fn transfer(resource: u32, [x, y, width, height]: [u32; 4], offset: u32) -> Ask {
    raw(0x105, &[x, y, width, height, offset, 0, resource, 0])
}

fn whole(resource: u32) -> Ask {
    transfer(resource, [0, 0, 16, 16], 0)
}

/// A pixel of an image with these pages that was copied from there: the four bytes at an address are that address.
fn copied(pixel: u32) -> [u8; 4] {
    (0x1000 + pixel * 4).to_le_bytes()
}

/// A guest with an image that has pages and pixels, on the first head, and a context of OpenGL that may use it.
fn with_image(pace: Pace) -> Guest {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[create_2d(5, 16, 16), attach(5, 0x1000, 0x400), whole(5), scanout(0, 5, 16, 16)]);
    guest.all("ok", &[flush(5, 16, 16), open(1, VIRGL2), join(1, 5)]);
    guest.library.known().pace = pace;
    guest
}

fn called<const N: usize>(guest: &Guest, names: [&str; N]) -> [u64; N] {
    names.map(|name| guest.library.known().called(name))
}

/// The library goes on, and all that it is asked for by itself is done.
fn go_on(guest: &mut Guest) {
    guest.library.release(Pace::Late);
    guest.wait();
    // A read, and a write after it.
    for _ in 0..3 {
        guest.poll();
    }
}

/// A pixel of the twin.
fn twin(guest: &Guest, pixel: usize) -> Option<[u8; 4]> {
    let known = guest.library.known();
    let pixels = &known.resources.get(&5)?.pixels;
    Some(pixels.as_chunks::<4>().0[pixel])
}

/// A pixel of the first head.
fn shown(guest: &Guest, pixel: usize) -> [u8; 4] {
    guest.screen.seen().heads[&0].pixels[pixel].unwrap()
}

#[test]
fn an_image_has_a_twin_with_its_pixels_once_a_context_that_may_use_it_works() {
    let mut guest = with_image(Pace::Late);
    assert_eq!(called(&guest, ["open", "create", "write", "attach"]), [0; 4]);
    guest.all("ok", &[submit(1, &[0])]);
    assert_eq!(called(&guest, ["open", "create", "write", "attach", "join"]), [1; 5]);
    assert_eq!([0, 17, 255].map(|pixel| twin(&guest, pixel as usize)), [0, 17, 255].map(|pixel| Some(copied(pixel))));
    let known = guest.library.known();
    let What::Image(desc) = &known.resources[&5].what else { panic!("No image") };
    assert_eq!((desc.target, desc.format, desc.bind, desc.width, desc.height, desc.flags), (2, 1, 2 | 8, 16, 16, 0));
    assert!(known.resources[&5].attached && known.contexts[&1].members.contains(&5));
    drop(known);
    // Others get the same one.
    guest.all("ok", &[open(3, VIRGL2), submit(3, &[0]), join(3, 5), join(3, 5)]);
    assert_eq!(called(&guest, ["create", "join"]), [1, 2]);
    guest.finish();
}

#[test]
fn what_is_copied_into_an_image_is_written_to_its_twin_and_no_more() {
    let mut guest = with_image(Pace::Late);
    guest.all("ok", &[submit(1, &[0]), transfer(5, [2, 3, 4, 5], 0x10)]);
    assert_eq!(twin(&guest, 3 * 16 + 2), Some(0x1010u32.to_le_bytes()));
    assert_eq!([0, 3 * 16 + 6].map(|pixel| twin(&guest, pixel as usize)), [0, 3 * 16 + 6].map(|at| Some(copied(at))));
    // The driver may say it in the words of 3D, of this context or of none.
    guest.all("ok", &[to_host(1, 5, [0, 0, 0, 1, 1, 1], 4, [0; 3]), to_host(0, 5, [1, 0, 0, 1, 1, 1], 0, [0; 3])]);
    assert_eq!([0, 1].map(|pixel| twin(&guest, pixel)), [Some(copied(1)), Some(copied(0))]);
    assert_eq!(called(&guest, ["write", "read", "transfer"]), [4, 0, 0]);
    guest.all("ok", &[transfer(5, [0; 4], 0)]);
    guest.all("invalid_parameter", &[transfer(5, [9, 9, 16, 16], 0), transfer(5, [0, 0, 16, 16], 4)]);
    assert_eq!(called(&guest, ["write"]), [4]);
    guest.finish();
}

#[test]
fn what_contexts_drew_is_read_when_the_image_is_flushed_on_a_head_and_once_for_all_work_until_then() {
    let mut guest = with_image(Pace::Late);
    guest.all("ok", &[submit(1, &[0]), submit(1, &[0])]);
    assert_eq!((shown(&guest, 0), called(&guest, ["read"])), (copied(0), [0]));
    guest.all("ok", &[flush(5, 2, 1)]);
    assert_eq!([0, 1, 2].map(|pixel| shown(&guest, pixel)), [DRAWN, DRAWN, copied(2)], "what was flushed is shown");
    guest.all("ok", &[flush(5, 16, 16), flush(5, 16, 16)]);
    assert_eq!((shown(&guest, 255), called(&guest, ["read"])), (DRAWN, [1]));
    // What the guest copies afterwards is newer.
    guest.all("ok", &[transfer(5, [0, 0, 1, 1], 0), flush(5, 1, 1), submit(3, &[]).of(1), flush(5, 1, 1)]);
    assert_eq!((shown(&guest, 0), called(&guest, ["read"])), (copied(0), [1]));
    // Work of who cannot have drawn, and work on what nobody sees, is not read.
    guest.all("ok", &[open(2, VENUS), submit(2, &[0]), flush(5, 1, 1), open(3, VIRGL2), submit(3, &[0])]);
    guest.all("ok", &[flush(5, 1, 1), submit(1, &[0]), scanout(0, 0, 0, 0), flush(5, 1, 1)]);
    assert_eq!(called(&guest, ["read"]), [1]);
    guest.all("ok", &[scanout(0, 5, 16, 16), flush(5, 1, 1)]);
    assert_eq!((shown(&guest, 0), called(&guest, ["read"])), (DRAWN, [2]));
    guest.finish();
}

#[test]
fn a_flush_shows_what_is_ours_at_once_and_what_was_drawn_once_it_was_read() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0])]);
    guest.library.known().pace = Pace::Never;
    // The first is being read when the others come, which are read together afterwards.
    for ask in [flush(5, 4, 1).fenced(1), submit(1, &[0]).of(3), transfer(5, [0, 0, 1, 1], 8), flush(5, 2, 1)] {
        assert!(guest.ask_now(&ask).is_some(), "{ask:?}");
    }
    assert_eq!([0, 1].map(|pixel| shown(&guest, pixel)), [copied(2), copied(1)], "the copy is shown");
    assert_eq!(called(&guest, ["read", "write"]), [1, 1]);
    go_on(&mut guest);
    assert_eq!([0, 1, 3, 4].map(|pixel| shown(&guest, pixel)), [copied(2), DRAWN, DRAWN, copied(4)]);
    assert_eq!([0, 1].map(|pixel| twin(&guest, pixel)), [Some(copied(2)), Some(DRAWN)], "the copy is newer");
    assert_eq!(called(&guest, ["read", "write"]), [1, 2]);
    guest.finish();
}

#[test]
fn a_library_that_stands_still_is_in_no_command_s_way_that_is_2d_and_has_the_newest_pixels_when_it_goes_on() {
    for full in [false, true] {
        let mut guest = with_image(Pace::Prompt);
        guest.all("ok", &[create_2d(6, 16, 16), submit(1, &[0])]);
        guest.library.known().pace = Pace::Never;
        if full {
            guest.library.known().full = [VIRGL2].into();
        }
        for step in 0..100 {
            let (x, y) = (step % 16, step / 16);
            for ask in [
                whole(5),
                transfer(5, [x, y, 1, 1], 4 * step),
                to_host(0, 5, [15 - x, 15, 0, 1, 1, 1], 0, [0; 3]),
                flush(5, 16, 16),
                scanout(1, 5, 16, 16),
                scanout(1, 6, 16, 16),
                raw(0x300, &[0, 1, 1, 0, 5, 0, 0, 0]).on_cursor_queue(),
            ] {
                assert_eq!(guest.ask_now(&ask), Some("ok"), "{ask:?}");
            }
            assert_eq!(shown(&guest, (y * 16 + x) as usize), copied(step));
            assert_eq!(shown(&guest, (255 - x) as usize), copied(0));
        }
        guest.all("ok", &[transfer(5, [3, 3, 2, 1], 40)]);
        let [reads, writes] = called(&guest, ["read", "write"]);
        assert!(reads + writes <= 3, "{reads} reads and {writes} writes");
        guest.library.known().full.clear();
        go_on(&mut guest);
        guest.all("ok", &[flush(5, 16, 16)]);
        go_on(&mut guest);
        let expected = [copied(10), copied(11)];
        assert_eq!([3 * 16 + 3, 3 * 16 + 4].map(|pixel| shown(&guest, pixel)), expected);
        for pixel in 0..256 {
            assert_eq!(twin(&guest, pixel), Some(shown(&guest, pixel)), "{pixel}");
        }
        guest.finish();
    }
}

#[test]
fn work_that_is_to_see_a_copy_waits_until_the_twin_has_it_and_earlier_work_does_not() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0])]);
    guest.library.known().pace = Pace::Never;
    assert_eq!(guest.ask_now(&transfer(5, [0, 0, 1, 1], 8)), Some("ok"));
    let first = guest.send(&submit(1, &[1]));
    assert_eq!(guest.ask_now(&transfer(5, [0, 0, 1, 1], 12)), Some("ok"));
    let second = guest.send(&submit(1, &[2]));
    guest.settle();
    assert_eq!((guest.reply(first), guest.reply(second), twin(&guest, 0)), (None, None, Some(copied(2))));
    assert_eq!(guest.library.known().written, [1, 2], "the second is not passed on");
    go_on(&mut guest);
    assert_eq!((guest.reply(second), twin(&guest, 0)), (Some("ok"), Some(copied(3))));
    assert_eq!(guest.library.known().written, [1, 2, 3]);
    guest.finish();
}

#[test]
fn copies_take_their_turn_among_work_that_waits_for_room() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0])]);
    guest.library.known().full = [VIRGL2].into();
    let copy = |guest: &mut Guest, offset| assert_eq!(guest.ask_now(&transfer(5, [0, 0, 2, 1], offset)), Some("ok"));
    let mut sent = Vec::new();
    for word in 1..4 {
        sent.push(guest.send(&submit(1, &[word])));
        copy(&mut guest, word * 4);
        // Parts of what changed already are not written twice.
        copy(&mut guest, word * 8);
    }
    assert_eq!(called(&guest, ["submit", "write"]), [1, 1]);
    guest.library.known().full.clear();
    guest.wait();
    assert!(sent.iter().all(|index| guest.reply(*index) == Some("ok")));
    assert_eq!(guest.library.known().written, [1, 1, 2, 3]);
    assert_eq!((called(&guest, ["write"]), twin(&guest, 0), twin(&guest, 2)), ([4], Some(copied(6)), Some(copied(2))));
    guest.finish();
}

#[test]
fn over_a_cap_what_a_twin_lacks_is_one_part() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0])]);
    guest.library.known().full = [VIRGL2].into();
    let parts = caps::STALE_PARTS as u32;
    for (count, writes) in [(parts, u64::from(parts)), (parts + 1, 1)] {
        let before = called(&guest, ["write"])[0];
        guest.library.known().full = [VIRGL2].into();
        for part in 0..count {
            guest.all("ok", &[transfer(5, [part % 8 * 2, part / 8 * 2, 1, 1], 0)]);
        }
        guest.library.known().full.clear();
        guest.poll();
        assert_eq!(called(&guest, ["write"])[0] - before, writes);
        assert_eq!((twin(&guest, 14), twin(&guest, 15)), (Some(copied(0)), Some(copied(15))));
    }
    guest.finish();
}

#[test]
fn who_waits_to_use_an_image_is_passed_by_what_is_2d_and_not_by_its_end() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0]), open(3, VIRGL2), create_2d(6, 16, 16), attach(6, 0x1000, 0x400)]);
    guest.library.known().full = [VIRGL2].into();
    let waiting = [from_host(1, 5, ALL, 0, [0; 3]), join(3, 5), join(3, 6)].map(|ask| guest.send(&ask));
    for ask in [whole(5), flush(5, 1, 1), whole(6), scanout(1, 6, 16, 16), flush(6, 1, 1)] {
        assert_eq!(guest.ask_now(&ask), Some("ok"), "{ask:?}");
    }
    let ends = [detach(5), unref(5), unref(6), create_2d(6, 8, 8), whole(5)].map(|ask| guest.send(&ask));
    guest.settle();
    assert!(waiting.iter().chain(&ends).all(|index| guest.reply(*index).is_none()));
    guest.library.known().full.clear();
    guest.wait();
    assert_eq!(waiting.map(|index| guest.reply(index)), [Some("ok"); 3]);
    assert_eq!(ends.map(|index| guest.reply(index).unwrap()), ["ok", "ok", "ok", "ok", "invalid_resource"]);
    guest.finish();
}

#[test]
fn the_last_context_that_goes_leaves_what_it_drew_and_no_twin() {
    for go in [close(1), leave(1, 5)] {
        let mut guest = with_image(Pace::Late);
        let before = guest.stats.image_bytes();
        guest.all("ok", &[submit(1, &[0]), open(3, VIRGL2), join(3, 5), submit(3, &[0])]);
        assert_eq!(guest.stats.image_bytes(), before + BYTES, "its pixels are held once more");
        guest.all("ok", &[go]);
        assert_eq!(called(&guest, ["read", "destroy"]), [0, 0]);
        guest.all("ok", &[close(3)]);
        assert_eq!((called(&guest, ["read", "destroy"]), guest.stats.image_bytes()), ([1, 1], before));
        guest.all("ok", &[flush(5, 16, 16)]);
        assert_eq!((shown(&guest, 7), called(&guest, ["read"])), (DRAWN, [1]));
        guest.finish();
    }
}

#[test]
fn what_a_context_draws_while_its_image_is_read_is_read_too_when_it_goes() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0])]);
    guest.library.known().pace = Pace::Never;
    let flushed = guest.send(&flush(5, 16, 16));
    let sent = [submit(1, &[0]), close(1), transfer(5, [0, 0, 1, 1], 0)].map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!([flushed, sent[1], sent[2]].map(|index| guest.reply(index)), [Some("ok"), Some("ok"), Some("ok")]);
    go_on(&mut guest);
    assert_eq!(called(&guest, ["read", "destroy"]), [2, 1]);
    guest.all("ok", &[flush(5, 16, 16)]);
    assert_eq!([0, 1].map(|pixel| shown(&guest, pixel)), [copied(0), DRAWN], "the copy is newer than both");
    guest.finish();
}

#[test]
fn what_was_drawn_is_copied_to_the_guest_by_the_library() {
    let mut guest = with_image(Pace::Late);
    guest.all("ok", &[open(2, VENUS), join(2, 5), open(3, VIRGL2)]);
    let back = |context| from_host(context, 5, ALL, 0, [0; 3]);
    guest.all("invalid_parameter", &[back(0), from_host(1, 5, [0, 0, 0, 17, 1, 1], 0, [0; 3])]);
    guest.all("invalid_resource", &[back(2), back(3)]);
    assert_eq!(called(&guest, ["transfer"]), [0]);
    // It is work: a cold context is opened. Those that may not copy it stay as they are.
    guest.all("ok", &[back(1).fenced(1)]);
    assert_eq!(called(&guest, ["open", "create", "transfer"]), [1, 1, 1]);
    guest.all("ok", &[detach(5)]);
    guest.all("unspec", &[back(1)]);
    guest.finish();
}

#[test]
fn pages_of_a_twin_are_the_guest_s_again_when_the_library_says_so() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0]), create_2d(6, 16, 16), join(1, 6), attach(6, 0x2000, 0x400)]);
    assert!(guest.library.known().resources[&6].attached);
    guest.library.known().pace = Pace::Never;
    let waiting = [unref(5), detach(6)].map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!(waiting.map(|index| guest.reply(index)), [None; 2]);
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!(waiting.map(|index| guest.reply(index)), [Some("ok"); 2]);
    let left: Vec<_> = guest.library.known().resources.iter().map(|(id, it)| (*id, it.attached)).collect();
    assert_eq!(left, [(6, false)]);
    guest.finish();
}

#[test]
fn vulkan_and_guest_blobs_have_no_twins() {
    let mut guest = with_image(Pace::Late);
    guest.all("ok", &[guest_blob(6, 0x1000, 0x1000), join(1, 6), open(2, VENUS), join(2, 5), submit(2, &[0])]);
    assert_eq!(called(&guest, ["create", "create_blob", "join"]), [0; 3]);
    guest.all("ok", &[submit(1, &[0]), leave(1, 6), leave(2, 5)]);
    assert_eq!(called(&guest, ["create", "create_blob", "join"]), [1, 0, 1]);
    guest.finish();
}

#[test]
fn an_image_outlives_the_library_and_gets_a_new_twin_in_the_next_one() {
    let mut guest = with_image(Pace::Late);
    guest.all("ok", &[submit(1, &[0]), flush(5, 16, 16), submit(1, &[0]), whole(5)]);
    guest.library.die();
    guest.all("ok", &[flush(5, 1, 1), transfer(5, [0, 0, 1, 1], 4), flush(5, 1, 1)]);
    assert_eq!([0, 1].map(|pixel| shown(&guest, pixel)), [copied(1), DRAWN], "only what is flushed is seen");
    guest.library.revive();
    // The lost context gets none, whatever it asks for; a new one does.
    guest.all("ok", &[create_2d(6, 16, 16), join(1, 6), open(3, VIRGL2), join(3, 5)]);
    assert_eq!(called(&guest, ["create"]), [1]);
    guest.all("ok", &[submit(3, &[0])]);
    assert_eq!(called(&guest, ["create"]), [2]);
    assert_eq!([0, 1].map(|pixel| twin(&guest, pixel)), [Some(copied(1)); 2]);
    guest.all("ok", &[leave(1, 5), close(1), unref(6), close(3)]);
    assert_eq!(guest.library.known().resources.len(), 0);
    guest.finish();
}

#[test]
fn a_library_that_dies_while_it_reads_or_writes_leaves_the_image_as_it_was() {
    for asks in [[flush(5, 16, 16), flush(5, 1, 1)], [whole(5), whole(5)], [close(1), flush(5, 16, 16)]] {
        let mut guest = with_image(Pace::Prompt);
        guest.all("ok", &[submit(1, &[0])]);
        guest.library.known().pace = Pace::Never;
        let sent = asks.map(|ask| guest.send(&ask));
        guest.settle();
        guest.library.die();
        guest.wait();
        assert_eq!(sent.map(|index| guest.reply(index)), [Some("ok"); 2]);
        guest.all("ok", &[flush(5, 16, 16)]);
        assert_eq!(shown(&guest, 9), copied(9));
        guest.finish();
    }
}

#[test]
fn a_pause_and_a_reset_while_a_twin_is_read_leave_nothing_waiting() {
    for reset in [false, true] {
        let mut guest = with_image(Pace::Prompt);
        guest.all("ok", &[submit(1, &[0]), submit(1, &[0])]);
        guest.library.known().pace = Pace::Never;
        let flushed = guest.send(&flush(5, 16, 16));
        guest.send(&close(1));
        guest.settle();
        if reset {
            guest.reset();
        } else {
            guest.stop();
            assert_eq!(guest.reply(flushed), Some("ok"));
            guest.start(device::Start::Resumed);
            assert_eq!(guest.ask_now(&transfer(5, [0, 0, 1, 1], 0)), Some("ok"));
            assert_eq!(shown(&guest, 1), copied(1));
            go_on(&mut guest);
            assert_eq!((called(&guest, ["read"]), shown(&guest, 1)), ([2], DRAWN), "it is read anew");
            guest.all("ok", &[flush(5, 16, 16)]);
            assert_eq!([0, 1].map(|pixel| shown(&guest, pixel)), [copied(0), DRAWN]);
        }
        guest.library.release(Pace::Late);
        guest.finish();
    }
}

#[test]
fn pages_are_not_the_guest_s_before_what_was_copied_out_of_a_twin_is_there_also_when_nobody_uses_that_any_more() {
    let mut guest = with_image(Pace::Prompt);
    guest.all("ok", &[submit(1, &[0]), flush(5, 16, 16)]);
    guest.library.known().pace = Pace::Never;
    let copied = guest.send(&from_host(1, 5, ALL, 0, [0; 3]));
    assert_eq!(guest.ask_now(&leave(1, 5)), Some("ok"));
    let detached = guest.send(&detach(5));
    guest.settle();
    assert_eq!([copied, detached].map(|index| guest.reply(index)), [None; 2]);
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!([copied, detached].map(|index| guest.reply(index)), [Some("ok"); 2]);
    assert!(!guest.library.known().resources.contains_key(&5));
    guest.finish();
}

#[test]
fn images_over_the_caps_have_no_twin_and_who_is_told_may_go_on() {
    let mut guest = Guest::new(Pace::Prompt);
    let count = caps::TWINS as u32 + 10;
    guest.all("ok", &[open(1, VIRGL2)]);
    for image in 100..100 + count {
        guest.all("ok", &[create_2d(image, 4, 4), join(1, image)]);
    }
    guest.all("ok", &[submit(1, &[0])]);
    assert_eq!(called(&guest, ["create", "join"]), [caps::TWINS as u64; 2]);
    guest.all("ok", &[create_2d(50, 4, 4)]);
    guest.all("out_of_memory", &[join(1, 50)]);
    guest.all("invalid_resource", &[leave(1, 50)]);
    guest.all("ok", &[leave(1, 100), join(1, 50), submit(1, &[0])]);
    guest.finish();

    // 36 of 64 MiB: there is no room for them twice.
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[create_2d(5, 3000, 3000), open(1, VIRGL2), submit(1, &[0])]);
    guest.all("out_of_memory", &[join(1, 5)]);
    assert_eq!(called(&guest, ["create"]), [0]);
    guest.all("ok", &[unref(5), create_2d(5, 2000, 2000), join(1, 5)]);
    assert_eq!(guest.stats.image_bytes(), 2 * 2000 * 2000 * 4 + caps::RESOURCE_COST);
    guest.finish();
}

#[test]
fn a_command_looks_at_each_twin_that_is_behind_a_few_times_however_many_there_are() {
    let mut guest = Guest::new(Pace::Prompt);
    let images = 100..100 + caps::TWINS as u32;
    guest.all("ok", &[open(1, VIRGL2)]);
    for image in images.clone() {
        guest.all("ok", &[create_2d(image, 4, 4), attach(image, 0x1000, 0x40), join(1, image)]);
    }
    guest.all("ok", &[submit(1, &[0])]);
    guest.library.known().full = [VIRGL2].into();
    for image in images {
        guest.all("ok", &[transfer(image, [0, 0, 4, 4], 0)]);
    }
    let before = guest.library.known().looks;
    guest.all("ok", &[flush(100, 4, 4)]);
    let looks = guest.library.known().looks - before;
    assert!(looks <= 16 * caps::TWINS as u64, "{looks}");
    // A command that comes asks whether there is room, not for each of them.
    let before = guest.library.known().looks;
    guest.send(&transfer(100, [0, 0, 4, 4], 0));
    let looks = guest.library.known().looks - before;
    assert!(looks <= 8, "{looks}");
    guest.library.known().full.clear();
    go_on(&mut guest);
    assert_eq!(called(&guest, ["write"]), [2 * caps::TWINS as u64]);
    guest.finish();
}

#[test]
fn what_a_state_has_of_an_image_is_ours() {
    let mut guest = with_image(Pace::Prompt);
    let before = guest.gpu.state();
    guest.all("ok", &[submit(1, &[0])]);
    assert!(guest.gpu.state() == before);
    let mut other = Guest::new(Pace::Prompt);
    other.gpu.restore(before).unwrap();
    other.all("ok", &[flush(5, 16, 16), open(1, VIRGL2), join(1, 5), submit(1, &[0]), flush(5, 16, 16)]);
    assert_eq!(called(&other, ["create", "read"]), [1, 1]);
    other.finish();
    guest.finish();
}

/// A request about one of three images and three contexts.
fn any_ask() -> impl Strategy<Value = Ask> {
    let both = (1u32..4, 1u32..4);
    prop_oneof![
        2 => both.0.clone().prop_map(|context| open(context, VIRGL2)),
        1 => both.0.clone().prop_map(close),
        4 => both.clone().prop_map(|(context, image)| join(context, image)),
        2 => both.clone().prop_map(|(context, image)| leave(context, image)),
        3 => both.1.clone().prop_map(|image| create_2d(image, 16, 16)),
        1 => both.1.clone().prop_map(unref),
        2 => both.1.clone().prop_map(|image| attach(image, 0x1000, 0x400)),
        1 => both.1.clone().prop_map(detach),
        3 => both.1.clone().prop_map(whole),
        3 => (both.1.clone(), 0u32..12, 0u32..12, 1u32..5, 0u32..32)
            .prop_map(|(image, x, y, size, pixel)| transfer(image, [x, y, size, size], pixel * 4)),
        2 => both.clone().prop_map(|(context, image)| to_host(context, image, ALL, 0, [0; 3])),
        2 => both.clone().prop_map(|(context, image)| from_host(context, image, ALL, 0, [0; 3])),
        5 => both.0.clone().prop_map(|context| submit(context, &[0])),
        2 => (0u32..2, both.1.clone()).prop_map(|(head, image)| scanout(head, image, 16, 16)),
        3 => both.1.prop_map(|image| flush(image, 16, 16)),
    ]
}

/// The pixels of images that are known: those that were copied and not drawn over since, whatever the library does.
#[derive(Default)]
struct Copied(HashMap<(u32, u32), [u8; 4]>);

impl Copied {
    /// A request was sent; `done` if it was carried out at once.
    fn sent(&mut self, ask: &Ask, done: bool) {
        let bytes = ask.bytes();
        let word = |at: usize| u32::from_le_bytes(*bytes[at * 4..].first_chunk().unwrap());
        match word(0) {
            // SUBMIT_3D
            0x207 => self.0.clear(),
            // TRANSFER_TO_HOST_2D
            0x105 if done => {
                let [x, y, width, height, offset, _, image] = [6, 7, 8, 9, 10, 11, 12].map(word);
                for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
                    let from = offset / 4 + row * 16 + column;
                    self.0.insert((image, (y + row) * 16 + x + column), copied(from));
                }
            }
            // What names an image, and may be carried out later.
            0x102 | 0x105 => self.0.retain(|(image, _), _| *image != word(if word(0) == 0x105 { 12 } else { 6 })),
            // TRANSFER_TO_HOST_3D
            0x205 => self.0.clear(),
            _ => {}
        }
    }
}

/// What happens besides.
#[derive(Clone, Copy, Debug)]
enum Event {
    Die,
    Revive,
    Pace(Pace),
    Full(bool),
    Wait,
    Pause,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Die),
        2 => Just(Event::Revive),
        2 => Just(Event::Pace(Pace::Late)),
        2 => Just(Event::Pace(Pace::Never)),
        2 => Just(Event::Pace(Pace::Prompt)),
        2 => any::<bool>().prop_map(Event::Full),
        4 => Just(Event::Wait),
        1 => Just(Event::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_and_whenever_the_library_dies_no_promise_is_broken_and_nothing_is_left(
        asks in prop::collection::vec((any_ask(), prop::option::weighted(0.3, any_event())), 1..80),
        begun in any::<bool>(),
    ) {
        let mut guest = Guest::new(Pace::Prompt);
        for name in (1..4).filter(|_| begun) {
            guest.all("ok", &[create_2d(name, 16, 16), attach(name, 0x1000, 0x400), open(name, VIRGL2)]);
            guest.all("ok", &[join(name, name), submit(name, &[0]), scanout(name & 1, name, 16, 16)]);
        }
        let mut copies = Copied::default();
        // Requests after which a twin may go.
        let mut leaving = Vec::new();
        for (ask, event) in &asks {
            let index = guest.send(ask);
            // CTX_DESTROY, CTX_DETACH_RESOURCE
            if matches!(ask.bytes()[..4], [1 | 3, 2, 0, 0]) {
                leaving.push(index);
            }
            leaving.retain(|index| guest.reply(*index).is_none());
            // A twin that is made by work which waited, perhaps in the place of one that goes before, has what was copied meanwhile
            // below what that work draws.
            let has_twins = || (1..4).all(|image| guest.library.known().resources.contains_key(&image));
            let keeps_order = guest.open() == 0 || leaving.is_empty() && has_twins();
            copies.sent(ask, keeps_order && guest.reply(index) == Some("ok"));
            match event {
                // As with a process: it is dead until there is another one.
                Some(Event::Die) => guest.library.die(),
                Some(Event::Revive) if guest.library.known().lost => {
                    guest.library.known().full.clear();
                    guest.library.release(Pace::Prompt);
                    guest.wait();
                    guest.library.revive();
                }
                Some(Event::Pace(pace)) => guest.library.release(*pace),
                Some(Event::Full(full)) => guest.library.known().full = full.then_some(VIRGL2).into_iter().collect(),
                Some(Event::Wait) => guest.settle(),
                Some(Event::Pause) => {
                    guest.stop();
                    guest.start(device::Start::Resumed);
                }
                Some(Event::Revive) | None => {}
            }
        }
        guest.library.known().full.clear();
        guest.library.release(Pace::Prompt);
        guest.wait();
        // The twins there are have what their images have.
        let lost = guest.library.known().lost;
        for image in (1..4).filter(|_| !lost) {
            let twin = guest.library.known().resources.get(&image).map(|twin| twin.pixels.clone());
            if twin.is_none() || [scanout(0, image, 16, 16), flush(image, 16, 16)].iter().any(|ask| guest.ask(ask) != "ok") {
                continue;
            }
            let twin = guest.library.known().resources[&image].pixels.clone();
            let head = guest.screen.seen().heads[&0].pixels.clone();
            let differs = head.iter().zip(twin.as_chunks::<4>().0).position(|(head, twin)| *head != Some(*twin));
            prop_assert_eq!(differs, None, "of image {}", image);
            for ((_, pixel), value) in copies.0.iter().filter(|((of, _), _)| *of == image) {
                prop_assert_eq!(head[*pixel as usize], Some(*value), "pixel {} of image {}", pixel, image);
            }
        }
        prop_assert!(guest.library.known().faults.is_empty(), "{:?}", guest.library.known().faults);
        guest.finish();
    }
}
