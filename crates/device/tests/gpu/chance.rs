//! Conversations that nobody wrote: a late renderer and a hasty guest must come to the same end as a prompt one.

use proptest::prelude::*;
use renderer::{Mood, Soft};

use crate::machine::Machine;
use crate::script::Request;

/// A request about one of three resources and two heads, often a possible one.
fn any_request() -> impl Strategy<Value = String> {
    let id = 1u32..4;
    let rect = (0u32..18, 0u32..18, 0u32..18, 0u32..18).prop_map(|(x, y, w, h)| format!("{x},{y}+{w}x{h}"));
    let rect =
        prop_oneof![4 => Just(String::from("0,0+16x16")), 4 => rect, 1 => Just(String::from("0xffffffff,1+2x2"))];
    let entries = prop::collection::vec((0u64..0x9_0000, 0u32..0x500), 0..4)
        .prop_map(|entries| entries.iter().map(|(addr, len)| format!(" {addr}+{len}")).collect::<String>());
    let entries = prop_oneof![Just(String::from(" 0x1000+0x400")), Just(String::from(" 0x200000+0x4000")), entries];
    let head = 0u32..3;
    prop_oneof![
        2 => id.clone().prop_map(|id| format!("create_2d {id} bgrx 16x16")),
        1 => (id.clone(), 0u32..70, 0u32..70).prop_map(|(id, w, h)| format!("create_2d {id} rgba {w}x{h}")),
        1 => (id.clone(), entries.clone()).prop_map(|(id, entries)| format!("blob {id} 0x400{entries}")),
        1 => id.clone().prop_map(|id| format!("unref {id}")),
        3 => (id.clone(), entries).prop_map(|(id, entries)| format!("attach {id}{entries}")),
        1 => id.clone().prop_map(|id| format!("detach {id}")),
        4 => (id.clone(), rect.clone()).prop_map(|(id, rect)| format!("transfer {id} {rect}")),
        1 => (id.clone(), rect.clone(), 0u64..0x500).prop_map(|(id, rect, at)| format!("transfer {id} {rect} {at}")),
        4 => (id.clone(), rect.clone()).prop_map(|(id, rect)| format!("flush {id} {rect}")),
        2 => (head.clone(), 0u32..4, rect.clone()).prop_map(|(head, id, rect)| format!("scanout {head} {id} {rect}")),
        1 => (head.clone(), id.clone()).prop_map(|(head, id)| format!("scanout_blob {head} {id} 0,0+8x8 16x16 bgrx 64 0")),
        1 => (head.clone(), 0u32..4).prop_map(|(head, id)| format!("cursor {head} 1,2 {id} 3,4")),
        1 => head.prop_map(|head| format!("move_cursor {head} 9,9")),
        1 => Just(String::from("display_info fence=7")),
        1 => id.prop_map(|id| format!("uuid {id}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_late_renderer_changes_no_reply_and_no_picture(
        lines in prop::collection::vec(any_request(), 1..60),
        seed in any::<u64>(),
        delay in 1u8..20,
        shared in any::<bool>(),
    ) {
        let mut prompt = Machine::with(Box::new(Soft::new()), false);
        let mut late = Machine::late(Mood { delay, ..Mood::honest(seed) }, shared);
        let mut sent = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let expected = prompt.ask(line);
            // Whether a flush of one resource fails may depend on which head shows another one: a guest that cares waits.
            if line.starts_with("scanout") {
                late.wait();
            }
            sent.push((line, expected, late.send(&Request::parse(line))));
            if seed.wrapping_add(at as u64).is_multiple_of(3) {
                late.poll();
            }
        }
        late.wait();
        for (line, expected, index) in sent {
            prop_assert_eq!(late.reply(index).unwrap(), expected, "{}", line);
        }
        {
            let (prompt, late) = (prompt.screen.seen(), late.screen.seen());
            prop_assert_eq!(&prompt.pointer, &late.pointer);
            prop_assert_eq!(prompt.heads.keys().collect::<Vec<_>>(), late.heads.keys().collect::<Vec<_>>());
        }
        let (a, b) = (prompt.stats.snapshot(), late.stats.snapshot());
        prop_assert_eq!((a.resources, a.image_bytes), (b.resources, b.image_bytes));
        prop_assert_eq!((a.panics, b.panics), (0, 0));
        prop_assert_eq!(through(&prompt.gpu.state()), through(&late.gpu.state()));
        prompt.finish();
        late.finish();
    }

    #[test]
    fn a_renderer_that_does_anything_at_all_leaks_nothing_and_answers_once(
        lines in prop::collection::vec(any_request(), 1..60),
        seed in any::<u64>(),
        never in any::<u8>(),
        twice in any::<u8>(),
        fail in any::<u8>(),
    ) {
        let mut machine = Machine::late(Mood { seed, delay: 9, never: never / 4, twice, fail, blind: 0 }, true);
        for (at, line) in lines.iter().enumerate() {
            machine.send(&Request::parse(line));
            if seed.wrapping_add(at as u64).is_multiple_of(3) {
                machine.poll();
            }
        }
        machine.finish();
        prop_assert_eq!(machine.stats.panics.get(), 0);
    }
}

/// A state but for what is drawn by lot.
fn through(state: &device::gpu::State) -> serde_json::Value {
    let mut value = serde_json::to_value(state).unwrap();
    for resource in value["resources"].as_array_mut().unwrap() {
        resource["uuid"] = serde_json::json!(resource["uuid"].is_null());
    }
    value
}
