//! What draws a guest's 3D: processes of their own, or a library in ours (`--isolate off`).

use std::os::unix::net::UnixListener;

use anyhow::{Context, Result};
use device::gpu::Gpu;
use jail::calls::Group;
use jail::files::Grant;
use renderer::isolated::{Isolated, Options};
use serde_json::{Map, Value, json};

use crate::capabilities::{self, Offer};
use crate::child;
use crate::config::Config;
use crate::in_process::Prepared;
use crate::renderers::{Renderers, Server};
use crate::ruled::Ruled;

/// What is offered of 3D, and what draws it.
pub struct Drawing {
    offer: Offer,
    by: By,
    /// Where the manager of time slices connects.
    arbiter: Option<UnixListener>,
}

enum By {
    /// Processes of their own, which these start.
    Isolated(Renderers),
    /// A library in our own process, with a render server perhaps.
    InProcess(Prepared, Option<Server>),
}

/// What is said of it in `/v1/stats`.
pub type Facts = Box<dyn Fn() -> Map<String, Value> + Send>;

impl Drawing {
    /// `renderers` are there if any process for 3D can be needed; `arbiter` is where the manager of time slices connects, which can rule
    /// processes alone. Call it before this process locks itself in.
    pub fn new(
        config: &Config,
        offer: Offer,
        renderers: Option<Renderers>,
        arbiter: Option<UnixListener>,
    ) -> Result<Self> {
        let isolate = config.three_d.as_ref().is_none_or(|words| words.isolate);
        let by = match renderers {
            Some(renderers) if isolate => By::Isolated(renderers),
            renderers => {
                let server = renderers.map(Renderers::server);
                By::InProcess(Prepared::new(&offer.spec, config.memory, server.clone())?, server)
            }
        };
        Ok(Drawing { offer, by, arbiter })
    }

    /// Gives it to a GPU.
    pub fn join(self, gpu: Gpu, config: &Config) -> Result<Gpu> {
        let Drawing { offer, by, arbiter } = self;
        let words = config.three_d.as_ref().context("3D was offered and not asked for")?;
        match by {
            By::Isolated(renderers) => {
                let (name, stats) = (config.name.clone(), gpu.stats().clone());
                let (patience, restarts) = (words.patience, words.restarts);
                let options = Options { capsets: offer.capsets, patience, restarts, name, stats };
                let mut isolated = Isolated::new(options, Box::new(renderers)).context("Cannot prepare for 3D")?;
                if let Some(listener) = arbiter {
                    let ruled = Ruled::new(listener).and_then(|ruled| isolated.under(Box::new(ruled)));
                    isolated = ruled.context("Cannot prepare for a manager of time slices")?;
                }
                Ok(gpu.with_three_d(Box::new(isolated), offer.window).guarded_by(transport::sigbus::guard_pages))
            }
            By::InProcess(prepared, _) => {
                let library = prepared.library(&offer)?;
                Ok(gpu.with_three_d(Box::new(library), offer.window).guarded_by(transport::sigbus::guard_pages))
            }
        }
    }

    /// What is said of it, whenever that is asked.
    pub fn facts(&self) -> Facts {
        let mut said = capabilities::describe(&self.offer);
        match &self.by {
            By::Isolated(renderers) => {
                said.insert("isolate".to_owned(), json!("on"));
                let lives = renderers.lives();
                Box::new(move || said.clone().into_iter().chain(lives.describe()).collect())
            }
            By::InProcess(_, server) => {
                said.insert("isolate".to_owned(), json!("off"));
                let server = server.clone();
                Box::new(move || said.clone().into_iter().chain(server.as_ref().map(Server::describe)).collect())
            }
        }
    }

    /// System calls that this process has to make for it.
    pub fn calls(&self) -> &'static [Group] {
        match self.by {
            By::Isolated(_) => &[],
            By::InProcess(..) => child::CALLS,
        }
    }

    /// Files that this process has to have for it.
    pub fn files(&self) -> Vec<Grant> {
        match self.by {
            By::Isolated(_) => Vec::new(),
            By::InProcess(..) => child::files(&self.offer.spec),
        }
    }
}
