//! What breaks VMMs and devices: messages, windows of memory, and eventfds that are not as they should be.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::super::pci::{Model, Shape};
use super::super::replay::Replay;
use super::guest::{Guest, reg};
use super::served::{self, Served};
use super::vmm::{self, MEMORY, Vmm, access, longs, map, memfd, message, unmap, words};
use crate::fake::{self, Fake};

const EINVAL: u32 = 22;
const EEXIST: u32 = 17;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

/// What ends a conversation: nobody could find the next message.
#[test]
fn vfio_user_streams_that_cannot_be_followed_are_left() {
    let (served, _) = Served::fake();
    let sized = |size: u32, flags: u32| words(&[4 << 16, size, flags, 0]);
    let cases: [(&str, Vec<u8>); 9] = [
        ("shorter than its header", sized(15, 0)),
        ("no length", sized(0, 0)),
        ("4 GiB", sized(u32::MAX, 0)),
        ("larger than any", sized((1 << 20) + 8192, 0)),
        ("of a third type", sized(32, 2)),
        ("of the last type", sized(32, 15)),
        ("GET_INFO before VERSION", message(0, vmm::GET_INFO, 0, &words(&[16, 0, 0, 0]))),
        ("of another major version", message(0, vmm::VERSION, 0, b"\x01\0\0\0{}\0")),
        ("capabilities of 1 MiB", message(0, vmm::VERSION, 0, &[&[0; 4][..], &vec![b' '; 1 << 20]].concat())),
    ];
    for (name, bytes) in cases {
        let vmm = served.vmm();
        vmm.send_raw(&bytes, &[]);
        assert!(vmm.is_disconnected(), "{name}");
    }
    Guest::ready(&served).check();
}

#[test]
fn vfio_user_capabilities_are_read_with_care() {
    let (served, _) = Served::fake();
    let texts = [
        "{",
        "[]",
        "{\"capabilities\":7}",
        "{\"capabilities\":{\"max_msg_fds\":-1,\"max_data_xfer_size\":\"x\"}}",
        "{\"capabilities\":{\"max_data_xfer_size\":18446744073709551616}}",
        "null",
        "\u{fffd}",
    ];
    for text in texts.map(str::to_owned).into_iter().chain([format!("{}{}", "[".repeat(2000), "]".repeat(2000))]) {
        let vmm = served.vmm();
        let id = vmm.send(vmm::VERSION, 0, &[&[0; 4], text.as_bytes(), &[0]].concat(), &[]);
        // A refusal, or none: what matters is that the next one is served.
        if vmm.reply(id).is_some_and(|reply| reply.flags & vmm::ERROR != 0) {
            assert!(vmm.is_disconnected(), "{text}");
        }
    }
    for text in ["{}", "{\"capabilities\":{}}", "{\"capabilities\":{\"max_data_xfer_size\":0},\"other\":[1,{}]}"] {
        let vmm = served.vmm();
        let reply = vmm.ask(vmm::VERSION, &[&[0; 4], text.as_bytes(), &[0]].concat(), &[]);
        assert!(reply.is_ok_and(|reply| reply[..4] == [0; 4] && reply.ends_with(b"\0")), "{text}");
    }
    Guest::ready(&served).check();
}

