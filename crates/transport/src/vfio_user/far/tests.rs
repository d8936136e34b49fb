//! A front-end that answers late, never, or with errors.

use std::sync::Condvar;
use std::sync::atomic::AtomicUsize;

use device::Memory;

use super::*;
use crate::mapped::Files;
use crate::vfio_user::Window;
use crate::vfio_user::dma::DmaTable;

const SIZE: usize = 1 << 20;

/// What the front-end does with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Answers,
    Refuses,
    /// It does not before the mood changes, or the wait is cut short.
    Silent,
}

#[derive(Debug, Default)]
struct Vmm {
    memory: Mutex<Vec<u8>>,
    state: Mutex<(Mood, bool)>,
    changed: Condvar,
    /// How many requests wait for an answer.
    waiting: AtomicUsize,
    /// Addresses and lengths of what was asked for; writes are true.
    asked: Mutex<Vec<(bool, u64, usize)>>,
}

impl Vmm {
    fn new() -> Arc<Self> {
        let vmm = Self::default();
        *vmm.memory.lock().unwrap() = (0..SIZE).map(|at| (at / 16) as u8).collect();
        Arc::new(vmm)
    }

    fn set(&self, mood: Mood) {
        self.state.lock().unwrap().0 = mood;
        self.changed.notify_all();
    }

