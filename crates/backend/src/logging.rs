//! One line on stderr for each event. What a guest can trigger goes through the device's rate-limited macro.

use std::backtrace::Backtrace;
use std::io::IsTerminal;

use device::guest_log;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging what `filter` lets through, and every panic with its backtrace.
pub fn start(filter: Targets) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true);
    // Fails only when a subscriber is there already, which then goes on.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
    // A panic is caught where a guest can cause one: what is left of it is this.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        guest_log!(error, "Thread {name}: {panic}\n{}", Backtrace::force_capture());
    }));
}

/// The same in a process whose lines another one passes on, which knows the time and its name.
pub fn start_inside(filter: &str) {
    let filter = filter.parse().unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let _ = tracing_subscriber::registry().with(lines.without_time().with_target(false)).with(filter).try_init();
}
