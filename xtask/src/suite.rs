//! All tests, more than one at once: most wait for a guest, a process or a timer some of their time, or for one core.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::progress::say;
use tests::workspace;

/// The package that has those of real guests.
const PACKAGE: &str = "beamsplit-tests";

/// The packages that have the others.
pub const OTHERS: [&str; 5] = ["--workspace", "--exclude", PACKAGE, "--exclude", "xtask"];

/// What takes longest, by the end of its name: it begins first, or it would be what all others wait for. Who has no longer such a name
/// begins when it is its turn.
const LONG: [&str; 7] = [
    "crates/beamsplit/tests/moments.rs",
    "crates/transport/src/lib.rs",
    "crates/backend/tests/renderer.rs",
    "a_host_has_the_manager_as_a_service",
    "three_guests_share_a_gpu_and_what_befalls_one_stays_with_it",
    "a_guest_goes_on_when_what_draws_for_it_was_taken_over_and_lies",
    "without_a_rom_on_the_host_a_warning_names_the_package_and_the_bios_screen_stays_dark",
];

/// So many failures may be bad luck; more are not.
const AGAIN: usize = 3;

/// A test program, in a process of its own.
#[derive(Debug)]
struct Job {
    program: PathBuf,
    /// The folder of its package, where it runs.
    folder: PathBuf,
    name: String,
    /// One of its tests; without, all of them.
    test: Option<String>,
    environment: Vec<(&'static str, String)>,
}

/// Runs the tests of real guests, as many at once as there are cores: what is found out of the host inside of one may not take for ever.
pub fn guests() -> Result<()> {
    let mut jobs = Vec::new();
    for job in programs(&["-p", PACKAGE])? {
        let tests = tests_of(&job.program)?.into_iter();
        jobs.extend(tests.map(|test| Job {
            name: test.clone(),
            test: Some(test),
            program: job.program.clone(),
            folder: job.folder.clone(),
            environment: Vec::new(),
        }));
    }
    run("tests of real guests", jobs, cores())
}

/// Runs all other test programs, with this in their environment. One more at once than there are cores: many only wait.
pub fn others(environment: &[(&'static str, String)]) -> Result<()> {
    let mut jobs = programs(&OTHERS)?;
    for job in &mut jobs {
        job.environment = environment.to_vec();
    }
    run("test programs", jobs, cores() + 1)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs all of them. A failure's output is printed when it ends, and no failure ends the others.
///
/// What failed runs a second time at the end, alone: a desktop that gets no processor for a while is not a defect of ours. Who fails
/// then has failed; who passes then is named, because it may be one all the same.
fn run(what: &str, mut jobs: Vec<Job>, workers: usize) -> Result<()> {
    let total = jobs.len();
    ensure!(total > 0, "There are no {what}");
    jobs.sort_by_key(|job| !LONG.iter().any(|name| job.name.ends_with(name)));
    let workers = workers.min(total);
    say(format_args!("{total} {what}, {workers} at once"));
    let failed = run_all(jobs, workers);
    if failed.is_empty() {
        return Ok(());
    }
    let names = names(&failed);
    ensure!(failed.len() <= AGAIN, "{} of {total} {what} failed: {names}", failed.len());
    say(format_args!("once more, alone: {names}"));
    let failed = run_all(failed, 1);
    ensure!(failed.is_empty(), "{} of {total} {what} failed twice: {}", failed.len(), self::names(&failed));
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
                        say(format_args!("{}: {why:#}", job.name));
                        lock(failed).push(job);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn names(jobs: &[Job]) -> String {
    jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds the test programs of some packages and lists them.
fn programs(packages: &[&str]) -> Result<Vec<Job>> {
    let mut build = workspace::cargo();
    build.arg("test").args(packages).args(["--no-run", "--message-format=json-render-diagnostics"]);
    build.stderr(Stdio::inherit());
    say(format_args!("cargo test {} --no-run", packages.join(" ")));
    let output = build.output().context("Cannot run cargo")?;
    ensure!(output.status.success(), "The tests cannot be built");
    let mut jobs = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).context("Cannot read what cargo says")?;
        let program = message["executable"].as_str().filter(|_| message["profile"]["test"] == true);
        if let Some(program) = program.map(PathBuf::from) {
            let manifest = message["manifest_path"].as_str().context("A program without a package")?;
            let folder = Path::new(manifest).parent().context("A package without a folder")?.to_owned();
            let source = Path::new(message["target"]["src_path"].as_str().unwrap_or_default());
            let name = source.strip_prefix(workspace::root()).unwrap_or(source).display().to_string();
            jobs.push(Job { program, folder, name, test: None, environment: Vec::new() });
        }
    }
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
        let mut command = Command::new(&self.program);
        if let Some(test) = &self.test {
            command.args(["--exact", test, "--test-threads", "1"]);
        }
        let status = command
            // As cargo has it.
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // An error says where it is from in its own words, and a log that is cut short should keep those.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("Cannot run {}", self.program.display()))?;
        let seconds = begin.elapsed().as_secs_f32();
        let output = fs::read(&log).context("Cannot read a test's output")?;
        if status.success() {
            let counts = if self.test.is_some() { String::new() } else { counts(&String::from_utf8_lossy(&output))? };
            say(format_args!("test {} ... ok{counts}, {seconds:.1} s", self.name));
            return Ok(());
        }
        // Whole, not mixed with another one's.
        io::Write::write_all(&mut io::stderr().lock(), &output)?;
        bail!("failed after {seconds:.1} s ({status})")
    }
}

/// How many of a program's tests passed and were left out, in its own words.
fn counts(output: &str) -> Result<String> {
    let line = output.lines().rev().find_map(|line| line.strip_prefix("test result: ok. "));
    let line = line.context("A test program ended before it had told its result")?;
    let counts = line.split("; ").filter(|count| count.ends_with("passed") || count.ends_with("ignored"));
    Ok(counts.filter(|count| !count.starts_with("0 ")).map(|count| format!(", {count}")).collect())
}

#[cfg(test)]
mod tests_of_this {
    use super::*;

    #[test]
    fn a_program_that_told_no_result_has_not_passed() {
        let told = "running 3 tests\ntest a ... ok\n\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(counts(told).unwrap(), ", 2 passed, 1 ignored");
        assert!(counts("running 3 tests\ntest a ... ok\n").is_err());
    }
}
