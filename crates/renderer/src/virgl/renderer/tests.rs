//! What reaches the library, with one that only writes down what it is asked and answers what it is told to.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use protocol::Box3d;
use vm_memory::{MmapRegion, VolatileMemory};

use super::*;

#[derive(Default)]
struct Script {
    asked: Vec<String>,
    /// What the next call that can fail answers.
    answer: i32,
    export: Option<Memory>,
    open_fences: bool,
    polled: bool,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Script>>);

impl Fake {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().asked)
    }

    fn note(&self, call: String) -> i32 {
        let mut script = self.0.borrow_mut();
        script.asked.push(call);
        std::mem::take(&mut script.answer)
    }

    fn fails(&self, code: i32) {
        self.0.borrow_mut().answer = code;
    }
}

impl Calls for Fake {
    fn open(&mut self, context: u32, capset: u32, name: &[u8]) -> i32 {
        self.note(format!("open {context} {capset} {}", name.len()))
    }
    fn settle(&mut self, context: u32) {
        self.note(format!("settle {context}"));
    }
    fn close(&mut self, context: u32) {
        self.note(format!("close {context}"));
    }
    fn join(&mut self, context: u32, resource: u32) {
        self.note(format!("join {context} {resource}"));
    }
    fn leave(&mut self, context: u32, resource: u32) {
        self.note(format!("leave {context} {resource}"));
    }
    fn submit(&mut self, context: u32, commands: &mut [u8]) -> i32 {
        self.note(format!("submit {context} {}", commands.len()))
    }
    fn fence(&mut self, context: u32, ring: u32, id: u64) -> i32 {
        self.note(format!("fence {context} {ring} {id}"))
    }
    fn create(&mut self, resource: u32, _: &Resource3d) -> i32 {
        self.note(format!("create {resource}"))
    }
    fn create_blob(&mut self, context: u32, blob: &HostBlob) -> i32 {
        self.note(format!("blob {context} {}", blob.resource.0))
    }
    fn export(&mut self, _: u32) -> Option<(Memory, OwnedFd)> {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        self.0.borrow().export.map(|memory| (memory, file))
    }
    fn map_info(&mut self, _: u32) -> Option<u32> {
        Some(1)
    }
    fn unref(&mut self, resource: u32) {
        self.note(format!("unref {resource}"));
    }
    fn attach(&mut self, resource: u32, pieces: Vec<Piece>) -> i32 {
        self.note(format!("attach {resource} {}", pieces.len()))
    }
    fn detach(&mut self, resource: u32) {
        self.note(format!("detach {resource}"));
    }
    fn transfer(&mut self, context: u32, way: Way, transfer: &Transfer3d) -> i32 {
        self.note(format!("transfer {context} {way:?} {}", transfer.resource.0))
    }
    fn read(&mut self, resource: u32, _: Rect, _: VolatileSlice<'_>, _: u32) -> i32 {
        self.note(format!("read {resource}"))
    }
    fn write(&mut self, resource: u32, _: Rect, _: VolatileSlice<'_>, _: u32) -> i32 {
        self.note(format!("write {resource}"))
    }
    fn capset(&mut self, _: u32) -> Option<(u32, Vec<u8>)> {
        None
    }
    fn needs_polling(&self) -> bool {
        self.0.borrow().polled
    }
    fn open_fences(&self) -> bool {
        self.0.borrow().open_fences
    }
    fn poll(&mut self, contexts: &mut dyn Iterator<Item = u32>) {
        let contexts: Vec<_> = contexts.collect();
        self.note(format!("poll {contexts:?}"));
    }
}

const ONE: ContextId = ContextId(1);
const TWO: ContextId = ContextId(2);
const PICTURE: ResourceId = ResourceId(5);

fn start(kind: Kind) -> (Renderer<Fake>, Fake) {
    let fake = Fake::default();
    let mut renderer = Renderer::new(kind, fake.clone());
    let capset = if kind == Kind::Gl { CapsetId::VIRGL2 } else { CapsetId::VENUS };
    renderer.open(ONE, capset, b"").unwrap();
    renderer.open(TWO, capset, b"").unwrap();
    fake.asked();
    (renderer, fake)
}

