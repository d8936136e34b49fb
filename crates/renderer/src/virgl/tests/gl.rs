//! OpenGL.

use super::*;

const CONTEXT: ContextId = ContextId(1);
const PICTURE: ResourceId = ResourceId(5);
/// `VIRTIO_GPU_RESOURCE_FLAG_Y_0_TOP`
const Y_0_TOP: u32 = 1;

fn whole(width: u32, height: u32) -> Rect {
    Rect { x: 0, y: 0, width, height }
}

fn transfer(width: u32, height: u32) -> Transfer3d {
    let area = Box3d { width, height, depth: 1, ..Box3d::default() };
    Transfer3d { area, offset: 0, resource: PICTURE, level: 0, stride: 0, layer_stride: 0 }
}

#[test]
fn a_context_draws_and_its_picture_is_read_back() {
    alone("gl::draws");
}

#[test]
#[ignore = "started by a_context_draws_and_its_picture_is_read_back"]
fn draws() {
    let Some(mut world) = World::gl() else { return };
    world.library.open(CONTEXT, CapsetId::VIRGL2, b"a test").unwrap();
    world.library.create(PICTURE, &picture(64, 32)).unwrap();
    world.library.join(CONTEXT, PICTURE);
    let mut commands = stream::clear(PICTURE, 100, [1.0, 0.5, 0.25, 1.0]);
    world.library.submit(CONTEXT, &mut commands).unwrap();
    world.library.fence(Ticket(0x1234_5678_9abc), CONTEXT, 0).unwrap();
    assert_eq!(world.told(), Ticket(0x1234_5678_9abc));
    let bytes = world.read(PICTURE, whole(64, 32));
    let is_it = |pixel: &[u8]| matches!(pixel, [63..=64, 127..=128, 255, 255]);
    assert!(bytes.chunks(4).all(is_it), "{:?}", &bytes[..16]);
    // Commands that lie askew are commands too.
    let mut askew = [vec![0], stream::clear(PICTURE, 101, [0.0, 0.0, 1.0, 0.0])].concat();
    world.library.submit(CONTEXT, &mut askew[1..]).unwrap();
    let bytes = world.read(PICTURE, Rect { x: 63, y: 31, width: 1, height: 1 });
    assert_eq!(bytes, [255, 0, 0, 0]);
    world.library.leave(CONTEXT, PICTURE);
    world.library.destroy(PICTURE);
    world.library.close(CONTEXT);
}

#[test]
fn pixels_go_to_the_host_and_back_the_right_way_up() {
    alone("gl::copies");
}

