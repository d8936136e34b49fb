//! Heads that show memory of the host's: blobs that a context made.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use device::Start;

use crate::asks::{close, flush, guest_blob, map, mappable, open, scanout, scanout_blob, submit, unmap, unref};
use crate::strict::{PAGE, Pace, What};
use crate::window::Guest;

const VENUS: u32 = 4;
/// A blob of 16 times 16 pixels has some room behind them.
const SIZE: u64 = PAGE;

fn with_context(pace: Pace) -> Guest {
    let mut guest = Guest::new(Pace::Prompt);
    guest.all("ok", &[open(2, VENUS), submit(2, &[0])]);
    guest.library.known().pace = pace;
    guest
}

/// As who drew into a blob.
fn draw(guest: &Guest, blob: u32, byte: u8) {
    let known = guest.library.known();
    let What::Blob(Some(mapping)) = &known.resources[&blob].what else { panic!("No blob with memory") };
    rustix::io::pwrite(mapping.file.as_fd(), &[byte; SIZE as usize], 0).unwrap();
}

/// The first and the last pixel of a head.
fn shown(guest: &Guest, head: u32) -> Option<[[u8; 4]; 2]> {
    let seen = guest.screen.seen();
    let pixels = &seen.heads.get(&head)?.pixels;
    Some([pixels.first()?, pixels.last()?].map(|pixel| pixel.unwrap_or_default()))
}

#[test]
fn a_head_shows_what_is_in_a_blob_when_it_is_flushed_mapped_by_the_guest_or_not() {
    let mut guest = with_context(Pace::Late);
    guest.all("ok", &[mappable(2, 20, SIZE)]);
    draw(&guest, 20, 7);
    guest.all("ok", &[scanout_blob(0, 20, 16, 16), flush(20, 16, 16)]);
    assert_eq!(shown(&guest, 0), Some([[7; 4]; 2]));
    draw(&guest, 20, 8);
    assert_eq!(shown(&guest, 0), Some([[7; 4]; 2]));
    guest.all("map_info", &[map(20, 0)]);
    guest.all("ok", &[flush(20, 16, 15), unmap(20)]);
    assert_eq!(shown(&guest, 0), Some([[8; 4], [7; 4]]), "what was flushed");
    draw(&guest, 20, 9);
    guest.all("ok", &[flush(20, 16, 16)]);
    assert_eq!(guest.gpu.capture(&guest.memory, protocol::ScanoutId(0)).unwrap().pixels, [9; 1024]);
    assert_eq!(guest.library.known().called("read"), 0, "nothing of it is read back");
    guest.finish();
}

#[test]
fn a_blob_is_flipped_to_and_from_and_goes_when_it_likes() {
    let mut guest = with_context(Pace::Prompt);
    guest.all("ok", &[mappable(2, 20, SIZE), mappable(2, 21, SIZE), guest_blob(22, 0x1000, 0x1000)]);
    draw(&guest, 20, 1);
    draw(&guest, 21, 2);
    let fds = || std::fs::read_dir("/proc/self/map_files").map_or(0, Iterator::count);
    let before = fds();
    for _ in 0..3 {
        guest.all("ok", &[scanout_blob(0, 20, 16, 16), flush(20, 16, 16)]);
        assert_eq!(shown(&guest, 0), Some([[1; 4]; 2]));
        guest.all("ok", &[scanout_blob(0, 21, 16, 16), scanout_blob(1, 20, 16, 16), flush(21, 16, 16)]);
        assert_eq!(shown(&guest, 0), Some([[2; 4]; 2]));
        guest.all("ok", &[scanout_blob(0, 22, 16, 16), scanout_blob(1, 0, 1, 1)]);
    }
    assert!(fds() <= before + 1, "what nobody sees is not mapped");
    guest.all("ok", &[scanout_blob(0, 21, 16, 16), unref(21)]);
    assert_eq!(shown(&guest, 0), None);
    guest.all("ok", &[scanout_blob(0, 20, 16, 16), scanout(0, 0, 0, 0), unref(20)]);
    guest.finish();
}

