//! Keys by their place: scan codes of the XT (set 1), as QEMU's extended key events carry them. A code that the keyboard sends after
//! 0xe0 has its highest bit set there; some clients send both bytes.

/// Scan codes up to this one are evdev codes.
const SAME: u32 = 0x53;

/// The others that come alone.
#[rustfmt::skip]
const ALONE: [(u8, u8); 32] = [
    (0x54, 99), (0x55, 186), (0x56, 86), (0x57, 87), (0x58, 88), (0x59, 117), (0x5a, 190), (0x5c, 95),
    (0x5d, 183), (0x5e, 184), (0x5f, 185), (0x64, 134), (0x65, 135), (0x66, 141), (0x67, 144), (0x68, 145),
    (0x69, 146), (0x6a, 151), (0x6c, 161), (0x6d, 193), (0x6f, 194), (0x70, 93), (0x71, 123), (0x72, 122),
    (0x73, 89), (0x74, 191), (0x76, 85), (0x77, 91), (0x78, 90), (0x79, 92), (0x7b, 94), (0x7d, 124),
];

/// Those that come after 0xe0.
#[rustfmt::skip]
const AFTER_E0: [(u8, u8); 65] = [
    (0x03, 187), (0x04, 189), (0x05, 129), (0x06, 130), (0x07, 131), (0x08, 176), (0x09, 181), (0x0a, 182),
    (0x0c, 132), (0x10, 165), (0x13, 147), (0x17, 149), (0x18, 168), (0x19, 163), (0x1c, 96), (0x1d, 97),
    (0x1e, 139), (0x1f, 148), (0x20, 113), (0x21, 140), (0x22, 164), (0x23, 160), (0x24, 166), (0x25, 205),
    (0x26, 154), (0x2e, 114), (0x30, 115), (0x31, 167), (0x32, 172), (0x35, 98), (0x37, 99), (0x38, 100),
    (0x3c, 137), (0x41, 136), (0x46, 119), (0x47, 102), (0x48, 103), (0x49, 104), (0x4b, 105), (0x4d, 106),
    (0x4e, 118), (0x4f, 107), (0x50, 108), (0x51, 109), (0x52, 110), (0x53, 111), (0x5b, 125), (0x5c, 126),
    (0x5d, 127), (0x5e, 116), (0x5f, 142), (0x63, 143), (0x65, 217), (0x66, 156), (0x67, 173), (0x68, 128),
    (0x69, 159), (0x6a, 158), (0x6b, 157), (0x6c, 155), (0x6d, 226), (0x75, 138), (0x76, 179), (0x78, 133),
    (0x7b, 180),
];

