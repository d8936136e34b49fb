//! What guests do to registers, rings and framebuffer that no driver does.

use std::collections::BTreeSet;
use std::sync::Arc;

use device::vga::{Vga, VgaOptions};

use super::super::pci::{Model, Shape};
use super::guest::{BAR0, BAR2, Guest, NEEDS_RESET, layout, reg};
use super::served::Served;
use super::vmm::{MEMORY, Vmm};
use crate::fake::{self, Fake};
use crate::feature;
use crate::loopback::{Descriptor, NEXT, WRITE};
use crate::ring::Layout;

/// Offset of the fake device's configuration in BAR 2, and its length.
const CONFIG: u64 = 0x2000;
const CONFIG_LEN: u64 = 20;

#[test]
fn cve_2026_50626_the_configuration_ends_where_it_ends() {
    let (served, _) = Served::fake();
    let guest = Guest::ready(&served);
    for width in [1, 2, 4, 8, 3, 64] {
        for offset in (0..40).chain([255, 256, 4095 - 64, 4096 - u64::from(width)]) {
            let expected: Vec<u8> =
                (offset..offset + u64::from(width)).map(|at| if at < CONFIG_LEN { 0xc0 } else { 0 }).collect();
            assert_eq!(guest.vmm.read(2, CONFIG + offset, width), expected, "{width} bytes at {offset}");
            guest.vmm.write(2, CONFIG + offset, &vec![0xc0; width as usize]);
        }
    }
    // From one kind of register into the next, and all of them at once.
    for at in [0x1000, 0x1800, 0x2000, 0x3000] {
        for width in [2, 8, 4096] {
            guest.vmm.read(2, at - 1, width);
            guest.vmm.write(2, at - 1, &vec![0; width as usize]);
        }
    }
    assert_eq!(guest.vmm.read(2, 0, 0x4000).len(), 0x4000);
}

/// Each of them is told as a device that needs a reset, and a reset is what it needs.
#[test]
fn cve_2017_17381_rings_that_cannot_be() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let good = guest.queues[0].layout();
    let cases = [
        ("past memory", layout(MEMORY, 16)),
        ("across the end of memory", Layout { used: MEMORY - 64, ..good }),
        ("at the end of everything", layout(u64::MAX - 0xc_0000, 16)),
        ("descriptors that are not aligned", Layout { descriptors: good.descriptors + 8, ..good }),
        ("an available ring that is not aligned", Layout { available: good.available + 1, ..good }),
        ("a used ring that is not aligned", Layout { used: good.used + 2, ..good }),
        ("in our own framebuffer", layout(BAR0, 16)),
        ("in our own registers", layout(BAR2, 16)),
    ];
    for (name, bad) in cases {
        guest.negotiate();
        guest.set_queue(0, bad);
        guest.set_queue(1, guest.queues[1].layout());
        guest.vmm.write_word(2, reg::STATUS, 1, 0xf);
        guest.notify(0);
        guest.wait_broken();
        assert_ne!(guest.status() & NEEDS_RESET, 0, "{name}");
        guest.start();
        guest.check();
    }
}

#[test]
fn cve_2017_17381_sizes_that_cannot_be() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    guest.negotiate();
    let vmm = &guest.vmm;
    for queue in [0, 1] {
        vmm.write_word(2, reg::QUEUE_SELECT, 2, queue);
        let largest = vmm.read_word(2, reg::QUEUE_SIZE, 2);
        assert_eq!(largest, [64, 16][queue as usize]);
        for size in [0, 3, 48, largest * 2, 32768, 0x8001, 0xffff] {
            vmm.write_word(2, reg::QUEUE_SIZE, 2, size);
            assert_eq!(vmm.read_word(2, reg::QUEUE_SIZE, 2), largest, "{size}");
        }
    }
    // Queues that are not there have no size and cannot be enabled.
    for queue in [2, 3, 0x100, 0xffff] {
        vmm.write_word(2, reg::QUEUE_SELECT, 2, queue);
        assert_eq!(vmm.read_word(2, reg::QUEUE_SELECT, 2), queue);
        for register in [reg::QUEUE_SIZE, reg::QUEUE_ENABLE, reg::QUEUE_RESET] {
            vmm.write_word(2, register, 2, 1);
            assert_eq!(vmm.read_word(2, register, 2), 0, "{register:#x} of queue {queue}");
        }
        vmm.write_word(2, reg::QUEUE_DESC, 8, 0x1000);
        guest.notify(0);
        vmm.write_word(2, 0x3ffc, 4, queue);
    }
    guest.start();
    guest.check();
}

