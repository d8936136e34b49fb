use super::*;

use frames::{InputEnd, InputEvent, TouchPhase, ViewerEnd};

use crate::tokens::{Door, Secret, Tokens};

const LOOKS: &str = "only-looks-00000";
const TYPES: &str = "also-types-00000";

/// A floor, and the devices it leads to.
struct Stage {
    hub: Arc<Hub>,
    console: InputEnd,
    touch: Option<InputEnd>,
    /// The device's end of the pictures, which nobody serves.
    _screen: OwnedFd,
}

impl Stage {
    fn new(with_touch: bool) -> Self {
        let (screen, viewer) = frames::pair().unwrap();
        let (console, console_end) = frames::pair().unwrap();
        let (touch, touch_end) = frames::pair().unwrap();
        let inputs = Inputs::begin(Some(console_end), Some(touch_end).filter(|_| with_touch));
        let hub = Hub::new(ViewerEnd::new(viewer).unwrap(), None, Floor::new(inputs), Door::guarded(tokens(true)));
        let touch = with_touch.then(|| InputEnd::new(touch).unwrap());
        Self { hub: Arc::new(hub), console: InputEnd::new(console).unwrap(), touch, _screen: screen }
    }

    fn sit(&self, token: &str) -> Seat {
        let pass = self.hub.door.admit(Some(&Secret::new(token.to_owned()))).unwrap();
        self.hub.sit(pass, token)
    }

    fn news(&self) -> FloorNews {
        self.hub.floor_news().borrow().clone()
    }

    /// What came to the console since the last call.
    fn heard(&mut self) -> Vec<Input> {
        hear(&mut self.console)
    }

    fn felt(&mut self) -> Vec<Input> {
        hear(self.touch.as_mut().unwrap())
    }
}

fn tokens(with_typist: bool) -> Tokens {
    let all = [(LOOKS, Right::Look), (TYPES, Right::Control)];
    let kept = all.into_iter().filter(|(_, right)| with_typist || *right == Right::Look);
    Tokens::of(kept.map(|(token, right)| (Secret::new(token.to_owned()), right)))
}

fn hear(end: &mut InputEnd) -> Vec<Input> {
    let (mut events, mut idle) = (Vec::new(), 0);
    // A call that brings nothing may have taken the session.
    while idle < 2 {
        let before = events.len();
        end.poll(&mut events);
        idle = if events.len() == before { idle + 1 } else { 0 };
    }
    let input = |event| match event {
        InputEvent::Input { input, .. } => Some(input),
        InputEvent::Gone => None,
    };
    events.into_iter().filter_map(input).collect()
}

fn key(code: u16, pressed: bool) -> Input {
    Input::Key { code, pressed }
}

fn finger(slot: u8, phase: TouchPhase) -> Input {
    Input::Touch { slot, phase, x: 7, y: 8 }
}

#[test]
fn whoever_types_first_controls_until_somebody_takes_it() {
    let mut stage = Stage::new(false);
    let (first, second) = (stage.sit(TYPES), stage.sit(TYPES));
    assert_eq!((stage.news().holder, stage.news().seats), (None, 2));
    // What ends something takes nothing.
    assert_eq!(second.input(0, key(30, false)), Outcome::Passed);
    assert_eq!(second.input(0, Input::ReleaseAll), Outcome::Passed);
    assert_eq!(second.input(0, finger(0, TouchPhase::Move)), Outcome::Passed);
    assert_eq!(stage.news().holder, None);
    assert_eq!(first.input(0, key(30, true)), Outcome::Passed);
    assert_eq!((stage.news().holder, stage.news().name.as_deref()), (Some(first.id()), Some(TYPES)));
    assert_eq!(second.input(0, key(31, true)), Outcome::NotYours);
    assert!(second.take() && second.holds() && !first.holds());
    assert_eq!(first.input(0, key(30, false)), Outcome::NotYours);
    assert_eq!(second.input(0, key(31, true)), Outcome::Passed);
    assert!(second.is_pressing() && second.is_down(31) && !first.is_down(31));
    assert_eq!(stage.heard(), [key(30, true), Input::ReleaseAll, key(31, true)]);
    // To take what one has changes nothing.
    second.take();
    assert_eq!(stage.heard(), []);
    second.release();
    assert_eq!((stage.heard(), stage.news().holder), (vec![Input::ReleaseAll], None));
    assert_eq!(first.input(0, Input::Pointer { x: 1, y: 2 }), Outcome::Passed);
    drop(second);
    drop(first);
    assert_eq!((stage.news().holder, stage.news().seats, stage.news().name), (None, 0, None));
    // A pointer that was there holds nothing down.
    assert_eq!(stage.heard(), [Input::Pointer { x: 1, y: 2 }]);
}

