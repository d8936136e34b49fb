//! What goes right.

use rustix::fs::{SealFlags, fcntl_get_seals};
use vm_memory::Bytes;
use vm_memory::VolatileMemory;

use super::script::{Script, play};
use super::*;

fn desk() -> (Desk, Arc<Script>) {
    let script = Arc::new(Script::default());
    (Desk::new(play(&script)), script)
}

#[test]
fn nothing_starts_before_there_is_work_and_then_calls_come_in_order() {
    let (mut desk, script) = desk();
    desk.isolated.memory(&memory(&[region(0, 0x1000)]));
    desk.turn();
    assert_eq!(desk.stats.renderer_starts.get(), 0);
    desk.open(1, CapsetId::VIRGL2);
    desk.create(5, 16, 16);
    desk.isolated.join(ContextId(1), ResourceId(5));
    desk.submit(1, b"draw");
    let transfer = Transfer3d {
        area: Default::default(),
        offset: 0,
        resource: ResourceId(5),
        level: 0,
        stride: 0,
        layer_stride: 0,
    };
    desk.ask(|isolated, ticket| isolated.transfer(ticket, ContextId(1), Way::ToHost, &transfer));
    desk.isolated.leave(ContextId(1), ResourceId(5));
    desk.fence(1, 0);
    desk.isolated.close(ContextId(1));
    let detach = desk.ask(|isolated, ticket| isolated.detach(ticket, ResourceId(5)));
    desk.isolated.destroy(ResourceId(5));
    let last = desk.create(6, 1, 1);
    desk.settle();
    assert!(desk.is_ok(detach) && desk.is_ok(last));
    assert!(desk.answers.values().all(|result| *result == Ok(())));
    let calls = [
        "Gl start",
        "Gl open 1 virgl2 a \\\"name\\\"\\n",
        "Gl create 5 16x16",
        "Gl join 1 5",
        "Gl submit 1 4",
        "Gl transfer 1 5 ToHost",
        "Gl leave 1 5",
        "Gl fence 1 0",
        "Gl close 1",
        "Gl detach 5",
        "Gl destroy 5",
        "Gl create 6 1x1",
    ];
    assert_eq!(script.calls(), calls);
    assert_eq!((desk.stats.renderer_starts.get(), desk.stats.renderer_lies.get()), (1, 0));
}

#[test]
fn each_kind_has_a_process_of_its_own() {
    let (mut desk, script) = desk();
    desk.open(1, CapsetId::VIRGL);
    desk.open(2, CapsetId::VENUS);
    desk.create(5, 4, 4);
    desk.create_blob(2, 6, 0, 4096);
    // What lives in different processes cannot meet.
    desk.isolated.join(ContextId(2), ResourceId(5));
    desk.isolated.join(ContextId(1), ResourceId(6));
    desk.isolated.join(ContextId(1), ResourceId(5));
    desk.settle();
    desk.submit(1, b"");
    desk.submit(2, b"");
    desk.settle();
    assert_eq!(desk.stats.renderer_starts.get(), 2);
    let of = |kind: &str| script.calls().into_iter().filter(|call| call.starts_with(kind)).collect::<Vec<_>>();
    let name = "a \\\"name\\\"\\n";
    let gl = ["Gl start", &format!("Gl open 1 virgl {name}"), "Gl create 5 4x4", "Gl join 1 5", "Gl submit 1 0"];
    assert_eq!(of("Gl"), gl);
    let vk = ["Vk start", &format!("Vk open 2 venus {name}"), "Vk blob 6 of 2, 4096 bytes", "Vk submit 2 0"];
    assert_eq!(of("Vk"), vk);
}

#[test]
fn what_fails_takes_what_depends_on_it_along_and_nothing_else() {
    let (mut desk, _) = desk();
    let opened = desk.open(666, CapsetId::VIRGL2);
    let submitted = desk.submit(666, b"");
    let fenced = desk.fence(666, 0);
    let created = desk.create(666, 4, 4);
    let read = desk.ask(|isolated, ticket| isolated.read(ticket, ResourceId(666), Rect::of_size(4, 4)));
    desk.settle();
    assert_eq!(desk.answers[&opened], Err(ReplyError::OutOfMemory));
    assert_eq!(desk.answers[&created], Err(ReplyError::OutOfMemory));
    for ticket in [submitted, fenced, read] {
        assert_eq!(desk.answers[&ticket], Err(ReplyError::Unspec));
    }
    // The names are free again.
    desk.open(1, CapsetId::VIRGL2);
    let bad = desk.submit(1, b"bad!");
    let good = desk.submit(1, b"good");
    let fence = desk.fence(1, 63);
    desk.settle();
    assert_eq!(desk.answers[&bad], Err(ReplyError::InvalidParameter));
    assert!(desk.is_ok(good));
    assert_eq!(desk.answers[&fence], Err(ReplyError::InvalidParameter));
    assert_eq!(desk.stats.renderer_lies.get(), 0);
}

