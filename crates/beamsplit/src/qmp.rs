//! As much of QEMU's monitor protocol (QMP) as plugging a vGPU in and out takes.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::client;

/// How long QEMU may take to answer: it connects to the device meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest may take to let go of a device.
const GUESTS_PATIENCE: Duration = Duration::from_secs(30);
/// The longest line: QEMU's longest, of all its commands, has 20 KiB.
const MAX_LINE: u64 = 4 << 20;

/// A connection that may give commands.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// The devices that were told to be gone, whoever asked meanwhile.
    deleted: Vec<String>,
}

impl Monitor {
    /// Connects, and leaves the negotiation behind.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = client::connect(socket, PATIENCE).map_err(|error| match error.kind() {
            // QEMU lets one wait behind the one whom it serves.
            ErrorKind::WouldBlock => {
                anyhow!("QEMU lets nobody in: others hold this monitor, which serves one at a time")
            }
            _ => anyhow::Error::new(error).context(format!(
                "No QEMU listens on {} (its option -qmp unix:PATH,server=on,wait=off)",
                socket.display()
            )),
        })?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor { stream: BufReader::new(stream), deleted: Vec::new() };
        let greeting = monitor
            .line(Instant::now() + PATIENCE)?
            .context("QEMU says nothing: somebody else holds this monitor, which serves one at a time")?;
        if greeting.get("QMP").is_none() {
            bail!("Whoever listens on {} is not QEMU's QMP", socket.display());
        }
        monitor.execute(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    /// Gives a command and returns what it answers.
    pub fn execute(&mut self, command: &Value) -> Result<Value> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes()).context("QEMU hung up")?;
        let until = Instant::now() + PATIENCE;
        loop {
            let Some(mut line) = self.line(until)? else { bail!("QEMU does not answer {}", command["execute"]) };
            if let Some(answer) = line.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = line.get("error") {
                bail!("{}", error["desc"].as_str().unwrap_or("QEMU refused, and did not say why"));
            }
            self.note(&line);
        }
    }

    /// Waits until a device is gone. False when the guest does not let go of it.
    pub fn wait_deleted(&mut self, id: &str) -> Result<bool> {
        let until = Instant::now() + GUESTS_PATIENCE;
        while !self.deleted.iter().any(|gone| gone == id) {
            match self.line(until)? {
                Some(line) => self.note(&line),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn note(&mut self, line: &Value) {
        if line["event"] == "DEVICE_DELETED"
            && let Some(id) = line["data"]["device"].as_str()
        {
            self.deleted.push(id.to_owned());
        }
    }

    /// The next line; `None` when none comes in time.
    fn line(&mut self, until: Instant) -> Result<Option<Value>> {
        let mut text = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let room = MAX_LINE.saturating_sub(text.len() as u64);
            match (&mut self.stream).take(room).read_until(b'\n', &mut text) {
                Ok(_) if text.ends_with(b"\n") => {
                    return serde_json::from_slice(&text).map(Some).context("QEMU's answer is no JSON");
                }
                Ok(_) if room == 0 => bail!("QEMU's answer has no end"),
                Ok(_) => bail!("QEMU hung up"),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("QEMU hung up"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn qemu(lines: &'static [&'static str]) -> (tempfile::TempDir, Result<Value>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for line in lines {
                let _ = stream.write_all(line.as_bytes());
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let done = Monitor::connect(&path).and_then(|mut monitor| monitor.execute(&json!({ "execute": "query-name" })));
        peer.join().unwrap();
        (folder, done)
    }

    #[test]
    fn events_between_command_and_answer_are_no_answers() {
        let (_folder, done) = qemu(&[
            "{\"QMP\":{}}\n{\"return\":{}}\n",
            "{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"x\"}}\r\n{\"return\":{\"name\":\"vm\"}}\n",
        ]);
        assert_eq!(done.unwrap()["name"], "vm");
    }

    #[test]
    fn what_is_no_qemu_is_told_in_words() {
        for (lines, named) in [
            (&["hello\n"][..], "no JSON"),
            (&["{}\n"], "not QEMU"),
            (&[], "hung up"),
            (&["{\"QMP\":{}}\n{\"return\":{}}\n{\"error\":{\"desc\":\"No such thing\"}}\n"], "No such thing"),
            (&["{\"QMP\":{}}\n{\"return\":{}}\n{\"retu"], "hung up"),
        ] {
            let error = format!("{:#}", qemu(lines).1.unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }
}
