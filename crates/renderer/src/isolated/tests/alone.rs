//! The process's half, without a device at the other end.

use std::sync::atomic::Ordering;

use rustix::event::Timespec;

use super::super::shared::{Consumer, EVENTS, Producer, REQUESTS, Shared};
use super::super::socket;
use super::super::wire::{Event, UNANSWERED, at, decode_event, encode};
use super::script::{Script, play};
use super::*;

/// A process that finds its first requests in the ring when it starts.
struct Alone {
    memory: Shared,
    bell: OwnedFd,
    child_bell: OwnedFd,
    socket: OwnedFd,
    requests: Producer,
    events: Consumer,
    thread: Option<thread::JoinHandle<()>>,
}

impl Alone {
    fn start(script: &Arc<Script>, first: &[(Ticket, Request)]) -> Self {
        let (socket, theirs) = socket::pair().unwrap();
        let (memory, bell, child_bell) = (Shared::new().unwrap(), bell().unwrap(), bell().unwrap());
        memory.going_to_sleep(at::DEVICE_SLEEPS);
        let fds = [memory.file().unwrap(), child_bell.as_fd(), bell.as_fd()];
        assert_eq!(socket::send(socket.as_fd(), &ToChild::Hello, &fds), socket::Sent::Whole);
        let requests = Producer::new(REQUESTS);
        let mut alone =
            Self { memory, bell, child_bell, socket, requests, events: Consumer::new(EVENTS), thread: None };
        for (ticket, request) in first {
            alone.ask(*ticket, request);
        }
        let play = play(script);
        alone.thread = Some(thread::spawn(move || play(Kind::Gl, theirs)));
        alone
    }

    fn ask(&mut self, ticket: Ticket, request: &Request) {
        self.requests.push(&self.memory, bytemuck::bytes_of(&encode(ticket, request)));
    }

    fn ring(&self) {
        if self.memory.must_wake(at::CHILD_SLEEPS) {
            ring_bell(&self.child_bell);
        }
    }

    fn has_rung(&self) -> bool {
        poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    }

    fn events(&mut self) -> Vec<(Ticket, Option<Event>)> {
        let mut events = Vec::new();
        let mut words = [0u64; 2];
        while self.events.peek(&self.memory, bytemuck::bytes_of_mut(&mut words)).unwrap() {
            self.events.done(&self.memory);
            events.push(decode_event(words));
        }
        events
    }

    /// Hangs up, and waits for its end.
    fn end(mut self) -> Vec<(Ticket, Option<Event>)> {
        rustix::net::shutdown(&self.socket, Shutdown::Both).unwrap();
        self.thread.take().unwrap().join().unwrap();
        self.events()
    }
}

fn wait(what: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(120);
    while !what() {
        assert!(Instant::now() < limit);
        thread::yield_now();
    }
}

const OPEN: (Ticket, Request) =
    (UNANSWERED, Request::Open { context: ContextId(1), capset: CapsetId::VIRGL2, name: Span { offset: 0, len: 0 } });

#[test]
fn a_device_is_woken_by_a_fence_and_not_by_what_is_in_front_of_it() {
    let script = Arc::new(Script::default());
    script.state().holds_fences = true;
    let submit = Request::Submit { context: ContextId(1), commands: Span::default() };
    let fence = Request::Fence { context: ContextId(1), ring: 0 };
    let mut alone = Alone::start(&script, &[OPEN, (Ticket(1), submit), (Ticket(2), fence)]);
    wait(|| !script.state().fences.is_empty());
    // The submit was done before the fence was begun.
    assert_eq!(alone.memory.word(at::DEVICE_SLEEPS).load(Ordering::SeqCst), 1);
    assert!(!alone.has_rung());
    let sink = script.state().sink.clone().unwrap();
    sink.retired(Ticket(2));
    assert!(alone.has_rung());
    assert_eq!(alone.events(), [(Ticket(1), Some(Event::Done(Ok(())))), (Ticket(2), Some(Event::Retired))]);
    // Of what comes while nobody sleeps nobody is told.
    stop_bell(&alone.bell);
    alone.ask(Ticket(3), &submit);
    alone.ring();
    wait(|| alone.memory.word(at::EVENTS_TAIL).load(Ordering::SeqCst) == 3);
    assert!(!alone.has_rung());
    assert_eq!(alone.end(), [(Ticket(3), Some(Event::Done(Ok(()))))]);
}

