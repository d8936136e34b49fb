use super::*;
use crate::vga::Mode;

const MEMORY: u64 = 16 << 20;
/// What is served of BAR 2, and a bit.
const ALL: u64 = 0x1008;

fn registers() -> VgaRegisters {
    VgaRegisters::new(MEMORY)
}

/// Bytes at an offset.
fn read<const N: usize>(registers: &VgaRegisters, offset: u64) -> [u8; N] {
    let mut data = [0xee; N];
    registers.read(offset, &mut data);
    data
}

fn dispi(registers: &VgaRegisters, register: usize) -> u16 {
    u16::from_le_bytes(read(registers, DISPI + 2 * register as u64))
}

fn set(registers: &VgaRegisters, register: usize, value: u16) {
    registers.write(DISPI + 2 * register as u64, &value.to_le_bytes());
}

fn port(registers: &VgaRegisters, port: u64) -> u8 {
    read::<1>(registers, 0x400 + port - 0x3c0)[0]
}

fn out(registers: &VgaRegisters, port: u64, value: u8) {
    registers.write(0x400 + port - 0x3c0, &[value]);
}

#[test]
fn firmware_finds_the_interface_and_how_much_memory_there_is() {
    let registers = registers();
    assert_eq!(dispi(&registers, index::ID), 0xb0c5);
    assert_eq!(dispi(&registers, index::MEMORY), 0x100);
    set(&registers, index::ID, 0xb0c0);
    set(&registers, index::MEMORY, 1);
    assert_eq!([index::ID, index::MEMORY].map(|index| dispi(&registers, index)), [0xb0c5, 0x100]);
    assert_eq!(read(&registers, 0x600), [8, 0, 0, 0]);
}

#[test]
fn the_largest_mode_is_read_while_it_is_asked_for() {
    let registers = registers();
    for register in [index::X, index::Y, index::BPP] {
        set(&registers, register, 7);
    }
    set(&registers, index::ENABLE, 2);
    let mode = || [index::X, index::Y, index::BPP].map(|register| dispi(&registers, register));
    assert_eq!(mode(), [16384, 16384, 32]);
    set(&registers, index::ENABLE, 0);
    assert_eq!(mode(), [7, 7, 7]);
}

#[test]
fn what_is_written_of_a_register_changes_that_byte_alone() {
    let registers = registers();
    set(&registers, index::X, 0x1234);
    set(&registers, index::Y, 0x5678);
    registers.write(DISPI + 3, &[0xab]);
    assert_eq!([index::X, index::Y].map(|index| dispi(&registers, index)), [0xab34, 0x5678]);
    // Two registers, the first and last of them by half.
    registers.write(DISPI + 3, &[1, 2, 3]);
    assert_eq!([index::X, index::Y].map(|index| dispi(&registers, index)), [0x0134, 0x0302]);
    registers.write(DISPI + 2, &[0x11, 0x22, 0x33, 0x44, 0x20, 0, 0x41, 0]);
    assert_eq!([1, 2, 3, 4].map(|index| dispi(&registers, index)), [0x2211, 0x4433, 0x20, 0x41]);
}

/// The low byte of ENABLE alone switches on; a write of the high one does not, nor one that leaves it on.
#[test]
fn it_is_known_how_often_the_display_was_switched_on() {
    let registers = registers();
    let enables = || registers.settings().enables;
    set(&registers, index::ENABLE, 0x40);
    assert_eq!(enables(), 0);
    registers.write(DISPI + 8, &[0x41]);
    registers.write(DISPI + 9, &[0xff]);
    set(&registers, index::ENABLE, 1);
    assert_eq!(enables(), 1);
    set(&registers, index::ENABLE, 0);
    set(&registers, index::ENABLE, 0x41);
    assert_eq!(enables(), 2);
    registers.reset();
    assert_eq!((enables(), dispi(&registers, index::ENABLE)), (2, 0));
    set(&registers, index::ENABLE, 1);
    assert_eq!(enables(), 3);
}

#[test]
fn the_order_of_bytes_takes_effect_when_all_of_it_is_written_at_once() {
    let registers = registers();
    let big = || read(&registers, 0x604) == [0xbe; 4];
    assert_eq!(read(&registers, 0x604), [0x1e; 4]);
    for at in 0x604..0x608 {
        registers.write(at, &[0xbe]);
    }
    registers.write(0x604, &[0xbe, 0xbe]);
    registers.write(0x606, &[0xbe; 4]);
    registers.write(0x604, &[0xbe, 0xbe, 0xbe, 0x1e]);
    registers.write(0x604, &[0; 4]);
    assert!(!big());
    registers.write(0x604, &[0xbe; 4]);
    assert!(big() && registers.settings().dispi.big_endian);
    registers.write(0x600, &[0x1e; 8]);
    assert!(!big());
    registers.write(0x604, &[0xbe; 4]);
    registers.reset();
    assert!(!big());
}

