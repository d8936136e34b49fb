//! What the VMM answers.

use super::{FLAG_REPLY, HEADER_SIZE, Header, MAX_REPLY, Request, SideError};
use crate::command;
use crate::edid::MAX_BYTES;
use crate::reply::DisplayOne;
use crate::value::Rect;
use crate::wire::{self, Reader, kind};
use crate::{MAX_SCANOUTS, reply};

/// An answer of the VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Bits of [`super::protocol_feature`].
    ProtocolFeatures(u64),
    /// The sixteen heads.
    DisplayInfo(Vec<DisplayOne>),
    /// The EDID of the head that was asked for: a field of which only the start may be one.
    Edid(Vec<u8>),
    /// The pixels of the dma-buf may be drawn over again.
    DmabufUpdated,
}

impl Reply {
    /// Appends the answer, header and all.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_SIZE]);
        let virtio = command::Header::default();
        let request = match self {
            Reply::ProtocolFeatures(features) => {
                out.extend_from_slice(&features.to_ne_bytes());
                Request::GET_PROTOCOL_FEATURES
            }
            Reply::DisplayInfo(heads) => {
                reply::Reply::DisplayInfo(heads.clone()).encode(&virtio, out);
                Request::GET_DISPLAY_INFO
            }
            Reply::Edid(edid) => {
                reply::Reply::Edid(edid.clone()).encode(&virtio, out);
                Request::GET_EDID
            }
            Reply::DmabufUpdated => Request::DMABUF_UPDATE,
        };
        let size = (out.len() - start - HEADER_SIZE) as u32;
        out[start..start + HEADER_SIZE].copy_from_slice(&Header { request, flags: FLAG_REPLY, size }.encode());
    }

    /// The answer with that header and payload.
    pub fn decode(header: &Header, payload: &[u8]) -> Result<Self, SideError> {
        let Header { request, flags, size } = *header;
        let wrong_size = SideError::Size(request, size);
        if flags & FLAG_REPLY == 0 {
            return Err(SideError::Unknown(request, flags));
        }
        match request {
            Request::GET_PROTOCOL_FEATURES => {
                let bits = payload.try_into().map_err(|_| wrong_size)?;
                Ok(Reply::ProtocolFeatures(u64::from_ne_bytes(bits)))
            }
            Request::GET_DISPLAY_INFO => {
                let mut body = virtio_reply(request, payload, kind::OK_DISPLAY_INFO)?.ok_or(wrong_size)?;
                (0..MAX_SCANOUTS).map(|_| display_one(&mut body)).collect::<Option<_>>().map(Reply::DisplayInfo)
            }
            .ok_or(wrong_size),
            Request::GET_EDID => {
                let mut body = virtio_reply(request, payload, kind::OK_EDID)?.ok_or(wrong_size)?;
                let size = body.u32().ok_or(wrong_size)? as usize;
                body.u32().ok_or(wrong_size)?;
                body.bytes(size.min(MAX_BYTES)).map(|edid| Reply::Edid(edid.to_vec())).ok_or(wrong_size)
            }
            Request::DMABUF_UPDATE => Ok(Reply::DmabufUpdated),
            _ => Err(SideError::Unknown(request, flags)),
        }
    }
}

/// What follows the header of virtio-gpu; `None` when it is too short for one.
fn virtio_reply(request: Request, payload: &[u8], expected: u32) -> Result<Option<Reader<'_>>, SideError> {
    let mut reader = Reader(payload);
    match (reader.u32(), reader.bytes(wire::HEADER_SIZE - 4)) {
        (Some(kind), Some(_)) if kind == expected => Ok(Some(reader)),
        (Some(kind), Some(_)) => Err(SideError::Refused(request, kind)),
        _ => Ok(None),
    }
}

fn display_one(reader: &mut Reader<'_>) -> Option<DisplayOne> {
    let rect = Rect::new(reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let enabled = reader.u32()? != 0;
    reader.u32()?;
    Some(DisplayOne { rect, enabled })
}

/// Puts answers together from whatever pieces the socket hands out.
#[derive(Debug, Default)]
pub struct ReplyReader {
    pub(super) bytes: Vec<u8>,
}

impl ReplyReader {
    /// Bytes that it keeps at most: what is not yet a whole answer.
    pub const MAX_KEPT: usize = HEADER_SIZE + MAX_REPLY;

    /// Takes what came and appends the answers that are whole. After an error the stream has no meaning any more.
    pub fn push(&mut self, mut bytes: &[u8], replies: &mut Vec<Reply>) -> Result<(), SideError> {
        loop {
            let wanted = match self.header() {
                Some(header) if header.size as usize > MAX_REPLY => {
                    return Err(SideError::Size(header.request, header.size));
                }
                Some(header) => HEADER_SIZE + header.size as usize,
                None => HEADER_SIZE,
            };
            if let Some(header) = self.header()
                && self.bytes.len() == wanted
            {
                replies.push(Reply::decode(&header, &self.bytes[HEADER_SIZE..])?);
                self.bytes.clear();
                continue;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.bytes.len()));
            if taken.is_empty() {
                return Ok(());
            }
            self.bytes.extend_from_slice(taken);
            bytes = rest;
        }
    }

    fn header(&self) -> Option<Header> {
        self.bytes.first_chunk().map(Header::decode)
    }
}
