//! Windows as firmware opens and closes them, as a model says, and as nobody should.

mod hostile;
mod model;

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use model::Checked;

/// Memory of a guest that nobody asks for.
#[derive(Debug)]
struct Silent;

impl DmaPort for Silent {
    fn read(&self, _address: u64, _data: &mut [u8]) -> bool {
        false
    }

    fn write(&self, _address: u64, _data: &[u8]) -> bool {
        false
    }

    fn suspend(&self) {}

    fn resume(&self) {}
}

fn table() -> DmaTable {
    let mut table = DmaTable::new(Files::default());
    table.connected(Arc::new(Silent));
    table
}

fn memfd(len: u64) -> File {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fd.into()
}

fn copy(file: &File) -> Option<OwnedFd> {
    Some(file.as_fd().try_clone_to_owned().unwrap())
}

fn window(iova: u64, size: u64, offset: u64) -> Window {
    Window { iova, size, offset, readable: true, writable: true }
}

fn read(memory: &Memory, addr: u64) -> Option<u8> {
    let mut byte = [0u8];
    memory.slice(addr, 1)?.copy_to(&mut byte);
    Some(byte[0])
}

const RAM: u64 = 256 << 20;
/// Where firmware put our BAR 0.
const BAR0: (u64, u64) = (0xfd00_0000, 0x100_0000);

/// What QEMU said as SeaBIOS and Linux started, slept and woke up.
const SEABIOS: &str = "\
    map 0 10000000 rw file 0
    map fffc0000 40000 r
    unmap 0 10000000
    map 0 c0000 rw file 0
    map c0000 20000 r
    map e0000 20000 r
    map 100000 ff00000 rw file 100000
    unmap 0 c0000
    unmap c0000 20000
    unmap e0000 20000
    unmap 100000 ff00000
    map 0 d8000 rw file 0
    map d8000 8000 r
    map e0000 10000 r
    map f0000 ff10000 rw file f0000
    unmap 0 d8000
    unmap d8000 8000
    unmap e0000 10000
    unmap f0000 ff10000
    map 0 10000000 rw file 0
    map fd000000 1000000 rw
    unmap 0 10000000
    map 0 c3000 rw file 0
    map c3000 15000 r file c3000
    map d8000 18000 rw file d8000
    map f0000 10000 r file f0000
    map 100000 ff00000 rw file 100000
    unmap c3000 15000
    unmap d8000 18000
    map c3000 25000 r file c3000
    map e8000 8000 rw file e8000
    unmap fd000000 1000000
    map fd000000 1000000 rw
    unmap fd000000 1000000
    map fd000000 1000000 rw";

/// The same of OVMF.
const OVMF: &str = "\
    map 0 10000000 rw file 0
    unmap 0 10000000
    map 0 c0000 rw file 0
    map c0000 20000 r
    map 100000 ff00000 rw file 100000";

/// Plays what was said, with or without files.
fn play(script: &str, shared: bool, each: impl Fn(&mut Checked)) {
    let mut checked = Checked::new(&[RAM]);
    checked.own(BAR0);
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u64::from_str_radix(words[at], 16).unwrap();
        if words[0] == "unmap" {
            checked.unmap(number(1), number(2)).unwrap();
        } else {
            let file = (words.get(4) == Some(&"file") && shared).then_some(0);
            let offset = if file.is_some() { number(5) } else { 0 };
            checked.map(number(1), number(2), offset, words[3] == "rw", file).unwrap();
        }
        each(&mut checked);
    }
    checked.take();
}

#[test]
fn memory_that_firmware_takes_apart_and_puts_together_is_what_it_says() {
    for script in [SEABIOS, OVMF] {
        for shared in [true, false] {
            play(script, shared, |checked| {
                checked.take();
            });
            play(script, shared, |_| {});
        }
    }
}

#[test]
fn memory_is_mapped_once_whatever_firmware_does() {
    let mut mappings = Vec::new();
    let mut checked = Checked::new(&[RAM]);
    for line in SEABIOS.lines().filter(|line| line.contains("file")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u64::from_str_radix(words[at], 16).unwrap();
        checked.map(number(1), number(2), number(5), true, Some(0)).unwrap();
        mappings.extend(checked.take().unwrap().regions().iter().map(|region| region.mapping.as_ptr() as usize));
        checked.unmap(number(1), number(2)).unwrap();
    }
    mappings.dedup();
    assert_eq!(mappings.len(), 1);
}

#[test]
fn windows_that_the_device_may_not_use_come_and_go_unnoticed() {
    let (mut table, ram) = (table(), memfd(RAM));
    table.map(window(0, RAM, 0), copy(&ram)).unwrap();
    let before = table.take_table().unwrap().generation();
    table.set_own_bars(&[BAR0, (0xfebf_0000, 0x4000)]);
    for round in 0..100 {
        table.map(window(BAR0.0, BAR0.1, 0), None).unwrap();
        assert!(table.take_table().is_none(), "{round}");
        table.map(window(0xfebf_1000, 0x1000, 0), copy(&ram)).unwrap();
        table.map(Window { writable: false, ..window(0xfffc_0000, 0x4_0000, 0) }, None).unwrap();
        table.map(Window { readable: false, ..window(0xfff0_0000, 0x1000, 0) }, copy(&ram)).unwrap();
        table.unmap(Some((BAR0.0, BAR0.1))).unwrap();
        assert!(table.take_table().is_none(), "{round}");
        for (iova, size) in [(0xfebf_1000, 0x1000), (0xfffc_0000, 0x4_0000), (0xfff0_0000, 0x1000)] {
            table.unmap(Some((iova, size))).unwrap();
        }
    }
    assert!(table.take_table().is_none());
    // And what is taken away and put back before anybody looks.
    table.unmap(None).unwrap();
    table.map(window(0, RAM / 2, 0), copy(&ram)).unwrap();
    table.map(window(RAM / 2, RAM / 2, RAM / 2), copy(&ram)).unwrap();
    assert!(table.take_table().is_none());
    table.unmap(Some((RAM / 2, RAM / 2))).unwrap();
    assert!(table.take_table().unwrap().generation() > before);
}

