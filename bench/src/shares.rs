//! How evenly one software GPU is shared: devices with real 3D processes, each with a guest that draws without rest, and
//! `beamsplit slices`, which gives out the time as the manager does.
//!
//! What each used is what the kernel says of its processes. A guest counts frames, and how long it waited for one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Doing, Error, Result};
use crate::frontend::message::request;
use crate::frontend::{Channel, FrontEnd, Kind, Options, command};
use crate::process::{Watchdog, cores, pin};
use crate::three_d::scene::{self, IMAGE, SIDE, VERTICES};

/// Frames in one submit of a guest that never rests: their time dwarfs that of the way there.
const AT_ONCE: u32 = 8;
/// How often a light guest draws a frame.
const LIGHT: Duration = Duration::from_millis(40);
const LIMIT: Duration = Duration::from_secs(120);
/// How long a guest that is to end may finish what it does.
const PATIENCE: Duration = Duration::from_secs(5);
const ARBITER: &str = "arbiter";
const VIRGL: u64 = 1;
const VIRGL2: u32 = 2;
/// The first of the pictures that only take room.
const KEPT: u32 = 1000;

/// What is run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The words that start a device, its options left out.
    pub device: Vec<String>,
    /// `beamsplit`.
    pub beamsplit: PathBuf,
}

impl Programs {
    /// Those beside this program; the device inside of the tests' bed, if `BEAMSPLIT_INSIDE` has the words for that, a line each.
    /// What draws stays on the last core, which is the GPU.
    pub fn find() -> Result<Self> {
        let here = std::env::current_exe().doing("find this program")?;
        let inside = std::env::var("BEAMSPLIT_INSIDE").unwrap_or_default();
        let device = here.with_file_name("beamsplit-device").display().to_string();
        let core = cores()?.last().copied().unwrap_or_default().to_string();
        let pinned = ["taskset", "-c", &core].map(str::to_owned);
        let device = pinned.into_iter().chain(inside.lines().map(str::to_owned)).chain([device]).collect();
        Ok(Programs { device, beamsplit: here.with_file_name("beamsplit") })
    }
}

/// What a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Habit {
    /// Nothing.
    Still = 0,
    /// Draws, always.
    Busy = 1,
    /// Draws a frame now and then.
    Light = 2,
    /// Ends.
    Gone = 3,
}

#[derive(Debug, Default)]
struct Said {
    habit: AtomicU8,
    frames: AtomicU64,
    waits: Mutex<Vec<Duration>>,
}

/// A device with its guest.
#[derive(Debug)]
pub struct Guest {
    device: Child,
    said: Arc<Said>,
    thread: Option<JoinHandle<Result<()>>>,
    folder: tempfile::TempDir,
    /// Dropped when all has ended.
    _watchdog: Watchdog,
}

