//! `--isolate off`: the library that draws 3D in the device's own process, for comparison.
//!
//! As with a process of its own, what needs rights is done first: this program starts again with the environment that drivers
//! want, opens the render node and limits its memory. It locks itself in with the library's lists besides its own. Only then, at
//! the first work, the library is loaded on the thread that calls it: its threads are born inside.
//!
//! A library is started once in a process, so one serves OpenGL and Vulkan. Vulkan needs a render server even so, which is
//! another program; the launcher starts it.

use std::env;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use renderer::library::{Kind, Library};
use renderer::virgl::{Config, InProcess, Virgl};

use crate::capabilities::Offer;
use crate::child::{self, Spec};
use crate::renderers::Server;

/// Says that this process, whose number is its value, has the environment already.
const ENTERED: &str = "BEAMSPLIT_IN_PROCESS";
/// Words for a process of its own that would lead others of ours astray.
const OURS: [&str; 2] = ["PATH", "HOME"];

/// Starts this program again in the environment that drivers are to find: loaders read it when a program begins, and a process
/// with threads cannot change it. Nothing is open yet that does not stay open.
pub fn enter(spec: &Spec) -> Result<()> {
    let own = std::process::id().to_string();
    if env::var_os(ENTERED).is_some_and(|process| process == *own) {
        return Ok(());
    }
    let words = child::environment(spec, env::vars_os());
    let words = words.into_iter().filter(|(name, _)| OURS.iter().all(|ours| name != ours));
    let mut given = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(given.next().unwrap_or_default()).args(given).envs(words).env(ENTERED, own);
    Err(command.exec()).context("Cannot start again with the environment that --isolate off needs")
}

/// What the library gets that it could not have once the process is locked in.
#[derive(Debug)]
pub struct Prepared {
    node: Option<OwnedFd>,
    server: Option<Server>,
}

impl Prepared {
    /// Opens what is needed, and limits memory: that of the library and that of the guest's images are one. `server` is where a
    /// render server is asked for, if one will be needed.
    pub fn new(spec: &Spec, memory: u64, server: Option<Server>) -> Result<Self> {
        child::limit_memory(spec.memory.saturating_add(memory))?;
        Ok(Prepared { node: child::open_node(spec)?, server })
    }

    /// The library, which is started when there is work for it.
    pub fn library(self, offer: &Offer) -> Result<InProcess> {
        let Prepared { node, server } = self;
        let path = offer.spec.library.clone();
        let kind = if offers(offer, Kind::Gl) { Kind::Gl } else { Kind::Vk };
        let make = move |sink| -> Result<Box<dyn Library>, String> {
            let server = server.map(|server| server.start()).transpose();
            let server = server.map_err(|error| format!("The render server cannot be started: {error}"))?;
            let library = Virgl::load(path.as_deref()).map_err(|error| error.to_string())?;
            library.start(Config { kind, node, server, sink }).map_err(|error| error.to_string())
        };
        InProcess::new(offer.capsets.clone(), Box::new(make)).context("Cannot prepare for 3D")
    }
}

/// Whether something of this kind is offered.
pub fn offers(offer: &Offer, kind: Kind) -> bool {
    offer.capsets.iter().any(|capset| Kind::of(capset.id) == Some(kind))
}
