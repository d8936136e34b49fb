use super::*;

/// A request: a header of `kind` with a fence, then words.
fn request(kind: u32, words: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [kind, FLAG_FENCE | FLAG_RING_IDX, 0x89ab_cdef, 0x0123_4567, 9, 3].iter().chain(words) {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode(kind: u32, words: &[u32]) -> Result<Command, DecodeError> {
    Command::decode(&request(kind, words)).1
}

#[test]
fn the_header_carries_fence_context_and_ring() {
    let (header, command) = Command::decode(&request(kind::GET_DISPLAY_INFO, &[]));
    assert_eq!(command, Ok(Command::GetDisplayInfo));
    assert_eq!(header.fence(), Some(Fence { id: 0x0123_4567_89ab_cdef, ctx: ContextId(9), ring: Some(3) }));
}

#[test]
fn every_request_is_read_as_the_specification_lays_it_out() {
    let rect = Rect::new(1, 2, 3, 4);
    let resource = ResourceId(5);
    let scanout = ScanoutId(6);
    let position = CursorPosition { scanout, x: 7, y: 8 };
    let entries = vec![MemEntry { addr: 0x2_0000_0001, length: 0x1000 }];
    let cases: Vec<(u32, Vec<u32>, Command)> = vec![
        (0x010a, vec![6, 0], Command::GetEdid { scanout }),
        (
            0x0101,
            vec![5, 67, 640, 480],
            Command::ResourceCreate2d { resource, format: Format::R8G8B8A8, width: 640, height: 480 },
        ),
        (0x0102, vec![5, 0], Command::ResourceUnref { resource }),
        (0x0103, vec![1, 2, 3, 4, 6, 5], Command::SetScanout { rect, scanout, resource }),
        (0x0104, vec![1, 2, 3, 4, 5, 0], Command::ResourceFlush { rect, resource }),
        (0x0105, vec![1, 2, 3, 4, 9, 1, 5, 0], Command::TransferToHost2d { rect, offset: 0x1_0000_0009, resource }),
        (0x0106, vec![5, 1, 1, 2, 0x1000, 0], Command::ResourceAttachBacking { resource, entries: entries.clone() }),
        (0x0107, vec![5, 0], Command::ResourceDetachBacking { resource }),
        (0x0108, vec![2, 0], Command::GetCapsetInfo { index: 2 }),
        (0x0109, vec![4, 1], Command::GetCapset { id: 4, version: 1 }),
        (0x010b, vec![5, 0], Command::ResourceAssignUuid { resource }),
        (
            0x010c,
            vec![5, 1, 2, 1, 3, 0, 0x4000, 0, 1, 2, 0x1000, 0],
            Command::ResourceCreateBlob(CreateBlob {
                resource,
                blob_mem: 1,
                blob_flags: 2,
                blob_id: 3,
                size: 0x4000,
                entries,
            }),
        ),
        (
            0x010d,
            vec![1, 2, 3, 4, 6, 5, 64, 32, 2, 0, 256, 0, 0, 0, 4096, 0, 0, 0],
            Command::SetScanoutBlob(ScanoutBlob {
                rect,
                scanout,
                resource,
                width: 64,
                height: 32,
                format: Format::B8G8R8X8,
                stride: 256,
                offset: 4096,
            }),
        ),
        (0x0300, vec![6, 7, 8, 0, 5, 1, 2, 0], Command::UpdateCursor { position, resource, hot_x: 1, hot_y: 2 }),
        (0x0301, vec![6, 7, 8, 0], Command::MoveCursor { position }),
    ];
    for (kind, words, command) in cases {
        assert_eq!(decode(kind, &words), Ok(command), "{kind:#x}");
        let whole = request(kind, &words);
        for cut in Header::SIZE..whole.len() {
            assert!(Command::decode(&whole[..cut]).1.is_err(), "{kind:#x} cut at {cut}");
        }
    }
}

#[test]
fn every_3d_request_is_read_as_the_specification_lays_it_out() {
    let resource = ResourceId(5);
    let area = Box3d { x: 1, y: 2, z: 3, width: 4, height: 5, depth: 6 };
    let transfer = Transfer3d { area, offset: 0x1_0000_0007, resource, level: 8, stride: 9, layer_stride: 10 };
    let transfer_words = vec![1, 2, 3, 4, 5, 6, 7, 1, 5, 8, 9, 10];
    let desc = Resource3d {
        target: 1,
        format: 2,
        bind: 3,
        width: 4,
        height: 6,
        depth: 7,
        array_size: 8,
        last_level: 9,
        nr_samples: 10,
        flags: 11,
    };
    let name = |length: u32| [&[length, 4][..], &[0x6463_6261; 16]].concat();
    let cases: Vec<(u32, Vec<u32>, Command)> = vec![
        (0x0200, name(3), Command::CtxCreate { context_init: 4, name: b"abc".to_vec() }),
        (0x0201, vec![], Command::CtxDestroy),
        (0x0202, vec![5, 0], Command::CtxAttachResource { resource }),
        (0x0203, vec![5, 0], Command::CtxDetachResource { resource }),
        (0x0204, vec![5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 0], Command::ResourceCreate3d { resource, desc }),
        (0x0205, transfer_words.clone(), Command::TransferToHost3d(transfer)),
        (0x0206, transfer_words, Command::TransferFromHost3d(transfer)),
        (0x0207, vec![4, 0, 0x0403_0201], Command::Submit3d { bytes: vec![1, 2, 3, 4] }),
        (0x0208, vec![5, 0, 0x1000, 1], Command::ResourceMapBlob { resource, offset: 0x1_0000_1000 }),
        (0x0209, vec![5, 0], Command::ResourceUnmapBlob { resource }),
    ];
    for (kind, words, command) in cases {
        assert_eq!(decode(kind, &words), Ok(command), "{kind:#x}");
        let whole = request(kind, &words);
        for cut in Header::SIZE..whole.len() {
            assert!(Command::decode(&whole[..cut]).1.is_err(), "{kind:#x} cut at {cut}");
        }
    }
    for length in [64, 65, u32::MAX] {
        let Ok(Command::CtxCreate { name, .. }) = decode(0x0200, &name(length)) else { panic!("refused") };
        assert_eq!(name, b"abcd".repeat(16), "{length}");
    }
}

#[test]
fn qemu_submit_3d_takes_as_many_bytes_as_it_says_and_no_more_than_came() {
    assert_eq!(decode(0x0207, &[4, 7, 1, 2, 3]), Ok(Command::Submit3d { bytes: vec![1, 0, 0, 0] }), "drivers pad");
    assert_eq!(decode(0x0207, &[0, 0, 1]), Ok(Command::Submit3d { bytes: vec![] }));
    for size in [5, 8, 0x7fff_ffff, u32::MAX] {
        assert_eq!(decode(0x0207, &[size, 0, 1]), Err(DecodeError::Short { kind: 0x0207 }), "{size}");
    }
}

#[test]
fn acrn_nr_entries_larger_than_the_bytes_sent_is_refused() {
    assert_eq!(decode(kind::RESOURCE_ATTACH_BACKING, &[5, 2, 0, 0, 16, 0]), Err(DecodeError::Short { kind: 0x0106 }));
}

#[test]
fn acrn_nr_entries_smaller_than_the_bytes_sent_takes_only_as_many() {
    let Ok(Command::ResourceAttachBacking { entries, .. }) =
        decode(kind::RESOURCE_ATTACH_BACKING, &[5, 1, 0, 0, 16, 0, 0, 0, 16, 0])
    else {
        panic!("refused");
    };
    assert_eq!(entries.len(), 1);
}

#[test]
fn crosvm_nr_entries_of_4_gi_allocates_nothing() {
    assert_eq!(
        decode(kind::RESOURCE_ATTACH_BACKING, &[5, u32::MAX, 0, 0, 16, 0]),
        Err(DecodeError::Short { kind: 0x0106 })
    );
}

#[test]
fn an_unknown_type_and_an_unknown_format_are_named() {
    assert_eq!(decode(0x0fff, &[]), Err(DecodeError::UnknownKind(0x0fff)));
    assert_eq!(decode(kind::RESOURCE_CREATE_2D, &[1, 5, 1, 1]), Err(DecodeError::UnknownFormat(5)));
}

#[test]
fn bytes_without_a_header_have_no_fence() {
    let (header, command) = Command::decode(&[0xff; Header::SIZE - 1]);
    assert_eq!(command, Err(DecodeError::NoHeader(23)));
    assert_eq!(header.fence(), None);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(0u8.., 0..256), group in 1u32..4, kind in 0u32..0x10) {
        let _ = Command::decode(&bytes);
        let mut typed = bytes;
        if typed.len() >= 4 {
            typed[..4].copy_from_slice(&(group << 8 | kind).to_le_bytes());
        }
        let _ = Command::decode(&typed);
    }
}
