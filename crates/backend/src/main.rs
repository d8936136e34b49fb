//! The data plane of one vGPU: serves one virtio-gpu to one VMM.

mod args;
mod config;
mod inherited;
mod logging;
mod preflight;
mod rights;
mod values;

fn main() {}