/// What is refused and changes nothing: the conversation goes on, and what came with it is closed.
#[test]
fn vfio_user_requests_that_are_refused() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let irqs = |flags: u32, index: u32, start: u32, count: u32| words(&[20, flags, index, start, count]);
    let region = |argsz: u32, index: u32| [words(&[argsz, 0, index, 0]), vec![0; 16]].concat();
    let cases: Vec<(&str, u16, Vec<u8>, u32)> = vec![
        ("a second VERSION", vmm::VERSION, b"\0\0\0\0{}\0".to_vec(), EINVAL),
        ("no words", vmm::GET_INFO, vec![], EINVAL),
        ("too few words", vmm::GET_INFO, words(&[16, 0, 0]), EINVAL),
        ("too many words", vmm::GET_INFO, words(&[16, 0, 0, 0, 0]), EINVAL),
        ("no room for the answer", vmm::GET_INFO, words(&[15, 0, 0, 0]), EINVAL),
        ("region 9", vmm::GET_REGION_INFO, region(32, 9), EINVAL),
        ("region 4 G", vmm::GET_REGION_INFO, region(32, u32::MAX), EINVAL),
        ("no room for a region", vmm::GET_REGION_INFO, region(31, 2), EINVAL),
        ("interrupts of kind 5", vmm::GET_IRQ_INFO, words(&[16, 0, 5, 0]), EINVAL),
        ("interrupts of kind 4 G", vmm::GET_IRQ_INFO, words(&[16, 0, u32::MAX, 0]), EINVAL),
        ("read of region 9", vmm::REGION_READ, access(9, 0, 1), EINVAL),
        ("read of region 4 G", vmm::REGION_READ, access(u32::MAX, 0, 1), EINVAL),
        ("read of a BAR that is not there", vmm::REGION_READ, access(1, 0, 1), EINVAL),
        ("read of nothing", vmm::REGION_READ, access(2, 0, 0), EINVAL),
        ("read of 4 GiB", vmm::REGION_READ, access(2, 0, u32::MAX), EINVAL),
        ("read of 2 MiB", vmm::REGION_READ, access(2, 0, 2 << 20), EINVAL),
        ("read past the end", vmm::REGION_READ, access(2, 0x3fff, 2), EINVAL),
        ("read at the end", vmm::REGION_READ, access(2, 0x4000, 1), EINVAL),
        ("read that wraps", vmm::REGION_READ, access(2, u64::MAX, 2), EINVAL),
        ("read of the configuration past its end", vmm::REGION_READ, access(7, 255, 2), EINVAL),
        ("read with more words", vmm::REGION_READ, [access(2, 0, 4), vec![0]].concat(), EINVAL),
        ("write without its bytes", vmm::REGION_WRITE, access(2, 0x1014, 1), EINVAL),
        ("write of nothing", vmm::REGION_WRITE, access(2, 0x1014, 0), EINVAL),
        ("write of fewer bytes than it says", vmm::REGION_WRITE, [access(2, 0x1014, 2), vec![0]].concat(), EINVAL),
        ("write of more bytes than it says", vmm::REGION_WRITE, [access(2, 0x1014, 1), vec![0; 2]].concat(), EINVAL),
        ("write past the end", vmm::REGION_WRITE, [access(2, 0x3fff, 2), vec![0; 2]].concat(), EINVAL),
        ("write that wraps", vmm::REGION_WRITE, [access(2, u64::MAX - 3, 8), vec![0; 8]].concat(), EINVAL),
        ("many writes, of a number that wraps", vmm::WRITE_MULTI, longs(&[u64::MAX / 24 + 1]), EINVAL),
        ("many writes, one fewer", vmm::WRITE_MULTI, [longs(&[2]), access(2, 0, 1), vec![0; 8]].concat(), EINVAL),
        ("many writes, half a one", vmm::WRITE_MULTI, [longs(&[1]), access(2, 0, 1), vec![0; 7]].concat(), EINVAL),
        ("many writes, of 9 bytes", vmm::WRITE_MULTI, [longs(&[1]), access(2, 0, 9), vec![0; 8]].concat(), EINVAL),
        ("many writes, too many", vmm::WRITE_MULTI, [longs(&[257]), vec![0; 257 * 24]].concat(), EINVAL),
        ("a window of nothing", vmm::DMA_MAP, map(3, 0, 1 << 40, 0), EINVAL),
        ("a window that wraps", vmm::DMA_MAP, map(3, 0, u64::MAX - 4095, 8192), EINVAL),
        ("a window of 2^63", vmm::DMA_MAP, map(3, 0, 1 << 63, 1 << 63), EINVAL),
        ("a window that nobody may use", vmm::DMA_MAP, map(0, 0, 1 << 40, 4096), EINVAL),
        ("a window of half a page", vmm::DMA_MAP, map(3, 0, 1 << 40, 2048), EINVAL),
        ("a window in the middle of a page", vmm::DMA_MAP, map(3, 0, (1 << 40) + 512, 4096), EINVAL),
        ("a window over another", vmm::DMA_MAP, map(3, 0, MEMORY - 4096, 8192), EEXIST),
        ("a window twice", vmm::DMA_MAP, map(3, 0, 0, MEMORY), EEXIST),
        ("a window in another", vmm::DMA_MAP, map(1, 0, 0x10_0000, 4096), EEXIST),
        ("a window cut short", vmm::DMA_MAP, map(3, 0, 1 << 40, 4096)[..31].to_vec(), EINVAL),
        ("closing half a window", vmm::DMA_UNMAP, unmap(0, 0, MEMORY / 2), EINVAL),
        ("closing the middle of a window", vmm::DMA_UNMAP, unmap(0, 4096, 4096), EINVAL),
        ("closing nothing", vmm::DMA_UNMAP, unmap(0, 0, 0), EINVAL),
        ("closing all of something", vmm::DMA_UNMAP, unmap(2, 0, MEMORY), EINVAL),
        ("vectors past the last", vmm::SET_IRQS, irqs(0x24, 2, 0, 4), EINVAL),
        ("vectors that wrap", vmm::SET_IRQS, irqs(0x24, 2, u32::MAX, 2), EINVAL),
        ("4 G vectors", vmm::SET_IRQS, irqs(0x21, 2, 0, u32::MAX), EINVAL),
        ("vectors of kind 5", vmm::SET_IRQS, irqs(0x24, 5, 0, 1), EINVAL),
        ("two actions", vmm::SET_IRQS, irqs(0x31, 0, 0, 1), EINVAL),
        ("no action", vmm::SET_IRQS, irqs(0x01, 0, 0, 1), EINVAL),
        ("two kinds of data", vmm::SET_IRQS, irqs(0x25, 0, 0, 1), EINVAL),
        ("no kind of data", vmm::SET_IRQS, irqs(0x20, 0, 0, 1), EINVAL),
        ("unknown flags", vmm::SET_IRQS, irqs(0x8000_0021, 0, 0, 1), EINVAL),
        ("bytes for vectors", vmm::SET_IRQS, [irqs(0x22, 2, 0, 1), vec![1]].concat(), ENOTSUP),
        ("command 0", 0, vec![], ENOTSUP),
        ("GET_REGION_IO_FDS", 6, vec![0; 16], ENOTSUP),
        ("DMA_READ, which is ours", vmm::DMA_READ, longs(&[0, 16]), ENOTSUP),
        ("DMA_WRITE, which is ours", vmm::DMA_WRITE, longs(&[0, 8, 0]), ENOTSUP),
        ("DIRTY_PAGES", 14, vec![0; 64], ENOTSUP),
        ("migration", 17, vec![0; 64], ENOTSUP),
        ("command 65535", u16::MAX, vec![0; 4096], ENOTSUP),
    ];
    for (name, command, payload, errno) in &cases {
        let (mut reader, writer) = std::io::pipe().unwrap();
        assert_eq!(guest.vmm.ask(*command, payload, &[writer.as_fd()]), Err(*errno), "{name}");
        drop(writer);
        // Every copy was closed.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "{name}");
        // Nobody waits for the answer.
        guest.vmm.send(*command, vmm::NO_REPLY, payload, &[]);
        guest.check();
    }
}

