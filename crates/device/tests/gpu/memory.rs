//! Guest memory that comes and goes under what uses it.

use std::sync::Arc;

use device::{Memory, Region};
use renderer::Mood;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::conversation::{Interlocutor, conversations};
use crate::machine::{Machine, OWN};
use crate::ring::RingMachine;
use crate::screen::Picture;

conversations! {
    a_backing_that_lost_its_memory_reads_nothing: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x200000+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        memory 0 1
        transfer 1 0,0+16x16 -> invalid_parameter
        # What was copied before is still there.
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x200000 64
        attach 1 0x200000+0x400 -> unspec
        detach 1 -> ok
        attach 1 0x200000+0x400 -> invalid_parameter
        memory
        attach 1 0x1000+0x400 -> invalid_parameter
        memory 0 1 2
        attach 1 0x1000+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x1000 64
    ";

    a_backing_half_of_which_is_gone_reads_nothing: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x200 0x200000+0x200 -> ok
        memory 0 1
        # Not even the half that is still there.
        transfer 1 0,0+16x8 -> invalid_parameter
        memory 0 1 2
        transfer 1 0,0+16x16 -> ok
        memory 1 2
        transfer 1 0,0+16x16 -> invalid_parameter
    ";

    a_backing_across_two_pieces_needs_both: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x7fe00+0x400 -> ok
        memory 0 2
        transfer 1 0,0+16x16 -> invalid_parameter
        memory 1
        transfer 1 0,0+16x16 -> invalid_parameter
        memory 0 1
        transfer 1 0,0+16x16 -> ok
    ";

    // What the device exported comes back as guest memory and is never read.
    a_backing_inside_our_own_exported_memory_is_refused: "
        memory 0 1 2 3
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x400000+0x400 -> invalid_parameter
        blob 2 0x1000 0x400000+0x1000 -> invalid_parameter
        blob 2 0x2000 0x1000+0x1000 0x400000+0x1000 -> invalid_parameter
    ";

    the_pointer_outlives_its_memory: "
        blob 1 0x4000 0x200000+0x4000 -> ok
        cursor 0 1,1 1 0,0 -> ok
        memory 0
        cursor 0 2,2 1 0,0 -> invalid_parameter
        pointer 0 1,1 0,0 64x64 0x200000
        move_cursor 0 3,3 -> ok
        pointer 0 3,3 0,0 64x64 0x200000
    ";
}

/// The same addresses, other memory: a VMM replaced a DIMM. The next use sees the new one.
#[test]
fn a_new_table_is_used_from_the_next_command_on() {
    let table = |byte: u8| {
        let mapping = Arc::new(MmapRegion::new(0x1000).unwrap());
        mapping.as_volatile_slice().write_slice(&[byte; 0x1000], 0).unwrap();
        Memory::new(vec![Region { start: 0, len: 0x1000, mapping, offset: 0, usable: true }]).unwrap()
    };
    let mut machine = Machine::soft();
    machine.memory = table(1);
    machine.must("create_2d 1 bgrx 1x1");
    machine.must("attach 1 0+4");
    machine.must("scanout 0 1 0,0+1x1");
    machine.must("blob 2 4 0+4");
    machine.must("scanout_blob 1 2 0,0+1x1 1x1 bgrx 4 0");
    for byte in 1..=200 {
        machine.memory = table(byte);
        machine.must("transfer 1 0,0+1x1");
        machine.must("flush 1 0,0+1x1");
        machine.must("flush 2 0,0+1x1");
        let seen = machine.screen.seen();
        assert_eq!(seen.heads[&0].pixels, [Some([byte; 4])]);
        assert_eq!(seen.heads[&1].pixels, [Some([byte; 4])]);
    }
}

/// What a resource of [`tables_that_change_ten_thousand_times_under_live_backings`] is made of.
struct Live {
    /// Where its pixels begin.
    addr: u64,
    /// The pieces of memory that it needs.
    pieces: &'static [usize],
    is_blob: bool,
}

