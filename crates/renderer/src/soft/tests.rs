use std::sync::Arc;

use device::{Backing, Memory, Region};
use proptest::prelude::*;
use protocol::{MemEntry, Rect};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::*;

const TICKET: Ticket = Ticket(1);
const ID: ResourceId = ResourceId(7);
const DONE: Progress = Progress::Done(Ok(()));
const REFUSED: Progress = Progress::Done(Err(ReplyError::InvalidParameter));

/// Guest memory of `bytes` at address 0.
fn memory(bytes: &[u8]) -> Memory {
    let mapping = Arc::new(MmapRegion::new(bytes.len().max(1)).unwrap());
    mapping.as_volatile_slice().write_slice(bytes, 0).unwrap();
    Memory::new(vec![Region { start: 0, len: bytes.len() as u64, mapping, offset: 0, usable: true }]).unwrap()
}

/// Guest memory in which each byte tells where it is.
fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn backing(entries: &[(u64, u32)]) -> Backing {
    Backing::new(entries.iter().map(|(addr, length)| MemEntry { addr: *addr, length: *length }).collect())
}

fn soft(format: Format, width: u32, height: u32) -> Soft {
    let mut soft = Soft::new();
    assert_eq!(soft.create(TICKET, ID, ResourceDesc::Image { format, width, height }), DONE);
    soft
}

fn transfer(soft: &mut Soft, memory: &Memory, entries: &[(u64, u32)], rect: Rect, offset: u64) -> Progress {
    let mut backing = backing(entries);
    let pages = backing.pages(memory).unwrap();
    soft.transfer_to_host(TICKET, ID, Transfer { rect, offset }, &pages)
}

fn bytes(soft: &mut Soft, shared: bool) -> Vec<u8> {
    match soft.pixels(ID, shared).unwrap() {
        Pixels::Private(bytes) => bytes.to_vec(),
        Pixels::Shared(shared) => {
            let mut bytes = vec![0; shared.slice.len()];
            shared.slice.copy_to(&mut bytes[..]);
            bytes
        }
        Pixels::Guest(_) => panic!("An image is never the guest's own pages"),
    }
}

#[test]
fn a_pixel_keeps_the_bytes_of_its_format() {
    // What a guest writes for opaque orange, 0xff8000, in each format.
    let golden = [
        (Format::B8G8R8A8, [0x00, 0x80, 0xff, 0xff]),
        (Format::B8G8R8X8, [0x00, 0x80, 0xff, 0x5a]),
        (Format::A8R8G8B8, [0xff, 0xff, 0x80, 0x00]),
        (Format::X8R8G8B8, [0x5a, 0xff, 0x80, 0x00]),
        (Format::R8G8B8A8, [0xff, 0x80, 0x00, 0xff]),
        (Format::X8B8G8R8, [0x5a, 0x00, 0x80, 0xff]),
        (Format::A8B8G8R8, [0xff, 0x00, 0x80, 0xff]),
        (Format::R8G8B8X8, [0xff, 0x80, 0x00, 0x5a]),
    ];
    assert_eq!(golden.map(|(format, _)| format), Format::ALL);
    for (format, pixel) in golden {
        let mut soft = soft(format, 2, 2);
        let memory = memory(&pixel.repeat(4));
        assert_eq!(transfer(&mut soft, &memory, &[(0, 16)], Rect::of_size(2, 2), 0), DONE);
        let bytes = bytes(&mut soft, false);
        assert_eq!(bytes, pixel.repeat(4), "{format:?}");
        let channels = format.channels();
        assert_eq!((bytes[channels.red], bytes[channels.green], bytes[channels.blue]), (0xff, 0x80, 0), "{format:?}");
        assert!(channels.alpha.is_none_or(|alpha| bytes[alpha] == 0xff), "{format:?}");
    }
}

#[test]
fn a_new_image_is_black_in_private_and_in_shared_memory_small_or_large() {
    for (width, height) in [(1, 1), (16, 16), (300, 300)] {
        for shared in [false, true] {
            let mut soft = soft(Format::B8G8R8A8, width, height);
            assert_eq!(bytes(&mut soft, shared), vec![0; (width * height * 4) as usize]);
        }
    }
}

