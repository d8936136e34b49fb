//! The project's own commands.

mod check;
mod demo;
mod fuzz;
mod guest;
mod soak;
mod step;
mod suite;

use clap::Parser;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 120)]
enum Task {
    /// Boot three guests on vGPUs and show their screens: one's by VNC too, all on the manager's page.
    Demo(demo::Options),
    /// Run everything that a change must pass: check, all tests, real guests.
    Test,
    /// Look at the code without running guests: format, lints, documentation, dependencies.
    Check,
    /// Run all tests that need no guest.
    Unit,
    /// Run one theme's guest tests, or list the themes.
    Guest(guest::Options),
    /// Measure Beamsplit and its peers on this machine.
    Bench {
        /// Options of the bench, or one of these alone: `guest`, what a card costs a guest, measured inside of it; `rendering`, what
        /// drawing costs one; `three-d`, what a 3D library costs without a guest.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz each target for a while.
    Fuzz(fuzz::Options),
    /// Do for long what may go wrong once in a while.
    Soak(soak::Options),
    /// Make the test bed and nothing else.
    Bed,
}

fn main() -> anyhow::Result<()> {
    tests::progress::start();
    match Task::parse() {
        Task::Demo(options) => demo::run(&options),
        Task::Test => check::test(),
        Task::Check => check::check(),
        Task::Unit => check::unit(),
        Task::Guest(options) => guest::run(&options),
        Task::Bench { arguments } => check::bench(&arguments),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Bed => guest::make_bed(),
    }
}
