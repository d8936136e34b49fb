//! For fuzz targets: what a stranger can reach, without sockets.

use bytes::BytesMut;

use crate::rfb::decode::ClientMessage;
use crate::rfb::decode::{Decoder, MAX_MESSAGE};
use crate::rfb::encodings::Abilities;
use crate::rfb::pixel::Translator;
use crate::rfb::zrle::Zrle;

/// Feeds a client's bytes, in pieces whose lengths are bytes of the input too, and packs a picture for each format that the
/// client asks for. Returns the number of messages.
pub fn client(data: &[u8]) -> usize {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::new();
    let mut messages = 0;
    let mut rest = data;
    while let Some((length, bytes)) = rest.split_first() {
        let (piece, after) = bytes.split_at(bytes.len().min(usize::from(*length)));
        rest = after;
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(message)) => {
                    messages += 1;
                    answer(&message);
                }
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
        assert!(buffer.len() <= MAX_MESSAGE + 255, "a message never needs more");
    }
    messages
}

fn answer(message: &ClientMessage) {
    match message {
        ClientMessage::PixelFormat(format) => {
            let pixels: Vec<u32> = (0..70 * 3).map(|at| (at * 0x0001_0307) & 0x00ff_ffff).collect();
            let translator = Translator::new(*format);
            let mut out = Vec::new();
            translator.append(&pixels, &mut out);
            assert_eq!(out.len(), pixels.len() * translator.bytes());
            Zrle::new().append(&pixels, 70, &translator, &mut out);
        }
        ClientMessage::Encodings(list) => {
            Abilities::from_list(list);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn a_conversation_is_understood() {
        let mut bytes = b"RFB 003.008\n\x01\x01".to_vec();
        bytes.extend([0, 0, 0, 0, 16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0]);
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 9, 0, 9]);
        let pieces: Vec<u8> = bytes.chunks(7).flat_map(|piece| [&[piece.len() as u8], piece].concat()).collect();
        assert_eq!(client(&pieces), 5);
    }

    proptest! {
        #[test]
        fn no_bytes_end_in_a_panic(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            client(&data);
            client(&[&[14], &b"RFB 003.008\n\x01\x00"[..], &data].concat());
        }
    }
}
