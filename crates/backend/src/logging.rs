//! One line on stderr for each event. What a guest can trigger goes through the device's rate-limited macro.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging what `filter` lets through. A second call changes nothing.
pub fn start(filter: Targets) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true);
    // Fails only when a subscriber is there already, which then goes on.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}