#[test]
fn an_image_without_pixels_takes_no_memory() {
    let mut soft = Soft::new();
    // A terabyte, were it not for that.
    for id in 1..=1024 {
        let desc = ResourceDesc::Image { format: Format::B8G8R8A8, width: 16384, height: 16384 };
        assert_eq!(soft.create(TICKET, ResourceId(id), desc), DONE);
    }
    assert!(soft.images.values().all(|image| matches!(image.storage, Storage::Unmade)));
}

#[test]
fn qemu_11_1_2_an_allocation_that_fails_is_an_error_and_nothing_else() {
    let mut soft = soft(Format::B8G8R8A8, 1 << 30, 1 << 28);
    let memory = memory(&[0; 4]);
    let refused = Progress::Done(Err(ReplyError::OutOfMemory));
    assert_eq!(transfer(&mut soft, &memory, &[(0, 4)], Rect::of_size(1, 1), 0), refused);
    assert!(soft.pixels(ID, false).is_none());
    assert!(soft.pixels(ID, true).is_none());
    assert_eq!(soft.create(TICKET, ResourceId(8), image(4, 4)), DONE);
}

#[test]
fn cve_2026_3886_sizes_around_32_bits_do_not_wrap() {
    for (width, height) in [(0x2000_0001, 1), (0x4000_0001, 4), (0x8001, 0x8001), (0x1_0001, 0x1_0001)] {
        let mut soft = Soft::new();
        assert_eq!(soft.create(TICKET, ID, image(width, height)), DONE);
        assert_eq!(soft.images[&ID].len, u64::from(width) * 4 * u64::from(height));
        // The last pixel lies far outside the one page that there is.
        let memory = memory(&[0; 4096]);
        let rect = Rect::new(width - 1, height - 1, 1, 1);
        assert_eq!(transfer(&mut soft, &memory, &[(0, 4096)], rect, 4093), REFUSED);
    }
    let too_large = Progress::Done(Err(ReplyError::InvalidParameter));
    assert_eq!(Soft::new().create(TICKET, ID, image(u32::MAX, u32::MAX)), too_large);
}

fn image(width: u32, height: u32) -> ResourceDesc {
    ResourceDesc::Image { format: Format::B8G8R8X8, width, height }
}

#[test]
fn a_rectangle_reads_rows_at_the_stride_of_the_image_from_its_offset_on() {
    let source = numbered(4 * 4 * 4);
    let mut soft = soft(Format::B8G8R8X8, 4, 4);
    let rect = Rect::new(1, 2, 2, 2);
    let offset = 2 * 16 + 4;
    assert_eq!(transfer(&mut soft, &memory(&source), &[(0, 64)], rect, offset), DONE);
    let mut expected = vec![0; 64];
    expected[36..44].copy_from_slice(&source[36..44]);
    expected[52..60].copy_from_slice(&source[52..60]);
    assert_eq!(bytes(&mut soft, false), expected);
}

#[test]
fn the_offset_is_the_guests_choice() {
    let source = numbered(256);
    let mut soft = soft(Format::B8G8R8X8, 4, 4);
    assert_eq!(transfer(&mut soft, &memory(&source), &[(0, 256)], Rect::new(0, 3, 4, 1), 101), DONE);
    assert_eq!(bytes(&mut soft, false)[48..], source[101..117]);
}

#[test]
fn a_backing_may_end_with_the_last_byte_of_the_rectangle() {
    let mut soft = soft(Format::B8G8R8X8, 4, 4);
    let memory = memory(&numbered(64));
    let rect = Rect::new(0, 0, 2, 3);
    let needed = 2 * 16 + 8;
    assert_eq!(transfer(&mut soft, &memory, &[(0, needed)], rect, 0), DONE);
    assert_eq!(transfer(&mut soft, &memory, &[(0, needed - 1)], rect, 0), REFUSED);
    assert_eq!(transfer(&mut soft, &memory, &[(0, needed)], rect, 1), REFUSED);
}