/// As many descriptors as a message may have come with every command, and one more than that.
#[test]
fn vfio_user_descriptors_in_floods() {
    let (served, _) = Served::fake();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let guest = Guest::ready(&served);
    let sixteen = vec![writer.as_fd(); 16];
    for command in 0..20 {
        for payload in [vec![], words(&[20, 0x24, 2, 0, 0]), words(&[20, 0x24, 2, 0, 3]), map(3, 0, 1 << 40, 4096)] {
            if command == vmm::VERSION {
                continue;
            }
            guest.vmm.send(command, vmm::NO_REPLY, &payload, &sixteen);
        }
    }
    for _ in 0..2000 {
        guest.vmm.send(vmm::GET_INFO, vmm::NO_REPLY, &words(&[16, 0, 0, 0]), &sixteen);
    }
    assert!(guest.vmm.info().is_ok());
    // One in each byte of a message.
    for byte in message(9, vmm::SET_IRQS, 0, &words(&[20, 0x24, 2, 0, 3])).iter().take(16) {
        guest.vmm.send_raw(&[*byte], &[writer.as_fd()]);
    }
    guest.vmm.send_raw(&words(&[20, 0x24, 2, 0, 3]), &[]);
    assert_ne!(guest.vmm.reply(9).unwrap().errno, 0);
    guest.vmm.send(vmm::GET_INFO, 0, &words(&[16, 0, 0, 0]), &[writer.as_fd(); 17]);
    assert!(guest.vmm.is_disconnected());
    drop(guest);
    // The next one is there only after all of it was closed.
    Guest::ready(&served).check();
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn vfio_user_files_that_are_no_memory() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let (socket, _other) = UnixStream::pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let directory = std::fs::File::open("/").unwrap();
    let device = std::fs::File::open("/dev/null").unwrap();
    let (empty, short) = (memfd(0), memfd(4096));
    let at = 1u64 << 40;
    for (name, fd, offset, size) in [
        ("a socket", socket.as_fd(), 0, 4096),
        ("a pipe to read", reader.as_fd(), 0, 4096),
        ("a pipe to write", writer.as_fd(), 0, 4096),
        ("a directory", directory.as_fd(), 0, 4096),
        ("a device", device.as_fd(), 0, 4096),
        ("an empty file", empty.as_fd(), 0, 4096),
        ("longer than its file", short.as_fd(), 0, 8192),
        ("behind its file", short.as_fd(), 4096, 4096),
        ("far behind its file", short.as_fd(), 1 << 62, 4096),
        ("an offset that wraps", short.as_fd(), u64::MAX - 4095, 8192),
        ("half of the address space", short.as_fd(), 0, 1 << 62),
    ] {
        let answer = guest.vmm.ask(vmm::DMA_MAP, &map(3, offset, at, size), &[fd]);
        assert!(answer.is_err(), "{name}");
        guest.check();
    }
    // Two files for one window.
    assert_eq!(guest.vmm.ask(vmm::DMA_MAP, &map(3, 0, at, 4096), &[short.as_fd(), short.as_fd()]), Err(EINVAL));
    // One that may not be written: refused, or never used for rings.
    let read_only = std::fs::File::open("/proc/self/exe").unwrap();
    let _ = guest.vmm.ask(vmm::DMA_MAP, &map(3, 0, at, 4096), &[read_only.as_fd()]);
    guest.check();
}

