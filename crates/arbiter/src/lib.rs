//! The seam between a device and the manager of time slices.
//!
//! What a guest draws in 3D runs in processes that the manager stops and lets go on from outside. Each device has a page of
//! memory with its manager, which no other device sees, two eventfds and a socket:
//!
//! ```text
//!  manager: Ward ── page: granted state, time stopped ──▶ ┐
//!                ── bell: look at the page ─────────────▶ │ Seat: device
//!                ◀── page: what waits, what got on ────── │
//!                ◀── bell: what was called for is so ──── ┘
//! ```
//!
//! The device listens on the socket; the manager connects, passes page and bells, and holds the connection for as long as it
//! rules. When that hangs up, for whatever reason, the device is free again. A manager that was started anew connects again,
//! with a new page.
//!
//! Neither side waits for the other, and neither believes it: each word is copied once, a wrong one counts as the harmless
//! one. A device that writes nonsense misleads its manager about itself alone; what it used is measured from outside. The manager
//! listens to a bell only while it waits for that device ([`Call`]), and a device that does not ring is seen at the next look.

#![forbid(unsafe_code)]

mod page;
mod seat;
mod socket;
#[cfg(test)]
mod tests;
mod ward;

pub use page::{Call, Grant, Name, Report};
pub use seat::Seat;
pub use ward::Ward;

/// Version of page and messages. Both sides come from one build, except while an upgrade is half done.
pub const VERSION: u32 = 1;

/// Why a device and a manager do not come together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("Cannot speak with the other side")]
    System(#[from] rustix::io::Errno),
    /// The same.
    #[error("Cannot speak with the other side")]
    Io(#[from] std::io::Error),
    /// The other side is of another build.
    #[error("The other side speaks version {0}, this one {VERSION}")]
    Version(u32),
    /// The other side said what this one does not understand.
    #[error("The other side said what makes no sense")]
    Garbage,
    /// It hung up.
    #[error("The other side is gone")]
    Gone,
    /// Memory that could be truncated under the mapping, or is of another size.
    #[error("The other side offered memory that is no page of this kind")]
    Page,
}
