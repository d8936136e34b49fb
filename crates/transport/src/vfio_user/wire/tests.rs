use proptest::prelude::*;

use super::*;

fn access() -> impl Strategy<Value = Access> {
    any::<(u32, u64, u32)>().prop_map(|(region, offset, count)| Access { region, offset, count })
}

/// A request that owns its bytes.
#[derive(Clone, Debug)]
enum Owned {
    Plain(Request<'static>),
    Version(u16, u16, Vec<u8>),
    SetIrqs([u32; 4], Vec<u8>),
    Write(Access, Vec<u8>),
    Writes(Vec<[u8; WRITE_BYTES]>),
}

impl Owned {
    fn request(&self) -> Request<'_> {
        match self {
            Self::Plain(request) => request.clone(),
            Self::Version(major, minor, capabilities) => {
                Request::Version { major: *major, minor: *minor, capabilities }
            }
            Self::SetIrqs([flags, index, start, count], data) => {
                Request::SetIrqs { flags: *flags, index: *index, start: *start, count: *count, data }
            }
            Self::Write(access, data) => Request::RegionWrite(Access { count: data.len() as u32, ..*access }, data),
            Self::Writes(writes) => Request::WriteMulti(Writes(writes)),
        }
    }
}

fn request() -> impl Strategy<Value = Owned> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..64);
    let window = any::<(u64, u64, u64, bool, bool)>().prop_map(|(iova, size, offset, readable, writable)| {
        Request::DmaMap(Window { iova, size, offset, readable, writable })
    });
    let plain = prop_oneof![
        window,
        any::<Option<(u64, u64)>>().prop_map(Request::DmaUnmap),
        Just(Request::GetInfo),
        (32u32.., any::<u32>()).prop_map(|(room, index)| Request::GetRegionInfo { room, index }),
        any::<u32>().prop_map(|index| Request::GetIrqInfo { index }),
        access().prop_map(Request::RegionRead),
        Just(Request::Reset),
    ];
    prop_oneof![
        plain.prop_map(Owned::Plain),
        (any::<u16>(), any::<u16>(), bytes()).prop_map(|(major, minor, json)| Owned::Version(major, minor, json)),
        (any::<[u32; 4]>(), bytes()).prop_map(|(words, data)| Owned::SetIrqs(words, data)),
        (access(), bytes()).prop_map(|(access, data)| Owned::Write(access, data)),
        prop::collection::vec(any::<[u8; WRITE_BYTES]>(), 0..=MAX_WRITES as usize).prop_map(Owned::Writes),
    ]
}

proptest! {
    #[test]
    fn requests_come_back_as_they_went(owned in request(), id: u16, no_reply: bool) {
        let request = owned.request();
        let bytes = request.to_bytes(id, no_reply);
        let (head, payload) = bytes.split_first_chunk().unwrap();
        let header = Header::parse(head).unwrap();
        prop_assert_eq!(header.kind, Kind::Request { no_reply });
        prop_assert_eq!((header.id, header.size), (id, payload.len()));
        prop_assert_eq!(Request::parse(header.command, payload), Ok(request));
    }

    #[test]
    fn cut_requests_are_refused(owned in request(), cut: prop::sample::Index) {
        // What ends with as many bytes as there are can end anywhere.
        prop_assume!(!matches!(owned, Owned::Version(..) | Owned::SetIrqs(..)));
        let mut payload = Vec::new();
        let command = owned.request().encode(&mut payload);
        prop_assume!(!payload.is_empty());
        let shorter = &payload[..cut.index(payload.len())];
        prop_assert_eq!(Request::parse(command, shorter), Err(LENGTH));
        payload.push(0);
        prop_assert_eq!(Request::parse(command, &payload), Err(LENGTH));
    }

    #[test]
    fn any_bytes_are_a_request_or_refused(command in 0u16..20, payload: Vec<u8>) {
        if let Ok(request) = Request::parse(command, &payload) {
            let mut again = Vec::new();
            prop_assert_eq!(request.encode(&mut again), command);
            prop_assert_eq!(again.len(), payload.len());
        }
    }

    #[test]
    fn headers_come_back_as_they_went(id: u16, command: u16, size in 0..=MAX_PAYLOAD, errno: u32, kind in 0..4) {
        let kind = match kind {
            0 => Kind::Request { no_reply: false },
            1 => Kind::Request { no_reply: true },
            2 => Kind::Reply,
            _ => Kind::Error(errno),
        };
        let header = Header { id, command, size, kind };
        prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    }
}

#[test]
fn sizes_that_cannot_be_are_no_messages() {
    let header = |size: u32, flags: u32| {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        Header::parse(&bytes)
    };
    let largest = (HEADER_BYTES + MAX_PAYLOAD) as u32;
    for size in [0, 15, largest + 1, u32::MAX] {
        assert_eq!(header(size, 0), Err(WireError::Size(size)));
    }
    assert_eq!(header(16, 0).unwrap().size, 0);
    assert_eq!(header(largest, 0).unwrap().size, MAX_PAYLOAD);
    for flags in [2, 3, 0xf, 0x1f] {
        assert_eq!(header(16, flags), Err(WireError::Flags(flags)));
    }
}

/// The layout as QEMU has it, byte for byte.
#[test]
fn layouts_are_those_of_qemu() {
    let message = |request: Request<'_>| request.to_bytes(0x0201, false);
    let window = Window { iova: 0x1000, size: 0x2000, offset: 0x3000, readable: true, writable: true };
    assert_eq!(
        message(Request::DmaMap(window)),
        [
            [1, 2, 2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [32, 0, 0, 0, 3, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0],
            [0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0],
        ]
        .concat()
    );
    assert_eq!(
        message(Request::RegionWrite(Access { region: 2, offset: 0x3004, count: 2 }, &[1, 0])),
        [
            &[1, 2, 10, 0, 34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[4, 0x30, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0],
            &[1, 0],
        ]
        .concat()
    );
    assert_eq!(
        dma_request(0x0201, command::DMA_READ, 0x1000, 64, 0),
        [[1, 2, 11, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0x10, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0]]
            .concat()[..]
    );
}

#[test]
fn too_many_writes_are_refused() {
    let count = MAX_WRITES as usize + 1;
    let writes = vec![[0; WRITE_BYTES]; count];
    let mut payload = Vec::new();
    Request::WriteMulti(Writes(&writes)).encode(&mut payload);
    assert_eq!(Request::parse(command::WRITE_MULTI, &payload), Err(LENGTH));
    // A count that would wrap when multiplied.
    let payload = (u64::MAX / 24 + 1).to_le_bytes();
    assert_eq!(Request::parse(command::WRITE_MULTI, &payload), Err(LENGTH));
}

#[test]
fn other_flags_of_an_unmap_are_refused() {
    for (flags, iova, size, there) in
        [(0, 0, 0, true), (2, 0, 0, true), (1, 0, 0, false), (3, 0, 0, false), (2, 4096, 0, false)]
    {
        let mut payload = Vec::new();
        put32(&mut payload, &[24, flags]);
        put64(&mut payload, &[iova, size]);
        assert_eq!(Request::parse(command::DMA_UNMAP, &payload).is_ok(), there, "{flags} {iova}");
    }
}
