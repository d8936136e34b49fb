//! A command that is answered with an error leaves everything as it was, and pages stay with a resource until nobody uses them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use device::stats::Kind;
use device::{Pages, Pixels, Progress, Rendered, Renderer, ResourceDesc, Start, Ticket, Transfer};
use proptest::prelude::*;
use protocol::{MemEntry, ReplyError, ResourceId};
use renderer::Soft;
use serde_json::{Value, json};

use crate::asks::{
    Ask, Desc, attach, close, create_2d, create_3d, detach, flush, from_host, guest_blob, join, leave, map, mappable,
    open, raw, scanout, scanout_blob, submit, to_host, unmap, unref,
};
use crate::machine::Machine;
use crate::strict::{PAGE, Pace};
use crate::window::Guest;

const VIRGL2: u32 = 2;
const VENUS: u32 = 4;
/// What the guest may have: less than it asks for.
const LIMIT: u64 = 60_000;

/// An image of the library's.
fn image(side: u32) -> Desc {
    [2, 1, 2 | 1 << 18, side, side, 1, 1, 0, 0, 0]
}

/// Pages for a resource, in so many pieces.
fn attach_pieces(resource: u32, pieces: u32) -> Ask {
    let entries = (0..pieces).flat_map(|_| [0x1000, 0, 0x1000, 0]);
    raw(0x106, &[resource, pieces].into_iter().chain(entries).collect::<Vec<_>>())
}

/// The pointer shows a resource at a place, or nothing.
fn cursor(head: u32, at: u32, resource: u32) -> Ask {
    raw(0x300, &[head, at, at, 0, resource, 1, 2, 0]).on_cursor_queue()
}

fn move_cursor(head: u32, at: u32) -> Ask {
    raw(0x301, &[head, at, at, 0, 0, 0, 0, 0]).on_cursor_queue()
}

/// The bytes of each kind that is charged.
fn charged(guest: &Guest) -> Vec<(&'static str, u64)> {
    Kind::CHARGED.into_iter().map(|kind| (kind.name(), guest.stats.memory.get(kind))).collect()
}

/// What a guest has, what is seen of it and what it pays for, by name. What the library has comes besides, but for a command that it
/// refused itself: that was work, which opens a context and gives its images twins.
fn everything(guest: &mut Guest, with_library: bool) -> BTreeMap<&'static str, Value> {
    let mut all = BTreeMap::new();
    let mut state = serde_json::to_value(guest.gpu.state()).unwrap();
    // Pixels are compared where they are seen.
    for resource in state["resources"].as_array_mut().unwrap() {
        if let Some(image) = resource["kind"].get_mut("Image") {
            image["pixels"] = Value::Null;
        }
    }
    all.insert("state", state);
    for (kind, bytes) in charged(guest) {
        if with_library || !["twins", "shadows"].contains(&kind) {
            all.insert(kind, json!(bytes));
        }
    }
    if with_library {
        let known = guest.library.known();
        let contexts: Vec<_> = known.contexts.iter().map(|(id, context)| (*id, context.members.clone())).collect();
        let resources: Vec<_> = known.resources.iter().map(|(id, it)| (*id, it.attached, it.shadow)).collect();
        all.insert("library's contexts", json!(contexts));
        all.insert("library's resources", json!(resources));
    }
    let seen = guest.screen.seen();
    all.insert("heads", json!(format!("{:?}", seen.heads)));
    all.insert("pointer", json!(format!("{:?}", seen.pointer)));
    all.insert("window", json!(format!("{:?}", guest.window.seen)));
    all.insert("resources", json!(guest.stats.resources.get()));
    all.insert("contexts", json!(guest.stats.contexts.get()));
    all
}

/// What differs.
fn difference(before: &BTreeMap<&'static str, Value>, after: &BTreeMap<&'static str, Value>) -> Vec<String> {
    let differ = before.iter().filter_map(|(name, was)| {
        let is = after.get(name)?;
        (was != is).then(|| format!("{name}: {was} became {is}"))
    });
    differ.collect()
}

fn is_error(reply: &str) -> bool {
    !["ok", "map_info", "uuid"].contains(&reply)
}

