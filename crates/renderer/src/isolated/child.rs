//! The process of a library: does what the other end of its socket says.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use protocol::{ContextId, Rect, ReplyError, ResourceId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use self::events::Events;
use super::shared::{self, Consumer, Jumped, Payload, Shared, stop_bell};
use super::socket::{Received, receive, send_whole, wait_to_receive};
use super::wire::{self, Event, FromChild, Request, ToChild, UNANSWERED, at};
use crate::library::{Library, Piece, Sink};

mod events;

/// Requests after which a device that waits for room is told that there is some.
const ROOM: u32 = wire::REQUESTS / 4;

/// Serves `socket` until it hangs up or says that there is nothing more to do. `make` starts the library, which may take its
/// time: requests wait for it.
pub fn run(socket: OwnedFd, make: impl FnOnce(Arc<dyn Sink>) -> Result<Box<dyn Library>, String>) -> io::Result<()> {
    let (memory, bell, device) = hello(&socket)?;
    let memory = Arc::new(Shared::map(memory)?);
    let events = Arc::new(Events::new(memory.clone(), device));
    let library = match make(events.clone()) {
        Ok(library) => library,
        Err(why) => {
            let told = why.chars().take(256).collect();
            send_whole(socket.as_fd(), &FromChild::Failed(told), &[])?;
            return Err(io::Error::other(why));
        }
    };
    send_whole(socket.as_fd(), &FromChild::Found, &[])?;
    let requests = Consumer::new(shared::REQUESTS);
    let mut child = Child {
        socket,
        memory,
        bell,
        requests,
        events,
        library,
        payload: Payload::default(),
        spoiled: false,
        contexts: HashSet::new(),
        resources: HashSet::new(),
        regions: HashMap::new(),
        images: HashMap::new(),
    };
    while child.serve()? && child.wait()? {}
    Ok(())
}

