//! What a guest and its VMM may say to a GPU, and what must come of it.

#![allow(clippy::unwrap_used)] // It is all test, also where no function says so.

mod asks;
mod boot;
mod catch_up;
mod chance;
mod chance_3d;
mod charged;
mod commands;
mod conversation;
mod failures;
mod far;
mod gates;
mod hostile;
mod machine;
mod memory;
mod news;
mod panics;
mod pause;
mod ring;
mod screen;
mod script;
mod state;
mod strict;
mod three_d;
mod three_d_hostile;
mod twins;
mod views;
mod window;