fn picture() -> Resource3d {
    Resource3d { target: 2, format: 1, width: 16, height: 8, depth: 1, array_size: 1, ..Resource3d::default() }
}

fn blob(resource: u32) -> HostBlob {
    HostBlob { resource: ResourceId(resource), mem: MEM_HOST3D, flags: USE_MAPPABLE, id: 0, size: 4096 }
}

fn whole() -> Transfer3d {
    let area = Box3d { width: 16, height: 8, depth: 1, ..Box3d::default() };
    Transfer3d { area, offset: 0, resource: PICTURE, level: 0, stride: 0, layer_stride: 0 }
}

fn pages(len: usize) -> Vec<Piece> {
    vec![Piece { mapping: Arc::new(MmapRegion::new(len).unwrap()), offset: 0, len }]
}

#[test]
fn a_context_that_failed_is_not_asked_again_until_it_is_opened_anew() {
    let (mut renderer, fake) = start(Kind::Gl);
    fake.fails(22);
    assert_eq!(renderer.submit(ONE, &mut [0; 8]), Err(ReplyError::Unspec));
    assert_eq!(fake.asked(), ["submit 1 8"]);
    assert_eq!(renderer.submit(ONE, &mut [0; 8]), Err(ReplyError::Unspec));
    assert_eq!(renderer.fence(Ticket(1), ONE, 0), Err(ReplyError::Unspec));
    assert_eq!(renderer.transfer(ONE, Way::ToHost, &whole()), Err(ReplyError::Unspec));
    assert!(matches!(renderer.create_blob(ONE, &blob(9)), Err(ReplyError::Unspec)));
    assert_eq!(fake.asked(), <[String; 0]>::default());
    renderer.submit(TWO, &mut [0; 8]).unwrap();
    renderer.close(ONE);
    renderer.open(ONE, CapsetId::VIRGL2, &[0; 100]).unwrap();
    renderer.submit(ONE, &mut [0; 8]).unwrap();
    assert_eq!(fake.asked(), ["submit 2 8", "settle 1", "close 1", "open 1 2 64", "submit 1 8"]);
}

/// virglrenderer 1.1's thread for OpenGL's fences calls the context that it waited for. Vulkan's fences may wait for a guest.
#[test]
fn a_context_of_opengl_is_closed_when_its_fences_were_told() {
    for (kind, expected) in
        [(Kind::Gl, &["fence 1 0 7", "settle 1", "close 1"][..]), (Kind::Vk, &["fence 1 0 7", "close 1"])]
    {
        let (mut renderer, fake) = start(kind);
        renderer.fence(Ticket(7), ONE, 0).unwrap();
        renderer.close(ONE);
        renderer.close(ONE);
        assert_eq!(fake.asked(), expected);
    }
}