/// The file is cut off under the device: its reads and writes fault, nothing else.
#[test]
fn vfio_user_files_that_lose_their_pages() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let extra = memfd(0x10_000);
    let at = 1u64 << 40;
    assert!(guest.vmm.ask(vmm::DMA_MAP, &map(3, 0, at, 0x10_000), &[extra.as_fd()]).is_ok());
    rustix::fs::ftruncate(&extra, 0).unwrap();
    use crate::loopback::{Descriptor, WRITE};
    for _ in 0..3 {
        guest.offer_chain(
            0,
            &[
                Descriptor { addr: at, len: 16, flags: 0, next: 0 },
                Descriptor { addr: at + 0x8000, len: 16, flags: WRITE, next: 0 },
            ],
        );
        guest.publish(0);
        guest.wait_used(0);
        guest.check();
    }
}

#[test]
fn vfio_user_windows_by_the_ten_thousand() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let file = guest.vmm.file.try_clone().unwrap();
    let base = 1u64 << 40;
    // Every other page, so that none is the neighbour of another; all but the one that the guest has.
    for window in 0..65_534u64 {
        let payload = map(3, 4096 * (window % 1024), base + 8192 * window, 4096);
        guest.vmm.send(vmm::DMA_MAP, vmm::NO_REPLY, &payload, &[file.as_fd()]);
    }
    guest.check();
    for window in 65_534..70_000 {
        let payload = map(3, 0, base + 8192 * window, 4096);
        if window == 65_534 || window == 69_999 {
            assert_eq!(guest.vmm.ask(vmm::DMA_MAP, &payload, &[file.as_fd()]), Err(ENOSPC));
        } else {
            guest.vmm.send(vmm::DMA_MAP, vmm::NO_REPLY, &payload, &[file.as_fd()]);
        }
    }
    guest.check();
    // One goes, another one comes.
    assert_eq!(guest.vmm.unmap(base, 4096), Ok(()));
    assert!(guest.vmm.ask(vmm::DMA_MAP, &map(3, 0, base, 4096), &[file.as_fd()]).is_ok());
    guest.check();
    assert!(guest.vmm.ask(vmm::DMA_UNMAP, &unmap(2, 0, 0), &[]).is_ok());
    guest.vmm.map(0, MEMORY, true, Some(0)).unwrap();
    guest.start();
    guest.check();
}

