//! What VNC clients type and point at reaches a guest, one person's at a time.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use frames::{Input, InputEvent, Leds, Rect};
use support::{Client, EXTENDED_DESKTOP_SIZE, KEY_CODES, LEDS, MORE_BUTTONS, Picture, RAW, Setup, Stage};

const ENTER: u32 = 0xff0d;
const SHIFT: u32 = 0xffe1;

fn stage() -> Stage {
    Stage::with(Setup::default())
}

fn key(code: u16, pressed: bool) -> Input {
    Input::Key { code, pressed }
}

fn button(code: u16, pressed: bool) -> Input {
    Input::Button { code, pressed }
}

fn inputs(events: &[InputEvent]) -> Vec<Input> {
    let input = |event: &InputEvent| match *event {
        InputEvent::Input { head: 0, input } => input,
        other => panic!("{other:?}"),
    };
    events.iter().map(input).collect()
}

/// The keys that are down after these events, each of which must change something.
fn down(events: &[InputEvent]) -> BTreeSet<u16> {
    let mut down = BTreeSet::new();
    for input in inputs(events) {
        match input {
            Input::Key { code, pressed: true } => assert!(down.insert(code)),
            Input::Key { code, pressed: false } => assert!(down.remove(&code)),
            Input::ReleaseAll => down.clear(),
            other => panic!("{other:?}"),
        }
    }
    down
}

#[test]
fn keys_are_typed_by_what_they_stand_for_and_by_their_place() {
    let stage = stage();
    let mut client = stage.client();
    client.press('l' as u32);
    client.press('S' as u32);
    client.press(ENTER);
    stage.keyboard.typed(38);
    // The shift that a client with another keyboard did not press.
    let capital = [(42, true), (31, true), (31, false), (42, false)];
    capital.into_iter().for_each(|(code, pressed)| assert_eq!(stage.keyboard.input(), key(code, pressed)));
    stage.keyboard.typed(28);
    // The place counts: y where a German keyboard has it.
    client.key('y' as u32, Some(0x2c), true);
    client.key('y' as u32, Some(0x2c), false);
    stage.keyboard.typed(44);
    stage.end();
}

#[test]
fn keys_that_no_keyboard_has_are_ignored_and_repeated_ones_are_not_repeated() {
    let stage = stage();
    let mut client = stage.client();
    for keysym in [0, 0x20ac, 0x0101_f600, u32::MAX] {
        client.press(keysym);
        client.key(keysym, Some(u32::MAX), true);
        client.key(keysym, Some(0x60), false);
    }
    for _ in 0..100 {
        client.key('a' as u32, None, true);
    }
    client.key('a' as u32, None, false);
    client.press('b' as u32);
    stage.keyboard.typed(30);
    stage.keyboard.typed(48);
    stage.end();
}

#[test]
fn the_pointer_is_where_the_client_has_it_and_never_outside() {
    let stage = stage();
    let picture = Picture::native(200, 100);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    for (x, y, wanted) in [
        (0, 0, (0, 0)),
        (199, 99, (65535, 65535)),
        (200, 5000, (65535, 65535)),
        (65535, 65535, (65535, 65535)),
        // 50 of 199 steps.
        (50, 0, (16466, 0)),
    ] {
        client.point(0, x, y);
        client.sync();
        assert_eq!(stage.keyboard.input(), Input::Pointer { x: wanted.0, y: wanted.1 }, "{x},{y}");
    }
    // Another mode: the client is not told and goes on with its own size.
    let small = Picture::native(20, 10);
    stage.device.show(0, &small);
    client.sync();
    client.point(0, 199, 0);
    assert_eq!(stage.keyboard.input(), Input::Pointer { x: 65535, y: 0 });
    stage.end();
}

#[test]
fn buttons_and_the_wheel() {
    let stage = stage();
    let mut client = stage.client();
    let at = Input::Pointer { x: 0, y: 0 };
    for (mask, events) in [
        (1, vec![button(0x110, true)]),
        (1 | 4, vec![button(0x111, true)]),
        (2 | 4, vec![button(0x110, false), button(0x112, true)]),
        (0, vec![button(0x112, false), button(0x111, false)]),
        (8, vec![Input::Wheel { vertical: 120, horizontal: 0 }]),
        (0, vec![]),
        (16, vec![Input::Wheel { vertical: -120, horizontal: 0 }]),
        (0, vec![]),
        (32, vec![Input::Wheel { vertical: 0, horizontal: -120 }]),
        (0, vec![]),
        (64, vec![Input::Wheel { vertical: 0, horizontal: 120 }]),
        // The eighth button, of a client that knows no more of them.
        (128, vec![button(0x113, true)]),
        (0, vec![button(0x113, false)]),
    ] {
        client.point(mask, 0, 0);
        for wanted in [at].into_iter().chain(events) {
            assert_eq!(stage.keyboard.input(), wanted, "{mask:#b}");
        }
    }
    client.encodings(&[RAW, MORE_BUTTONS]);
    client.request(true);
    assert_eq!(client.update()[0].encoding, MORE_BUTTONS, "it may say more buttons now");
    for (message, wanted) in [
        ([5, 0x80, 0, 0, 0, 0, 1], button(0x113, true)),
        ([5, 0x80, 0, 0, 0, 0, 3], button(0x114, true)),
        ([5, 0x80, 0, 0, 0, 0, 2], button(0x113, false)),
    ] {
        client.write(&message);
        assert_eq!((stage.keyboard.input(), stage.keyboard.input()), (at, wanted));
    }
    client.point(0, 0, 0);
    assert_eq!((stage.keyboard.input(), stage.keyboard.input()), (at, button(0x114, false)));
    stage.end();
}

