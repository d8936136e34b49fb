//! What becomes of a device whose processes die.

use super::script::{Script, play};
use super::*;

/// A conversation with work of every sort.
fn converse(desk: &mut Desk) {
    let table = memory(&[region(0, 0x10000)]);
    desk.isolated.memory(&table);
    desk.open(1, CapsetId::VIRGL2);
    desk.create(7, 1, 1);
    desk.create(5, 8, 8);
    desk.ask(|isolated, ticket| isolated.attach(ticket, ResourceId(5), &[MemEntry { addr: 0x1000, length: 256 }]));
    desk.isolated.join(ContextId(1), ResourceId(5));
    desk.submit(1, b"draw");
    desk.fence(1, 0);
    desk.turn();
    desk.ask(|isolated, ticket| isolated.read(ticket, ResourceId(5), Rect::of_size(8, 8)));
    desk.create_blob(1, 6, 1, 4096);
    desk.turn();
    desk.submit(1, &[0; 3 << 20]);
    desk.fence(1, 0);
    desk.ask(|isolated, ticket| isolated.detach(ticket, ResourceId(5)));
    desk.isolated.destroy(ResourceId(5));
    desk.isolated.destroy(ResourceId(6));
    desk.settle();
}

/// Requests of the conversation, parts and housekeeping included.
const REQUESTS: u32 = 17;

/// Dies when so many requests were taken.
struct Mortal {
    script: Arc<Script>,
    left: std::sync::atomic::AtomicU32,
}

#[test]
fn whenever_a_process_dies_each_request_is_answered_once_and_the_next_one_works() {
    for dies_at in 0..=REQUESTS {
        let script = Arc::new(Script::default());
        let mortal = Mortal { script: script.clone(), left: 1.into() };
        let mut desk = Desk::new(move |kind, socket| {
            // The first one only.
            if mortal.left.swap(0, std::sync::atomic::Ordering::Relaxed) == 0 {
                return play(&mortal.script)(kind, socket);
            }
            lies::serve_some(socket, dies_at);
        });
        converse(&mut desk);
        // What was lost stays lost until it is given up.
        desk.until("its death", |desk| desk.stats.renderer_deaths.get() == 1);
        let (context, resource) = (ContextId(1), ResourceId(7));
        let lost = desk.result(|isolated, ticket| isolated.submit(ticket, context, b"draw"));
        assert_eq!(lost, Err(ReplyError::Unspec));
        assert_eq!(desk.result(|isolated, ticket| isolated.fence(ticket, context, 0)), Err(ReplyError::Unspec));
        let lost = desk.result(|isolated, ticket| isolated.attach(ticket, resource, &[]));
        assert_eq!(lost, Err(ReplyError::Unspec));
        assert_eq!(desk.result(|isolated, ticket| isolated.detach(ticket, resource)), Ok(()));
        desk.isolated.close(context);
        desk.isolated.destroy(resource);
        assert!(desk.isolated.contexts.is_empty() && desk.isolated.resources.is_empty());
        let answered = desk.answers.len();
        converse(&mut desk);
        assert!(desk.answers.iter().filter(|(ticket, _)| ticket.0 > answered as u64).all(|(_, result)| result.is_ok()));
        assert_eq!(desk.stats.renderer_starts.get(), 2);
        assert_eq!(desk.stats.renderer_lies.get(), 0, "died at {dies_at}");
    }
}

#[test]
fn what_one_told_before_it_died_counts() {
    let mut desk = Desk::new(|_, socket| lies::serve_some(socket, 2));
    let opened = desk.open(1, CapsetId::VIRGL2);
    let created = desk.create(5, 1, 1);
    let lost = desk.submit(1, b"");
    desk.settle();
    assert!(desk.is_ok(opened) && desk.is_ok(created));
    assert_eq!(desk.answers[&lost], Err(ReplyError::Unspec));
}

#[test]
fn one_kind_lives_on_without_the_other() {
    let script = Arc::new(Script::default());
    let other = play(&script);
    let mut desk = Desk::new(move |kind, socket| match kind {
        Kind::Gl => lies::serve_some(socket, 1),
        Kind::Vk => other(kind, socket),
    });
    let opened = [desk.open(1, CapsetId::VIRGL2), desk.open(2, CapsetId::VENUS)];
    let created = [desk.create(5, 1, 1), desk.create_blob(2, 6, 1, 4096)];
    desk.settle();
    assert!(desk.is_ok(opened[1]) && desk.is_ok(created[1]) && !desk.is_ok(created[0]));
    let fence = desk.fence(2, 0);
    desk.settle();
    assert!(desk.is_ok(fence));
    assert!(desk.isolated.mapping(ResourceId(6)).is_some());
}