/// The evdev code of a key.
pub(super) fn key(code: u32) -> Option<u16> {
    let of = |table: &[(u8, u8)], low: u32| {
        let entry = table.iter().find(|(xt, _)| u32::from(*xt) == low);
        entry.map(|(_, code)| u16::from(*code))
    };
    match code {
        1..=SAME => Some(code as u16),
        // The numeric keypad's comma, on Brazilian keyboards.
        0x7e => Some(121),
        ..0x80 => of(&ALONE, code),
        0x80..=0xff => of(&AFTER_E0, code & 0x7f),
        0xe000..=0xe07f => of(&AFTER_E0, code & 0x7f),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 105 keys of an ISO keyboard, row by row: the byte, or the byte after 0xe0, that a PC's keyboard sends (from the
    /// tables of the IBM Personal System/2 keyboard), and KEY_* of linux/input-event-codes.h.
    #[rustfmt::skip]
    const KEYBOARD: [(u32, u16); 105] = [
        // Esc, F1 to F12, PrtSc, ScrLk, Pause.
        (0x01, 1), (0x3b, 59), (0x3c, 60), (0x3d, 61), (0x3e, 62), (0x3f, 63), (0x40, 64), (0x41, 65), (0x42, 66), (0x43, 67),
        (0x44, 68), (0x57, 87), (0x58, 88), (0xe037, 99), (0x46, 70), (0xe046, 119),
        // ` 1 to 0 - = Backspace, Insert, Home, Page up, Num lock / * -.
        (0x29, 41), (0x02, 2), (0x03, 3), (0x04, 4), (0x05, 5), (0x06, 6), (0x07, 7), (0x08, 8), (0x09, 9), (0x0a, 10), (0x0b, 11),
        (0x0c, 12), (0x0d, 13), (0x0e, 14), (0xe052, 110), (0xe047, 102), (0xe049, 104), (0x45, 69), (0xe035, 98), (0x37, 55),
        (0x4a, 74),
        // Tab, q to ], Delete, End, Page down, 7 8 9 +.
        (0x0f, 15), (0x10, 16), (0x11, 17), (0x12, 18), (0x13, 19), (0x14, 20), (0x15, 21), (0x16, 22), (0x17, 23), (0x18, 24),
        (0x19, 25), (0x1a, 26), (0x1b, 27), (0xe053, 111), (0xe04f, 107), (0xe051, 109), (0x47, 71), (0x48, 72), (0x49, 73),
        (0x4e, 78),
        // Caps lock, a to ', the key left of Enter, Enter, 4 5 6.
        (0x3a, 58), (0x1e, 30), (0x1f, 31), (0x20, 32), (0x21, 33), (0x22, 34), (0x23, 35), (0x24, 36), (0x25, 37), (0x26, 38),
        (0x27, 39), (0x28, 40), (0x2b, 43), (0x1c, 28), (0x4b, 75), (0x4c, 76), (0x4d, 77),
        // Shift, the key right of it, z to /, Shift, Up, 1 2 3 Enter.
        (0x2a, 42), (0x56, 86), (0x2c, 44), (0x2d, 45), (0x2e, 46), (0x2f, 47), (0x30, 48), (0x31, 49), (0x32, 50), (0x33, 51),
        (0x34, 52), (0x35, 53), (0x36, 54), (0xe048, 103), (0x4f, 79), (0x50, 80), (0x51, 81), (0xe01c, 96),
        // Ctrl, Super, Alt, Space, AltGr, Super, Menu, Ctrl, Left, Down, Right, 0 and the decimal point.
        (0x1d, 29), (0xe05b, 125), (0x38, 56), (0x39, 57), (0xe038, 100), (0xe05c, 126), (0xe05d, 127), (0xe01d, 97),
        (0xe04b, 105), (0xe050, 108), (0xe04d, 106), (0x52, 82), (0x53, 83),
    ];

    #[test]
    fn every_key_of_a_105_key_keyboard_is_found_by_its_place() {
        let mut codes: Vec<u16> = KEYBOARD.iter().map(|(_, code)| *code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 105, "each key once");
        for (xt, code) in KEYBOARD {
            assert_eq!(key(xt), Some(code), "{xt:#x}");
            // As QEMU's table has it.
            let short = if xt > 0xff { xt & 0x7f | 0x80 } else { xt };
            assert_eq!(key(short), Some(code), "{short:#x}");
        }
        assert_eq!(key(0x54), Some(99), "Print screen as Alt makes it, which is what QEMU's table has");
    }

    #[test]
    fn no_place_is_two_keys_and_what_is_no_place_is_none() {
        for table in [&ALONE[..], &AFTER_E0] {
            assert!(table.is_sorted_by(|(a, _), (b, _)| a < b));
        }
        for none in [0, 0x60, 0x7f, 0x80, 0xff, 0x100, 0xdfff, 0xe080, 0xe11d, 0x0001_0001, u32::MAX] {
            assert_eq!(key(none), None, "{none:#x}");
        }
        // The shifts that a keyboard makes up around its arrows.
        assert_eq!((key(0xe02a), key(0xe036)), (None, None));
    }
}
