//! The life cycle, in a world of values: files, records and devices that can be cut off anywhere.
#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod crashes;
mod properties;
mod states;
mod world;
