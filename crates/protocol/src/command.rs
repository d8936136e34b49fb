//! What a guest asks: bytes become a [`Header`] and a [`Command`] (virtio 1.3, sections 5.7.6.7 to 5.7.6.10).

use thiserror::Error;

use crate::three_d::{Box3d, Resource3d, Transfer3d};
use crate::value::{ContextId, Fence, Format, MemEntry, Rect, ResourceId, ScanoutId};
use crate::wire::{FLAG_FENCE, FLAG_RING_IDX, HEADER_SIZE, Reader, kind};

/// `virtio_gpu_ctrl_hdr` as a request carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The request's type, known or not.
    pub kind: u32,
    /// `VIRTIO_GPU_FLAG_*`, known or not.
    pub flags: u32,
    /// The guest's fence number; means something only with `VIRTIO_GPU_FLAG_FENCE`.
    pub fence_id: u64,
    /// The context that the request names.
    pub ctx_id: u32,
    /// The ring within the context; means something only with `VIRTIO_GPU_FLAG_INFO_RING_IDX`.
    pub ring_idx: u8,
}

impl Header {
    /// Size on the wire in bytes.
    pub const SIZE: usize = HEADER_SIZE;

    /// The fence that the guest wants back, if any.
    pub fn fence(&self) -> Option<Fence> {
        (self.flags & FLAG_FENCE != 0).then(|| Fence {
            id: self.fence_id,
            ctx: ContextId(self.ctx_id),
            ring: (self.flags & FLAG_RING_IDX != 0).then_some(self.ring_idx),
        })
    }

    /// The header that `bytes` begin with, if they are long enough.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        // Their length is looked at once, not for each field.
        Self::read(&mut Reader(bytes.first_chunk::<{ Self::SIZE }>()?))
    }

    #[inline]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = reader.u32()?;
        let flags = reader.u32()?;
        let fence_id = reader.u64()?;
        let ctx_id = reader.u32()?;
        let [ring_idx, _, _, _] = reader.array()?;
        Some(Self { kind, flags, fence_id, ctx_id, ring_idx })
    }
}

/// Where the upper left pixel of a pointer's picture is, in pixels of its head (`virtio_gpu_cursor_pos`): the specification
/// does not say, and drivers and QEMU have it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorPosition {
    /// The head.
    pub scanout: ScanoutId,
    /// Column; a pointer partly left of its head has wrapped, as guests send it.
    pub x: u32,
    /// Row.
    pub y: u32,
}

/// `virtio_gpu_set_scanout_blob`: how a head reads pixels from a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanoutBlob {
    /// The part of the image that the head shows.
    pub rect: Rect,
    /// The head.
    pub scanout: ScanoutId,
    /// The blob; 0 switches the head off.
    pub resource: ResourceId,
    /// Width of the image in pixels.
    pub width: u32,
    /// Height of the image in pixels.
    pub height: u32,
    /// Order of a pixel's bytes.
    pub format: Format,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes before the first row.
    pub offset: u32,
}

/// `virtio_gpu_resource_create_blob`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBlob {
    /// The guest's name for it.
    pub resource: ResourceId,
    /// `VIRTIO_GPU_BLOB_MEM_*`.
    pub blob_mem: u32,
    /// `VIRTIO_GPU_BLOB_FLAG_*`.
    pub blob_flags: u32,
    /// The guest's name for what the context made.
    pub blob_id: u64,
    /// Size in bytes.
    pub size: u64,
    /// The guest's pages, where it backs the blob.
    pub entries: Vec<MemEntry>,
}

