//! The same for contexts: work is carried out in order, answers come in any.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use device::{Capset, HostBlob, HostMapping, Memory, Pixels, Progress, Rendered, ThreeD, Ticket, Way};
use protocol::{CapsetId, ContextId, MemEntry, Rect, Resource3d, ResourceId, Transfer3d};

use super::Late;

impl<T: ThreeD> ThreeD for Late<T> {
    fn capsets(&self) -> &[Capset] {
        self.inner.capsets()
    }

    fn is_full(&self, capset: CapsetId) -> bool {
        self.inner.is_full(capset)
    }

    fn open(&mut self, ticket: Ticket, context: ContextId, capset: CapsetId, name: &[u8]) -> Progress {
        self.answer(ticket, |inner| inner.open(ticket, context, capset, name))
    }

    fn close(&mut self, context: ContextId) {
        self.now += 1;
        self.inner.close(context);
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        self.now += 1;
        self.inner.join(context, resource);
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        self.now += 1;
        self.inner.leave(context, resource);
    }

    fn submit(&mut self, ticket: Ticket, context: ContextId, commands: &[u8]) -> Progress {
        self.answer(ticket, |inner| inner.submit(ticket, context, commands))
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Progress {
        self.answer(ticket, |inner| inner.fence(ticket, context, ring))
    }

    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: &Resource3d) -> Progress {
        self.answer(ticket, |inner| inner.create(ticket, resource, desc))
    }

    fn create_blob(&mut self, ticket: Ticket, context: ContextId, blob: &HostBlob) -> Progress {
        self.answer(ticket, |inner| inner.create_blob(ticket, context, blob))
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.now += 1;
        self.inner.destroy(resource);
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        self.answer(ticket, |inner| inner.attach(ticket, resource, entries))
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        self.answer(ticket, |inner| inner.detach(ticket, resource))
    }

    fn transfer(&mut self, ticket: Ticket, context: ContextId, way: Way, transfer: &Transfer3d) -> Progress {
        self.answer(ticket, |inner| inner.transfer(ticket, context, way, transfer))
    }

    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping> {
        self.now += 1;
        self.inner.mapping(resource)
    }

    fn read(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect) -> Progress {
        self.answer(ticket, |inner| inner.read(ticket, resource, rect))
    }

    fn write(&mut self, ticket: Ticket, resource: ResourceId, rect: Rect, pixels: &Pixels<'_>) -> Progress {
        self.answer(ticket, |inner| inner.write(ticket, resource, rect, pixels))
    }

    fn forget_pixels(&mut self, resource: ResourceId) {
        self.now += 1;
        self.inner.forget_pixels(resource);
    }

    fn is_open(&self, context: ContextId) -> bool {
        self.inner.is_open(context)
    }

    fn has(&self, resource: ResourceId) -> bool {
        self.inner.has(resource)
    }

    fn pixels(&mut self, resource: ResourceId) -> Option<Pixels<'_>> {
        self.now += 1;
        if self.chance(self.mood.blind) {
            return None;
        }
        self.inner.pixels(resource)
    }

    fn memory(&mut self, memory: &Memory) {
        self.inner.memory(memory);
    }

    fn submit_all(&mut self) {
        self.inner.submit_all();
    }

    /// As of a 2D renderer: what is on its way comes all the same.
    fn reset(&mut self) {
        self.now += 1;
        self.inner.reset();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn poll(&mut self, now: Instant, done: &mut Vec<Rendered>) {
        self.give(done);
        self.inner.poll(now, done);
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }
}
