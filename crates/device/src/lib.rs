//! What a guest sees: the GPU with its resources, scanouts, cursor and fences; and the keyboard, pointer and touch screen.
//!
//! This crate owns the seams: [`VirtioDevice`] towards a transport, [`Renderer`] towards who makes pixels, [`Display`]
//! towards who shows them. A device never sees a queue, an eventfd or a socket.

#![forbid(unsafe_code)]

pub mod backing;
pub mod caps;
pub mod display;
pub mod gpu;
pub mod input;
pub mod log;
pub mod memory;
pub mod meter;
pub mod render;
pub mod shared;
pub mod stats;
pub mod three_d;
pub mod vga;
pub mod virtio;

pub use backing::{Backing, Pages};
pub use display::{Cursor, Display, DisplayEvent, Frame, Head, Modes, Pixels, Shared};
pub use gpu::{Capture, Execution, Gpu, GpuOptions, Guard};
pub use input::{Desktop, Input, InputKind, InputOptions, InputSource, Leds, SourceEvent, TouchPhase};
pub use memory::{Memory, MemoryError, Region};
pub use meter::Meter;
pub use render::{Progress, Rendered, Renderer, ResourceDesc, Transfer};
pub use shared::SharedImage;
pub use stats::{Incidents, InputStats, Stats};
pub use three_d::{Capset, HostBlob, ThreeD, Way};
pub use vga::{Framebuffer, Vga, VgaOptions, VgaPort};
pub use virtio::{
    Answer, Completion, ConfigSpace, Front, HostMapping, MapRequest, Outbox, Request, Start, Ticket, UnmapRequest,
    VirtioDevice, WindowRequest,
};