/// The guest asks each byte of a monitor's words by itself; they are not there to be written, and stay over a reset.
#[test]
fn the_monitor_is_read_in_any_width_and_zeros_follow() {
    let registers = registers();
    let edid: Vec<u8> = (1..=128).collect();
    registers.set_edid(&edid);
    registers.write(0, &[0xff; 1024]);
    registers.reset();
    for width in [1, 2, 4, 8, 128] {
        let mut whole = vec![0xee; 1024];
        for (offset, data) in (0..).step_by(width).zip(whole.chunks_mut(width)) {
            registers.read(offset, data);
        }
        assert_eq!((&whole[..128], &whole[128..]), (&edid[..], &[0; 896][..]), "{width}");
    }
    registers.set_edid(&[7; 2000]);
    assert_eq!(read::<8>(&registers, 0x3f8), [7; 8]);
    registers.set_edid(&[]);
    assert_eq!(read::<8>(&registers, 0), [0; 8]);
}

/// ACRN: EDID was read past its array.
#[test]
fn the_end_of_the_edid_is_its_end() {
    let registers = registers();
    registers.set_edid(&[0x77; 1024]);
    out(&registers, 0x3c0, 0x20);
    assert_eq!(read(&registers, 0x3f8), [0x77; 8]);
    assert_eq!(read(&registers, 0x3fc), [0x77, 0x77, 0x77, 0x77, 0x20, 0, 0, 0]);
    assert_eq!(read(&registers, 0x3ff), [0x77, 0x20, 0, 0, 0, 0, 0, 0xff], "and the palette's mask");
}

/// ACRN: a port was 0x3c0 + offset in one place and offset in another; a register was compared by index instead of offset.
#[test]
fn ports_keep_what_is_written_each_for_itself() {
    let registers = registers();
    // Index, data, how many.
    let groups = [(0x3c4, 0x3c5, 5u8), (0x3ce, 0x3cf, 9), (0x3d4, 0x3d5, 0x19)];
    for (group, (index, data, count)) in (1u8..).zip(groups) {
        for register in 0..count {
            out(&registers, index, register);
            out(&registers, data, register ^ (group << 5));
        }
    }
    for (group, (index, data, count)) in (1u8..).zip(groups) {
        for register in 0..count {
            out(&registers, index, register);
            assert_eq!((port(&registers, index), port(&registers, data)), (register, register ^ (group << 5)));
        }
    }
    out(&registers, 0x3c2, 0x67);
    out(&registers, 0x3c6, 0x55);
    out(&registers, 0x3da, 0x0a);
    let kept = [0x3cc, 0x3c2, 0x3c6, 0x3ca].map(|at| port(&registers, at));
    assert_eq!(kept, [0x67, 0, 0x55, 0x0a], "what is read at 3c2 is a status");
}

#[test]
fn the_attribute_controller_takes_index_and_value_in_turn() {
    let registers = registers();
    out(&registers, 0x3c0, 0x13);
    out(&registers, 0x3c0, 0x77);
    out(&registers, 0x3c0, 0x20 | 0x13);
    assert_eq!((port(&registers, 0x3c0), port(&registers, 0x3c1)), (0x33, 0x77), "an index, and what it names");
    // Reading the status makes the next one an index.
    let status = [port(&registers, 0x3da), port(&registers, 0x3da)];
    assert_eq!(status[0] ^ status[1], 0x09, "neither state of the picture's gaps lasts");
    out(&registers, 0x3c0, 0x20);
    assert_eq!(port(&registers, 0x3c0), 0x20);
}

#[test]
fn the_palette_is_written_and_read_entry_by_entry() {
    let registers = registers();
    out(&registers, 0x3c8, 0);
    for byte in 0..768 {
        out(&registers, 0x3c9, (byte % 63) as u8);
    }
    assert_eq!((port(&registers, 0x3c8), port(&registers, 0x3c7)), (0, 0), "it starts anew");
    out(&registers, 0x3c7, 255);
    assert_eq!(port(&registers, 0x3c7), 3);
    let read: Vec<u8> = (0..6).map(|_| port(&registers, 0x3c9)).collect();
    let expected = [765, 766, 767, 0, 1, 2].map(|byte| (byte % 63) as u8);
    assert_eq!(read, expected);
}

