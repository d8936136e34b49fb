//! A library on the thread that asks: what it does wrong, this process does, and while it works, this thread does nothing else. For
//! comparison with [`isolated`](crate::isolated), which is what a guest should get.
//!
//! What a guest is refused there it is refused here: pages that are not in shared memory or not to be written, memory that
//! somebody could cut off under a VMM, and more of it than there are descriptors for.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use device::{
    Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Rendered, SharedImage, ThreeD, Ticket, Way, guest_log,
};
use foldhash::{HashMap, HashMapExt};
use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::VolatileSlice;

use crate::isolated::memory::{Guest, Run};
use crate::isolated::{Black, MAPPINGS, copy_part, in_the_way, offered};
use crate::library::{Exported, Library, Piece, Sink};

#[cfg(test)]
mod tests;

/// Makes the library on the thread that will call it, at the first work for it. An error is for the log.
pub type Make = Box<dyn FnOnce(Arc<dyn Sink>) -> Result<Box<dyn Library>, String> + Send>;

thread_local! {
    /// Libraries stay on the thread that started them; who owns one has its number.
    static HERE: RefCell<HashMap<u64, Box<dyn Library>>> = RefCell::new(HashMap::new());
}

const PIXEL: u64 = 4;

/// A [`Library`] as the device wants it.
pub struct InProcess {
    id: u64,
    capsets: Vec<Capset>,
    make: Option<Make>,
    told: Arc<Told>,
    contexts: Vec<ContextId>,
    resources: HashMap<ResourceId, Resource>,
    /// Fences that are not done, and whose they are.
    fences: HashMap<Ticket, ContextId>,
    guest: Guest,
    /// How often pixels were asked for.
    asked: u64,
    due: Option<Instant>,
    /// What the library changes while it works.
    scratch: Vec<u8>,
    black: Black,
}

#[derive(Default)]
struct Resource {
    /// Width and height in pixels.
    size: Option<(u32, u32)>,
    mapping: Option<HostMapping>,
    image: Option<SharedImage>,
    /// When its image was asked for last, by a count of that.
    used: u64,
}

impl Resource {
    /// Bytes of its image, if it has one.
    fn image_bytes(&self) -> Option<u64> {
        self.image.as_ref().map(|image| image.slice().len() as u64)
    }
}

/// Fences that are done.
struct Told {
    tickets: Mutex<Vec<Ticket>>,
    bell: OwnedFd,
}

impl Sink for Told {
    fn retired(&self, ticket: Ticket) {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).push(ticket);
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess")
            .field("capsets", &self.capsets)
            .field("contexts", &self.contexts)
            .finish_non_exhaustive()
    }
}