#[test]
fn commands_of_any_length_arrive_whole_and_more_than_there_is_room_for_wait() {
    let (mut desk, script) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    script.state().closed = true;
    let lengths = [0, 4, 8, wire::PART_BYTES - 4, wire::PART_BYTES, wire::PART_BYTES + 4, 3 * wire::PART_BYTES + 8];
    let streams = lengths.map(|len| (0..len).map(|at| (at * 7 + len) as u8).collect::<Vec<_>>());
    let mut asked: Vec<_> = streams.iter().cycle().take(21).map(|stream| desk.submit(1, stream)).collect();
    asked.extend((0..3 * wire::REQUESTS).map(|at| desk.submit(1, &at.to_le_bytes())));
    desk.turn();
    assert!(desk.answers.len() <= 1);
    script.let_go();
    desk.settle();
    assert_eq!(desk.order[1..], asked);
    let submitted = &script.state().submitted;
    assert!(submitted.iter().zip(streams.iter().cycle()).take(21).all(|(got, sent)| got == sent));
    assert!(submitted[21..].iter().zip(0u32..).all(|(got, at)| *got == at.to_le_bytes()));
    assert_eq!(submitted.len(), asked.len());
}

#[test]
fn what_is_not_answered_wakes_us_when_there_is_room_again() {
    let (mut desk, script) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.create(5, 1, 1);
    desk.settle();
    script.state().closed = true;
    desk.submit(1, b"");
    for _ in 0..4 * wire::REQUESTS {
        desk.isolated.join(ContextId(1), ResourceId(5));
    }
    script.let_go();
    desk.submit(1, b"");
    desk.settle();
    let joins = script.calls().iter().filter(|call| call.starts_with("Gl join")).count();
    assert_eq!(joins, 4 * wire::REQUESTS as usize);
}

#[test]
fn fences_come_in_any_order_and_those_of_a_closed_context_at_once() {
    let (mut desk, script) = desk();
    script.state().holds_fences = true;
    desk.open(1, CapsetId::VENUS);
    desk.open(2, CapsetId::VENUS);
    let fences = [(1, 0), (1, 1), (2, 0), (2, 5)].map(|(context, ring)| desk.fence(context, ring));
    desk.until("fences", |_| script.state().fences.len() == 4);
    desk.turn();
    assert_eq!(desk.open, fences);
    let sink = script.state().sink.clone().unwrap();
    sink.retired(fences[3]);
    desk.until("the last one", |desk| desk.is_ok(fences[3]));
    // Nobody is told twice, nor of what nobody asked for.
    sink.retired(fences[3]);
    sink.retired(Ticket(1 << 60));
    desk.isolated.close(ContextId(1));
    desk.until("those of the context", |desk| desk.is_ok(fences[0]) && desk.is_ok(fences[1]));
    sink.retired(fences[0]);
    assert_eq!(desk.open, [fences[2]]);
    sink.retired(fences[2]);
    desk.settle();
    assert_eq!(desk.stats.renderer_lies.get(), 0);
}

