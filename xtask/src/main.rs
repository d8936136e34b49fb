//! The project's own commands: demo, test, check, guest, bench, fuzz.

use clap::Parser;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Make the test bed and nothing else.
    Bed,
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Bed => {
            tests::bed::kernel()?;
            tests::bed::initramfs()?;
            tests::bed::tools()?;
            tests::bed::desktop()?;
            Ok(())
        }
    }
}