/// Nobody uses pages that are not, as far as the device knows, a resource's.
fn in_use_is_backed(guest: &mut Guest) -> Result<(), String> {
    let state = serde_json::to_value(guest.gpu.state()).unwrap();
    let backed: Vec<u64> = state["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| !it["entries"].is_null())
        .map(|it| it["id"].as_u64().unwrap())
        .collect();
    let known = guest.library.known();
    match known.in_use.keys().find(|id| !backed.contains(&u64::from(**id))) {
        Some(id) => Err(format!("pages of {id} are in use, and are nobody's")),
        None => Ok(()),
    }
}

/// A request that is often possible, often just not.
fn any_ask() -> impl Strategy<Value = Ask> {
    let (id, ctx) = (1u32..6, 1u32..4);
    let both = (ctx.clone(), id.clone());
    let side =
        prop_oneof![3 => Just(16u32), 1 => Just(64), 1 => Just(65), 2 => Just(128), 1 => Just(200), 1 => 0u32..20_000];
    let part = prop_oneof![
        3 => Just([0, 0, 0, 16, 16, 1]),
        1 => any::<[u8; 6]>().prop_map(|part| part.map(u32::from)),
        1 => Just([0, 0, 0, 4, 4, 1]),
    ];
    let pieces = prop_oneof![3 => 1u32..4, 1 => Just(200u32), 1 => Just(600)];
    let head = 0u32..3;
    prop_oneof![
        2 => (ctx.clone(), prop_oneof![3 => Just(VIRGL2), 1 => Just(VENUS), 1 => 0u32..6]).prop_map(|(ctx, kind)| open(ctx, kind)),
        1 => ctx.clone().prop_map(close),
        3 => both.clone().prop_map(|(ctx, id)| join(ctx, id)),
        1 => both.clone().prop_map(|(ctx, id)| leave(ctx, id)),
        4 => (id.clone(), side.clone()).prop_map(|(id, side)| create_2d(id, side, side)),
        4 => (id.clone(), side.clone()).prop_map(|(id, side)| create_3d(id, image(side))),
        1 => id.clone().prop_map(|id| guest_blob(id, 0x1000, 0x4000)),
        2 => (both.clone(), 1u64..10).prop_map(|((ctx, id), pages)| mappable(ctx, id, pages * PAGE)),
        2 => (id.clone(), 0u64..5).prop_map(|(id, at)| map(id, at * PAGE)),
        1 => id.clone().prop_map(unmap),
        2 => id.clone().prop_map(unref),
        4 => (id.clone(), pieces).prop_map(|(id, pieces)| attach_pieces(id, pieces)),
        2 => id.clone().prop_map(detach),
        4 => (both.clone(), part.clone()).prop_map(|((ctx, id), part)| to_host(ctx, id, part, 0, [0; 3])),
        3 => (both, part).prop_map(|((ctx, id), part)| from_host(ctx, id, part, 0, [0; 3])),
        4 => (ctx, any::<bool>()).prop_map(|(ctx, wrong)| submit(ctx, if wrong { &[u32::MAX] } else { &[0] })),
        4 => (head.clone(), 0u32..6, side).prop_map(|(head, id, side)| scanout(head, id, side, side)),
        1 => (head.clone(), 0u32..6).prop_map(|(head, id)| scanout_blob(head, id, 16, 16)),
        4 => (id.clone(), prop_oneof![3 => Just(16u32), 1 => Just(90)]).prop_map(|(id, side)| flush(id, side, side)),
        5 => (head.clone(), 0u32..50, 0u32..6).prop_map(|(head, at, id)| cursor(head, at, id)),
        2 => (head, 0u32..50).prop_map(|(head, at)| move_cursor(head, at)),
        1 => id.prop_map(|id| raw(0x10b, &[id, 0])),
    ]
}

/// What the library refuses from now on, by its methods' names.
fn any_refusal() -> impl Strategy<Value = Vec<&'static str>> {
    const METHODS: [&str; 9] =
        ["open", "submit", "create", "create_blob", "attach", "detach", "transfer", "read", "write"];
    prop_oneof![2 => Just(Vec::new()), 3 => prop::sample::subsequence(METHODS.to_vec(), 1..4)]
}

/// A guest with something of each kind.
fn furnished(pace: Pace) -> Guest {
    let mut guest = Guest::of(LIMIT, pace);
    guest.all("ok", &[open(1, VIRGL2), open(2, VENUS), create_3d(1, image(16)), attach(1, 0x1000, 0x400), join(1, 1)]);
    guest.all("ok", &[create_2d(2, 16, 16), attach(2, 0x1000, 0x400), join(1, 2), submit(1, &[0])]);
    guest
}