/// A request of the control queue or the cursor queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are the specification's, section 5.7.6.8.
pub enum Command {
    GetDisplayInfo,
    GetEdid { scanout: ScanoutId },
    ResourceCreate2d { resource: ResourceId, format: Format, width: u32, height: u32 },
    ResourceUnref { resource: ResourceId },
    SetScanout { rect: Rect, scanout: ScanoutId, resource: ResourceId },
    ResourceFlush { rect: Rect, resource: ResourceId },
    TransferToHost2d { rect: Rect, offset: u64, resource: ResourceId },
    ResourceAttachBacking { resource: ResourceId, entries: Vec<MemEntry> },
    ResourceDetachBacking { resource: ResourceId },
    GetCapsetInfo { index: u32 },
    GetCapset { id: u32, version: u32 },
    ResourceAssignUuid { resource: ResourceId },
    ResourceCreateBlob(CreateBlob),
    SetScanoutBlob(ScanoutBlob),
    UpdateCursor { position: CursorPosition, resource: ResourceId, hot_x: u32, hot_y: u32 },
    MoveCursor { position: CursorPosition },
    CtxCreate { context_init: u32, name: Vec<u8> },
    CtxDestroy,
    CtxAttachResource { resource: ResourceId },
    CtxDetachResource { resource: ResourceId },
    ResourceCreate3d { resource: ResourceId, desc: Resource3d },
    TransferToHost3d(Transfer3d),
    TransferFromHost3d(Transfer3d),
    Submit3d { bytes: Vec<u8> },
    ResourceMapBlob { resource: ResourceId, offset: u64 },
    ResourceUnmapBlob { resource: ResourceId },
}

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not even a header.
    #[error("Request of {0} bytes has no header")]
    NoHeader(usize),
    /// The request's type says more bytes than came.
    #[error("Request {kind:#06x} is cut short")]
    Short {
        /// The request's type.
        kind: u32,
    },
    /// A type that this device does not serve.
    #[error("Request {0:#06x} is unknown")]
    UnknownKind(u32),
    /// A format that the specification does not name.
    #[error("Format {0} is unknown")]
    UnknownFormat(u32),
}

impl Command {
    /// Reads the header, then the command. The header comes back even when the command is bad, because the error
    /// reply carries its fence.
    pub fn decode(bytes: &[u8]) -> (Header, Result<Command, DecodeError>) {
        let mut reader = Reader(bytes);
        match Header::read(&mut reader) {
            Some(header) => (header, decode_body(header.kind, reader)),
            None => (Header::default(), Err(DecodeError::NoHeader(bytes.len()))),
        }
    }

    /// Whether it belongs on the cursor queue.
    pub fn is_cursor(&self) -> bool {
        matches!(self, Command::UpdateCursor { .. } | Command::MoveCursor { .. })
    }

    /// The resource that the command names, if it names one.
    pub fn resource(&self) -> Option<ResourceId> {
        match self {
            Command::ResourceCreate2d { resource, .. }
            | Command::ResourceUnref { resource }
            | Command::SetScanout { resource, .. }
            | Command::ResourceFlush { resource, .. }
            | Command::TransferToHost2d { resource, .. }
            | Command::ResourceAttachBacking { resource, .. }
            | Command::ResourceDetachBacking { resource }
            | Command::ResourceAssignUuid { resource }
            | Command::ResourceCreateBlob(CreateBlob { resource, .. })
            | Command::SetScanoutBlob(ScanoutBlob { resource, .. })
            | Command::UpdateCursor { resource, .. }
            | Command::CtxAttachResource { resource }
            | Command::CtxDetachResource { resource }
            | Command::ResourceCreate3d { resource, .. }
            | Command::TransferToHost3d(Transfer3d { resource, .. })
            | Command::TransferFromHost3d(Transfer3d { resource, .. })
            | Command::ResourceMapBlob { resource, .. }
            | Command::ResourceUnmapBlob { resource } => (resource.0 != 0).then_some(*resource),
            Command::GetDisplayInfo
            | Command::GetEdid { .. }
            | Command::GetCapsetInfo { .. }
            | Command::GetCapset { .. }
            | Command::MoveCursor { .. }
            | Command::CtxCreate { .. }
            | Command::CtxDestroy
            | Command::Submit3d { .. } => None,
        }
    }
}

