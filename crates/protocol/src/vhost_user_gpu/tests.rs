use proptest::prelude::*;

use super::*;
use crate::reply::DisplayOne;
use crate::value::{Rect, ScanoutId};

fn encoded(message: Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn decoded(bytes: &[u8]) -> Result<Message<'_>, SideError> {
    let (header, payload) = bytes.split_first_chunk().expect("a header");
    Message::decode(&Header::decode(header), payload)
}

const POSITION: Position = Position { scanout: ScanoutId(1), x: 2, y: u32::MAX };
const RECT: Rect = Rect::new(3, 4, 2, 1);

fn dmabuf() -> DmabufScanout {
    let (scanout, rect) = (ScanoutId(2), RECT);
    DmabufScanout { scanout, rect, width: 8, height: 9, stride: 32, flags: 1, fourcc: 0x3432_5258 }
}

fn every_message() -> Vec<Message<'static>> {
    static IMAGE: [u8; CURSOR_BYTES] = [7; CURSOR_BYTES];
    vec![
        Message::GetProtocolFeatures,
        Message::SetProtocolFeatures(protocol_feature::EDID),
        Message::GetDisplayInfo,
        Message::GetEdid(ScanoutId(3)),
        Message::CursorPosition(POSITION),
        Message::CursorHide(POSITION),
        Message::CursorUpdate(Cursor { position: POSITION, hot_x: 5, hot_y: 6, image: &IMAGE }),
        Message::Scanout(ScanoutId(0), 640, 480),
        Message::Update(ScanoutId(0), RECT, &[1, 2, 3, 4, 5, 6, 7, 8]),
        Message::DmabufScanout(dmabuf()),
        Message::DmabufUpdate(ScanoutId(0), RECT),
        Message::DmabufScanout2(dmabuf(), 0x0100_0000_0000_0001),
    ]
}

#[test]
#[cfg(target_endian = "little")]
fn an_update_lies_on_the_wire_as_qemu_reads_it() {
    let bytes = encoded(Message::Update(ScanoutId(9), RECT, &[1, 2, 3, 4, 5, 6, 7, 8]));
    let words = [8, 0, 28, 9, 3, 4, 2, 1, 0x0403_0201, 0x0807_0605];
    assert_eq!(bytes, words.map(u32::to_le_bytes).concat());
    assert_eq!(bytes[..UPDATE_PREFIX_SIZE], update_prefix(ScanoutId(9), RECT).unwrap());
}

/// The sizes of QEMU's packed structures.
#[test]
fn every_message_has_the_size_that_qemu_expects_and_is_read_again() {
    let sizes: Vec<usize> = every_message().into_iter().map(|message| encoded(message).len() - HEADER_SIZE).collect();
    assert_eq!(sizes, [0, 8, 0, 4, 12, 12, 20 + 16384, 12, 28, 40, 20, 48]);
    let numbers = [1, 2, 3, 11, 4, 5, 6, 7, 8, 9, 10, 12];
    for (message, number) in every_message().into_iter().zip(numbers) {
        assert_eq!(decoded(&encoded(message)), Ok(message));
        assert_eq!(message.request(), Request(number));
    }
}

#[test]
fn an_update_whose_size_does_not_fit_is_not_made() {
    assert!(update_prefix(ScanoutId(0), Rect::of_size(16384, 16384)).is_some());
    assert!(update_prefix(ScanoutId(0), Rect::of_size(32768, 32768)).is_none());
    assert!(update_prefix(ScanoutId(0), Rect::of_size(u32::MAX, u32::MAX)).is_none());
}

#[test]
fn a_payload_of_another_size_is_refused() {
    for message in every_message() {
        let bytes = encoded(message);
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decoded(&longer), Err(SideError::Size(..))), "{message:?}");
        if bytes.len() > HEADER_SIZE {
            assert!(matches!(decoded(&bytes[..bytes.len() - 1]), Err(SideError::Size(..))), "{message:?}");
        }
    }
    let unknown = Header { request: Request(13), flags: 0, size: 0 };
    assert_eq!(Message::decode(&unknown, &[]), Err(SideError::Unknown(Request(13), 0)));
}