/// Nothing of the guest's is left: there is room for whoever looks whether the device still works.
fn empty(guest: &mut Guest) {
    for id in 1..6 {
        guest.ask(&unref(id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_command_that_is_answered_with_an_error_changes_nothing(
        asks in prop::collection::vec(any_ask(), 1..60),
        late in any::<bool>(),
    ) {
        let mut guest = furnished(if late { Pace::Late } else { Pace::Prompt });
        let mut before = everything(&mut guest, true);
        for ask in &asks {
            let reply = guest.ask(ask);
            let after = everything(&mut guest, true);
            let is_refused_by_library = (1..4).any(|ctx| *ask == submit(ctx, &[u32::MAX]));
            if is_error(reply) && !is_refused_by_library {
                let none: [String; 0] = [];
                prop_assert_eq!(difference(&before, &after), none, "{:x?}: {}", ask, reply);
            }
            before = after;
        }
        prop_assert!(guest.library.known().faults.is_empty(), "{:?}", guest.library.known().faults);
        empty(&mut guest);
        guest.finish();
    }

    #[test]
    fn a_command_that_the_library_refuses_changes_nothing(
        asks in prop::collection::vec((any_ask(), prop::option::weighted(0.4, any_refusal())), 1..60),
        late in any::<bool>(),
    ) {
        let mut guest = furnished(if late { Pace::Late } else { Pace::Prompt });
        let mut before = everything(&mut guest, false);
        for (ask, refusal) in &asks {
            if let Some(refusal) = refusal {
                guest.library.known().refused = refusal.iter().copied().collect();
            }
            let reply = guest.ask(ask);
            let after = everything(&mut guest, false);
            if is_error(reply) {
                let none: [String; 0] = [];
                prop_assert_eq!(difference(&before, &after), none, "{:x?}: {}", ask, reply);
            }
            before = after;
            let backed = in_use_is_backed(&mut guest);
            prop_assert!(backed.is_ok(), "{:?} after {:x?}", backed, ask);
        }
        guest.library.known().refused.clear();
        empty(&mut guest);
        guest.finish();
    }

    #[test]
    fn no_pages_are_dropped_that_the_library_may_use(
        asks in prop::collection::vec((any_ask(), prop::option::weighted(0.3, any_refusal()), 0u8..16), 1..80),
    ) {
        let mut guest = furnished(Pace::Late);
        for (ask, refusal, what) in &asks {
            if let Some(refusal) = refusal {
                guest.library.known().refused = refusal.iter().copied().collect();
            }
            guest.send(ask);
            match what {
                0..4 => guest.library.release(Pace::Late),
                4 => guest.library.release(Pace::Prompt),
                5..8 => guest.library.release(Pace::Never),
                8 => {
                    // What is taken back from it then it does not refuse.
                    guest.library.known().refused.clear();
                    guest.stop();
                    // Whoever was told that nothing came of it waits until nothing does.
                    guest.library.release(Pace::Late);
                    guest.start(Start::Resumed);
                    guest.wait();
                }
                9..12 => guest.settle(),
                _ => {}
            }
            let backed = in_use_is_backed(&mut guest);
            prop_assert!(backed.is_ok(), "{:?} after {:x?}", backed, ask);
        }
        guest.library.known().refused.clear();
        guest.library.release(Pace::Prompt);
        guest.wait();
        prop_assert!(guest.library.known().faults.is_empty(), "{:?}", guest.library.known().faults);
        empty(&mut guest);
        guest.must(&cursor(0, 0, 0));
        prop_assert_eq!((guest.stats.charged_bytes(), guest.library.known().in_use.len()), (0, 0));
        guest.finish();
    }
}

/// Takes all the room that a guest still has.
fn fill(guest: &mut Guest) {
    let mut id = 100;
    for side in [256, 128, 64, 32, 16, 8, 4, 2, 1] {
        while guest.ask_now(&create_2d(id, side, side)) == Some("ok") {
            id += 1;
        }
    }
}

#[test]
fn pages_that_the_library_gives_back_are_charged_until_it_did_and_kept_if_it_does_not() {
    for undo in [detach(1), unref(1)] {
        let mut guest = Guest::of(LIMIT, Pace::Prompt);
        guest.all("ok", &[create_3d(1, image(16)), attach_pieces(1, 900)]);
        guest.library.known().pace = Pace::Never;
        let before = charged(&guest);
        let index = guest.send(&undo);
        guest.settle();
        assert_eq!((guest.reply(index), charged(&guest)), (None, before.clone()), "{undo:x?}");
        // Nobody gets the room meanwhile, and who names it waits.
        let named = guest.send(&attach(1, 0x1000, 0x400));
        fill(&mut guest);
        guest.stop();
        let replies = [index, named].map(|index| guest.reply(index));
        assert_eq!(replies, [Some("unspec"); 2], "{undo:x?}");
        guest.start(Start::Resumed);
        guest.library.release(Pace::Prompt);
        guest.wait();
        // It has them as before.
        assert!(guest.library.known().resources[&1].attached, "{undo:x?}");
        guest.all("ok", &[to_host(0, 1, [0, 0, 0, 16, 16, 1], 0, [0; 3])]);
        assert_eq!(guest.ask(&attach(1, 0x1000, 0x400)), "unspec", "{undo:x?}");
        guest.must(&undo);
        assert!(guest.library.known().in_use.is_empty());
        guest.finish();
    }
}

/// Images of our own, and a detach that takes its time and fails.
struct Clings {
    soft: Soft,
    asked: Vec<Ticket>,
    ready: OwnedFd,
}

impl Renderer for Clings {
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress {
        self.soft.create(ticket, resource, desc)
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.soft.destroy(resource);
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        self.soft.attach(ticket, resource, entries)
    }

    fn detach(&mut self, ticket: Ticket, _resource: ResourceId) -> Progress {
        self.asked.push(ticket);
        Progress::Later
    }

    fn transfer_to_host(&mut self, ticket: Ticket, id: ResourceId, transfer: Transfer, pages: &Pages<'_>) -> Progress {
        self.soft.transfer_to_host(ticket, id, transfer, pages)
    }

    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>> {
        self.soft.pixels(resource, shared)
    }

    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError> {
        self.soft.restore(resource, pixels)
    }

    fn reset(&mut self) {
        self.soft.reset();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn poll(&mut self, done: &mut Vec<Rendered>) {
        done.extend(self.asked.drain(..).map(|ticket| Rendered { ticket, result: Err(ReplyError::Unspec) }));
    }
}

#[test]
fn a_detach_that_fails_leaves_the_pages_although_others_took_all_the_room_there_was() {
    let ready = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let mut machine = Machine::with(Box::new(Clings { soft: Soft::new(), asked: Vec::new(), ready }), false);
    let entries = " 0x1000+0x100".repeat(3000);
    for line in ["create_2d 1 bgrx 16x16", &format!("attach 1{entries}"), "scanout 0 1 0,0+16x16"] {
        machine.must(line);
    }
    let index = machine.send(&crate::script::Request::parse("detach 1"));
    let mut id = 100;
    for side in [2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1] {
        while let made = machine.send(&crate::script::Request::parse(&format!("create_2d {id} bgrx {side}x{side}")))
            && machine.reply(made).as_deref() == Some("ok")
        {
            id += 1;
        }
    }
    machine.wait();
    assert_eq!(machine.reply(index).as_deref(), Some("unspec"));
    machine.must("transfer 1 0,0+16x16");
    machine.must("flush 1 0,0+16x16");
    assert_eq!(machine.ask("attach 1 0x1000+0x400"), "unspec", "it has pages");
    machine.finish();
}

/// The pointer as it is seen: its head and place, and whether it has a picture.
fn pointer(guest: &Guest) -> (u32, (u32, u32), bool) {
    let pointer = guest.screen.seen().pointer.clone();
    (pointer.scanout, pointer.at, pointer.image.is_some())
}

#[test]
fn a_pointer_whose_picture_fails_stays_where_it_is_and_as_it_was() {
    for pace in [Pace::Prompt, Pace::Late] {
        let mut guest = Guest::of(LIMIT, pace);
        guest.all("ok", &[create_2d(2, 16, 16), cursor(0, 5, 2), create_3d(1, image(16)), create_3d(3, image(65))]);
        let before = everything(&mut guest, true);
        // One that is too large, of nothing, on no head, that the library cannot read, and one without room.
        guest.all("invalid_parameter", &[cursor(1, 9, 3)]);
        guest.all("invalid_resource", &[cursor(1, 9, 4)]);
        guest.all("invalid_scanout", &[cursor(2, 9, 1), move_cursor(2, 9)]);
        guest.library.known().refused.insert("read");
        guest.all("out_of_memory", &[cursor(1, 9, 1)]);
        guest.library.known().refused.clear();
        assert_eq!(everything(&mut guest, true), before);
        fill(&mut guest);
        let before = everything(&mut guest, true);
        guest.all("out_of_memory", &[cursor(1, 9, 1)]);
        assert_eq!(everything(&mut guest, true), before);
        assert_eq!(pointer(&guest), (0, (5, 5), true));
        guest.all("ok", &[unref(100), cursor(1, 9, 1)]);
        assert_eq!(pointer(&guest), (1, (9, 9), true));
        guest.finish();
    }
}

#[test]
fn a_pointer_that_waits_for_its_picture_outlasts_one_that_fails_and_goes_where_it_is_moved() {
    let mut guest = Guest::of(LIMIT, Pace::Prompt);
    guest.all("ok", &[create_2d(2, 16, 16), cursor(0, 5, 2), create_3d(1, image(16)), create_3d(3, image(65))]);
    guest.library.known().pace = Pace::Never;
    let first = guest.send(&cursor(1, 9, 1));
    let moved = guest.send(&move_cursor(0, 7));
    guest.settle();
    assert_eq!([first, moved].map(|index| guest.reply(index)), [None, Some("ok")]);
    let wrong = guest.send(&cursor(0, 11, 3));
    assert_eq!((guest.reply(wrong), pointer(&guest)), (Some("invalid_parameter"), (0, (7, 7), true)));
    guest.library.release(Pace::Prompt);
    guest.wait();
    assert_eq!((guest.reply(first), pointer(&guest)), (Some("ok"), (0, (7, 7), true)));
    let picture = guest.screen.seen().pointer.image.clone();
    assert!(picture.is_some_and(|(_, _, bytes)| bytes.iter().all(|byte| *byte == 0x5a)), "it is what was drawn");
    // A resource that goes takes its picture with it, and nobody waits for that.
    guest.library.known().pace = Pace::Never;
    let second = guest.send(&cursor(1, 3, 1));
    guest.send(&unref(1));
    guest.settle();
    assert_eq!((guest.reply(second), pointer(&guest)), (Some("ok"), (1, (3, 3), true)));
    guest.library.release(Pace::Prompt);
    guest.finish();
}

#[test]
fn what_does_not_help_is_not_taken_away() {
    let mut guest = Guest::of(LIMIT, Pace::Prompt);
    let shown = |id| [create_3d(id, image(16)), scanout(0, id, 16, 16), flush(id, 16, 16), scanout(0, 0, 0, 0)];
    guest.all("ok", &shown(1));
    guest.all("ok", &shown(2));
    // An earlier driver's, which this one may still use.
    guest.stop();
    guest.start(Start::Fresh);
    guest.all("ok", &[create_2d(3, 32, 32), create_2d(4, 48, 48)]);
    let before = charged(&guest);
    guest.all("out_of_memory", &[create_2d(1, 112, 112), create_2d(5, 112, 112)]);
    assert_eq!((charged(&guest), guest.stats.resources.get()), (before, 4));
    // What fits in their place costs them, and what this driver has is its own.
    guest.all("ok", &[create_2d(5, 100, 100)]);
    guest.all("invalid_resource", &[flush(1, 16, 16)]);
    guest.all("ok", &[flush(3, 16, 16), flush(4, 16, 16), flush(5, 16, 16)]);
    guest.finish();
}

#[test]
fn the_pointer_s_pixels_are_not_given_up_while_it_waits_for_them() {
    let mut guest = Guest::of(LIMIT, Pace::Prompt);
    guest.all("ok", &[create_3d(1, image(64))]);
    guest.library.known().pace = Pace::Never;
    let waits = guest.send(&cursor(1, 9, 1));
    fill(&mut guest);
    assert_eq!(guest.library.known().called("forget_pixels"), 0);
    guest.library.release(Pace::Prompt);
    guest.wait();
    assert_eq!((guest.reply(waits), pointer(&guest)), (Some("ok"), (1, (9, 9), true)));
    guest.finish();
}

#[test]
fn of_what_is_refused_nothing_is_left_for_the_library_s_next_process() {
    let mut guest = Guest::of(LIMIT, Pace::Late);
    guest.all("ok", &[create_3d(1, image(16)), attach(1, 0x1000, 0x400)]);
    let index = guest.send(&detach(1));
    guest.library.die();
    guest.wait();
    // Whether it was told of that or not, it has them no more, and the guest can have them back.
    assert!(["ok", "unspec"].contains(&guest.reply(index).unwrap()));
    guest.library.revive();
    let again = guest.ask(&detach(1));
    assert!(["ok", "unspec"].contains(&again));
    guest.must(&unref(1));
    guest.finish();
}
