//! What takes too long for every change.

use anyhow::{Result, bail};
use clap::Args;
use tests::workspace;

use crate::step;

/// What to do for long.
#[derive(Args)]
pub struct Options {
    /// Kill the process that renders for a guest again and again, at any moment of its work
    #[arg(long)]
    renderer: bool,
    /// So many times
    #[arg(long, default_value_t = 1000)]
    times: u32,
}

/// Does it.
pub fn run(options: &Options) -> Result<()> {
    if !options.renderer {
        bail!("Say what to do for long: --renderer");
    }
    let mut test = workspace::cargo();
    test.args(["test", "--release", "-p", "beamsplit-tests", "--test", "hostile_streams", "--"]);
    test.args(["--exact", "a_renderer_that_dies_leaves_nothing_behind", "--nocapture"]);
    test.env("BEAMSPLIT_TEST_KILLS", options.times.to_string());
    step::run(test, &format!("{} kills of a renderer", options.times))
}