/// The memory, our bell and the device's.
fn hello(socket: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
    loop {
        match receive(socket.as_fd()) {
            Received::Message(ToChild::Hello, fds) => {
                let fds: [OwnedFd; 3] = fds.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                let [memory, bell, device] = fds;
                return Ok((memory, bell, device));
            }
            Received::Nothing => wait_to_receive(socket.as_fd())?,
            Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            Received::Message(..) | Received::Garbage => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

struct Child {
    socket: OwnedFd,
    memory: Arc<Shared>,
    bell: OwnedFd,
    requests: Consumer,
    events: Arc<Events>,
    library: Box<dyn Library>,
    /// Of the request under way, or of one that is still to come.
    payload: Payload,
    /// Some of that payload could not be had.
    spoiled: bool,
    /// What the library has. What the device asked for may have failed.
    contexts: HashSet<ContextId>,
    resources: HashSet<ResourceId>,
    regions: HashMap<u32, Arc<MmapRegion>>,
    images: HashMap<u32, MmapRegion>,
}

impl From<Jumped> for io::Error {
    fn from(_: Jumped) -> Self {
        io::Error::other("The device's index is where it cannot be")
    }
}

impl Child {
    /// Does all that is asked for. False when there is nothing more to come.
    fn serve(&mut self) -> io::Result<bool> {
        let mut words = wire::RequestWords::default();
        let mut served = 0u32;
        while self.requests.peek(&self.memory, bytemuck::bytes_of_mut(&mut words))? {
            let decoded = wire::decode(&words);
            if let Some((_, request)) = &decoded
                && let Some(span) = request.payload()
            {
                let fits = self.payload.len() + span.len as usize <= wire::PAYLOAD_BYTES;
                self.spoiled |= !fits || !self.memory.take(span, &mut self.payload);
            }
            // From here on the device may put something else there.
            self.requests.done(&self.memory);
            served = served.wrapping_add(1);
            if served.is_multiple_of(ROOM) {
                self.tell_of_room();
            }
            match decoded {
                Some((_, Request::Part { .. })) => continue,
                Some((_, Request::Quit)) => return Ok(false),
                Some((ticket, request)) => match self.execute(ticket, &request)? {
                    Some(event) if ticket != UNANSWERED && self.is_fenced(&request, event) => {
                        self.events.tell_quietly(ticket, event);
                    }
                    Some(event) if ticket != UNANSWERED => self.events.tell(ticket, event),
                    _ => {}
                },
                None => {}
            }
            self.payload.clear();
            self.spoiled = false;
        }
        self.tell_of_room();
        Ok(true)
    }

    /// Whether the request that comes next is a fence behind this one: nobody needs to know earlier than of that one.
    fn is_fenced(&mut self, request: &Request, event: Event) -> bool {
        let (Request::Submit { context, .. }, Event::Done(Ok(()))) = (request, event) else { return false };
        let mut words = wire::RequestWords::default();
        let Ok(true) = self.requests.peek(&self.memory, bytemuck::bytes_of_mut(&mut words)) else { return false };
        matches!(wire::decode(&words), Some((_, Request::Fence { context: of, .. })) if of == *context)
    }

    fn tell_of_room(&self) {
        if self.memory.must_wake(at::DEVICE_WAITS) {
            self.events.wake();
        }
    }

    /// Sleeps until there is something to do. False when there is nothing more to come.
    fn wait(&mut self) -> io::Result<bool> {
        let timeout = self.library.poll().map(|millis| {
            let time = Duration::from_millis(u64::from(millis));
            Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
        });
        self.memory.going_to_sleep(at::CHILD_SLEEPS);
        if self.requests.look(&self.memory)? {
            self.memory.awake(at::CHILD_SLEEPS);
            return Ok(true);
        }
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        let polled = poll(&mut fds, timeout.as_ref());
        self.memory.awake(at::CHILD_SLEEPS);
        match polled {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (rung, said) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if rung {
            stop_bell(&self.bell);
        }
        Ok(!said || self.receive())
    }

    /// Takes what came through the socket. False when nothing more will.
    fn receive(&mut self) -> bool {
        loop {
            match receive(self.socket.as_fd()) {
                Received::Message(message, mut fds) => {
                    if let (Some(fd), true) = (fds.pop(), fds.is_empty()) {
                        self.map(message, fd);
                    }
                }
                Received::Garbage => {}
                Received::Nothing => return true,
                Received::Closed => return false,
            }
        }
    }

    /// What cannot be mapped is missing when it is asked for.
    fn map(&mut self, message: ToChild, fd: OwnedFd) {
        let (offset, len) = match message {
            ToChild::Hello => return,
            ToChild::Region { offset, len, .. } => (offset, len),
            ToChild::Image { len, .. } => (0, len),
        };
        let Ok(len) = usize::try_from(len) else { return };
        let Ok(region) = MmapRegion::from_file(FileOffset::new(File::from(fd), offset), len) else { return };
        match message {
            ToChild::Region { number, .. } => drop(self.regions.insert(number, Arc::new(region))),
            ToChild::Image { number, .. } => drop(self.images.insert(number, region)),
            ToChild::Hello => {}
        }
    }

    /// What becomes of a request; `None`: it will be told of later, or nobody asked.
    fn execute(&mut self, ticket: device::Ticket, request: &Request) -> io::Result<Option<Event>> {
        let result = match *request {
            Request::Open { context, capset, .. } => match self.contexts.contains(&context) {
                true => Err(ReplyError::InvalidContextId),
                false => self.library.open(context, capset, self.payload.bytes()).inspect(|()| {
                    self.contexts.insert(context);
                }),
            },
            Request::Close { context } => {
                if self.contexts.remove(&context) {
                    self.library.close(context);
                }
                self.events.retire_all(context);
                return Ok(None);
            }
            Request::Join { context, resource } => {
                if self.contexts.contains(&context) && self.resources.contains(&resource) {
                    self.library.join(context, resource);
                }
                return Ok(None);
            }
            Request::Leave { context, resource } => {
                if self.contexts.contains(&context) && self.resources.contains(&resource) {
                    self.library.leave(context, resource);
                }
                return Ok(None);
            }
            Request::Submit { context, .. } => match self.contexts.contains(&context) && !self.spoiled {
                true => self.library.submit(context, self.payload.bytes()),
                false => Err(ReplyError::Unspec),
            },
            Request::Fence { context, ring } => return Ok(self.fence(ticket, context, ring)),
            Request::Create { resource, desc } => match self.resources.contains(&resource) {
                true => Err(ReplyError::InvalidResourceId),
                false => self.library.create(resource, &desc).inspect(|()| {
                    self.resources.insert(resource);
                }),
            },
            Request::CreateBlob { context, blob } => return self.create_blob(ticket, context, &blob).map(Some),
            Request::Destroy { resource } => {
                if self.resources.remove(&resource) {
                    self.library.destroy(resource);
                }
                return Ok(None);
            }
            Request::Attach { resource, .. } => match self.pieces() {
                Some(pieces) if self.resources.contains(&resource) => self.library.attach(resource, pieces),
                _ => Err(ReplyError::Unspec),
            },
            Request::Detach { resource } => {
                if self.resources.contains(&resource) {
                    self.library.detach(resource);
                }
                Ok(())
            }
            Request::Transfer { context, way, transfer } => {
                let known = context.0 == 0 || self.contexts.contains(&context);
                match known && self.resources.contains(&transfer.resource) {
                    true => self.library.transfer(context, way, &transfer),
                    false => Err(ReplyError::Unspec),
                }
            }
            Request::Read { resource, rect, image, stride } => {
                self.with_image(resource, rect, image, stride, |library, target| {
                    library.read(resource, rect, target, stride)
                })
            }
            Request::Write { resource, rect, image, stride } => {
                self.with_image(resource, rect, image, stride, |library, source| {
                    library.write(resource, rect, source, stride)
                })
            }
            Request::DropRegion { number } => {
                self.regions.remove(&number);
                return Ok(None);
            }
            Request::DropImage { number } => {
                self.images.remove(&number);
                return Ok(None);
            }
            Request::Part { .. } | Request::Quit => return Ok(None),
        };
        Ok(Some(Event::Done(result)))
    }

    fn fence(&mut self, ticket: device::Ticket, context: ContextId, ring: u8) -> Option<Event> {
        if !self.contexts.contains(&context) {
            return Some(Event::Done(Err(ReplyError::Unspec)));
        }
        // The library may tell of it before it returns.
        self.events.expect(ticket, context);
        let error = self.library.fence(ticket, context, ring).err()?;
        self.events.forget(ticket).then_some(Event::Done(Err(error)))
    }

    fn create_blob(
        &mut self,
        ticket: device::Ticket,
        context: ContextId,
        blob: &device::HostBlob,
    ) -> io::Result<Event> {
        if self.resources.contains(&blob.resource) || !self.contexts.contains(&context) {
            return Ok(Event::Done(Err(ReplyError::Unspec)));
        }
        let exported = match self.library.create_blob(context, blob) {
            Ok(exported) => exported,
            Err(error) => return Ok(Event::Done(Err(error))),
        };
        self.resources.insert(blob.resource);
        let Some(exported) = exported else { return Ok(Event::Done(Ok(()))) };
        let message = FromChild::Blob { ticket: ticket.0, caching: exported.caching };
        send_whole(self.socket.as_fd(), &message, &[exported.file.as_fd()])?;
        Ok(Event::Exported)
    }

    /// The pieces of guest memory that the payload names.
    fn pieces(&mut self) -> Option<Vec<Piece>> {
        let words: Vec<wire::PieceWords> = bytemuck::try_cast_slice(self.payload.bytes()).ok()?.to_vec();
        if self.spoiled {
            return None;
        }
        let missing = |regions: &HashMap<_, _>| words.iter().any(|words| !regions.contains_key(&words[0]));
        if missing(&self.regions) {
            // They were sent before this request was.
            self.receive();
        }
        let piece = |words: &wire::PieceWords| {
            let (number, offset, len) = wire::decode_piece(*words);
            let mapping = self.regions.get(&number)?;
            let (offset, len) = (usize::try_from(offset).ok()?, len as usize);
            let inside = offset.checked_add(len).is_some_and(|end| end <= mapping.size());
            inside.then(|| Piece { mapping: mapping.clone(), offset, len })
        };
        words.iter().map(piece).collect()
    }

    /// Calls the library about a resource and the part of an image that a rectangle has.
    fn with_image(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        image: u32,
        stride: u32,
        call: impl FnOnce(&mut dyn Library, VolatileSlice<'_>) -> Result<(), ReplyError>,
    ) -> Result<(), ReplyError> {
        if !self.images.contains_key(&image) {
            self.receive();
        }
        let target = self.images.get(&image).and_then(|image| {
            let row = u64::from(rect.width) * 4;
            let start = u64::from(rect.y) * u64::from(stride) + u64::from(rect.x) * 4;
            let len = u64::from(rect.height.checked_sub(1)?) * u64::from(stride) + row;
            let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
            (row <= u64::from(stride)).then(|| image.get_slice(start, len).ok()).flatten()
        });
        match target {
            Some(part) if self.resources.contains(&resource) => call(&mut *self.library, part),
            _ => Err(ReplyError::Unspec),
        }
    }
}
