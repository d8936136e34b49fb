//! Who shows pixels: nobody, a PNG file, the VMM's own window, the viewer process, or several of them.
//!
//! A display never waits and never fails (see [`device::Display`]); what it cannot show now it shows later, and then only
//! the newest. What people do in front of a viewer comes the other way, by [`ViewerInput`].

#![deny(unsafe_code)]

mod capture;
mod gather;
mod input;
mod many;
mod none;
mod pixels;
mod vhost_user_gpu;
mod viewer;

pub use capture::Capture;
pub use input::ViewerInput;
pub use many::Many;
pub use none::NoDisplay;
pub use vhost_user_gpu::{GpuSocketSender, VhostUserGpu};
pub use viewer::Viewer;
