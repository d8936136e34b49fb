//! What we say to a client, but for the pixels.

use frames::{Leds, Rect};

use super::encodings::LEDS;
use super::pixel::{PixelFormat, table};

/// The version that we speak.
pub(crate) const VERSION: &[u8; 12] = b"RFB 003.008\n";

/// No authentication.
pub(crate) const SECURITY_NONE: u8 = 1;

/// VeNCrypt, of which we offer what needs no TLS: whoever is not on this host comes through a tunnel.
pub(crate) const SECURITY_VENCRYPT: u8 = 19;
pub(crate) const VENCRYPT_VERSION: [u8; 2] = [0, 2];
pub(crate) const VENCRYPT_PLAIN: u32 = 256;

/// Numbers of pseudo-encodings that we send.
pub(crate) const DESKTOP_SIZE: i32 = -223;
pub(crate) const EXTENDED_DESKTOP_SIZE: i32 = -308;

/// Why a client gets an ExtendedDesktopSize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeNews {
    /// The guest did it.
    Changed,
    /// The answer to this client: the wish was passed on and may come true.
    Forwarded,
    /// The answer to this client: it may not.
    Prohibited,
    /// The answer to this client: there is no such size.
    Invalid,
}

/// ServerInit.
pub(crate) fn init(width: u32, height: u32, name: &str, out: &mut Vec<u8>) {
    out.extend(dimension(width));
    out.extend(dimension(height));
    out.extend(PixelFormat::NATIVE.bytes());
    out.extend((name.len() as u32).to_be_bytes());
    out.extend(name.as_bytes());
}

/// What ends a handshake: 0 in the place of a way to authenticate, or 1 as its result, and why.
pub(crate) fn refusal(word: u32, reason: &str, out: &mut Vec<u8>) {
    out.extend(word.to_be_bytes());
    out.extend((reason.len() as u32).to_be_bytes());
    out.extend(reason.as_bytes());
}

/// A rectangle that says which lights of the guest's keyboard are on.
pub(crate) fn leds(leds: Leds, out: &mut Vec<u8>) {
    rect(Rect::default(), LEDS, out);
    out.push(u8::from(leds.scroll) | u8::from(leds.num) << 1 | u8::from(leds.caps) << 2);
}

/// The start of an update.
pub(crate) fn update(rects: usize, out: &mut Vec<u8>) {
    out.extend([0, 0]);
    out.extend((rects as u16).to_be_bytes());
}

/// The start of a rectangle.
pub(crate) fn rect(rect: Rect, encoding: i32, out: &mut Vec<u8>) {
    for number in [rect.x, rect.y, rect.width, rect.height] {
        out.extend(dimension(number));
    }
    out.extend(encoding.to_be_bytes());
}

/// A rectangle that says the size of the desktop: one screen, all of it.
pub(crate) fn extended_desktop_size(width: u32, height: u32, news: SizeNews, out: &mut Vec<u8>) {
    let (reason, status) = match news {
        SizeNews::Changed => (0, 0),
        SizeNews::Forwarded => (1, 4),
        SizeNews::Prohibited => (1, 1),
        SizeNews::Invalid => (1, 3),
    };
    rect(Rect::new(reason, status, width, height), EXTENDED_DESKTOP_SIZE, out);
    out.extend([1, 0, 0, 0]);
    out.extend([0; 8]);
    out.extend(dimension(width));
    out.extend(dimension(height));
    out.extend([0; 4]);
}

/// SetColourMapEntries with the whole table.
pub(crate) fn colour_map(out: &mut Vec<u8>) {
    out.extend([1, 0, 0, 0, 1, 0]);
    for colour in table() {
        colour.iter().for_each(|part| out.extend(part.to_be_bytes()));
    }
}

/// Sizes are bounded far below 65536 before they come here.
fn dimension(length: u32) -> [u8; 2] {
    (length as u16).to_be_bytes()
}
