//! Requests for contexts, their resources and blobs, as the words that a driver sends.

const FLAG_FENCE: u32 = 1;
const FLAG_RING: u32 = 2;

/// A request as words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    kind: u32,
    flags: u32,
    fence: u64,
    ctx: u32,
    ring: u8,
    body: Vec<u32>,
    room: Option<u64>,
    queue: u16,
    cut: Option<usize>,
}

/// What RESOURCE_CREATE_3D makes, in its words: target, format, bind, width, height, depth, array size, last level, samples,
/// flags.
pub type Desc = [u32; 10];
/// A picture of 16 times 16 pixels that can be shown.
pub const IMAGE: Desc = [2, 1, 2 | 1 << 18, 16, 16, 1, 1, 0, 0, 0];

/// A request of any type.
pub fn raw(kind: u32, body: &[u32]) -> Ask {
    Ask { kind, body: body.to_vec(), ..Ask::default() }
}

pub fn display_info() -> Ask {
    raw(0x100, &[])
}

pub fn create_2d(resource: u32, width: u32, height: u32) -> Ask {
    raw(0x101, &[resource, 1, width, height])
}

pub fn unref(resource: u32) -> Ask {
    raw(0x102, &[resource, 0])
}

pub fn scanout(head: u32, resource: u32, width: u32, height: u32) -> Ask {
    raw(0x103, &[0, 0, width, height, head, resource])
}

pub fn flush(resource: u32, width: u32, height: u32) -> Ask {
    raw(0x104, &[0, 0, width, height, resource, 0])
}

pub fn attach(resource: u32, at: u64, len: u32) -> Ask {
    raw(0x106, &[resource, 1, at as u32, (at >> 32) as u32, len, 0])
}

pub fn detach(resource: u32) -> Ask {
    raw(0x107, &[resource, 0])
}

pub fn capset_info(index: u32) -> Ask {
    raw(0x108, &[index, 0])
}

pub fn capset(id: u32, version: u32) -> Ask {
    raw(0x109, &[id, version])
}

/// A blob of memory `mem` that the context `ctx` makes.
pub fn blob(ctx: u32, resource: u32, mem: u32, flags: u32, size: u64) -> Ask {
    raw(0x10c, &[resource, mem, flags, 0, 0, 0, size as u32, (size >> 32) as u32]).of(ctx)
}

/// A blob that can be mapped, of the context `ctx`.
pub fn mappable(ctx: u32, resource: u32, size: u64) -> Ask {
    blob(ctx, resource, 2, 1, size)
}

/// A blob of guest memory.
pub fn guest_blob(resource: u32, at: u64, len: u32) -> Ask {
    raw(0x10c, &[resource, 1, 0, 1, 0, 0, len, 0, at as u32, (at >> 32) as u32, len, 0])
}

pub fn scanout_blob(head: u32, resource: u32, width: u32, height: u32) -> Ask {
    let rect = [0, 0, width, height];
    raw(0x10d, &[&rect[..], &[head, resource, width, height, 1, 0, width * 4, 0, 0, 0, 0, 0, 0, 0]].concat())
}

pub fn open(ctx: u32, init: u32) -> Ask {
    named(ctx, init, 0)
}

/// A context whose name is said to have `length` bytes.
pub fn named(ctx: u32, init: u32, length: u32) -> Ask {
    raw(0x200, &[&[length, init][..], &[0x6162_0a1b; 16]].concat()).of(ctx)
}

pub fn close(ctx: u32) -> Ask {
    raw(0x201, &[]).of(ctx)
}

pub fn join(ctx: u32, resource: u32) -> Ask {
    raw(0x202, &[resource, 0]).of(ctx)
}

pub fn leave(ctx: u32, resource: u32) -> Ask {
    raw(0x203, &[resource, 0]).of(ctx)
}

pub fn create_3d(resource: u32, desc: Desc) -> Ask {
    raw(0x204, &[&[resource][..], &desc, &[0]].concat())
}

/// A part of a resource: x, y, z, width, height, depth.
pub type Area = [u32; 6];

pub fn to_host(ctx: u32, resource: u32, area: Area, offset: u64, rest: [u32; 3]) -> Ask {
    transfer(0x205, ctx, resource, area, offset, rest)
}

pub fn from_host(ctx: u32, resource: u32, area: Area, offset: u64, rest: [u32; 3]) -> Ask {
    transfer(0x206, ctx, resource, area, offset, rest)
}

fn transfer(kind: u32, ctx: u32, resource: u32, area: Area, offset: u64, rest: [u32; 3]) -> Ask {
    let offset = [offset as u32, (offset >> 32) as u32, resource];
    raw(kind, &[&area[..], &offset, &rest].concat()).of(ctx)
}

pub fn submit(ctx: u32, words: &[u32]) -> Ask {
    submit_sized(ctx, words.len() as u32 * 4, words)
}

/// Commands that are said to have `size` bytes.
pub fn submit_sized(ctx: u32, size: u32, words: &[u32]) -> Ask {
    raw(0x207, &[&[size, 0][..], words].concat()).of(ctx)
}

pub fn map(resource: u32, at: u64) -> Ask {
    raw(0x208, &[resource, 0, at as u32, (at >> 32) as u32])
}

pub fn unmap(resource: u32) -> Ask {
    raw(0x209, &[resource, 0])
}

impl Ask {
    /// In a context.
    pub fn of(self, ctx: u32) -> Self {
        Self { ctx, ..self }
    }

    /// With a fence.
    pub fn fenced(self, fence: u64) -> Self {
        Self { fence, flags: self.flags | FLAG_FENCE, ..self }
    }

    /// On a timeline of its context.
    pub fn on(self, ring: u8) -> Self {
        Self { ring, flags: self.flags | FLAG_RING, ..self }
    }

    /// With room for a reply of so many bytes.
    pub fn room(self, room: u64) -> Self {
        Self { room: Some(room), ..self }
    }

    /// On the cursor queue.
    pub fn on_cursor_queue(self) -> Self {
        Self { queue: 1, ..self }
    }

    /// Only its first bytes.
    pub fn cut(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), ..self }
    }

    /// The queue it is sent on.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Room for its reply.
    pub fn room_or(&self, usual: u64) -> u64 {
        self.room.unwrap_or(usual)
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let head = [self.kind, self.flags, self.fence as u32, (self.fence >> 32) as u32, self.ctx, self.ring.into()];
        let mut bytes: Vec<u8> = head.iter().chain(&self.body).flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }
}

/// A reply's type as its name.
pub fn kind(reply: &[u8]) -> &'static str {
    let Some(kind) = reply.first_chunk().map(|kind| u32::from_le_bytes(*kind)) else { return "nothing" };
    match kind {
        0x1100 => "ok",
        0x1101 => "display_info",
        0x1102 => "capset_info",
        0x1103 => "capset",
        0x1104 => "edid",
        0x1105 => "uuid",
        0x1106 => "map_info",
        0x1200 => "unspec",
        0x1201 => "out_of_memory",
        0x1202 => "invalid_scanout",
        0x1203 => "invalid_resource",
        0x1204 => "invalid_context",
        0x1205 => "invalid_parameter",
        unknown => panic!("A reply of type {unknown:#x}"),
    }
}
