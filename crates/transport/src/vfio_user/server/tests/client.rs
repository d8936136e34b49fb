//! Another implementation of the protocol, the one of Cloud Hypervisor.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vfio_user::Client;

use super::*;
use crate::vfio_user::dummy::{FRAMEBUFFER, REGISTERS};
use crate::vfio_user::function::IrqAction;

/// A client of a dummy.
fn connected(dummy: Dummy) -> (Served, Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let served = Served::new(Endpoint::Listener(UnixListener::bind(&path).unwrap()), dummy, None);
    (served, Client::new(&path).unwrap(), folder)
}

#[test]
fn a_client_finds_the_regions() {
    let dummy = Dummy::default();
    dummy.file.write_all_at(b"pixels", 100).unwrap();
    let (_served, client, _folder) = connected(dummy);
    let sizes = [FRAMEBUFFER, 0, REGISTERS, 0, 0, 0, 2048, 256, 0];
    for (index, size) in (0..).zip(sizes) {
        assert_eq!(client.region(index).map(|region| region.size), Some(size), "{index}");
    }
    assert!(client.region(9).is_none());
    let region = |index| client.region(index).unwrap();
    assert_eq!([0, 2, 6, 7].map(|index| region(index).flags), [7, 0xf, 1, 3]);
    // Mapped whole; and in one piece.
    let file = region(0).file_offset.as_ref().unwrap();
    let mut pixels = [0; 6];
    file.file().read_exact_at(&mut pixels, file.start() + 100).unwrap();
    assert_eq!(&pixels, b"pixels");
    assert!(region(0).sparse_areas.is_empty());
    assert!(region(2).file_offset.is_some());
    let areas: Vec<_> = region(2).sparse_areas.iter().map(|area| (area.offset, area.size)).collect();
    assert_eq!(areas, [(4096, 4096)]);
    assert!(region(7).file_offset.is_none());
}

#[test]
fn a_client_reads_and_writes() {
    let (_served, mut client, _folder) = connected(Dummy::default());
    for (offset, data) in [(0, &b"\x01"[..]), (0x100, b"ab"), (0x204, b"abcd"), (0x1000, &[7; 4096])] {
        client.region_write(2, offset, data).unwrap();
        let mut back = vec![0; data.len()];
        client.region_read(2, offset, &mut back).unwrap();
        assert_eq!(back, data);
    }
    let mut config = [0; 256];
    client.region_read(7, 0, &mut config).unwrap();
    assert_eq!(config, [7; 256]);
}

#[test]
fn a_client_sets_interrupts_and_memory_up() {
    let (mut served, mut client, _folder) = connected(Dummy::default());
    let infos = [0, 1, 2, 3, 4].map(|index| client.get_irq_info(index).unwrap());
    assert_eq!(infos.map(|info| (info.flags, info.count)), [(7, 1), (0, 0), (9, 3), (1, 1), (0, 0)]);
    served.take_calls();
    let (memory, eventfds) = (tempfile::tempfile().unwrap(), [flag(), flag(), flag()]);
    memory.set_len(1 << 20).unwrap();
    client.dma_map(0x1000, 0x10_0000, 0x2000, memory.as_raw_fd()).unwrap();
    client.set_irqs(2, 0x24, 0, 3, &eventfds.each_ref().map(AsRawFd::as_raw_fd)).unwrap();
    client.set_irqs(2, 0x21, 0, 0, &[]).unwrap();
    client.dma_unmap(0x10_0000, 0x2000).unwrap();
    client.reset().unwrap();
    client.shutdown().unwrap();
    raise(&*served.stop);
    served.result().unwrap();
    let window = Window { iova: 0x10_0000, size: 0x2000, offset: 0x1000, readable: true, writable: true };
    let irqs = |count, eventfds| Call::Irqs { index: 2, start: 0, count, action: IrqAction::Trigger, eventfds };
    let calls: Vec<_> = served.take_calls().into_iter().filter(|call| !matches!(call, Call::Flush)).collect();
    assert_eq!(
        calls,
        [
            Call::Map { window, file: true },
            irqs(3, Some(3)),
            irqs(0, None),
            Call::Unmap(Some((0x10_0000, 0x2000))),
            Call::Reset,
            Call::HungUp,
        ]
    );
}
