//! A library's process that says anything to its device, and a device that says anything to a library's process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use device::{Capset, Front, HostBlob, Stats, Ticket, Way};
use protocol::{CapsetId, ContextId, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use renderer::isolated::wire::{self, Event, Request, RequestWords, at};
use renderer::isolated::{Children, Ended, Isolated, Options, child};
use renderer::library::{Exported, Kind, Library, Piece, Sink};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use transport::loopback::table;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::bytes::Bytes;
use crate::strict::{Pace, Strict};
use crate::three_d;
use crate::window::Guest;

const ASK: u8 = 0;
const TELL: u8 = 8;
const WORD: u8 = 9;
const WRITE: u8 = 10;
const SAY: u8 = 11;
const OFFER: u8 = 12;
const HANG_UP: u8 = 13;
const POLL: u8 = 14;
const TIME: u8 = 15;

/// What the process does next.
#[derive(Debug, Default)]
struct Stranger {
    socket: Option<OwnedFd>,
    memory: Option<MmapRegion>,
    ended: Vec<Ended>,
    started: u32,
    /// Events that it told.
    told: u32,
}

impl Stranger {
    /// Takes what was said to it; keeps the memory that came first.
    fn listen(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut bytes = [0; wire::MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        while let Ok(received) =
            recvmsg(socket, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::DONTWAIT)
        {
            if received.bytes == 0 {
                return;
            }
            let fds = control.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            });
            let first = fds.collect::<Vec<OwnedFd>>().into_iter().next();
            if let (None, Some(fd)) = (&self.memory, first) {
                self.memory = MmapRegion::from_file(FileOffset::new(File::from(fd), 0), at::END).ok();
            }
        }
    }

    fn part(&self, at: usize, len: usize) -> Option<VolatileSlice<'_>> {
        self.memory.as_ref()?.get_slice(at, len).ok()
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        if let Some(part) = self.part(at, bytes.len()) {
            part.copy_from(bytes);
        }
    }

    /// An event in its place, as an honest process tells it.
    fn tell(&mut self, words: [u64; 2]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(at::EVENTS + (self.told % wire::EVENTS) as usize * wire::EVENT_BYTES, &bytes);
        self.told = self.told.wrapping_add(1);
        self.put(at::EVENTS_TAIL, &self.told.to_ne_bytes());
    }

    fn say(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let _ = sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn hang_up(&mut self) {
        if self.socket.take().is_some() {
            self.ended.push(Ended { id: self.started, how: "fuzzed".into() });
        }
        self.memory = None;
    }
}

/// Starts strangers.
struct Strangers(Arc<Mutex<Stranger>>, OwnedFd);

impl Children for Strangers {
    fn start(&mut self, _kind: Kind, socket: OwnedFd) -> io::Result<u32> {
        let mut stranger = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        stranger.started += 1;
        (stranger.socket, stranger.memory, stranger.told) = (Some(socket), None, 0);
        stranger.listen();
        Ok(stranger.started)
    }

    fn kill(&mut self, id: u32) {
        let mut stranger = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if id == stranger.started {
            stranger.hang_up();
        }
    }

    fn ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).ended)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
}

/// Memory as a library would export it, and memory as none may.
fn offered(kind: u8) -> Option<OwnedFd> {
    let memfd = |len, seals| {
        let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
        ftruncate(&fd, len).ok()?;
        fcntl_add_seals(&fd, seals).ok()?;
        Some(fd)
    };
    match kind % 8 {
        0..=2 => memfd(1 << 20, SealFlags::SHRINK | SealFlags::GROW),
        3 => memfd(1 << 20, SealFlags::empty()),
        4 => memfd(100, SealFlags::SHRINK),
        5 => memfd(1 << 20, SealFlags::SEAL),
        6 => File::open("/").ok().map(OwnedFd::from),
        _ => eventfd(0, EventfdFlags::CLOEXEC).ok(),
    }
}

