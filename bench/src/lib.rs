//! The cost of each abstraction, and of the peers.
//!
//! [`frontend`] is a vhost-user front-end that plays the VMM and the guest's driver; tests of the device use it too.
//! The rest measures daemons with it: each [`workload`] starts a [`daemon`], works it and times it.

pub mod console;
pub mod daemon;
pub mod draw;
pub mod error;
pub mod frontend;
pub mod limits;
pub mod manager;
pub mod page;
pub mod process;
pub mod qemu;
pub mod results;
pub mod rfb;
pub mod run;
pub mod shares;
pub mod table;
pub mod three_d;
pub mod timing;
pub mod viewer;
pub mod workload;
