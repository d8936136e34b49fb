//! A library that writes down what it is asked.

use std::thread;

use vm_memory::{Bytes, MmapRegion, VolatileSlice};

use super::*;

type Log = Arc<Mutex<Vec<String>>>;

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
    fn create_blob(&mut self, _: ContextId, _: &HostBlob) -> Result<Option<Exported>, ReplyError> {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        Ok(Some(Exported { file, caching: 1 }))
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
        let Some(Pixels::Shared(shared)) = three_d.pixels(PICTURE) else { panic!("No pixels") };
        let mut bytes = vec![1; 64];
        shared.slice.read_slice(&mut bytes, 0).unwrap();
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
        let mapping = Arc::new(MmapRegion::new(0x4000).unwrap());
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
