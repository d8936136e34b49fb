//! A guest whose memory is not shared, behind a VMM that answers as it should, or not.

use std::os::fd::AsFd;

use super::guest::Guest;
use super::served::Served;
use super::vmm::{DMA_MAP, MEMORY, Manner, map, memfd};

/// As QEMU has it without `share=on`: windows without files.
fn far(served: &Served) -> Guest {
    let mut guest = Guest::new(served);
    guest.vmm.map(0, MEMORY, true, None).unwrap();
    guest.realize();
    guest.start();
    guest
}

#[test]
fn requests_go_all_the_way_without_shared_memory() {
    let (served, _) = Served::fake();
    let mut guest = far(&served);
    for _ in 0..50 {
        guest.check();
    }
    let long: Vec<u8> = (0..3000).map(|at| if at == 0 { b'e' } else { at as u8 }).collect();
    assert_eq!(guest.request(0, &long, 4000), long);
    assert!(guest.vmm.asked.borrow().iter().all(|(_, address, count)| *address + *count <= MEMORY));
}

/// QEMU without share=on: there is a file, but the guest writes to pages that are not in it.
#[test]
fn files_that_a_vmm_maps_privately_are_not_believed() {
    for written in [false, true] {
        private_file_is_not_believed(written);
    }
}

/// A file in memory has a page as soon as a guest wrote it, though not with what it wrote.
fn private_file_is_not_believed(written: bool) {
    let (served, _) = Served::fake();
    let mut guest = Guest::new(&served);
    let file = memfd(MEMORY);
    if written {
        rustix::io::pwrite(&file, &vec![0; MEMORY as usize], 0).unwrap();
    }
    for (iova, size) in [(0, MEMORY / 2), (MEMORY / 2, MEMORY / 2)] {
        assert!(guest.vmm.ask(DMA_MAP, &map(3, iova, iova, size), &[file.as_fd()]).is_ok());
    }
    guest.realize();
    guest.start();
    guest.check();
    assert!(!guest.vmm.asked.borrow().is_empty());
    // Taken apart and put together again, as firmware does it after a reset: it stays so.
    guest.vmm.unmap(0, MEMORY / 2).unwrap();
    assert!(guest.vmm.ask(DMA_MAP, &map(3, 0, 0, MEMORY / 2), &[file.as_fd()]).is_ok());
    guest.realize();
    guest.start();
    guest.check();
    // The next one shares its own, and is asked for nothing.
    drop(guest);
    let mut guest = Guest::ready(&served);
    guest.check();
    assert!(guest.vmm.asked.borrow().is_empty());
}

#[test]
fn vfio_user_answers_about_memory_that_are_wrong() {
    let (served, _) = Served::fake();
    for manner in [Manner::Refusing, Manner::Short, Manner::Long] {
        let mut guest = far(&served);
        guest.check();
        guest.vmm.manner.set(manner);
        guest.offer(0, b"echo", 16);
        guest.publish(0);
        // Registers are answered all the while; the ring is broken, or the chain is never given back.
        let before = guest.vmm.asked.borrow().len();
        assert!(guest.vmm.serve_until(|| guest.vmm.asked.borrow().len() > before));
        guest.status();
        guest.vmm.manner.set(Manner::Honest);
        guest.vmm.reset();
        guest.realize();
        guest.start();
        guest.check();
    }
}

/// Windows of memory that was asked for go away: nobody waits for the answer any more.
#[test]
fn vfio_user_answers_about_memory_that_never_come() {
    let (served, _) = Served::fake();
    let mut guest = far(&served);
    for round in 0..20 {
        guest.check();
        guest.vmm.manner.set(Manner::Silent);
        let before = guest.vmm.asked.borrow().len();
        guest.offer(0, b"echo", 16);
        guest.publish(0);
        assert!(guest.vmm.serve_until(|| guest.vmm.asked.borrow().len() > before));
        match round % 3 {
            0 => guest.vmm.unmap(0, MEMORY).unwrap(),
            1 => guest.vmm.reset(),
            _ => guest.vmm.write_word(7, 4, 2, 0),
        }
        guest.vmm.manner.set(Manner::Honest);
        if round % 3 == 0 {
            guest.vmm.map(0, MEMORY, true, None).unwrap();
        }
        guest.realize();
        guest.start();
    }
    // .. and a VMM that goes while it is asked.
    guest.vmm.manner.set(Manner::Silent);
    guest.offer(0, b"echo", 16);
    guest.publish(0);
    drop(guest);
    far(&served).check();
}

/// Answers under other numbers than those of the questions, and then the right one.
#[test]
fn vfio_user_answers_to_other_questions() {
    let (served, _) = Served::fake();
    let mut guest = far(&served);
    guest.vmm.manner.set(Manner::Mistaken);
    let before = guest.vmm.asked.borrow().len();
    guest.offer(0, b"echo", 16);
    guest.publish(0);
    assert!(guest.vmm.serve_until(|| guest.vmm.asked.borrow().len() > before));
    guest.vmm.manner.set(Manner::Honest);
    guest.vmm.reset();
    guest.realize();
    guest.start();
    guest.check();
}
