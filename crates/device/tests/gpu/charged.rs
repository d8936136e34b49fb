//! What a guest has by commands is counted by kind, and all of it together never exceeds its memory.

use std::collections::BTreeMap;

use device::stats::Kind;
use device::{Backing, Start, caps};
use proptest::prelude::*;

use crate::asks::{
    Ask, Desc, attach, close, create_2d, create_3d, detach, display_info, flush, from_host, guest_blob, join, leave,
    map, mappable, open, raw, scanout, submit, to_host, unref,
};
use crate::strict::{PAGE, Pace, What};
use crate::window::Guest;

const VIRGL2: u32 = 2;
const VENUS: u32 = 4;

/// An image with that many levels of detail.
fn image(side: u32, levels: u32) -> Desc {
    [2, 1, 2 | 1 << 18, side, side, 1, 1, levels, 0, 0]
}

/// Pages for a resource, in so many pieces.
fn attach_pieces(resource: u32, pieces: u32) -> Ask {
    let entries = (0..pieces).flat_map(|_| [0x1000, 0, 0x1000, 0]);
    raw(0x106, &[resource, pieces].into_iter().chain(entries).collect::<Vec<_>>())
}

/// The pointer shows a resource, or nothing.
fn cursor(resource: u32) -> Ask {
    raw(0x300, &[0, 1, 1, 0, resource, 0, 0, 0]).on_cursor_queue()
}

/// What a resource takes by itself.
#[derive(Clone, Copy, Debug)]
enum Made {
    Image(u64),
    Texture(u64),
    Blob(u64),
    Pages,
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    made: Made,
    side: u64,
    entries: u64,
}

/// What a guest was told that it has.
#[derive(Clone, Debug, Default)]
struct Model {
    resources: BTreeMap<u32, Owned>,
    cursor: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Create2d(u32, u32),
    Create3d(u32, u32, u32),
    Blob(u32, u32, u64),
    GuestBlob(u32),
    Attach(u32, u32),
    Cursor(u32),
    Unref(u32),
    Detach(u32),
    /// It changes nothing that the guest is told to have.
    Other(Ask),
    /// The library's process dies, and there is another one.
    Die,
    /// The guest sleeps, or another one boots.
    Sleep,
    Boot,
    Reset,
}

fn any_step() -> impl Strategy<Value = Step> {
    let (id, ctx) = (1u32..7, 1u32..4);
    let side = prop_oneof![1u32..20, Just(64), Just(65), Just(200), Just(256), Just(16384)];
    let both = (ctx.clone(), id.clone());
    let other = prop_oneof![
        2 => (ctx.clone(), prop_oneof![3 => Just(VIRGL2), 1 => Just(VENUS)]).prop_map(|(ctx, kind)| open(ctx, kind)),
        1 => ctx.clone().prop_map(close),
        4 => both.clone().prop_map(|(ctx, id)| join(ctx, id)),
        1 => both.clone().prop_map(|(ctx, id)| leave(ctx, id)),
        4 => ctx.prop_map(|ctx| submit(ctx, &[0])),
        3 => (0u32..2, 0u32..7).prop_map(|(head, id)| scanout(head, id, 4, 4)),
        4 => id.clone().prop_map(|id| flush(id, 4, 4)),
        1 => both.clone().prop_map(|(ctx, id)| to_host(ctx, id, [0, 0, 0, 4, 4, 1], 0, [0; 3])),
        1 => both.clone().prop_map(|(ctx, id)| from_host(ctx, id, [0, 0, 0, 4, 4, 1], 0, [0; 3])),
        1 => id.clone().prop_map(|id| map(id, 0)),
    ];
    prop_oneof![
        6 => (id.clone(), side.clone()).prop_map(|(id, side)| Step::Create2d(id, side)),
        6 => (id.clone(), side, 0u32..4).prop_map(|(id, side, levels)| Step::Create3d(id, side, levels)),
        4 => (both, prop_oneof![1u64..100, Just(u64::MAX / PAGE), Just(1 << 40)])
            .prop_map(|((ctx, id), pages)| Step::Blob(ctx, id, pages.saturating_mul(PAGE) - 7)),
        2 => id.clone().prop_map(Step::GuestBlob),
        4 => (id.clone(), prop_oneof![1u32..4, Just(500u32), Just(3000)]).prop_map(|(id, pieces)| Step::Attach(id, pieces)),
        3 => (0u32..7).prop_map(Step::Cursor),
        6 => id.clone().prop_map(Step::Unref),
        3 => id.prop_map(Step::Detach),
        20 => other.prop_map(Step::Other),
        1 => Just(Step::Die),
        1 => Just(Step::Sleep),
        1 => prop_oneof![Just(Step::Boot), Just(Step::Reset)],
    ]
}

