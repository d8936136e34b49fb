//! Pixels as they arrive: formats, parts, cursors.

use device::{Backing, Memory, Pixels, Region, Shared};
use protocol::{Format, MemEntry};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::super::*;
use super::vmm::{Device, Image, Said, picture, words};

/// Four pixels of each format, as a guest that wants red, green, blue and a grey writes them: written down by hand from the
/// names of the specification (section 5.7.6.8).
const GOLDEN: [(Format, [[u8; 4]; 4]); 8] = [
    (Format::B8G8R8A8, [[0, 0, 0xff, 0xff], [0, 0xff, 0, 0xff], [0xff, 0, 0, 0xff], [0x33, 0x22, 0x11, 0x80]]),
    (Format::B8G8R8X8, [[0, 0, 0xff, 0x99], [0, 0xff, 0, 0x99], [0xff, 0, 0, 0x99], [0x33, 0x22, 0x11, 0x99]]),
    (Format::A8R8G8B8, [[0xff, 0xff, 0, 0], [0xff, 0, 0xff, 0], [0xff, 0, 0, 0xff], [0x80, 0x11, 0x22, 0x33]]),
    (Format::X8R8G8B8, [[0x99, 0xff, 0, 0], [0x99, 0, 0xff, 0], [0x99, 0, 0, 0xff], [0x99, 0x11, 0x22, 0x33]]),
    (Format::R8G8B8A8, [[0xff, 0, 0, 0xff], [0, 0xff, 0, 0xff], [0, 0, 0xff, 0xff], [0x11, 0x22, 0x33, 0x80]]),
    (Format::X8B8G8R8, [[0x99, 0, 0, 0xff], [0x99, 0, 0xff, 0], [0x99, 0xff, 0, 0], [0x99, 0x33, 0x22, 0x11]]),
    (Format::A8B8G8R8, [[0xff, 0, 0, 0xff], [0xff, 0, 0xff, 0], [0xff, 0xff, 0, 0], [0x80, 0x33, 0x22, 0x11]]),
    (Format::R8G8B8X8, [[0xff, 0, 0, 0x99], [0, 0xff, 0, 0x99], [0, 0, 0xff, 0x99], [0x11, 0x22, 0x33, 0x99]]),
];
const SHOWN: [u32; 4] = [0x00ff_0000, 0x0000_ff00, 0x0000_00ff, 0x0011_2233];

#[test]
fn each_format_shows_the_same_picture() {
    assert_eq!(GOLDEN.map(|(format, _)| format), Format::ALL);
    for (format, pixels) in GOLDEN {
        let (mut device, mut vmm) = Device::connected();
        device.show(0, Image { width: 2, height: 2, format, pixels: pixels.concat() });
        device.flush_all(0);
        assert_eq!(vmm.read(), [Said::Scanout(0, 2, 2), Said::Update(0, Rect::of_size(2, 2))]);
        let shown: Vec<u32> = vmm.canvases[&0].words.iter().map(|word| word & 0x00ff_ffff).collect();
        assert_eq!(shown, SHOWN, "{format:?}");
    }
}

#[test]
fn each_format_has_the_same_half_transparent_cursor() {
    for (format, pixels) in GOLDEN {
        let (mut device, mut vmm) = Device::connected();
        let image = Image { width: 2, height: 2, format, pixels: pixels.concat() };
        let (x, y, hot_x, hot_y) = (100, u32::MAX, 1, 2);
        let cursor = Cursor { scanout: ScanoutId(1), x, y, hot_x, hot_y, image: Some(image.frame()) };
        device.display.cursor(&cursor);
        let said = vmm.read();
        let [Said::CursorPicture { scanout: 1, x: 100, y: u32::MAX, hot: (1, 2), words }] = said.as_slice() else {
            panic!("{said:?}")
        };
        let last = if format.channels().alpha.is_some() { 0x8011_2233 } else { 0xff11_2233 };
        assert_eq!([words[0], words[1], words[64], words[65]], [0xffff_0000, 0xff00_ff00, 0xff00_00ff, last]);
        assert_eq!(words.iter().filter(|word| **word != 0).count(), 4, "what a small picture leaves is transparent");
    }
}