fn decode_body(kind: u32, mut reader: Reader<'_>) -> Result<Command, DecodeError> {
    let body = match kind {
        kind::GET_DISPLAY_INFO => Some(Command::GetDisplayInfo),
        kind::GET_EDID => reader.scanout().map(|scanout| Command::GetEdid { scanout }),
        kind::RESOURCE_CREATE_2D => return create_2d(&mut reader).ok_or(DecodeError::Short { kind })?,
        kind::RESOURCE_UNREF => reader.resource().map(|resource| Command::ResourceUnref { resource }),
        kind::SET_SCANOUT => set_scanout(&mut reader),
        kind::RESOURCE_FLUSH => flush(&mut reader),
        kind::TRANSFER_TO_HOST_2D => transfer_to_host_2d(&mut reader),
        kind::RESOURCE_ATTACH_BACKING => attach_backing(&mut reader),
        kind::RESOURCE_DETACH_BACKING => reader.resource().map(|resource| Command::ResourceDetachBacking { resource }),
        kind::GET_CAPSET_INFO => reader.index().map(|index| Command::GetCapsetInfo { index }),
        kind::GET_CAPSET => get_capset(&mut reader),
        kind::RESOURCE_ASSIGN_UUID => reader.resource().map(|resource| Command::ResourceAssignUuid { resource }),
        kind::RESOURCE_CREATE_BLOB => create_blob(&mut reader),
        kind::SET_SCANOUT_BLOB => return set_scanout_blob(&mut reader).ok_or(DecodeError::Short { kind })?,
        kind::UPDATE_CURSOR => update_cursor(&mut reader),
        kind::MOVE_CURSOR => reader.cursor_position().map(|position| Command::MoveCursor { position }),
        kind::CTX_CREATE => ctx_create(&mut reader),
        kind::CTX_DESTROY => Some(Command::CtxDestroy),
        kind::CTX_ATTACH_RESOURCE => reader.resource().map(|resource| Command::CtxAttachResource { resource }),
        kind::CTX_DETACH_RESOURCE => reader.resource().map(|resource| Command::CtxDetachResource { resource }),
        kind::RESOURCE_CREATE_3D => create_3d(&mut reader),
        kind::TRANSFER_TO_HOST_3D => transfer_3d(&mut reader).map(Command::TransferToHost3d),
        kind::TRANSFER_FROM_HOST_3D => transfer_3d(&mut reader).map(Command::TransferFromHost3d),
        kind::SUBMIT_3D => submit_3d(&mut reader),
        kind::RESOURCE_MAP_BLOB => map_blob(&mut reader),
        kind::RESOURCE_UNMAP_BLOB => reader.resource().map(|resource| Command::ResourceUnmapBlob { resource }),
        unknown => return Err(DecodeError::UnknownKind(unknown)),
    };
    body.ok_or(DecodeError::Short { kind })
}

/// The specification's composite fields. A trailing padding word is read too: a request without it is short.
impl Reader<'_> {
    fn resource(&mut self) -> Option<ResourceId> {
        self.index().map(ResourceId)
    }

    fn scanout(&mut self) -> Option<ScanoutId> {
        self.index().map(ScanoutId)
    }

    fn index(&mut self) -> Option<u32> {
        let index = self.u32()?;
        self.u32()?;
        Some(index)
    }

    fn rect(&mut self) -> Option<Rect> {
        Some(Rect { x: self.u32()?, y: self.u32()?, width: self.u32()?, height: self.u32()? })
    }

    fn cursor_position(&mut self) -> Option<CursorPosition> {
        let position = CursorPosition { scanout: ScanoutId(self.u32()?), x: self.u32()?, y: self.u32()? };
        self.u32()?;
        Some(position)
    }

    /// `count` entries, all of which the bytes must carry before anything is allocated.
    fn entries(&mut self, count: u32) -> Option<Vec<MemEntry>> {
        const ENTRY: usize = 16;
        let bytes = self.bytes(usize::try_from(count).ok()?.checked_mul(ENTRY)?)?;
        let (entries, _) = bytes.as_chunks::<ENTRY>();
        Some(entries.iter().map(mem_entry).collect())
    }
}

fn mem_entry(bytes: &[u8; 16]) -> MemEntry {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *bytes;
    MemEntry { addr: u64::from_le_bytes([a, b, c, d, e, f, g, h]), length: u32::from_le_bytes([i, j, k, l]) }
}

fn create_2d(reader: &mut Reader<'_>) -> Option<Result<Command, DecodeError>> {
    let resource = ResourceId(reader.u32()?);
    let format = reader.u32()?;
    let width = reader.u32()?;
    let height = reader.u32()?;
    Some(
        Format::from_wire(format)
            .map(|format| Command::ResourceCreate2d { resource, format, width, height })
            .ok_or(DecodeError::UnknownFormat(format)),
    )
}

fn set_scanout(reader: &mut Reader<'_>) -> Option<Command> {
    let rect = reader.rect()?;
    let scanout = ScanoutId(reader.u32()?);
    let resource = ResourceId(reader.u32()?);
    Some(Command::SetScanout { rect, scanout, resource })
}

fn flush(reader: &mut Reader<'_>) -> Option<Command> {
    let rect = reader.rect()?;
    let resource = reader.resource()?;
    Some(Command::ResourceFlush { rect, resource })
}

fn transfer_to_host_2d(reader: &mut Reader<'_>) -> Option<Command> {
    let rect = reader.rect()?;
    let offset = reader.u64()?;
    let resource = reader.resource()?;
    Some(Command::TransferToHost2d { rect, offset, resource })
}

