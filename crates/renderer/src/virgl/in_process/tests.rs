//! A library that writes down what it is asked.

use std::thread;

use device::Region;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileSlice};

use super::*;
use crate::isolated::IMAGES;

type Log = Arc<Mutex<Vec<String>>>;

fn memfd(len: u64, flags: MemfdFlags) -> OwnedFd {
    let file = memfd_create("test", flags).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

struct Fake {
    log: Log,
    sink: Arc<dyn Sink>,
}

impl Fake {
    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }
}

impl Library for Fake {
    fn open(&mut self, context: ContextId, capset: CapsetId, name: &[u8]) -> Result<(), ReplyError> {
        self.note(format!("open {} {capset} {}", context.0, String::from_utf8_lossy(name)));
        Ok(())
    }
    fn close(&mut self, context: ContextId) {
        self.note(format!("close {}", context.0));
    }
    fn join(&mut self, _: ContextId, _: ResourceId) {}
    fn leave(&mut self, _: ContextId, _: ResourceId) {}
    fn submit(&mut self, context: ContextId, commands: &mut [u8]) -> Result<(), ReplyError> {
        self.note(format!("submit {} {commands:?}", context.0));
        Ok(())
    }
    fn fence(&mut self, ticket: Ticket, _: ContextId, ring: u8) -> Result<(), ReplyError> {
        // Rings above 0 are never done.
        if ring == 0 {
            self.sink.retired(ticket);
            self.sink.retired(ticket);
        }
        Ok(())
    }
    fn create(&mut self, _: ResourceId, _: &Resource3d) -> Result<(), ReplyError> {
        Ok(())
    }
    fn create_blob(&mut self, _: ContextId, blob: &HostBlob) -> Result<Option<Exported>, ReplyError> {
        // Number 1 is one that its owner could cut off.
        let sealable = if blob.id == 1 { MemfdFlags::empty() } else { MemfdFlags::ALLOW_SEALING };
        Ok(Some(Exported { file: memfd(blob.size, sealable | MemfdFlags::CLOEXEC), caching: 1 }))
    }
    fn destroy(&mut self, resource: ResourceId) {
        self.note(format!("destroy {}", resource.0));
    }
    fn attach(&mut self, _: ResourceId, pieces: Vec<Piece>) -> Result<(), ReplyError> {
        let pieces: Vec<_> = pieces.iter().map(|piece| (piece.offset, piece.len)).collect();
        self.note(format!("attach {pieces:?}"));
        Ok(())
    }
    fn detach(&mut self, _: ResourceId) {}
    fn transfer(&mut self, _: ContextId, _: Way, _: &Transfer3d) -> Result<(), ReplyError> {
        Ok(())
    }
    fn read(&mut self, _: ResourceId, rect: Rect, target: VolatileSlice<'_>, stride: u32) -> Result<(), ReplyError> {
        for row in 0..rect.height {
            let row = vec![7; rect.width as usize * 4].iter().map(|seven| seven + row as u8).collect::<Vec<u8>>();
            target.write_slice(&row, (row[0] - 7) as usize * stride as usize).unwrap();
        }
        Ok(())
    }
    fn write(&mut self, _: ResourceId, rect: Rect, source: VolatileSlice<'_>, stride: u32) -> Result<(), ReplyError> {
        let mut first = [0; 4];
        source.read_slice(&mut first, 0).unwrap();
        self.note(format!("write {},{} {}x{} {first:?} {stride}", rect.x, rect.y, rect.width, rect.height));
        Ok(())
    }
    fn poll(&mut self) -> Option<u32> {
        None
    }
}

const ONE: ContextId = ContextId(1);
const PICTURE: ResourceId = ResourceId(5);
const T: Ticket = Ticket(1);
const DONE: Progress = Progress::Done(Ok(()));

fn start() -> (InProcess, Log) {
    let log = Log::default();
    let kept = log.clone();
    let make = move |sink| {
        log.lock().unwrap().push("made".to_owned());
        Ok(Box::new(Fake { log, sink }) as Box<dyn Library>)
    };
    (InProcess::new(Vec::new(), Box::new(make)).unwrap(), kept)
}

