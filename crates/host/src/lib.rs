//! The machine's facts and verbs: GPUs, processes and what they used, stopping them, control groups.

pub mod cgroup;
pub mod clocks;
pub mod freezer;
pub mod gpus;
pub mod memory;
pub mod processes;
