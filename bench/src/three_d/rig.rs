//! A 3D library as the device drives it, without the device: calls, one doorbell, and a wait for what it promised.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{Capset, HostBlob, HostMapping, Memory, Progress, Rendered, Stats, ThreeD, Ticket, Way};
use protocol::{Box3d, CapsetId, ContextId, MemEntry, Resource3d, ResourceId, Transfer3d};
use renderer::isolated::{Isolated, Options};
use renderer::library::Kind;
use renderer::virgl::InProcess;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use transport::loopback::table;

use super::child::{Processes, Programs, Start, start};
use super::scene::{self, IMAGE, SIDE, UPLOAD, VERTICES};
use crate::error::{Doing, Error, Result};
use crate::process;

/// A machine that is so slow that a wait of this length is in vain is none to measure on.
const LIMIT: Duration = Duration::from_secs(120);
/// Where pages of resources lie.
const PAGES: u64 = 1 << 20;
/// The one context.
const CONTEXT: ContextId = ContextId(1);

/// Where the library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the thread that asks.
    InProcess,
    /// In a process of its own.
    Isolated,
}

/// A library with one context.
pub struct Rig {
    three_d: Box<dyn ThreeD>,
    memory: Memory,
    /// Nothing when the library is on this thread.
    processes: Option<Arc<Processes>>,
    kind: Kind,
    tickets: u64,
    done: Vec<Rendered>,
}

fn failed(what: &str) -> Error {
    Error::NotDone(format!("{what} failed"))
}

/// A library, and its processes if it has some.
type WithProcesses = (Box<dyn ThreeD>, Option<Arc<Processes>>);

/// Makes a library that offers these sets; `program` starts its processes, if it gets some.
pub(super) fn library(place: Place, kind: Kind, capsets: Vec<Capset>, program: Start) -> Result<WithProcesses> {
    if place == Place::InProcess {
        let library = InProcess::new(capsets, Box::new(move |sink| start(kind, sink))).doing("make a library")?;
        return Ok((Box::new(library), None));
    }
    let programs = Programs::new(program).doing("make an eventfd")?;
    let processes = programs.processes();
    let (patience, stats) = (Duration::from_secs(60), Arc::new(Stats::default()));
    let options = Options { capsets, patience, restarts: 6, name: "bench".into(), stats };
    let isolated = Isolated::new(options, Box::new(programs)).doing("make an isolated library")?;
    Ok((Box::new(isolated), Some(processes)))
}

impl Rig {
    /// Starts a library, whose process, if it gets one, `program` starts. A process has at most one in-process library in its life.
    pub fn new(place: Place, kind: Kind, program: Start) -> Result<Self> {
        let capset = match kind {
            Kind::Gl => Capset { id: CapsetId::VIRGL2, version: 2, bytes: vec![].into(), rings: 1, maps: false },
            Kind::Vk => Capset { id: CapsetId::VENUS, version: 0, bytes: vec![].into(), rings: 64, maps: true },
        };
        let id = capset.id;
        let (three_d, processes) = library(place, kind, vec![capset], program)?;
        let memory = table(&[(0, 8 << 20)]);
        let mut rig = Self { three_d, memory, processes, kind, tickets: 0, done: Vec::new() };
        rig.three_d.memory(&rig.memory);
        rig.must("A context", |three_d, ticket| three_d.open(ticket, CONTEXT, id, b"bench"))?;
        Ok(rig)
    }

    /// A library with everything that the scene needs.
    pub fn with_scene(place: Place, program: Start) -> Result<Self> {
        let mut rig = Self::new(place, Kind::Gl, program)?;
        let image = Resource3d {
            target: 2,
            format: 1,
            bind: 2 | 8,
            width: SIDE,
            height: SIDE,
            depth: 1,
            array_size: 1,
            ..Default::default()
        };
        let buffer = |width, bind| Resource3d {
            target: 0,
            format: 64,
            bind,
            width,
            height: 1,
            depth: 1,
            array_size: 1,
            ..Default::default()
        };
        for (id, desc) in [(IMAGE, image), (VERTICES, buffer(1 << 14, 1 << 4)), (UPLOAD, buffer(1 << 20, 1 << 4))] {
            let id = ResourceId(id);
            rig.must("A resource", |three_d, ticket| three_d.create(ticket, id, &desc))?;
            rig.three_d.join(CONTEXT, id);
        }
        for (id, at, length) in [(VERTICES, PAGES, 1 << 14), (UPLOAD, 2 * PAGES, 1 << 20)] {
            let entries = [MemEntry { addr: at, length }];
            rig.must("Pages", |three_d, ticket| three_d.attach(ticket, ResourceId(id), &entries))?;
        }
        let vertices = scene::vertices();
        if let Some(slice) = rig.memory.slice(PAGES, vertices.len() as u64) {
            slice.copy_from(&vertices);
        }
        rig.upload(VERTICES, vertices.len() as u32)?;
        rig.submit(&scene::set_up())?;
        rig.fence()?;
        Ok(rig)
    }