#[test]
fn a_mouse_that_only_passes_by_gives_way_to_who_types() {
    let mut stage = Stage::new(false);
    let (first, second) = (stage.sit(TYPES), stage.sit(TYPES));
    let at = Input::Pointer { x: 1, y: 2 };
    assert_eq!(first.input(0, at), Outcome::Passed);
    assert!(first.holds());
    // Another pointer does not pull it away, but it keeps nobody from anything else.
    assert_eq!((second.input(0, at), second.input(0, key(30, false))), (Outcome::NotYours, Outcome::NotYours));
    assert_eq!(second.may_resize(), Outcome::Passed);
    assert_eq!(second.input(0, key(30, true)), Outcome::Passed);
    assert!(second.holds());
    assert_eq!((first.input(0, at), first.input(0, key(31, true))), (Outcome::NotYours, Outcome::NotYours));
    assert_eq!(first.may_resize(), Outcome::NotYours);
    assert_eq!(stage.heard(), [at, key(30, true)]);
    second.release();
    // Who took it on purpose has it without having done anything.
    first.take();
    assert_eq!(second.input(0, key(30, true)), Outcome::NotYours);
    first.release();
    first.input(0, at);
    second.input(0, Input::Wheel { vertical: 120, horizontal: 0 });
    assert!(second.holds());
}

#[test]
fn who_only_looks_does_nothing_at_all() {
    let mut stage = Stage::new(false);
    let seat = stage.sit(LOOKS);
    for input in [key(30, true), Input::Pointer { x: 0, y: 0 }, finger(0, TouchPhase::Down)] {
        assert_eq!(seat.input(0, input), Outcome::MayNot);
    }
    assert!(!seat.take());
    assert_eq!((seat.right(), seat.resize(0, 800, 600)), (Right::Look, Outcome::MayNot));
    assert_eq!((stage.heard(), stage.news().holder), (vec![], None));
    assert_eq!(stage.hub.input_counts(), InputCounts { refused: 3, ..InputCounts::default() });
}

#[tokio::test]
async fn a_seat_whose_token_goes_lets_go_and_may_nothing_any_more() {
    let mut stage = Stage::new(false);
    let (typist, watcher) = (stage.sit(TYPES), stage.sit(LOOKS));
    let late = stage.hub.door.admit(Some(&Secret::new(TYPES.to_owned()))).unwrap();
    typist.input(0, key(30, true));
    stage.hub.change_tokens(tokens(false));
    typist.revoked().await;
    assert_eq!(stage.heard(), [key(30, true), Input::ReleaseAll]);
    assert_eq!((typist.input(0, key(30, true)), typist.take(), stage.news().holder), (Outcome::MayNot, false, None));
    // Who was let in before and sits down after is too late.
    let late = stage.hub.sit(late, "late");
    assert!(late.is_revoked() && !watcher.is_revoked());
    assert_eq!(late.input(0, key(30, true)), Outcome::MayNot);
}

#[test]
fn the_window_of_who_started_the_vm_needs_no_token() {
    let stage = Stage::new(false);
    let window = stage.hub.sit(Pass::of_the_owner(), "window");
    stage.hub.change_tokens(Tokens::default());
    assert!(!window.is_revoked() && window.take());
}

#[test]
fn what_no_keyboard_mouse_or_hand_has_is_counted_and_goes_nowhere() {
    let mut stage = Stage::new(true);
    let seat = stage.sit(TYPES);
    let wrong = [
        key(0, true),
        key(0x110, true),
        key(0x300, true),
        key(u16::MAX, true),
        Input::Button { code: 30, pressed: true },
        Input::Button { code: 0x118, pressed: true },
        finger(10, TouchPhase::Down),
        finger(u8::MAX, TouchPhase::Down),
    ];
    for input in wrong {
        assert_eq!(seat.input(0, input), Outcome::Passed);
    }
    seat.unknown();
    assert_eq!(stage.hub.input_counts(), InputCounts { unknown: wrong.len() as u64 + 1, ..InputCounts::default() });
    assert_eq!((stage.heard(), stage.felt()), (vec![], vec![]));
}

