//! The launcher's second duty: processes that draw 3D. It starts them when the device says so, ends them with all that they
//! started, and tells how they ended.
//!
//! Each is the leader of a process group. What it starts (the render server, and its processes for contexts) cannot leave the
//! group, so that ending the group ends everything.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use renderer::library::Kind;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::lines::Lines;
use super::message::{News, Order, Received, receive, send};
use crate::child::{self, Spec};
use crate::inherited::inherit;

/// Processes at a time: a device has one of each kind, and a few that are ending. Stops one that starts them for ever.
const MOST: usize = 16;

/// The processes of one device.
pub struct Nursery {
    device: OwnedFd,
    spec: Spec,
    program: PathBuf,
    running: Vec<Running>,
    /// What the device has had no room for yet.
    unsaid: VecDeque<News>,
}

struct Running {
    id: u32,
    process: Child,
    pid: Pid,
    ends: OwnedFd,
    lines: Lines,
}

/// What a process is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A library of its own.
    Library(Kind),
    /// A render server, whose library is elsewhere.
    Server,
}

impl What {
    /// The first words of its command line.
    fn role(self) -> Vec<&'static str> {
        match self {
            What::Library(kind) => vec![child::ROLE, child::word_for(kind)],
            What::Server => vec![child::SERVER_ROLE],
        }
    }

    /// As its lines are marked.
    fn word(self) -> &'static str {
        match self {
            What::Library(kind) => child::word_for(kind),
            What::Server => child::word_for(Kind::Vk),
        }
    }
}

/// What is to be waited for, in this order.
pub enum Wait {
    /// The device's words, or room for ours.
    Device,
    /// The end of the process at this place.
    End(usize),
    /// Its lines.
    Lines(usize),
}

impl Nursery {
    /// `device` says what to do; all are started as `spec` says.
    pub fn new(device: OwnedFd, spec: Spec) -> Self {
        Nursery { device, spec, program: "/proc/self/exe".into(), running: Vec::new(), unsaid: VecDeque::new() }
    }

    /// What to wait for.
    pub fn fds(&self) -> Vec<(Wait, PollFd<'_>)> {
        let mut wants = PollFlags::IN;
        wants.set(PollFlags::OUT, !self.unsaid.is_empty());
        let mut fds = vec![(Wait::Device, PollFd::new(&self.device, wants))];
        for (at, running) in self.running.iter().enumerate() {
            fds.push((Wait::End(at), PollFd::new(&running.ends, PollFlags::IN)));
            fds.extend(running.lines.fd().map(|fd| (Wait::Lines(at), PollFd::from_borrowed_fd(fd, PollFlags::IN))));
        }
        fds
    }

    /// Does what is due. Returns false once the device is gone.
    pub fn turn(&mut self, ready: &[Wait]) -> bool {
        let now = Instant::now();
        let mut ended = Vec::new();
        for wait in ready {
            match wait {
                Wait::Lines(at) => self.running[*at].lines.pass_on(now),
                Wait::End(at) => ended.push(*at),
                Wait::Device => {}
            }
        }
        // Those behind keep their places.
        ended.sort_unstable();
        for at in ended.into_iter().rev() {
            let running = self.running.remove(at);
            self.bury(running, now);
        }
        let there = loop {
            match receive(&self.device) {
                (Received::Message(Order::Start { id, kind }), Some(socket)) => {
                    self.start(id, What::Library(kind), &socket);
                }
                (Received::Message(Order::Serve { id }), Some(socket)) => self.start(id, What::Server, &socket),
                (Received::Message(Order::Start { id, .. } | Order::Serve { id }), None) => {
                    self.say(News::Ended { id, how: "no socket".into() })
                }
                (Received::Message(Order::Kill { id }), _) => self.kill(id),
                (Received::Nothing, _) => break true,
                (Received::End, _) => break false,
            }
        };
        self.speak();
        there
    }

    fn start(&mut self, id: u32, what: What, socket: &OwnedFd) {
        let started = if self.running.len() < MOST {
            self.spawn(id, what, socket)
        } else {
            Err(anyhow::anyhow!("{MOST} run already"))
        };
        match started {
            Ok(running) => {
                self.say(News::Started { id, pid: running.process.id() });
                self.running.push(running);
            }
            Err(error) => self.say(News::Ended { id, how: format!("{error:#}") }),
        }
    }

    fn spawn(&self, id: u32, what: What, socket: &OwnedFd) -> Result<Running> {
        let mut command = Command::new(&self.program);
        command.arg0("beamsplit-device").args(what.role()).arg(inherit(socket.as_fd())?);
        command.arg(self.spec.word()?).env_clear().envs(child::environment(&self.spec, std::env::vars_os()));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = command.spawn();
        // The next one has no business with it.
        fcntl_setfd(socket, FdFlags::CLOEXEC).context("Cannot keep a descriptor")?;
        let mut process = spawned.context("Cannot start a process for 3D")?;
        let lines = Lines::new(process.stderr.take(), what.word());
        let pid = Pid::from_raw(process.id() as i32).context("A process has the id 0")?;
        // It is our child and was not waited for: the number is its.
        let ends = pidfd_open(pid, PidfdFlags::empty()).context("Cannot watch a process for 3D")?;
        Ok(Running { id, process, pid, ends, lines })
    }

    fn kill(&self, id: u32) {
        if let Some(running) = self.running.iter().find(|running| running.id == id) {
            // Fails only when all have just ended.
            let _ = kill_process_group(running.pid, Signal::KILL);
        }
    }

    /// The leader has ended: so do all others of the group, whose number is taken until the leader was waited for.
    fn bury(&mut self, mut running: Running, now: Instant) {
        let _ = kill_process_group(running.pid, Signal::KILL);
        running.lines.pass_on(now);
        let how = match running.process.wait() {
            Ok(status) => describe(status, running.lines.last()),
            Err(error) => error.to_string(),
        };
        self.say(News::Ended { id: running.id, how });
    }

    fn say(&mut self, news: News) {
        self.unsaid.push_back(news);
    }

    fn speak(&mut self) {
        while let Some(news) = self.unsaid.front() {
            // Who does not hear any more hangs up soon.
            if !matches!(send(&self.device, news, None), Ok(true)) {
                return;
            }
            self.unsaid.pop_front();
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        for running in &mut self.running {
            let _ = kill_process_group(running.pid, Signal::KILL);
            let _ = running.process.wait();
        }
    }
}

/// How it ended, with the last it said if it ended by itself.
fn describe(status: ExitStatus, last: &str) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None if status.success() => "it was not needed any more".to_owned(),
        None if last.is_empty() => format!("exit code {}", status.code().unwrap_or_default()),
        None => last.to_owned(),
    }
}

#[cfg(test)]
mod tests;