#[test]
fn a_library_uses_the_guests_pages_where_they_are() {
    let (mut desk, script) = desk();
    let table = memory(&[region(0x10000, 0x4000), region(0x20000, 0x1000)]);
    desk.isolated.memory(&table);
    desk.create(5, 4, 4);
    let entry = |addr, length| MemEntry { addr, length };
    let entries = [entry(0x11000, 8), entry(0x20010, 16), entry(0x11008, 4)];
    let attached = desk.result(|isolated, ticket| isolated.attach(ticket, ResourceId(5), &entries));
    assert_eq!(attached, Ok(()));
    table.slice(0x20010, 4).unwrap().write_slice(b"from", 0).unwrap();
    let pieces = script.state().attached.clone();
    assert_eq!(pieces.iter().map(|piece| piece.len).collect::<Vec<_>>(), [8, 16, 4]);
    let slice = |at: usize| pieces[at].mapping.get_slice(pieces[at].offset, pieces[at].len).unwrap();
    let mut bytes = [0; 4];
    slice(1).copy_to(&mut bytes);
    assert_eq!(&bytes, b"from");
    slice(2).copy_from(b"host");
    table.slice(0x11008, 4).unwrap().copy_to(&mut bytes);
    assert_eq!(&bytes, b"host");
    // Memory that goes stays with who uses it, and is not found again.
    desk.isolated.memory(&memory(&[table.regions()[0].clone()]));
    assert_eq!(
        desk.result(|isolated, ticket| isolated.attach(ticket, ResourceId(5), &entries)),
        Err(ReplyError::Unspec)
    );
    assert_eq!(desk.result(|isolated, ticket| isolated.attach(ticket, ResourceId(5), &entries[..1])), Ok(()));
    slice(1).copy_from(b"here");
    assert_eq!(desk.result(|isolated, ticket| isolated.detach(ticket, ResourceId(5))), Ok(()));
    assert!(script.state().attached.is_empty());
}

#[test]
fn a_backing_in_a_hundred_thousand_pieces_arrives_whole() {
    let (mut desk, script) = desk();
    desk.isolated.memory(&memory(&[region(0, 0x400000)]));
    desk.create(5, 4, 4);
    let entries: Vec<_> = (0..100_000).map(|at| MemEntry { addr: at * 8, length: 4 }).collect();
    assert_eq!(desk.result(|isolated, ticket| isolated.attach(ticket, ResourceId(5), &entries)), Ok(()));
    let state = script.state();
    assert_eq!(state.attached.len(), entries.len());
    assert!(
        state.attached.iter().zip(&entries).all(|(piece, entry)| piece.offset as u64 == entry.addr && piece.len == 4)
    );
}

