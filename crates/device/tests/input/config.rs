//! The configuration, asked as Linux does under QEMU, and as nobody does.

use device::{ConfigSpace, Desktop, Input, InputStats, VirtioDevice};
use device::{InputKind, InputOptions};
use std::sync::Arc;

use crate::machine::Machine;

/// Bytes of a virtio_input_config.
const BYTES: usize = 136;

fn read(config: &dyn ConfigSpace, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    config.read(offset, &mut bytes);
    bytes
}

/// QEMU sends all of its copy when the guest writes one byte.
fn write_byte(config: &dyn ConfigSpace, at: usize, byte: u8) {
    let mut copy = read(config, 0, BYTES);
    copy[at] = byte;
    config.write(0, &copy);
}

/// What the driver reads, byte by byte, after having said what it wants to know.
fn ask(config: &dyn ConfigSpace, select: u8, subsel: u8) -> Vec<u8> {
    write_byte(config, 0, select);
    write_byte(config, 1, subsel);
    let size = read(config, 2, 1)[0];
    (0..u64::from(size)).flat_map(|at| read(config, 8 + at, 1)).collect()
}

/// Numbers of the bits that are set.
fn bits(bytes: &[u8]) -> Vec<usize> {
    (0..8 * bytes.len()).filter(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect()
}

fn axis(config: &dyn ConfigSpace, axis: u8) -> Vec<u32> {
    let answer = ask(config, 0x12, axis);
    answer.chunks_exact(4).map(|word| u32::from_le_bytes(*word.first_chunk().unwrap())).collect()
}

#[test]
fn a_console_is_a_keyboard_a_pointer_and_a_wheel() {
    let machine = Machine::new(InputKind::Console, 64, u64::MAX);
    let config = &*machine.config;
    assert_eq!(ask(config, 1, 0), b"Console of a test");
    assert_eq!(ask(config, 2, 0), b"0815");
    assert_eq!(ask(config, 3, 0), [6, 0, 0xf4, 0x1a, 1, 0, 1, 0]);
    assert_eq!(ask(config, 0x10, 0), b"");
    let keys = bits(&ask(config, 0x11, 1));
    // Linux and udev take it for a keyboard by the first keys, and for a pointer by its left button and axes.
    assert!((1..=248).chain(0x110..=0x114).all(|code| keys.contains(&code)));
    // None of a game pad's or a pen's, by which they would take it for one.
    assert!(keys.iter().all(|code| !(249..0x110).contains(code) && !(0x115..0x160).contains(code)));
    assert!(keys.iter().all(|code| *code < 0x2c0));
    assert_eq!(bits(&ask(config, 0x11, 2)), [6, 8, 11, 12]);
    assert_eq!(bits(&ask(config, 0x11, 3)), [0, 1]);
    assert_eq!(bits(&ask(config, 0x11, 0x11)), [0, 1, 2]);
    assert_eq!(bits(&ask(config, 0x11, 0x14)), [0, 1]);
    for none in [0, 4, 5, 0x12, 0x15, 0xff] {
        assert_eq!(ask(config, 0x11, none), b"", "events of type {none}");
    }
    for there in [0, 1] {
        assert_eq!(axis(config, there), [0, 32767, 0, 0, 0]);
    }
    assert!(axis(config, 2).is_empty());
    assert!(axis(config, 0x2f).is_empty());
}

#[test]
fn a_touch_screen_is_a_direct_device_with_ten_slots() {
    let machine = Machine::new(InputKind::Touch, 64, u64::MAX);
    let config = &*machine.config;
    assert_eq!(ask(config, 3, 0), [6, 0, 0xf4, 0x1a, 2, 0, 1, 0]);
    assert_eq!(bits(&ask(config, 0x10, 0)), [1], "INPUT_PROP_DIRECT");
    assert_eq!(bits(&ask(config, 0x11, 1)), [0x14a]);
    assert_eq!(bits(&ask(config, 0x11, 3)), [0x2f, 0x35, 0x36, 0x39]);
    for none in [2, 0x11, 0x14] {
        assert_eq!(ask(config, 0x11, none), b"");
    }
    assert_eq!([0x2f, 0x39, 0x35, 0x36].map(|code| axis(config, code)[1]), [9, 65535, 32767, 32767]);
}

#[test]
fn a_driver_that_comes_again_is_answered_again() {
    let mut machine = Machine::new(InputKind::Console, 64, u64::MAX);
    for round in 0..3 {
        assert_eq!(ask(&*machine.config, 1, 0), b"Console of a test", "{round}");
        assert_eq!(axis(&*machine.config, 0), [0, 32767, 0, 0, 0]);
        machine.reboot();
        // Of no use to the next one, and no harm.
        assert_eq!(read(&*machine.config, 0, 3), [0x12, 0, 20]);
    }
    machine.reconnect();
    assert_eq!(read(&*machine.config, 0, BYTES), [0; BYTES], "another guest learns nothing of the one before");
}

#[test]
fn cve_2026_50626_every_offset_and_every_length() {
    let machine = Machine::new(InputKind::Console, 64, u64::MAX);
    let config = &*machine.config;
    ask(config, 0x11, 1);
    let all = read(config, 0, 4096);
    assert!(all[BYTES..].iter().all(|byte| *byte == 0));
    for offset in (0..300).chain([4095, u64::from(u32::MAX), u64::MAX - 1, u64::MAX]) {
        for len in [0, 1, 2, 3, 4, 8, 136, 256] {
            let expected = |at: usize| offset.checked_add(at as u64).and_then(|at| all.get(usize::try_from(at).ok()?));
            let expected: Vec<u8> = (0..len).map(|at| *expected(at).unwrap_or(&0)).collect();
            assert_eq!(read(config, offset, len), expected, "{len} bytes at {offset}");
            // Written back where they are read-only, they change nothing.
            if offset > 1 {
                config.write(offset, &vec![0x55; len]);
            }
            assert_eq!(read(config, 0, 4096), all, "{len} bytes at {offset}");
        }
    }
    // Two bytes in one word, and the second one alone.
    config.write(0, &[0x12, 1, 0xff, 0xff]);
    assert_eq!(read(config, 0, 3), [0x12, 1, 20]);
    config.write(1, &[0]);
    assert_eq!(read(config, 0, 3), [0x12, 0, 20]);
}

#[test]
fn every_question_has_an_answer_that_fits() {
    let machine = Machine::new(InputKind::Console, 64, u64::MAX);
    let mut answered = 0;
    for select in 0..=255 {
        for subsel in 0..=255 {
            machine.config.write(0, &[select, subsel]);
            let answer = read(&*machine.config, 0, BYTES);
            let size = usize::from(answer[2]);
            assert!(size <= 128 && answer[3..8] == [0; 5] && answer[8 + size..].iter().all(|byte| *byte == 0));
            answered += usize::from(size > 0);
        }
    }
    // Name, serial, ids, five kinds of events, two axes.
    assert_eq!(answered, 10);
}

#[test]
fn a_name_that_is_too_long_is_cut_between_letters() {
    let machine = Machine::new(InputKind::Console, 64, u64::MAX);
    let options =
        InputOptions { name: format!("x{}", "ü".repeat(100)), serial: String::new(), kind: InputKind::Touch };
    let device =
        Input::new(options, Box::new(machine.hand.clone()), Arc::new(Desktop::new()), Arc::new(InputStats::default()));
    let config = device.config();
    assert_eq!(ask(&*config, 1, 0), format!("x{}", "ü".repeat(63)).as_bytes());
    assert_eq!(ask(&*config, 2, 0), b"");
}
