//! From what a client says of a key to what the guest's keyboard does.

use std::collections::BTreeMap;

use frames::Leds;

use super::us::{self, Key};
use super::{CHORD, LEFT_SHIFT, RIGHT_SHIFT, Unknown, xt};

/// What the guest's keyboard is like.
#[derive(Clone, Copy, Debug)]
struct Keyboard {
    left_shift: bool,
    right_shift: bool,
    /// Control, Alt or Super is down: a key is a command then, not a letter.
    chord: bool,
    leds: Leds,
}

impl Keyboard {
    fn new(is_down: &dyn Fn(u16) -> bool, leds: Leds) -> Self {
        let chord = CHORD.iter().any(|code| is_down(*code));
        Self { left_shift: is_down(LEFT_SHIFT), right_shift: is_down(RIGHT_SHIFT), chord, leds }
    }

    fn shifts(&self) -> impl Iterator<Item = u16> + use<> {
        let shifts = [(LEFT_SHIFT, self.left_shift), (RIGHT_SHIFT, self.right_shift)];
        shifts.into_iter().filter(|(_, down)| *down).map(|(code, _)| code)
    }

    fn is_shifted(&self) -> bool {
        self.left_shift || self.right_shift
    }
}

/// Shifts that are not as the client has them, while a key is down.
#[derive(Debug)]
struct Lent {
    key: u16,
    /// What to do when it is over.
    after: Vec<(u16, bool)>,
}

/// A client's typing.
#[derive(Debug, Default)]
pub(crate) struct Typing {
    /// Which key went down for a keysym, so that the same one goes up.
    pressed: BTreeMap<u32, u16>,
    lent: Option<Lent>,
}

impl Typing {
    /// What the guest's keyboard does, on which these keys are down and these lights on, when a client says that a key went
    /// down or up.
    pub(crate) fn key(
        &mut self,
        (keysym, place): (u32, Option<u32>),
        pressed: bool,
        is_down: &dyn Fn(u16) -> bool,
        leds: Leds,
    ) -> Result<Vec<(u16, bool)>, Unknown> {
        let now = Keyboard::new(is_down, leds);
        let mut done = Vec::new();
        match place.and_then(xt::key) {
            Some(code) if pressed => {
                self.give_back(&mut done);
                done.push((code, true));
            }
            Some(code) => self.lift(code, &mut done),
            None => {
                let key = us::key(keysym).ok_or(Unknown)?;
                let repeated = self.pressed.get(&keysym).is_some_and(|code| is_down(*code));
                if pressed && !repeated {
                    self.press(keysym, key, now, &mut done);
                } else if pressed {
                    // The guest repeats keys by itself.
                } else if let Some((code, _)) = resolve(key, &now) {
                    let code = self.pressed.remove(&keysym).unwrap_or(code);
                    self.pressed.retain(|_, other| *other != code);
                    self.lift(code, &mut done);
                }
            }
        }
        Ok(done)
    }

    fn press(&mut self, keysym: u32, key: Key, mut now: Keyboard, done: &mut Vec<(u16, bool)>) {
        self.give_back(done);
        for (code, down) in done.iter() {
            match *code {
                LEFT_SHIFT => now.left_shift = *down,
                RIGHT_SHIFT => now.right_shift = *down,
                _ => {}
            }
        }
        let Some((code, shift)) = resolve(key, &now) else { return };
        match shift {
            Some(true) if !now.is_shifted() => {
                done.push((LEFT_SHIFT, true));
                self.lent = Some(Lent { key: code, after: vec![(LEFT_SHIFT, false)] });
            }
            Some(false) if now.is_shifted() => {
                done.extend(now.shifts().map(|shift| (shift, false)));
                self.lent = Some(Lent { key: code, after: now.shifts().map(|shift| (shift, true)).collect() });
            }
            _ => {}
        }
        self.pressed.insert(keysym, code);
        done.push((code, true));
    }

    fn lift(&mut self, code: u16, done: &mut Vec<(u16, bool)>) {
        done.push((code, false));
        match &mut self.lent {
            Some(lent) if lent.key == code => self.give_back(done),
            // A shift that the client let go of does not come back.
            Some(lent) => lent.after.retain(|after| *after != (code, true)),
            None => {}
        }
    }

    fn give_back(&mut self, done: &mut Vec<(u16, bool)>) {
        done.extend(self.lent.take().into_iter().flat_map(|lent| lent.after));
    }
}