/// The pixels as bytes, and whether another process can map them.
fn pixels(desk: &mut Desk, resource: u32) -> (Vec<u8>, bool) {
    match desk.isolated.pixels(ResourceId(resource)).unwrap() {
        Pixels::Private(bytes) => (bytes.to_vec(), false),
        Pixels::Shared(shared) => {
            let seals = fcntl_get_seals(shared.file).unwrap();
            assert!(seals.contains(SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
            let mut bytes = vec![0; shared.slice.len()];
            shared.slice.copy_to(&mut bytes);
            (bytes, true)
        }
        Pixels::Guest(_) => panic!("these are not the guest's"),
    }
}

#[test]
fn pixels_are_black_until_they_were_read_and_then_only_what_was_read_is_not() {
    let (mut desk, _) = desk();
    desk.create(5, 8, 4);
    assert_eq!(pixels(&mut desk, 5), (vec![0; 8 * 4 * 4], false));
    let rect = Rect::new(2, 1, 3, 2);
    assert_eq!(desk.result(|isolated, ticket| isolated.read(ticket, ResourceId(5), rect)), Ok(()));
    let (bytes, shared) = pixels(&mut desk, 5);
    assert!(shared);
    for (at, pixel) in bytes.chunks(4).enumerate() {
        let (x, y) = (at as u32 % 8, at as u32 / 8);
        let inside = (2..5).contains(&x) && (1..3).contains(&y);
        assert_eq!(pixel, if inside { [5, x as u8, y as u8, 0xff] } else { [0; 4] }, "{x}, {y}");
    }
    // Again, into the same memory.
    assert_eq!(desk.result(|isolated, ticket| isolated.read(ticket, ResourceId(5), Rect::of_size(8, 4))), Ok(()));
    assert_eq!(pixels(&mut desk, 5).0[..8], [5, 0, 0, 0xff, 5, 1, 0, 0xff]);
    // Nothing is written outside.
    for rect in [Rect::new(0, 0, 9, 4), Rect::new(0, 1, 8, 4), Rect::new(u32::MAX, u32::MAX, 8, 4), Rect::of_size(8, 0)]
    {
        let read = desk.result(|isolated, ticket| isolated.read(ticket, ResourceId(5), rect));
        assert_eq!(read, Err(ReplyError::Unspec), "{rect:?}");
    }
}

#[test]
fn a_part_of_an_image_is_written_from_where_it_lies_in_ours() {
    let (mut desk, script) = desk();
    let bytes: Vec<u8> = (0..16 * 4 * 4).map(|at| at as u8).collect();
    let write = |rect: Rect, len: usize| {
        let bytes = bytes.clone();
        move |isolated: &mut Isolated, ticket| {
            isolated.write(ticket, ResourceId(5), rect, &Pixels::Private(&bytes[..len]))
        }
    };
    assert_eq!(desk.result(write(Rect::of_size(1, 1), 256)), Err(ReplyError::Unspec), "there is no such resource");
    desk.create(5, 16, 4);
    assert_eq!(desk.result(write(Rect::new(2, 1, 3, 2), 256)), Ok(()));
    assert_eq!(desk.result(write(Rect::new(2, 1, 3, 4), 256)), Err(ReplyError::InvalidParameter));
    assert_eq!(desk.result(write(Rect::of_size(16, 4), 255)), Err(ReplyError::InvalidParameter));
    // Nothing was read: it shows black, not what was written.
    assert_eq!(pixels(&mut desk, 5).0, vec![0; 256]);
    assert!(desk.isolated.has(ResourceId(5)) && !desk.isolated.has(ResourceId(6)));
    desk.isolated.forget_pixels(ResourceId(5));
    assert_eq!(desk.result(write(Rect::of_size(16, 4), 256)), Ok(()));
    let writes: Vec<_> = script.calls().into_iter().filter(|call| call.starts_with("Gl write")).collect();
    let at = (16 + 2) * 4;
    let first = [at, at + 1, at + 2, at + 3];
    assert_eq!(
        writes,
        [format!("Gl write 5 3x2 at 2,1 {first:?} 64"), "Gl write 5 16x4 at 0,0 [0, 1, 2, 3] 64".into()]
    );
    desk.isolated.destroy(ResourceId(5));
    assert!(!desk.isolated.has(ResourceId(5)));
}

#[test]
fn images_have_a_limit_and_the_oldest_makes_room() {
    let (mut desk, _) = desk();
    for resource in 1..=IMAGES as u32 + 1 {
        desk.create(resource, 2, 1);
        let read = desk.result(|isolated, ticket| isolated.read(ticket, ResourceId(resource), Rect::of_size(2, 1)));
        assert_eq!(read, Ok(()));
    }
    assert!(!pixels(&mut desk, 1).1);
    assert!(pixels(&mut desk, 2).1);
    assert_eq!(desk.result(|isolated, ticket| isolated.read(ticket, ResourceId(1), Rect::of_size(2, 1))), Ok(()));
    assert_eq!(pixels(&mut desk, 1), (vec![1, 0, 0, 0xff, 1, 1, 0, 0xff], true));
    assert!(!pixels(&mut desk, 2).1);
    desk.create(1000, 16384, 16385);
    let read = desk.result(|isolated, ticket| isolated.read(ticket, ResourceId(1000), Rect::of_size(1, 1)));
    assert_eq!(read, Err(ReplyError::OutOfMemory));
}

#[test]
fn an_image_stays_while_it_is_read() {
    let (mut desk, _) = desk();
    let most = IMAGES as u32;
    let read = |desk: &mut Desk, resource| {
        desk.ask(|isolated, ticket| isolated.read(ticket, ResourceId(resource), Rect::of_size(2, 1)))
    };
    for resource in 1..=most + 1 {
        desk.create(resource, 2, 1);
    }
    let reads: Vec<_> = (1..=most).map(|resource| read(&mut desk, resource)).collect();
    let another = read(&mut desk, most + 1);
    desk.settle();
    assert!(reads.iter().all(|ticket| desk.is_ok(*ticket)) && !desk.is_ok(another));
    assert!((1..=most).all(|resource| pixels(&mut desk, resource).1));
    // Now that they are answered the oldest goes.
    let another = read(&mut desk, most + 1);
    desk.settle();
    assert!(desk.is_ok(another) && !pixels(&mut desk, 1).1 && pixels(&mut desk, 2).1);
}

#[test]
fn memory_of_a_blob_comes_with_it() {
    let (mut desk, _) = desk();
    desk.open(1, CapsetId::VENUS);
    let blobs: Vec<_> = (1..=100).map(|id| desk.create_blob(1, id, u64::from(id), 4097)).collect();
    let plain = desk.create_blob(1, 200, 0, 4096);
    assert!(desk.isolated.mapping(ResourceId(1)).is_none());
    desk.settle();
    assert!(blobs.iter().all(|ticket| desk.is_ok(*ticket)) && desk.is_ok(plain));
    assert!(desk.isolated.mapping(ResourceId(200)).is_none());
    for id in 1..=100u32 {
        let mapping = desk.isolated.mapping(ResourceId(id)).unwrap();
        assert_eq!((mapping.offset, mapping.len, mapping.caching), (0, 8192, 1));
        let mut bytes = [0; 8];
        rustix::io::pread(&mapping.file, &mut bytes, 0).unwrap();
        assert_eq!(bytes, u64::from(id).to_le_bytes());
        assert!(fcntl_get_seals(&mapping.file).unwrap().contains(SealFlags::SHRINK));
    }
    desk.isolated.destroy(ResourceId(1));
    assert!(desk.isolated.mapping(ResourceId(1)).is_none());
}

#[test]
fn blobs_that_could_be_mapped_have_a_limit() {
    let (mut desk, _) = desk();
    desk.open(1, CapsetId::VENUS);
    desk.settle();
    for id in 1..=MAPPINGS as u32 + 1 {
        let blob = HostBlob { resource: ResourceId(id), mem: 2, flags: 1, id: 1, size: 4096 };
        let made = desk.result(|isolated, ticket| isolated.create_blob(ticket, ContextId(1), &blob));
        assert_eq!(made.is_ok(), id <= MAPPINGS as u32);
    }
    desk.isolated.destroy(ResourceId(7));
    let again = desk.create_blob(1, 1000, 1, 4096);
    desk.settle();
    assert!(desk.is_ok(again));
}

#[test]
fn a_fence_and_what_it_waits_for_wake_each_side_once_and_a_busy_side_not_at_all() {
    let (mut desk, script) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    for _ in 0..100 {
        let before = desk.isolated.wakes();
        desk.submit(1, b"draw");
        desk.fence(1, 0);
        desk.settle();
        let after = desk.isolated.wakes();
        assert!(after.rang <= before.rang + 1, "{before:?} {after:?}");
        // One that was about to fall asleep may have seen the one without the other.
        assert!(after.heard <= before.heard + 2, "{before:?} {after:?}");
    }
    // While it works it is not woken, however much more comes.
    script.state().closed = true;
    desk.submit(1, b"draw");
    desk.isolated.submit_all();
    let before = desk.isolated.wakes();
    desk.until("the submit", |_| script.state().submitted.len() == 101);
    for _ in 0..100 {
        desk.submit(1, b"draw");
        desk.fence(1, 0);
        desk.isolated.submit_all();
    }
    assert_eq!(desk.isolated.wakes().rang, before.rang);
    script.let_go();
    desk.settle();
}

#[test]
fn a_process_with_nothing_left_ends_and_another_starts_for_new_work() {
    let (mut desk, script) = desk();
    desk.open(1, CapsetId::VIRGL2);
    desk.create(5, 1, 1);
    desk.settle();
    desk.later = 3 * IDLE;
    desk.turn();
    desk.turn();
    assert!(desk.isolated.processes[0].is_some(), "it still has something");
    desk.isolated.close(ContextId(1));
    desk.isolated.destroy(ResourceId(5));
    desk.turn();
    desk.later += IDLE;
    desk.until("its end", |desk| desk.isolated.processes[0].is_none() && desk.isolated.departures.deadline().is_none());
    desk.open(2, CapsetId::VIRGL2);
    desk.settle();
    assert_eq!(desk.stats.renderer_starts.get(), 2);
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
    assert_eq!(script.calls().iter().filter(|call| *call == "Gl start").count(), 2);
}

#[test]
fn a_reset_answers_everything_and_leaves_nothing() {
    let (mut desk, script) = desk();
    script.state().holds_fences = true;
    desk.open(1, CapsetId::VIRGL2);
    desk.create(5, 1, 1);
    desk.fence(1, 0);
    desk.isolated.reset();
    desk.settle();
    assert_eq!(desk.answers.len(), 3);
    assert!(desk.isolated.pixels(ResourceId(5)).is_none());
    let submitted = desk.submit(1, b"");
    assert_eq!(desk.answers[&submitted], Err(ReplyError::Unspec));
    let opened = desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    assert!(desk.is_ok(opened));
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
}