#[test]
fn one_person_types_and_another_watches_until_the_first_one_leaves() {
    let stage = stage();
    let (mut first, mut second) = (stage.client(), stage.client());
    first.key('a' as u32, None, true);
    first.sync();
    second.press('b' as u32);
    second.point(1, 5, 5);
    second.sync();
    first.key('a' as u32, None, false);
    first.key(SHIFT, None, true);
    first.sync();
    assert_eq!(stage.keyboard.input(), key(30, true));
    assert_eq!(stage.keyboard.input(), key(30, false), "nothing of the second one is between");
    assert_eq!(stage.keyboard.input(), key(42, true));
    // It dies with a key down.
    drop(first);
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    second.press('b' as u32);
    stage.keyboard.typed(48);
    stage.end();
}

#[test]
fn who_asks_to_be_alone_takes_over_and_what_was_down_goes_up_first() {
    let stage = stage();
    let mut first = stage.client();
    first.key('a' as u32, None, true);
    first.sync();
    let mut second = Client::connect_alone(stage.vnc[0]);
    second.sync();
    first.press('x' as u32);
    // Its own key is up already: that is no news.
    first.key('a' as u32, None, false);
    first.sync();
    second.press('b' as u32);
    assert_eq!(stage.keyboard.input(), key(30, true));
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    stage.keyboard.typed(48);
    // The first one is still served.
    first.picture();
    stage.end();
}

#[test]
fn a_half_closed_connection_holds_no_key_down() {
    let stage = stage();
    let mut client = stage.client();
    client.key('a' as u32, None, true);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((stage.keyboard.input(), stage.keyboard.input()), (key(30, true), Input::ReleaseAll));
    client.sees_the_end();
    stage.end();
}