/// Rings that are enabled before anything is said of them, or changed while they run, and a driver without manners.
#[test]
fn registers_in_any_order() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let vmm = &guest.vmm;
    // While they run.
    for queue in 0..2 {
        vmm.write_word(2, reg::QUEUE_SELECT, 2, queue);
        let before = vmm.read(2, reg::QUEUE_SIZE, 0x20);
        for register in [reg::QUEUE_SIZE, reg::QUEUE_DESC, reg::QUEUE_DRIVER, reg::QUEUE_DEVICE] {
            vmm.write_word(2, register, if register == reg::QUEUE_SIZE { 2 } else { 8 }, 0x8);
        }
        vmm.write_word(2, reg::QUEUE_ENABLE, 2, 0);
        assert_eq!(vmm.read(2, reg::QUEUE_SIZE, 0x20), before);
    }
    guest.check();
    // Enabled without a place.
    guest.negotiate();
    for queue in 0..2 {
        guest.vmm.write_word(2, reg::QUEUE_SELECT, 2, queue);
        guest.vmm.write_word(2, reg::QUEUE_ENABLE, 2, 1);
    }
    guest.vmm.write_word(2, reg::STATUS, 1, 0xf);
    guest.notify(0);
    // A ring of zeros at address 0 is one that has nothing to do, or one that cannot be.
    guest.start();
    guest.check();
    // DRIVER_OK at once, statuses without sense, features that were never offered.
    for status in [0xff, 0x04, 0x80, 0x40, 0x0f, 0x08, 0x0f] {
        guest.vmm.write_word(2, reg::STATUS, 1, 0);
        guest.vmm.write_word(2, reg::DRIVER_FEATURE_SELECT, 4, 1);
        guest.vmm.write_word(2, reg::DRIVER_FEATURE, 4, 0xffff_ffff);
        guest.vmm.write_word(2, reg::STATUS, 1, status);
        assert_eq!(guest.status() & 8, 0, "features that were not offered");
        guest.notify(0);
    }
    // Nothing is read back of a reset before it is done, and everything after it is kept in order.
    for _ in 0..100 {
        for status in [0, 1, 0, 3, 0, 0, 1, 3] {
            guest.vmm.post(2, reg::STATUS, &[status]);
        }
        guest.notify(1);
    }
    guest.start();
    guest.check();
}

/// One queue is reset and set up anew while the other runs.
#[test]
fn pause_a_queue_is_reset_while_requests_are_parked() {
    let (served, seen) = Served::fake();
    let mut guest = Guest::new(&served);
    guest.features |= feature::RING_RESET;
    guest.vmm.map(0, MEMORY, true, Some(0)).unwrap();
    guest.realize();
    guest.start();
    for _ in 0..100 {
        for _ in 0..3 {
            guest.offer(1, &[fake::LATER], 8);
        }
        guest.publish(1);
        guest.check_queue_0();
        guest.vmm.write_word(2, reg::QUEUE_SELECT, 2, 1);
        guest.vmm.write_word(2, reg::QUEUE_RESET, 2, 1);
        while guest.vmm.read_word(2, reg::QUEUE_RESET, 2) != 0 {
            std::thread::yield_now();
        }
        assert_eq!(guest.vmm.read_word(2, reg::QUEUE_ENABLE, 2), 0);
        let at = guest.queues[1].layout();
        guest.queues[1] = crate::loopback::DriverQueue::new(at, guest.features);
        for (at, len) in [(at.available, 0x100), (at.used, 0x100)] {
            guest.vmm.put(at, &vec![0; len]);
        }
        // What comes now has no place to go.
        seen.release();
        guest.set_queue(1, at);
        guest.check();
    }
}