/// Windows open and close under running commands, in whatever order.
#[test]
fn vfio_user_windows_that_go_under_running_commands() {
    let (served, seen) = Served::fake();
    let mut guest = Guest::ready(&served);
    for round in 0..300 {
        for _ in 0..4 {
            guest.offer(0, &[if round % 3 == 0 { fake::LATER } else { fake::SOON }, 1, 2, 3], 8);
        }
        guest.publish(0);
        guest.vmm.unmap(0, MEMORY).unwrap();
        // Replies that come now have nowhere to go.
        seen.release();
        if round % 2 == 0 {
            guest.vmm.map(0, MEMORY, true, Some(0)).unwrap();
            guest.notify(0);
        } else {
            guest.vmm.map(0, MEMORY / 2, true, Some(0)).unwrap();
            guest.vmm.map(MEMORY / 2, MEMORY / 2, true, Some(MEMORY / 2)).unwrap();
            guest.vmm.unmap(MEMORY / 2, MEMORY / 2).unwrap();
            guest.vmm.unmap(0, MEMORY / 2).unwrap();
            guest.vmm.map(0, MEMORY, true, Some(0)).unwrap();
        }
        seen.release();
        guest.start();
        guest.check();
    }
}

/// Interrupts go to whatever was given, and nobody waits for that.
#[test]
fn vfio_user_eventfds_that_are_none() {
    let (served, _) = Served::fake();
    let (full, mut filler) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&filler, true).unwrap();
    while filler.write(&[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&filler, false).unwrap();
    let (broken, closed) = std::io::pipe().unwrap();
    drop(broken);
    let (socket, _other) = UnixStream::pair().unwrap();
    let directory = std::fs::File::open("/").unwrap();
    let saturated = rustix::event::eventfd(u32::MAX, rustix::event::EventfdFlags::empty()).unwrap();
    rustix::io::write(&saturated, &(u64::MAX - 1 - u64::from(u32::MAX)).to_ne_bytes()).unwrap();
    let fds = [filler.as_fd(), closed.as_fd(), socket.as_fd(), directory.as_fd(), full.as_fd(), saturated.as_fd()];
    let mut guest = Guest::ready(&served);
    for fd in fds {
        for (index, vectors) in [(2, 3), (1, 1), (0, 1)] {
            let payload = words(&[20, 0x24, index, 0, vectors]);
            let _ = guest.vmm.ask(vmm::SET_IRQS, &payload, &vec![fd; vectors as usize]);
            // At once, whatever it is.
            let _ = guest.vmm.ask(vmm::SET_IRQS, &words(&[20, 0x21, index, 0, vectors]), &[]);
        }
        // What unmasks the pin.
        let _ = guest.vmm.ask(vmm::SET_IRQS, &words(&[20, 0x14, 0, 0, 1]), &[fd]);
        for _ in 0..50 {
            guest.check();
        }
        let _ = guest.vmm.ask(vmm::SET_IRQS, &words(&[20, 0x14, 0, 0, 0]), &[]);
    }
}