impl InProcess {
    /// Offers these sets; the library is made when there is work for it.
    pub fn new(capsets: Vec<Capset>, make: Make) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            capsets,
            make: Some(make),
            told: Arc::new(Told { tickets: Mutex::default(), bell }),
            contexts: Vec::new(),
            resources: HashMap::new(),
            fences: HashMap::new(),
            guest: Guest::default(),
            asked: 0,
            due: None,
            scratch: Vec::new(),
            black: Black::default(),
        })
    }

    /// Calls the library; there is none on any other thread than the first that had work.
    fn call<T>(&mut self, call: impl FnOnce(&mut dyn Library) -> Result<T, ReplyError>) -> Result<T, ReplyError> {
        if let Some(make) = self.make.take() {
            match make(self.told.clone()) {
                Ok(library) => drop(HERE.with_borrow_mut(|here| here.insert(self.id, library))),
                Err(error) => tracing::warn!("No 3D: {error}"),
            }
        }
        HERE.with_borrow_mut(|here| call(here.get_mut(&self.id).ok_or(ReplyError::Unspec)?.as_mut()))
    }

    /// Tells the library, if there is one.
    fn tell(&mut self, call: impl FnOnce(&mut dyn Library)) {
        if self.make.is_some() {
            return;
        }
        let _ = self.call(|library| {
            call(library);
            Ok(())
        });
    }

    fn pieces(&self, entries: &[MemEntry]) -> Option<Vec<Piece>> {
        let piece = |Run { mapping, offset, len }| {
            Some(Piece { mapping, offset: usize::try_from(offset).ok()?, len: usize::try_from(len).ok()? })
        };
        self.guest.runs(entries)?.into_iter().map(piece).collect()
    }

    /// Memory of a blob, if a VMM may map it.
    fn take_offer(&self, size: u64, exported: Exported) -> Result<HostMapping, ReplyError> {
        let Exported { file, caching } = exported;
        if self.resources.values().filter(|resource| resource.mapping.is_some()).count() >= MAPPINGS {
            return Err(ReplyError::OutOfMemory);
        }
        let file = offered::take(file, size).map_err(|refused| {
            guest_log!(warn, "Memory of a blob is not shown to the guest: {refused}");
            ReplyError::Unspec
        })?;
        Ok(HostMapping { file: Arc::new(file), offset: 0, len: size.next_multiple_of(offered::PAGE), caching })
    }

    fn read_now(&mut self, resource: ResourceId, rect: Rect) -> Result<(), ReplyError> {
        self.with_image(resource, rect, |library, part, stride| library.read(resource, rect, part, stride))
    }

    fn write_now(&mut self, resource: ResourceId, rect: Rect, pixels: &Pixels<'_>) -> Result<(), ReplyError> {
        let width = self.image(resource).ok_or(ReplyError::InvalidResourceId)?.0;
        let image = self.resources.get(&resource).and_then(|there| there.image.as_ref());
        copy_part(pixels, image.ok_or(ReplyError::OutOfMemory)?.slice(), width, rect)
            .ok_or(ReplyError::InvalidParameter)?;
        self.with_image(resource, rect, |library, part, stride| library.write(resource, rect, part, stride))
    }

    /// Calls the library about the part of a resource's memory that a rectangle has.
    fn with_image(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        call: impl FnOnce(&mut dyn Library, VolatileSlice<'_>, u32) -> Result<(), ReplyError>,
    ) -> Result<(), ReplyError> {
        let (width, height) = self.image(resource).ok_or(ReplyError::InvalidResourceId)?;
        let stride = u64::from(width) * PIXEL;
        let inside = rect.x.checked_add(rect.width).is_some_and(|end| end <= width)
            && rect.y.checked_add(rect.height).is_some_and(|end| end <= height);
        if !inside || rect.width == 0 || rect.height == 0 {
            return Err(ReplyError::InvalidParameter);
        }
        let there = self.resources.get_mut(&resource).ok_or(ReplyError::InvalidResourceId)?;
        let image = there.image.take().ok_or(ReplyError::OutOfMemory)?;
        let start = u64::from(rect.y) * stride + u64::from(rect.x) * PIXEL;
        let len = stride * u64::from(rect.height - 1) + u64::from(rect.width) * PIXEL;
        let read = self.call(|library| {
            let at = |value: u64| usize::try_from(value).map_err(|_| ReplyError::OutOfMemory);
            let target = image.slice().subslice(at(start)?, at(len)?).map_err(|_| ReplyError::InvalidParameter)?;
            let stride = u32::try_from(stride).map_err(|_| ReplyError::InvalidParameter)?;
            call(library, target, stride)
        });
        if let Some(there) = self.resources.get_mut(&resource) {
            there.image = Some(image);
        }
        read
    }

    /// Sees to it that the resource has memory for its pixels. An old one of another makes room for it.
    fn image(&mut self, resource: ResourceId) -> Option<(u32, u32)> {
        let there = self.resources.get_mut(&resource)?;
        let (width, height) = there.size?;
        self.asked += 1;
        there.used = self.asked;
        if there.image.is_none() {
            let len = u64::from(width) * u64::from(height) * PIXEL;
            self.make_room(len);
            self.resources.get_mut(&resource)?.image = SharedImage::new(len).ok();
        }
        Some((width, height))
    }

    fn make_room(&mut self, len: u64) {
        loop {
            let images = self.resources.iter().filter_map(|(id, there)| Some((*id, there.used, there.image_bytes()?)));
            let oldest = in_the_way(images, len).and_then(|oldest| self.resources.get_mut(&oldest));
            let Some(there) = oldest else { return };
            there.image = None;
        }
    }

    fn look_again(&mut self) {
        let mut wait = None;
        self.tell(|library| wait = library.poll());
        self.due = wait.map(|wait| Instant::now() + Duration::from_millis(wait.into()));
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        // On another thread there is nothing; at the end of a thread there may be no table.
        let library = HERE.try_with(|here| here.borrow_mut().remove(&self.id));
        drop(library);
    }
}

impl ThreeD for InProcess {
    fn capsets(&self) -> &[Capset] {
        &self.capsets
    }

    fn open(&mut self, _: Ticket, context: ContextId, capset: CapsetId, name: &[u8]) -> Progress {
        let opened = self.call(|library| library.open(context, capset, name));
        if opened.is_ok() {
            self.contexts.push(context);
        }
        Progress::Done(opened)
    }