/// A reset while requests are parked: what comes of them later is never seen in the new rings.
#[test]
fn pause_resets_while_requests_are_parked() {
    let (served, seen) = Served::fake();
    let mut guest = Guest::ready(&served);
    for round in 0..200 {
        for _ in 0..5 {
            guest.offer(round % 2, &[fake::LATER], 8);
        }
        guest.publish(round % 2);
        match round % 3 {
            0 => guest.vmm.write_word(2, reg::STATUS, 1, 0),
            1 => guest.vmm.reset(),
            _ => guest.vmm.write_word(7, 4, 2, 0x503),
        }
        seen.release();
        guest.realize();
        guest.start();
        seen.release();
        guest.check();
        assert!(guest.used(0).is_none() && guest.used(1).is_none());
    }
}

/// Descriptors that point at the device itself, at nothing, at themselves.
#[test]
fn cve_2024_3446_descriptors_that_point_where_they_must_not() {
    let (fake, seen) = Fake::new();
    let (_, port) = Vga::new(VgaOptions::default()).unwrap();
    let shape = Shape { model: Model::Vga, msix: true, pio: true };
    let served = Served::with(Box::new(fake), shape, Some(port), None, Arc::default());
    let mut guest = Guest::ready(&served);
    // As QEMU tells of a mapped BAR: a window without a file, where the BAR is.
    guest.vmm.map(BAR0, 16 << 20, true, None).unwrap();
    for addr in [BAR0, BAR0 + 0x1000, BAR2, BAR2 + reg::NOTIFY, BAR2 + reg::STATUS, MEMORY - 8, MEMORY, u64::MAX - 8] {
        for flags in [0, WRITE] {
            let other = Descriptor { addr: 0x100_0000, len: 16, flags: WRITE - flags, next: 0 };
            let bad = Descriptor { addr, len: 64, flags, next: 0 };
            let chain = if flags == 0 { [bad, other] } else { [other, bad] };
            guest.offer_chain(0, &chain);
            guest.publish(0);
            assert_eq!(guest.wait_used(0).len, 0, "{addr:#x} {flags}");
        }
    }
    // Nobody was asked for what lies there.
    assert!(guest.vmm.asked.borrow().is_empty());
    seen.lock().requests.clear();
    guest.check();
}

#[test]
fn cve_2016_6490_chains_without_end() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    for (next, len) in [(5, 0), (5, 16), (6, 0)] {
        let queue = guest.queues[0].layout();
        for index in 0..queue.size {
            let descriptor = Descriptor { addr: 0x100_0000, len, flags: NEXT, next: if index == 5 { next } else { 5 } };
            guest.vmm.put(queue.descriptors + 16 * u64::from(index), &descriptor.to_bytes());
        }
        guest.queues[0].write_available(&guest.vmm.memory, guest.queues[0].next_available(), 5);
        guest.queues[0].write_index(&guest.vmm.memory, guest.queues[0].next_available().wrapping_add(1));
        guest.notify(0);
        assert_eq!(guest.wait_used(0).len, 0);
        guest.start();
        guest.check();
    }
    // An index that ran ahead of the ring.
    guest.queues[0].write_index(&guest.vmm.memory, 0x4000);
    guest.notify(0);
    guest.wait_broken();
    guest.start();
    guest.check();
}

/// The window by which a guest without memory accesses reaches the registers: to nothing but them.
#[test]
fn the_access_capability_leads_to_registers_only() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    // The vendor capability of kind 5.
    let mut at = guest.vmm.read_word(7, 0x34, 1);
    while guest.vmm.read_word(7, at, 1) != 9 || guest.vmm.read_word(7, at + 3, 1) != 5 {
        at = guest.vmm.read_word(7, at + 1, 1);
        assert_ne!(at, 0);
    }
    let set = |bar: u64, offset: u64, length: u64| {
        guest.vmm.write_word(7, at + 4, 1, bar);
        guest.vmm.write_word(7, at + 8, 4, offset);
        guest.vmm.write_word(7, at + 12, 4, length);
        guest.vmm.read_word(7, at + 16, 4)
    };
    assert_eq!(set(2, reg::STATUS, 1), 0xf);
    for (bar, offset, length) in [
        (0, 0, 4),
        (1, 0, 4),
        (4, 0, 4),
        (6, 0, 4),
        (7, 0, 4),
        (255, 0, 4),
        (2, 0x4000, 4),
        (2, 0x3fff, 4),
        (2, 0xffff_fffc, 4),
        (2, 0xffff_ffff, 2),
        (2, 0x1000, 0),
        (2, 0x1000, 3),
        (2, 0x1000, 8),
        (2, 0x1000, 0xffff_ffff),
        (2, 0x1001, 4),
    ] {
        assert_eq!(set(bar, offset, length), 0, "{length} at {offset:#x} of BAR {bar}");
        guest.vmm.write_word(7, at + 16, 4, 0);
        guest.vmm.write(7, at, &[0; 24]);
    }
    guest.check();
}