/// A guest works; its library's process tells, writes, offers and hangs up as the bytes say. Each request of the guest is answered
/// once, what is mapped for it can be, and nothing is left.
pub fn intrude(data: &[u8]) -> Option<()> {
    let stranger = Arc::new(Mutex::new(Stranger::default()));
    let strangers = Strangers(stranger.clone(), eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?);
    let capset = |id, rings, maps| Capset { id, version: 1, bytes: vec![1; 16].into(), rings, maps };
    let options = Options {
        capsets: vec![capset(CapsetId::VIRGL, 1, false), capset(CapsetId::VENUS, 64, true)],
        patience: Duration::from_secs(10),
        restarts: u32::MAX,
        name: "fuzz".into(),
        stats: Arc::new(Stats::default()),
    };
    let isolated = Box::new(Isolated::new(options, Box::new(strangers)).ok()?);
    let front = Front { maps: true, context_init: true };
    let mut guest = Guest::around(Strict::new(Pace::Prompt), isolated, front, table(&[(0, 1 << 20)]));
    let mut bytes = Bytes(data);
    while !bytes.is_spent() {
        step(&mut guest, &stranger, &mut bytes);
    }
    // It is over for this process; whoever is started for what waited behind others says nothing either, and is ended for it.
    for _ in 0..=guest.open() {
        lock(&stranger).hang_up();
        guest.settle();
        guest.pass(Duration::from_secs(60));
        guest.settle();
    }
    guest.wait();
    guest.finish();
    Some(())
}

fn lock(stranger: &Mutex<Stranger>) -> std::sync::MutexGuard<'_, Stranger> {
    stranger.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn step(guest: &mut Guest, stranger: &Mutex<Stranger>, bytes: &mut Bytes<'_>) {
    let kind = bytes.u8() % 16;
    match kind {
        TELL => {
            let (ticket, event) = (u64::from(bytes.u8()), bytes.u8());
            let event = match event % 6 {
                0 | 1 => Event::Done(Ok(())),
                2 => Event::Done(Err(ReplyError::OutOfMemory)),
                3 => Event::Exported,
                4 => Event::Retired,
                _ => return lock(stranger).tell([ticket, bytes.u64()]),
            };
            lock(stranger).tell(wire::encode_event(Ticket(ticket), event));
        }
        WORD => {
            let (which, value) = (bytes.u8(), bytes.u32());
            let value = if bytes.u8() & 1 == 0 { value & 0xff } else { value };
            lock(stranger).put(usize::from(which % 7) * 64, &value.to_ne_bytes());
        }
        WRITE => {
            let (at, len) = (bytes.u32() as usize % at::END, usize::from(bytes.u8()));
            lock(stranger).put(at, bytes.take(len));
        }
        SAY => {
            let len = usize::from(bytes.u8());
            lock(stranger).say(bytes.take(len), &[]);
        }
        OFFER => {
            let (ticket, kind, count) = (bytes.u8() & 0x7f, bytes.u8(), bytes.u8() % 4);
            let fds: Vec<OwnedFd> = (0..count.max(1)).filter_map(|_| offered(kind)).collect();
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).take(3).collect();
            // Found, or memory of a blob: small numbers are one byte each.
            let message: &[u8] = if kind & 0x80 == 0 { &[2, ticket, 1] } else { &[0] };
            lock(stranger).say(message, if kind & 0x80 == 0 { &fds } else { &[] });
        }
        HANG_UP => lock(stranger).hang_up(),
        POLL => drop(guest.poll()),
        TIME => guest.pass(Duration::from_millis(u64::from(bytes.u16()))),
        _ => {
            let ask = three_d::ask(bytes);
            guest.send(&ask);
        }
    }
    lock(stranger).listen();
}

/// A process that does what it should, and some that do not.
pub fn strangers() -> Vec<(String, Vec<u8>)> {
    // A Vulkan context makes a blob and maps it.
    let work = [ASK, 0, 0, 2, 0, 4, ASK, 11, 0, 2, 6, 2, ASK, 13, 0, 0, 6, 0, ASK, 8, 1, 2, 0, 1, 7, 9, POLL];
    let honest: Vec<u8> = (1..10).flat_map(|ticket| [TELL, ticket, 0, OFFER, ticket, 0, 1, TELL, ticket, 3]).collect();
    let lies: Vec<u8> = (0..20).flat_map(|ticket| [TELL, ticket, 4, TELL, ticket, 0, TELL, ticket, 0]).collect();
    let offers: Vec<u8> = (1..10).flat_map(|ticket| (0..8).flat_map(move |kind| [OFFER, ticket, kind, 2])).collect();
    let jumps: Vec<u8> = (0..7).flat_map(|which| [WORD, which, 0xff, 0xff, 0xff, 0x7f, 1, POLL]).collect();
    // A picture of a blob that is still being made, whose name is given to an image.
    let again = vec![ASK, 11, 0, 2, 9, 8, ASK, 21, 0, 4, 9, 0, ASK, 4, 0, 4, 9];
    let dies = vec![HANG_UP, POLL];
    [("honest", honest), ("lies", lies), ("offers", offers), ("jumps", jumps), ("again", again), ("dies", dies)]
        .map(|(name, then)| (name.to_owned(), [&work[..], &then, &[POLL; 3], &work].concat()))
        .into()
}

