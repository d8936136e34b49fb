//! Shell commands.

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_agent::Reply;

use crate::output_file;

/// Runs a command to its end. Its output goes through files, so that what it leaves running holds nobody up.
pub fn run(command: &str, input: &[u8], patience: Duration) -> Result<(Reply, Vec<u8>)> {
    const FILES: [&str; 3] = ["/tmp/run.stdin", "/tmp/run.stdout", "/tmp/run.stderr"];
    fs::write(FILES[0], input)?;
    let mut child = shell(command)
        .stdin(fs::File::open(FILES[0])?)
        .stdout(output_file(FILES[1])?)
        .stderr(output_file(FILES[2])?)
        .spawn()
        .context("Cannot start a shell")?;
    let status = wait(&mut child, patience)?;
    let mut output = fs::read(FILES[1])?;
    let stdout = u32::try_from(output.len())?;
    output.extend(fs::read(FILES[2])?);
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1);
    Ok((Reply::Ended { code, stdout }, output))
}

fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-9", "--", &group]).status();
            let _ = child.kill();
            child.wait()?;
            anyhow::bail!("Still running after {} s", patience.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Starts a command that goes on. Its output goes to a file named after its process.
pub fn spawn(command: &str) -> Result<u32> {
    let mut child = shell("read line; exec >/tmp/spawn.$$ 2>&1 </dev/null; eval \"$line\"")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("Cannot start a shell")?;
    let pid = child.id();
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(command.replace('\n', ";").as_bytes())?;
        stdin.write_all(b"\n")?;
    }
    std::thread::spawn(move || child.wait());
    Ok(pid)
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).process_group(0);
    shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/run").env("HOME", "/root");
    shell
}