impl Guest {
    /// Starts both, and draws a frame.
    pub fn start(programs: &Programs) -> Result<Self> {
        let folder = tempfile::tempdir().doing("make a folder")?;
        let socket = folder.path().join("gpu");
        let watchdog = Watchdog::over(folder.path())?;
        let mut words = programs.device.iter();
        let mut process = Command::new(words.next().map_or("beamsplit-device", String::as_str));
        process.args(words).args(["--display=none", "--renderer=virgl", "--capsets=virgl2", "--memory=64M"]);
        process.arg("--arbiter-socket").arg(folder.path().join(ARBITER));
        process.arg("--socket-path").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let device = process.spawn().doing("start a device")?;
        let said = Arc::new(Said::default());
        let mut guest = Guest { device, said: said.clone(), thread: None, folder, _watchdog: watchdog };
        let begin = Instant::now();
        let socket = loop {
            match UnixStream::connect(&socket) {
                Ok(socket) => break socket,
                Err(error) if begin.elapsed() > LIMIT => return Err(error).doing("reach a device"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut driver = Driver::new(socket)?;
        driver.draw(1)?;
        guest.thread = Some(std::thread::spawn(move || live(&mut driver, &said)));
        Ok(guest)
    }

    /// Where its time is granted.
    pub fn arbiter(&self) -> PathBuf {
        self.folder.path().join(ARBITER)
    }

    /// The device's process.
    pub fn pid(&self) -> u32 {
        self.device.id()
    }

    /// Has it do something else from now on.
    pub fn does(&self, habit: Habit) {
        self.said.habit.store(habit as u8, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Frames that were drawn.
    pub fn frames(&self) -> u64 {
        self.said.frames.load(Ordering::Acquire)
    }

    /// How long each frame took since the last call, while it was light.
    pub fn waits(&self) -> Vec<Duration> {
        self.said.waits.lock().map(|mut waits| std::mem::take(&mut *waits)).unwrap_or_default()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.does(Habit::Gone);
        // What it draws just now is drawn first: who waits for a device that is gone waits for a minute.
        let begin = Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.device.kill();
        let _ = self.device.wait();
    }
}

fn live(driver: &mut Driver, said: &Said) -> Result<()> {
    let mut next = Instant::now();
    loop {
        match said.habit.load(Ordering::Acquire) {
            0 => std::thread::park_timeout(LIGHT),
            1 => {
                driver.draw(AT_ONCE)?;
                said.frames.fetch_add(AT_ONCE.into(), Ordering::AcqRel);
            }
            2 => {
                next = (next + LIGHT).max(Instant::now());
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let begin = Instant::now();
                driver.draw(1)?;
                said.frames.fetch_add(1, Ordering::AcqRel);
                if let Ok(mut waits) = said.waits.lock() {
                    waits.push(begin.elapsed());
                }
            }
            _ => return Ok(()),
        }
    }
}

/// A guest's driver with the scene.
#[derive(Debug)]
pub(crate) struct Driver {
    front_end: FrontEnd,
    fences: u64,
    number: u32,
}

impl Driver {
    /// At a device that listens: the scene, and nothing drawn yet.
    pub(crate) fn new(socket: UnixStream) -> Result<Self> {
        let mut options = Options::new(Kind::Generic);
        options.features |= VIRGL;
        options.memory = vec![(0, 16 << 20)];
        let mut front_end = FrontEnd::over(Channel::new(socket, options.patience)?, options)?;
        front_end.negotiate()?;
        front_end.channel().ask(request::GET_SHMEM_CONFIG, &[], &[])?;
        front_end.start()?;
        let mut driver = Driver { front_end, fences: 0, number: 0 };
        let create = command::Command::new(0x200).context(1).words(&[4, VIRGL2]).bytes(b"test").bytes(&[0; 60]);
        driver.must(&create)?;
        for words in [
            [IMAGE, 2, 1, 2 | 8, SIDE, SIDE, 1, 1, 0, 0, 0, 0],
            [VERTICES, 0, 64, 1 << 4, 1 << 14, 1, 1, 1, 0, 0, 0, 0],
        ] {
            driver.must(&command::Command::new(0x204).context(1).words(&words))?;
            driver.must(&command::Command::new(0x202).context(1).words(&[words[0], 0]))?;
        }
        let vertices = scene::vertices();
        let at = driver.front_end.memory().allocate(1 << 14, 4096)?;
        driver.front_end.memory().write(at, &vertices)?;
        driver.must(&command::attach_backing(VERTICES, &[(at, 1 << 14)]))?;
        let size = vertices.len() as u32;
        let put = command::Command::new(0x205).context(1).words(&[0, 0, 0, size, 1, 1, 0, 0]);
        driver.must(&put.words(&[VERTICES, 0, 0, 0]))?;
        driver.submit(&scene::set_up())?;
        Ok(driver)
    }

    fn must(&mut self, command: &command::Command) -> Result<()> {
        let reply = self.front_end.command(command)?;
        if reply.kind() == command::RESP_OK_NODATA {
            return Ok(());
        }
        Err(Error::NotDone(format!("A device answers {:#x}", reply.kind())))
    }

    fn submit(&mut self, words: &[u32]) -> Result<()> {
        self.fences += 1;
        let bytes = crate::three_d::words_as_bytes(words);
        let submit = command::Command::new(0x207).context(1).fence(self.fences);
        self.must(&submit.words(&[bytes.len() as u32, 0]).bytes(&bytes))
    }

    /// Answered when they are drawn.
    pub(crate) fn draw(&mut self, frames: u32) -> Result<()> {
        let numbers = self.number..self.number + frames;
        self.number = numbers.end % 100_000;
        self.submit(&numbers.flat_map(scene::frame).collect::<Vec<_>>())
    }

    /// What was drawn last, as the guest reads it: four bytes a pixel.
    pub(crate) fn picture(&mut self) -> Result<Vec<u8>> {
        let bytes = SIDE * SIDE * 4;
        let at = self.front_end.memory().allocate(bytes.into(), 4096)?;
        self.must(&command::attach_backing(IMAGE, &[(at, bytes)]))?;
        self.fences += 1;
        let get = command::Command::new(0x206).context(1).fence(self.fences);
        self.must(&get.words(&[0, 0, 0, SIDE, SIDE, 1, 0, 0]).words(&[IMAGE, 0, 0, 0]))?;
        Ok(self.front_end.memory().read_vec(at, bytes as usize)?)
    }

    /// Makes a picture of 16 MiB, has all of it written, and keeps it.
    pub(crate) fn keep_image(&mut self, number: u32) -> Result<()> {
        let image = KEPT + number;
        let words = [image, 2, 1, 2 | 8, 2048, 2048, 1, 1, 0, 0, 0, 0];
        self.must(&command::Command::new(0x204).context(1).words(&words))?;
        self.must(&command::Command::new(0x202).context(1).words(&[image, 0]))?;
        self.submit(&scene::wiped(image, 100 + number))
    }
}

/// `beamsplit slices`.
#[derive(Debug)]
pub struct Slices {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Slices {
    /// Starts it with options.
    pub fn start(programs: &Programs, words: &[&str]) -> Result<Self> {
        let mut command = Command::new(&programs.beamsplit);
        command.arg("slices").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().doing("start beamsplit slices")?;
        let (orders, answers) = (process.stdin.take(), process.stdout.take());
        let answers = answers.ok_or_else(|| Error::NotDone("No pipe".into()))?;
        Ok(Slices { process, orders, answers: BufReader::new(answers) })
    }

    fn ask(&mut self, order: &str) -> Result<Value> {
        let orders = self.orders.as_mut().ok_or_else(|| Error::NotDone("No pipe".into()))?;
        writeln!(orders, "{order}").doing("give an order")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).doing("hear an answer")?;
        let answer: Value = serde_json::from_str(&line).map_err(|error| Error::NotDone(format!("{line}: {error}")))?;
        match answer.get("error") {
            Some(error) => Err(Error::NotDone(format!("{order}: {error}"))),
            None => Ok(answer),
        }
    }

    /// Gives time to a device. Its number stands for its UUID.
    pub fn add(&mut self, number: usize, guest: &Guest, weight: u32) -> Result<()> {
        let (pid, arbiter) = (guest.pid(), guest.arbiter());
        self.ask(&format!("add {} {pid} {weight} normal {}", uuid(number), arbiter.display())).map(drop)
    }

    /// What each had so far.
    pub fn snapshot(&mut self) -> Result<BTreeMap<usize, Value>> {
        let Value::Object(all) = self.ask("snapshot")? else { return Err(Error::NotDone("No snapshot".into())) };
        let number = |uuid: &str| usize::from_str_radix(uuid.rsplit('-').next()?, 16).ok();
        Ok(all.into_iter().filter_map(|(uuid, slice)| Some((number(&uuid)?, slice))).collect())
    }

    /// How often it woke up so far, and how long it used a processor.
    pub fn effort(&self) -> Result<(u64, Duration)> {
        let folder = PathBuf::from(format!("/proc/{}/task", self.process.id()));
        let (mut wakes, mut used) = (0, Duration::ZERO);
        for thread in std::fs::read_dir(folder).doing("look for threads")?.flatten() {
            let read = |name| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            wakes += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default();
            // `proc_pid_schedstat(5)`: nanoseconds on a processor come first.
            let nanos = read("schedstat").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
            used += Duration::from_nanos(nanos);
        }
        Ok((wakes, used))
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        let _ = self.process.kill();
    }

    /// Seconds that each used so far.
    pub fn used(&mut self) -> Result<Vec<f64>> {
        Ok(self.snapshot()?.values().map(|slice| slice["used"].as_f64().unwrap_or(0.0) / 1e9).collect())
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        // It lets all go on when it has no more to read.
        self.orders = None;
        let _ = self.process.wait();
    }
}

fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// Jain's index: 1 when all have the same, 1/N when one has all.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    if squares == 0.0 { 0.0 } else { sum * sum / (squares * shares.len() as f64) }
}

/// The largest distance of a share from what its weight says, as a part of that.
pub fn worst(shares: &[f64], weights: &[u32]) -> f64 {
    let (sum, all) = (shares.iter().sum::<f64>(), f64::from(weights.iter().sum::<u32>()));
    let distance = |(share, weight): (&f64, &u32)| ((share / sum) / (f64::from(*weight) / all) - 1.0).abs();
    shares.iter().zip(weights).map(distance).fold(0.0, f64::max)
}

fn differences(before: &[f64], after: &[f64]) -> Vec<f64> {
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

/// The value that such a part does not exceed, in milliseconds.
fn part(waits: &mut [Duration], part: f64) -> f64 {
    waits.sort_unstable();
    let at = (waits.len().saturating_sub(1) as f64 * part) as usize;
    waits.get(at).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1000.0)
}

/// Frames a second of all for a while.
fn rate(guests: &[Guest], time: Duration) -> f64 {
    let frames = || guests.iter().map(Guest::frames).sum::<u64>();
    let (before, begin) = (frames(), Instant::now());
    std::thread::sleep(time);
    (frames() - before) as f64 / begin.elapsed().as_secs_f64()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(1).collect()
}

/// Measures all; one second of `seconds` is one sample. What draws is on the last core, all else, this thread too, on the first.
pub fn table(programs: &Programs, seconds: u32, most: usize) -> Result<String> {
    if let [first, _, ..] = cores()?[..] {
        pin(first)?;
    }
    let mut text = String::from(
        "| how | weights | Jain's index of a second, median / least | furthest from its share, in all / in a median second \
         | of one alone | switch, stop (us) | load |\n|---|---|---|---|---|---|---|\n",
    );
    let equal = [2, 4, 8, 15].into_iter().filter(|count| *count <= most);
    let equal = equal.map(|count| ("strict", format!("{count} x 1"), vec![1; count]));
    let weights = vec![2, 4, 8, 16];
    for (mode, name, weights) in equal.chain([
        ("strict", "2:4:8:16".to_owned(), weights.clone()),
        ("batch", "4 x 1".to_owned(), vec![1; 4]),
        ("batch", "2:4:8:16".to_owned(), weights),
    ]) {
        let row = format!("| {mode} | {name} | {} | {} |", all_busy(programs, mode, &weights, seconds)?, load());
        eprintln!("{row}");
        let _ = writeln!(text, "{row}");
    }
    text.push('\n');
    some_idle(programs, seconds, &mut text)?;
    Ok(text)
}

/// All draw without rest.
fn all_busy(programs: &Programs, mode: &str, weights: &[u32], seconds: u32) -> Result<String> {
    let second = Duration::from_secs(1);
    let guests = weights.iter().map(|_| Guest::start(programs)).collect::<Result<Vec<_>>>()?;
    let mut slices = Slices::start(programs, &["--mode", mode])?;
    for ((number, guest), weight) in guests.iter().enumerate().zip(weights) {
        guest.does(Habit::Busy);
        slices.add(number, guest, *weight)?;
    }
    std::thread::sleep(second * 2);
    let begin = slices.used()?;
    let (mut last, mut each) = (begin.clone(), Vec::new());
    for _ in 0..seconds {
        std::thread::sleep(second);
        let now = slices.used()?;
        each.push(differences(&last, &now));
        last = now;
    }
    let told = slices.snapshot()?;
    let mean = |name: &str| {
        told.values().map(|slice| slice[name].as_f64().unwrap_or(0.0)).sum::<f64>() / told.len() as f64 / 1000.0
    };
    let (switch, stop) = (mean("switch_time"), mean("stop_time"));
    let of_one = alternated(seconds, |all| {
        guests.iter().skip(1).for_each(|guest| guest.does(if all { Habit::Busy } else { Habit::Still }));
        std::thread::sleep(second / 2);
        Ok(rate(&guests, second * 2))
    })?;
    let of_weight = |uses: &Vec<f64>| -> Vec<f64> {
        uses.iter().zip(weights).map(|(used, weight)| used / f64::from(*weight)).collect()
    };
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let indices = sorted(each.iter().map(|uses| jain(&of_weight(uses))).collect());
    let distances = sorted(each.iter().map(|uses| worst(uses, weights)).collect());
    Ok(format!(
        "{:.4} / {:.4} | {:.1} % / {:.1} % | {:.0} % | {switch:.0}, {stop:.0}",
        indices[indices.len() / 2],
        indices[0],
        worst(&differences(&begin, &last), weights) * 100.0,
        distances[distances.len() / 2] * 100.0,
        of_one * 100.0,
    ))
}

/// How much of what is measured `false` is measured `true`: by turns, because the machine is never the same for long, the other one
/// first each time. The median of as many pairs as half of `seconds`, and one.
fn alternated(seconds: u32, mut measure: impl FnMut(bool) -> Result<f64>) -> Result<f64> {
    let mut parts = Vec::new();
    for round in 0..seconds / 2 + 1 {
        let first = measure(round % 2 == 0)?;
        let second = measure(round % 2 != 0)?;
        parts.push(if round % 2 == 0 { first / second } else { second / first });
    }
    Ok(crate::timing::median(parts).unwrap_or(f64::NAN))
}

/// How often who gives out time wakes up in a second for one that draws alone, and how much of a core it uses.
pub fn effort_of_one(programs: &Programs, guest: &Guest, seconds: u32) -> Result<(f64, f64)> {
    guest.does(Habit::Busy);
    let mut slices = Slices::start(programs, &[])?;
    slices.add(0, guest, 1)?;
    std::thread::sleep(Duration::from_secs(1));
    let (begin, before) = (Instant::now(), slices.effort()?);
    std::thread::sleep(Duration::from_secs(1) * seconds);
    let (after, passed) = (slices.effort()?, begin.elapsed().as_secs_f64());
    Ok(((after.0 - before.0) as f64 / passed, (after.1 - before.1).as_secs_f64() / passed))
}

/// One alone, one of four that idles, and one that draws now and then.
fn some_idle(programs: &Programs, seconds: u32, text: &mut String) -> Result<()> {
    let second = Duration::from_secs(1);
    let guests = (0..4).map(|_| Guest::start(programs)).collect::<Result<Vec<_>>>()?;
    let busy = |count: usize| {
        let habit = |at| if at < count { Habit::Busy } else { Habit::Still };
        guests.iter().enumerate().for_each(|(at, guest)| guest.does(habit(at)));
    };
    let scheduled = |policy: &str, count: usize| -> Result<Slices> {
        let mut slices = Slices::start(programs, &["--policy", policy])?;
        for (number, guest) in guests[..count].iter().enumerate() {
            slices.add(number, guest, 1)?;
        }
        Ok(slices)
    };
    // Against one alone to whom nobody gives time.
    let of_alone = |policy, shared: usize, working: usize| {
        alternated(seconds, |with| {
            busy(if with { working } else { 1 });
            let _slices = with.then(|| scheduled(policy, shared)).transpose()?;
            std::thread::sleep(second / 2);
            Ok(rate(&guests, second * 2))
        })
    };
    let _ = writeln!(text, "One alone under the schedule: {:.1} %", of_alone("best-effort", 1, 1)? * 100.0);
    let (wakes, core) = effort_of_one(programs, &guests[0], seconds)?;
    let _ =
        writeln!(text, "Who gives out its time wakes up {wakes:.0} times a second, {:.2} % of a core", core * 100.0);
    let mut waits = BTreeMap::<&str, Vec<Duration>>::new();
    let mut light = |beside| {
        guests[3].does(Habit::Light);
        std::thread::sleep(second);
        guests[3].waits();
        std::thread::sleep(second * seconds);
        waits.entry(beside).or_default().extend(guests[3].waits());
    };
    for policy in ["best-effort", "fixed-share"] {
        let part = of_alone(policy, 4, 3)?;
        let _ = writeln!(text, "Three busy, one idle, {policy}, against one alone: {:.1} %", part * 100.0);
        let _slices = scheduled(policy, 4)?;
        busy(3);
        light(policy);
    }
    busy(0);
    light("alone");
    for (beside, mut waits) in waits {
        let (p50, p99) = (part(&mut waits, 0.5), part(&mut waits, 0.99));
        let count = waits.len();
        let _ = writeln!(
            text,
            "A light one, {beside}{}: a frame in {p50:.1} ms p50, {p99:.1} ms p99 ({count} frames)",
            if beside == "alone" { "" } else { " beside three busy ones" }
        );
    }
    Ok(())
}