    fn close(&mut self, context: ContextId) {
        self.contexts.retain(|open| *open != context);
        self.tell(|library| library.close(context));
        // The library need not tell of them any more.
        let left = self.fences.iter().filter(|(_, of)| **of == context);
        left.for_each(|(ticket, _)| self.told.retired(*ticket));
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        self.tell(|library| library.join(context, resource));
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        self.tell(|library| library.leave(context, resource));
    }

    fn submit(&mut self, _: Ticket, context: ContextId, commands: &[u8]) -> Progress {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(commands);
        let submitted = self.call(|library| library.submit(context, &mut scratch));
        self.scratch = scratch;
        Progress::Done(submitted)
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Progress {
        if let Err(error) = self.call(|library| library.fence(ticket, context, ring)) {
            return Progress::Done(Err(error));
        }
        self.fences.insert(ticket, context);
        self.look_again();
        Progress::Later
    }

    fn create(&mut self, _: Ticket, resource: ResourceId, desc: &Resource3d) -> Progress {
        let created = self.call(|library| library.create(resource, desc));
        if created.is_ok() {
            self.resources.insert(resource, Resource { size: Some((desc.width, desc.height)), ..Resource::default() });
        }
        Progress::Done(created)
    }

    fn create_blob(&mut self, _: Ticket, context: ContextId, blob: &HostBlob) -> Progress {
        let created = self.call(|library| library.create_blob(context, blob));
        let made = created.and_then(|exported| {
            let mapping = exported.map(|exported| self.take_offer(blob.size, exported)).transpose();
            mapping.inspect_err(|_| self.tell(|library| library.destroy(blob.resource)))
        });
        Progress::Done(made.map(|mapping| {
            self.resources.insert(blob.resource, Resource { mapping, ..Resource::default() });
        }))
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.resources.remove(&resource);
        self.tell(|library| library.destroy(resource));
    }

    fn attach(&mut self, _: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        let Some(pieces) = self.pieces(entries) else { return Progress::Done(Err(ReplyError::InvalidParameter)) };
        Progress::Done(self.call(|library| library.attach(resource, pieces)))
    }

    fn detach(&mut self, _: Ticket, resource: ResourceId) -> Progress {
        self.tell(|library| library.detach(resource));
        Progress::Done(Ok(()))
    }

    fn transfer(&mut self, _: Ticket, context: ContextId, way: Way, transfer: &Transfer3d) -> Progress {
        Progress::Done(self.call(|library| library.transfer(context, way, transfer)))
    }

    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping> {
        self.resources.get(&resource)?.mapping.clone()
    }

    fn read(&mut self, _: Ticket, resource: ResourceId, rect: Rect) -> Progress {
        Progress::Done(self.read_now(resource, rect))
    }

    fn write(&mut self, _: Ticket, resource: ResourceId, rect: Rect, pixels: &Pixels<'_>) -> Progress {
        Progress::Done(self.write_now(resource, rect, pixels))
    }

    fn forget_pixels(&mut self, resource: ResourceId) {
        if let Some(there) = self.resources.get_mut(&resource) {
            there.image = None;
        }
    }

    fn is_open(&self, context: ContextId) -> bool {
        self.contexts.contains(&context)
    }

    fn has(&self, resource: ResourceId) -> bool {
        self.resources.contains_key(&resource)
    }

    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>> {
        let Resource { size, image, .. } = self.resources.get(&resource)?;
        let (width, height) = (*size)?;
        // Who was never read is black, and takes no memory for that.
        let len = u64::from(width) * u64::from(height) * PIXEL;
        image.as_ref().and_then(SharedImage::pixels).or_else(|| self.black.pixels(len))
    }

    fn memory(&mut self, memory: &Memory) {
        self.guest.set(memory);
    }

    fn reset(&mut self) {
        for context in std::mem::take(&mut self.contexts) {
            self.tell(|library| library.close(context));
        }
        for resource in std::mem::take(&mut self.resources).into_keys() {
            self.tell(|library| library.destroy(resource));
        }
        self.due = None;
        // Whoever waits for one is told, as of those of a context that is closed.
        self.fences.keys().for_each(|ticket| self.told.retired(*ticket));
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.told.bell.as_fd())
    }

    fn poll(&mut self, now: Instant, done: &mut Vec<Rendered>) {
        if self.due.is_some_and(|due| due <= now) {
            self.look_again();
        }
        let _ = rustix::io::read(&self.told.bell, &mut [0u8; 8]);
        let mut tickets = self.told.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let once = tickets.drain(..).filter(|ticket| self.fences.remove(ticket).is_some());
        done.extend(once.map(|ticket| Rendered { ticket, result: Ok(()) }));
    }

    fn deadline(&self) -> Option<Instant> {
        self.due
    }
}