    /// Does something and waits until it is done.
    fn must(&mut self, what: &str, call: impl FnOnce(&mut dyn ThreeD, Ticket) -> Progress) -> Result<()> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        match call(self.three_d.as_mut(), ticket) {
            Progress::Done(result) => result.map_err(|_| failed(what)),
            Progress::Later => self.wait(ticket, what),
        }
    }

    fn wait(&mut self, ticket: Ticket, what: &str) -> Result<()> {
        self.three_d.submit_all();
        let begin = Instant::now();
        loop {
            self.three_d.poll(Instant::now(), &mut self.done);
            let found = self.done.iter().find(|rendered| rendered.ticket == ticket).copied();
            self.done.clear();
            if let Some(rendered) = found {
                return rendered.result.map_err(|_| failed(what));
            }
            if begin.elapsed() > LIMIT {
                return Err(failed(what));
            }
            let fd = self.three_d.poll_fd().ok_or_else(|| failed(what))?;
            let due = self.three_d.deadline().map_or(LIMIT, |due| due.saturating_duration_since(Instant::now()));
            let due = Timespec { tv_sec: due.as_secs() as i64, tv_nsec: due.subsec_nanos().into() };
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&due)).doing("wait for the library")?;
        }
    }

    /// Commands, not waited for unless that is how the library works.
    pub fn submit(&mut self, words: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.submit_bytes(&bytes)
    }

    /// As [`submit`](Self::submit), of bytes that are there already.
    pub fn submit_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.tickets += 1;
        match self.three_d.submit(Ticket(self.tickets), CONTEXT, bytes) {
            Progress::Done(Err(_)) => Err(failed("A submit")),
            Progress::Done(Ok(())) | Progress::Later => Ok(()),
        }
    }

    /// Commands whose answer is waited for, which does not say that they are done.
    pub fn submit_alone(&mut self, bytes: &[u8]) -> Result<()> {
        self.must("A submit", |three_d, ticket| three_d.submit(ticket, CONTEXT, bytes))
    }

    /// Waits until all that was submitted is done.
    pub fn fence(&mut self) -> Result<()> {
        self.must("A fence", |three_d, ticket| three_d.fence(ticket, CONTEXT, 0))
    }

    /// Copies the first bytes of a buffer's pages into it.
    pub fn upload(&mut self, resource: u32, bytes: u32) -> Result<()> {
        let area = Box3d { width: bytes, height: 1, depth: 1, ..Box3d::default() };
        let transfer =
            Transfer3d { area, offset: 0, resource: ResourceId(resource), level: 0, stride: 0, layer_stride: 0 };
        self.must("An upload", |three_d, ticket| three_d.transfer(ticket, CONTEXT, Way::ToHost, &transfer))
    }

    /// Makes a blob of this size, has its memory, and lets it go.
    pub fn blob(&mut self, size: u64) -> Result<HostMapping> {
        let blob = HostBlob { resource: ResourceId(100), mem: 2, flags: 1, id: 0, size };
        self.must("A blob", |three_d, ticket| three_d.create_blob(ticket, CONTEXT, &blob))?;
        let mapping = self.three_d.mapping(blob.resource).ok_or_else(|| failed("A blob's memory"))?;
        self.three_d.destroy(blob.resource);
        Ok(mapping)
    }

    /// This process, and the library's.
    pub fn processes(&self) -> Vec<Pid> {
        let others = self.processes.as_ref().map(|processes| processes.alive(self.kind)).unwrap_or_default();
        std::iter::once(rustix::process::getpid()).chain(others).collect()
    }

    /// How often a thread of all these processes went to sleep so far, which is how often one woke or will.
    pub fn sleeps(&self) -> Result<u64> {
        self.processes().into_iter().map(process::sleeps).sum()
    }

    /// Nanoseconds of processor that all these processes took so far.
    pub fn cpu_time(&self) -> Result<u64> {
        self.processes().into_iter().map(process::cpu_time).sum()
    }
}
