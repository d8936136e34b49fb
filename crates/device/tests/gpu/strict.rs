//! A 3D library that insists on what the seam promises it, and remembers each time that the promise was broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use device::three_d::LOST;
use device::{Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Rendered, ThreeD, Ticket, Way};
use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Timelines of a Vulkan context.
pub const RINGS: u8 = 64;
/// Largest side of an image that has pixels here.
const PICTURE: u32 = 1024;

/// When it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Prompt,
    /// At the next poll, the last one first.
    Late,
    /// Not before [`Strict::release`].
    Never,
}

/// What somebody made of it.
#[derive(Debug)]
pub struct Known {
    pub contexts: BTreeMap<u32, Context>,
    pub resources: BTreeMap<u32, Resource>,
    /// What broke a promise, in words.
    pub faults: Vec<String>,
    /// How often each method was called, by its name.
    pub calls: BTreeMap<&'static str, u64>,
    pub pace: Pace,
    /// Everything is lost from now on, as with a process that died.
    pub lost: bool,
    /// What the next blob is exported as; nothing: its export is refused.
    pub exports: bool,
    /// What went with a process that died: it may be closed and destroyed.
    gone: BTreeSet<(&'static str, u32)>,
    /// Capability sets of whose contexts it takes no more work.
    pub full: BTreeSet<u32>,
    /// How much it may owe until it takes no more work of any.
    pub room: usize,
    /// How often it was asked whether it is full.
    pub looks: u64,
    /// The most that it owed.
    pub most: usize,
    /// The first word of each submit, and its context.
    pub submitted: Vec<(u32, u32)>,
    /// How many writes came before each submit.
    pub written: Vec<u64>,
    /// Reads, and the parts that writes have, that are not answered: they go through the same memory.
    on_their_way: Vec<(u32, Option<Rect>)>,
    tickets: BTreeSet<u64>,
    waiting: VecDeque<(Ticket, Result<(), ReplyError>)>,
    /// Methods that fail, and do nothing.
    pub refused: BTreeSet<&'static str>,
    /// How often each resource was attached and not said to be detached: whose pages it may use.
    pub in_use: BTreeMap<u32, usize>,
    /// What detaches that are not answered are of.
    leaving: BTreeMap<Ticket, u32>,
    /// Resources of which a detach was refused.
    kept: BTreeSet<u32>,
    /// What could not be made: as with what was lost, work on it fails, and closing or destroying it is right.
    failed: BTreeSet<(&'static str, u32)>,
}

#[derive(Debug)]
pub struct Context {
    pub capset: CapsetId,
    pub members: BTreeSet<u32>,
}

#[derive(Debug)]
pub struct Resource {
    pub what: What,
    pub attached: bool,
    /// Whether there is memory by which its pixels come and go.
    pub shadow: bool,
    pub pixels: Vec<u8>,
    /// Which of them were drawn by the last work: [`ThreeD::read`] sees that first.
    drawn: Vec<bool>,
}

#[derive(Debug)]
pub enum What {
    Image(Resource3d),
    Blob(Option<HostMapping>),
}

/// The library. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Strict {
    known: Arc<Mutex<Known>>,
    capsets: Arc<[Capset]>,
    ready: Arc<OwnedFd>,
    /// What [`ThreeD::pixels`] lent last.
    lent: Vec<u8>,
}

impl Strict {
    /// With virgl, virgl2 and venus, answering at this pace.
    pub fn new(pace: Pace) -> Self {
        let known = Known {
            contexts: BTreeMap::new(),
            resources: BTreeMap::new(),
            faults: Vec::new(),
            calls: BTreeMap::new(),
            pace,
            lost: false,
            exports: true,
            full: BTreeSet::new(),
            room: usize::MAX,
            looks: 0,
            most: 0,
            submitted: Vec::new(),
            written: Vec::new(),
            on_their_way: Vec::new(),
            gone: BTreeSet::new(),
            tickets: BTreeSet::new(),
            waiting: VecDeque::new(),
            refused: BTreeSet::new(),
            in_use: BTreeMap::new(),
            leaving: BTreeMap::new(),
            kept: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        let capset = |id, version, size, rings, maps| Capset { id, version, bytes: vec![7; size].into(), rings, maps };
        let capsets = vec![
            capset(CapsetId::VIRGL, 1, 308, 1, false),
            capset(CapsetId::VIRGL2, 2, 1384, 1, false),
            capset(CapsetId::VENUS, 0, 160, RINGS, true),
        ];
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self { known: Arc::new(Mutex::new(known)), capsets: capsets.into(), ready: Arc::new(ready), lent: Vec::new() }
    }

    /// What is known now.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Answers what it owes, from now on at this pace.
    pub fn release(&self, pace: Pace) {
        self.known().pace = pace;
        self.ring();
    }

    /// Its process dies: what it owes fails, and so does all that comes.
    pub fn die(&self) {
        self.known().lost = true;
        self.release(Pace::Prompt);
    }

    /// There is another process, which has nothing.
    pub fn revive(&self) {
        let mut known = self.known();
        known.lost = false;
        let contexts = std::mem::take(&mut known.contexts).into_keys().map(|context| ("context", context));
        let resources = std::mem::take(&mut known.resources).into_keys().map(|resource| ("resource", resource));
        known.gone.extend(contexts.chain(resources));
        known.in_use.clear();
        known.leaving.clear();
    }

    fn ring(&self) {
        // A counter that is already full is readable all the same.
        let _ = rustix::io::write(&*self.ready, &1u64.to_ne_bytes());
    }

    /// Answers a ticket, which must be new.
    fn answer(&self, known: &mut Known, ticket: Ticket, result: Result<(), ReplyError>) -> Progress {
        let fresh = known.tickets.insert(ticket.0);
        known.must(fresh, || format!("{ticket:?} came twice"));
        if known.lost {
            return LOST;
        }
        if result.is_ok() && known.pace != Pace::Prompt {
            return self.put_off(known, ticket, result);
        }
        Progress::Done(result)
    }

    fn put_off(&self, known: &mut Known, ticket: Ticket, result: Result<(), ReplyError>) -> Progress {
        known.waiting.push_back((ticket, result));
        known.most = known.most.max(known.waiting.len());
        self.ring();
        Progress::Later
    }

    /// Whether a method fails, and what it answers then.
    fn refuse(&self, known: &mut Known, name: &str, ticket: Ticket) -> Option<Progress> {
        if !known.refused.contains(name) || known.lost {
            return None;
        }
        let fresh = known.tickets.insert(ticket.0);
        known.must(fresh, || format!("{ticket:?} came twice"));
        let failed = Err(ReplyError::OutOfMemory);
        Some(match known.pace {
            Pace::Prompt => Progress::Done(failed),
            Pace::Late | Pace::Never => self.put_off(known, ticket, failed),
        })
    }
}

impl Known {
    fn must(&mut self, kept: bool, what: impl FnOnce() -> String) {
        if !kept {
            self.faults.push(what());
        }
    }

