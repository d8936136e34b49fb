//! The input devices beside the GPU: each has a socket, counters and threads of its own, so that however busy the GPU is, no
//! key is late.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::{Context, Result};
use device::{Desktop, InputKind, InputOptions, InputStats};
use transport::serve::Endpoint;

use crate::assembly::{self, Server};
use crate::card::Card;
use crate::config::Config;

/// What a kind of input device is called: in statistics, in the log, as a thread.
pub fn word_for(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Console => "input",
        InputKind::Touch => "touch",
    }
}

/// An input device that nobody is served by yet.
pub struct Input {
    kind: InputKind,
    server: Server,
    stats: Arc<InputStats>,
    /// The end that viewers get.
    viewers: Option<OwnedFd>,
}

impl Input {
    /// Makes one for the VMM that comes to `listener`.
    pub fn prepare(config: &Config, kind: InputKind, listener: UnixListener, desktop: &Arc<Desktop>) -> Result<Self> {
        let (viewer, viewers) = frames::pair().context("Cannot make a socket for what viewers type")?;
        let name = match kind {
            InputKind::Console => "Beamsplit keyboard and pointer",
            InputKind::Touch => "Beamsplit touch screen",
        };
        let options = InputOptions { name: name.to_owned(), serial: config.name.clone(), kind };
        let (vmm, stats) = (Endpoint::Listener(listener), Arc::new(InputStats::default()));
        let shape = config.card.as_ref().map(Card::input_shape);
        let server = assembly::input_server(options, vmm, shape, viewer, desktop.clone(), stats.clone())?;
        Ok(Self { kind, server, stats, viewers: Some(viewers) })
    }

    /// Where viewers send what people do, once.
    pub fn take_viewers_end(&mut self) -> Option<(InputKind, OwnedFd)> {
        Some((self.kind, self.viewers.take()?))
    }

    /// The counters.
    pub fn stats(&self) -> (InputKind, Arc<InputStats>) {
        (self.kind, self.stats.clone())
    }

    /// Serves it for the life of the process. Should it end, the GPU goes on.
    pub fn start(self) -> Result<()> {
        let word = word_for(self.kind);
        let serve = move || match self.server.run() {
            Ok(()) => tracing::error!("The {word} device ended"),
            Err(error) => tracing::error!("The {word} device ends, the GPU goes on: {:#}", anyhow::Error::new(error)),
        };
        let thread = std::thread::Builder::new().name(format!("{word} messages"));
        thread.spawn(serve).context("Cannot start the thread of an input device").map(drop)
    }
}
