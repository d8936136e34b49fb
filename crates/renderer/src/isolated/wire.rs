//! What goes between a device and the process of a library.
//!
//! Most of it goes through memory that both have mapped: a ring of requests, a ring of events, and an arena for bytes that a
//! request has too many of. Each index grows for ever and is written by one side only. A side that is about to sleep says so,
//! looks once more, and sleeps; the other rings its bell only if it said so.
//!
//! | at | what | written by |
//! |---|---|---|
//! | 0 | requests put in (u32) | device |
//! | 64 | events taken out (u32) | device |
//! | 128 | whether the device sleeps (u32) | both |
//! | 192 | requests taken out (u32) | process |
//! | 256 | events put in (u32) | process |
//! | 320 | whether the process sleeps (u32) | both |
//! | 384 | whether the device waits for room (u32) | both |
//! | 4096 | requests, 64 bytes each | device |
//! | 69632 | events, 16 bytes each | process |
//! | 135168 | arena | device |
//!
//! What carries a file descriptor goes through a socket, always before the entry of a ring that needs it.

use device::{HostBlob, Ticket, Way};
use protocol::{Box3d, CapsetId, ContextId, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use serde::{Deserialize, Serialize};

/// Where the words are.
pub mod at {
    /// How many requests were put in.
    pub const REQUESTS_TAIL: usize = 0;
    /// How many events were taken out.
    pub const EVENTS_HEAD: usize = 64;
    /// Whether the device sleeps.
    pub const DEVICE_SLEEPS: usize = 128;
    /// How many requests were taken out.
    pub const REQUESTS_HEAD: usize = 192;
    /// How many events were put in.
    pub const EVENTS_TAIL: usize = 256;
    /// Whether the process sleeps.
    pub const CHILD_SLEEPS: usize = 320;
    /// Whether the device waits for room among the requests.
    pub const DEVICE_WAITS: usize = 384;
    /// The requests.
    pub const REQUESTS: usize = 4096;
    /// The events.
    pub const EVENTS: usize = REQUESTS + super::REQUESTS as usize * super::REQUEST_BYTES;
    /// The arena.
    pub const ARENA: usize = EVENTS + super::EVENTS as usize * super::EVENT_BYTES;
    /// The end.
    pub const END: usize = ARENA + super::ARENA_BYTES as usize;
}

/// Requests that the ring has room for.
pub const REQUESTS: u32 = 1024;
/// Size of one.
pub const REQUEST_BYTES: usize = 64;
/// Events that the ring has room for. A device never waits for more answers than these, so that a process never has to wait
/// for room.
pub const EVENTS: u32 = 4096;
/// Size of one.
pub const EVENT_BYTES: usize = 16;
/// Size of the arena.
pub const ARENA_BYTES: u32 = 4 << 20;
/// Bytes that one request may have in the arena; more go in parts.
pub const PART_BYTES: usize = 1 << 20;
/// Bytes that all parts of a request may have.
pub const PAYLOAD_BYTES: usize = 64 << 20;

/// A part of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Where it starts, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// What a device asks for. Those that have a payload have a [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is the method of `Library` of the same name, unless it says otherwise.
pub enum Request {
    /// The payload is the name.
    Open {
        context: ContextId,
        capset: CapsetId,
        name: Span,
    },
    Close {
        context: ContextId,
    },
    Join {
        context: ContextId,
        resource: ResourceId,
    },
    Leave {
        context: ContextId,
        resource: ResourceId,
    },
    /// The payload is the commands.
    Submit {
        context: ContextId,
        commands: Span,
    },
    Fence {
        context: ContextId,
        ring: u8,
    },
    Create {
        resource: ResourceId,
        desc: Resource3d,
    },
    CreateBlob {
        context: ContextId,
        blob: HostBlob,
    },
    Destroy {
        resource: ResourceId,
    },
    /// The payload is [`PieceWords`].
    Attach {
        resource: ResourceId,
        pieces: Span,
    },
    Detach {
        resource: ResourceId,
    },
    Transfer {
        context: ContextId,
        way: Way,
        transfer: Transfer3d,
    },
    Read {
        resource: ResourceId,
        rect: Rect,
        image: u32,
        stride: u32,
    },
    Write {
        resource: ResourceId,
        rect: Rect,
        image: u32,
        stride: u32,
    },
    /// The beginning of the next request's payload.
    Part {
        bytes: Span,
    },
    /// A mapping of guest memory is not used in what follows.
    DropRegion {
        number: u32,
    },
    /// An image is not used in what follows.
    DropImage {
        number: u32,
    },
    /// There is nothing more to do.
    Quit,
}

impl Request {
    /// As logs name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "CTX_CREATE",
            Self::Close { .. } => "CTX_DESTROY",
            Self::Join { .. } => "CTX_ATTACH_RESOURCE",
            Self::Leave { .. } => "CTX_DETACH_RESOURCE",
            Self::Submit { .. } => "SUBMIT_3D",
            Self::Fence { .. } => "a fence",
            Self::Create { .. } => "RESOURCE_CREATE_3D",
            Self::CreateBlob { .. } => "RESOURCE_CREATE_BLOB",
            Self::Destroy { .. } => "RESOURCE_UNREF",
            Self::Attach { .. } => "RESOURCE_ATTACH_BACKING",
            Self::Detach { .. } => "RESOURCE_DETACH_BACKING",
            Self::Transfer { way: Way::ToHost, .. } => "TRANSFER_TO_HOST_3D",
            Self::Transfer { way: Way::FromHost, .. } => "TRANSFER_FROM_HOST_3D",
            Self::Read { .. } => "RESOURCE_FLUSH",
            Self::Write { .. } => "TRANSFER_TO_HOST_2D",
            Self::Part { .. } | Self::DropRegion { .. } | Self::DropImage { .. } => "housekeeping",
            Self::Quit => "the end",
        }
    }

    /// The context it is about; none is 0.
    pub fn context(&self) -> ContextId {
        match self {
            Self::Open { context, .. }
            | Self::Close { context }
            | Self::Join { context, .. }
            | Self::Leave { context, .. }
            | Self::Submit { context, .. }
            | Self::Fence { context, .. }
            | Self::CreateBlob { context, .. }
            | Self::Transfer { context, .. } => *context,
            _ => ContextId(0),
        }
    }

    /// Where its payload is.
    pub fn payload(&self) -> Option<Span> {
        match self {
            Self::Open { name: payload, .. }
            | Self::Submit { commands: payload, .. }
            | Self::Attach { pieces: payload, .. }
            | Self::Part { bytes: payload } => Some(*payload),
            _ => None,
        }
    }

    /// The same with its payload there.
    pub fn with_payload(mut self, span: Span) -> Self {
        match &mut self {
            Self::Open { name: payload, .. }
            | Self::Submit { commands: payload, .. }
            | Self::Attach { pieces: payload, .. }
            | Self::Part { bytes: payload } => *payload = span,
            _ => {}
        }
        self
    }
}