    fn asked(&self) -> Vec<(bool, u64, usize)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn answer(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
        while *state == (Mood::Silent, false) {
            state = self.changed.wait(state).unwrap();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        *state == (Mood::Answers, false)
    }

    /// Returns once a request waits for its answer.
    fn wait_until_asked(&self) {
        let mut state = self.state.lock().unwrap();
        while self.waiting.load(Ordering::SeqCst) == 0 {
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl DmaPort for Vmm {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.asked.lock().unwrap().push((false, address, data.len()));
        let done = self.answer();
        let at = address as usize;
        // What came before the end is there, as with an answer that is cut short.
        data.copy_from_slice(&self.memory.lock().unwrap()[at..at + data.len()]);
        done
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.asked.lock().unwrap().push((true, address, data.len()));
        let done = self.answer();
        if done {
            let at = address as usize;
            self.memory.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        }
        done
    }

    fn suspend(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn resume(&self) {
        self.state.lock().unwrap().1 = false;
    }
}

/// A front-end, and a table with one window onto all of its memory.
fn far() -> (Arc<Vmm>, DmaTable, Arc<Memory>) {
    let vmm = Vmm::new();
    let mut table = DmaTable::new(Files::default());
    table.connected(vmm.clone());
    table.map(window(0, SIZE as u64), None).unwrap();
    let memory = table.take_table().unwrap();
    (vmm, table, memory)
}

fn window(iova: u64, size: u64) -> Window {
    Window { iova, size, offset: 0, readable: true, writable: true }
}

fn read(memory: &Memory, addr: u64, len: u64) -> Option<Vec<u8>> {
    let slice = memory.slice(addr, len)?;
    let mut bytes = vec![0; slice.len()];
    slice.copy_to(&mut bytes);
    Some(bytes)
}

fn write(memory: &Memory, addr: u64, bytes: &[u8]) -> bool {
    memory.target(addr, bytes.len() as u64).unwrap().copy_from(bytes);
    memory.written(addr, bytes.len() as u64)
}

#[test]
fn what_is_looked_at_is_what_the_guest_has_now() {
    let (vmm, _table, memory) = far();
    assert_eq!(read(&memory, 0x100, 2), Some(vec![0x10; 2]));
    vmm.memory.lock().unwrap()[0x100] = 0xee;
    assert_eq!(read(&memory, 0x100, 2), Some(vec![0xee, 0x10]));
    let slice = memory.slice(0x100, 1).unwrap();
    vmm.memory.lock().unwrap()[0x100] = 0xdd;
    assert!(memory.fetch(0x100, 1));
    let mut byte = [0u8];
    slice.copy_to(&mut byte);
    assert_eq!(byte, [0xdd]);
    assert_eq!(vmm.asked(), vec![(false, 0x100, 2), (false, 0x100, 2), (false, 0x100, 1), (false, 0x100, 1)]);
}

#[test]
fn what_is_written_is_not_asked_for_and_arrives() {
    let (vmm, _table, memory) = far();
    assert!(write(&memory, 0x200, &[7; 16]));
    assert_eq!(vmm.memory.lock().unwrap()[0x1ff..0x211], [&[0x1f][..], &[7; 16], &[0x21]].concat());
    assert_eq!(vmm.asked(), vec![(true, 0x200, 16)]);
}

#[test]
fn long_pieces_come_in_as_many_messages_as_they_need() {
    let (vmm, _table, memory) = far();
    let len = 2 * CHUNK as u64 + 1;
    assert_eq!(read(&memory, 8, len).unwrap(), vmm.memory.lock().unwrap()[8..][..len as usize]);
    assert!(write(&memory, 8, &vec![9; len as usize]));
    assert_eq!(vmm.memory.lock().unwrap()[7..][..3], [0, 9, 9]);
    let reads = [(8, CHUNK), (8 + CHUNK as u64, CHUNK), (8 + 2 * CHUNK as u64, 1)];
    let asked: Vec<_> = [false, true].iter().flat_map(|kind| reads.map(|(at, len)| (*kind, at, len))).collect();
    assert_eq!(vmm.asked(), asked);
}

#[test]
fn what_is_not_in_a_window_is_never_asked_for() {
    let (vmm, mut table, memory) = far();
    for (addr, len) in [(SIZE as u64, 1), (SIZE as u64 - 1, 2), (0, SIZE as u64 + 1), (u64::MAX, 1)] {
        assert!(memory.slice(addr, len).is_none() && memory.target(addr, len).is_none(), "{addr:#x}");
        assert!(!memory.fetch(addr, len) && !memory.written(addr, len), "{addr:#x}");
    }
    // One byte of it is in the window and may have been asked for.
    assert!(vmm.asked().iter().all(|(_, addr, len)| addr + *len as u64 <= SIZE as u64));
    table.set_own_bars(&[(0, SIZE as u64)]);
    let memory = table.take_table().unwrap();
    assert!(memory.slice(0, 1).is_none() && memory.far().is_none());
    assert_eq!(vmm.asked(), vec![]);
}

#[test]
fn a_refusal_is_no_memory_and_is_not_tried_again() {
    let (vmm, _table, memory) = far();
    vmm.set(Mood::Refuses);
    assert_eq!(read(&memory, 0, 16), None);
    assert!(!write(&memory, 0, &[1]));
    assert_eq!(memory.rest(), Rest::Quiet);
    assert_eq!(memory.far().unwrap().interruptions(), 0);
    vmm.set(Mood::Answers);
    assert_eq!(vmm.asked(), vec![(false, 0, 16), (true, 0, 1)]);
    assert_eq!(read(&memory, 0, 16), Some(vec![0; 16]), "it is as the guest has it");
}

#[test]
fn who_waits_for_an_answer_waits_no_longer_when_the_control_thread_must() {
    let (vmm, mut table, memory) = far();
    for round in 0..100 {
        vmm.set(Mood::Silent);
        std::thread::scope(|scope| {
            let asking =
                scope.spawn(|| if round % 2 == 0 { read(&memory, 0, 8).is_some() } else { write(&memory, 0, &[5]) });
            vmm.wait_until_asked();
            table.suspend();
            // What is read fails, what is written waits.
            assert_eq!(asking.join().unwrap(), round % 2 == 1);
        });
        assert_eq!(read(&memory, 0, 8), None);
        vmm.set(Mood::Answers);
        table.resume();
        assert_eq!(memory.rest(), if round % 2 == 1 { Rest::Delivered } else { Rest::Quiet });
        assert_eq!(read(&memory, 0, 1), Some(vec![if round == 0 { 0 } else { 5 }]));
    }
    assert!(memory.far().unwrap().interruptions() >= 200);
}

#[test]
fn an_answer_that_is_late_is_waited_for() {
    let (vmm, _table, memory) = far();
    vmm.set(Mood::Silent);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| read(&memory, 0x1000, 8));
        vmm.wait_until_asked();
        vmm.set(Mood::Answers);
        assert_eq!(asking.join().unwrap(), Some(vec![0; 8]));
    });
}

#[test]
fn writes_that_wait_come_in_their_order_and_before_any_read() {
    let (vmm, mut table, memory) = far();
    table.suspend();
    for byte in 1..=3 {
        assert!(write(&memory, 0x300 + u64::from(byte), &[byte, byte]));
    }
    assert_eq!(memory.rest(), Rest::Waiting);
    assert_eq!(vmm.asked(), vec![], "nobody is asked meanwhile");
    table.resume();
    assert_eq!(read(&memory, 0x301, 4), Some(vec![1, 2, 3, 3]));
    assert_eq!(memory.rest(), Rest::Quiet);
    assert_eq!(vmm.asked().len(), 4);
}

#[test]
fn writes_that_wait_are_not_made_into_windows_that_closed_meanwhile() {
    let (vmm, mut table, memory) = far();
    table.map(window(1 << 30, 4096), None).unwrap();
    table.suspend();
    assert!(write(&memory, 0x400, &[0xaa]));
    table.unmap(Some((0, SIZE as u64))).unwrap();
    let memory = table.take_table().unwrap();
    table.resume();
    assert_eq!(memory.rest(), Rest::Delivered);
    assert_eq!((vmm.asked(), memory.rest()), (vec![], Rest::Quiet));
}

#[test]
fn writes_that_wait_are_kept_over_a_change_of_windows() {
    let (vmm, mut table, memory) = far();
    table.suspend();
    assert!(write(&memory, 0x400, &[0xaa]));
    table.map(window(1 << 30, 4096), None).unwrap();
    let memory = table.take_table().unwrap();
    table.resume();
    assert_eq!(memory.rest(), Rest::Delivered);
    assert_eq!(vmm.memory.lock().unwrap()[0x400], 0xaa);
}

#[test]
fn only_so_much_waits_and_what_is_forgotten_makes_room() {
    let (vmm, mut table, memory) = far();
    table.suspend();
    let piece = vec![1; CHUNK];
    let taken = (0..100).take_while(|_| write(&memory, 0, &piece)).count();
    assert_eq!(taken, WAITING / CHUNK);
    memory.forget();
    assert_eq!(memory.rest(), Rest::Quiet);
    assert!(write(&memory, 0, &piece));
    table.resume();
    assert_eq!(memory.rest(), Rest::Delivered);
    assert_eq!(vmm.asked().len(), 1);
}

#[test]
fn a_guest_cannot_fill_our_memory_with_its_own() {
    let (_vmm, _table, memory) = far();
    let file = memory.regions()[0].mapping.file_offset().unwrap();
    let blocks = || rustix::fs::fstat(file.file()).unwrap().st_blocks;
    assert_eq!(blocks(), 0);
    let (mut most, mut least) = (0, i64::MAX);
    for _ in 0..4 * KEPT / SIZE as u64 {
        read(&memory, 0, SIZE as u64).unwrap();
        most = most.max(blocks());
        memory.rest();
        least = least.min(blocks());
    }
    assert!(most > 0);
    assert_eq!(least, 0);
    assert_eq!(read(&memory, 0x100, 1), Some(vec![0x10]));
}