impl Model {
    fn own(&mut self, resource: u32, made: Made, side: u32, entries: u64) {
        assert!(self.resources.insert(resource, Owned { made, side: side.into(), entries }).is_none());
    }

    /// Does it, and takes down what came of it.
    fn step(&mut self, guest: &mut Guest, step: &Step) {
        match *step {
            Step::Create2d(id, side) => {
                if guest.ask(&create_2d(id, side, side)) == "ok" {
                    self.own(id, Made::Image(u64::from(side).pow(2) * 4), side, 0);
                }
            }
            Step::Create3d(id, side, levels) => {
                if guest.ask(&create_3d(id, image(side, levels))) == "ok" {
                    let texels: u64 = (0..=levels).map(|level| u64::from((side >> level).max(1)).pow(2)).sum();
                    self.own(id, Made::Texture((texels * 4).next_multiple_of(PAGE)), side, 0);
                }
            }
            Step::Blob(ctx, id, size) => {
                if guest.ask(&mappable(ctx, id, size)) == "ok" {
                    self.own(id, Made::Blob(size.next_multiple_of(PAGE)), 0, 0);
                }
            }
            Step::GuestBlob(id) => {
                if guest.ask(&guest_blob(id, 0x1000, 0x4000)) == "ok" {
                    self.own(id, Made::Pages, 64, 1);
                }
            }
            Step::Attach(id, pieces) => {
                if guest.ask(&attach_pieces(id, pieces)) == "ok" {
                    self.resources.get_mut(&id).unwrap().entries = pieces.into();
                }
            }
            Step::Cursor(id) => {
                if guest.ask(&cursor(id)) == "ok" {
                    self.cursor = self.resources.get(&id).map_or(0, |shown| shown.side.pow(2) * 4);
                }
            }
            Step::Unref(id) => {
                if guest.ask(&unref(id)) == "ok" {
                    assert!(self.resources.remove(&id).is_some());
                }
            }
            Step::Detach(id) => {
                if guest.ask(&detach(id)) == "ok" {
                    self.resources.get_mut(&id).unwrap().entries = 0;
                }
            }
            Step::Other(ref ask) => {
                guest.ask(ask);
            }
            Step::Die => {
                guest.library.die();
                guest.wait();
                guest.library.revive();
                // A guest can do nothing else with what is lost.
                for ctx in 1..4 {
                    guest.ask(&close(ctx));
                }
                for (id, _) in
                    self.resources.extract_if(.., |_, owned| !matches!(owned.made, Made::Image(_) | Made::Pages))
                {
                    guest.must(&unref(id));
                }
            }
            Step::Sleep => {
                guest.stop();
                guest.start(Start::Resumed);
            }
            Step::Boot => {
                guest.stop();
                guest.start(Start::Fresh);
                guest.ask(&display_info());
                *self = Self::default();
            }
            Step::Reset => {
                guest.reset();
                *self = Self::default();
            }
        }
    }
}

impl Model {
    /// Whether the guest has what it was told that it has, and what the library has is charged too, unless one died.
    fn check(&self, guest: &Guest, with_library: bool) {
        let mut expected = BTreeMap::from(Kind::CHARGED.map(|kind| (kind.name(), 0)));
        let mut add = |kind: Kind, bytes: u64| *expected.get_mut(kind.name()).unwrap() += bytes;
        add(Kind::Cursors, self.cursor);
        for owned in self.resources.values() {
            add(Kind::Tables, caps::RESOURCE_COST + owned.entries * Backing::ENTRY_COST);
            match owned.made {
                Made::Image(bytes) => add(Kind::Images, bytes),
                Made::Texture(bytes) => add(Kind::Textures, bytes),
                Made::Blob(bytes) => add(Kind::Blobs, bytes),
                Made::Pages => {}
            }
        }
        for (id, resource) in &guest.library.known().resources {
            let What::Image(desc) = &resource.what else { continue };
            let bytes = u64::from(desc.width) * u64::from(desc.height) * 4;
            if resource.shadow {
                add(Kind::Shadows, bytes);
            }
            if matches!(self.resources[id].made, Made::Image(_)) {
                assert!(resource.shadow);
                add(Kind::Twins, bytes.next_multiple_of(PAGE));
            }
        }
        let is_known = |kind: &Kind| with_library || !matches!(kind, Kind::Shadows | Kind::Twins);
        for kind in Kind::CHARGED.into_iter().filter(is_known) {
            assert_eq!(guest.stats.memory.get(kind), expected[kind.name()], "{kind:?}");
        }
        let sum: u64 = Kind::CHARGED.iter().map(|kind| guest.stats.memory.get(*kind)).sum();
        assert_eq!(guest.stats.charged_bytes(), sum);
        assert!(sum <= LIMIT, "{sum}");
    }
}

