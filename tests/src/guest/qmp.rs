//! QEMU's machine protocol: one JSON value a line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::guest::PATIENCE;
use crate::process::wait_until;

/// A connection to QEMU.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects, as soon as QEMU listens.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = wait_until(PATIENCE, "QEMU's QMP socket", || Ok(UnixStream::connect(path).ok()))?;
        stream.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        let mut qmp = Qmp { reader: BufReader::new(stream), events: VecDeque::new() };
        qmp.receive().context("No greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.reader.get_mut().write_all(line.as_bytes()).with_context(|| format!("QMP {command}"))?;
        loop {
            let mut answer = self.receive().with_context(|| format!("QMP {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QMP {command}: {}", error["desc"].as_str().unwrap_or("failed"));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            self.events.push_back(answer);
        }
    }

    /// Waits for an event of a name; the events before it are forgotten.
    pub fn wait_event(&mut self, name: &str, seconds: u64) -> Result<Value> {
        self.reader.get_ref().set_read_timeout(Some(Duration::from_secs(seconds)))?;
        let found = loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive().with_context(|| format!("Waiting for QMP's event {name}"))?,
            };
            if event["event"] == name {
                break event;
            }
        };
        self.reader.get_ref().set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        Ok(found)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its QMP socket");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
