//! Keys by what they stand for: X11 keysyms on a US keyboard.

/// The printed keys, row by row: the first one's evdev code, what they are alone, and with shift.
const ROWS: [(u16, &[u8], &[u8]); 4] = [
    (2, b"1234567890-=", b"!@#$%^&*()_+"),
    (16, b"qwertyuiop[]", b"QWERTYUIOP{}"),
    (30, b"asdfghjkl;'`", b"ASDFGHJKL:\"~"),
    (43, b"\\zxcvbnm,./", b"|ZXCVBNM<>?"),
];

/// A key, and what the shifts have to be for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The same with and without shift.
    Plain(u16),
    /// A letter: a capital one?
    Letter(u16, bool),
    /// Another printed key: the upper one?
    Symbol(u16, bool),
    /// A digit or the point of the keypad: with num lock, and the printed key that is the same without.
    Digit(u16, u16),
    /// An arrow of the keypad: without num lock, and the key that is the same with it.
    Arrow(u16, u16),
    /// It chose what the other keys stand for at the client, which says that by their keysyms.
    Chooser,
}

/// Keysyms that are one key each.
#[rustfmt::skip]
const PLAIN: [(u32, u16); 88] = [
    (0xff08, 14), (0xff09, 15), (0xfe20, 15), (0xff0a, 28), (0xff0d, 28), (0xff13, 119), (0xff14, 70), (0xff15, 99),
    (0xff1b, 1), (0xffff, 111), (0xff20, 127), (0xff22, 94), (0xff23, 92), (0xff27, 93), (0xff2a, 85), (0xff31, 122),
    (0xff34, 123), (0xff50, 102), (0xff51, 105), (0xff52, 103), (0xff53, 106), (0xff54, 108), (0xff55, 104), (0xff56, 109),
    (0xff57, 107), (0xff61, 99), (0xff63, 110), (0xff65, 131), (0xff66, 182), (0xff67, 127), (0xff68, 136), (0xff69, 223),
    (0xff6a, 138), (0xff6b, 119), (0xff7f, 69), (0xff80, 57), (0xff89, 15), (0xff8d, 96), (0xff91, 59), (0xff92, 60),
    (0xff93, 61), (0xff94, 62), (0xff9d, 76), (0xffaa, 55), (0xffab, 78), (0xffac, 121), (0xffad, 74), (0xffaf, 98),
    (0xffbd, 117), (0xffe1, 42), (0xffe2, 54), (0xffe3, 29), (0xffe4, 97), (0xffe5, 58), (0xffe6, 58), (0xffe7, 125),
    (0xffe8, 126), (0xffe9, 56), (0xffea, 100), (0xffeb, 125), (0xffec, 126), (0xffed, 125), (0xffee, 126),
    // The keys of XFree86: volume, media, browser, power.
    (0x1008_ff11, 114), (0x1008_ff12, 113), (0x1008_ff13, 115), (0x1008_ff14, 164), (0x1008_ff15, 166), (0x1008_ff16, 165),
    (0x1008_ff17, 163), (0x1008_ff18, 172), (0x1008_ff19, 155), (0x1008_ff1b, 217), (0x1008_ff1d, 140), (0x1008_ff26, 158),
    (0x1008_ff27, 159), (0x1008_ff28, 128), (0x1008_ff29, 173), (0x1008_ff2a, 116), (0x1008_ff2b, 143), (0x1008_ff2f, 142),
    (0x1008_ff30, 156), (0x1008_ff32, 226), (0x1008_ff33, 157), (0x1008_ff57, 133), (0x1008_ff58, 137), (0x1008_ff6d, 135),
    (0x20, 57),
];

/// The keypad without num lock, from KP_Home on: its key, and the key beside it that is the same.
const ARROWS: [(u16, u16); 8] =
    [(71, 102), (75, 105), (72, 103), (77, 106), (80, 108), (73, 104), (81, 109), (79, 107)];

