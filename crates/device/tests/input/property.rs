//! Any life at all.

use device::{InputKind, SourceEvent, TouchPhase};
use proptest::prelude::*;
use transport::feature;

use crate::life::{Event, live};

fn source_event() -> impl Strategy<Value = SourceEvent> {
    use SourceEvent::{Button, Gone, Key, Pointer, ReleaseAll, Touch, Wheel};
    // Few codes, so that presses and releases meet, and some that do not exist.
    let code = prop_oneof![4 => 28u16..34, 1 => Just(0x110u16), 1 => any::<u16>()];
    let button = prop_oneof![4 => 0x110u16..0x113, 1 => any::<u16>()];
    let phase = prop_oneof![Just(TouchPhase::Down), Just(TouchPhase::Move), Just(TouchPhase::Up)];
    prop_oneof![
        6 => (code, any::<bool>()).prop_map(|(code, pressed)| Key { code, pressed }),
        3 => (button, any::<bool>()).prop_map(|(code, pressed)| Button { code, pressed }),
        4 => (any::<u8>(), any::<u16>(), any::<u16>()).prop_map(|(head, x, y)| Pointer { head, x, y }),
        2 => (any::<i16>(), -120i16..=120).prop_map(|(vertical, horizontal)| Wheel { vertical, horizontal }),
        9 => (0u8..12, phase, any::<u16>(), any::<u16>())
            .prop_map(|(slot, phase, x, y)| Touch { slot, phase, head: 0, x, y }),
        1 => Just(ReleaseAll),
        1 => Just(Gone),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let does = prop_oneof![
        6 => prop::collection::vec(source_event(), 1..6),
        1 => prop::collection::vec(source_event(), 60..140),
    ];
    prop_oneof![
        20 => does.prop_map(Event::Does),
        14 => (1u8..20).prop_map(Event::Post),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Event::Status),
        1 => (0u64..140, prop::collection::vec(any::<u8>(), 0..140)).prop_map(|(at, bytes)| Event::Config(at, bytes)),
        2 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::Reboot),
        1 => Just(Event::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_guest_sees_whole_frames_and_nothing_sticks(
        kind in prop_oneof![Just(InputKind::Console), Just(InputKind::Touch)],
        size in prop_oneof![Just(4u16), Just(8), Just(64)],
        event_idx in any::<bool>(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let features = if event_idx { u64::MAX } else { !feature::EVENT_IDX };
        live(kind, size, features, events);
    }
}