#[test]
fn it_ends_when_it_is_told_so_or_nobody_is_there_any_more() {
    let script = Arc::new(Script::default());
    let mut alone = Alone::start(&script, &[OPEN, (UNANSWERED, Request::Quit), OPEN]);
    alone.thread.take().unwrap().join().unwrap();
    assert_eq!(script.calls().len(), 2);
    let alone = Alone::start(&script, &[]);
    assert_eq!(alone.end(), []);
}

#[test]
fn requests_that_cannot_be_are_errors_and_not_the_end() {
    let script = Arc::new(Script::default());
    let (context, resource) = (ContextId(1), ResourceId(5));
    let outside = Span { offset: wire::ARENA_BYTES - 4, len: 8 };
    let odd = Span { offset: 0, len: 7 };
    let blob = HostBlob { resource, mem: 2, flags: 1, id: 1, size: 4096 };
    let create = Request::Create { resource, desc: Resource3d { width: 4, height: 4, ..Resource3d::default() } };
    let read = |image| Request::Read { resource, rect: Rect::new(u32::MAX, u32::MAX, 1, 1), image, stride: u32::MAX };
    let wrong = [
        OPEN.1,
        Request::Submit { context, commands: outside },
        Request::Submit { context: ContextId(2), commands: Span::default() },
        Request::Fence { context: ContextId(2), ring: 0 },
        create,
        Request::CreateBlob { context, blob },
        Request::Attach { resource, pieces: odd },
        Request::Attach { resource, pieces: Span { offset: 0, len: 16 } },
        Request::Attach { resource: ResourceId(9), pieces: Span::default() },
        read(0),
        Request::Read { resource: ResourceId(9), rect: Rect::of_size(0, 0), image: 0, stride: 0 },
        Request::Transfer { context: ContextId(2), way: Way::ToHost, transfer: transfer(resource) },
        Request::Transfer { context, way: Way::ToHost, transfer: transfer(ResourceId(9)) },
    ];
    let mut first = vec![OPEN, (UNANSWERED, create)];
    first.extend([
        (UNANSWERED, Request::Close { context: ContextId(9) }),
        (UNANSWERED, Request::Join { context, resource: ResourceId(9) }),
        (UNANSWERED, Request::Leave { context: ContextId(9), resource }),
        (UNANSWERED, Request::Destroy { resource: ResourceId(9) }),
        (UNANSWERED, Request::DropRegion { number: 9 }),
        (UNANSWERED, Request::DropImage { number: 9 }),
    ]);
    first.extend(wrong.iter().enumerate().map(|(at, request)| (Ticket(at as u64 + 1), *request)));
    let last = Ticket(1000);
    first.push((last, Request::Submit { context, commands: Span::default() }));
    let mut alone = Alone::start(&script, &first);
    wait(|| alone.memory.word(at::EVENTS_TAIL).load(Ordering::SeqCst) as usize == wrong.len() + 1);
    let events = alone.events();
    assert!(events[..wrong.len()].iter().all(|(_, event)| matches!(event, Some(Event::Done(Err(_))))), "{events:?}");
    assert_eq!(events[wrong.len()], (last, Some(Event::Done(Ok(())))));
    // None of it reached the library.
    assert_eq!(script.calls().len(), 4, "{:?}", script.calls());
    // Words that are no request have no answer either.
    alone.requests.push(&alone.memory, &[0xff; 64]);
    alone.ask(Ticket(1001), &Request::Detach { resource });
    alone.ring();
    wait(|| alone.memory.word(at::EVENTS_TAIL).load(Ordering::SeqCst) as usize == wrong.len() + 2);
    assert_eq!(alone.end(), [(Ticket(1001), Some(Event::Done(Ok(()))))]);
}

fn transfer(resource: ResourceId) -> Transfer3d {
    Transfer3d { area: Default::default(), offset: 0, resource, level: 0, stride: 0, layer_stride: 0 }
}
