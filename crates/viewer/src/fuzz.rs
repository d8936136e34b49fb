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
            let pixels: Vec<u32> = (0..70 * 3).map(|at| at * 0x0001_0307 & 0x00ff_ffff).collect();
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
