//! How a guest's words arrive: vhost-user, and an in-process guest for tests.
//!
//! A transport pops chains from virtqueues ([`ring`]), hands them to a [`device::VirtioDevice`] and gives them back
//! ([`engine`]). Who carries the kicks and interrupts differs: [`vhost_user`] serves a VMM over a Unix socket, [`loopback`]
//! is an in-process guest for tests and fuzzing.

pub mod chain;
pub mod engine;
#[cfg(test)]
mod fake;
pub mod interrupt;
mod kernel;
pub mod loopback;
pub mod mapped;
pub mod ring;
pub mod serve;
pub mod vfio_user;
pub mod vhost_user;
pub mod window;
pub mod worker;

pub use engine::Engine;
pub use interrupt::Interrupt;
pub use kernel::sigbus;
pub use ring::{Layout, Ring, RingError};

/// Feature bits of virtio 1.3, section 6, that the transport itself answers for.
pub mod feature {
    /// Descriptors may point at tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Each side says at which index it wants to be told.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// virtio 1.0 or newer.
    pub const VERSION_1: u64 = 1 << 32;
    /// One queue can be reset while the others run.
    pub const RING_RESET: u64 = 1 << 40;
    /// All of these.
    pub const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET;
}