/// No request has this ticket: it asks for no answer.
pub const UNANSWERED: Ticket = Ticket(0);

/// A request as it is in the ring: words 0 code, 1 context, 2 and 3 ticket, 4 resource, 5 a number, from 6 on what it has more.
pub type RequestWords = [u32; 16];

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn wide(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A request as words.
pub fn encode(ticket: Ticket, request: &Request) -> RequestWords {
    let mut words = [0; 16];
    words[2] = low(ticket.0);
    words[3] = high(ticket.0);
    words[1] = request.context().0;
    let span = |words: &mut RequestWords, span: &Span| {
        words[6] = span.offset;
        words[7] = span.len;
    };
    words[0] = match request {
        Request::Open { capset, name, .. } => {
            words[5] = capset.0;
            span(&mut words, name);
            1
        }
        Request::Close { .. } => 2,
        Request::Join { resource, .. } => {
            words[4] = resource.0;
            3
        }
        Request::Leave { resource, .. } => {
            words[4] = resource.0;
            4
        }
        Request::Submit { commands, .. } => {
            span(&mut words, commands);
            5
        }
        Request::Fence { ring, .. } => {
            words[5] = u32::from(*ring);
            6
        }
        Request::Create { resource, desc } => {
            words[4] = resource.0;
            let Resource3d { target, format, bind, width, height, depth, array_size, last_level, nr_samples, flags } =
                *desc;
            words[6..].copy_from_slice(&[
                target, format, bind, width, height, depth, array_size, last_level, nr_samples, flags,
            ]);
            7
        }
        Request::CreateBlob { blob, .. } => {
            words[4] = blob.resource.0;
            words[5] = blob.mem;
            words[6] = blob.flags;
            words[8..12].copy_from_slice(&[low(blob.id), high(blob.id), low(blob.size), high(blob.size)]);
            8
        }
        Request::Destroy { resource } => {
            words[4] = resource.0;
            9
        }
        Request::Attach { resource, pieces } => {
            words[4] = resource.0;
            span(&mut words, pieces);
            10
        }
        Request::Detach { resource } => {
            words[4] = resource.0;
            11
        }
        Request::Transfer { way, transfer, .. } => {
            let Transfer3d { area, offset, resource, level, stride, layer_stride } = transfer;
            words[4] = resource.0;
            words[5] = *level;
            let Box3d { x, y, z, width, height, depth } = *area;
            let offset = (low(*offset), high(*offset));
            words[6..].copy_from_slice(&[x, y, z, width, height, depth, offset.0, offset.1, *stride, *layer_stride]);
            match way {
                Way::ToHost => 12,
                Way::FromHost => 13,
            }
        }
        Request::Read { resource, rect, image, stride } => {
            words[4] = resource.0;
            words[5] = *image;
            words[6..11].copy_from_slice(&[rect.x, rect.y, rect.width, rect.height, *stride]);
            14
        }
        Request::Part { bytes } => {
            span(&mut words, bytes);
            15
        }
        Request::DropRegion { number } => {
            words[5] = *number;
            16
        }
        Request::DropImage { number } => {
            words[5] = *number;
            17
        }
        Request::Quit => 18,
        Request::Write { resource, rect, image, stride } => {
            words[4] = resource.0;
            words[5] = *image;
            words[6..11].copy_from_slice(&[rect.x, rect.y, rect.width, rect.height, *stride]);
            19
        }
    };
    words
}

/// Words as a request; `None` when they are not one.
pub fn decode(words: &RequestWords) -> Option<(Ticket, Request)> {
    let context = ContextId(words[1]);
    let resource = ResourceId(words[4]);
    let number = words[5];
    let span = Span { offset: words[6], len: words[7] };
    let request = match words[0] {
        1 => Request::Open { context, capset: CapsetId(number), name: span },
        2 => Request::Close { context },
        3 => Request::Join { context, resource },
        4 => Request::Leave { context, resource },
        5 => Request::Submit { context, commands: span },
        6 => Request::Fence { context, ring: u8::try_from(number).ok()? },
        7 => {
            let [target, format, bind, width, height, depth, array_size, last_level, nr_samples, flags] =
                *words.last_chunk()?;
            let desc =
                Resource3d { target, format, bind, width, height, depth, array_size, last_level, nr_samples, flags };
            Request::Create { resource, desc }
        }
        8 => {
            let id = wide(words[8], words[9]);
            let size = wide(words[10], words[11]);
            Request::CreateBlob { context, blob: HostBlob { resource, mem: number, flags: words[6], id, size } }
        }
        9 => Request::Destroy { resource },
        10 => Request::Attach { resource, pieces: span },
        11 => Request::Detach { resource },
        way @ (12 | 13) => {
            let [x, y, z, width, height, depth, offset_low, offset_high, stride, layer_stride] = *words.last_chunk()?;
            let area = Box3d { x, y, z, width, height, depth };
            let offset = wide(offset_low, offset_high);
            let way = if way == 12 { Way::ToHost } else { Way::FromHost };
            let transfer = Transfer3d { area, offset, resource, level: number, stride, layer_stride };
            Request::Transfer { context, way, transfer }
        }
        kind @ (14 | 19) => {
            let rect = Rect::new(words[6], words[7], words[8], words[9]);
            match kind {
                14 => Request::Read { resource, rect, image: number, stride: words[10] },
                _ => Request::Write { resource, rect, image: number, stride: words[10] },
            }
        }
        15 => Request::Part { bytes: span },
        16 => Request::DropRegion { number },
        17 => Request::DropImage { number },
        18 => Request::Quit,
        _ => return None,
    };
    Some((Ticket(wide(words[2], words[3])), request))
}

/// A piece of guest memory: the mapping's number, its length, where in the mapping it starts (low and high half).
pub type PieceWords = [u32; 4];

/// A piece as words.
pub fn encode_piece(number: u32, offset: u64, len: u32) -> PieceWords {
    [number, len, low(offset), high(offset)]
}

/// The number, where it starts and its length.
pub fn decode_piece(words: PieceWords) -> (u32, u64, u32) {
    let [number, len, offset_low, offset_high] = words;
    (number, wide(offset_low, offset_high), len)
}

/// What a process tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request is done, or it failed. A fence's request is told of only when it failed.
    Done(Result<(), ReplyError>),
    /// As [`Done`](Self::Done) without an error; memory of the blob went through the socket before.
    Exported,
    /// A fence is done.
    Retired,
}