/// A library that insists on what its process promises it.
#[derive(Debug, Default)]
struct Insisting {
    contexts: BTreeSet<u32>,
    resources: BTreeSet<u32>,
    fences: Vec<Ticket>,
}

impl Library for Insisting {
    fn open(&mut self, context: ContextId, _: CapsetId, _: &[u8]) -> Result<(), ReplyError> {
        assert!(self.contexts.insert(context.0), "{context:?} is opened twice");
        Ok(())
    }

    fn close(&mut self, context: ContextId) {
        assert!(self.contexts.remove(&context.0), "{context:?} is not open");
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        assert!(self.contexts.contains(&context.0) && self.resources.contains(&resource.0));
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        assert!(self.contexts.contains(&context.0) && self.resources.contains(&resource.0));
    }

    fn submit(&mut self, context: ContextId, commands: &mut [u8]) -> Result<(), ReplyError> {
        assert!(self.contexts.contains(&context.0));
        commands.fill(0);
        Ok(())
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Result<(), ReplyError> {
        assert!(self.contexts.contains(&context.0));
        self.fences.push(ticket);
        if ring < 64 { Ok(()) } else { Err(ReplyError::InvalidParameter) }
    }

    fn create(&mut self, resource: ResourceId, _: &Resource3d) -> Result<(), ReplyError> {
        assert!(self.resources.insert(resource.0), "{resource:?} is made twice");
        Ok(())
    }

    fn create_blob(&mut self, context: ContextId, blob: &HostBlob) -> Result<Option<Exported>, ReplyError> {
        assert!(self.contexts.contains(&context.0));
        assert!(self.resources.insert(blob.resource.0), "{:?} is made twice", blob.resource);
        Ok(offered(0).map(|file| Exported { file, caching: 1 }))
    }

    fn destroy(&mut self, resource: ResourceId) {
        assert!(self.resources.remove(&resource.0), "{resource:?} does not exist");
    }

    fn attach(&mut self, resource: ResourceId, pieces: Vec<Piece>) -> Result<(), ReplyError> {
        assert!(self.resources.contains(&resource.0));
        for Piece { mapping, offset, len } in pieces {
            assert!(offset.checked_add(len).is_some_and(|end| end <= mapping.size()));
        }
        Ok(())
    }

    fn detach(&mut self, resource: ResourceId) {
        assert!(self.resources.contains(&resource.0));
    }

    fn transfer(&mut self, context: ContextId, _: Way, transfer: &Transfer3d) -> Result<(), ReplyError> {
        assert!(context.0 == 0 || self.contexts.contains(&context.0));
        assert!(self.resources.contains(&transfer.resource.0));
        Ok(())
    }

    fn read(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        target: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError> {
        assert!(self.resources.contains(&resource.0));
        let row = u64::from(rect.width) * 4;
        let needed = u64::from(rect.height.max(1) - 1) * u64::from(stride) + row;
        assert!(target.len() as u64 >= needed, "{rect:?} of rows {stride} apart into {}", target.len());
        let bytes = target.len().min(64);
        target.subslice(0, bytes).expect("its beginning").copy_from(&[0x77u8; 64][..bytes]);
        Ok(())
    }

    fn write(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        source: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError> {
        self.read(resource, rect, source, stride)
    }

    fn poll(&mut self) -> Option<u32> {
        None
    }
}

/// A process serves a device that puts anything into the ring of requests, and memory and images of any kind.
pub fn serve(data: &[u8]) -> Option<()> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&file, at::END as u64).ok()?;
    let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
    let (near, far) = (bell()?, bell()?);
    let memory = MmapRegion::from_file(FileOffset::new(File::from(file.try_clone().ok()?), 0), at::END).ok();
    let device = Stranger { socket: Some(ours), memory, ..Stranger::default() };
    device.say(&[0], &[file.as_fd(), near.as_fd(), far.as_fd()]);
    let mut bytes = Bytes(data);
    let (mut tail, mut messages) = (0u32, 0);
    while !bytes.is_spent() && tail < wire::REQUESTS {
        match bytes.u8() % 8 {
            // A region or an image: which, its number, and where they say how long it is.
            0 if messages < 16 => {
                let (kind, number) = (bytes.u8(), bytes.u8() & 0x7f);
                let small = [bytes.u8() & 0x7f, bytes.u8() & 0x7f];
                let pages = [small[0], 0x80, 0x80 | small[1], 1];
                let message = if kind & 1 == 0 {
                    [&[1, number, 0][..], &pages].concat()
                } else {
                    [&[2, number][..], &pages].concat()
                };
                let fd = offered(kind >> 1)?;
                device.say(&message, &[fd.as_fd()]);
                messages += 1;
            }
            1 if messages < 16 => {
                let len = usize::from(bytes.u8());
                device.say(bytes.take(len), &[]);
                messages += 1;
            }
            2 => {
                let (at, len) = (bytes.u16(), usize::from(bytes.u8()));
                device.put(at::ARENA + usize::from(at), bytes.take(len));
            }
            3 => {
                let mut words = RequestWords::default();
                words.fill_with(|| bytes.u32());
                put(&device, &mut tail, &words);
            }
            _ => {
                let code = u32::from(bytes.u8() % 20);
                let mut words = RequestWords::default();
                words.fill_with(|| u32::from(bytes.u8() % 8));
                (words[0], words[2], words[7]) = (code, tail + 1, u32::from(bytes.u8()) * 4);
                put(&device, &mut tail, &words);
            }
        }
    }
    let tail = if bytes.u8() == 0xff { bytes.u32() } else { tail };
    device.put(at::REQUESTS_TAIL, &tail.to_ne_bytes());
    drop(device);
    let sinks: Arc<Mutex<Vec<Arc<dyn Sink>>>> = Arc::default();
    let keep = sinks.clone();
    // It ends with an error when the bytes make no sense, or the other end is gone, which it is.
    let _ = child::run(theirs, move |sink| {
        keep.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(sink);
        Ok(Box::new(Insisting::default()))
    });
    // A library's own threads may outlive what they tell of.
    for sink in sinks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter() {
        (0..20).for_each(|ticket| sink.retired(Ticket(ticket)));
    }
    Some(())
}

fn put(device: &Stranger, tail: &mut u32, words: &RequestWords) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    device.put(at::REQUESTS + (*tail % wire::REQUESTS) as usize * wire::REQUEST_BYTES, &bytes);
    *tail += 1;
}

