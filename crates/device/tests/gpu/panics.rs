//! Our own failures: the guest that met one loses what it made, and the process goes on.

use device::{
    Answer, Pages, Pixels, Progress, Rendered, Renderer, ResourceDesc, Start, Ticket, Transfer, VirtioDevice,
};
use protocol::{MemEntry, ReplyError, ResourceId};
use renderer::{Late, Mood, Soft};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::machine::Machine;
use crate::script::Request;

/// Panics when a resource of this name is touched.
const FATAL: ResourceId = ResourceId(666);

/// A renderer with a bug.
struct Fragile<R>(R);

impl<R: Renderer> Renderer for Fragile<R> {
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress {
        self.0.create(ticket, resource, desc)
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.0.destroy(resource);
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        self.0.attach(ticket, resource, entries)
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        assert_ne!(resource, FATAL, "Injected into a detach");
        self.0.detach(ticket, resource)
    }

    fn transfer_to_host(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        transfer: Transfer,
        pages: &Pages<'_>,
    ) -> Progress {
        assert_ne!(resource, FATAL, "Injected into a transfer");
        self.0.transfer_to_host(ticket, resource, transfer, pages)
    }

    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>> {
        self.0.pixels(resource, shared)
    }

    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError> {
        self.0.restore(resource, pixels)
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.poll_fd()
    }

    fn poll(&mut self, done: &mut Vec<Rendered>) {
        self.0.poll(done);
    }
}

fn fragile() -> Machine {
    Machine::with(Box::new(Fragile(Soft::new())), false)
}

fn make_fatal(machine: &mut Machine) {
    machine.must("create_2d 666 bgrx 16x16");
    machine.must("attach 666 0x1000+0x400");
}

#[test]
fn a_panic_costs_the_guest_its_resources_and_nothing_else() {
    let mut machine = fragile();
    machine.must("create_2d 1 bgrx 16x16");
    machine.must("scanout 0 1 0,0+16x16");
    make_fatal(&mut machine);
    assert_eq!(machine.ask("transfer 666 0,0+16x16 fence=5 ctx=2 ring=1"), "unspec fence=5 ctx=2 ring=1");
    let stats = machine.stats.snapshot();
    assert_eq!((stats.panics, stats.resources, stats.image_bytes), (1, 0, 0));
    assert!(machine.screen.seen().heads.is_empty());
    assert_eq!(machine.ask("flush 1 0,0+16x16"), "invalid_resource");
    machine.must("create_2d 1 bgrx 16x16");
    machine.must("attach 1 0x1000+0x400");
    machine.must("transfer 1 0,0+16x16");
    machine.must("scanout 0 1 0,0+16x16");
    machine.must("flush 1 0,0+16x16");
    machine.finish();
}

#[test]
fn three_panics_in_a_minute_stop_the_queues() {
    let mut machine = fragile();
    for _ in 0..2 {
        make_fatal(&mut machine);
        assert_eq!(machine.ask("transfer 666 0,0+16x16"), "unspec");
    }
    make_fatal(&mut machine);
    let Request { bytes, .. } = Request::parse("transfer 666 0,0+16x16");
    let request = device::Request { bytes: &bytes, carried: bytes.len() as u64, writable: 24 };
    let mut reply = Vec::new();
    assert_eq!(machine.gpu.request(&machine.memory, 0, request, &mut reply), Answer::Broken);
    assert!(reply.is_empty());
    assert_eq!(machine.stats.panics.get(), 3);
}

#[test]
fn a_panic_of_a_display_is_caught_like_a_renderers() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgrx 16x16");
    machine.must("scanout 0 1 0,0+16x16");
    machine.screen.seen().panic = true;
    assert_eq!(machine.ask("flush 1 0,0+16x16"), "unspec");
    assert_eq!((machine.stats.panics.get(), machine.stats.resources.get()), (1, 0));
    machine.must("create_2d 1 bgrx 16x16");
    machine.must("scanout 0 1 0,0+16x16");
    machine.must("flush 1 0,0+16x16");
}

/// Panics while nobody asked anything: in what a display had to tell. Time is virtual here.
#[test]
fn panics_far_apart_never_stop_the_queues() {
    let mut machine = Machine::soft();
    for _ in 0..20 {
        machine.must("create_2d 1 bgrx 16x16");
        machine.must("scanout 0 1 0,0+16x16");
        {
            let mut seen = machine.screen.seen();
            seen.panic = true;
            let (scanout, damage) = (protocol::ScanoutId(0), protocol::Rect::of_size(1, 1));
            seen.events.push(device::DisplayEvent::Ready { scanout, damage });
        }
        assert!(!machine.poll().broken);
        assert_eq!(machine.stats.resources.get(), 0);
        machine.pass(Duration::from_secs(31));
    }
    assert_eq!(machine.stats.panics.get(), 20);
}

