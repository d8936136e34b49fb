//! What a client says. It may be anybody: nothing is allocated by a number that it sent, and what is not understood ends it.

use bytes::{Buf, BytesMut};
use frames::Rect;

use super::message::SECURITY_VENCRYPT;
use super::pixel::PixelFormat;
use crate::tokens::Secret;

/// Encodings in one list; real clients send about thirty. Stops a client that keeps us parsing.
const MAX_ENCODINGS: usize = 1024;

/// Clipboard text, which is skipped. Stops a client that sends text for ever.
const MAX_CUT_TEXT: u32 = 1 << 20;

/// Letters of a name or a password; a token has at most as many. Stops a client that sends a password for ever.
const MAX_CREDENTIAL: usize = 256;

/// Longest message that must be whole before it is understood: a list of encodings.
pub(crate) const MAX_MESSAGE: usize = 4 + 4 * MAX_ENCODINGS;

/// Something no client says: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Not the RFB protocol: {0}")]
pub(crate) struct Violation(pub(crate) &'static str);

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Rfb33,
    Rfb37,
    Rfb38,
}

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientMessage {
    Version(Version),
    Security(u8),
    /// The version of VeNCrypt.
    VeNCrypt([u8; 2]),
    /// Which of VeNCrypt's ways.
    VeNCryptKind(u32),
    /// A password; the user's name that comes before it is not looked at.
    Plain(Secret),
    /// The end of the handshake; shared: the client takes nothing from others.
    Init {
        shared: bool,
    },
    PixelFormat(PixelFormat),
    Encodings(Vec<i32>),
    UpdateRequest {
        incremental: bool,
        rect: Rect,
    },
    DesktopSize {
        width: u32,
        height: u32,
    },
    /// Keysym, down, and the key's number in QEMU's table when the client knows it.
    Key {
        keysym: u32,
        pressed: bool,
        code: Option<u32>,
    },
    /// Bit 0: left, middle, right, wheel up, down, left, right, back, forward.
    Pointer {
        buttons: u16,
        x: u16,
        y: u16,
    },
    /// Clipboard text, dropped.
    CutText,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Version,
    Security,
    VeNCrypt,
    VeNCryptKind,
    Plain,
    Init,
    Session,
}