#[test]
fn garbage_after_a_key_ends_the_client_and_the_key_goes_up() {
    let stage = stage();
    for junk in
        [&[1u8][..], &[255, 9], &[255, 255, 255, 255], &[0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        let mut client = stage.client();
        client.key('a' as u32, None, true);
        client.write(junk);
        assert_eq!((stage.keyboard.input(), stage.keyboard.input()), (key(30, true), Input::ReleaseAll));
        client.sees_the_end();
    }
    stage.end();
}

#[test]
fn the_guests_lights_are_told_to_who_can_show_them() {
    let stage = stage();
    let mut client = stage.client();
    client.encodings(&[RAW, KEY_CODES, LEDS]);
    client.request(true);
    let told = client.update();
    assert_eq!(told[0].encoding, KEY_CODES, "it may say places of keys now");
    assert_eq!((told[1].encoding, &told[1].data[..]), (LEDS, &[0][..]));
    client.picture();
    client.request(true);
    stage.keyboard.leds(Leds { num: true, caps: false, scroll: true });
    let told = client.update();
    assert_eq!((told.len(), told[0].encoding, &told[0].data[..]), (1, LEDS, &[0b011][..]));
    client.request(true);
    stage.keyboard.leds(Leds { num: false, caps: true, scroll: false });
    let told = client.update();
    assert_eq!(told[0].data, [0b100]);
    // With the guest's caps lock a capital letter needs no shift.
    client.press('A' as u32);
    stage.keyboard.typed(30);
    stage.end();
}

#[test]
fn only_who_controls_changes_the_mode() {
    let stage = stage();
    let picture = Picture::native(64, 64);
    stage.device.show(0, &picture);
    let (mut first, mut second) = (stage.client(), stage.client());
    for client in [&mut first, &mut second] {
        client.encodings(&[RAW, EXTENDED_DESKTOP_SIZE]);
        client.request(true);
        client.update();
        client.picture();
    }
    // Nobody controls yet: who may, can.
    second.wish(800, 600);
    assert_eq!(stage.device.resize(), (800, 600));
    first.press('a' as u32);
    stage.keyboard.typed(30);
    second.request(true);
    second.update();
    second.wish(1000, 1000);
    second.request(true);
    let answer = second.update();
    assert_eq!((answer[0].rect.x, answer[0].rect.y), (1, 1), "prohibited");
    first.wish(640, 480);
    assert_eq!(stage.device.resize(), (640, 480));
    stage.end();
}

#[test]
fn without_an_input_device_everything_is_understood_and_dropped() {
    let stage = Stage::new(1);
    let mut client = stage.client();
    client.encodings(&[RAW, KEY_CODES, LEDS, MORE_BUTTONS]);
    client.request(true);
    let told: Vec<i32> = client.update().iter().map(|part| part.encoding).collect();
    assert!(!told.contains(&LEDS), "there is no keyboard with lights");
    client.press('a' as u32);
    client.point(1, 3, 3);
    client.sync();
    stage.end();
}

#[test]
fn a_storm_of_moves_reaches_the_guest_as_a_few_and_the_last_one_counts() {
    const MOVES: u32 = 100_000;
    let stage = stage();
    let picture = Picture::native(65535.min(frames::MAX_DIMENSION), 4);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    let storm: Vec<u8> = (0..MOVES)
        .flat_map(|at| {
            let [x1, x0] = ((at % picture.geometry.width) as u16).to_be_bytes();
            [5, 0, x1, x0, 0, 0]
        })
        .chain([5, 0, 0x3f, 0xff, 0, 3])
        .collect();
    client.write(&storm);
    client.sync();
    let moves = stage.keyboard.heard();
    assert!(moves.len() < MOVES as usize / 10, "{} of {MOVES}", moves.len());
    client.point(0, 0x3fff, 3);
    client.press('a' as u32);
    let after: Vec<Input> = inputs(&stage.keyboard.until(key(30, false)));
    let wanted = [Input::Pointer { x: 65535, y: 65535 }, key(30, true), key(30, false)];
    assert_eq!(after[after.len() - 3..], wanted, "the last move comes, and before the key");
    stage.end();
}

#[test]
fn a_storm_of_keys_keeps_nobody_waiting() {
    let stage = stage();
    let picture = Picture::native(64, 64);
    stage.device.show(0, &picture);
    let (mut stormy, mut quick) = (stage.client(), stage.client());
    let done = Arc::new(AtomicBool::new(false));
    let over = done.clone();
    let storm = std::thread::spawn(move || {
        for _ in 0..150 {
            let keys = [[4, 1, 0, 0, 0, 0, 0, b'a'], [4, 0, 0, 0, 0, 0, 0, b'a']].concat().repeat(100);
            stormy.write(&keys);
        }
        stormy.sync();
        over.store(true, Ordering::SeqCst);
        stormy
    });
    let mut shown = 0u32;
    while !done.load(Ordering::SeqCst) {
        shown += 1;
        quick.request(true);
        picture.fill(Rect::new(0, 0, 1, 1), |_, _| shown);
        stage.device.lock().damage(0, Rect::new(0, 0, 1, 1));
        assert_eq!(quick.update().len(), 1);
    }
    assert!(shown > 2, "{shown} pictures during the storm");
    drop(storm.join().unwrap());
    assert_eq!(down(&stage.keyboard.heard()), BTreeSet::new());
    stage.end();
}

#[test]
fn a_guest_that_does_not_listen_loses_keys_but_none_stays_down() {
    let mut stage = Stage::with(Setup { busy: true, ..Setup::default() });
    let mut client = stage.client();
    client.key(SHIFT, None, true);
    for _ in 0..5000 {
        client.press('a' as u32);
    }
    client.key('b' as u32, None, true);
    client.sync();
    stage.keyboard.start();
    // Nobody types any more: it is told all the same that everything goes up.
    let heard = stage.keyboard.until(Input::ReleaseAll);
    assert!(heard.len() < 10_000, "{} events were held for it", heard.len());
    assert_eq!(down(&heard), BTreeSet::new());
    client.press('c' as u32);
    let heard = stage.keyboard.until(key(46, false));
    assert_eq!(inputs(&heard)[heard.len() - 2..], [key(46, true), key(46, false)]);
    stage.end();
}

#[test]
fn a_device_that_ends_the_session_takes_no_more_and_the_screen_goes_on() {
    let stage = stage();
    let mut client = stage.client();
    client.press('a' as u32);
    stage.keyboard.typed(30);
    let _other = stage.keyboard.replace();
    assert_eq!(stage.keyboard.next(), InputEvent::Gone);
    client.press('a' as u32);
    client.picture();
    assert_eq!(stage.keyboard.heard(), []);
    stage.end();
}
