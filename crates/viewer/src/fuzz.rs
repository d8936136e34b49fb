//! For fuzz targets: what a stranger can reach, without sockets.

use std::collections::BTreeSet;

use bytes::BytesMut;
use frames::{Input, Leds};

use crate::floor::Down;
use crate::hand;
use crate::hub::share;
use crate::keys::Typing;
use crate::rfb::decode::ClientMessage;
use crate::rfb::decode::{Decoder, MAX_MESSAGE};
use crate::rfb::encodings::Abilities;
use crate::rfb::pixel::Translator;
use crate::rfb::zrle::Zrle;

/// Feeds a client's bytes, in pieces whose lengths are bytes of the input too, packs a picture for each format that the client
/// asks for, and types what it types. Returns the number of messages.
pub fn client(data: &[u8]) -> usize {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::new();
    let mut person = Person::default();
    let mut messages = 0;
    let mut rest = data;
    'said: while let Some((length, bytes)) = rest.split_first() {
        let (piece, after) = bytes.split_at(bytes.len().min(usize::from(*length)));
        rest = after;
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(message)) => {
                    messages += 1;
                    person.say(&message, &mut decoder);
                }
                Ok(None) => break,
                Err(_) => break 'said,
            }
        }
        assert!(buffer.len() <= MAX_MESSAGE + 255, "a message never needs more");
    }
    person.let_go();
    messages
}

/// What a client does to a guest.
#[derive(Default)]
struct Person {
    typing: Typing,
    down: Down,
    leds: Leds,
    buttons: u16,
    /// The keys that were pressed, as the client says them.
    pressed: BTreeSet<(u32, Option<u32>)>,
}

impl Person {
    fn say(&mut self, message: &ClientMessage, decoder: &mut Decoder) {
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
                decoder.knows_more_buttons(Abilities::from_list(list).more_buttons);
            }
            ClientMessage::Key { keysym, pressed, code } => {
                if *pressed {
                    self.pressed.insert((*keysym, *code));
                }
                self.key((*keysym, *code), *pressed);
            }
            ClientMessage::Pointer { buttons, x, y } => {
                let (x, length) = (u32::from(*x), u32::from(*y).max(1));
                assert_eq!(share(x, length) == share(u32::MAX, length), x >= length - 1, "{x} of {length}");
                let events = hand::buttons(self.buttons, *buttons);
                self.buttons = *buttons;
                events.for_each(|event| self.does(event));
            }
            // The guest's lights change meanwhile.
            ClientMessage::DesktopSize { width, height } => {
                self.leds = Leds { num: width & 1 != 0, caps: height & 1 != 0, scroll: width & 2 != 0 };
            }
            _ => {}
        }
    }

    fn key(&mut self, key: (u32, Option<u32>), pressed: bool) {
        let Ok(events) = self.typing.key(key, pressed, &|code| self.down.has(code), self.leds) else { return };
        events.into_iter().for_each(|(code, pressed)| self.does(Input::Key { code, pressed }));
    }

    fn does(&mut self, input: Input) {
        assert!(self.down.note(input).is_ok(), "{input:?} is nothing that a guest has");
    }

    /// Whoever lets go of everything leaves nothing down.
    fn let_go(mut self) {
        for key in std::mem::take(&mut self.pressed) {
            self.key(key, false);
        }
        hand::buttons(self.buttons, 0).for_each(|event| self.does(event));
        assert_eq!(self.down, Down::default());
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
        let mut bytes = b"RFB 003.008\n\x13\x00\x02\x00\x00\x01\x00".to_vec();
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, b'u', b'p', b'w', 0]);
        bytes.extend([255, 0, 0, 1, 0, 0, 0, b'A', 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, b'!']);
        bytes.extend([2, 0, 0, 1, 0xff, 0xff, 0xfe, 0xc4, 5, 0x83, 0, 1, 0, 2, 3]);
        let pieces: Vec<u8> = bytes.chunks(7).flat_map(|piece| [&[piece.len() as u8], piece].concat()).collect();
        assert_eq!(client(&pieces), 10);
    }

    /// A key with or without a place, buttons, or lights that change.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let keysym = prop_oneof![0x20..0x7fu32, 0xff00..0xffffu32, 0xfe00..0xfe20u32, any::<u32>()];
        let place = prop_oneof![0..0x100u32, 0xe000..0xe080u32, any::<u32>()];
        prop_oneof![
            (keysym.clone(), any::<bool>()).prop_map(|(keysym, pressed)| [
                &[4, pressed.into(), 0, 0],
                &keysym.to_be_bytes()[..]
            ]
            .concat()),
            (keysym, place, any::<bool>()).prop_map(|(keysym, place, pressed)| {
                [&[255, 0, 0, pressed.into()], &keysym.to_be_bytes()[..], &place.to_be_bytes()].concat()
            }),
            any::<u8>().prop_map(|buttons| vec![5, buttons, 0, 1, 0, 2]),
            any::<u8>().prop_map(|lights| vec![251, 0, 0, lights, 0, lights >> 2, 0, 0]),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_end_in_a_panic(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            client(&data);
            client(&[&[14], &b"RFB 003.008\n\x01\x00"[..], &data].concat());
            client(&[&[19], &b"RFB 003.008\n\x13\x00\x02\x00\x00\x01\x00"[..], &data].concat());
        }

        #[test]
        fn whatever_is_typed_nothing_stays_down(keys in prop::collection::vec(key(), 0..60)) {
            let said = [&b"RFB 003.008\n\x01\x00"[..], &keys.concat()].concat();
            let pieces: Vec<u8> = said.chunks(99).flat_map(|piece| [&[piece.len() as u8], piece].concat()).collect();
            prop_assert_eq!(client(&pieces), 3 + keys.len());
        }
    }
}