/// Cuts a client's bytes into messages.
#[derive(Debug)]
pub(crate) struct Decoder {
    phase: Phase,
    /// Bytes of a clipboard text that are still to come.
    skip: usize,
    /// The eighth button is a mark: more buttons follow.
    more_buttons: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Version, skip: 0, more_buttons: false }
    }

    /// The client listed that it has more than eight buttons.
    pub(crate) fn knows_more_buttons(&mut self, knows: bool) {
        self.more_buttons |= knows;
    }

    /// Takes the next message off the front of `buffer`; none: more bytes are needed, at most [`MAX_MESSAGE`] in all.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<ClientMessage>, Violation> {
        if self.skip > 0 {
            let skipped = self.skip.min(buffer.len());
            buffer.advance(skipped);
            self.skip -= skipped;
            if self.skip > 0 {
                return Ok(None);
            }
        }
        let Some((message, length)) = self.parse(buffer)? else { return Ok(None) };
        buffer.advance(length);
        Ok(Some(message))
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<Option<(ClientMessage, usize)>, Violation> {
        match self.phase {
            Phase::Version => {
                let Some((bytes, _)) = bytes.split_first_chunk::<12>() else { return Ok(None) };
                let version = version(bytes)?;
                self.phase = if version == Version::Rfb33 { Phase::Init } else { Phase::Security };
                Ok(Some((ClientMessage::Version(version), 12)))
            }
            Phase::Security => {
                let Some(choice) = bytes.first() else { return Ok(None) };
                self.phase = if *choice == SECURITY_VENCRYPT { Phase::VeNCrypt } else { Phase::Init };
                Ok(Some((ClientMessage::Security(*choice), 1)))
            }
            Phase::VeNCrypt => {
                let Some(version) = bytes.first_chunk() else { return Ok(None) };
                self.phase = Phase::VeNCryptKind;
                Ok(Some((ClientMessage::VeNCrypt(*version), 2)))
            }
            Phase::VeNCryptKind => {
                let Some(kind) = bytes.first_chunk() else { return Ok(None) };
                self.phase = Phase::Plain;
                Ok(Some((ClientMessage::VeNCryptKind(u32::from_be_bytes(*kind)), 4)))
            }
            Phase::Plain => {
                let Some((lengths, names)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
                let (user, password) = lengths.split_at(4);
                let length = |bytes: &[u8]| bytes.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
                let (user, password) = (length(user), length(password));
                if user > MAX_CREDENTIAL || password > MAX_CREDENTIAL {
                    return Err(Violation("a name or password longer than any"));
                }
                let Some(secret) = names.get(user..user + password) else { return Ok(None) };
                self.phase = Phase::Init;
                let secret = Secret::new(String::from_utf8_lossy(secret).into_owned());
                Ok(Some((ClientMessage::Plain(secret), 8 + user + password)))
            }
            Phase::Init => {
                let Some(shared) = bytes.first() else { return Ok(None) };
                self.phase = Phase::Session;
                Ok(Some((ClientMessage::Init { shared: *shared != 0 }, 1)))
            }
            Phase::Session => self.session(bytes),
        }
    }

    fn session(&mut self, bytes: &[u8]) -> Result<Option<(ClientMessage, usize)>, Violation> {
        let message = match bytes {
            [] => None,
            [0, _, _, _, format @ ..] => match format.first_chunk::<16>() {
                None => None,
                Some(format) => {
                    let format = PixelFormat::parse(format).ok_or(Violation("a pixel format that cannot be"))?;
                    Some((ClientMessage::PixelFormat(format), 20))
                }
            },
            [2, _, count1, count0, list @ ..] => {
                let count = usize::from(u16::from_be_bytes([*count1, *count0]));
                if count > MAX_ENCODINGS {
                    return Err(Violation("too many encodings"));
                }
                list.get(..4 * count).map(|list| {
                    let list = list.as_chunks::<4>().0.iter().copied().map(i32::from_be_bytes).collect();
                    (ClientMessage::Encodings(list), 4 + 4 * count)
                })
            }
            [3, incremental, x1, x0, y1, y0, w1, w0, h1, h0, ..] => {
                let rect = Rect::new(word(*x1, *x0), word(*y1, *y0), word(*w1, *w0), word(*h1, *h0));
                Some((ClientMessage::UpdateRequest { incremental: *incremental != 0, rect }, 10))
            }
            [4, pressed, _, _, k3, k2, k1, k0, ..] => {
                let keysym = u32::from_be_bytes([*k3, *k2, *k1, *k0]);
                Some((ClientMessage::Key { keysym, pressed: *pressed != 0, code: None }, 8))
            }
            [5, buttons, x1, x0, y1, y0, rest @ ..] => {
                let (x, y) = (u16::from_be_bytes([*x1, *x0]), u16::from_be_bytes([*y1, *y0]));
                let low = u16::from(*buttons);
                if self.more_buttons && low & 0x80 != 0 {
                    let pointer =
                        |high: &u8| ClientMessage::Pointer { buttons: low & 0x7f | u16::from(*high) << 7, x, y };
                    rest.first().map(|high| (pointer(high), 7))
                } else {
                    Some((ClientMessage::Pointer { buttons: low, x, y }, 6))
                }
            }
            [6, _, _, _, l3, l2, l1, l0, ..] => {
                // The extended clipboard says the length as a negative number.
                let length = i32::from_be_bytes([*l3, *l2, *l1, *l0]).unsigned_abs();
                if length > MAX_CUT_TEXT {
                    return Err(Violation("more clipboard text than there is room for"));
                }
                self.skip = length as usize;
                Some((ClientMessage::CutText, 8))
            }
            [251, _, w1, w0, h1, h0, screens, _, list @ ..] => {
                let length = 16 * usize::from(*screens);
                let (width, height) = (word(*w1, *w0), word(*h1, *h0));
                list.get(..length).map(|_| (ClientMessage::DesktopSize { width, height }, 8 + length))
            }
            [255, 0, _, pressed, k3, k2, k1, k0, c3, c2, c1, c0, ..] => {
                let keysym = u32::from_be_bytes([*k3, *k2, *k1, *k0]);
                let code = Some(u32::from_be_bytes([*c3, *c2, *c1, *c0]));
                Some((ClientMessage::Key { keysym, pressed: *pressed != 0, code }, 12))
            }
            [0 | 2..=6 | 251, ..] | [255] | [255, 0, ..] => None,
            _ => return Err(Violation("a message that does not exist")),
        };
        Ok(message)
    }
}

fn word(high: u8, low: u8) -> u32 {
    u32::from(u16::from_be_bytes([high, low]))
}

/// Other versions than the three are treated as the nearest below, as RFC 6143 says.
fn version(bytes: &[u8; 12]) -> Result<Version, Violation> {
    let number = |digits: &[u8]| digits.iter().try_fold(0u16, |sum, digit| Some(sum * 10 + digit_of(*digit)?));
    let refused = Violation("the first bytes are no version");
    match bytes {
        [b'R', b'F', b'B', b' ', major @ .., b'.', a, b, c, b'\n'] => {
            let major = number(major).ok_or(refused)?;
            match (major, number(&[*a, *b, *c]).ok_or(refused)?) {
                (..3, _) | (3, ..3) => Err(refused),
                (3, 3..7) => Ok(Version::Rfb33),
                (3, 7) => Ok(Version::Rfb37),
                _ => Ok(Version::Rfb38),
            }
        }
        _ => Err(refused),
    }
}

