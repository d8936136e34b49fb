//! The library behind the wall that a device has it behind.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Instant;

use device::{HostBlob, Memory, Pixels, Progress, Region, Rendered, Stats, ThreeD};
use protocol::MemEntry;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::time::Timespec;
use vm_memory::FileOffset;

use super::*;
use crate::isolated::{Children, Ended, Isolated, Options, child};

const CONTEXT: ContextId = ContextId(1);
const PICTURE: ResourceId = ResourceId(5);

/// Starts no processes but threads: whoever ends one ends all.
struct Threads {
    bell: OwnedFd,
    server: Option<OwnedFd>,
}

impl Children for Threads {
    fn start(&mut self, kind: Kind, socket: OwnedFd) -> io::Result<u32> {
        let server = self.server.take();
        thread::spawn(move || {
            child::run(socket, move |sink| {
                let loaded = Virgl::load(None).map_err(|error| error.to_string())?;
                loaded.start(Config { kind, node: None, server, sink }).map_err(|error| error.to_string())
            })
        });
        Ok(1)
    }

    fn kill(&mut self, _: u32) {}

    fn ended(&mut self) -> Vec<Ended> {
        Vec::new()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

struct Desk {
    isolated: Isolated,
    tickets: u64,
}

impl Desk {
    fn new(server: Option<OwnedFd>) -> Self {
        let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (capsets, stats) = (Vec::new(), Arc::new(Stats::default()));
        let options = Options { capsets, patience: PATIENCE, restarts: 6, name: "test".into(), stats };
        Self { isolated: Isolated::new(options, Box::new(Threads { bell, server })).unwrap(), tickets: 0 }
    }

    /// Asks, and waits for the answer.
    fn ask(&mut self, ask: impl FnOnce(&mut Isolated, Ticket) -> Progress) -> Result<(), ReplyError> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        if let Progress::Done(result) = ask(&mut self.isolated, ticket) {
            return result;
        }
        self.isolated.submit_all();
        loop {
            let mut done = Vec::new();
            self.isolated.poll(Instant::now(), &mut done);
            if let Some(Rendered { result, .. }) = done.iter().find(|rendered| rendered.ticket == ticket) {
                return *result;
            }
            self.isolated.submit_all();
            let fd = self.isolated.poll_fd().unwrap();
            let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1), "No answer");
        }
    }
}

fn memory(len: u64) -> (Memory, Arc<MmapRegion>) {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, len).unwrap();
    let mapping = Arc::new(MmapRegion::from_file(FileOffset::new(file, 0), len as usize).unwrap());
    let region = Region { start: 0x1000, len, mapping: mapping.clone(), offset: 0, usable: true };
    (Memory::new(vec![region]).unwrap(), mapping)
}

#[test]
fn pictures_cross_the_wall() {
    alone("isolated::gl");
}

#[test]
#[ignore = "started by pictures_cross_the_wall"]
fn gl() {
    if load().is_none() {
        return;
    }
    let mut desk = Desk::new(None);
    let (memory, mapping) = memory(0x4000);
    desk.isolated.memory(&memory);
    if desk.ask(|it, ticket| it.open(ticket, CONTEXT, CapsetId::VIRGL2, b"a test")).is_err() {
        return skip("OpenGL cannot be started");
    }
    desk.ask(|it, ticket| it.create(ticket, PICTURE, &picture(32, 16))).unwrap();
    let entries = [MemEntry { addr: 0x2000, length: 1024 }, MemEntry { addr: 0x1000, length: 1024 }];
    desk.ask(|it, ticket| it.attach(ticket, PICTURE, &entries)).unwrap();
    desk.isolated.join(CONTEXT, PICTURE);
    desk.ask(|it, ticket| it.submit(ticket, CONTEXT, &stream::clear(PICTURE, 9, [0.0, 1.0, 0.0, 1.0]))).unwrap();
    desk.ask(|it, ticket| it.fence(ticket, CONTEXT, 0)).unwrap();
    desk.ask(|it, ticket| it.read(ticket, PICTURE, Rect { x: 30, y: 0, width: 2, height: 16 })).unwrap();
    let Some(Pixels::Shared(shared)) = desk.isolated.pixels(PICTURE) else { panic!("Nothing was read") };
    let mut pixels = vec![0; 32 * 16 * 4];
    shared.slice.read_slice(&mut pixels, 0).unwrap();
    for (at, pixel) in pixels.chunks(4).enumerate() {
        assert_eq!(pixel, if at % 32 < 30 { [0; 4] } else { [0, 255, 0, 255] }, "Pixel {at}");
    }
    let area = Box3d { width: 32, height: 16, depth: 1, ..Box3d::default() };
    let copy = Transfer3d { area, offset: 0, resource: PICTURE, level: 0, stride: 0, layer_stride: 0 };
    desk.ask(|it, ticket| it.transfer(ticket, CONTEXT, Way::FromHost, &copy)).unwrap();
    let guest = vm_memory::VolatileMemory::as_volatile_slice(&*mapping);
    for (start, expected) in
        [(0, [0u8, 255, 0, 255]), (1020, [0, 255, 0, 255]), (1024, [0; 4]), (0x1000, [0, 255, 0, 255])]
    {
        let mut pixel = [0; 4];
        guest.read_slice(&mut pixel, start).unwrap();
        assert_eq!(pixel, expected, "At {start:#x}");
    }
    desk.ask(|it, ticket| it.detach(ticket, PICTURE)).unwrap();
    desk.isolated.destroy(PICTURE);
    desk.isolated.close(CONTEXT);
}

#[test]
fn memory_of_vulkan_contexts_crosses_the_wall() {
    alone("isolated::vk");
}

#[test]
#[ignore = "started by memory_of_vulkan_contexts_crosses_the_wall"]
fn vk() {
    let Some(loaded) = load() else { return };
    let Some((server, _child)) = serve(&loaded) else { return };
    let mut desk = Desk::new(Some(server));
    desk.isolated.memory(&memory(0x1000).0);
    desk.ask(|it, ticket| it.open(ticket, CONTEXT, CapsetId::VENUS, b"")).unwrap();
    for number in 0..150 {
        let blob = HostBlob { resource: ResourceId(number + 1), mem: 2, flags: 1, id: 0, size: 65_536 };
        desk.ask(|it, ticket| it.create_blob(ticket, CONTEXT, &blob)).unwrap();
        let mapping = desk.isolated.mapping(blob.resource).unwrap();
        assert_eq!((mapping.offset, mapping.len), (0, 65_536));
    }
    desk.ask(|it, ticket| it.fence(ticket, CONTEXT, 0)).unwrap();
    for number in 0..150 {
        desk.isolated.destroy(ResourceId(number + 1));
    }
    desk.isolated.close(CONTEXT);
}
