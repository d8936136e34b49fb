//! The life cycle, in a world of values: files, records and devices that can be cut off anywhere.

mod crashes;
mod properties;
mod states;
mod world;
