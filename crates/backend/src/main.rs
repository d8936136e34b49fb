//! The data plane of one vGPU: serves one virtio-gpu to one VMM.

fn main() {}