#[test]
fn memory_of_a_blob_that_was_lost_is_not_mapped_any_more_and_pixels_stay() {
    let script = Arc::new(Script::default());
    let mut desk = Desk::new(play(&script));
    desk.open(1, CapsetId::VIRGL2);
    desk.create_blob(1, 6, 1, 4096);
    desk.create(5, 1, 1);
    desk.ask(|isolated, ticket| isolated.read(ticket, ResourceId(5), Rect::of_size(1, 1)));
    desk.settle();
    assert!(desk.isolated.mapping(ResourceId(6)).is_some());
    desk.isolated.children.kill(1);
    desk.until("its death", |desk| desk.stats.renderer_deaths.get() == 1);
    assert!(desk.isolated.mapping(ResourceId(6)).is_none());
    let Some(Pixels::Shared(shared)) = desk.isolated.pixels(ResourceId(5)) else { panic!("the pixels are gone") };
    let mut pixel = [0u8; 4];
    shared.slice.copy_to(&mut pixel);
    assert_eq!(pixel, [5, 0, 0, 0xff]);
}

#[test]
fn one_that_hangs_is_ended_and_one_that_only_waits_for_fences_is_not() {
    let script = Arc::new(Script::default());
    let mut desk = Desk::new(play(&script));
    script.state().holds_fences = true;
    desk.open(1, CapsetId::VIRGL2);
    let fence = desk.fence(1, 0);
    desk.until("the fence", |_| script.state().fences.len() == 1);
    desk.until("the context", |desk| desk.answers.len() == 1);
    desk.pass(2 * PATIENCE);
    assert_eq!(desk.open, [fence]);
    script.state().closed = true;
    let hangs = desk.submit(1, b"");
    desk.until("the submit", |_| script.state().submitted.len() == 1);
    desk.turn();
    assert_eq!(desk.stats.renderer_deaths.get(), 0);
    desk.pass(PATIENCE);
    assert_eq!(desk.stats.renderer_deaths.get(), 1);
    assert_eq!(*desk.killed.lock().unwrap(), [1]);
    let obituary = "Guest test: the OpenGL renderer hung for 1000 s; last command: SUBMIT_3D of context 1 \"a \\\"name\\\"\\n\"; \
                    0 of 1000 restarts used (killed)";
    assert_eq!(desk.isolated.departures.gone(1, "killed"), Some(Some(obituary.into())));
    assert_eq!(desk.answers[&hangs], Err(ReplyError::Unspec));
    assert_eq!(desk.answers[&fence], Err(ReplyError::Unspec));
    script.let_go();
}

#[test]
fn one_that_never_starts_is_ended_and_one_that_cannot_says_why() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let mut desk = Desk::new(move |kind, socket| match kind {
        // Until the end of the test.
        Kind::Gl => drop((held.lock().unwrap().recv(), socket)),
        Kind::Vk => drop(child::run(socket, |_| Err("No driver".into()))),
    });
    let opened = desk.open(1, CapsetId::VIRGL2);
    desk.open(2, CapsetId::VENUS);
    desk.until("the one that cannot", |desk| desk.answers.len() == 1);
    assert_eq!(desk.open, [opened]);
    desk.pass(2 * PATIENCE);
    assert_eq!(desk.answers[&opened], Err(ReplyError::Unspec));
    assert_eq!(desk.stats.renderer_deaths.get(), 2);
    drop(hold);
}

#[test]
fn one_that_dies_again_and_again_is_not_started_for_ever() {
    let mut desk = Desk::new(|_, socket| drop(socket));
    desk.isolated.starts = [Starts::new(3), Starts::new(3)];
    for context in 1..=10 {
        desk.open(context, CapsetId::VIRGL2);
        desk.settle();
    }
    assert!(desk.answers.values().all(|result| *result == Err(ReplyError::Unspec)));
    let stats = &desk.stats;
    assert_eq!((stats.renderer_starts.get(), stats.renderer_deaths.get(), stats.renderer_refused.get()), (4, 4, 6));
}