#[test]
fn panics_close_together_stop_the_queues_outside_of_requests_too() {
    let mut machine = Machine::soft();
    let broken: Vec<bool> = (0..3)
        .map(|_| {
            machine.must("create_2d 1 bgrx 16x16");
            machine.must("scanout 0 1 0,0+16x16");
            let mut seen = machine.screen.seen();
            seen.panic = true;
            let (scanout, damage) = (protocol::ScanoutId(0), protocol::Rect::of_size(1, 1));
            seen.events.push(device::DisplayEvent::Ready { scanout, damage });
            drop(seen);
            machine.pass(Duration::from_secs(1));
            machine.poll().broken
        })
        .collect();
    assert_eq!(broken, [false, false, true]);
}

/// The command that panics was parked before, and others with it: every one of them gets its reply.
#[test]
fn a_panic_in_a_parked_command_leaves_no_ticket_open() {
    for seed in 0..64 {
        let late = Late::new(Soft::new(), Mood::honest(seed)).unwrap();
        let mut machine = Machine::with(Box::new(Fragile(late)), false);
        machine.hasty = true;
        let lines = [
            "create_2d 1 bgrx 16x16",
            "create_2d 666 bgrx 16x16",
            "attach 666 0x1000+0x400",
            "attach 1 0x1000+0x400",
            "transfer 666 0,0+16x16",
            "flush 666 0,0+16x16",
            "transfer 1 0,0+16x16",
            "unref 1",
            "unref 666",
        ];
        let sent = lines.map(|line| machine.send(&Request::parse(line)));
        machine.wait();
        for (line, index) in lines.iter().zip(sent) {
            let reply = machine.reply(index).unwrap();
            assert!(["ok", "unspec", "invalid_resource"].contains(&&*reply), "{line}: {reply}, seed {seed}");
        }
        assert_eq!(machine.stats.panics.get(), 1, "seed {seed}");
        assert_eq!(machine.reply(sent[4]).as_deref(), Some("unspec"), "seed {seed}");
        machine.must("create_2d 2 bgrx 16x16");
        machine.finish();
    }
}

/// Several answers come at once, and the display panics over what the first of them set free.
#[test]
fn a_panic_in_a_parked_flush_leaves_no_ticket_open() {
    for seed in 0..64 {
        let mut machine = Machine::late(Mood::honest(seed), false);
        machine.must("create_2d 1 bgrx 16x16");
        machine.must("create_2d 2 bgrx 16x16");
        machine.must("attach 1 0x1000+0x400");
        machine.must("attach 2 0x1000+0x400");
        machine.must("scanout 0 1 0,0+16x16");
        machine.must("scanout 1 2 0,0+16x16");
        machine.screen.seen().panic = true;
        let lines = ["transfer 1 0,0+16x16", "flush 1 0,0+16x16", "transfer 2 0,0+16x16", "flush 2 0,0+16x16"];
        for line in lines {
            machine.send(&Request::parse(line));
        }
        machine.wait();
        assert_eq!(machine.stats.panics.get(), 1, "seed {seed}");
        machine.finish();
    }
}

#[test]
fn a_panic_while_all_is_given_up_ends_nothing() {
    let late = Late::new(Soft::new(), Mood { never: 255, ..Mood::honest(1) }).unwrap();
    let mut machine = Machine::with(Box::new(DestroyPanics(late)), false);
    for id in 1..10 {
        machine.send(&Request::parse(&format!("create_2d {id} bgrx 16x16")));
    }
    machine.stop();
    machine.gpu.reset();
    machine.start(Start::Fresh);
    assert_eq!(machine.stats.resources.get(), 0);
}

/// A renderer with a bug in its way out.
struct DestroyPanics<R>(R);

impl<R: Renderer> Renderer for DestroyPanics<R> {
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress {
        self.0.create(ticket, resource, desc)
    }

    fn destroy(&mut self, _resource: ResourceId) {
        panic!("Injected into a destroy");
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        self.0.attach(ticket, resource, entries)
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        self.0.detach(ticket, resource)
    }

    fn transfer_to_host(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        transfer: Transfer,
        pages: &Pages<'_>,
    ) -> Progress {
        self.0.transfer_to_host(ticket, resource, transfer, pages)
    }

    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>> {
        self.0.pixels(resource, shared)
    }

    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError> {
        self.0.restore(resource, pixels)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}