#[test]
fn a_refused_transfer_leaves_the_image_as_it_was() {
    for shared in [false, true] {
        let mut soft = soft(Format::B8G8R8X8, 4, 4);
        let source = numbered(128);
        let memory = memory(&source);
        assert_eq!(transfer(&mut soft, &memory, &[(0, 64)], Rect::of_size(4, 4), 0), DONE);
        assert_eq!(bytes(&mut soft, shared), source[..64]);
        for (entries, rect, offset) in [
            (&[(64, 63)][..], Rect::of_size(4, 4), 0),
            (&[(64, 64)], Rect::of_size(4, 4), 1),
            (&[(64, 64)], Rect::of_size(4, 4), u64::MAX),
            (&[(64, 64)], Rect::of_size(4, 4), u64::MAX - 63),
            (&[(64, 32), (96, 31)], Rect::of_size(2, 4), 8),
            (&[], Rect::of_size(1, 1), 0),
            (&[(64, 64)], Rect::of_size(5, 4), 0),
            (&[(64, 64)], Rect::of_size(4, 5), 0),
            (&[(64, 64)], Rect::new(3, 0, 2, 1), 0),
            (&[(64, 64)], Rect::new(u32::MAX, u32::MAX, u32::MAX, u32::MAX), 0),
        ] {
            assert_eq!(transfer(&mut soft, &memory, entries, rect, offset), REFUSED, "{entries:?} {rect:?} {offset}");
        }
        assert_eq!(bytes(&mut soft, shared), source[..64]);
    }
}

#[test]
fn an_image_that_moves_to_shared_memory_keeps_its_pixels_and_its_number() {
    for (width, height) in [(8, 8), (256, 256)] {
        let len = width * height * 4;
        let source = numbered(len as usize + 1);
        let memory = memory(&source);
        let mut soft = soft(Format::B8G8R8X8, width, height);
        let whole = Rect::of_size(width, height);
        assert_eq!(transfer(&mut soft, &memory, &[(0, len + 1)], whole, 0), DONE);
        assert!(matches!(soft.pixels(ID, false), Some(Pixels::Private(_))));
        assert_eq!(bytes(&mut soft, true), source[..len as usize]);
        let first = shared_id(&mut soft, ID, true).unwrap();
        assert_eq!(transfer(&mut soft, &memory, &[(0, len + 1)], whole, 1), DONE);
        assert_eq!(shared_id(&mut soft, ID, false), Some(first));
        assert_eq!(bytes(&mut soft, false), source[1..]);
    }
}

fn shared_id(soft: &mut Soft, id: ResourceId, shared: bool) -> Option<u64> {
    match soft.pixels(id, shared) {
        Some(Pixels::Shared(shared)) => Some(shared.id),
        _ => None,
    }
}

#[test]
fn another_process_reads_the_pixels_through_the_file_and_cannot_change_its_size() {
    use std::os::unix::fs::FileExt;
    let source = numbered(64);
    let mut soft = soft(Format::B8G8R8X8, 4, 4);
    assert_eq!(transfer(&mut soft, &memory(&source), &[(0, 64)], Rect::of_size(4, 4), 0), DONE);
    let Some(Pixels::Shared(shared)) = soft.pixels(ID, true) else { panic!("Not shared") };
    let mut read = [0; 64];
    shared.file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read[..], source);
    assert!(shared.file.set_len(0).is_err());
    assert!(shared.file.write_all_at(&[1], 0).is_err());
}

#[test]
fn images_beyond_the_cap_stay_private_until_one_goes() {
    let mut soft = Soft::new();
    let count = SHARED_IMAGES as u32;
    for id in 0..=count {
        assert_eq!(soft.create(TICKET, ResourceId(id), image(1, 1)), DONE);
        assert_eq!(shared_id(&mut soft, ResourceId(id), true).is_some(), id < count);
    }
    soft.destroy(ResourceId(0));
    assert!(shared_id(&mut soft, ResourceId(count), true).is_some());
    soft.destroy(ResourceId(0)); // A second time counts nothing.
    assert_eq!(soft.shared, SHARED_IMAGES);
    soft.reset();
    assert_eq!((soft.shared, soft.images.capacity()), (0, 0));
}