/// The key for a keysym, and whether a shift must be down for it; none: it does not matter.
fn resolve(key: Key, now: &Keyboard) -> Option<(u16, Option<bool>)> {
    match key {
        Key::Plain(code) => Some((code, None)),
        Key::Letter(code, _) if now.chord => Some((code, None)),
        // With a shift that is down, a small letter is from a client that does not look at it.
        Key::Letter(code, false) if now.is_shifted() && !now.leds.caps => Some((code, None)),
        Key::Letter(code, upper) => Some((code, Some(upper != now.leds.caps))),
        Key::Symbol(code, upper) => Some((code, Some(upper))),
        Key::Digit(own, _) if now.leds.num => Some((own, None)),
        Key::Digit(_, other) => Some((other, Some(false))),
        Key::Arrow(_, other) if now.leds.num => Some((other, None)),
        Key::Arrow(own, _) => Some((own, None)),
        Key::Chooser => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    /// A guest with a US keyboard, as a console sees it. What is printed on the keys is spelt here once more.
    #[derive(Default)]
    struct Guest {
        down: BTreeSet<u16>,
        leds: Leds,
        text: String,
    }

    #[rustfmt::skip]
    const PRINTED: [(u16, char, char); 48] = [
        (2, '1', '!'), (3, '2', '@'), (4, '3', '#'), (5, '4', '$'), (6, '5', '%'), (7, '6', '^'), (8, '7', '&'), (9, '8', '*'),
        (10, '9', '('), (11, '0', ')'), (12, '-', '_'), (13, '=', '+'), (16, 'q', 'Q'), (17, 'w', 'W'), (18, 'e', 'E'),
        (19, 'r', 'R'), (20, 't', 'T'), (21, 'y', 'Y'), (22, 'u', 'U'), (23, 'i', 'I'), (24, 'o', 'O'), (25, 'p', 'P'),
        (26, '[', '{'), (27, ']', '}'), (30, 'a', 'A'), (31, 's', 'S'), (32, 'd', 'D'), (33, 'f', 'F'), (34, 'g', 'G'),
        (35, 'h', 'H'), (36, 'j', 'J'), (37, 'k', 'K'), (38, 'l', 'L'), (39, ';', ':'), (40, '\'', '"'), (41, '`', '~'),
        (43, '\\', '|'), (44, 'z', 'Z'), (45, 'x', 'X'), (46, 'c', 'C'), (47, 'v', 'V'), (48, 'b', 'B'), (49, 'n', 'N'),
        (50, 'm', 'M'), (51, ',', '<'), (52, '.', '>'), (53, '/', '?'), (57, ' ', ' '),
    ];

    impl Guest {
        fn hear(&mut self, events: Vec<(u16, bool)>) {
            for (code, pressed) in events {
                if !pressed {
                    self.down.remove(&code);
                    continue;
                }
                self.down.insert(code);
                let shifted = self.down.contains(&42) || self.down.contains(&54);
                if let Some((_, lower, upper)) = PRINTED.iter().find(|(key, ..)| *key == code) {
                    let shifted = if lower.is_ascii_alphabetic() { shifted != self.leds.caps } else { shifted };
                    self.text.push(if shifted { *upper } else { *lower });
                }
            }
        }

        fn key(&mut self, typing: &mut Typing, keysym: u32, pressed: bool) {
            let events = typing.key((keysym, None), pressed, &|code| self.down.contains(&code), self.leds);
            self.hear(events.unwrap());
        }

        fn press(&mut self, typing: &mut Typing, keysym: u32) {
            self.key(typing, keysym, true);
            self.key(typing, keysym, false);
        }
    }

    const SHIFT: u32 = 0xffe1;

    /// A key that goes down where nothing is.
    fn place(keysym: u32, place: u32) -> Result<Vec<(u16, bool)>, Unknown> {
        Typing::default().key((keysym, Some(place)), true, &|_| false, Leds::default())
    }

    #[test]
    fn every_printable_character_of_a_us_keyboard_is_typed_as_it_is() {
        let all: String = (' '..='~').collect();
        for (caps, shift) in [(false, false), (true, false), (false, true), (true, true)] {
            let (mut guest, mut typing) = (Guest::default(), Typing::default());
            guest.leds.caps = caps;
            // Small letters with shift are what clients say that leave the shift to us.
            let typed: String = all.chars().filter(|letter| caps || !shift || !letter.is_ascii_lowercase()).collect();
            if shift {
                guest.key(&mut typing, SHIFT, true);
            }
            typed.chars().for_each(|letter| guest.press(&mut typing, letter as u32));
            assert_eq!(guest.text, typed, "caps lock {caps}, shift {shift}");
            assert_eq!(guest.down, BTreeSet::from_iter(shift.then_some(42)), "as the client has it");
        }
    }

    #[test]
    fn a_small_letter_with_shift_is_a_capital_one() {
        let (mut guest, mut typing) = (Guest::default(), Typing::default());
        guest.key(&mut typing, SHIFT, true);
        guest.press(&mut typing, 'a' as u32);
        guest.key(&mut typing, SHIFT, false);
        assert_eq!((guest.text.as_str(), guest.down.len()), ("A", 0));
    }

    #[test]
    fn keys_that_overlap_do_not_share_a_lent_shift() {
        let (mut guest, mut typing) = (Guest::default(), Typing::default());
        for (letter, pressed) in [('H', true), ('e', true), ('H', false), ('?', true), ('e', false), ('/', true)] {
            guest.key(&mut typing, letter as u32, pressed);
        }
        for letter in ['?', '/'] {
            guest.key(&mut typing, letter as u32, false);
        }
        assert_eq!((guest.text.as_str(), guest.down.len()), ("He?/", 0));
    }

    #[test]
    fn a_client_that_repeats_a_key_changes_nothing() {
        let mut typing = Typing::default();
        let down = |typing: &mut Typing, is_down: &dyn Fn(u16) -> bool| {
            typing.key(('H' as u32, None), true, is_down, Leds::default()).unwrap()
        };
        assert_eq!(down(&mut typing, &|_| false), [(42, true), (35, true)]);
        assert_eq!(down(&mut typing, &|code| [35, 42].contains(&code)), []);
        // Everything went up meanwhile.
        assert_eq!(down(&mut typing, &|_| false), [(42, false), (42, true), (35, true)]);
    }

    #[test]
    fn a_shift_that_the_client_let_go_of_meanwhile_stays_up() {
        // A French keyboard: 1 is shift and &.
        let (mut guest, mut typing) = (Guest::default(), Typing::default());
        guest.key(&mut typing, SHIFT, true);
        guest.key(&mut typing, '1' as u32, true);
        guest.key(&mut typing, SHIFT, false);
        guest.key(&mut typing, '1' as u32, false);
        assert_eq!((guest.text.as_str(), guest.down.len()), ("1", 0));
    }

    #[test]
    fn a_command_is_the_key_and_not_the_letter() {
        let (mut guest, mut typing) = (Guest::default(), Typing::default());
        guest.key(&mut typing, 0xffe3, true);
        guest.key(&mut typing, 'C' as u32, true);
        assert_eq!(guest.down, BTreeSet::from([29, 46]));
    }

    #[test]
    fn the_key_that_goes_up_is_the_one_that_went_down() {
        let (mut guest, mut typing) = (Guest::default(), Typing::default());
        // The keypad's 7, and num lock changes while it is down; a letter whose shift went first.
        guest.key(&mut typing, 0xffb7, true);
        assert_eq!(guest.down, BTreeSet::from([8]));
        guest.leds.num = true;
        guest.key(&mut typing, 0xffb7, false);
        guest.key(&mut typing, 0xffb7, true);
        assert_eq!(guest.down, BTreeSet::from([71]));
        guest.leds.num = false;
        guest.key(&mut typing, 0xffb7, false);
        guest.key(&mut typing, 'A' as u32, true);
        guest.key(&mut typing, 'a' as u32, false);
        assert_eq!(guest.down, BTreeSet::new());
    }

    /// What a client can say: a keysym of every kind, with or without a place, or the guest's lights change.
    fn said() -> impl Strategy<Value = (u32, Option<u32>, bool, u8)> {
        let keysyms = prop::sample::select(vec![
            'a' as u32, 'A' as u32, '1' as u32, '!' as u32, '7' as u32, ' ' as u32, SHIFT, 0xffe2, 0xffe3, 0xfe03,
            0xff0d, 0xff7f, 0xff95, 0xffb7, 0xffae, 0x20ac,
        ]);
        let places = prop::option::of(prop::sample::select(vec![0u32, 2, 0x1e, 0x2a, 0x36, 0x1d, 0x47, 0xb8, 0xff]));
        (keysyms, places, any::<bool>(), 0..8u8)
    }

    proptest! {
        #[test]
        fn whoever_lets_go_of_every_key_leaves_none_down(said in prop::collection::vec(said(), 0..40)) {
            let (mut guest, mut typing) = (Guest::default(), Typing::default());
            let mut say = |keysym, place, pressed, lights: u8| {
                guest.leds = Leds { num: lights & 1 != 0, caps: lights & 2 != 0, scroll: lights & 4 != 0 };
                let events = typing.key((keysym, place), pressed, &|code| guest.down.contains(&code), guest.leds);
                events.into_iter().for_each(|events| guest.hear(events));
            };
            for (keysym, place, pressed, lights) in &said {
                say(*keysym, *place, *pressed, *lights);
            }
            for (keysym, place, ..) in said.iter().filter(|(.., pressed, _)| *pressed) {
                say(*keysym, *place, false, 0);
            }
            prop_assert_eq!(guest.down, BTreeSet::new());
            prop_assert!(typing.pressed.is_empty() && typing.lent.is_none());
        }
    }

    #[test]
    fn a_place_counts_before_a_keysym_and_a_place_that_is_none_does_not() {
        // The y of a German keyboard is where the z of a US one is.
        assert_eq!(place('y' as u32, 0x2c), Ok(vec![(44, true)]));
        assert_eq!(place('y' as u32, 0), Ok(vec![(21, true)]));
        assert_eq!(place(0x20ac, 0x60), Err(Unknown));
    }

    #[test]
    fn what_chooses_a_letter_at_the_client_chooses_none_in_the_guest() {
        // A German keyboard without places: AltGr and q is @.
        let (mut guest, mut typing) = (Guest::default(), Typing::default());
        guest.key(&mut typing, 0xfe03, true);
        guest.press(&mut typing, '@' as u32);
        guest.key(&mut typing, 0xfe03, false);
        assert_eq!((guest.text.as_str(), guest.down.len()), ("@", 0));
        // As a place it is the key that it is.
        assert_eq!(place(0xfe03, 0xb8), Ok(vec![(100, true)]));
    }
}