#[test]
fn a_bar_that_moves_is_not_memory_where_it_is_and_what_it_covered_is_again() {
    let (mut table, ram) = (table(), memfd(RAM));
    table.map(window(0, RAM, 0), copy(&ram)).unwrap();
    table.map(window(BAR0.0, BAR0.1, 0), None).unwrap();
    assert!(table.take_table().unwrap().target(BAR0.0, 1).is_some(), "nobody said that it is ours");
    table.set_own_bars(&[BAR0]);
    assert!(table.take_table().unwrap().target(BAR0.0, 1).is_none());
    table.set_own_bars(&[(BAR0.0, BAR0.1 / 2)]);
    assert!(table.take_table().unwrap().target(BAR0.0, 1).is_some(), "half of it is not");
    table.set_own_bars(&[(0, RAM)]);
    assert!(table.take_table().unwrap().target(0, 1).is_none());
    table.set_own_bars(&[]);
    assert!(table.take_table().unwrap().target(0, 1).is_some());
}

#[test]
fn a_front_end_that_is_gone_leaves_nothing_behind() {
    let (mut table, ram) = (table(), memfd(RAM));
    table.map(window(0, RAM, 0), copy(&ram)).unwrap();
    table.map(window(RAM, 4096, 0), None).unwrap();
    let mapping = Arc::downgrade(&table.take_table().unwrap().regions()[0].mapping);
    table.set_own_bars(&[BAR0]);
    table.clear();
    assert!(mapping.upgrade().is_none());
    assert!(table.take_table().is_none(), "the device's own table is empty too");
    table.connected(Arc::new(Silent));
    assert!(table.take_table().is_none());
    table.map(window(BAR0.0, BAR0.1, 0), None).unwrap();
    assert!(table.take_table().unwrap().target(BAR0.0, 1).is_some(), "where our BARs were is forgotten");
}

#[test]
fn without_a_front_end_to_ask_memory_that_is_not_shared_is_none() {
    let mut table = DmaTable::new(Files::default());
    table.map(window(0, RAM, 0), None).unwrap();
    table.suspend();
    table.warn_if_private();
    assert!(table.take_table().is_none());
    table.resume();
}

#[test]
fn functions_of_one_process_share_their_mappings() {
    let (files, ram) = (Files::default(), memfd(RAM));
    let memories = [files.clone(), files].map(|files| {
        let mut table = DmaTable::new(files);
        table.map(window(0, RAM, 0), copy(&ram)).unwrap();
        table.take_table().unwrap()
    });
    let [one, other] = memories.each_ref().map(|memory| &memory.regions()[0].mapping);
    assert!(Arc::ptr_eq(one, other));
}

#[test]
fn the_user_is_told_once_that_memory_is_not_shared() {
    let told = |windows: &[(u64, u64, bool)]| {
        let (mut table, ram) = (table(), memfd(RAM));
        table.set_own_bars(&[BAR0]);
        for &(iova, size, shared) in windows {
            table.map(window(iova, size, 0), copy(&ram).filter(|_| shared)).unwrap();
        }
        table.warn_if_private();
        let before = table.remote.as_ref().unwrap().has_warned();
        if let Some(memory) = table.take_table() {
            let _ = memory.slice(windows[0].0, 1);
        }
        (before, table.remote.as_ref().unwrap().has_warned())
    };
    assert_eq!(told(&[(0, RAM, false)]), (true, true));
    assert_eq!(told(&[(0, RAM, true)]), (false, false));
    assert_eq!(told(&[(0, 0xa0000, false)]), (false, true), "it is small, but it is used");
    assert_eq!(told(&[(0, RAM, true), (1 << 32, 16 << 20, false)]), (false, false), "another device's BAR");
    assert_eq!(told(&[BAR0].map(|(at, len)| (at, len, false))), (false, false));
}

#[test]
fn tables_change_ten_thousand_times_under_someone_who_reads() {
    let (mut table, ram) = (table(), memfd(RAM));
    rustix::io::pwrite(&ram, &[0x5a], 0x1000).unwrap();
    rustix::io::pwrite(&ram, &[0xa5], 0x8000).unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Arc<Memory>>(1);
    let reader = std::thread::spawn(move || {
        let mut seen = [0u32; 2];
        for memory in receiver {
            // The table is ours for as long as we have it, whatever became of its windows.
            for (count, (addr, byte)) in seen.iter_mut().zip([(0x1000, 0x5a), (0x8000, 0xa5)]) {
                if let Some(found) = read(&memory, addr) {
                    assert_eq!(found, byte);
                    *count += 1;
                }
            }
        }
        seen
    });
    for round in 0..10_000u64 {
        match round % 4 {
            0 => table.map(window(0, 0x4000, 0), copy(&ram)).unwrap(),
            1 => table.map(window(0x4000, RAM - 0x4000, 0x4000), copy(&ram)).unwrap(),
            2 => table.unmap(Some((0, 0x4000))).unwrap(),
            _ => table.unmap(None).unwrap(),
        }
        sender.send(table.take_table().unwrap()).unwrap();
    }
    drop(sender);
    assert_eq!(reader.join().unwrap(), [5000, 5000]);
}