    fn call(&mut self, name: &'static str) {
        *self.calls.entry(name).or_default() += 1;
    }

    /// A resource's pages are said to be its guest's again.
    fn let_go(&mut self, resource: u32) {
        if let Some(times) = self.in_use.get_mut(&resource) {
            *times -= 1;
        }
        self.in_use.retain(|_, times| *times > 0);
    }

    fn cast_shadow(&mut self, resource: ResourceId, shadow: bool) {
        if let Some(found) = self.resources.get_mut(&resource.0) {
            found.shadow = shadow;
        }
    }

    fn must_be_open(&mut self, context: ContextId, what: &str) {
        let gone = what != "create_blob" && self.gone.contains(&("context", context.0));
        let gone = gone || self.failed.contains(&("context", context.0));
        let open = self.lost || gone || self.contexts.contains_key(&context.0);
        self.must(open, || format!("{what} in {context:?}, which is not open"));
    }

    fn must_exist(&mut self, resource: ResourceId, what: &str) {
        let gone = ["destroy", "detach"].contains(&what) && self.gone.contains(&("resource", resource.0));
        let gone = gone || self.failed.contains(&("resource", resource.0));
        let exists = self.lost || gone || self.resources.contains_key(&resource.0);
        self.must(exists, || format!("{what} of {resource:?}, which does not exist"));
    }

    fn add(&mut self, resource: ResourceId, what: What, pixels: usize) {
        self.must(resource.0 != 0, || "A resource without a name".into());
        let made =
            Resource { what, attached: false, shadow: false, pixels: vec![0; pixels], drawn: vec![true; pixels / 4] };
        let twice = self.resources.insert(resource.0, made).is_some();
        self.must(!twice, || format!("{resource:?} is made twice"));
    }

    /// How often a method was called.
    pub fn called(&self, name: &str) -> u64 {
        self.calls.get(name).copied().unwrap_or_default()
    }
}

/// Memory as a library exports it.
fn export(size: u64) -> Option<HostMapping> {
    let file = memfd_create("blob", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
    let len = size.checked_next_multiple_of(PAGE)?;
    ftruncate(&file, len).ok()?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).ok()?;
    Some(HostMapping { file: Arc::new(file.into()), offset: 0, len, caching: 1 })
}

impl ThreeD for Strict {
    fn capsets(&self) -> &[Capset] {
        &self.capsets
    }

