//! What a device asks for, as requests to the process that has it.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use device::three_d::LOST;
use device::{Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Rendered, ThreeD, Ticket, Way, guest_log};
use protocol::{CapsetId, ContextId, MemEntry, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};

use super::attend::IDLE;
use super::host::{Aim, Process};
use super::images::{Black, Image, copy_part};
use super::wire::{Request, Span};
use super::{Context, Home, Isolated, KINDS, Resource, at};
use crate::library::Kind;

impl ThreeD for Isolated {
    fn capsets(&self) -> &[Capset] {
        &self.options.capsets
    }

    fn is_full(&self, capset: CapsetId) -> bool {
        Kind::of(capset).and_then(|kind| self.processes[at(kind)].as_ref()).is_some_and(Process::is_full)
    }

    fn open(&mut self, ticket: Ticket, context: ContextId, capset: CapsetId, name: &[u8]) -> Progress {
        let Some(kind) = Kind::of(capset) else { return Progress::Done(Err(ReplyError::InvalidParameter)) };
        let Some(process) = self.started(kind) else { return LOST };
        let request = Request::Open { context, capset, name: Span::default() };
        process.ask(ticket, Aim::Open(context), request, name);
        process.members += 1;
        let home = Home { kind, life: process.life, made: ticket };
        self.contexts.insert(context, Context { home, name: name.into() });
        Progress::Later
    }

    fn close(&mut self, context: ContextId) {
        if let Some(process) = self.remove_context(context) {
            process.tell(Request::Close { context });
        }
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        if let Some(process) = self.both(context, resource) {
            process.tell(Request::Join { context, resource });
        }
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        if let Some(process) = self.both(context, resource) {
            process.tell(Request::Leave { context, resource });
        }
    }

    fn submit(&mut self, ticket: Ticket, context: ContextId, commands: &[u8]) -> Progress {
        let Some(process) = self.context(context) else { return LOST };
        process.ask(ticket, Aim::Plain, Request::Submit { context, commands: Span::default() }, commands);
        Progress::Later
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Progress {
        let Some(process) = self.context(context) else { return LOST };
        process.ask(ticket, Aim::Fence, Request::Fence { context, ring }, &[]);
        Progress::Later
    }

    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: &Resource3d) -> Progress {
        let Some(process) = self.started(Kind::Gl) else { return LOST };
        process.ask(ticket, Aim::Create(resource), Request::Create { resource, desc: *desc }, &[]);
        self.insert_resource(ticket, Kind::Gl, resource, desc.width, desc.height);
        Progress::Later
    }

    fn create_blob(&mut self, ticket: Ticket, context: ContextId, blob: &HostBlob) -> Progress {
        let Some(kind) = self.contexts.get(&context).map(|context| context.home.kind) else { return LOST };
        let Some(process) = self.context(context) else { return LOST };
        let aim = Aim::Blob(blob.resource, blob.size);
        process.ask(ticket, aim, Request::CreateBlob { context, blob: *blob }, &[]);
        self.insert_resource(ticket, kind, blob.resource, 0, 0);
        Progress::Later
    }

    fn destroy(&mut self, resource: ResourceId) {
        if let Some(process) = self.remove_resource(resource) {
            process.tell(Request::Destroy { resource });
        }
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        let Some(runs) = self.guest.runs(entries) else {
            let guest = &self.options.name;
            guest_log!(
                warn,
                "Guest {guest}: pages of resource {} are not in memory that is shared with us",
                resource.0
            );
            return LOST;
        };
        let Some(process) = self.resource(resource) else { return LOST };
        let Ok(pieces) = process.pieces(&runs) else { return LOST };
        let request = Request::Attach { resource, pieces: Span::default() };
        process.ask(ticket, Aim::Plain, request, bytemuck::cast_slice(&pieces));
        Progress::Later
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        // With the process went all its use of them.
        let Some(process) = self.resource(resource) else { return Progress::Done(Ok(())) };
        process.ask(ticket, Aim::Plain, Request::Detach { resource }, &[]);
        Progress::Later
    }

    fn transfer(&mut self, ticket: Ticket, context: ContextId, way: Way, transfer: &Transfer3d) -> Progress {
        let Some(process) = self.resource(transfer.resource) else { return LOST };
        process.ask(ticket, Aim::Plain, Request::Transfer { context, way, transfer: *transfer }, &[]);
        Progress::Later
    }

    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping> {
        self.resources.get(&resource)?.mapping.clone()
    }

    fn read(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect) -> Progress {
        if self.resource(resource).is_none() {
            return LOST;
        }
        let image = match self.image(resource) {
            Ok(image) => image,
            Err(error) => return Progress::Done(Err(error)),
        };
        let stride = self.resources.get(&resource).map_or(0, |resource| resource.width.saturating_mul(4));
        let Some(process) = self.resource(resource) else { return LOST };
        process.ask(ticket, Aim::Read(resource, image), Request::Read { resource, rect, image, stride }, &[]);
        Progress::Later
    }

    fn write(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect, pixels: &Pixels<'_>) -> Progress {
        if self.resource(resource).is_none() {
            return LOST;
        }
        let number = match self.image(resource) {
            Ok(number) => number,
            Err(error) => return Progress::Done(Err(error)),
        };
        let Some(Resource { width, image: Some(image), .. }) = self.resources.get(&resource) else { return LOST };
        if copy_part(pixels, image.slice(), *width, rect).is_none() {
            return Progress::Done(Err(ReplyError::InvalidParameter));
        }
        let stride = width.saturating_mul(4);
        let Some(process) = self.resource(resource) else { return LOST };
        process.ask(ticket, Aim::Plain, Request::Write { resource, rect, image: number, stride }, &[]);
        Progress::Later
    }

    fn forget_pixels(&mut self, resource: ResourceId) {
        self.drop_image(resource);
    }

    fn is_open(&self, context: ContextId) -> bool {
        self.contexts.get(&context).is_some_and(|context| self.lives(context.home))
    }

    fn has(&self, resource: ResourceId) -> bool {
        self.resources.get(&resource).is_some_and(|resource| self.lives(resource.home))
    }

    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>> {
        let Resource { width, height, image, .. } = self.resources.get(&resource)?;
        let len = u64::from(*width) * u64::from(*height) * 4;
        image.as_ref().and_then(Image::pixels).or_else(|| self.black.pixels(len))
    }

    fn memory(&mut self, memory: &Memory) {
        if self.guest.set(memory) {
            for process in self.processes.iter_mut().flatten() {
                process.keep_regions(|mapping| self.guest.has(mapping));
            }
        }
    }

    fn submit_all(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            process.flush();
            process.announce();
        }
        self.report();
    }

    fn reset(&mut self) {
        let now = Instant::now();
        for kind in KINDS {
            self.dismiss(kind, now);
        }
        self.contexts.clear();
        self.resources.clear();
        self.black = Black::default();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn poll(&mut self, now: Instant, done: &mut Vec<Rendered>) {
        self.attend(now);
        done.append(&mut self.finished);
    }

    fn deadline(&self) -> Option<Instant> {
        if self.again || !self.finished.is_empty() {
            return Some(Instant::now());
        }
        let processes = self.processes.iter().flatten();
        let idle = processes.clone().filter_map(|process| process.idle?.checked_add(IDLE));
        let watched = processes.filter_map(|process| self.clock.ours(process.deadline()?));
        watched.chain(idle).chain(self.departures.deadline()).min()
    }
}
