//! One GPU, many virtual machines: the command line.

fn main() {}