fn every_reply() -> Vec<Reply> {
    let mut heads = vec![DisplayOne::default(); 16];
    heads[0] = DisplayOne { rect: Rect::of_size(1280, 800), enabled: true };
    heads[15] = DisplayOne { rect: Rect::new(1280, 0, 1024, 768), enabled: true };
    let edid = (0..1024).map(|at| at as u8).collect();
    vec![Reply::ProtocolFeatures(3), Reply::DisplayInfo(heads), Reply::Edid(edid), Reply::DmabufUpdated]
}

fn stream(replies: &[Reply]) -> Vec<u8> {
    let mut bytes = Vec::new();
    replies.iter().for_each(|reply| reply.encode(&mut bytes));
    bytes
}

#[test]
fn every_reply_has_the_size_of_qemus() {
    let sizes: Vec<usize> =
        every_reply().iter().map(|reply| stream(std::slice::from_ref(reply)).len() - HEADER_SIZE).collect();
    assert_eq!(sizes, [8, 24 + 16 * 24, 24 + 8 + 1024, 0]);
}

#[test]
fn a_reply_that_announces_gigabytes_is_refused_before_anything_is_kept() {
    let header = Header { request: Request::GET_EDID, flags: FLAG_REPLY, size: u32::MAX };
    let mut reader = ReplyReader::default();
    let pushed = reader.push(&header.encode(), &mut Vec::new());
    assert_eq!(pushed, Err(SideError::Size(Request::GET_EDID, u32::MAX)));
}

#[test]
fn what_is_no_reply_is_named() {
    let push = |bytes: &[u8]| ReplyReader::default().push(bytes, &mut Vec::new());
    let header = |request, flags, size| Header { request, flags, size }.encode();
    let short = [header(Request::GET_EDID, FLAG_REPLY, 4).as_slice(), &[0; 4]].concat();
    assert_eq!(push(&short), Err(SideError::Size(Request::GET_EDID, 4)));
    assert_eq!(push(&header(Request::UPDATE, FLAG_REPLY, 0)), Err(SideError::Unknown(Request::UPDATE, FLAG_REPLY)));
    let not_a_reply = header(Request::GET_DISPLAY_INFO, 0, 0);
    assert_eq!(push(&not_a_reply), Err(SideError::Unknown(Request::GET_DISPLAY_INFO, 0)));
    let mut refused = stream(&every_reply()[1..2]);
    refused[HEADER_SIZE..HEADER_SIZE + 4].copy_from_slice(&0x1200u32.to_le_bytes());
    assert_eq!(push(&refused), Err(SideError::Refused(Request::GET_DISPLAY_INFO, 0x1200)));
}

#[test]
fn an_edid_may_not_claim_more_than_its_room() {
    let mut bytes = stream(&[Reply::Edid(vec![5; 128])]);
    let mut replies = Vec::new();
    ReplyReader::default().push(&bytes, &mut replies).unwrap();
    assert_eq!(replies, [Reply::Edid(vec![5; 128])]);
    bytes[HEADER_SIZE + 24..HEADER_SIZE + 28].copy_from_slice(&u32::MAX.to_le_bytes());
    replies.clear();
    ReplyReader::default().push(&bytes, &mut replies).unwrap();
    assert!(matches!(replies.as_slice(), [Reply::Edid(edid)] if edid.len() == 1024));
}

proptest! {
    /// A socket hands out a stream in any pieces.
    #[test]
    fn replies_come_whole_however_they_are_cut(cuts in prop::collection::vec(1..600usize, 1..40)) {
        let wanted = [every_reply(), every_reply()].concat();
        let bytes = stream(&wanted);
        let (mut reader, mut got, mut rest) = (ReplyReader::default(), Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            let (piece, later) = rest.split_at(rest.len().min(*cut));
            reader.push(piece, &mut got).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..3000), request in 0..14u32, reply: bool) {
        let flags = if reply { FLAG_REPLY } else { 0 };
        let header = Header { request: Request(request), flags, size: bytes.len() as u32 };
        let _ = Message::decode(&header, &bytes);
        let _ = Reply::decode(&header, &bytes);
        let mut replies = Vec::new();
        let mut reader = ReplyReader::default();
        let _ = reader.push(&[header.encode().as_slice(), &bytes].concat(), &mut replies);
        let _ = ReplyReader::default().push(&bytes, &mut replies);
        prop_assert!(reader.bytes.len() <= ReplyReader::MAX_KEPT);
    }
}
