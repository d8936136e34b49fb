//! Progress lines with the time since the program started.

use std::fmt;
use std::io::Write;
use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Starts the clock; without this it starts at the first line.
pub fn start() {
    LazyLock::force(&START);
}

/// Prints one line to standard error, also from inside a test whose output is captured.
pub fn say(line: impl fmt::Display) {
    let seconds = START.elapsed().as_secs_f32();
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "[{seconds:7.1} s] {line}");
}
