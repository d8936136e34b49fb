use proptest::prelude::*;

use super::*;

const fn mode(width: u32, height: u32, refresh: u32) -> Mode {
    Mode { width, height, refresh }
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
}

/// Judged good by edid-decode and read by eye once; whoever changes a byte shows it to edid-decode again.
#[test]
fn the_default_head_is_these_bytes() {
    let golden = bytes(include_str!("golden/1280x800.hex"));
    assert_eq!(Monitor::head(0, mode(1280, 800, 60)).edid().as_bytes(), golden);
}

/// Three blocks of the DisplayID section and the preferred timing that no 18 bytes hold.
#[test]
fn a_head_of_8k_is_these_bytes() {
    let golden = bytes(include_str!("golden/7680x4320.hex"));
    assert_eq!(Monitor::head(1, mode(7680, 4320, 60)).edid().as_bytes(), golden);
}

/// A guest tells its outputs apart by the serial and finds its layout again at the next boot.
#[test]
fn heads_differ_in_serial_only_and_always_in_the_same_way() {
    let head = |index| Monitor::head(index, mode(1280, 800, 60)).edid();
    assert_eq!(head(3), head(3));
    let (first, second) = (head(0), head(1));
    let differing: Vec<usize> = (0..BLOCK).filter(|at| first.as_bytes()[*at] != second.as_bytes()[*at]).collect();
    // The number, the last letter of its text, the checksum.
    assert_eq!(differing, [12, 54 + 36 + 5 + 10, 127]);
}

#[test]
fn a_mode_that_fits_needs_no_extension_and_one_that_does_not_gets_one() {
    let blocks = |mode| Monitor::head(0, mode).edid().as_bytes().len() / BLOCK;
    assert_eq!(blocks(mode(1920, 1080, 60)), 1);
    assert_eq!(blocks(mode(1920, 1080, 240)), 1);
    assert_eq!(blocks(mode(4095, 1080, 60)), 1);
    assert_eq!(blocks(mode(4096, 1080, 60)), 2);
    assert_eq!(blocks(mode(1080, 4096, 60)), 2);
    // Too fast a pixel clock.
    assert_eq!(blocks(mode(2560, 1440, 240)), 2);
    // Offers 2560x1440 as well.
    assert_eq!(blocks(mode(3840, 2160, 60)), 2);
}

#[test]
fn a_guest_that_knows_no_display_id_gets_a_mode_of_the_same_shape() {
    let base = |mode| Edid(Monitor::head(0, mode).edid().as_bytes()[..BLOCK].to_vec()).preferred_mode();
    assert_eq!(base(mode(7680, 4320, 60)), Some(mode(3840, 2160, 60)));
    assert_eq!(base(mode(2560, 1440, 240)), Some(mode(2560, 1440, 60)));
    assert_eq!(base(mode(16384, 16384, 60)), Some(mode(2730, 2730, 60)));
}

/// Smaller modes are offered, larger ones never: a guest would choose a mode that the window cannot show.
#[test]
fn only_smaller_modes_are_offered() {
    let small = Monitor::head(0, mode(800, 600, 60)).edid();
    assert_eq!(small.as_bytes()[35..38], [0x20, 0, 0], "640x480 only");
    assert_eq!(small.as_bytes()[38..54], [1; 16]);
    let large = Monitor::head(0, mode(1920, 1080, 60)).edid();
    assert_eq!(large.as_bytes()[35..38], [0x21, 8, 0], "640x480, 800x600, 1024x768");
    // 1600x900, 1280x800, 1280x720, nothing else.
    assert_eq!(large.as_bytes()[38..46], [0xa9, 0xc0, 0x81, 0x00, 0x81, 0xc0, 1, 1]);
}

#[test]
fn a_long_or_strange_name_is_cut_to_what_a_descriptor_holds() {
    let name = "Grüße\nan alle, die dies lesen".to_owned();
    let edid = Monitor { name, ..Monitor::head(0, mode(640, 480, 60)) }.edid();
    assert_eq!(&edid.as_bytes()[72..90], b"\0\0\0\xfc\0Grean alle, d");
    let edid = Monitor { name: String::new(), ..Monitor::head(0, mode(640, 480, 60)) }.edid();
    assert_eq!(&edid.as_bytes()[77..90], b"\n            ");
}

#[test]
fn the_size_of_the_screen_is_told_and_the_places_agree() {
    let edid = Monitor { size_mm: Some((600, 340)), ..Monitor::head(0, mode(1920, 1080, 60)) }.edid();
    let bytes = edid.as_bytes();
    assert_eq!((bytes[21], bytes[22]), (60, 34));
    assert_eq!(bytes[54 + 12..54 + 15], [0x58, 0x54, 0x21]);
}

