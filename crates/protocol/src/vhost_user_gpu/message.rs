//! What a device says to the VMM.

use super::{CURSOR_BYTES, FLAG_REPLY, HEADER_SIZE, Header, Request, SideError, UPDATE_PREFIX_SIZE, word};
use crate::value::{Rect, ScanoutId};

/// Where a cursor's upper left pixel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// On which head.
    pub scanout: ScanoutId,
    /// Column; a negative one wraps.
    pub x: u32,
    /// Row; a negative one wraps.
    pub y: u32,
}

/// A cursor's picture and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor<'a> {
    /// Where it is.
    pub position: Position,
    /// Column of the hot spot within the picture.
    pub hot_x: u32,
    /// Row of the hot spot within the picture.
    pub hot_y: u32,
    /// 64 times 64 pixels of a8r8g8b8.
    pub image: &'a [u8; CURSOR_BYTES],
}

/// A dma-buf that a head shows; the fd comes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmabufScanout {
    /// The head.
    pub scanout: ScanoutId,
    /// The part of the buffer that is shown; empty switches the head off.
    pub rect: Rect,
    /// Width of the buffer in pixels.
    pub width: u32,
    /// Height of the buffer in pixels.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// `VIRTIO_GPU_RESOURCE_FLAG_Y_0_TOP` or nothing.
    pub flags: u32,
    /// `DRM_FORMAT_*`.
    pub fourcc: u32,
}