#[test]
fn what_is_down_goes_down_once_and_what_is_up_goes_up_once() {
    let mut stage = Stage::new(true);
    let seat = stage.sit(TYPES);
    for input in [key(30, true), key(30, true), key(30, false), key(30, false), key(31, false)] {
        seat.input(0, input);
    }
    seat.input(0, Input::Wheel { vertical: 0, horizontal: 0 });
    assert_eq!(stage.heard(), [key(30, true), key(30, false)]);
    for phase in [TouchPhase::Move, TouchPhase::Up, TouchPhase::Down, TouchPhase::Move, TouchPhase::Up, TouchPhase::Up]
    {
        seat.input(0, finger(3, phase));
    }
    let felt = [TouchPhase::Down, TouchPhase::Move, TouchPhase::Up].map(|phase| finger(3, phase));
    assert_eq!(stage.felt(), felt);
}

#[test]
fn the_first_finger_is_the_pointer_where_there_is_no_touch_screen() {
    let mut stage = Stage::new(false);
    assert!(stage.news().input && !stage.news().touch);
    let seat = stage.sit(TYPES);
    let at = Input::Pointer { x: 7, y: 8 };
    let left = |pressed| Input::Button { code: 0x110, pressed };
    for (slot, phase, wanted) in [
        (2, TouchPhase::Down, vec![at, left(true)]),
        // Another finger of the hand points nowhere.
        (1, TouchPhase::Down, vec![]),
        (1, TouchPhase::Move, vec![]),
        (2, TouchPhase::Move, vec![at]),
        (1, TouchPhase::Up, vec![]),
        (2, TouchPhase::Up, vec![at, left(false)]),
        (1, TouchPhase::Down, vec![at, left(true)]),
    ] {
        seat.input(0, finger(slot, phase));
        assert_eq!(stage.heard(), wanted, "{slot} {phase:?}");
    }
    drop(seat);
    assert_eq!(stage.heard(), [Input::ReleaseAll]);
    let seat = stage.sit(TYPES);
    seat.input(0, finger(0, TouchPhase::Down));
    assert_eq!(stage.heard(), [at, left(true)], "the hand that left holds no finger down");
}

#[test]
fn everything_goes_up_on_both_devices() {
    let mut stage = Stage::new(true);
    let seat = stage.sit(TYPES);
    seat.input(0, key(30, true));
    seat.input(0, finger(0, TouchPhase::Down));
    seat.input(0, Input::ReleaseAll);
    assert_eq!(stage.heard(), [key(30, true), Input::ReleaseAll]);
    assert_eq!(stage.felt(), [finger(0, TouchPhase::Down), Input::ReleaseAll]);
    assert!(seat.holds(), "it only looked away");
    seat.input(0, Input::ReleaseAll);
    assert_eq!((stage.heard(), stage.felt()), (vec![], vec![]), "there was nothing down");
}

#[test]
fn a_device_that_is_too_busy_hears_that_everything_went_up() {
    let mut stage = Stage::new(false);
    let seat = stage.sit(TYPES);
    let mut turn = 0;
    while stage.hub.input_counts().lost == 0 {
        turn += 1;
        seat.input(0, key(30, turn % 2 == 1));
        assert!(turn < 1_000_000, "somewhere it is full");
    }
    assert!(!seat.is_pressing(), "nothing that was lost counts as down");
    assert!(stage.hub.floor.wants_write(Which::Console));
    let heard = stage.heard();
    assert!(!heard.contains(&Input::ReleaseAll));
    assert!(stage.hub.attend(Which::Console));
    assert_eq!(stage.heard(), [Input::ReleaseAll]);
    assert!(!stage.hub.floor.wants_write(Which::Console));
}

#[test]
fn a_console_that_ends_is_news_and_takes_nothing() {
    let mut stage = Stage::new(true);
    let seat = stage.sit(TYPES);
    seat.input(0, finger(0, TouchPhase::Down));
    let (other, _kept) = frames::pair().unwrap();
    stage.console = InputEnd::new(other).unwrap();
    assert!(!stage.hub.attend(Which::Console));
    assert!(!stage.news().input && stage.news().touch);
    assert_eq!(stage.felt(), [finger(0, TouchPhase::Down), Input::ReleaseAll]);
    assert_eq!(seat.input(0, key(30, true)), Outcome::Passed, "it has a touch screen still");
    drop(stage.touch.take());
    assert!(!stage.hub.attend(Which::Touch));
    assert_eq!(seat.input(0, key(30, true)), Outcome::NoInput);
}
