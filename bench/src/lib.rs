//! The cost of each abstraction, and of the peers.
//!
//! [`frontend`] is a vhost-user front-end that plays the VMM and the guest's driver; tests of the device use it too.

pub mod frontend;