    fn is_full(&self, capset: CapsetId) -> bool {
        let mut known = self.known();
        known.looks += 1;
        known.full.contains(&capset.0) || known.waiting.len() >= known.room
    }

    fn open(&mut self, ticket: Ticket, context: ContextId, capset: CapsetId, name: &[u8]) -> Progress {
        let mut known = self.known();
        known.call("open");
        if let Some(refused) = self.refuse(&mut known, "open", ticket) {
            known.failed.insert(("context", context.0));
            return refused;
        }
        let offered = self.capsets.iter().any(|offered| offered.id == capset);
        known.must(context.0 != 0 && offered, || format!("{context:?} of {capset}"));
        known.must(name.len() <= 64, || format!("A name of {} bytes", name.len()));
        if known.lost {
            // What failed at once is not open, and may be tried again.
            return self.answer(&mut known, ticket, Ok(()));
        }
        let twice = known.contexts.insert(context.0, Context { capset, members: BTreeSet::new() }).is_some();
        known.must(!twice, || format!("{context:?} is opened twice"));
        self.answer(&mut known, ticket, Ok(()))
    }

    fn close(&mut self, context: ContextId) {
        let mut known = self.known();
        known.call("close");
        known.must_be_open(context, "close");
        known.contexts.remove(&context.0);
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        let mut known = self.known();
        known.call("join");
        known.must_be_open(context, "join");
        known.must_exist(resource, "join");
        let new = known.contexts.get_mut(&context.0).is_none_or(|context| context.members.insert(resource.0));
        known.must(new, || format!("{resource:?} joins {context:?} twice"));
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        let mut known = self.known();
        known.call("leave");
        known.must_be_open(context, "leave");
        let was = known.contexts.get_mut(&context.0).is_none_or(|context| context.members.remove(&resource.0));
        known.must(was, || format!("{resource:?} leaves {context:?}, which it had not joined"));
    }

    fn submit(&mut self, ticket: Ticket, context: ContextId, commands: &[u8]) -> Progress {
        let mut known = self.known();
        known.call("submit");
        if let Some(refused) = self.refuse(&mut known, "submit", ticket) {
            return refused;
        }
        known.must_be_open(context, "submit");
        let (len, most) = (commands.len(), 4 << 20);
        known.must(len.is_multiple_of(4) && len <= most, || format!("Commands of {len} bytes"));
        let first = commands.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        known.submitted.push((context.0, first));
        // It draws all over what it may use.
        let Known { contexts, resources, .. } = &mut *known;
        for member in contexts.get(&context.0).into_iter().flat_map(|context| &context.members) {
            if let Some(resource) = resources.get_mut(member) {
                resource.drawn.fill(true);
            }
        }
        let written = known.called("write");
        known.written.push(written);
        // As a library that does not know a command.
        let result = if commands.starts_with(&[0xff; 4]) { Err(ReplyError::InvalidParameter) } else { Ok(()) };
        self.answer(&mut known, ticket, result)
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Progress {
        let mut known = self.known();
        known.call("fence");
        known.must_be_open(context, "fence");
        let rings = known.contexts.get(&context.0).map_or(RINGS, |context| match context.capset {
            CapsetId::VENUS => RINGS,
            _ => 1,
        });
        known.must(ring < rings, || format!("A fence on ring {ring} of {rings}"));
        self.answer(&mut known, ticket, Ok(()))
    }

    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: &Resource3d) -> Progress {
        let mut known = self.known();
        known.call("create");
        if let Some(refused) = self.refuse(&mut known, "create", ticket) {
            known.failed.insert(("resource", resource.0));
            return refused;
        }
        let small = desc.width <= PICTURE && desc.height <= PICTURE;
        let pixels = if small { desc.width as usize * desc.height as usize * 4 } else { 0 };
        known.must(desc.width > 0, || "An image without a width".into());
        known.add(resource, What::Image(*desc), pixels);
        self.answer(&mut known, ticket, Ok(()))
    }

    fn create_blob(&mut self, ticket: Ticket, context: ContextId, blob: &HostBlob) -> Progress {
        let mut known = self.known();
        known.call("create_blob");
        if let Some(refused) = self.refuse(&mut known, "create_blob", ticket) {
            known.failed.insert(("resource", blob.resource.0));
            return refused;
        }
        known.must_be_open(context, "create_blob");
        known.must(blob.size > 0, || "A blob without a size".into());
        known.must(matches!(blob.mem, 2 | 3), || format!("A blob of memory {}", blob.mem));
        let mapping = known.exports.then(|| export(blob.size)).flatten();
        known.add(blob.resource, What::Blob(mapping), 0);
        self.answer(&mut known, ticket, Ok(()))
    }