fn vga() -> (Served, super::served::Stage, Vmm) {
    let (served, stage) = Served::gpu(Shape { model: Model::Vga, msix: true, pio: true }, None);
    let vmm = served.greeted();
    vmm.map(0, MEMORY, true, Some(0)).unwrap();
    vmm.info().unwrap();
    vmm.reset();
    vmm.write_word(7, 4, 2, 0x507);
    (served, stage, vmm)
}

fn dispi(vmm: &Vmm, register: u64, value: u64) {
    vmm.write_word(2, 0x500 + 2 * register, 2, value);
}

/// Sets a mode and returns its picture once there is one.
fn mode(vmm: &Vmm, stage: &super::served::Stage, width: u64, height: u64) -> (u32, u32, Vec<u8>) {
    for (register, value) in
        [(4, 0), (3, 32), (1, width), (2, height), (6, width), (7, height), (8, 0), (9, 0), (5, 0), (4, 0x41)]
    {
        dispi(vmm, register, value);
    }
    loop {
        let picture = stage.shown(|shown| shown.picture.clone());
        if let Some(picture) = picture.filter(|(w, h, _)| (u64::from(*w), u64::from(*h)) == (width, height)) {
            return picture;
        }
        std::thread::yield_now();
    }
}

/// Every start, stride and size: each is shown within the framebuffer or not at all.
#[test]
fn cve_2017_13672_modes_outside_of_the_framebuffer() {
    let (served, stage, vmm) = vga();
    let values = [0, 1, 63, 64, 320, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xffff];
    for (at, first) in values.into_iter().enumerate() {
        for (step, second) in values.into_iter().enumerate() {
            let third = values[(at * 3 + step * 7) % values.len()];
            for registers in [[1, 2, 6], [1, 6, 8], [6, 9, 8], [2, 9, 7], [5, 8, 9], [3, 1, 2]] {
                for (register, value) in registers.into_iter().zip([first, second, third]) {
                    dispi(&vmm, register, value);
                }
                dispi(&vmm, 4, 0x41);
            }
        }
        let (width, height, pixels) = mode(&vmm, &stage, 320, 200);
        assert_eq!(pixels.len(), width as usize * height as usize * 4);
    }
    assert_eq!(served.stats.snapshot().panics, 0);
}

/// The banked window does not travel: a bank moves nothing.
#[test]
fn cve_2016_3710_banks_past_the_framebuffer() {
    let (_served, stage, vmm) = vga();
    mode(&vmm, &stage, 64, 64);
    for bank in [0, 1, 255, 256, 0x7fff, 0xffff] {
        dispi(&vmm, 5, bank);
        vmm.write_word(0, 0, 4, 0x1122_3344 + bank);
        assert_eq!(vmm.read_word(0, 0, 4), 0x1122_3344 + bank);
        for at in [0xffff, 0x1_0000, (16 << 20) - 8] {
            vmm.write_word(0, at, 8, 0x55aa_55aa_0000_0000 | bank);
            assert_eq!(vmm.read_word(0, at, 8), 0x55aa_55aa_0000_0000 | bank);
        }
    }
    assert!(vmm.ask(super::vmm::REGION_READ, &super::vmm::access(0, (16 << 20) - 7, 8), &[]).is_err());
    assert_eq!(vmm.read(0, 0, 1 << 20).len(), 1 << 20);
}