#[test]
fn the_pointer_moves_hides_and_comes_back() {
    let (mut device, mut vmm) = Device::connected();
    let image = Image::new(64, 64, 1);
    let cursor = |image| Cursor { scanout: ScanoutId(0), x: 5, y: 6, hot_x: 0, hot_y: 0, image };
    device.display.cursor(&cursor(Some(image.frame())));
    device.display.move_cursor(ScanoutId(0), 7, 8);
    device.display.cursor(&cursor(None));
    device.display.move_cursor(ScanoutId(0), 9, 9);
    device.display.cursor(&cursor(Some(image.frame())));
    let said = vmm.read();
    assert!(matches!(said[0], Said::CursorPicture { x: 5, y: 6, .. }));
    assert_eq!(said[1..4], [Said::CursorAt(0, 7, 8), Said::CursorHidden(0), Said::CursorHidden(0)]);
    assert!(
        matches!(&said[4], Said::CursorPicture { words, .. } if words[5] == super::vmm::words(&image.pixels)[5] | 0xff00_0000)
    );
    // A head that does not exist is nobody's.
    device.display.move_cursor(ScanoutId(16), 1, 1);
    device.display.move_cursor(ScanoutId(u32::MAX), 1, 1);
    assert_eq!(vmm.read(), []);
}

#[test]
fn a_part_is_sent_as_a_part_and_lands_where_it_belongs() {
    let (mut device, mut vmm) = Device::connected();
    device.show(0, Image::new(2000, 300, 1));
    device.flush_all(0);
    device.settle(&mut vmm);
    // Rows that are put together, rows that are long enough to go one by one, one row, one column, whole rows.
    let parts = [
        Rect::new(1, 2, 64, 64),
        Rect::new(500, 0, 1000, 299),
        Rect::new(3, 299, 1, 1),
        Rect::new(1999, 0, 1, 300),
        Rect::new(0, 100, 2000, 2),
    ];
    for (seed, part) in (2..).zip(parts) {
        device.images.get_mut(&0).unwrap().draw(part, seed);
        device.flush(0, part);
        assert_eq!(device.settle(&mut vmm), [Said::Update(0, part)]);
        assert!(vmm.canvases[&0] == device.images[&0].canvas(), "{part:?}");
    }
}

/// Whole rows and long rows go from the image into the socket; short ones are put together before, and counted.
#[test]
fn bytes_shown_and_bytes_copied_are_counted() {
    let (mut device, mut vmm) = Device::connected();
    let counts = |device: &Device| (device.stats.bytes_shown.get(), device.stats.bytes_copied.get());
    device.show(0, Image::new(640, 480, 1));
    device.flush_all(0);
    device.settle(&mut vmm);
    let whole = 640 * 480 * 4;
    assert_eq!(counts(&device), (whole, 0));
    device.flush(0, Rect::new(100, 100, 64, 64));
    device.settle(&mut vmm);
    let square = 64 * 64 * 4;
    assert_eq!(counts(&device), (whole + square, square));
    device.flush(0, Rect::new(10, 10, 512, 100));
    device.settle(&mut vmm);
    assert_eq!(counts(&device), (whole + square + 512 * 100 * 4, square));
    let other = Image { format: Format::R8G8B8A8, ..Image::new(640, 480, 1) };
    device.show(0, other);
    device.flush_all(0);
    device.settle(&mut vmm);
    assert_eq!(counts(&device).0, 2 * whole + square + 512 * 100 * 4);
    assert_eq!(counts(&device).1, whole + square, "another order of bytes costs a copy");
}

/// A page flip is one UPDATE; a SCANOUT would have QEMU make another surface for each.
#[test]
fn the_size_is_told_only_when_it_changes() {
    let (mut device, mut vmm) = Device::connected();
    for seed in 1..4 {
        device.show(0, Image::new(32, 32, seed));
        device.flush(0, Rect::new(0, 0, 1, 1));
        let update = Said::Update(0, Rect::of_size(32, 32));
        let said = vmm.read();
        assert_eq!(said.last(), Some(&update), "all of another image is new");
        assert_eq!(said.len(), if seed == 1 { 2 } else { 1 });
        assert_eq!(vmm.canvases[&0], device.images[&0].canvas());
    }
    device.show(0, Image::new(32, 31, 9));
    device.flush_all(0);
    assert_eq!(vmm.read(), [Said::Scanout(0, 32, 31), Said::Update(0, Rect::of_size(32, 31))]);
    device.blank(0);
    device.blank(0);
    assert_eq!(vmm.read(), [Said::Scanout(0, 0, 0)]);
    device.show(0, Image::new(32, 31, 9));
    device.flush_all(0);
    assert_eq!(vmm.read(), [Said::Scanout(0, 32, 31), Said::Update(0, Rect::of_size(32, 31))]);
}

#[test]
fn an_image_that_nobody_flushes_is_shown_all_the_same() {
    let (mut device, mut vmm) = Device::connected();
    device.show(0, Image::new(8, 8, 1));
    assert_eq!(vmm.read(), [], "a flush usually follows at once");
    assert_eq!(device.poll(), 1);
    assert_eq!(vmm.read(), [Said::Scanout(0, 8, 8), Said::Update(0, Rect::of_size(8, 8))]);
    assert_eq!(device.poll(), 0);
}

