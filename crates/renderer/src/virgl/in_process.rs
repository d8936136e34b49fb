//! A library on the thread that asks. For benches and tests: what it does wrong, this process does.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use device::{
    Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Region, Rendered, SharedImage, ThreeD, Ticket, Way,
};
use foldhash::{HashMap, HashMapExt};
use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use rustix::event::{EventfdFlags, eventfd};

use crate::library::{Exported, Library, Piece, Sink};

#[cfg(test)]
mod tests;

/// Makes the library on the thread that will call it, at the first work for it. An error is for the log.
pub type Make = Box<dyn FnOnce(Arc<dyn Sink>) -> Result<Box<dyn Library>, String> + Send>;

thread_local! {
    /// Libraries stay on the thread that started them; who owns one has its number.
    static HERE: RefCell<HashMap<u64, Box<dyn Library>>> = RefCell::new(HashMap::new());
}

const PAGE: u64 = 4096;
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
    generation: Option<u64>,
    regions: Vec<Region>,
    due: Option<Instant>,
    /// What the library changes while it works.
    scratch: Vec<u8>,
}

#[derive(Default)]
struct Resource {
    /// Width and height in pixels.
    size: Option<(u32, u32)>,
    mapping: Option<HostMapping>,
    image: Option<SharedImage>,
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
            generation: None,
            regions: Vec::new(),
            due: None,
            scratch: Vec::new(),
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
        let piece = |entry: &MemEntry| {
            let len = u64::from(entry.length);
            let end = entry.addr.checked_add(len)?;
            let inside = |region: &&Region| region.start <= entry.addr && end - region.start <= region.len;
            let region = self.regions.iter().filter(|region| region.usable).find(inside)?;
            let offset = region.offset + usize::try_from(entry.addr - region.start).ok()?;
            Some(Piece { mapping: region.mapping.clone(), offset, len: usize::try_from(len).ok()? })
        };
        entries.iter().map(piece).collect()
    }

    fn read_now(&mut self, resource: ResourceId, rect: Rect) -> Result<(), ReplyError> {
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
            library.read(resource, rect, target, stride)
        });
        if let Some(there) = self.resources.get_mut(&resource) {
            there.image = Some(image);
        }
        read
    }

    /// Sees to it that the resource has memory for its pixels.
    fn image(&mut self, resource: ResourceId) -> Option<(u32, u32)> {
        let there = self.resources.get_mut(&resource)?;
        let (width, height) = there.size?;
        if there.image.is_none() {
            there.image = SharedImage::new(u64::from(width) * u64::from(height) * PIXEL).ok();
        }
        Some((width, height))
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
        let created = created.map(|exported| {
            let mapping = exported.map(|Exported { file, caching }| {
                let len = blob.size.checked_next_multiple_of(PAGE).unwrap_or(blob.size);
                HostMapping { file: Arc::new(File::from(file)), offset: 0, len, caching }
            });
            self.resources.insert(blob.resource, Resource { mapping, ..Resource::default() });
        });
        Progress::Done(created)
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

    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>> {
        self.image(resource)?;
        self.resources.get(&resource)?.image.as_ref()?.pixels()
    }

    fn memory(&mut self, memory: &Memory) {
        if self.generation != Some(memory.generation()) {
            self.generation = Some(memory.generation());
            self.regions = memory.regions().to_vec();
        }
    }

    fn reset(&mut self) {
        for context in std::mem::take(&mut self.contexts) {
            self.tell(|library| library.close(context));
        }
        for resource in std::mem::take(&mut self.resources).into_keys() {
            self.tell(|library| library.destroy(resource));
        }
        (self.generation, self.due) = (None, None);
        self.fences.clear();
        self.regions.clear();
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
