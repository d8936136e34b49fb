//! The machine's facts and verbs: GPUs, processes and what they used, stopping them, control groups.

pub mod gpus;