/// What a device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Which extensions are there? Answered.
    GetProtocolFeatures,
    /// Those are used.
    SetProtocolFeatures(u64),
    /// Which heads are there? Answered.
    GetDisplayInfo,
    /// A head's EDID? Answered, but never for a head that the VMM does not have.
    GetEdid(ScanoutId),
    /// The cursor moved.
    CursorPosition(Position),
    /// The cursor is hidden.
    CursorHide(Position),
    /// The cursor has another picture.
    CursorUpdate(Cursor<'a>),
    /// A head has another size; zero switches it off. An UPDATE follows, or the VMM shows nothing.
    Scanout(ScanoutId, u32, u32),
    /// Pixels of a head, x8r8g8b8 in the machine's order, rows without gaps.
    Update(ScanoutId, Rect, &'a [u8]),
    /// A head shows a dma-buf.
    DmabufScanout(DmabufScanout),
    /// Pixels of a head's dma-buf changed. Answered.
    DmabufUpdate(ScanoutId, Rect),
    /// A head shows a dma-buf with a modifier.
    DmabufScanout2(DmabufScanout, u64),
}

/// What stands before the pixels of an UPDATE, for those who send the pixels from where they are. `None`: so many pixels
/// that the size does not fit.
pub fn update_prefix(scanout: ScanoutId, rect: Rect) -> Option<[u8; UPDATE_PREFIX_SIZE]> {
    let pixels = u64::from(rect.width) * u64::from(rect.height);
    let size = u32::try_from(pixels.checked_mul(4)?.checked_add(20)?).ok()?;
    let mut bytes = [0; UPDATE_PREFIX_SIZE];
    bytes[..HEADER_SIZE].copy_from_slice(&Header { request: Request::UPDATE, flags: 0, size }.encode());
    let words = [scanout.0, rect.x, rect.y, rect.width, rect.height];
    for (place, word) in bytes[HEADER_SIZE..].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    Some(bytes)
}

impl<'a> Message<'a> {
    /// What it is about.
    pub fn request(&self) -> Request {
        match self {
            Message::GetProtocolFeatures => Request::GET_PROTOCOL_FEATURES,
            Message::SetProtocolFeatures(_) => Request::SET_PROTOCOL_FEATURES,
            Message::GetDisplayInfo => Request::GET_DISPLAY_INFO,
            Message::GetEdid(_) => Request::GET_EDID,
            Message::CursorPosition(_) => Request::CURSOR_POS,
            Message::CursorHide(_) => Request::CURSOR_POS_HIDE,
            Message::CursorUpdate(_) => Request::CURSOR_UPDATE,
            Message::Scanout(..) => Request::SCANOUT,
            Message::Update(..) => Request::UPDATE,
            Message::DmabufScanout(_) => Request::DMABUF_SCANOUT,
            Message::DmabufUpdate(..) => Request::DMABUF_UPDATE,
            Message::DmabufScanout2(..) => Request::DMABUF_SCANOUT2,
        }
    }

    /// Appends the message, header and all. The pixels of an UPDATE are as many as its rectangle has.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_SIZE]);
        let position = |position: &Position| [position.scanout.0, position.x, position.y];
        match self {
            Message::GetProtocolFeatures | Message::GetDisplayInfo => {}
            Message::SetProtocolFeatures(features) => out.extend_from_slice(&features.to_ne_bytes()),
            Message::GetEdid(scanout) => words(out, &[scanout.0]),
            Message::CursorPosition(place) | Message::CursorHide(place) => words(out, &position(place)),
            Message::CursorUpdate(cursor) => {
                words(out, &position(&cursor.position));
                words(out, &[cursor.hot_x, cursor.hot_y]);
                out.extend_from_slice(cursor.image);
            }
            Message::Scanout(scanout, width, height) => words(out, &[scanout.0, *width, *height]),
            Message::Update(scanout, rect, pixels) => {
                words(out, &[scanout.0, rect.x, rect.y, rect.width, rect.height]);
                out.extend_from_slice(pixels);
            }
            Message::DmabufScanout(dmabuf) => dmabuf.encode(out),
            Message::DmabufUpdate(scanout, rect) => {
                words(out, &[scanout.0, rect.x, rect.y, rect.width, rect.height]);
            }
            Message::DmabufScanout2(dmabuf, modifier) => {
                dmabuf.encode(out);
                out.extend_from_slice(&modifier.to_ne_bytes());
            }
        }
        let size = (out.len() - start - HEADER_SIZE) as u32;
        out[start..start + HEADER_SIZE].copy_from_slice(&Header { request: self.request(), flags: 0, size }.encode());
    }

    /// The message with that header and payload.
    pub fn decode(header: &Header, payload: &'a [u8]) -> Result<Self, SideError> {
        let Header { request, flags, size } = *header;
        let wrong_size = SideError::Size(request, size);
        let exactly = |bytes: usize| if payload.len() == bytes { Ok(()) } else { Err(wrong_size) };
        let at = |index: usize| word(payload, index * 4);
        let long = |at: usize| payload.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_ne_bytes(*bytes));
        let position = || Position { scanout: ScanoutId(at(0)), x: at(1), y: at(2) };
        let rect = || Rect::new(at(1), at(2), at(3), at(4));
        if flags & FLAG_REPLY != 0 {
            return Err(SideError::Unknown(request, flags));
        }
        Ok(match request {
            Request::GET_PROTOCOL_FEATURES => exactly(0).map(|()| Message::GetProtocolFeatures)?,
            Request::SET_PROTOCOL_FEATURES => {
                exactly(8)?;
                Message::SetProtocolFeatures(long(0).ok_or(wrong_size)?)
            }
            Request::GET_DISPLAY_INFO => exactly(0).map(|()| Message::GetDisplayInfo)?,
            Request::GET_EDID => exactly(4).map(|()| Message::GetEdid(ScanoutId(at(0))))?,
            Request::CURSOR_POS => exactly(12).map(|()| Message::CursorPosition(position()))?,
            Request::CURSOR_POS_HIDE => exactly(12).map(|()| Message::CursorHide(position()))?,
            Request::CURSOR_UPDATE => {
                exactly(20 + CURSOR_BYTES)?;
                let image = payload[20..].first_chunk().ok_or(wrong_size)?;
                Message::CursorUpdate(Cursor { position: position(), hot_x: at(3), hot_y: at(4), image })
            }
            Request::SCANOUT => exactly(12).map(|()| Message::Scanout(ScanoutId(at(0)), at(1), at(2)))?,
            Request::UPDATE => {
                let pixels = payload.get(20..).ok_or(wrong_size)?;
                if pixels.len() as u64 != (u64::from(at(3)) * u64::from(at(4))).saturating_mul(4) {
                    return Err(wrong_size);
                }
                Message::Update(ScanoutId(at(0)), rect(), pixels)
            }
            Request::DMABUF_SCANOUT => exactly(40).map(|()| Message::DmabufScanout(DmabufScanout::decode(payload)))?,
            Request::DMABUF_UPDATE => exactly(20).map(|()| Message::DmabufUpdate(ScanoutId(at(0)), rect()))?,
            Request::DMABUF_SCANOUT2 => {
                exactly(48)?;
                Message::DmabufScanout2(DmabufScanout::decode(payload), long(40).ok_or(wrong_size)?)
            }
            _ => return Err(SideError::Unknown(request, flags)),
        })
    }
}

impl DmabufScanout {
    fn encode(&self, out: &mut Vec<u8>) {
        let Rect { x, y, width, height } = self.rect;
        words(
            out,
            &[self.scanout.0, x, y, width, height, self.width, self.height, self.stride, self.flags, self.fourcc],
        );
    }

    fn decode(payload: &[u8]) -> Self {
        let at = |index: usize| word(payload, index * 4);
        Self {
            scanout: ScanoutId(at(0)),
            rect: Rect::new(at(1), at(2), at(3), at(4)),
            width: at(5),
            height: at(6),
            stride: at(7),
            flags: at(8),
            fourcc: at(9),
        }
    }
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_ne_bytes());
    }
}