#[test]
fn each_kind_of_wrong_file_is_named() {
    let good = Monitor::head(0, mode(3840, 2160, 60)).edid();
    let good = good.as_bytes();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Edid::parse(&bytes).map(|_| ())
    };
    assert_eq!(Edid::parse(&[]), Err(EdidError::Length(0)));
    assert_eq!(Edid::parse(&good[..127]), Err(EdidError::Length(127)));
    assert_eq!(Edid::parse(&[0; 1152]), Err(EdidError::Length(1152)));
    assert_eq!(Edid::parse(&[0; 128]), Err(EdidError::Header));
    assert_eq!(Edid::parse(&good[..128]), Err(EdidError::Extensions { announced: 1, present: 0 }));
    assert_eq!(changed(18, 2), Err(EdidError::Version(2, 4)));
    assert_eq!(changed(21, 0), Err(EdidError::Checksum(0)));
    assert_eq!(changed(200, 77), Err(EdidError::Checksum(1)));
    let text: String = good.iter().map(|byte| format!("{byte:02x}\n")).collect();
    assert_eq!(Edid::parse(text.as_bytes()), Err(EdidError::Text));
}

/// QEMU answers with a field of 1024 bytes, whatever is in it.
#[test]
fn padding_after_the_announced_blocks_is_dropped() {
    for mode in [mode(1280, 800, 60), mode(7680, 4320, 60)] {
        let edid = Monitor::head(0, mode).edid();
        let mut field = [0; MAX_BYTES];
        field[..edid.as_bytes().len()].copy_from_slice(edid.as_bytes());
        assert_eq!(Edid::parse_padded(&field), Ok(edid));
    }
    assert_eq!(Edid::parse_padded(&[0; 5]), Err(EdidError::Length(5)));
    assert_eq!(Edid::parse_padded(&[0; MAX_BYTES]), Err(EdidError::Header));
}

proptest! {
    /// Whatever a user asks for is an EDID that says exactly that.
    #[test]
    fn what_is_written_is_read_again(
        width in 64..=MAX_SIDE, height in 64..=MAX_SIDE, refresh in 24u32..=240, index: u32, name: String,
    ) {
        let wanted = mode(width, height, refresh);
        let edid = Monitor { name, ..Monitor::head(index, wanted) }.edid();
        prop_assert_eq!(Edid::parse(edid.as_bytes()), Ok(edid.clone()));
        let read = edid.preferred_mode().expect("a preferred mode");
        prop_assert_eq!((read.width, read.height), (width, height));
        // The slowest clocks and the fastest are bounded, so that the rate may be off; usual screens are exact.
        if (640..=7680).contains(&width) && (480..=4320).contains(&height) {
            prop_assert_eq!(read.refresh, refresh);
        }
    }

    /// A head's size comes from viewers too: no number may break it.
    #[test]
    fn any_numbers_make_a_whole_edid(
        width: u32, height: u32, refresh: u32, size_mm: Option<(u32, u32)>, vendor: [u8; 3], product: u16, serial: u32,
    ) {
        let monitor = Monitor { mode: mode(width, height, refresh), size_mm, vendor, product, serial, name: String::new() };
        let edid = monitor.edid();
        prop_assert!(Edid::parse(edid.as_bytes()).is_ok());
        prop_assert!(edid.preferred_mode().is_some());
    }

    /// One flipped bit anywhere never goes through.
    #[test]
    fn a_flipped_bit_is_noticed(at in 0..2 * BLOCK, bit in 0..8u32) {
        let mut bytes = Monitor::head(0, mode(7680, 4320, 60)).edid().as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        prop_assert!(Edid::parse(&bytes).is_err());
    }

    /// The VMM's answer and a user's file may hold anything.
    #[test]
    fn any_blocks_are_read_without_harm(blocks in 1..=8usize, seed in prop::collection::vec(any::<u8>(), MAX_BYTES)) {
        let mut bytes = seed[..blocks * BLOCK].to_vec();
        bytes[..8].copy_from_slice(&base::HEADER);
        bytes[18] = 1;
        bytes[126] = blocks as u8 - 1;
        for block in bytes.chunks_exact_mut(BLOCK) {
            if block[1] & 1 == 0 {
                block[0] = display_id::TAG;
                block[1] = 0x13;
            }
        }
        bytes[..2].copy_from_slice(&base::HEADER[..2]);
        for block in bytes.chunks_exact_mut(BLOCK) {
            block[127] = checksum(&block[..127]);
        }
        let edid = Edid::parse(&bytes).expect("whole blocks");
        let _ = edid.preferred_mode();
        let _ = Edid::parse(&seed);
        let _ = Edid::parse_padded(&bytes);
    }
}
