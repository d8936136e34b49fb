//! The seam between a device process and its viewer process.
//!
//! Pixels lie in memfds that cannot shrink ([`SharedImage`]); words travel on a SOCK_SEQPACKET socket pair ([`pair`]). The
//! device holds a [`DeviceEnd`], the viewer a [`ViewerEnd`]. This crate knows neither virtio nor VNC.
//!
//! **The mailbox of size one.** The device keeps what it wants to be seen as state, not as a queue. A viewer asks for news of
//! a head by `Ready`: one credit. As soon as there is news the device spends the credit: it sends what changed and ends the
//! update by one `Frame` with all the damage since the last one. A slow viewer gets the newest picture, a dead one nothing,
//! and neither ever blocks the device or makes it hold more than the state.
//!
//! **A viewer may die at any time** and another one takes over the same socket (whoever starts viewers keeps its end open).
//! A session begins with the viewer's `Hello` and a nonce; the device forgets what the last viewer knew and answers with the
//! same nonce; until then the viewer throws away what was meant for its predecessor.
//!
//! What people type and point at travels beside this, see [`input`].

#![forbid(unsafe_code)]

mod device;
mod format;
mod geometry;
mod image;
pub mod input;
mod message;
mod socket;
mod viewer;

pub use device::{Counters, DeviceEnd, DeviceEvent, ShowError};
pub use format::Format;
pub use geometry::{Damage, Geometry, Rect};
pub use image::{ImageError, SharedImage, View};
pub use input::{Input, InputCounters, InputEnd, InputError, InputEvent, InputSession, Leds, TouchPhase};
pub use message::{Cursor, ModeRequest, ScreenLayout};
pub use socket::pair;
pub use viewer::{News, Session, ViewerEnd, ViewerError};

/// Version of the messages. Both ends come from one build, except while an upgrade is half done: then each says so.
pub const VERSION: u16 = 2;

/// Heads of a device; as many as virtio-gpu has scanouts.
pub const MAX_HEADS: usize = 16;

/// Width and height of a picture. Stops a guest that makes a viewer think about a line of 2^31 pixels.
pub const MAX_DIMENSION: u32 = 16384;

/// Bytes of one shared image. Stops a peer that has us map its whole address space.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// Images that a viewer keeps mapped; the least recently shown one goes first. Stops a guest that flips through thousands.
pub const MAX_IMAGES: usize = 64;

/// Width and height of a cursor (virtio-gpu has 64x64 only), so that its pixels fit into the message.
pub const MAX_CURSOR: u32 = 64;

/// Messages taken from the viewer in one [`DeviceEnd::poll`]. Stops a viewer that floods the device.
pub const MESSAGES_PER_POLL: usize = 32;

/// Bytes of a VM's name in `Hello`.
pub const MAX_NAME: usize = 128;