/// A device that does what it should.
pub fn requests() -> Vec<(String, Vec<u8>)> {
    let (context, resource) = (ContextId(1), ResourceId(2));
    let span = wire::Span { offset: 0, len: 16 };
    let desc = Resource3d { width: 4, height: 4, depth: 1, array_size: 1, ..Resource3d::default() };
    let blob = HostBlob { resource: ResourceId(3), mem: 2, flags: 1, id: 0, size: 4096 };
    let life = [
        Request::Open { context, capset: CapsetId::VENUS, name: span },
        Request::Create { resource, desc },
        Request::Join { context, resource },
        Request::Attach { resource, pieces: span },
        Request::Part { bytes: span },
        Request::Submit { context, commands: span },
        Request::Fence { context, ring: 3 },
        Request::CreateBlob { context, blob },
        Request::Read { resource, rect: Rect::of_size(4, 4), image: 1, stride: 16 },
        Request::Detach { resource },
        Request::Leave { context, resource },
        Request::Destroy { resource },
        Request::DropImage { number: 1 },
        Request::Close { context },
    ];
    let mut bytes = vec![0, 0, 0, 0, 0, 0, 1, 1, 1, 0];
    for (at, request) in life.iter().enumerate() {
        bytes.push(3);
        bytes.extend(wire::encode(Ticket(at as u64 + 1), request).iter().flat_map(|word| word.to_le_bytes()));
    }
    let quit = [&bytes[..], &[3], &wire::encode(Ticket(0), &Request::Quit).map(u32::to_le_bytes).concat()].concat();
    vec![("life".into(), bytes), ("life-and-end".into(), quit)]
}
