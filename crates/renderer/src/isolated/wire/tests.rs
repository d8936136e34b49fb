use proptest::prelude::*;

use super::*;

fn one_of_each() -> Vec<Request> {
    let (context, resource) = (ContextId(0x1111_2222), ResourceId(0x3333_4444));
    let span = Span { offset: 5, len: 6 };
    let desc = Resource3d {
        target: 1,
        format: 2,
        bind: 3,
        width: 4,
        height: 5,
        depth: 6,
        array_size: 7,
        last_level: 8,
        nr_samples: 9,
        flags: u32::MAX,
    };
    let blob = HostBlob { resource, mem: 2, flags: 7, id: u64::MAX - 1, size: 1 << 40 | 3 };
    let area = Box3d { x: 1, y: 2, z: 3, width: 4, height: 5, depth: u32::MAX };
    let transfer = Transfer3d { area, offset: 1 << 50 | 9, resource, level: 10, stride: 11, layer_stride: 12 };
    vec![
        Request::Open { context, capset: CapsetId::VENUS, name: span },
        Request::Close { context },
        Request::Join { context, resource },
        Request::Leave { context, resource },
        Request::Submit { context, commands: span },
        Request::Fence { context, ring: 63 },
        Request::Create { resource, desc },
        Request::CreateBlob { context, blob },
        Request::Destroy { resource },
        Request::Attach { resource, pieces: span },
        Request::Detach { resource },
        Request::Transfer { context, way: Way::ToHost, transfer },
        Request::Transfer { context, way: Way::FromHost, transfer },
        Request::Read { resource, rect: Rect::new(1, 2, 3, 4), image: 5, stride: 6 },
        Request::Part { bytes: span },
        Request::DropRegion { number: 7 },
        Request::DropImage { number: 8 },
        Request::Quit,
        Request::Write { resource, rect: Rect::new(7, 8, 9, 10), image: 11, stride: 12 },
    ]
}

#[test]
fn a_request_is_the_same_on_the_other_side() {
    for request in one_of_each() {
        let ticket = Ticket(0x0123_4567_89ab_cdef);
        assert_eq!(decode(&encode(ticket, &request)), Some((ticket, request)));
    }
}

#[test]
fn an_event_is_the_same_on_the_other_side() {
    let errors = ERRORS.map(|error| Event::Done(Err(error)));
    for event in errors.into_iter().chain([Event::Done(Ok(())), Event::Exported, Event::Retired]) {
        assert_eq!(decode_event(encode_event(Ticket(u64::MAX), event)), (Ticket(u64::MAX), Some(event)));
    }
    for word in [0, 4, DONE | 7 << 8, DONE | u64::MAX << 8, EXPORTED | 1 << 8, RETIRED | 1 << 63] {
        assert_eq!(decode_event([3, word]), (Ticket(3), None), "{word:#x}");
    }
}

#[test]
fn a_piece_is_the_same_on_the_other_side() {
    assert_eq!(decode_piece(encode_piece(3, 1 << 45 | 7, u32::MAX)), (3, 1 << 45 | 7, u32::MAX));
}

proptest! {
    #[test]
    fn words_that_are_a_request_mean_one_thing(words: RequestWords) {
        if let Some((ticket, request)) = decode(&words) {
            prop_assert_eq!(decode(&encode(ticket, &request)), Some((ticket, request)));
        }
    }
}