#[test]
#[ignore = "started by pixels_go_to_the_host_and_back_the_right_way_up"]
fn copies() {
    let Some(mut world) = World::gl() else { return };
    world.library.open(CONTEXT, CapsetId::VIRGL2, b"").unwrap();
    const LEN: usize = 16 * 8 * 4;
    for flags in [0, Y_0_TOP] {
        world.library.create(PICTURE, &Resource3d { flags, ..picture(16, 8) }).unwrap();
        world.library.join(CONTEXT, PICTURE);
        let mapping = Arc::new(MmapRegion::<()>::new(3 * LEN).unwrap());
        let slice = vm_memory::VolatileMemory::as_volatile_slice(&*mapping);
        let image: Vec<u8> = (0..LEN).map(|at| (at / 2) as u8).collect();
        // The backing's second half lies before its first.
        slice.write_slice(&image[..LEN / 2], LEN).unwrap();
        slice.write_slice(&image[LEN / 2..], 0).unwrap();
        let pieces = pages(&mapping, &[(LEN, LEN / 2), (0, LEN / 2)]);
        world.library.attach(PICTURE, pieces).unwrap();
        world.library.transfer(CONTEXT, Way::ToHost, &transfer(16, 8)).unwrap();
        assert_eq!(world.read(PICTURE, whole(16, 8)), image, "flags {flags}");
        let lower = world.read(PICTURE, Rect { x: 2, y: 6, width: 3, height: 2 });
        assert_eq!(lower[..12], image[6 * 64 + 8..6 * 64 + 20], "flags {flags}");
        assert_eq!(lower[12..], image[7 * 64 + 8..7 * 64 + 20], "flags {flags}");
        slice.write_slice(&[0; 2 * LEN], 0).unwrap();
        world.library.transfer(CONTEXT, Way::FromHost, &transfer(16, 8)).unwrap();
        let mut back = vec![0; LEN];
        slice.read_slice(&mut back[..LEN / 2], LEN).unwrap();
        slice.read_slice(&mut back[LEN / 2..], 0).unwrap();
        assert_eq!(back, image, "flags {flags}");
        // What lies elsewhere is written without any pages, a part of it too.
        let elsewhere: Vec<u8> = image.iter().rev().copied().collect();
        slice.write_slice(&elsewhere, 2 * LEN).unwrap();
        let from = |at: usize, len: usize| slice.subslice(2 * LEN + at, len).unwrap();
        world.library.write(PICTURE, Rect { x: 2, y: 6, width: 3, height: 2 }, from(6 * 64 + 8, 64 + 12), 64).unwrap();
        let mut mixed = image.clone();
        for row in [6 * 64 + 8, 7 * 64 + 8] {
            mixed[row..row + 12].copy_from_slice(&elsewhere[row..row + 12]);
        }
        assert_eq!(world.read(PICTURE, whole(16, 8)), mixed, "flags {flags}");
        world.library.write(PICTURE, whole(16, 8), from(0, LEN), 64).unwrap();
        assert_eq!(world.read(PICTURE, whole(16, 8)), elsewhere, "flags {flags}");
        let short = world.library.write(PICTURE, whole(16, 8), from(0, LEN - 1), 64);
        assert_eq!(short, Err(ReplyError::InvalidParameter));
        // The last pixel of the backing goes to the last one of the picture.
        let corner = Box3d { x: 15, y: 7, width: 1, height: 1, depth: 1, ..Box3d::default() };
        slice.write_slice(&[9, 8, 7, 6], LEN / 2 - 4).unwrap();
        let last = Transfer3d { area: corner, offset: LEN as u64 - 4, ..transfer(16, 8) };
        world.library.transfer(CONTEXT, Way::ToHost, &last).unwrap();
        assert_eq!(world.read(PICTURE, Rect { x: 15, y: 7, width: 1, height: 1 }), [9, 8, 7, 6]);
        // Pages belong to the library until they are taken back.
        assert!(Arc::strong_count(&mapping) > 1);
        world.library.detach(PICTURE);
        assert_eq!(Arc::strong_count(&mapping), 1);
        assert_eq!(world.library.transfer(CONTEXT, Way::ToHost, &transfer(16, 8)), Err(ReplyError::Unspec));
        world.library.attach(PICTURE, pages(&mapping, &[(0, LEN)])).unwrap();
        world.library.destroy(PICTURE);
        assert_eq!(Arc::strong_count(&mapping), 1);
    }
}

#[test]
fn fences_are_told_in_order() {
    alone("gl::fences");
}

#[test]
#[ignore = "started by fences_are_told_in_order"]
fn fences() {
    let Some(mut world) = World::gl() else { return };
    for context in [1, 2] {
        world.library.open(ContextId(context), CapsetId::VIRGL, b"").unwrap();
    }
    for turn in 0..50 {
        for context in [1, 2] {
            world.library.submit(ContextId(context), &mut stream::nothing()).unwrap();
            world.library.fence(Ticket(u64::from(context) << 40 | turn), ContextId(context), 0).unwrap();
        }
    }
    let told: Vec<_> = (0..100).map(|_| world.told().0).collect();
    for context in [1, 2] {
        let of_it = told.iter().filter(|ticket| *ticket >> 40 == context);
        assert!(of_it.map(|ticket| ticket & 0xff).eq(0..50), "{told:x?}");
    }
    assert!(world.told.try_recv().is_err());
}

#[test]
fn what_the_library_gets_wrong_is_refused_before_it_is_asked() {
    alone("gl::refused");
}

