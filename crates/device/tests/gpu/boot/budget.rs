//! What looking for firmware's pixels may cost, in counts.

use std::time::Duration;

use device::{Start, VirtioDevice};
use protocol::ScanoutId;

use super::{Bed, SIZE, Shown, State, dispi};

/// 1920x1080 for a second: every eighth row thirty times.
#[test]
fn budget_a_still_screen_costs_an_eighth_of_its_rows_thirty_times_a_second() {
    let mut bed = Bed::new();
    bed.set_mode((1920, 1080));
    bed.wait();
    let before = bed.machine.stats.snapshot();
    bed.wait();
    let after = bed.machine.stats.snapshot();
    let scans = after.boot_scans - before.boot_scans;
    assert!((29..=31).contains(&scans), "{scans}");
    // One look may have come a whole tick late where a second ends, and is at all rows then.
    let rows = after.boot_rows - before.boot_rows;
    assert!(rows <= scans * 135 + 1080, "{rows}");
    assert_eq!(after.boot_bytes - before.boot_bytes, rows * 1920 * 4);
    assert_eq!((after.frames, after.bytes_copied), (before.frames, before.bytes_copied));
}

/// 1920x1080, other pixels all the time: as many bytes as a still screen may cost, so fewer looks.
#[test]
fn budget_a_screen_that_changes_all_the_time_is_looked_at_less_often() {
    let mut bed = Bed::new();
    bed.set_mode((1920, 1080));
    bed.wait();
    let before = bed.machine.stats.snapshot();
    for turn in 0..1000u32 {
        bed.draw(turn % 64, turn % 1080, turn.to_le_bytes());
        bed.set(dispi::Y_OFFSET, 0);
        bed.machine.pass(Duration::from_millis(1));
        bed.machine.poll();
    }
    let after = bed.machine.stats.snapshot();
    let scans = after.boot_scans - before.boot_scans;
    assert!((14..=16).contains(&scans), "{scans}");
    let bytes = after.boot_bytes - before.boot_bytes;
    assert!(bytes <= 133_000_000, "{bytes}");
}

#[test]
fn budget_nobody_looks_at_what_nobody_watches() {
    let mut bed = Bed::lit();
    bed.machine.screen.seen().unwatched = true;
    bed.machine.poll();
    assert_eq!(bed.machine.gpu.deadline(), None);
    let rows = bed.rows();
    bed.draw(1, 1, [7; 4]);
    (0..20).for_each(|_| bed.tick());
    assert_eq!((bed.rows(), bed.machine.gpu.deadline()), (rows, None));
    assert!(bed.machine.screen.seen().held.contains(&0), "who asks is not told what was");
    // Somebody comes.
    bed.machine.screen.seen().unwatched = false;
    bed.machine.poll();
    assert_eq!((bed.rows(), bed.pixel(1, 1)), (rows + u64::from(SIZE.1), [7; 4]));
    assert!(bed.machine.screen.seen().held.is_empty());
    // Nor does a guest that says that it drew make anybody look.
    bed.machine.screen.seen().unwatched = true;
    for _ in 0..20 {
        bed.set(dispi::Y_OFFSET, 0);
        bed.tick();
    }
    assert_eq!((bed.rows(), bed.machine.gpu.deadline()), (rows + u64::from(SIZE.1), None));
}

/// Its size is known all the same, so that who comes sees a screen that has it.
#[test]
fn a_mode_is_told_also_to_who_does_not_watch() {
    let mut bed = Bed::new();
    bed.machine.screen.seen().unwatched = true;
    bed.set_mode(SIZE);
    bed.wait();
    assert_eq!((bed.shown(), bed.rows()), (Shown::Boot, 0));
    bed.set(dispi::ENABLE, 0);
    bed.wait();
    assert_eq!(bed.shown(), Shown::Nothing);
    assert!(bed.machine.screen.seen().held.is_empty());
}

#[test]
fn budget_the_framebuffer_is_not_read_while_a_driver_shows_something() {
    let mut bed = State::Driver.enter();
    let before = bed.machine.stats.snapshot();
    bed.draw(1, 1, [7; 4]);
    bed.set(dispi::Y_OFFSET, 0);
    bed.wait();
    bed.machine.gpu.capture(&bed.machine.memory, ScanoutId(0)).unwrap();
    let after = bed.machine.stats.snapshot();
    assert_eq!(
        (after.boot_scans, after.boot_rows, after.boot_bytes),
        (before.boot_scans, before.boot_rows, before.boot_bytes)
    );
    assert_eq!(bed.machine.gpu.deadline(), None);
}

/// "viewers: a storm of resizes": a mode costs memory and a screen's attention.
#[test]
fn budget_a_thousand_modes_in_a_second_are_shown_thirty_times() {
    for unwatched in [false, true] {
        let mut bed = Bed::lit();
        bed.machine.screen.seen().unwatched = unwatched;
        bed.machine.screen.seen().sets = 0;
        for turn in 0..1000 {
            bed.machine.pass(Duration::from_millis(1));
            bed.set(dispi::ENABLE, 0);
            bed.machine.poll();
            bed.set_mode((100 + turn % 7, 100));
            bed.machine.poll();
        }
        // Each is one word that the head is off and one that it is on.
        let sets = bed.machine.screen.seen().sets;
        assert!(sets <= 2 * 32, "{sets}");
    }
}

/// A guest can reset its device as often as it likes.
#[test]
fn budget_a_storm_of_resets_costs_one_look_a_tick() {
    let mut bed = Bed::lit();
    let before = bed.machine.stats.boot_scans.get();
    for _ in 0..1000 {
        bed.machine.stop();
        bed.machine.start(Start::Fresh);
    }
    assert!(bed.machine.stats.boot_scans.get() <= before + 1);
}