fn digit_of(byte: u8) -> Option<u16> {
    byte.is_ascii_digit().then(|| u16::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn decode(mut decoder: Decoder, bytes: &[u8]) -> Result<Vec<ClientMessage>, Violation> {
        let mut buffer = BytesMut::from(bytes);
        let mut messages = Vec::new();
        while let Some(message) = decoder.next(&mut buffer)? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn session() -> Decoder {
        Decoder { phase: Phase::Session, skip: 0, more_buttons: false }
    }

    #[test]
    fn handshakes_of_all_versions() {
        let hello = |bytes: &[u8]| decode(Decoder::new(), bytes);
        let version = |version| ClientMessage::Version(version);
        let init = |shared| ClientMessage::Init { shared };
        let with_security = |v| Ok(vec![version(v), ClientMessage::Security(1), init(false)]);
        assert_eq!(hello(b"RFB 003.003\n\x01"), Ok(vec![version(Version::Rfb33), init(true)]));
        assert_eq!(hello(b"RFB 003.005\n\x01"), Ok(vec![version(Version::Rfb33), init(true)]));
        assert_eq!(hello(b"RFB 003.007\n\x01\x00"), with_security(Version::Rfb37));
        assert_eq!(hello(b"RFB 003.008\n\x01\x00"), with_security(Version::Rfb38));
        assert_eq!(hello(b"RFB 003.889\n\x01\x00"), with_security(Version::Rfb38));
        assert_eq!(hello(b"RFB 005.000\n\x01\x00"), with_security(Version::Rfb38));
        for junk in ["GET / HTTP/1.1\r\n", "RFB 002.009\n", "RFB 003.00x\n", "RFB 003 008\n", "RFB 003.008\r"] {
            assert!(hello(junk.as_bytes()).is_err(), "{junk}");
        }
    }

    #[test]
    fn messages_arrive_in_any_pieces() {
        let mut bytes = vec![0, 9, 9, 9];
        bytes.extend(PixelFormat::NATIVE.bytes());
        bytes.extend([2, 0, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0x11]);
        bytes.extend([3, 1, 0, 1, 0, 2, 0, 3, 1, 4]);
        bytes.extend([4, 1, 0, 0, 0, 0, 0xff, 0x0d]);
        bytes.extend([5, 3, 1, 0, 0, 5]);
        bytes.extend([6, 0, 0, 0, 0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o']);
        bytes.extend([251, 0, 3, 0x20, 2, 0x58, 1, 0]);
        bytes.extend([0; 16]);
        bytes.extend([255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e]);
        let wanted = [
            ClientMessage::PixelFormat(PixelFormat::NATIVE),
            ClientMessage::Encodings(vec![16, -239]),
            ClientMessage::UpdateRequest { incremental: true, rect: Rect::new(1, 2, 3, 0x104) },
            ClientMessage::Key { keysym: 0xff0d, pressed: true, code: None },
            ClientMessage::Pointer { buttons: 3, x: 256, y: 5 },
            ClientMessage::CutText,
            ClientMessage::DesktopSize { width: 800, height: 600 },
            ClientMessage::Key { keysym: 0x61, pressed: true, code: Some(0x1e) },
        ];
        assert_eq!(decode(session(), &bytes).unwrap(), wanted);
        let (mut decoder, mut buffer, mut messages) = (session(), BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            messages.extend(decoder.next(&mut buffer).unwrap());
        }
        assert_eq!(messages, wanted);
    }

    #[test]
    fn what_no_client_says_ends_it() {
        let refused = |bytes: &[u8]| decode(session(), bytes).is_err();
        assert!(refused(&[1]));
        assert!(refused(&[255, 1]), "audio was not offered");
        assert!(refused(&[2, 0, 0xff, 0xff]), "65535 encodings");
        assert!(refused(&[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]), "2 GiB of clipboard");
        assert!(refused(&[6, 0, 0, 0, 0x80, 0, 0, 0]), "as much of extended clipboard");
        let mut format = [0; 20];
        format[4] = 24;
        assert!(refused(&format), "24 bits per pixel");
    }

    #[test]
    fn a_pixel_format_with_shifts_beyond_its_bits_is_refused() {
        let mut bytes = PixelFormat::NATIVE.bytes();
        bytes[10] = 255;
        assert_eq!(PixelFormat::parse(&bytes), None);
        bytes[10] = 25;
        assert_eq!(PixelFormat::parse(&bytes), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic_or_wait_for_more_than_a_message(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            for mut decoder in [Decoder::new(), session()] {
                let mut buffer = BytesMut::from(&bytes[..]);
                let mut stuck = false;
                while let Ok(message) = decoder.next(&mut buffer) {
                    if message.is_none() {
                        stuck = true;
                        break;
                    }
                }
                prop_assert!(!stuck || buffer.len() <= MAX_MESSAGE);
            }
        }
    }
}