#[test]
fn nothing_is_asked_that_is_known_to_be_wrong() {
    let (mut renderer, fake) = start(Kind::Gl);
    renderer.create(PICTURE, &picture()).unwrap();
    renderer.attach(PICTURE, pages(512)).unwrap();
    renderer.join(ONE, PICTURE);
    assert_eq!(fake.asked(), ["create 5", "attach 5 1", "join 1 5"]);
    let _ = renderer.open(ONE, CapsetId::VIRGL2, b"");
    let _ = renderer.open(ContextId(3), CapsetId::VENUS, b"");
    let _ = renderer.create(PICTURE, &picture());
    let _ = renderer.create(ResourceId(6), &Resource3d { width: 0, ..picture() });
    let _ = renderer.attach(PICTURE, pages(512));
    let _ = renderer.fence(Ticket(1), ONE, 1);
    let _ = renderer.submit(ONE, &mut [0; 7]);
    let _ = renderer.transfer(TWO, Way::ToHost, &whole());
    let _ = renderer.transfer(ONE, Way::FromHost, &Transfer3d { offset: 4, ..whole() });
    let small = MmapRegion::<()>::new(511).unwrap();
    let _ = renderer.read(PICTURE, Rect { x: 0, y: 0, width: 16, height: 8 }, small.as_volatile_slice(), 64);
    renderer.join(ONE, PICTURE);
    renderer.join(ONE, ResourceId(99));
    renderer.leave(TWO, PICTURE);
    renderer.close(ContextId(9));
    renderer.destroy(ResourceId(9));
    renderer.detach(ResourceId(9));
    assert_eq!(fake.asked(), <[String; 0]>::default());
    // The library goes on: none of it was its failure.
    renderer.transfer(ONE, Way::ToHost, &whole()).unwrap();
    renderer.transfer(ContextId(0), Way::FromHost, &whole()).unwrap();
    renderer.detach(PICTURE);
    renderer.detach(PICTURE);
    assert_eq!(renderer.transfer(ONE, Way::ToHost, &whole()), Err(ReplyError::Unspec));
    renderer.destroy(PICTURE);
    assert_eq!(fake.asked(), ["transfer 1 ToHost 5", "transfer 0 FromHost 5", "detach 5", "unref 5"]);
}

#[test]
fn a_blob_is_used_by_others_than_its_maker_only_as_a_dma_buf() {
    let (mut renderer, fake) = start(Kind::Vk);
    fake.0.borrow_mut().export = Some(Memory::Shared);
    renderer.create_blob(ONE, &blob(10)).unwrap().unwrap();
    renderer.join(TWO, ResourceId(10));
    renderer.join(ONE, ResourceId(10));
    fake.0.borrow_mut().export = Some(Memory::DmaBuf);
    renderer.create_blob(ONE, &blob(11)).unwrap().unwrap();
    renderer.join(TWO, ResourceId(11));
    renderer.destroy(ResourceId(11));
    renderer.leave(TWO, ResourceId(11));
    assert_eq!(fake.asked(), ["blob 1 10", "join 1 10", "blob 1 11", "join 2 11", "unref 11"]);
}

#[test]
fn a_blob_that_cannot_be_handed_out_is_none() {
    let (mut renderer, fake) = start(Kind::Vk);
    assert!(matches!(renderer.create_blob(ONE, &blob(10)), Err(ReplyError::Unspec)));
    assert_eq!(fake.asked(), ["blob 1 10", "unref 10"]);
    // It need not be, when nobody is to map it.
    assert!(renderer.create_blob(ONE, &HostBlob { flags: 0, ..blob(10) }).unwrap().is_none());
    // The process behind the context is gone.
    fake.fails(-1);
    assert!(matches!(renderer.create_blob(ONE, &blob(11)), Err(ReplyError::Unspec)));
    fake.asked();
    assert_eq!(renderer.submit(ONE, &mut [0; 8]), Err(ReplyError::Unspec));
    assert_eq!(fake.asked(), <[String; 0]>::default());
    // Any other refusal is this blob's.
    fake.fails(-22);
    assert!(matches!(renderer.create_blob(TWO, &blob(12)), Err(ReplyError::InvalidParameter)));
    renderer.submit(TWO, &mut [0; 8]).unwrap();
}

#[test]
fn fences_are_looked_at_only_where_nobody_would_tell_of_them() {
    let (mut told, fake) = start(Kind::Gl);
    fake.0.borrow_mut().open_fences = true;
    assert_eq!(told.poll(), None);
    let fake = Fake::default();
    fake.0.borrow_mut().polled = true;
    let mut looked = Renderer::new(Kind::Gl, fake.clone());
    looked.open(ONE, CapsetId::VIRGL, b"").unwrap();
    assert_eq!(looked.poll(), None);
    fake.0.borrow_mut().open_fences = true;
    assert_eq!(looked.poll(), Some(POLL));
    fake.0.borrow_mut().open_fences = false;
    assert_eq!(looked.poll(), None);
    assert_eq!(fake.asked(), ["open 1 1 0", "poll [1]"]);
}