/// Registers are answered while the device is busy with a command, which holds up nothing but what must wait for it.
#[test]
fn vfio_user_accesses_while_a_command_runs() {
    let (served, seen) = Served::fake();
    let mut guest = Guest::ready(&served);
    // The device cannot look at its request before this is let go.
    let held = seen.lock();
    guest.offer(0, b"echo", 16);
    guest.publish(0);
    assert_eq!(guest.vmm.map(1 << 40, 4096, true, Some(0)), Ok(()));
    for _ in 0..1000 {
        assert_eq!(guest.status(), 0xf);
        assert_eq!(guest.vmm.read_word(7, 0, 4), 0x1050_1af4);
        guest.vmm.write_word(2, reg::QUEUE_SELECT, 2, 1);
        guest.notify(1);
        assert!(guest.used(0).is_none());
        // What is posted does not pile up anywhere.
        let id = guest.vmm.send(vmm::DMA_UNMAP, 0, &unmap(0, 1 << 40, 2048), &[]);
        assert_eq!(guest.vmm.reply(id).unwrap().errno, EINVAL);
        let id = guest.vmm.send(vmm::GET_IRQ_INFO, 0, &words(&[16, 0, 2, 0]), &[]);
        assert_eq!(guest.vmm.reply(id).unwrap().errno, 0);
    }
    // That ring 1 is empty as the VMM sees it, too, was asked once.
    assert_eq!(guest.vmm.asked.borrow().len(), 1);
    drop(held);
    assert_eq!(guest.wait_used(0).len, 4);
    guest.check();
}

/// A thousand VMMs, each gone at another point of its first words.
#[test]
fn vfio_user_front_ends_that_go_in_the_middle() {
    let (served, _) = Served::fake();
    let mut words_of_qemu = Vec::new();
    let greeting = [&[0; 4], vmm::CAPABILITIES.as_bytes(), &[0]].concat();
    words_of_qemu.extend(message(1, vmm::VERSION, 0, &greeting));
    words_of_qemu.extend(message(2, vmm::DMA_MAP, 0, &map(3, 0, 0, MEMORY)));
    words_of_qemu.extend(message(3, vmm::GET_INFO, 0, &words(&[16, 0, 0, 0])));
    words_of_qemu.extend(message(4, vmm::REGION_WRITE, 0, &[access(2, reg::STATUS, 1), vec![1]].concat()));
    for len in 0..words_of_qemu.len() {
        let vmm = served.vmm();
        let file = vmm.file.try_clone().unwrap();
        let (first, rest) = words_of_qemu[..len].split_at(len.min(16 + greeting.len()));
        vmm.send_raw(first, &[]);
        vmm.send_raw(
            rest,
            if rest.is_empty() { &[] } else { std::slice::from_ref(&file) }
                .iter()
                .map(AsFd::as_fd)
                .collect::<Vec<_>>()
                .as_slice(),
        );
    }
    Guest::ready(&served).check();
}

/// Every message in pieces of one byte, and all of them in one piece.
#[test]
fn vfio_user_messages_in_pieces_and_in_heaps() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    let info = words(&[16, 0, 0, 0]);
    for byte in message(77, vmm::GET_INFO, 0, &info) {
        guest.vmm.send_raw(&[byte], &[]);
    }
    assert_eq!(guest.vmm.reply(77).unwrap().payload.len(), 16);
    let heap: Vec<u8> = (0..1000).flat_map(|id| message(id, vmm::GET_INFO, 0, &info)).collect();
    guest.vmm.send_raw(&heap, &[]);
    for id in 0..1000 {
        assert_eq!(guest.vmm.reply(id).unwrap().errno, 0);
    }
    guest.check();
}

/// Answers that nobody asked for.
#[test]
fn vfio_user_replies_to_nothing() {
    let (served, _) = Served::fake();
    let mut guest = Guest::ready(&served);
    for id in (0..2000).chain([u16::MAX]) {
        for flags in [vmm::REPLY, vmm::REPLY | vmm::ERROR, vmm::REPLY | vmm::NO_REPLY] {
            let payload = [longs(&[0, 16]), vec![0; usize::from(id % 64)]].concat();
            guest.vmm.send_raw(&message(id, 11 + id % 2, flags, &payload), &[]);
        }
    }
    guest.vmm.send_raw(&message(0, vmm::DMA_READ, vmm::REPLY, &vec![0; 1 << 20]), &[]);
    guest.check();
}

/// A front-end that asks and does not listen is left; until then nobody can stop the server from stopping.
#[test]
fn vfio_user_answers_that_nobody_reads() {
    let (mut served, _) = Served::fake();
    let vmm = served.greeted();
    vmm.socket.set_nonblocking(true).unwrap();
    let question = message(0, vmm::REGION_READ, 0, &access(2, 0, 0x4000));
    let mut full = 0;
    while full < 100 {
        if (&vmm.socket).write(&question).is_err() {
            full += 1;
            std::thread::yield_now();
        }
    }
    served.stop();
}

