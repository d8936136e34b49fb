//! A 3D library as the device has it, serving programs of this host: Mesa's drivers speak to it as to virglrenderer's own test
//! server, over a socket, so that the same program draws natively, by that server and by Beamsplit's library, without a VM.
//!
//! Messages are words of 32 bits: how many follow the two of the header, which command, and those. A descriptor comes with one byte of
//! its own after its reply.

use std::collections::{HashMap, HashSet};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::sync::Arc;
use std::time::Instant;

use device::{Capset, HostBlob, Memory, Progress, Region, Rendered, ThreeD, Ticket, Way};
use protocol::{Box3d, CapsetId, ContextId, MemEntry, Resource3d, ResourceId, Transfer3d};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vm_memory::{FileOffset, MmapRegion};

use crate::error::{Doing, Error, Result};

/// Commands, by their numbers.
mod command {
    pub const GET_CAPS: u32 = 1;
    pub const RESOURCE_UNREF: u32 = 3;
    pub const SUBMIT: u32 = 6;
    pub const BUSY_WAIT: u32 = 7;
    pub const CREATE_RENDERER: u32 = 8;
    pub const GET_CAPS2: u32 = 9;
    pub const PING: u32 = 10;
    pub const VERSION: u32 = 11;
    pub const RESOURCE_CREATE2: u32 = 12;
    pub const TRANSFER_GET2: u32 = 13;
    pub const TRANSFER_PUT2: u32 = 14;
    pub const GET_PARAM: u32 = 15;
    pub const GET_CAPSET: u32 = 16;
    pub const CONTEXT_INIT: u32 = 17;
    pub const CREATE_BLOB: u32 = 18;
    pub const SYNC_CREATE: u32 = 19;
    pub const SYNC_UNREF: u32 = 20;
    pub const SYNC_READ: u32 = 21;
    pub const SYNC_WRITE: u32 = 22;
    pub const SYNC_WAIT: u32 = 23;
    pub const SUBMIT2: u32 = 24;
}

/// The newest version of the protocol: resources and synchronization objects get their names here.
const VERSION: u32 = 3;
/// Bytes of the first OpenGL set, which clients read whatever they were told.
const FIRST_CAPS: usize = 308;
const PAGE: u64 = 4096;
/// `VIRGL_BIND_CUSTOM`: what is not for drawing.
const CUSTOM: u32 = 1 << 17;
/// What is not read at once is read next.
const READ: usize = 256 << 10;

/// What one client has.
struct Client {
    socket: UnixStream,
    /// What came and is not done.
    buffer: Vec<u8>,
    context: ContextId,
    open: bool,
    version: u32,
    syncs: HashMap<u32, u64>,
    waits: Vec<Wait>,
    /// Fences, and what each sets.
    fences: HashMap<Ticket, Vec<(u32, u64)>>,
}

/// Somebody waits for values of synchronization objects.
struct Wait {
    any: bool,
    points: Vec<(u32, u64)>,
    bell: OwnedFd,
}

impl Wait {
    fn is_over(&self, syncs: &HashMap<u32, u64>) -> bool {
        let mut reached = self.points.iter().map(|(id, value)| syncs.get(id).is_none_or(|now| now >= value));
        if self.any { reached.any(|reached| reached) } else { reached.all(|reached| reached) }
    }
}

/// A library that serves one client after the other.
pub struct Service {
    three_d: Box<dyn ThreeD>,
    capsets: Vec<Capset>,
    regions: Vec<Region>,
    /// Where the pages of resources are.
    pages: HashMap<ResourceId, u64>,
    /// Where the next resource's pages begin.
    address: u64,
    next: u32,
    tickets: u64,
    done: Vec<Rendered>,
    room: Box<[u8]>,
}

fn odd(what: &str) -> Error {
    Error::NotDone(format!("A client of the 3D library: {what}"))
}

