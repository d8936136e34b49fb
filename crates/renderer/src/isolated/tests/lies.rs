//! Processes that tell what cannot be.

use std::sync::atomic::Ordering;

use device::ThreeD;

use super::super::shared::{Consumer, EVENTS, Producer, REQUESTS, Shared};
use super::super::socket::{Received, receive, send_whole, wait_to_receive};
use super::super::wire::{Event, FromChild, UNANSWERED, at, decode, encode_event};
use super::*;

/// The other end as no library's process has it: with every word of it to write.
pub struct Liar {
    socket: OwnedFd,
    memory: Shared,
    device: OwnedFd,
    requests: Consumer,
    events: Producer,
}

impl Liar {
    pub fn new(socket: OwnedFd) -> Self {
        let [memory, _bell, device]: [OwnedFd; 3] = loop {
            match receive(socket.as_fd()) {
                Received::Message(ToChild::Hello, fds) => break fds.try_into().unwrap(),
                Received::Nothing => wait_to_receive(socket.as_fd()).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let memory = Shared::map(memory).unwrap();
        let liar = Self { socket, memory, device, requests: Consumer::new(REQUESTS), events: Producer::new(EVENTS) };
        liar.say(&FromChild::Found, &[]);
        liar
    }

    pub fn say(&self, message: &FromChild, fds: &[BorrowedFd<'_>]) {
        let _ = send_whole(self.socket.as_fd(), message, fds);
    }

    /// The next request; none once the device hung up.
    pub fn next(&mut self) -> Option<(Ticket, Request)> {
        let mut words = wire::RequestWords::default();
        while !self.requests.peek(&self.memory, bytemuck::bytes_of_mut(&mut words)).unwrap() {
            // Never sleeps, so nobody has to wake it.
            if let Received::Closed = receive::<ToChild>(self.socket.as_fd()) {
                return None;
            }
            thread::yield_now();
        }
        self.requests.done(&self.memory);
        decode(&words)
    }

    pub fn tell(&mut self, ticket: Ticket, event: Event) {
        self.words(encode_event(ticket, event));
    }

    pub fn words(&mut self, words: [u64; 2]) {
        while !self.events.has_room() {
            self.events.look(&self.memory).unwrap();
            if let Received::Closed = receive::<ToChild>(self.socket.as_fd()) {
                return;
            }
        }
        self.events.push(&self.memory, bytemuck::bytes_of(&words));
        if self.memory.must_wake(at::DEVICE_SLEEPS) {
            ring_bell(&self.device);
        }
    }

    /// Answers as a library to which everything succeeds.
    pub fn answer(&mut self, ticket: Ticket, request: &Request) {
        match request {
            _ if ticket == UNANSWERED => {}
            Request::Fence { .. } => self.tell(ticket, Event::Retired),
            _ => self.tell(ticket, Event::Done(Ok(()))),
        }
    }

    /// Until the device hangs up.
    pub fn linger(mut self) {
        while let Some((ticket, request)) = self.next() {
            self.answer(ticket, &request);
        }
    }
}

/// Answers so many requests and dies.
pub fn serve_some(socket: OwnedFd, requests: u32) {
    let mut liar = Liar::new(socket);
    for _ in 0..requests {
        let Some((ticket, request)) = liar.next() else { return };
        liar.answer(ticket, &request);
    }
}

#[test]
fn answers_that_nobody_waits_for_are_counted_and_change_nothing() {
    let mut desk = Desk::new(|_, socket| {
        let mut liar = Liar::new(socket);
        let foreign = [Ticket(0), Ticket(7777), Ticket(u64::MAX)];
        while let Some((ticket, request)) = liar.next() {
            // Before, twice, and of another kind.
            for ticket in foreign {
                liar.tell(ticket, Event::Done(Ok(())));
            }
            let wrong = match request {
                Request::Fence { .. } => Event::Done(Ok(())),
                _ => Event::Retired,
            };
            liar.tell(ticket, wrong);
            liar.words([ticket.0, 0x77]);
            liar.answer(ticket, &request);
            liar.answer(ticket, &request);
            liar.tell(ticket, Event::Exported);
        }
    });
    let opened = desk.open(1, CapsetId::VIRGL2);
    let fenced = desk.fence(1, 0);
    let created = desk.create(5, 1, 1);
    desk.settle();
    assert!([opened, fenced, created].iter().all(|ticket| desk.is_ok(*ticket)));
    desk.until("all lies", |desk| desk.stats.renderer_lies.get() == 3 * 7);
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
}

#[test]
fn a_ticket_is_not_answered_before_its_request_was_sent() {
    let (go, wait) = std::sync::mpsc::channel::<Ticket>();
    let wait = Mutex::new(wait);
    let mut desk = Desk::new(move |_, socket| {
        let mut liar = Liar::new(socket);
        let (ticket, request) = liar.next().unwrap();
        liar.answer(ticket, &request);
        // What follows waits for room.
        let last = wait.lock().unwrap().recv().unwrap();
        liar.tell(last, Event::Done(Ok(())));
        let _ = wait.lock().unwrap().recv();
        liar.linger();
    });
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    let submits: Vec<_> = (0..2 * wire::REQUESTS).map(|_| desk.submit(1, b"")).collect();
    desk.turn();
    go.send(*submits.last().unwrap()).unwrap();
    desk.until("the lie", |desk| desk.stats.renderer_lies.get() == 1);
    drop(go);
    desk.settle();
    assert!(desk.order[1..] == submits);
}

#[test]
fn one_that_lies_all_the_time_is_ended() {
    let mut desk = Desk::new(|_, socket| {
        let mut liar = Liar::new(socket);
        for ticket in 0..2000 {
            liar.tell(Ticket(1 << 40 | ticket), Event::Retired);
        }
        liar.linger();
    });
    desk.open(1, CapsetId::VIRGL2);
    desk.until("its end", |desk| desk.stats.renderer_deaths.get() == 1);
    assert!(desk.stats.renderer_lies.get() > 1000);
    assert_eq!(*desk.killed.lock().unwrap(), [1]);
}

#[test]
fn an_index_that_jumps_ends_it() {
    for (word, value) in [
        (at::REQUESTS_HEAD, u32::MAX),
        (at::REQUESTS_HEAD, 2),
        (at::REQUESTS_HEAD, 1 << 31),
        (at::EVENTS_TAIL, wire::EVENTS + 1),
        (at::EVENTS_TAIL, u32::MAX),
    ] {
        let mut desk = Desk::new(move |_, socket| {
            let liar = Liar::new(socket);
            liar.memory.word(word).store(value, Ordering::SeqCst);
            ring_bell(&liar.device);
            while !matches!(receive::<ToChild>(liar.socket.as_fd()), Received::Closed) {
                thread::yield_now();
            }
        });
        desk.open(1, CapsetId::VIRGL2);
        desk.settle();
        assert_eq!(desk.stats.renderer_deaths.get(), 1, "{word} {value:#x}");
    }
}

#[test]
fn a_ring_full_of_rubbish_is_not_believed() {
    let mut desk = Desk::new(|_, socket| {
        let liar = Liar::new(socket);
        liar.memory.word(at::EVENTS_TAIL).store(wire::EVENTS, Ordering::SeqCst);
        ring_bell(&liar.device);
        while !matches!(receive::<ToChild>(liar.socket.as_fd()), Received::Closed) {
            thread::yield_now();
        }
    });
    desk.open(1, CapsetId::VIRGL2);
    desk.settle();
    assert_eq!(desk.stats.renderer_deaths.get(), 1);
}

/// Offers files for blobs, the one that is asked for by the blob's id.
fn offer(socket: OwnedFd) {
    let memfd = |len: u64, flags| {
        let fd = memfd_create("offer", flags | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    };
    let mut liar = Liar::new(socket);
    while let Some((ticket, request)) = liar.next() {
        let Request::CreateBlob { blob, .. } = request else {
            liar.answer(ticket, &request);
            continue;
        };
        let good = memfd(4096, MemfdFlags::ALLOW_SEALING);
        let message = FromChild::Blob { ticket: ticket.0, caching: if blob.id == 1 { 77 } else { 1 } };
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let directory: OwnedFd = std::fs::File::open("/").unwrap().into();
        match blob.id {
            0 | 1 => liar.say(&message, &[good.as_fd()]),
            2 => liar.say(&message, &[memfd(4096, MemfdFlags::empty()).as_fd()]),
            3 => liar.say(&message, &[memfd(0, MemfdFlags::ALLOW_SEALING).as_fd()]),
            4 => liar.say(&message, &[directory.as_fd()]),
            5 => liar.say(&message, &[read.as_fd()]),
            6 => liar.say(&message, &[liar.device.as_fd()]),
            // More of them than one, none, none and no message, and one for another.
            7 => liar.say(&message, &[good.as_fd(), good.as_fd()]),
            8 => liar.say(&message, &[]),
            9 => {}
            _ => liar.say(&FromChild::Blob { ticket: ticket.0 + 1, caching: 1 }, &[good.as_fd()]),
        }
        liar.tell(ticket, Event::Exported);
    }
}

#[test]
fn what_is_offered_as_memory_of_a_blob_is_looked_at_first() {
    let mut desk = Desk::new(|_, socket| offer(socket));
    desk.open(1, CapsetId::VENUS);
    for id in 0..=10 {
        let resource = ResourceId(100 + id as u32);
        let blob = HostBlob { resource, mem: 2, flags: 1, id, size: 4096 };
        let made = desk.result(|isolated, ticket| isolated.create_blob(ticket, ContextId(1), &blob));
        assert_eq!(made, if id == 0 { Ok(()) } else { Err(ReplyError::Unspec) }, "{id}");
        assert_eq!(desk.isolated.mapping(resource).is_some(), id == 0, "{id}");
        assert_eq!(desk.stats.renderer_lies.get() > 0, id != 0);
    }
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
}

#[test]
fn rubbish_on_the_socket_is_counted_and_files_that_nobody_asked_for_are_not_kept() {
    let mut desk = Desk::new(|_, socket| {
        let liar = Liar::new(socket);
        let file = memfd_create("offer", MemfdFlags::CLOEXEC).unwrap();
        for _ in 0..100 {
            liar.say(&FromChild::Blob { ticket: 1, caching: 1 }, &[file.as_fd(), file.as_fd(), file.as_fd()]);
            liar.say(&FromChild::Found, &[]);
            liar.say(&FromChild::Failed("what".into()), &[]);
            let _ = send_whole(liar.socket.as_fd(), &[0xffu8; 1000].as_slice(), &[]);
        }
        liar.linger();
    });
    let opened = desk.open(1, CapsetId::VIRGL2);
    desk.until("all of it", |desk| desk.stats.renderer_lies.get() == 400);
    desk.settle();
    assert!(desk.is_ok(opened));
    assert!(desk.isolated.resources.is_empty());
}

#[test]
fn one_that_never_wakes_us_is_heard_when_something_else_does() {
    let mut desk = Desk::new(|_, socket| {
        let mut liar = Liar::new(socket);
        while let Some((ticket, request)) = liar.next() {
            liar.memory.awake(at::DEVICE_SLEEPS);
            liar.answer(ticket, &request);
        }
    });
    let opened = desk.open(1, CapsetId::VIRGL2);
    let limit = Instant::now() + Duration::from_secs(120);
    while !desk.is_ok(opened) {
        assert!(Instant::now() < limit);
        desk.turn();
        thread::yield_now();
    }
}
