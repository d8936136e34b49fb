//! What people may do to an input device, what its guest may do meanwhile, and what the guest must see.

#![allow(clippy::unwrap_used)] // It is all test, also where no function says so.

mod config;
mod conversation;
mod flow;
mod frames;
mod kernel;
mod life;
mod machine;
mod property;
mod touch;
