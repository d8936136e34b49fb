use std::collections::BTreeMap;

use super::*;

const FRAMEBUFFER: u64 = 16 << 20;
const ROM: u64 = 32 << 10;
const MODELS: [Model; 4] = [Model::Vga, Model::Virtio, Model::Bochs, Model::Input];
const LAYOUT: &str = include_str!("../../../../../docs/bar-layout.md");

fn config(shape: Shape) -> PciConfig {
    let rom = if shape.model.has_boot_display() { ROM } else { 0 };
    PciConfig::new(shape, FRAMEBUFFER, rom)
}

fn of(model: Model) -> PciConfig {
    config(Shape { model, msix: true, pio: true })
}

fn shapes() -> impl Iterator<Item = Shape> {
    let switches = [(true, true), (true, false), (false, true), (false, false)];
    MODELS.into_iter().flat_map(move |model| switches.map(|(msix, pio)| Shape { model, msix, pio }))
}

fn get(config: &PciConfig, offset: u64, width: usize) -> u32 {
    let mut bytes = [0; 4];
    config.read(offset, &mut bytes[..width]);
    u32::from_le_bytes(bytes)
}

/// A field as the document writes it.
fn cell(field: &Field) -> String {
    let digits = 2 * usize::from(field.width);
    let mut cell = format!("{:0digits$x}", field.reset);
    if field.mask != 0 {
        cell += &format!(", takes {:0digits$x}", field.mask);
    }
    if field.clear != 0 {
        cell += &format!(", clears {:0digits$x}", field.clear);
    }
    cell
}

fn table() -> String {
    let mut rows: BTreeMap<u8, (Field, [String; 4])> = BTreeMap::new();
    for (column, model) in MODELS.into_iter().enumerate() {
        for field in of(model).table() {
            let row = rows.entry(field.offset).or_insert_with(|| (*field, std::array::from_fn(|_| "-".to_owned())));
            assert_eq!((row.0.width, row.0.name), (field.width, field.name));
            row.1[column] = cell(field);
        }
    }
    let mut table = "| at | bytes | what | vga | virtio | bochs | input |\n|---|---|---|---|---|---|---|\n".to_owned();
    for (field, cells) in rows.values() {
        table += &format!("| {:02x} | {} | {} | {} |\n", field.offset, field.width, field.name, cells.join(" | "));
    }
    table
}

#[test]
fn the_document_has_the_configuration_space_as_it_is() {
    let table = table();
    assert!(LAYOUT.contains(&table), "docs/bar-layout.md is to have this table:\n{table}");
}

/// What the INF file of the Windows driver is bound to.
#[test]
fn windows_recognizes_the_card() {
    for model in [Model::Vga, Model::Virtio] {
        let config = of(model);
        let name = format!(
            "PCI\\VEN_{:04X}&DEV_{:04X}&SUBSYS_{:08X}&REV_{:02X}",
            get(&config, 0, 2),
            get(&config, 2, 2),
            get(&config, 0x2c, 4),
            get(&config, 8, 1)
        );
        assert_eq!(name, r"PCI\VEN_1AF4&DEV_1050&SUBSYS_11001AF4&REV_01");
    }
}

#[test]
fn only_the_bits_of_the_masks_can_be_written_by_any_width() {
    for shape in shapes() {
        for width in [1, 2, 4, 8, LENGTH] {
            let mut config = config(shape);
            let first = config.bytes;
            for offset in (0..LENGTH).step_by(width) {
                config.write(offset as u64, &vec![0xff; width]);
            }
            let mut expected = first;
            for field in &config.table {
                for byte in 0..usize::from(field.width) {
                    let at = usize::from(field.offset) + byte;
                    let [mask, clear] = [field.mask, field.clear].map(|bits| bits.to_le_bytes()[byte]);
                    expected[at] = first[at] & !clear | mask;
                }
            }
            assert_eq!(config.bytes, expected, "{shape:?} by {width} bytes");
            for offset in (0..LENGTH).step_by(width) {
                config.write(offset as u64, &vec![0; width]);
            }
            for field in &config.table {
                let value = get(&config, field.offset.into(), field.width.into());
                assert_eq!(value, field.reset & !field.mask, "{shape:?}: {}", field.name);
            }
            config.reset();
            assert_eq!(config.bytes, first);
        }
    }
}

#[test]
fn a_byte_that_is_written_changes_that_byte_only() {
    for shape in shapes() {
        let mut config = config(shape);
        for at in 0..LENGTH {
            let mut expected = config.bytes;
            config.write(at as u64, &[0xa5]);
            expected[at] = config.bytes[at];
            assert_eq!(config.bytes, expected, "{at:#x}");
        }
    }
}

#[test]
fn fields_are_in_order_and_share_no_byte() {
    for shape in shapes() {
        let config = config(shape);
        let mut end = 0;
        for field in config.table() {
            assert!(usize::from(field.offset) >= end, "{shape:?}: {}", field.name);
            end = usize::from(field.offset) + usize::from(field.width);
            assert_eq!(field.mask & field.clear, 0);
        }
        assert!(end <= LENGTH);
    }
}