#[test]
fn vfio_user_the_next_front_end_finds_it_as_new() {
    let (served, seen) = Served::fake();
    for round in 0..200 {
        let mut guest = Guest::ready(&served);
        assert_eq!(guest.vmm.read_word(7, 0x3c, 1), 0);
        guest.check();
        guest.vmm.write_word(7, 0x3c, 1, 0xaa);
        guest.offer(0, &[if round % 2 == 0 { fake::LATER } else { fake::FORGET }], 1);
        guest.publish(0);
    }
    drop(Guest::ready(&served));
    assert!(seen.calls().iter().filter(|call| *call == "reset").count() >= 200);
}

/// Two at once: the second one waits for the first to go, with whatever it said already.
#[test]
fn vfio_user_front_ends_wait_for_each_other() {
    let (served, _) = Served::fake();
    let mut first = Guest::ready(&served);
    let second = Vmm::over(served.connect());
    let id = second.send(vmm::VERSION, 0, &[&[0; 4], vmm::CAPABILITIES.as_bytes(), &[0]].concat(), &[]);
    first.check();
    drop(first);
    assert_eq!(second.reply(id).unwrap().errno, 0);
}

fn shapes() -> impl Strategy<Value = Shape> {
    let model = prop::sample::select(vec![Model::Vga, Model::Virtio, Model::Bochs, Model::Input]);
    (model, any::<bool>(), any::<bool>()).prop_map(|(model, msix, pio)| Shape { model, msix, pio })
}

/// A replay with a device that fits.
fn replay(shape: Shape, memory: &[u8]) -> Replay {
    if shape.model.has_boot_display() {
        let (gpu, port, _, _) = served::gpu(shape.model);
        Replay::new(Box::new(gpu), shape, port, memory).unwrap()
    } else {
        Replay::new(Box::new(Fake::new().0), shape, None, memory).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn vfio_user_any_bytes_are_survived(shape in shapes(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        replay(shape, &bytes).messages(&bytes);
    }

    /// Messages of known kinds with small numbers, in any order.
    #[test]
    fn vfio_user_any_conversation_is_survived(
        shape in shapes(),
        said in prop::collection::vec((0u16..20, any::<u8>(), any::<bool>(), prop::collection::vec(0u64..8, 0..12)), 0..60),
    ) {
        let mut bytes = [&[0][..], &message(0, vmm::VERSION, 0, &[0; 4])].concat();
        for (command, first, quiet, numbers) in said {
            let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
            let payload = match command {
                vmm::DMA_MAP => map(3, number(0) << 12, number(1) << 12, number(2) << 12),
                vmm::DMA_UNMAP => unmap(if number(0) == 7 { 2 } else { 0 }, number(1) << 12, number(2) << 12),
                vmm::GET_INFO | vmm::GET_IRQ_INFO => words(&[16, 0, number(0) as u32, 0]),
                vmm::GET_REGION_INFO => [words(&[64, 0, number(0) as u32, 0]), vec![0; 16]].concat(),
                vmm::SET_IRQS => {
                    words(&[20, 1 << number(0) | 1 << number(3), number(1) as u32 / 2, number(4) as u32, number(2) as u32])
                }
                vmm::REGION_READ => access(if number(0) < 6 { 2 } else { 7 }, number(1) << 9 | number(2), 4),
                vmm::REGION_WRITE => {
                    let at = if number(0) < 6 { 0x1000 + number(1) * 8 + number(2) } else { number(1) * 32 + number(2) };
                    [access(if number(0) < 6 { 2 } else { 7 }, at, 2), longs(&[number(3)])[..2].to_vec()].concat()
                }
                vmm::RESET => vec![],
                _ => longs(&numbers),
            };
            bytes.push(first);
            bytes.extend(message(3, command, if quiet { vmm::NO_REPLY } else { 0 }, &payload));
        }
        replay(shape, &bytes).messages(&bytes);
    }

    /// A guest can have nothing answered with an error.
    #[test]
    fn vfio_user_any_accesses_are_answered(shape in shapes(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert_eq!(replay(shape, &bytes).accesses(&bytes), Ok(()));
    }
}
