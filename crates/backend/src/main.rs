//! The data plane of one vGPU: serves one virtio-gpu to one VMM.

mod args;
mod config;
mod control;
mod inherited;
mod launcher;
mod logging;
mod preflight;
mod rights;
mod sandbox;
mod values;
mod vgpu;

fn main() {}