fn attach_backing(reader: &mut Reader<'_>) -> Option<Command> {
    let resource = ResourceId(reader.u32()?);
    let count = reader.u32()?;
    let entries = reader.entries(count)?;
    Some(Command::ResourceAttachBacking { resource, entries })
}

fn get_capset(reader: &mut Reader<'_>) -> Option<Command> {
    let id = reader.u32()?;
    let version = reader.u32()?;
    Some(Command::GetCapset { id, version })
}

fn create_blob(reader: &mut Reader<'_>) -> Option<Command> {
    let resource = ResourceId(reader.u32()?);
    let blob_mem = reader.u32()?;
    let blob_flags = reader.u32()?;
    let count = reader.u32()?;
    let blob_id = reader.u64()?;
    let size = reader.u64()?;
    let entries = reader.entries(count)?;
    Some(Command::ResourceCreateBlob(CreateBlob { resource, blob_mem, blob_flags, blob_id, size, entries }))
}

fn set_scanout_blob(reader: &mut Reader<'_>) -> Option<Result<Command, DecodeError>> {
    let rect = reader.rect()?;
    let scanout = ScanoutId(reader.u32()?);
    let resource = ResourceId(reader.u32()?);
    let width = reader.u32()?;
    let height = reader.u32()?;
    let format = reader.u32()?;
    reader.u32()?;
    let stride = reader.u32()?;
    reader.bytes(3 * size_of::<u32>())?; // Every format has one plane.
    let offset = reader.u32()?;
    reader.bytes(3 * size_of::<u32>())?;
    // A head that is switched off names no format.
    let known = Format::from_wire(format).or((resource.0 == 0).then_some(Format::B8G8R8X8));
    Some(
        known
            .map(|format| {
                Command::SetScanoutBlob(ScanoutBlob { rect, scanout, resource, width, height, format, stride, offset })
            })
            .ok_or(DecodeError::UnknownFormat(format)),
    )
}

fn update_cursor(reader: &mut Reader<'_>) -> Option<Command> {
    let position = reader.cursor_position()?;
    let resource = ResourceId(reader.u32()?);
    let hot_x = reader.u32()?;
    let hot_y = reader.u32()?;
    reader.u32()?;
    Some(Command::UpdateCursor { position, resource, hot_x, hot_y })
}

/// The room of a context's name in bytes.
const CONTEXT_NAME: usize = 64;

fn ctx_create(reader: &mut Reader<'_>) -> Option<Command> {
    let length = reader.u32()?;
    let context_init = reader.u32()?;
    let room = reader.array::<CONTEXT_NAME>()?;
    let name = room.get(..length as usize).unwrap_or(&room).to_vec();
    Some(Command::CtxCreate { context_init, name })
}

fn create_3d(reader: &mut Reader<'_>) -> Option<Command> {
    let resource = ResourceId(reader.u32()?);
    let desc = Resource3d {
        target: reader.u32()?,
        format: reader.u32()?,
        bind: reader.u32()?,
        width: reader.u32()?,
        height: reader.u32()?,
        depth: reader.u32()?,
        array_size: reader.u32()?,
        last_level: reader.u32()?,
        nr_samples: reader.u32()?,
        flags: reader.u32()?,
    };
    reader.u32()?;
    Some(Command::ResourceCreate3d { resource, desc })
}

fn transfer_3d(reader: &mut Reader<'_>) -> Option<Transfer3d> {
    let area = Box3d {
        x: reader.u32()?,
        y: reader.u32()?,
        z: reader.u32()?,
        width: reader.u32()?,
        height: reader.u32()?,
        depth: reader.u32()?,
    };
    let offset = reader.u64()?;
    let resource = ResourceId(reader.u32()?);
    Some(Transfer3d {
        area,
        offset,
        resource,
        level: reader.u32()?,
        stride: reader.u32()?,
        layer_stride: reader.u32()?,
    })
}

/// As many bytes as the command says it has; drivers pad the request.
fn submit_3d(reader: &mut Reader<'_>) -> Option<Command> {
    let size = reader.index()?;
    let bytes = reader.bytes(usize::try_from(size).ok()?)?.to_vec();
    Some(Command::Submit3d { bytes })
}

fn map_blob(reader: &mut Reader<'_>) -> Option<Command> {
    let resource = reader.resource()?;
    let offset = reader.u64()?;
    Some(Command::ResourceMapBlob { resource, offset })
}

#[cfg(test)]
mod tests;