/// A mapping of `file`, as guest memory at address 0.
fn guest(file: &std::fs::File, len: usize) -> Memory {
    let mapping = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), len).unwrap();
    let mapping = Arc::new(mapping);
    Memory::new(vec![Region { start: 0, len: len as u64, mapping, offset: 0, usable: true }]).unwrap()
}

/// Pages in the wrong order, more of them than one call takes.
fn scattered(pages: u64) -> Backing {
    Backing::new((0..pages).rev().map(|page| MemEntry { addr: page * 4096, length: 4096 }).collect())
}

#[test]
fn a_blob_goes_from_the_guests_pages_into_the_socket() {
    let (width, height) = (1024, 600);
    let bytes = picture(width, height, 7);
    let pages = bytes.len() as u64 / 4096;
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let memory = guest(&file, bytes.len());
    for (page, chunk) in (0..pages).rev().zip(bytes.chunks(4096)) {
        memory.slice(page * 4096, 4096).unwrap().write_slice(chunk, 0).unwrap();
    }
    let mut backing = scattered(pages);
    let pixels = Pixels::Guest(backing.pages(&memory).unwrap());
    let frame = Frame { format: Format::B8G8R8X8, width, height, stride: width * 4, offset: 0, pixels };
    let (mut device, mut vmm) = Device::connected();
    device.display.set_scanout(ScanoutId(0), Some(&frame));
    device.display.flush(ScanoutId(0), &frame, frame.rect());
    let mut said = vmm.read();
    while said.len() < 2 {
        device.poll_with(&frame);
        said.extend(vmm.read());
    }
    assert!(vmm.canvases[&0].words == words(&bytes));
    assert_eq!(device.stats.bytes_copied.get(), 0);
    // A part of it, by pieces that lie in two pages, and one that is put together.
    for part in [Rect::new(1, 1, 1000, 100), Rect::new(500, 10, 100, 100)] {
        vmm.canvases.get_mut(&0).unwrap().words.fill(0);
        device.display.flush(ScanoutId(0), &frame, part);
        let mut said = vmm.read();
        while said.is_empty() {
            device.poll_with(&frame);
            said = vmm.read();
        }
        assert_eq!(said, [Said::Update(0, part)]);
        let canvas = &vmm.canvases[&0].words;
        let inside = |at: usize| Rect::new(at as u32 % width, at as u32 / width, 1, 1).intersection(&part).is_some();
        assert!(words(&bytes).iter().enumerate().all(|(at, word)| canvas[at] == if inside(at) { *word } else { 0 }));
    }
}

/// CVE-2026-6502 and its kin, and a front-end that truncates its memory: the message is finished, black where nothing is.
#[test]
fn guest_memory_that_vanishes_under_a_picture_ends_neither_us_nor_the_message() {
    let (width, height) = (1024, 600);
    let len = (width * height * 4) as usize;
    let file = tempfile::tempfile().unwrap();
    file.set_len(len as u64).unwrap();
    let memory = guest(&file, len);
    memory.slice(0, len as u64).unwrap().write_slice(&vec![0x55; len], 0).unwrap();
    let mut backing = scattered(len as u64 / 4096);
    let pixels = Pixels::Guest(backing.pages(&memory).unwrap());
    let frame = Frame { format: Format::B8G8R8X8, width, height, stride: width * 4, offset: 0, pixels };
    file.set_len(len as u64 / 2).unwrap();
    let (mut device, mut vmm) = Device::connected();
    device.display.set_scanout(ScanoutId(0), Some(&frame));
    device.display.flush(ScanoutId(0), &frame, frame.rect());
    let mut said = vmm.read();
    for _ in 0..1000 {
        device.poll_with(&frame);
        said.extend(vmm.read());
    }
    assert_eq!(said, [Said::Scanout(0, width, height), Said::Update(0, frame.rect())]);
    assert!(vmm.canvases[&0].words.iter().all(|word| *word == 0));
    assert!(!device.is_due());
}

#[test]
fn an_image_that_a_viewer_shares_is_sent_without_a_copy() {
    let bytes = picture(512, 100, 3);
    let memory: MmapRegion = MmapRegion::new(bytes.len()).unwrap();
    memory.as_volatile_slice().copy_from(&bytes[..]);
    let file = tempfile::tempfile().unwrap();
    let pixels = Pixels::Shared(Shared { id: 1, file: &file, slice: memory.as_volatile_slice() });
    let frame = Frame { format: Format::B8G8R8X8, width: 512, height: 100, stride: 2048, offset: 0, pixels };
    let (mut device, mut vmm) = Device::connected();
    device.display.set_scanout(ScanoutId(0), Some(&frame));
    device.display.flush(ScanoutId(0), &frame, frame.rect());
    vmm.read();
    assert!(vmm.canvases[&0].words == words(&bytes));
    assert_eq!(device.stats.bytes_copied.get(), 0);
}