/// What the guest may have.
const LIMIT: u64 = (1 << 20) + 12_345;

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kinds_are_what_there_is_and_together_never_more_than_the_guest_s_memory(
        steps in prop::collection::vec(any_step(), 1..80),
        late in any::<bool>(),
    ) {
        let mut guest = Guest::of(LIMIT, if late { Pace::Late } else { Pace::Prompt });
        let (mut model, mut with_library) = (Model::default(), true);
        for step in [open(1, VIRGL2), open(2, VENUS)].map(Step::Other).iter().chain(&steps) {
            model.step(&mut guest, step);
            match step {
                Step::Die => with_library = false,
                Step::Boot | Step::Reset => with_library = true,
                _ => {}
            }
            model.check(&guest, with_library);
        }
        for id in model.resources.clone().into_keys() {
            model.step(&mut guest, &Step::Unref(id));
        }
        model.step(&mut guest, &Step::Cursor(0));
        model.check(&guest, false);
        prop_assert_eq!(guest.stats.charged_bytes(), 0);
        guest.finish();
    }
}

/// A guest that has one of each kind and no byte more, with something that it could give up.
fn full() -> Guest {
    let mut guest = Guest::of(LIMIT, Pace::Prompt);
    guest.all("ok", &[create_2d(1, 16, 16), attach(1, 0x1000, 0x400), create_2d(2, 16, 16), create_2d(3, 16, 16)]);
    guest.all(
        "ok",
        &[create_3d(4, image(16, 0)), create_3d(5, image(16, 0)), scanout(0, 4, 16, 16), scanout(1, 1, 16, 16)],
    );
    guest.all(
        "ok",
        &[open(1, VIRGL2), open(2, VENUS), join(1, 2), submit(1, &[0]), submit(2, &[0]), mappable(2, 6, PAGE)],
    );
    guest.all("map_info", &[map(6, 0)]);
    guest.all("ok", &[cursor(1), create_2d(7, 128, 128), create_2d(8, 32, 32)]);
    let mut id = 100;
    for side in [256, 128, 64, 32, 16, 8, 4, 2, 1] {
        while guest.ask(&create_2d(id, side, side)) == "ok" {
            id += 1;
        }
    }
    assert!(LIMIT - guest.stats.charged_bytes() < caps::RESOURCE_COST + 4, "it has room");
    guest
}

#[test]
fn who_has_all_its_memory_gets_no_more_of_any_kind_and_keeps_what_it_has() {
    let more = [
        create_2d(20, 16, 16),
        guest_blob(20, 0x1000, 0x1000),
        attach_pieces(2, 6),
        cursor(8),
        flush(4, 16, 16),
        cursor(5),
        join(1, 3),
        create_3d(20, image(16, 0)),
        raw(0x204, &[20, 0, 64, 1 << 4, 100, 1, 1, 1, 0, 0, 0, 0]),
        mappable(2, 20, PAGE),
    ];
    for ask in &more {
        let mut guest = full();
        let has = |guest: &Guest| Kind::CHARGED.map(|kind| guest.stats.memory.get(kind));
        let before = has(&guest);
        for _ in 0..3 {
            assert_eq!(guest.ask(ask), "out_of_memory", "{ask:x?}");
        }
        assert_eq!(has(&guest), before, "{ask:x?}");
        // All that it has is there and of use.
        let copied = to_host(1, 1, [0, 0, 0, 16, 16, 1], 0, [0; 3]);
        guest.all("ok", &[copied, flush(1, 16, 16), submit(1, &[0]), submit(2, &[0])]);
        assert!(guest.screen.seen().pointer.image.is_some());
        assert_eq!(guest.window.seen.len(), 1);
        // Room that it makes is its own.
        guest.must(&unref(7));
        guest.must(ask);
        guest.finish();
    }
}