#[test]
fn a_picture_outlives_its_context_and_its_library() {
    let mut guest = with_context(Pace::Prompt);
    guest.all("ok", &[mappable(2, 20, SIZE)]);
    draw(&guest, 20, 3);
    guest.all("ok", &[scanout_blob(0, 20, 16, 16), close(2)]);
    guest.library.die();
    guest.all("ok", &[flush(20, 16, 16)]);
    assert_eq!(shown(&guest, 0), Some([[3; 4]; 2]));
    guest.stop();
    guest.start(Start::Resumed);
    guest.all("ok", &[flush(20, 16, 16), unref(20)]);
    assert_eq!(shown(&guest, 0), None);
    guest.finish();
}

#[test]
fn a_blob_that_is_made_late_is_shown_when_it_is_there_and_what_names_it_waits() {
    let mut guest = with_context(Pace::Never);
    let sent = [mappable(2, 20, SIZE), scanout_blob(0, 20, 16, 16), flush(20, 16, 16), unref(20)];
    let sent = sent.map(|ask| guest.send(&ask));
    guest.settle();
    assert_eq!(sent.map(|index| guest.reply(index)), [None; 4]);
    assert_eq!(guest.ask_now(&flush(0, 1, 1)), Some("invalid_resource"));
    guest.library.release(Pace::Late);
    guest.wait();
    assert_eq!(sent.map(|index| guest.reply(index)), [Some("ok"); 4]);
    assert_eq!(guest.screen.seen().flushes, 1);
    assert_eq!(shown(&guest, 0), None);

    // It cannot be made: nobody waits for it any more.
    guest.library.known().pace = Pace::Never;
    let sent = [mappable(2, 20, SIZE), scanout_blob(0, 20, 16, 16), flush(20, 16, 16)].map(|ask| guest.send(&ask));
    guest.settle();
    guest.library.die();
    guest.wait();
    let replies = sent.map(|index| guest.reply(index).unwrap());
    assert_eq!(replies, ["unspec", "invalid_resource", "invalid_resource"]);
    guest.finish();
}

#[test]
fn a_pause_while_a_blob_to_be_shown_is_made() {
    let mut guest = with_context(Pace::Never);
    let sent = [mappable(2, 20, SIZE), scanout_blob(0, 20, 16, 16)].map(|ask| guest.send(&ask));
    guest.stop();
    assert_eq!(sent.map(|index| guest.reply(index)), [Some("unspec"); 2]);
    guest.start(Start::Resumed);
    guest.library.release(Pace::Late);
    guest.settle();
    assert_eq!(shown(&guest, 0), None);
    guest.finish();
}

#[test]
fn what_nobody_can_map_is_not_shown() {
    let mut guest = with_context(Pace::Prompt);
    guest.library.known().exports = false;
    guest.all("ok", &[mappable(2, 20, SIZE)]);
    guest.all("invalid_parameter", &[scanout_blob(0, 20, 16, 16)]);
    assert_eq!(shown(&guest, 0), None);
    guest.all("ok", &[flush(20, 16, 16)]);
    guest.finish();
}

#[test]
fn what_is_mapped_is_guarded_or_not_looked_at() {
    static GUARDED: AtomicUsize = AtomicUsize::new(0);
    let mut guest = with_context(Pace::Prompt);
    let gpu = std::mem::replace(&mut guest.gpu, crate::machine::gpu(Box::new(renderer::Soft::new()), false).0);
    guest.gpu = gpu.guarded_by(|mapping: &Arc<_>| {
        assert!(mapping.size() as u64 == SIZE);
        GUARDED.fetch_add(1, Ordering::Relaxed) == 0
    });
    guest.all("ok", &[mappable(2, 20, SIZE), mappable(2, 21, SIZE), scanout_blob(0, 20, 16, 16)]);
    guest.all("ok", &[scanout_blob(1, 20, 16, 8)]);
    assert_eq!(GUARDED.load(Ordering::Relaxed), 1);
    guest.all("invalid_parameter", &[scanout_blob(0, 21, 16, 16)]);
    guest.finish();
}
