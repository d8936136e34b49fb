//! Who makes pixels. Every renderer implements [`device::Renderer`] and knows neither queue, nor socket, nor scanout.
//!
//! - [`Null`] and [`Null3d`] say yes and have no pixels: the floor of a benchmark;
//! - [`Soft`] keeps 2D images in memory of its own and copies the guest's pages into them;
//! - [`library`] is the seam to a host's library for OpenGL and Vulkan, [`virgl`] that library, and [`isolated`] a process of its
//!   own around it;
//! - `Late` (feature `late`, for tests) puts off what another renderer answers.

#![deny(unsafe_code)]

pub mod isolated;
#[cfg(feature = "late")]
mod late;
pub mod library;
mod null;
mod soft;
pub mod virgl;

#[cfg(feature = "late")]
pub use late::{Late, Mood};
pub use null::{Null, Null3d};
pub use soft::{SHARED_IMAGES, Soft};
