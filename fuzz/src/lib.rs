//! What the fuzz targets share: a machine around the device (the one of the device's own tests), bytes as steps, and
//! seeds.
//!
//! A target plants its seeds in its corpus when it starts, so that the corpus always begins with every hostile request
//! that the tests know and no opaque file has to be kept.

#[allow(dead_code)]
#[path = "../../crates/device/tests/gpu/asks.rs"]
pub mod asks;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../crates/device/tests/gpu/conversation.rs"]
mod conversation;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../crates/device/tests/gpu/machine.rs"]
pub mod machine;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../crates/device/tests/gpu/ring.rs"]
mod ring;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../crates/device/tests/gpu/screen.rs"]
pub mod screen;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../crates/device/tests/gpu/script.rs"]
pub mod script;
#[allow(dead_code)]
#[path = "../../crates/device/tests/gpu/strict.rs"]
pub mod strict;
#[allow(dead_code)]
#[path = "../../crates/device/tests/gpu/window.rs"]
pub mod window;

pub mod bytes;
pub mod cards;
pub mod input;
pub mod isolated;
pub mod rings;
pub mod seeds;
pub mod session;
pub mod steps;
pub mod three_d;
pub mod typing;