#[test]
fn what_was_saved_is_put_back() {
    for shared in [false, true] {
        let mut soft = soft(Format::B8G8R8X8, 4, 4);
        if shared {
            assert!(shared_id(&mut soft, ID, true).is_some());
        }
        assert_eq!(soft.restore(ID, &numbered(64)), Ok(()));
        assert_eq!(bytes(&mut soft, shared), numbered(64));
        // A saved state is a file that somebody may have written by hand.
        assert_eq!(soft.restore(ID, &numbered(63)), Err(ReplyError::InvalidParameter));
        assert_eq!(soft.restore(ResourceId(8), &[]), Err(ReplyError::InvalidResourceId));
        assert_eq!(bytes(&mut soft, shared), numbered(64));
    }
}

#[test]
fn a_name_is_an_image_once() {
    let mut soft = soft(Format::B8G8R8X8, 4, 4);
    assert_eq!(soft.restore(ID, &numbered(64)), Ok(()));
    assert_eq!(soft.create(TICKET, ID, image(8, 8)), Progress::Done(Err(ReplyError::InvalidResourceId)));
    assert_eq!(bytes(&mut soft, false), numbered(64));
    soft.destroy(ID);
    assert!(soft.pixels(ID, false).is_none());
    assert_eq!(soft.create(TICKET, ID, image(4, 4)), DONE);
    assert_eq!(bytes(&mut soft, false), [0; 64]);
}

#[test]
fn a_guests_blob_has_no_image() {
    let mut soft = Soft::new();
    assert_eq!(soft.create(TICKET, ID, ResourceDesc::GuestBlob { size: 64 }), DONE);
    assert_eq!(transfer(&mut soft, &memory(&[0; 64]), &[(0, 64)], Rect::of_size(4, 4), 0), DONE);
    assert!(soft.pixels(ID, true).is_none());
    soft.destroy(ID);
}

/// The specification, pixel by pixel: pixel (x, y) of the rectangle is at `offset + y * stride + x * 4` of the bytes
/// that the entries make up. `None`: some pixel is not there.
fn naive(image: &[u8], width: u32, ram: &[u8], entries: &[(u64, u32)], rect: Rect, offset: u64) -> Option<Vec<u8>> {
    let linear: Vec<u8> =
        entries.iter().flat_map(|(addr, length)| &ram[*addr as usize..][..*length as usize]).copied().collect();
    let mut image = image.to_vec();
    for y in 0..rect.height {
        for x in 0..rect.width {
            let source = usize::try_from(offset).ok()?.checked_add(((y * width + x) * 4) as usize)?;
            let target = (((rect.y + y) * width + rect.x + x) * 4) as usize;
            let pixel = linear.get(source..source.checked_add(4)?)?;
            image[target..target + 4].copy_from_slice(pixel);
        }
    }
    Some(image)
}

prop_compose! {
    fn any_rect(width: u32, height: u32)(x in 0..width, y in 0..height)
        (x in Just(x), y in Just(y), w in 0..=width - x, h in 0..=height - y) -> Rect {
        Rect::new(x, y, w, h)
    }
}

prop_compose! {
    fn any_case()(width in 1u32..12, height in 1u32..12)
        (width in Just(width), height in Just(height),
         transfers in prop::collection::vec((
             any_rect(width, height),
             prop_oneof![4 => 0u64..300, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 100)],
             prop::collection::vec((0u64..900, 0u32..124), 0..8),
             any::<bool>(),
         ), 1..6)) -> (u32, u32, Vec<Step>) {
        (width, height, transfers)
    }
}

type Step = (Rect, u64, Vec<(u64, u32)>, bool);

proptest! {
    #[test]
    fn transfers_agree_with_the_specification((width, height, transfers) in any_case()) {
        let ram = numbered(1024);
        let memory = memory(&ram);
        let mut soft = soft(Format::B8G8R8X8, width, height);
        let mut expected = vec![0; (width * height * 4) as usize];
        for (rect, offset, entries, shared) in transfers {
            let progress = transfer(&mut soft, &memory, &entries, rect, offset);
            match naive(&expected, width, &ram, &entries, rect, offset) {
                Some(_) if rect.is_empty() => {}
                Some(image) => {
                    prop_assert_eq!(progress, DONE);
                    expected = image;
                }
                None => prop_assert_eq!(progress, REFUSED),
            }
            prop_assert_eq!(&bytes(&mut soft, shared), &expected);
        }
    }
}
