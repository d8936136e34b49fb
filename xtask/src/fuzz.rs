//! Fuzzing with libFuzzer on a stable compiler.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tests::progress::say;
use tests::workspace;

use crate::step;

/// What `cargo fuzz` would ask the compiler for: coverage counters and traced comparisons.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on";
/// With a target named, build scripts and macros are not built with the flags above.
const TRIPLE: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

/// What to fuzz.
#[derive(Args)]
pub struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Run each target so many times instead, always on the same inputs.
    #[arg(long, conflicts_with = "seconds")]
    runs: Option<u32>,
    /// One target; all of them without a name.
    target: Option<String>,
}

/// Builds the targets and runs each for a while. An input that fails is kept under fuzz/artifacts.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root().join("fuzz");
    let targets = targets(&root, options.target.as_deref())?;
    if targets.is_empty() {
        say("fuzz: no targets");
        return Ok(());
    }
    step::need("c++", "g++")?;
    let folder = workspace::target().join("fuzz");
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--bins", "--target", TRIPLE, "--manifest-path"]).arg(root.join("Cargo.toml"));
    build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS");
    step::run(build, "cargo build of the fuzz targets")?;
    let mut failed = Vec::new();
    for target in targets {
        let program = folder.join(TRIPLE).join("release").join(&target);
        if let Err(error) = fuzz(&root, &program, &target, options) {
            say(format_args!("fuzz: {error:#}"));
            failed.push(target);
        }
    }
    ensure!(failed.is_empty(), "Fuzzing found failures in {}", failed.join(", "));
    Ok(())
}

fn targets(root: &Path, wanted: Option<&str>) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(root.join("fuzz_targets")).into_iter().flatten() {
        let path = entry?.path();
        if let (Some("rs"), Some(stem)) = (path.extension().and_then(|word| word.to_str()), path.file_stem()) {
            targets.push(stem.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    match wanted {
        None => Ok(targets),
        Some(name) if targets.iter().any(|target| target == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("No fuzz target {name}; there are {}", targets.join(", ")),
    }
}

fn fuzz(root: &Path, program: &Path, target: &str, options: &Options) -> Result<()> {
    let mut command = Command::new(program);
    // What was found on the way is kept for the next time, unless that is to be the same as this time.
    let fresh = workspace::scratch("corpus-")?;
    let corpus = match options.runs {
        Some(_) => fresh.path().to_owned(),
        None => workspace::target().join("corpus").join(target),
    };
    let artifacts = root.join("artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    }
    command.arg(&corpus);
    match options.runs {
        Some(runs) => command.args([format!("-runs={runs}"), "-seed=1".to_owned()]),
        None => command.arg(format!("-max_total_time={}", options.seconds)),
    };
    command.args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1", "-verbosity=0"]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    say(format_args!("fuzz: {target}"));
    let output = command.output().with_context(|| format!("Cannot run {}", program.display()))?;
    // libFuzzer prints much that nobody reads; on success one figure is enough.
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{target} failed: {}\n{words}", output.status);
    }
    let runs = words.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).unwrap_or(" no");
    say(format_args!("fuzz: {target}:{runs} runs, nothing found"));
    Ok(())
}