    fn destroy(&mut self, resource: ResourceId) {
        let mut known = self.known();
        known.call("destroy");
        known.must_exist(resource, "destroy");
        known.resources.remove(&resource.0);
        known.in_use.remove(&resource.0);
        known.leaving.retain(|_, other| *other != resource.0);
        known.on_their_way.retain(|(other, _)| *other != resource.0);
        known.contexts.values_mut().for_each(|context| {
            context.members.remove(&resource.0);
        });
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        let mut known = self.known();
        known.call("attach");
        if let Some(refused) = self.refuse(&mut known, "attach", ticket) {
            return refused;
        }
        known.must_exist(resource, "attach");
        known.must(!entries.is_empty(), || "A backing of nothing".into());
        let had = known.resources.get_mut(&resource.0).map(|had| std::mem::replace(&mut had.attached, true));
        // After a detach that was refused it may be: who asked need not have waited for the answer.
        let once = had != Some(true) || known.kept.contains(&resource.0);
        known.must(once, || format!("{resource:?} is attached twice"));
        if had == Some(false) {
            *known.in_use.entry(resource.0).or_default() += 1;
        }
        self.answer(&mut known, ticket, Ok(()))
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        let mut known = self.known();
        known.call("detach");
        if let Some(refused) = self.refuse(&mut known, "detach", ticket) {
            known.kept.insert(resource.0);
            return refused;
        }
        known.must_exist(resource, "detach");
        // Also where there are none: whether an earlier one was carried out is not known when its answer was not waited for.
        let had = known.resources.get_mut(&resource.0).is_some_and(|had| std::mem::take(&mut had.attached));
        if known.lost {
            // Nobody has them any more.
            return Progress::Done(Ok(()));
        }
        let progress = self.answer(&mut known, ticket, Ok(()));
        match progress {
            Progress::Done(_) if had => known.let_go(resource.0),
            Progress::Later if had => drop(known.leaving.insert(ticket, resource.0)),
            _ => {}
        }
        progress
    }

    fn transfer(&mut self, ticket: Ticket, context: ContextId, _way: Way, transfer: &Transfer3d) -> Progress {
        let mut known = self.known();
        known.call("transfer");
        if let Some(refused) = self.refuse(&mut known, "transfer", ticket) {
            return refused;
        }
        if context.0 != 0 {
            known.must_be_open(context, "transfer");
        }
        known.must_exist(transfer.resource, "transfer");
        let image = known.resources.get(&transfer.resource.0).and_then(|resource| match resource.what {
            What::Image(desc) => Some(desc),
            What::Blob(_) => None,
        });
        if let Some(desc) = image {
            let (area, level) = (transfer.area, transfer.level.min(31));
            let inside = |at: u32, len: u32, size: u32| {
                u64::from(at) + u64::from(len) <= u64::from(size.checked_shr(level).unwrap_or(0).max(1))
            };
            let fits = transfer.level <= desc.last_level
                && inside(area.x, area.width, desc.width)
                && inside(area.y, area.height, desc.height);
            known.must(fits, || format!("{area:?} at level {} of {desc:?}", transfer.level));
        }
        self.answer(&mut known, ticket, Ok(()))
    }

    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping> {
        let known = self.known();
        match &known.resources.get(&resource.0)?.what {
            What::Blob(mapping) => mapping.clone(),
            What::Image(_) => None,
        }
    }

    fn read(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect) -> Progress {
        let mut known = self.known();
        known.call("read");
        if let Some(refused) = self.refuse(&mut known, "read", ticket) {
            return refused;
        }
        known.must_exist(resource, "read");
        known.cast_shadow(resource, true);
        if let Some(Resource { what: What::Image(desc), pixels, drawn, .. }) = known.resources.get_mut(&resource.0) {
            for (pixel, drawn) in pixels.as_chunks_mut::<4>().0.iter_mut().zip(drawn) {
                if std::mem::take(drawn) {
                    *pixel = [0x5a; 4];
                }
            }
            let (width, height) = (desc.width, desc.height);
            let fits = !rect.is_empty() && rect.is_within(width, height);
            known.must(fits, || format!("{rect:?} is read of {width}x{height}"));
        }
        let is_free = !known.on_their_way.iter().any(|(other, part)| *other == resource.0 && part.is_some());
        known.must(is_free, || format!("{resource:?} is read while it is written"));
        let progress = self.answer(&mut known, ticket, Ok(()));
        if progress == Progress::Later {
            known.on_their_way.push((resource.0, None));
        }
        progress
    }

