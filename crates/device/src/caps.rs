//! Caps on everything that a guest chooses, each with the attack it stops. Over a cap a guest gets an error, never more.

/// Live resources: a guest that creates for ever would fill our tables (CVE-2016-7994 and its kin).
pub const RESOURCES: usize = 1 << 16;

/// Entries of one backing, at 4 KiB a page enough for 4 GiB: one command goes through all of them. Their table is charged besides.
pub const BACKING_ENTRIES: usize = 1 << 20;

/// Device-readable bytes of one request; the largest is an ATTACH_BACKING with all entries it may have.
pub const REQUEST_BYTES: usize = 16 * BACKING_ENTRIES + 4096;

/// Width and height of an image: what EDID and every format's stride can express, and no display server trusts more
/// (CVE-2017-2633).
pub const IMAGE_SIZE: u32 = 16384;

/// Width and height of a cursor (virtio 1.3, section 5.7.6.10); a peer sized its buffer by the resource instead.
pub const CURSOR_SIZE: u32 = 64;

/// Requests waiting for a renderer or a display; more than all rings can hold.
pub const PARKED: usize = 4096;

/// Bytes of requests that wait; over it nothing more is taken from the ring of a queue. A guest that sends streams of 4 MiB to a
/// renderer that stands still would have us keep as many of them as its ring is long.
pub const WAITING_BYTES: usize = 64 << 20;

/// What a resource costs besides its pixels and its backing, in bytes: creating empty ones is not free.
pub const RESOURCE_COST: u64 = 256;

/// Contexts that exist: one costs next to nothing before its first work, and each process of a guest may have one.
pub const CONTEXTS: usize = 1024;

/// OpenGL contexts that have worked: each costs the renderer about 10 MiB and 50 ms of its only thread.
pub const GL_CONTEXTS: usize = 64;

/// Contexts of other kinds that have worked: each is a process.
pub const VK_CONTEXTS: usize = 256;

/// Pairs of a context and a resource that it may use: joining for ever would fill our tables.
pub const MEMBERS: usize = 1 << 16;

/// Images of RESOURCE_CREATE_2D that a 3D renderer has twins of: one command that opens a context makes those of all its
/// members, each with all its pixels.
pub const TWINS: usize = 256;

/// Parts of an image that its twin does not have yet: while the 3D renderer stands still, a guest may copy for ever. Over it they are
/// one part, which covers them all.
pub const STALE_PARTS: usize = 16;

/// Bytes of one command stream: it is held twice on its way to the renderer.
pub const SUBMIT_BYTES: usize = 4 << 20;

/// Depth and layers of an image of a 3D renderer: 16,384 squared times 2,048 would be charged at our expense only.
pub const IMAGE_LAYERS: u32 = 2048;

/// The last level of detail of the largest image.
pub const IMAGE_LEVELS: u32 = 15;

/// Samples of one texel.
pub const IMAGE_SAMPLES: u32 = 32;

/// Bytes of one resource of a 3D renderer, as estimated; what all may have together is the guest's memory.
pub const RENDERED_BYTES: u64 = 1 << 30;

/// Blobs that are mapped into the guest: each is a memory slot of the VMM, whose time for each grows with their number.
pub const MAPPED_BLOBS: usize = 256;
