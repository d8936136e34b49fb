//! The project's own commands: demo, test, check, guest, bench, fuzz.

fn main() {}
