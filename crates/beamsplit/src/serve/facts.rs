//! What this host has, and what it offers.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host::gpus::{Memory, Roots};
use manager::gpu::Timed;
use manager::profile::Catalogue;
use manager::value::Capset;
use manager::{Gpu, GpuId};
use serde_json::Value;

use super::notify::Notify;
use super::store;

/// The file of types in the config folder.
const FILE: &str = "types.toml";
/// How long it may take to find out what a GPU draws: a second where nothing is known yet, far more on a host that boots and has all
/// to do at once, and driver bugs. What it does not know by then it does not offer until it is told to reload.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the rest may take, for each GPU.
const REST: Duration = Duration::from_secs(30);
/// How often it is looked whether it is known.
const PAUSE: Duration = Duration::from_millis(5);
/// How long what it said may take to arrive once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The longest answer.
const MAX_ANSWER: u64 = 1 << 20;

/// Looks at the host, and reads the file of types in this folder if there is one. `device` is the program that draws. Says to
/// `notify` for each GPU that it takes its time.
pub fn find(config: &Path, device: &[OsString], notify: &Notify) -> Result<Catalogue> {
    let look = |gpu| {
        notify.say(&format!("EXTEND_TIMEOUT_USEC={}", (PATIENCE + REST).as_micros()));
        offered(gpu, device)
    };
    let gpus: Vec<Gpu> = host::gpus::find(Roots::of_this_host()).into_iter().map(look).collect();
    let path = config.join(FILE);
    match store::read(&path).with_context(|| format!("Cannot read {}", path.display()))? {
        Some(text) => Catalogue::parse(&text, &gpus).with_context(|| path.display().to_string()),
        None => Ok(Catalogue::defaults(&gpus)),
    }
}

/// The host's fact as the manager's.
fn offered(gpu: host::gpus::Gpu, device: &[OsString]) -> Gpu {
    if let Memory::Unknown { why } = &gpu.memory {
        tracing::warn!("{}: how much memory it has is not known ({why}): say so in {FILE}", gpu.id);
    }
    let capsets = draws(device, gpu.node.as_deref()).unwrap_or_else(|error| {
        tracing::warn!("{}: it offers no 3D: {error:#}", gpu.id);
        Vec::new()
    });
    let software = gpu.node.is_none();
    let timed = match (software, gpu.says_time) {
        (true, _) => Timed::Processor,
        (false, true) => Timed::Fdinfo,
        (false, false) => Timed::Nothing,
    };
    Gpu { id: GpuId(gpu.id), name: gpu.name, memory: gpu.memory.bytes(), node: gpu.node, capsets, software, timed }
}

/// The kinds of 3D that were used on it with success: the device's program tries them.
fn draws(device: &[OsString], node: Option<&Path>) -> Result<Vec<Capset>> {
    let [program, words @ ..] = device else { bail!("No program to ask") };
    let mut command = Command::new(program);
    command.args(words).args(["--print-capabilities", "--verbose"]);
    if let Some(node) = node {
        command.arg("--render-node").arg(node);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("Cannot run {}", program.display()))?;
    let answer: Value = serde_json::from_slice(&answer(child)?).context("Its answer is no JSON")?;
    let names = answer["beamsplit"]["offered"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// Ends it. Somebody else waits for it: one that hangs in a driver does not even die.
fn end(mut child: Child) {
    std::thread::spawn(move || child.kill().and_then(|()| child.wait()));
}

/// What it prints until it ends. What it started and left behind, with its output open, is not waited for: a driver's process may
/// never end.
fn answer(mut child: Child) -> Result<Vec<u8>> {
    let output = child.stdout.take().context("Nothing to read from")?;
    let (said, heard) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // Nobody hears it any more who does not want to.
        let _ = said.send(output.take(MAX_ANSWER).read_to_end(&mut text).map(|_| text));
    });
    let mut until = Instant::now() + PATIENCE;
    let mut ended = false;
    loop {
        match heard.recv_timeout(PAUSE) {
            Ok(text) => {
                // It has nothing more to say, and may have something to do.
                while child.try_wait()?.is_none() && Instant::now() < until {
                    std::thread::sleep(PAUSE);
                }
                end(child);
                return text.context("Cannot read its answer");
            }
            Err(RecvTimeoutError::Disconnected) => bail!("Cannot read its answer"),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                end(child);
                match ended {
                    true => bail!("It ended, and something that it started did not"),
                    false => bail!("Finding out took longer than {} seconds", PATIENCE.as_secs()),
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if !ended && child.try_wait()?.is_some() {
                    (ended, until) = (true, Instant::now() + LAST_WORDS);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Result<Vec<u8>> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        answer(shell.spawn().unwrap())
    }

    #[test]
    fn an_answer_ends_with_the_program_whatever_it_left_behind() {
        assert_eq!(said("echo one; echo two").unwrap(), b"one\ntwo\n");
        assert_eq!(said("exec >&-; sleep 0.1").unwrap(), b"");
        // It ends by itself soon after the test, and the manager waits for less.
        let error = said("echo one; sleep 20 &").unwrap_err().to_string();
        assert!(error.contains("something that it started"), "{error}");
        assert_eq!(said("head -c 3000000 /dev/zero || true").unwrap().len() as u64, MAX_ANSWER);
    }
}
