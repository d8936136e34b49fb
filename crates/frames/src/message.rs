//! The messages. Encoded by postcard, one for each datagram; `Hello` stays the first variant of both for ever.

use serde::{Deserialize, Serialize};

use crate::{Damage, Geometry, MAX_CURSOR, Rect};

/// First word of `Hello`.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"BSfr");

/// Longest message: a cursor with its pixels, and room for the words.
pub(crate) const MAX_MESSAGE: usize = (MAX_CURSOR * MAX_CURSOR) as usize * 4 + 512;

/// Device to viewer. `Buffer` carries an fd, `Cursor` is followed by its pixels.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToViewer<'a> {
    Hello {
        magic: u32,
        version: u16,
        nonce: u64,
        heads: u8,
        name: &'a str,
    },
    Head {
        head: u8,
        layout: ScreenLayout,
    },
    Buffer {
        id: u64,
        size: u64,
    },
    Forget {
        id: u64,
    },
    Show {
        head: u8,
        id: u64,
        geometry: Geometry,
    },
    Blank {
        head: u8,
    },
    Cursor {
        head: u8,
        shape: CursorShape,
    },
    CursorHide {
        head: u8,
    },
    CursorMove {
        head: u8,
        x: i32,
        y: i32,
    },
    /// Ends an update and spends the credit.
    Frame {
        head: u8,
        damage: Damage,
    },
}

/// Viewer to device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToDevice {
    Hello {
        magic: u32,
        version: u16,
        nonce: u64,
    },
    /// One credit for a head: tell me the next news (`now`: even if there are none; `pointer`: also when only the pointer moved).
    Ready {
        head: u8,
        now: bool,
        pointer: bool,
    },
    Resize(ModeRequest),
    Close,
}

/// A head on the desktop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenLayout {
    /// A monitor is connected.
    pub enabled: bool,
    /// Where it is, and the size it asked the guest for.
    pub rect: Rect,
}

/// Size and hot spot of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CursorShape {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) hot_x: u32,
    pub(crate) hot_y: u32,
}

impl CursorShape {
    pub(crate) fn bytes(&self) -> Option<usize> {
        let sane = |length| (1..=MAX_CURSOR).contains(&length);
        (sane(self.width) && sane(self.height)).then(|| (self.width * self.height * 4) as usize)
    }
}

/// A cursor's picture: B8G8R8A8 bytes with premultiplied alpha, as virtio-gpu has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Width, at most [`MAX_CURSOR`].
    pub width: u32,
    /// Height, at most [`MAX_CURSOR`].
    pub height: u32,
    /// Column of the pixel that points.
    pub hot_x: u32,
    /// Row of the pixel that points.
    pub hot_y: u32,
    /// `width * height * 4` bytes.
    pub pixels: Vec<u8>,
}

impl Cursor {
    pub(crate) fn shape(&self) -> CursorShape {
        CursorShape { width: self.width, height: self.height, hot_x: self.hot_x, hot_y: self.hot_y }
    }
}

/// A viewer's wish for another size of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeRequest {
    /// The head.
    pub head: u8,
    /// Wished width.
    pub width: u32,
    /// Wished height.
    pub height: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_impossible_size_has_no_bytes_and_no_panic() {
        let shape = |width, height| CursorShape { width, height, hot_x: 0, hot_y: 0 };
        for (width, height) in
            [(0, 1), (1, 0), (MAX_CURSOR + 1, 1), (u32::MAX, 2), (1 << 31, 1 << 31), (u32::MAX, u32::MAX)]
        {
            assert_eq!(shape(width, height).bytes(), None, "{width}x{height}");
        }
        assert_eq!(shape(MAX_CURSOR, 1).bytes(), Some(MAX_CURSOR as usize * 4));
    }

    #[test]
    fn the_first_bytes_of_hello_never_change() {
        let mut bytes = [0; MAX_MESSAGE];
        let hello = postcard::to_slice(&ToDevice::Hello { magic: MAGIC, version: 1, nonce: 0 }, &mut bytes).unwrap();
        assert_eq!(hello, [0, 0xc2, 0xa6, 0x99, 0x93, 0x07, 1, 0]);
        let hello = ToViewer::Hello { magic: MAGIC, version: 1, nonce: 0, heads: 2, name: "vm" };
        let hello = postcard::to_slice(&hello, &mut bytes).unwrap();
        assert_eq!(hello, [0, 0xc2, 0xa6, 0x99, 0x93, 0x07, 1, 0, 2, 2, b'v', b'm']);
    }
}