fn asked(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

fn told(three_d: &mut InProcess) -> Vec<u64> {
    let mut done = Vec::new();
    three_d.poll(Instant::now(), &mut done);
    assert!(done.iter().all(|rendered| rendered.result == Ok(())));
    done.iter().map(|rendered| rendered.ticket.0).collect()
}

#[test]
fn the_library_is_made_for_the_first_work_and_on_its_thread() {
    let (mut three_d, log) = start();
    three_d.close(ONE);
    three_d.destroy(PICTURE);
    three_d.reset();
    assert_eq!(asked(&log), <[String; 0]>::default());
    assert_eq!(three_d.open(T, ONE, CapsetId::VIRGL, b"x"), DONE);
    assert_eq!(three_d.submit(T, ONE, &[1, 2, 3, 4]), DONE);
    assert_eq!(asked(&log), ["made", "open 1 virgl x", "submit 1 [1, 2, 3, 4]"]);
    let elsewhere = thread::spawn(move || three_d.submit(T, ONE, &[0; 4])).join().unwrap();
    assert_eq!(elsewhere, Progress::Done(Err(ReplyError::Unspec)));
}

#[test]
fn each_fence_is_told_once_and_those_of_a_closed_context_too() {
    let (mut three_d, _log) = start();
    assert_eq!(three_d.open(T, ONE, CapsetId::VENUS, b""), DONE);
    assert_eq!(three_d.fence(Ticket(10), ONE, 0), Progress::Later);
    assert_eq!(three_d.fence(Ticket(11), ONE, 1), Progress::Later);
    assert_eq!(told(&mut three_d), [10]);
    three_d.close(ONE);
    assert_eq!(told(&mut three_d), [11]);
    assert_eq!(told(&mut three_d), <[u64; 0]>::default());
}

#[test]
fn a_part_of_a_picture_is_read_to_its_place() {
    let (mut three_d, _log) = start();
    let desc = Resource3d { width: 4, height: 4, ..Resource3d::default() };
    assert_eq!(three_d.create(T, PICTURE, &desc), DONE);
    let all = |three_d: &mut InProcess| {
        let mut bytes = vec![1; 64];
        match three_d.pixels(PICTURE).unwrap() {
            Pixels::Shared(shared) => drop(shared.slice.read_slice(&mut bytes, 0)),
            Pixels::Private(black) => bytes.copy_from_slice(black),
            Pixels::Guest(_) => panic!("Not the guest's"),
        }
        bytes.chunks(4).map(|pixel| pixel[0]).collect::<Vec<_>>()
    };
    assert_eq!(all(&mut three_d), [0; 16]);
    assert_eq!(three_d.read(T, PICTURE, Rect { x: 1, y: 2, width: 2, height: 2 }), DONE);
    assert_eq!(all(&mut three_d), [0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7, 0, 0, 8, 8, 0]);
    let outside = three_d.read(T, PICTURE, Rect { x: 3, y: 0, width: 2, height: 1 });
    assert_eq!(outside, Progress::Done(Err(ReplyError::InvalidParameter)));
    assert!(three_d.pixels(ResourceId(9)).is_none());
}

#[test]
fn pages_are_where_the_guests_memory_has_them() {
    let (mut three_d, log) = start();
    let region = |start, len, offset, usable| {
        let file = memfd(0x4000, MemfdFlags::CLOEXEC);
        let mapping = Arc::new(MmapRegion::from_file(FileOffset::new(file.into(), 0), 0x4000).unwrap());
        Region { start, len, mapping, offset, usable }
    };
    let regions = vec![region(0x1000, 0x2000, 0x1000, true), region(0x8000, 0x1000, 0, false)];
    three_d.memory(&Memory::new(regions).unwrap());
    let entry = |addr, length| MemEntry { addr, length };
    assert_eq!(three_d.attach(T, PICTURE, &[entry(0x1800, 0x100), entry(0x2fff, 1)]), DONE);
    assert_eq!(asked(&log), ["made", "attach [(6144, 256), (12287, 1)]"]);
    for outside in [entry(0x2fff, 2), entry(0x8000, 1), entry(0, 1), entry(u64::MAX, 1)] {
        assert_eq!(three_d.attach(T, PICTURE, &[outside]), Progress::Done(Err(ReplyError::InvalidParameter)));
    }
}

#[test]
fn a_blob_is_mapped_in_whole_pages_and_a_reset_ends_all() {
    let (mut three_d, log) = start();
    assert_eq!(three_d.open(T, ONE, CapsetId::VENUS, b""), DONE);
    let blob = HostBlob { resource: PICTURE, mem: 2, flags: 1, id: 0, size: 4097 };
    assert_eq!(three_d.create_blob(T, ONE, &blob), DONE);
    let mapping = three_d.mapping(PICTURE).unwrap();
    assert_eq!((mapping.offset, mapping.len, mapping.caching), (0, 8192, 1));
    asked(&log);
    three_d.reset();
    assert_eq!(asked(&log), ["close 1", "destroy 5"]);
    assert!(three_d.mapping(PICTURE).is_none());
}

#[test]
fn memory_that_could_be_cut_off_under_a_vmm_is_not_shown_and_what_is_has_a_limit() {
    let (mut three_d, log) = start();
    assert_eq!(three_d.open(T, ONE, CapsetId::VENUS, b""), DONE);
    let blob = |resource, id| HostBlob { resource: ResourceId(resource), mem: 2, flags: 1, id, size: 4096 };
    asked(&log);
    assert_eq!(three_d.create_blob(T, ONE, &blob(1, 1)), Progress::Done(Err(ReplyError::Unspec)));
    assert_eq!(asked(&log), ["destroy 1"], "the library does not keep what the guest was refused");
    for resource in 1..=MAPPINGS as u32 {
        assert_eq!(three_d.create_blob(T, ONE, &blob(resource, 0)), DONE);
    }
    let more = blob(MAPPINGS as u32 + 1, 0);
    assert_eq!(three_d.create_blob(T, ONE, &more), Progress::Done(Err(ReplyError::OutOfMemory)));
    three_d.destroy(ResourceId(7));
    assert_eq!(three_d.create_blob(T, ONE, &more), DONE);
}

#[test]
fn pixels_that_were_read_have_a_limit_and_the_oldest_make_room() {
    let (mut three_d, _log) = start();
    let desc = Resource3d { width: 2, height: 1, ..Resource3d::default() };
    let shown = |three_d: &InProcess| three_d.resources.values().filter(|there| there.image.is_some()).count();
    for resource in 1..=IMAGES as u32 + 1 {
        assert_eq!(three_d.create(T, ResourceId(resource), &desc), DONE);
        assert_eq!(three_d.read(T, ResourceId(resource), Rect::of_size(2, 1)), DONE);
    }
    assert_eq!(shown(&three_d), IMAGES);
    assert!(three_d.resources[&ResourceId(1)].image.is_none());
    // A large one makes as much room as it takes, and none before it is read.
    let large = Resource3d { width: 16384, height: 16384, ..Resource3d::default() };
    assert_eq!(three_d.create(T, ResourceId(100), &large), DONE);
    assert!(matches!(three_d.pixels(ResourceId(100)), Some(Pixels::Private(_))));
    assert_eq!(shown(&three_d), IMAGES);
    assert_eq!(three_d.read(T, ResourceId(100), Rect::of_size(2, 1)), DONE);
    assert_eq!(shown(&three_d), 1);
}

#[test]
fn after_a_reset_each_fence_was_told_and_memory_is_where_it_was() {
    let (mut three_d, _log) = start();
    let file = memfd(0x1000, MemfdFlags::CLOEXEC);
    let mapping = Arc::new(MmapRegion::from_file(FileOffset::new(file.into(), 0), 0x1000).unwrap());
    let region = Region { start: 0, len: 0x1000, mapping, offset: 0, usable: true };
    three_d.memory(&Memory::new(vec![region]).unwrap());
    assert_eq!(three_d.open(T, ONE, CapsetId::VENUS, b""), DONE);
    assert_eq!(three_d.fence(Ticket(10), ONE, 1), Progress::Later);
    three_d.reset();
    assert_eq!(told(&mut three_d), [10]);
    assert_eq!(three_d.attach(T, PICTURE, &[MemEntry { addr: 0, length: 16 }]), DONE);
}
