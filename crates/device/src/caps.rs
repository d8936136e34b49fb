//! Caps on everything that a guest chooses, each with the attack it stops. Over a cap a guest gets an error, never more.

/// Live resources: a guest that creates for ever would fill our tables (CVE-2016-7994 and its kin).
pub const RESOURCES: usize = 1 << 16;

/// Entries of one backing: 16 bytes each from the guest, 24 of ours; at 4 KiB a page enough for 4 GiB.
pub const BACKING_ENTRIES: usize = 1 << 20;

/// Entries of all backings together: a thousand resources with a million entries each would take 40 GiB.
pub const BACKING_ENTRIES_TOTAL: usize = 1 << 22;

/// Device-readable bytes of one request; the largest is an ATTACH_BACKING with all entries it may have.
pub const REQUEST_BYTES: usize = 16 * BACKING_ENTRIES + 4096;

/// Width and height of an image: what EDID and every format's stride can express, and no display server trusts more
/// (CVE-2017-2633).
pub const IMAGE_SIZE: u32 = 16384;

/// Width and height of a cursor (virtio 1.3, section 5.7.6.10); a peer sized its buffer by the resource instead.
pub const CURSOR_SIZE: u32 = 64;

/// Requests waiting for a renderer or a display; more than all rings can hold.
pub const PARKED: usize = 4096;

/// What a resource costs besides its pixels, in bytes: creating empty ones is not free.
pub const RESOURCE_COST: u64 = 256;
