//! The tests of real guests, as many at once as there are cores: each waits for its guest most of the time, or for one core.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::progress::say;
use tests::workspace;

/// The package that has them.
const PACKAGE: &str = "beamsplit-tests";

/// So many failures may be bad luck; more are not.
const AGAIN: usize = 3;

/// One test, in a process of its own.
#[derive(Debug)]
struct Job {
    program: PathBuf,
    test: String,
}

/// Runs all of them. A failure's output is printed when it ends, and no failure ends the others.
///
/// What failed runs a second time at the end, alone: a desktop that gets no processor for a while is not a defect of ours. Who fails
/// then has failed; who passes then is named, because it may be one all the same.
pub fn run() -> Result<()> {
    let jobs = jobs()?;
    let total = jobs.len();
    let workers = thread::available_parallelism().map_or(1, usize::from).min(total);
    say(format_args!("{total} tests of {PACKAGE}, {workers} at once"));
    let failed = run_all(jobs, workers);
    if failed.is_empty() {
        return Ok(());
    }
    let names = names(&failed);
    ensure!(failed.len() <= AGAIN, "{} of {total} tests failed: {names}", failed.len());
    say(format_args!("once more, alone: {names}"));
    let failed = run_all(failed, 1);
    ensure!(failed.is_empty(), "{} of {total} tests failed twice: {}", failed.len(), self::names(&failed));
    say(format_args!("UNSTEADY, passed alone only: {names}"));
    Ok(())
}

/// Runs them, and returns those that failed.
fn run_all(jobs: Vec<Job>, workers: usize) -> Vec<Job> {
    let queue = Mutex::new(VecDeque::from(jobs));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..workers {
            let (queue, failed) = (&queue, &failed);
            scope.spawn(move || {
                // Not held while the test runs.
                let next = || lock(queue).pop_front();
                while let Some(job) = next() {
                    if let Err(why) = job.run(worker) {
                        say(format_args!("{}: {why:#}", job.test));
                        lock(failed).push(job);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn names(jobs: &[Job]) -> String {
    jobs.iter().map(|job| job.test.as_str()).collect::<Vec<_>>().join(", ")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds the tests and lists them.
fn jobs() -> Result<Vec<Job>> {
    let mut build = workspace::cargo();
    build.args(["test", "-p", PACKAGE, "--no-run", "--message-format=json-render-diagnostics"]);
    build.stderr(Stdio::inherit());
    say(format_args!("cargo test -p {PACKAGE} --no-run"));
    let output = build.output().context("Cannot run cargo")?;
    ensure!(output.status.success(), "The tests of {PACKAGE} cannot be built");
    let mut jobs = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).context("Cannot read what cargo says")?;
        let program = message["executable"].as_str().filter(|_| message["profile"]["test"] == true);
        if let Some(program) = program.map(PathBuf::from) {
            jobs.extend(tests_of(&program)?.into_iter().map(|test| Job { program: program.clone(), test }));
        }
    }
    ensure!(!jobs.is_empty(), "{PACKAGE} has no tests");
    Ok(jobs)
}

fn tests_of(program: &PathBuf) -> Result<Vec<String>> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("Cannot run {}", program.display()))?;
    ensure!(output.status.success(), "{} cannot list its tests", program.display());
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

impl Job {
    fn run(&self, worker: usize) -> Result<()> {
        let log = workspace::target().join(format!("tmp/suite-{worker}.log"));
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = fs::File::create(&log).with_context(|| format!("Cannot write {}", log.display()))?;
        let begin = Instant::now();
        let status = Command::new(&self.program)
            .args(["--exact", &self.test, "--test-threads", "1"])
            .current_dir(workspace::root().join("tests"))
            // An error says where it is from in its own words, and a log that is cut short should keep those.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("Cannot run {}", self.program.display()))?;
        let seconds = begin.elapsed().as_secs_f32();
        if status.success() {
            say(format_args!("test {} ... ok, {seconds:.1} s", self.test));
            return Ok(());
        }
        let output = fs::read(&log).context("Cannot read a test's output")?;
        // Whole, not mixed with another one's.
        io::Write::write_all(&mut io::stderr().lock(), &output)?;
        bail!("failed after {seconds:.1} s ({status})")
    }
}
