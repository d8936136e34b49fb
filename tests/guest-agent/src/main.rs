//! The agent in a test guest: the first program, which mounts, loads modules, and then does what the test asks for.

mod input;
mod port;
mod scene;
mod screen;
mod shell;
mod virtgpu;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chroot};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_agent::{Draw, HELLO, Reply, Request, read_message, write_message};
use input::Inputs;
use port::Port;
use screen::Screens;
use virtgpu::Submitted;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, hint] = words.as_slice()
        && word == "picture"
    {
        if let Err(error) = picture(hint) {
            println!("{error:#}");
        }
        return;
    }
    if words.get(1).is_some_and(|word| word == "stores") {
        println!("{:?}", stores(&words[2..]));
        return;
    }
    let begun = if words.get(1).is_some_and(|word| word == AGENT) { enter() } else { init() };
    if let Err(error) = begun {
        println!("guest agent: {error:#}");
    }
    let state = State::default();
    // The first program must not end: the kernel would panic. The port may go, and come again.
    loop {
        if let Err(error) = serve(&state) {
            println!("guest agent: {error:#}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What outlives a conversation.
#[derive(Default)]
struct State {
    screens: Screens,
    inputs: Inputs,
    submitted: Submitted,
}

/// As a program for people: draws the moving picture until they press Enter.
fn picture(hint: &str) -> Result<()> {
    let screens = Screens::default();
    screens.animate(hint)?;
    std::io::stdin().read_line(&mut String::new())?;
    screens.draw(Draw::Release).map(drop)
}

/// The word with which this program is the agent, and not the first program.
const AGENT: &str = "agent";
/// A pipe, where another program is to be the first one: its name is written there.
const NEXT: &str = "/run/init";

/// As a program that goes on while others do something: what [`Request::Stores`] does, by its four numbers.
fn stores(words: &[String]) -> Result<(u32, u32)> {
    let numbers = words.iter().map(|word| word.parse()).collect::<Result<Vec<u32>, _>>()?;
    let [capset, others, rounds, bytes] = numbers[..] else { anyhow::bail!("stores CAPSET OTHERS ROUNDS BYTES") };
    virtgpu::stores(capset, others, rounds, bytes)
}

fn init() -> Result<()> {
    let script = Command::new("/bin/busybox").args(["sh", "-c", include_str!("init.sh")]).status();
    let status = script.context("Cannot run the first script")?;
    anyhow::ensure!(status.success(), "The first script failed: {status}");
    if fs::exists(NEXT)? {
        Command::new("/proc/self/exe").arg(AGENT).spawn().context("Cannot start the agent")?;
        return Err(become_next());
    }
    enter()
}

/// Waits for the name of a program, and becomes that. Returns only when it cannot.
fn become_next() -> anyhow::Error {
    // Somebody's orphan that ends interrupts it.
    let script = format!("until read -r program <{NEXT}; do :; done; exec /bin/busybox switch_root /newroot $program");
    let error = Command::new("/bin/busybox").args(["sh", "-c", &script]).exec();
    anyhow::Error::new(error).context("Cannot run a shell")
}

/// Goes to the root that programs are in.
fn enter() -> Result<()> {
    if fs::read_dir("/newroot")?.next().is_some() {
        chroot("/newroot")?;
        std::env::set_current_dir("/")?;
    }
    // From the kernel's level for messages: the screen is the test's from here on.
    println!("beamsplit guest agent: ready");
    Ok(())
}

fn serve(state: &State) -> Result<()> {
    let mut port = Port::open()?;
    port.write_all(&HELLO)?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    write_message(&mut port, &Reply::Booted { uptime, kernel }, &[])?;
    loop {
        let (request, input) = read_message::<Request>(&mut port)?;
        let (reply, output) =
            answer(request, &input, state).unwrap_or_else(|error| (Reply::Failed(format!("{error:#}")), Vec::new()));
        write_message(&mut port, &reply, &output)?;
    }
}

fn answer(request: Request, input: &[u8], state: &State) -> Result<(Reply, Vec<u8>)> {
    let State { screens, inputs, submitted } = state;
    match request {
        Request::Run { command, seconds } => shell::run(&command, input, Duration::from_secs(seconds)),
        Request::Spawn { command } => Ok((Reply::Started { pid: shell::spawn(&command)? }, Vec::new())),
        Request::Put { path, mode } => {
            fs::write(&path, input).with_context(|| format!("Cannot write {path}"))?;
            File::open(&path)?.set_permissions(fs::Permissions::from_mode(mode))?;
            Ok((Reply::Done, Vec::new()))
        }
        Request::Get { path } => Ok((Reply::Done, fs::read(&path).with_context(|| format!("Cannot read {path}"))?)),
        Request::Card(number) => screens.take(number).map(|()| (Reply::Done, Vec::new())),
        Request::Heads => Ok((Reply::Heads(screens.heads()?), Vec::new())),
        Request::Draw(draw) => screens.draw(draw),
        Request::InputDevices => Ok((Reply::InputDevices(Inputs::devices()?), Vec::new())),
        Request::Watch { node } => inputs.watch(&node).map(|()| (Reply::Done, Vec::new())),
        Request::Events { node } => Ok((Reply::Done, inputs.events(&node)?)),
        Request::Name(name) => {
            rustix::thread::set_name(&CString::new(name)?).context("The kernel takes no such name")?;
            Ok((Reply::Done, Vec::new()))
        }
        Request::Blobs { capset, count, bytes, keep } => {
            virtgpu::blobs(capset, count, bytes, keep).map(|()| (Reply::Done, Vec::new()))
        }
        Request::Stores { capset, others, rounds, bytes } => {
            let (lost, refused) = virtgpu::stores(capset, others, rounds, bytes)?;
            Ok((Reply::Stored { lost, refused }, Vec::new()))
        }
        Request::Submit { capset } => submitted.submit(capset).map(|()| (Reply::Done, Vec::new())),
        Request::HasEnded { seconds } => {
            Ok((Reply::HasEnded(submitted.ended(Duration::from_secs(seconds))?), Vec::new()))
        }
        Request::Tell { node, event } => inputs.tell(&node, &event).map(|()| (Reply::Done, Vec::new())),
    }
}

/// A file that is made anew, for what a command prints.
fn output_file(path: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o644);
    options.open(path).with_context(|| format!("Cannot make {path}"))
}