fn long(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Service {
    /// Serves what `capsets` say.
    pub fn new(three_d: Box<dyn ThreeD>, capsets: Vec<Capset>) -> Self {
        let room = vec![0; READ].into_boxed_slice();
        Self {
            three_d,
            capsets,
            regions: Vec::new(),
            pages: HashMap::new(),
            address: PAGE,
            next: 0,
            tickets: 0,
            done: Vec::new(),
            room,
        }
    }

    /// Serves whoever connects until a program has ended.
    pub fn serve(&mut self, listener: &UnixListener, program: &Child) -> Result<()> {
        let ended = pidfd_open(Pid::from_child(program), PidfdFlags::empty()).doing("watch a program")?;
        loop {
            if ready([listener.as_fd(), ended.as_fd()], None)?[1] {
                return Ok(());
            }
            let (socket, _) = listener.accept().doing("accept a client")?;
            self.next += 1;
            let mut client = Client {
                socket,
                buffer: Vec::new(),
                context: ContextId(self.next),
                open: false,
                version: 0,
                syncs: HashMap::new(),
                waits: Vec::new(),
                fences: HashMap::new(),
            };
            while self.attend(&mut client)? {}
            if client.open {
                self.three_d.close(client.context);
            }
        }
    }

    /// Waits for something and does it. False: the client is gone.
    fn attend(&mut self, client: &mut Client) -> Result<bool> {
        self.three_d.submit_all();
        let [comes, told] = {
            let bell = self.three_d.poll_fd().ok_or_else(|| odd("the library has no news"))?;
            ready([client.socket.as_fd(), bell], self.three_d.deadline())?
        };
        if told || !comes {
            self.hear(client)?;
        }
        if !comes {
            return Ok(true);
        }
        let (_, count) = recv(&client.socket, &mut self.room[..], RecvFlags::empty()).doing("hear a client")?;
        let mut buffer = std::mem::take(&mut client.buffer);
        buffer.extend_from_slice(&self.room[..count]);
        let mut rest = buffer.as_slice();
        while let Some((code, body, after)) = split(rest) {
            self.command(client, code, body)?;
            rest = after;
        }
        let done = buffer.len() - rest.len();
        buffer.drain(..done);
        client.buffer = buffer;
        Ok(count > 0)
    }

    /// Has what the library finished.
    fn hear(&mut self, client: &mut Client) -> Result<()> {
        self.three_d.poll(Instant::now(), &mut self.done);
        for rendered in self.done.drain(..) {
            for (sync, value) in client.fences.remove(&rendered.ticket).unwrap_or_default() {
                client.syncs.insert(sync, value);
            }
        }
        client.ring()
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Does something and waits until it is done.
    fn must(
        &mut self,
        client: &mut Client,
        what: &str,
        call: impl FnOnce(&mut dyn ThreeD, Ticket) -> Progress,
    ) -> Result<()> {
        self.later(client, what, call)?;
        let ticket = Ticket(self.tickets);
        if client.fences.contains_key(&ticket) { self.settle(client, &HashSet::from([ticket])) } else { Ok(()) }
    }

    /// Waits until all these are done.
    fn settle(&mut self, client: &mut Client, tickets: &HashSet<Ticket>) -> Result<()> {
        loop {
            self.three_d.submit_all();
            self.hear(client)?;
            if !client.fences.keys().any(|ticket| tickets.contains(ticket)) {
                return Ok(());
            }
            let bell = self.three_d.poll_fd().ok_or_else(|| odd("the library has no news"))?;
            ready([bell], self.three_d.deadline())?;
        }
    }

    /// Does something that is waited for later, if at all.
    fn later(
        &mut self,
        client: &mut Client,
        what: &str,
        call: impl FnOnce(&mut dyn ThreeD, Ticket) -> Progress,
    ) -> Result<()> {
        let ticket = self.ticket();
        match call(self.three_d.as_mut(), ticket) {
            Progress::Done(result) => result.map_err(|_| odd(what)),
            Progress::Later => {
                client.fences.insert(ticket, Vec::new());
                Ok(())
            }
        }
    }

    /// Sets these when all before is done.
    fn fence(&mut self, client: &mut Client, ring: u8, sets: Vec<(u32, u64)>) -> Result<()> {
        let ticket = self.ticket();
        match self.three_d.fence(ticket, client.context, ring) {
            Progress::Done(_) => client.syncs.extend(sets),
            Progress::Later => drop(client.fences.insert(ticket, sets)),
        }
        client.ring()
    }

    fn open(&mut self, client: &mut Client, capset: CapsetId) -> Result<()> {
        if client.open {
            return Ok(());
        }
        client.open = true;
        let context = client.context;
        self.must(client, "a context", |three_d, ticket| three_d.open(ticket, context, capset, b"bench"))
    }

    fn caps(&self, id: CapsetId) -> &[u8] {
        self.capsets.iter().find(|capset| capset.id == id).map_or(&[], |capset| &capset.bytes)
    }

    fn command(&mut self, client: &mut Client, code: u32, body: &[u8]) -> Result<()> {
        let words: Vec<u32> = body.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let word = |place: usize| words.get(place).copied().unwrap_or(0);
        match code {
            command::CREATE_RENDERER => Ok(()),
            command::PING => client.reply(code, 0, &[]),
            command::VERSION => {
                client.version = word(0).min(VERSION);
                client.reply(code, 1, &client.version.to_le_bytes())
            }
            command::GET_CAPS2 => {
                let caps = self.caps(CapsetId::VIRGL2).to_vec();
                client.reply(CapsetId::VIRGL2.0, caps.len() as u32 + 1, &caps)
            }
            command::GET_CAPS => {
                let mut caps = self.caps(CapsetId::VIRGL).to_vec();
                caps.resize(FIRST_CAPS, 0);
                client.reply(CapsetId::VIRGL.0, FIRST_CAPS as u32 + 1, &caps)
            }
            command::GET_PARAM => {
                let timelines = self.capsets.iter().map(|capset| u32::from(capset.rings)).max().unwrap_or(0);
                let known = u32::from(word(0) == 1);
                client.reply(code, 2, &super::words_as_bytes(&[known, known * timelines]))
            }
            command::GET_CAPSET => {
                let caps = self.caps(CapsetId(word(0)));
                let body = [&u32::from(!caps.is_empty()).to_le_bytes(), caps].concat();
                client.reply(code, body.len() as u32 / 4, &body)
            }
            command::CONTEXT_INIT => self.open(client, CapsetId(word(0))),
            command::RESOURCE_CREATE2 => self.resource(client, &words),
            command::RESOURCE_UNREF => {
                self.three_d.destroy(ResourceId(word(0)));
                match self.pages.remove(&ResourceId(word(0))) {
                    Some(address) => {
                        self.regions.retain(|region| region.start != address);
                        self.remember()
                    }
                    None => Ok(()),
                }
            }
            command::TRANSFER_GET2 | command::TRANSFER_PUT2 => {
                let [x, y, z] = [word(2), word(3), word(4)];
                let area = Box3d { x, y, z, width: word(5), height: word(6), depth: word(7) };
                let (resource, level, offset) = (ResourceId(word(0)), word(1), u64::from(word(9)));
                let transfer = Transfer3d { area, offset, resource, level, stride: 0, layer_stride: 0 };
                let way = if code == command::TRANSFER_PUT2 { Way::ToHost } else { Way::FromHost };
                let context = client.context;
                self.later(client, "a transfer", |three_d, ticket| three_d.transfer(ticket, context, way, &transfer))
            }
            command::SUBMIT => {
                self.open(client, CapsetId::VIRGL2)?;
                let context = client.context;
                self.later(client, "a submit", |three_d, ticket| three_d.submit(ticket, context, body))?;
                self.fence(client, 0, Vec::new())
            }
            command::BUSY_WAIT => {
                if word(1) & 1 != 0 {
                    let all = client.fences.keys().copied().collect();
                    self.settle(client, &all)?;
                } else {
                    self.hear(client)?;
                }
                let busy = u32::from(!client.fences.is_empty());
                client.reply(code, 1, &busy.to_le_bytes())
            }
            command::CREATE_BLOB => {
                let blob = HostBlob {
                    resource: self.name(),
                    mem: word(0),
                    flags: word(1),
                    id: long(word(4), word(5)),
                    size: long(word(2), word(3)),
                };
                let context = client.context;
                self.must(client, "a blob", |three_d, ticket| three_d.create_blob(ticket, context, &blob))?;
                self.three_d.join(context, blob.resource);
                let mapping = self.three_d.mapping(blob.resource).ok_or_else(|| odd("a blob without memory"))?;
                client.reply(code, 1, &blob.resource.0.to_le_bytes())?;
                client.give(mapping.file.as_fd())
            }
            command::SYNC_CREATE => {
                let id = self.name().0;
                client.syncs.insert(id, long(word(0), word(1)));
                client.reply(code, 1, &id.to_le_bytes())
            }
            command::SYNC_UNREF => {
                client.syncs.remove(&word(0));
                client.ring()
            }
            command::SYNC_READ => {
                self.hear(client)?;
                let value = client.syncs.get(&word(0)).copied().unwrap_or(0);
                client.reply(code, 2, &value.to_le_bytes())
            }
            command::SYNC_WRITE => {
                client.syncs.insert(word(0), long(word(1), word(2)));
                client.ring()
            }
            command::SYNC_WAIT => {
                let points = words.get(2..).unwrap_or_default().as_chunks::<3>().0;
                let points = points.iter().map(|[id, low, high]| (*id, long(*low, *high))).collect();
                let bell = eventfd(0, EventfdFlags::CLOEXEC).doing("make an eventfd")?;
                client.reply(code, 0, &[])?;
                client.give(bell.as_fd())?;
                client.waits.push(Wait { any: word(0) & 1 != 0, points, bell });
                self.hear(client)
            }
            command::SUBMIT2 => self.batches(client, body, &words),
            _ => Err(odd(&format!("command {code}"))),
        }
    }

    fn name(&mut self) -> ResourceId {
        self.next += 1;
        ResourceId(self.next)
    }

    /// A resource of OpenGL, with pages of its own if it is to have some.
    fn resource(&mut self, client: &mut Client, words: &[u32]) -> Result<()> {
        let &[id, target, format, bind, width, height, depth, array_size, last_level, nr_samples, bytes] = words else {
            return Err(odd("a resource of other words"));
        };
        self.open(client, CapsetId::VIRGL2)?;
        let id = if id == 0 { self.name() } else { ResourceId(id) };
        let desc =
            Resource3d { target, format, bind, width, height, depth, array_size, last_level, nr_samples, flags: 0 };
        self.must(client, "a resource", |three_d, ticket| three_d.create(ticket, id, &desc))?;
        self.three_d.join(client.context, id);
        if client.version >= VERSION {
            client.reply(command::RESOURCE_CREATE2, 1, &id.0.to_le_bytes())?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let pages = u64::from(bytes).next_multiple_of(PAGE);
        let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).doing("make pages")?;
        ftruncate(&file, pages).doing("make pages")?;
        client.give(file.as_fd())?;
        if bind == CUSTOM && array_size == 0 {
            // A fence of Mesa's: nobody looks at its pages. A guest's memory is not made anew for each, either.
            return Ok(());
        }
        let mapping = MmapRegion::from_file(FileOffset::new(file.into(), 0), pages as usize);
        let mapping = Arc::new(mapping.map_err(std::io::Error::other).doing("map pages")?);
        self.regions.push(Region { start: self.address, len: pages, mapping, offset: 0, usable: true });
        self.pages.insert(id, self.address);
        self.remember()?;
        let entries = [MemEntry { addr: self.address, length: pages as u32 }];
        self.address += pages + PAGE;
        self.must(client, "pages", |three_d, ticket| three_d.attach(ticket, id, &entries))
    }

    /// The library is told of the pages that there are.
    fn remember(&mut self) -> Result<()> {
        let memory = Memory::new(self.regions.clone()).map_err(|error| odd(&error.to_string()))?;
        self.three_d.memory(&memory);
        Ok(())
    }

    /// Commands of several timelines, and what is set when each is done.
    fn batches(&mut self, client: &mut Client, body: &[u8], words: &[u32]) -> Result<()> {
        let (Some(&count), Some(&begin)) = (words.first(), words.get(2)) else {
            return Err(odd("a submit of no words"));
        };
        // What follows the batches says how long each is: there are two versions of that.
        let length = (begin as usize).saturating_sub(1) / (count as usize).max(1);
        for batch in words.get(1..begin as usize).unwrap_or_default().chunks_exact(length.max(6)) {
            let [flags, at, size, syncs_at, syncs, ring] = batch[..6] else { return Err(odd("a short batch")) };
            let part = |at: u32, words: u32| {
                let (at, len) = (at as usize * 4, words as usize * 4);
                body.get(at..at + len).ok_or_else(|| odd("a batch outside of its submit"))
            };
            let (context, commands) = (client.context, part(at, size)?);
            if !commands.is_empty() {
                self.later(client, "a submit", |three_d, ticket| three_d.submit(ticket, context, commands))?;
            }
            let sets = part(syncs_at, syncs * 3)?.as_chunks::<12>().0.iter();
            let sets: Vec<_> = sets
                .map(|[a, b, c, d, rest @ ..]| (u32::from_le_bytes([*a, *b, *c, *d]), u64::from_le_bytes(*rest)))
                .collect();
            if !sets.is_empty() {
                self.fence(client, if flags & 1 != 0 { ring as u8 } else { 0 }, sets)?;
            }
        }
        Ok(())
    }
}

impl Client {
    /// A reply, whose length is as its command has it.
    fn reply(&mut self, code: u32, length: u32, body: &[u8]) -> Result<()> {
        let message = [&length.to_le_bytes()[..], &code.to_le_bytes(), body].concat();
        self.socket.write_all(&message).doing("answer a client")
    }

    fn give(&mut self, file: BorrowedFd<'_>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        let files = [file];
        with.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut with, SendFlags::empty())
            .doing("give a client a descriptor")?;
        Ok(())
    }

    /// Wakes those whose wait is over.
    fn ring(&mut self) -> Result<()> {
        for over in self.waits.extract_if(.., |wait| wait.is_over(&self.syncs)) {
            rustix::io::write(&over.bell, &1u64.to_ne_bytes()).doing("wake a client")?;
        }
        Ok(())
    }
}

/// The first message, if all of it is there: its command, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let ([length, code], rest) = (bytes.get(..8)?.as_chunks::<4>().0.first_chunk::<2>()?, &bytes[8..]);
    let (length, code) = (u32::from_le_bytes(*length) as usize, u32::from_le_bytes(*code));
    let bytes = match code {
        // The name is counted in bytes, and a transfer's words include bytes that are in shared memory.
        command::CREATE_RENDERER => length,
        command::TRANSFER_GET2 | command::TRANSFER_PUT2 => 40,
        _ => length * 4,
    };
    let (body, after) = rest.split_at_checked(bytes)?;
    Some((code, body, after))
}

/// Which of these can be read; waits for the first, but no longer than until it is due.
fn ready<const N: usize>(fds: [BorrowedFd<'_>; N], due: Option<Instant>) -> Result<[bool; N]> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
    poll(&mut fds, left.as_ref()).doing("wait")?;
    Ok(fds.map(|fd| !fd.revents().is_empty()))
}