    fn write(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect, pixels: &Pixels<'_>) -> Progress {
        let mut known = self.known();
        known.call("write");
        if let Some(refused) = self.refuse(&mut known, "write", ticket) {
            return refused;
        }
        known.must_exist(resource, "write");
        known.cast_shadow(resource, true);
        let Pixels::Private(from) = *pixels else { panic!("{pixels:?} are not those of an image") };
        let mut whole = true;
        let mut overtaken = false;
        let Known { resources, on_their_way, .. } = &mut *known;
        let on_their_way = on_their_way.iter().filter(|(other, _)| *other == resource.0);
        let parts: Option<Vec<Rect>> = on_their_way.map(|(_, part)| *part).collect();
        if let Some(Resource { what: What::Image(desc), pixels: to, drawn, .. }) = resources.get_mut(&resource.0) {
            let pixel = |x: u32, y: u32| (y as usize * desc.width as usize + x as usize) * 4;
            let same = |x, y| to.get(pixel(x, y)..pixel(x, y) + 4) == from.get(pixel(x, y)..pixel(x, y) + 4);
            // What is not yet taken out of the memory in between may be put there again, but nothing else.
            overtaken = parts.as_ref().is_none_or(|parts| {
                let common = parts.iter().filter_map(|part| part.intersection(&rect));
                let mut pixels = common.flat_map(|Rect { x, y, width, height }| {
                    (y..y + height).flat_map(move |y| (x..x + width).map(move |x| (x, y)))
                });
                !to.is_empty() && pixels.any(|(x, y)| !same(x, y))
            });
            whole = !rect.is_empty()
                && rect.is_within(desc.width, desc.height)
                && (to.is_empty() || to.len() == from.len());
            for row in rect.y..rect.y + rect.height {
                let start = (row as usize * desc.width as usize + rect.x as usize) * 4;
                let part = start..start + rect.width as usize * 4;
                if let (Some(to), Some(from)) = (to.get_mut(part.clone()), from.get(part.clone())) {
                    to.copy_from_slice(from);
                    drawn[part.start / 4..part.end / 4].fill(false);
                }
            }
        }
        known.must(whole, || format!("{rect:?} is written of {resource:?}"));
        known.must(!overtaken, || format!("{rect:?} of {resource:?} is written over what is on its way"));
        let progress = self.answer(&mut known, ticket, Ok(()));
        if progress == Progress::Later {
            known.on_their_way.push((resource.0, Some(rect)));
        }
        progress
    }

    fn forget_pixels(&mut self, resource: ResourceId) {
        let mut known = self.known();
        known.call("forget_pixels");
        known.must_exist(resource, "forget_pixels");
        known.cast_shadow(resource, false);
    }

    fn is_open(&self, context: ContextId) -> bool {
        let known = self.known();
        !known.lost && known.contexts.contains_key(&context.0)
    }

    fn has(&self, resource: ResourceId) -> bool {
        let known = self.known();
        !known.lost && known.resources.contains_key(&resource.0)
    }

    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>> {
        let lent = self.known().resources.get(&resource.0).map(|resource| resource.pixels.clone());
        self.lent = lent.filter(|pixels| !pixels.is_empty())?;
        Some(Pixels::Private(&self.lent))
    }

    fn memory(&mut self, _memory: &Memory) {
        self.known().call("memory");
    }

    fn reset(&mut self) {
        let mut known = self.known();
        known.call("reset");
        known.contexts.clear();
        known.resources.clear();
        known.on_their_way.clear();
        known.in_use.clear();
        known.leaving.clear();
        known.lost = false;
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn poll(&mut self, _now: Instant, done: &mut Vec<Rendered>) {
        let _ = rustix::io::read(&*self.ready, &mut [0u8; 8]);
        let mut known = self.known();
        if known.pace == Pace::Never {
            return;
        }
        let lost = known.lost;
        known.on_their_way.clear();
        // Out of order, for there is nothing between two rings.
        let waiting = std::mem::take(&mut known.waiting);
        for (ticket, result) in waiting.into_iter().rev() {
            if let Some(resource) = known.leaving.remove(&ticket) {
                known.let_go(resource);
            }
            done.push(Rendered { ticket, result: if lost { Err(ReplyError::Unspec) } else { result } });
        }
    }
}
