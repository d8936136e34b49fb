//! Who makes pixels. Every renderer implements [`device::Renderer`] and knows neither queue, nor socket, nor scanout.
//!
//! - [`Null`] says yes and has no pixels: the floor of a benchmark;
//! - [`Soft`] keeps 2D images in memory of its own and copies the guest's pages into them;
//! - `Late` (feature `late`, for tests) puts off what another renderer answers.

#![forbid(unsafe_code)]

#[cfg(feature = "late")]
mod late;
mod null;
mod soft;

#[cfg(feature = "late")]
pub use late::{Late, Mood};
pub use null::Null;
pub use soft::{SHARED_IMAGES, Soft};