#[test]
#[ignore = "started by what_the_library_gets_wrong_is_refused_before_it_is_asked"]
fn refused() {
    let Some(World { mut library, mut told }) = World::gl() else { return };
    let library = library.as_mut();
    library.open(CONTEXT, CapsetId::VIRGL2, &[b'x'; 200]).unwrap();
    assert_eq!(library.open(CONTEXT, CapsetId::VIRGL2, b""), Err(ReplyError::InvalidContextId));
    assert_eq!(library.open(ContextId(0), CapsetId::VIRGL2, b""), Err(ReplyError::InvalidContextId));
    for capset in [CapsetId::VENUS, CapsetId::DRM, CapsetId(9)] {
        assert_eq!(library.open(ContextId(7), capset, b""), Err(ReplyError::InvalidParameter));
    }
    library.create(PICTURE, &picture(16, 8)).unwrap();
    assert_eq!(library.create(PICTURE, &picture(16, 8)), Err(ReplyError::InvalidResourceId));
    assert_eq!(library.create(ResourceId(0), &picture(16, 8)), Err(ReplyError::InvalidResourceId));
    // A number that the rules know, but no driver.
    let strange = Resource3d { format: 511, ..picture(16, 8) };
    assert_eq!(library.create(ResourceId(6), &strange), Err(ReplyError::InvalidParameter));
    for ring in [1, 64, 255] {
        assert_eq!(library.fence(Ticket(1), CONTEXT, ring), Err(ReplyError::InvalidParameter));
    }
    assert_eq!(library.fence(Ticket(1), ContextId(77), 0), Err(ReplyError::InvalidContextId));
    let mapping = Arc::new(MmapRegion::new(4096).unwrap());
    library.attach(PICTURE, pages(&mapping, &[(0, 512)])).unwrap();
    assert_eq!(library.attach(PICTURE, pages(&mapping, &[(0, 512)])), Err(ReplyError::Unspec));
    assert_eq!(library.attach(ResourceId(99), vec![]), Err(ReplyError::InvalidResourceId));
    // Not a member, no such resource, outside.
    assert_eq!(library.transfer(CONTEXT, Way::ToHost, &transfer(16, 8)), Err(ReplyError::Unspec));
    library.join(CONTEXT, PICTURE);
    library.join(CONTEXT, ResourceId(99));
    library.transfer(CONTEXT, Way::ToHost, &transfer(16, 8)).unwrap();
    assert_eq!(library.transfer(CONTEXT, Way::ToHost, &transfer(17, 8)), Err(ReplyError::InvalidParameter));
    let far = Transfer3d { offset: 4, ..transfer(16, 8) };
    assert_eq!(library.transfer(CONTEXT, Way::ToHost, &far), Err(ReplyError::InvalidParameter));
    let missing = Transfer3d { resource: ResourceId(99), ..transfer(16, 8) };
    assert_eq!(library.transfer(CONTEXT, Way::ToHost, &missing), Err(ReplyError::InvalidResourceId));
    // None of it was an error of the context's: it goes on after another one was in the library's hand.
    library.open(ContextId(2), CapsetId::VIRGL2, b"").unwrap();
    library.submit(ContextId(2), &mut stream::nothing()).unwrap();
    library.submit(CONTEXT, &mut stream::nothing()).unwrap();
    assert_eq!(library.submit(CONTEXT, &mut [0; 6]), Err(ReplyError::InvalidParameter));
    // A command that there is not ends the context, and only that.
    assert_eq!(library.submit(CONTEXT, &mut [0xff, 0, 1, 0, 1, 2, 3, 4]), Err(ReplyError::Unspec));
    assert_eq!(library.submit(CONTEXT, &mut stream::nothing()), Err(ReplyError::Unspec));
    library.submit(ContextId(2), &mut stream::nothing()).unwrap();
    library.fence(Ticket(2), ContextId(2), 0).unwrap();
    assert_eq!(World::wait(library, &mut told), Ticket(2));
    library.close(CONTEXT);
    library.open(CONTEXT, CapsetId::VIRGL2, b"").unwrap();
    library.submit(CONTEXT, &mut stream::nothing()).unwrap();
}