#[test]
fn a_guest_that_sizes_bars_finds_their_lengths() {
    let sizes = |shape| {
        let mut config = config(shape);
        [0, 1, 2, 3, 4, 5, 8].map(|register| {
            let offset = if register == 8 { 0x30 } else { 0x10 + 4 * register };
            let ports = get(&config, offset, 4) & 1 != 0;
            config.write(offset, &[0xff; 4]);
            let mask = get(&config, offset, 4) & if ports { !3 } else { !0xf };
            mask.wrapping_neg()
        })
    };
    let shape = |model| Shape { model, msix: true, pio: true };
    assert_eq!(sizes(shape(Model::Vga)), [16 << 20, 0, 16 << 10, 0, 8 << 10, 4, 32 << 10]);
    assert_eq!(sizes(shape(Model::Virtio)), [0, 0, 16 << 10, 0, 8 << 10, 0, 0]);
    assert_eq!(sizes(shape(Model::Bochs)), [16 << 20, 0, 4 << 10, 0, 0, 0, 32 << 10]);
    assert_eq!(sizes(shape(Model::Input)), [0, 0, 16 << 10, 0, 8 << 10, 0, 0]);
    assert_eq!(sizes(Shape { msix: false, pio: false, model: Model::Vga }), [16 << 20, 0, 16 << 10, 0, 0, 0, 32 << 10]);
}

/// Id and, for those of virtio, type, BAR and offset of each capability, as a driver walks them.
fn walk(config: &PciConfig) -> Vec<(u8, u32, u32, u32, u32)> {
    let mut found = Vec::new();
    let mut at = get(config, 0x34, 1);
    assert_eq!(get(config, 6, 2) & 0x10 != 0, at != 0);
    while at != 0 {
        assert!(at >= 0x40 && at.is_multiple_of(4), "{at:#x}");
        let offset = u64::from(at);
        let id = get(config, offset, 1) as u8;
        found.push(match id {
            9 => (id, at, get(config, offset + 3, 1), get(config, offset + 4, 1), get(config, offset + 8, 4)),
            _ => (id, at, 0, 0, 0),
        });
        assert!(found.len() < 32, "a loop");
        at = get(config, offset + 1, 1);
    }
    found
}

#[test]
fn capabilities_close_up_when_one_is_left_out() {
    let virtio = [
        (9, 0x40, 1, 2, 0x1000),
        (9, 0x50, 3, 2, 0x1800),
        (9, 0x60, 4, 2, 0x2000),
        (9, 0x70, 2, 2, 0x3000),
        (9, 0x84, 5, 0, 0),
    ];
    let vga = |msix, pio| walk(&config(Shape { model: Model::Vga, msix, pio }));
    let with = |rest: &[(u8, u32, u32, u32, u32)]| [&virtio, rest].concat();
    assert_eq!(vga(true, true), with(&[(0x11, 0x98, 0, 0, 0), (5, 0xa4, 0, 0, 0), (9, 0xb4, 2, 5, 0)]));
    assert_eq!(vga(true, false), with(&[(0x11, 0x98, 0, 0, 0), (5, 0xa4, 0, 0, 0)]));
    assert_eq!(vga(false, true), with(&[(5, 0x98, 0, 0, 0), (9, 0xa8, 2, 5, 0)]));
    assert_eq!(vga(false, false), with(&[(5, 0x98, 0, 0, 0)]));
    assert_eq!(walk(&of(Model::Input)), walk(&of(Model::Virtio)));
    assert_eq!(walk(&of(Model::Bochs)), []);
}

#[test]
fn capabilities_say_their_length_and_lie_inside_their_bars() {
    for shape in shapes().filter(|shape| shape.model.is_virtio()) {
        let config = config(shape);
        for (id, at, kind, bar, offset) in walk(&config) {
            let at = u64::from(at);
            if id == 9 {
                let length = get(&config, at + 2, 1);
                assert_eq!(length, if matches!(kind, 2 | 5) { 20 } else { 16 });
                assert!(u64::from(offset + get(&config, at + 12, 4)) <= config.bar_size(bar as usize), "{shape:?}");
            }
        }
    }
}

#[test]
fn what_is_past_the_end_reads_zero_and_takes_nothing() {
    let mut config = of(Model::Vga);
    for offset in 0..LENGTH as u64 + 8 {
        for width in [1, 2, 3, 4, 8] {
            let before = config.bytes;
            config.write(offset, &vec![0; width]);
            let mut data = vec![0xee; width];
            config.read(offset, &mut data);
            for (at, byte) in (offset..).zip(data) {
                assert_eq!(byte, config.bytes.get(at as usize).copied().unwrap_or(0));
            }
            config.bytes = before;
        }
    }
    let before = config.bytes;
    config.write(u64::MAX, &[1, 2, 3]);
    assert_eq!(config.bytes, before);
    assert_eq!(get(&config, u64::MAX - 1, 4), 0);
}

#[test]
fn bars_are_in_memory_while_the_guest_has_them_there() {
    let mut config = of(Model::Vga);
    config.write(0x10, &0xfd00_0000u32.to_le_bytes());
    config.write(0x18, &0xfebf_8000u32.to_le_bytes());
    assert_eq!(config.bars_in_memory().count(), 0);
    config.write(4, &[2]);
    let bars: Vec<_> = config.bars_in_memory().collect();
    assert_eq!(bars, [(0xfd00_0000, FRAMEBUFFER), (0xfebf_8000, 0x4000)], "BAR 4 has no place yet");
}

#[test]
fn interrupts_are_as_the_guest_chose() {
    let mut config = of(Model::Virtio);
    let none = Enabled { intx: true, ..Enabled::default() };
    assert_eq!(config.enabled(), none);
    config.write(5, &[4]);
    assert_eq!(config.enabled(), Enabled { intx: false, ..none });
    config.write(0x9a, &0xc002u16.to_le_bytes());
    assert_eq!(config.enabled(), Enabled { msix: true, msix_masked: true, ..Enabled::default() });
    config.write(0x9a, &0x8002u16.to_le_bytes());
    assert_eq!(config.enabled(), Enabled { msix: true, ..Enabled::default() });
    config.write(0xa6, &[1]);
    assert!(config.enabled().msi);
    config.reset();
    assert_eq!(config.enabled(), none);
}