const LIVE: [Live; 6] = [
    Live { addr: 0x1000, pieces: &[0], is_blob: false },
    Live { addr: 0x9_0000, pieces: &[1], is_blob: false },
    Live { addr: 0x7_fe00, pieces: &[0, 1], is_blob: false },
    Live { addr: 0x20_0000, pieces: &[2], is_blob: true },
    Live { addr: 0x7_ff00, pieces: &[0, 1], is_blob: true },
    Live { addr: 0x20_8000, pieces: &[2], is_blob: false },
];

fn storm<M: Interlocutor>(mut machine: M) {
    let must = |machine: &mut M, line: &str| assert_eq!(machine.ask(line), "ok", "{line}");
    for (live, id) in LIVE.iter().zip(1..) {
        if live.is_blob {
            must(&mut machine, &format!("blob {id} 0x400 {}+0x400", live.addr));
        } else {
            must(&mut machine, &format!("create_2d {id} bgrx 16x16"));
            must(&mut machine, &format!("attach {id} {}+0x400", live.addr));
        }
    }
    let (mut done, mut refused, mut on_head) = (0, 0, None);
    for round in 0..10_000usize {
        // Every subset of the three pieces and of our own memory, over and over.
        let table: Vec<usize> = (0..4).filter(|piece| (round >> piece) & 1 == 1).collect();
        machine.set_memory(&table);
        let which = (round * 7 + round / 16) % LIVE.len();
        let (live, id) = (&LIVE[which], which + 1);
        let is_there = live.pieces.iter().all(|piece| table.contains(piece));
        let (show, copy) = match live.is_blob {
            true => (format!("scanout_blob 0 {id} 0,0+16x16 16x16 bgrx 64 0"), format!("flush {id} 0,0+16x16")),
            false => (format!("scanout 0 {id} 0,0+16x16"), format!("transfer {id} 0,0+16x16")),
        };
        let shown = machine.ask(&show);
        assert_eq!(shown, if live.is_blob && !is_there { "invalid_parameter" } else { "ok" }, "{show} with {table:?}");
        if shown == "ok" {
            on_head = Some(id);
        }
        // A flush looks at memory only where a head shows the blob.
        let needed = !live.is_blob || on_head == Some(id);
        let copied = machine.ask(&copy);
        assert_eq!(copied, if is_there || !needed { "ok" } else { "invalid_parameter" }, "{copy} with {table:?}");
        if is_there {
            must(&mut machine, &format!("flush {id} 0,0+16x16"));
            let screen = machine.screen();
            assert!(shows(&screen.seen().heads[&0], live.addr), "round {round}");
            done += 1;
        } else {
            refused += 1;
        }
    }
    assert!(done > 1000 && refused > 1000, "{done} done, {refused} refused");
    machine.finish();
}

fn shows(picture: &Picture, addr: u64) -> bool {
    let expected = (addr as u32..).step_by(4).map(|addr| Some(addr.to_le_bytes()));
    picture.pixels.iter().copied().eq(expected.take(picture.pixels.len()))
}

#[test]
fn tables_that_change_ten_thousand_times_under_live_backings() {
    storm(Machine::soft());
}

#[test]
fn tables_that_change_ten_thousand_times_while_the_renderer_is_late() {
    storm(Machine::late(Mood::honest(11), true));
}

#[test]
fn tables_that_change_ten_thousand_times_over_rings() {
    storm(RingMachine::late(Mood::honest(12), true));
}

#[test]
fn memory_of_our_own_is_not_in_a_table_by_address_either() {
    let mut machine = Machine::soft();
    machine.set_memory(&[3]);
    machine.must("create_2d 1 bgrx 1x1");
    assert_eq!(machine.ask(&format!("attach 1 {OWN}+4")), "invalid_parameter");
}
