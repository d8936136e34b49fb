//! What a change must pass.

use anyhow::Result;
use tests::progress::say;
use tests::{bed, workspace};

use crate::step::{self, cargo};
use crate::{guest, suite};

/// What needs no guest.
pub fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    cargo(&["clippy", "-p", "beamsplit-guest-agent", "--all-targets", "--features", "guest", "--", "-D", "warnings"])?;
    let mut doc = workspace::cargo();
    doc.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    step::run(doc, "cargo doc")?;
    cargo(&["test", "--quiet", "-p", "xtask"])?;
    cargo(&["test", "--quiet", "-p", "beamsplit-tests", "--test", "dependencies"])
}

/// Everything.
pub fn test() -> Result<()> {
    check()?;
    cargo(&["build", "-p", "beamsplit-backend", "-p", "beamsplit"])?;
    guest::make_bed()?;
    unit()?;
    suite::guests()?;
    say("all passed");
    Ok(())
}

/// The tests that need no guest.
pub fn unit() -> Result<()> {
    // Tests of the C library start themselves again where the bed's is.
    let inside = bed::run::with_udmabuf(bed::mesa()?, "")?;
    suite::others(&[("BEAMSPLIT_INSIDE", bed::run::words(&inside).trim_end().to_owned())])?;
    cargo(&[&["test", "--quiet", "--doc"], &suite::OTHERS[..]].concat())
}

/// Measures, with the peers from the bed: from a guest's place, and unless only some workloads are wanted, inside of a guest.
pub fn bench(arguments: &[String]) -> Result<()> {
    if arguments == ["guest"] {
        return bench_inside();
    }
    if arguments == ["rendering"] {
        return cargo(&[
            "test",
            "--release",
            "-p",
            "beamsplit-bench",
            "--test",
            "rendering",
            "--",
            "--ignored",
            "--nocapture",
        ]);
    }
    if arguments.first().is_some_and(|word| word == "three-d") {
        return bench_three_d(&arguments[1..]);
    }
    if arguments.first().is_some_and(|word| word == "shares") {
        return bench_shares(&arguments[1..]);
    }
    bed::tools()?;
    let mut words = vec!["run", "--release", "-p", "beamsplit-bench", "--"];
    words.extend(arguments.iter().map(String::as_str));
    cargo(&["build", "--release", "-p", "beamsplit-backend", "-p", "beamsplit"])?;
    cargo(&words)?;
    let some = |word: &String| ["--only", "--list", "--quick", "--help"].iter().any(|some| word.starts_with(some));
    if arguments.iter().any(some) { Ok(()) } else { bench_inside() }
}

/// What a 3D library costs, where the bed's is found.
fn bench_three_d(arguments: &[String]) -> Result<()> {
    cargo(&["build", "--release", "-p", "beamsplit-bench", "-p", "beamsplit-guest-scene"])?;
    let program = workspace::target().join("release/beamsplit-bench");
    let mut command = bed::run::with_udmabuf(bed::mesa()?, &program.to_string_lossy())?;
    command.arg("--three-d").args(arguments);
    step::run(command, "beamsplit-bench --three-d")
}

/// How evenly the software GPU is shared, with devices where the bed's library is found.
fn bench_shares(arguments: &[String]) -> Result<()> {
    cargo(&["build", "--release", "-p", "beamsplit-bench", "-p", "beamsplit-backend", "-p", "beamsplit"])?;
    let mut command = std::process::Command::new(workspace::target().join("release/beamsplit-bench"));
    let inside = bed::run::with_udmabuf(bed::mesa()?, "")?;
    command.arg("--shares").args(arguments).env("BEAMSPLIT_INSIDE", bed::run::words(&inside).trim_end());
    step::run(command, "beamsplit-bench --shares")
}

/// What a card costs a guest, measured inside of it.
fn bench_inside() -> Result<()> {
    cargo(&["test", "--release", "-p", "beamsplit-bench", "--test", "guest", "--", "--ignored", "--nocapture"])
}