const DONE: u64 = 1;
const EXPORTED: u64 = 2;
const RETIRED: u64 = 3;

const ERRORS: [ReplyError; 6] = [
    ReplyError::Unspec,
    ReplyError::OutOfMemory,
    ReplyError::InvalidScanoutId,
    ReplyError::InvalidResourceId,
    ReplyError::InvalidContextId,
    ReplyError::InvalidParameter,
];

/// An event as words: the ticket; what it is, and with it in the second byte which error.
pub fn encode_event(ticket: Ticket, event: Event) -> [u64; 2] {
    let word = match event {
        Event::Done(Ok(())) => DONE,
        Event::Done(Err(error)) => {
            let at = ERRORS.iter().position(|one| *one == error).unwrap_or(0);
            DONE | (at as u64 + 1) << 8
        }
        Event::Exported => EXPORTED,
        Event::Retired => RETIRED,
    };
    [ticket.0, word]
}

/// Words as an event; `None` when they are not one.
pub fn decode_event([ticket, word]: [u64; 2]) -> (Ticket, Option<Event>) {
    let error = usize::try_from(word >> 8).unwrap_or(usize::MAX);
    let event = match (word & 0xff, error) {
        (DONE, 0) => Some(Event::Done(Ok(()))),
        (DONE, error) => ERRORS.get(error - 1).map(|error| Event::Done(Err(*error))),
        (EXPORTED, 0) => Some(Event::Exported),
        (RETIRED, 0) => Some(Event::Retired),
        _ => None,
    };
    (Ticket(ticket), event)
}

/// The longest message of the socket, in bytes.
pub const MESSAGE_BYTES: usize = 2048;

/// A message from the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// The first one. With the memory, the bell of the process and the bell of the device.
    Hello,
    /// With a file of guest memory, which is to be mapped.
    Region {
        /// Its number. Never reused.
        number: u32,
        /// Where in the file it starts, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// With a memfd for pixels, which is to be mapped.
    Image {
        /// Its number. Never reused.
        number: u32,
        /// Its length in bytes.
        len: u64,
    },
}

/// A message to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromChild {
    /// The library has started.
    Found,
    /// It could not, for this reason.
    Failed(String),
    /// With memory of a blob.
    Blob {
        /// Which request it is an answer to.
        ticket: u64,
        /// `VIRTIO_GPU_MAP_CACHE_*`.
        caching: u32,
    },
}

#[cfg(test)]
mod tests;