/// Odd CRTC, sequencer and graphics values between modes, at every index.
#[test]
fn cve_2026_77913_text_registers_between_modes() {
    let (served, stage, vmm) = vga();
    for round in 0..4u64 {
        mode(&vmm, &stage, 64 + 8 * round, 64);
        for index in 0..=255 {
            for port in [0x400, 0x404, 0x40e, 0x414] {
                vmm.post(2, port, &[index]);
                vmm.post(2, port + 1, &[index.wrapping_mul(31) ^ round as u8]);
            }
            vmm.post(2, 0x408, &[index]);
            vmm.post(2, 0x409, &[0xff]);
        }
        dispi(&vmm, 4, 0);
        for width in [1, 2, 4, 8] {
            for offset in 0x400..0x420 {
                vmm.read(2, offset, width);
                vmm.write(2, offset, &[0xa5; 8][..width as usize]);
            }
        }
    }
    mode(&vmm, &stage, 320, 200);
    assert_eq!(served.stats.snapshot().panics, 0);
}

/// A read of several bytes is what reads of one byte each say; what is between the registers is zeros.
#[test]
fn acrn_registers_by_every_width() {
    let (_served, stage, vmm) = vga();
    mode(&vmm, &stage, 320, 200);
    let bytes: Vec<u8> = (0x500..0x700).map(|at| vmm.read(2, at, 1)[0]).collect();
    for width in [2u32, 4, 8] {
        for offset in 0..bytes.len() - width as usize {
            let read = vmm.read(2, 0x500 + offset as u64, width);
            assert_eq!(read, bytes[offset..offset + width as usize], "{width} bytes at {:#x}", 0x500 + offset);
        }
    }
    assert_eq!(bytes[..2], [0xc5, 0xb0]);
    assert!(bytes[0x16..0x100].iter().all(|byte| *byte == 0));
    // A write of one register changes no other, at whatever width.
    for register in 1..10u64 {
        let before: Vec<u64> = (0..11).map(|register| vmm.read_word(2, 0x500 + 2 * register, 2)).collect();
        // Without the bit that has the others tell what they could be.
        dispi(&vmm, register, 0x1230);
        vmm.write(2, 0x500 + 2 * register, &[0x71]);
        let after: Vec<u64> = (0..11).map(|register| vmm.read_word(2, 0x500 + 2 * register, 2)).collect();
        let changed: BTreeSet<_> = (0..11).filter(|at| before[*at] != after[*at]).collect();
        assert!(changed.iter().all(|at| *at == register as usize), "register {register} changed {changed:?}");
        dispi(&vmm, register, before[register as usize]);
    }
}

#[test]
fn acrn_edid_past_its_array() {
    let (_served, _stage, vmm) = vga();
    let whole = vmm.read(2, 0, 0x400);
    assert_eq!(whole[..8], [0, 255, 255, 255, 255, 255, 255, 0]);
    for width in [1u32, 2, 4, 8] {
        for offset in (0..0x100).chain(0x170..0x190).chain(0x3f0..0x401 - u64::from(width)) {
            let at = offset as usize;
            assert_eq!(vmm.read(2, offset, width), whole[at..at + width as usize], "{width} bytes at {offset:#x}");
        }
    }
    // Across its end into the VGA ports, by whatever width.
    for offset in 0x3f8..0x400 {
        assert_eq!(vmm.read(2, offset, 8)[..(0x400 - offset) as usize], whole[offset as usize..]);
    }
    vmm.write(2, 0, &[0x11; 0x400]);
    assert_eq!(vmm.read(2, 0, 0x400), whole, "it can be written");
}

/// What one guest drew is not seen by the next one, in its framebuffer or on the screen.
#[test]
fn a_framebuffer_is_new_for_each_guest() {
    let (served, stage, vmm) = vga();
    mode(&vmm, &stage, 64, 64);
    let secret = [0x13, 0x37, 0xca, 0xfe].repeat(64 * 64);
    vmm.write(0, 0, &secret);
    while stage.shown(|shown| shown.picture.as_ref().is_none_or(|(_, _, pixels)| *pixels != secret)) {
        std::thread::yield_now();
    }
    drop(vmm);
    let vmm = served.greeted();
    assert!(vmm.read(0, 0, 64 * 64 * 4).iter().all(|byte| *byte == 0));
    vmm.write_word(7, 4, 2, 0x507);
    let (_, _, pixels) = mode(&vmm, &stage, 80, 64);
    assert!(!pixels.windows(4).any(|window| window == [0x13, 0x37, 0xca, 0xfe]));
}