/// ACRN: an access of one byte was done as two. And one of eight is eight.
#[test]
fn an_access_of_several_bytes_is_one_of_each_byte() {
    let (one, many) = (registers(), registers());
    many.write(0x414, &[0x0c, 0x55]);
    out(&one, 0x3d4, 0x0c);
    out(&one, 0x3d5, 0x55);
    one.write(0x414, &[0x0d]);
    assert_eq!([port(&one, 0x3d4), port(&one, 0x3d5)], [0x0d, 0]);
    one.write(0x414, &[0x0c]);
    assert_eq!(read::<2>(&one, 0x414), read::<2>(&many, 0x414));
    // From 3c0 on: attribute index, nothing, misc, enable, sequencer 1 = 0x21, mask, palette.
    many.write(0x400, &[0x20, 0, 0x67, 1, 1, 0x21, 0xfe, 9]);
    assert_eq!(read(&many, 0x400), [0x20, 0, 0, 1, 1, 0x21, 0xfe, 3]);
    assert_eq!(port(&many, 0x3cc), 0x67);
}

/// Every register, every width, every kind of value: nothing outside what is written changes but what the VGA's own rules
/// couple, and nothing is served outside of what is there.
#[test]
fn every_access_stays_inside_of_what_it_names() {
    let coupled = PORTS..PORTS_END;
    let snapshot = |registers: &VgaRegisters| -> Vec<u8> {
        let mut all = vec![0; ALL as usize];
        registers.read(0, &mut all);
        all[coupled.start as usize..coupled.end as usize].fill(0);
        all
    };
    for value in [0xff, 0xbe] {
        let registers = registers();
        registers.set_edid(&[0x11; 256]);
        for width in [1usize, 2, 4, 8] {
            let near = [0, 0x400, 0x420, 0x500, 0x510, 0x520, 0x600, 0x610, 0x1000]
                .map(|at: u64| at.saturating_sub(9)..at + 9);
            let far = [u64::from(u32::MAX), u64::MAX - 7, u64::MAX - 1, u64::MAX];
            for offset in near.into_iter().flatten().chain(far) {
                registers.write(DISPI + 8, &[0]);
                let before = snapshot(&registers);
                registers.write(offset, &[value; 8][..width]);
                let written = offset..offset.saturating_add(width as u64);
                for (at, (before, after)) in (0..).zip(before.iter().zip(snapshot(&registers))) {
                    let by_order = (0x604..0x608).contains(&at) && written.contains(&0x604) && width >= 4;
                    let by_caps = (DISPI + 2..DISPI + 8).contains(&at) && written.contains(&(DISPI + 8));
                    if !written.contains(&at) && !by_order && !by_caps {
                        assert_eq!(*before, after, "{at:#x} by {width} bytes of {value:#x} at {offset:#x}");
                    }
                }
                let mut data = [0xee; 8];
                registers.read(offset, &mut data[..width]);
                let is_served = |at: u64| at < 0x420 || (0x500..0x516).contains(&at) || (0x600..0x608).contains(&at);
                for (at, byte) in (0..).map(|at| offset.checked_add(at)).zip(&data[..width]) {
                    assert!(at.is_some_and(is_served) || *byte == 0, "{width} at {offset:#x}");
                }
            }
        }
    }
}

/// CVE-2026-77913: odd CRTC values before and after a mode set a mode that is not theirs.
#[test]
fn cve_2026_77913_no_port_changes_the_mode() {
    let registers = registers();
    for (register, value) in [(index::X, 640), (index::Y, 480), (index::BPP, 32), (index::ENABLE, 0x41)] {
        set(&registers, register, value);
    }
    let mode = Mode::of(&registers.settings().dispi);
    let generation = registers.generation();
    assert!(mode.is_some());
    for value in 0..=255 {
        for port in 0x3c0..0x3e0 {
            out(&registers, port, value);
        }
    }
    assert_eq!((Mode::of(&registers.settings().dispi), registers.generation()), (mode, generation));
}

#[test]
fn what_may_be_seen_makes_a_new_generation() {
    let registers = registers();
    let grows = |act: &dyn Fn()| {
        let before = registers.generation();
        act();
        registers.generation() > before
    };
    assert!(grows(&|| set(&registers, index::BANK, 0)), "a driver says by it that it drew");
    assert!(grows(&|| registers.write(0x604, &[0x1e; 4])));
    assert!(grows(&|| registers.reset()));
    assert!(!grows(&|| registers.write(0x604, &[0x1e; 3])));
    assert!(!grows(&|| registers.write(0x516, &[1; 8])));
    assert!(!grows(&|| registers.write(0x4ff, &[1])));
    assert!(!grows(&|| _ = read::<8>(&registers, DISPI)));
}
