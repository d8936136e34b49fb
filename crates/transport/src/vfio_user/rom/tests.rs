use std::fs;

use super::*;

/// A ROM as SeaBIOS builds it, of two blocks.
fn rom() -> Vec<u8> {
    let mut rom = vec![0; 2 * BLOCK];
    rom[..3].copy_from_slice(&[0x55, 0xaa, 2]);
    rom[POINTER..][..2].copy_from_slice(&0x40u16.to_le_bytes());
    rom[0x40..][..12].copy_from_slice(b"PCIR\x34\x12\x11\x11\0\0\x18\0");
    rom[0x200] = 0x77;
    mend(&mut rom);
    rom
}

fn mend(rom: &mut [u8]) {
    let sum = sum(rom);
    rom[CHECKSUM] = rom[CHECKSUM].wrapping_sub(sum);
}

fn read(rom: &Rom, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    rom.read(offset, &mut data);
    data
}

#[test]
fn a_rom_becomes_one_of_the_card_and_its_sum_stays_right() {
    let vga = Rom::parse(rom(), Model::Vga).unwrap();
    assert_eq!(read(&vga, 0x40, 8), b"PCIR\xf4\x1a\x50\x10");
    assert_eq!(sum(&read(&vga, 0, 2 * BLOCK)), 0);
    assert_eq!(read(&vga, 0x200, 1), [0x77]);
}

#[test]
fn the_rom_of_the_display_it_is_for_is_left_as_it_is() {
    let bochs = Rom::parse(rom(), Model::Bochs).unwrap();
    assert_eq!(read(&bochs, 0, 2 * BLOCK), rom());
}

#[test]
fn a_rom_fills_a_power_of_two() {
    let mut long = rom();
    long.resize(5 * BLOCK, 0xab);
    let rom = Rom::parse(long, Model::Vga).unwrap();
    assert_eq!(rom.size(), 4096);
    assert_eq!(read(&rom, 5 * BLOCK as u64 - 1, 3), [0xab, 0xff, 0xff]);
    assert_eq!(read(&rom, 4095, 2), [0xff, 0xff]);
    assert_eq!(read(&rom, u64::MAX, 2), [0xff, 0xff]);
}

#[test]
fn what_is_no_rom_for_a_pc_is_refused() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(Damage, &str); 8] = [
        (|rom| rom.clear(), "signature"),
        (|rom| rom[0] = 0, "signature"),
        (|rom| rom.truncate(2), "cut off"),
        (|rom| rom.truncate(700), "cut off"),
        (|rom| rom[2] = 0, "cut off"),
        (|rom| rom[0x300] = 1, "checksum"),
        (|rom| rom[POINTER + 1] = 0xff, "not in it"),
        (|rom| rom[0x40] = b'Q', "no PCI data"),
    ];
    for (damage, why) in damages {
        let mut bytes = rom();
        damage(&mut bytes);
        if !matches!(why, "checksum" | "signature" | "cut off") {
            mend(&mut bytes);
        }
        let refused = Rom::parse(bytes, Model::Vga).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let mut arm = rom();
    arm[0x54] = 3;
    mend(&mut arm);
    assert!(Rom::parse(arm, Model::Vga).is_err());
    assert!(Rom::parse(vec![0; LARGEST + 1], Model::Vga).is_err());
}

#[test]
fn it_is_found_in_the_first_folder_that_has_it_and_else_the_package_is_named() {
    let [empty, full] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let missing = Rom::find_in([empty.path()].into_iter(), Model::Vga).unwrap_err();
    assert!(missing.to_string().contains("package seabios"), "{missing}");
    fs::write(full.path().join(NAME), rom()).unwrap();
    assert!(Rom::find_in([empty.path(), full.path()].into_iter(), Model::Vga).is_ok());
    fs::write(full.path().join(NAME), b"nonsense").unwrap();
    let broken = Rom::find_in([full.path()].into_iter(), Model::Vga).unwrap_err();
    assert!(broken.to_string().contains(NAME), "{broken}");
}