/// The keypad's digits from 0 on: its key, and the one in the first row.
#[rustfmt::skip]
const DIGITS: [(u16, u16); 10] =
    [(82, 11), (79, 2), (80, 3), (81, 4), (75, 5), (76, 6), (77, 7), (71, 8), (72, 9), (73, 10)];

/// The key of a keysym.
pub(super) fn key(keysym: u32) -> Option<Key> {
    // Unicode keysyms of what has one of its own.
    let keysym = if matches!(keysym, 0x0100_0020..=0x0100_007e) { keysym & 0xff } else { keysym };
    let after = |first: u32| (keysym - first) as usize;
    match keysym {
        0x21..=0x7e => printed(keysym as u8),
        // ISO_Level3_Shift and its like, Mode_switch.
        0xfe02..=0xfe05 | 0xfe11..=0xfe13 | 0xff7e => Some(Key::Chooser),
        0xff95..=0xff9c => ARROWS.get(after(0xff95)).map(|(own, other)| Key::Arrow(*own, *other)),
        0xff9e => Some(Key::Arrow(82, 110)),
        0xff9f => Some(Key::Arrow(83, 111)),
        0xffae => Some(Key::Digit(83, 52)),
        0xffb0..=0xffb9 => DIGITS.get(after(0xffb0)).map(|(own, other)| Key::Digit(*own, *other)),
        // F1 to F24.
        0xffbe..=0xffc7 => Some(Key::Plain(59 + after(0xffbe) as u16)),
        0xffc8..=0xffc9 => Some(Key::Plain(87 + after(0xffc8) as u16)),
        0xffca..=0xffd5 => Some(Key::Plain(183 + after(0xffca) as u16)),
        _ => PLAIN.iter().find(|(known, _)| *known == keysym).map(|(_, code)| Key::Plain(*code)),
    }
}

fn printed(letter: u8) -> Option<Key> {
    ROWS.iter().find_map(|(first, alone, shifted)| {
        let place = |row: &[u8]| row.iter().position(|printed| *printed == letter).map(|place| first + place as u16);
        let (code, upper) = place(alone).map(|code| (code, false)).or(place(shifted).map(|code| (code, true)))?;
        Some(if letter.is_ascii_alphabetic() { Key::Letter(code, upper) } else { Key::Symbol(code, upper) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_keysym_is_two_keys() {
        let mut keysyms: Vec<u32> = PLAIN.iter().map(|(keysym, _)| *keysym).collect();
        keysyms.sort_unstable();
        assert!(keysyms.windows(2).all(|pair| pair[0] < pair[1]));
        for (keysym, code) in PLAIN {
            assert_eq!(key(keysym), Some(Key::Plain(code)), "{keysym:#x}: another rule comes first");
        }
    }

    #[test]
    fn keys_that_print_nothing() {
        for (keysym, code) in
            [(0xff1b, 1), (0xffbe, 59), (0xffc7, 68), (0xffc8, 87), (0xffc9, 88), (0xffca, 183), (0xffd5, 194)]
        {
            assert_eq!(key(keysym), Some(Key::Plain(code)), "{keysym:#x}");
        }
        assert_eq!(key(0xff95), Some(Key::Arrow(71, 102)));
        assert_eq!(key(0xff9c), Some(Key::Arrow(79, 107)));
        assert_eq!(key(0xffb0), Some(Key::Digit(82, 11)));
        assert_eq!(key(0xffb9), Some(Key::Digit(73, 10)));
        assert_eq!(key(0xfe03), Some(Key::Chooser));
        assert_eq!(key(0x0100_0041), Some(Key::Letter(30, true)));
    }

    #[test]
    fn what_no_us_keyboard_has_is_none() {
        // Control characters, a umlaut, the euro, a Cyrillic letter, an emoji, nothing at all.
        for none in [0, 8, 0x1b, 0x7f, 0xe4, 0x20ac, 0x6c1, 0x0101_f600, 0x00ff_ffff, u32::MAX] {
            assert_eq!(key(none), None, "{none:#x}");
        }
    }
}
