//! What this host has for 3D, and what a guest is therefore offered: found out by use ([`crate::child`]), kept between starts
//! ([`cache`]), said in words and as JSON ([`report`]).

mod cache;
mod folders;
mod host;
mod report;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use device::Capset;
use protocol::CapsetId;
use renderer::library::Kind;
use renderer::virgl::Virgl;
use serde_json::{Map, Value, json};

use crate::args::Options;
use crate::child::{Finding, Spec};
use crate::config::MEMORY_3D;
use crate::three_d::{ThreeD, maps};
use crate::values::SandboxMode;
pub use folders::shaders;
use host::Host;
pub use report::{Line, Report};

/// What a process for 3D may take besides what its guest may have. A driver alone has more than a hundred MiB, and a stack of 8 MiB
/// for each of its threads, of which it has one for each processor; and streams allocate what no command says.
const DRIVER: u64 = 2 << 30;

/// What a guest is offered, and how processes that draw it are started.
#[derive(Debug)]
pub struct Offer {
    /// The capability sets, in the order in which a guest finds them.
    pub capsets: Vec<Capset>,
    /// The guest's view of 3D memory in bytes; 0 is none.
    pub window: u64,
    /// How processes are started.
    pub spec: Spec,
}

/// What was looked for and found.
#[derive(Debug)]
pub struct Found {
    /// What works; `None` when nothing does.
    pub offer: Option<Offer>,
    /// What to say about it.
    pub report: Report,
}

/// Whose 3D it is.
#[derive(Debug)]
pub struct Guest {
    /// Its share of memory in bytes.
    pub memory: u64,
    /// How strictly processes that draw for it are locked in.
    pub sandbox: SandboxMode,
    /// What they log.
    pub log: String,
}

/// Looks for what `words` ask for. An error where something was named that is not there.
pub fn find(words: &ThreeD, guest: Guest) -> Result<Found> {
    let host = Host::look(words.node.as_deref());
    if let (Some(node), Some(why)) = (&words.node, &host.node_refused) {
        bail!("Cannot use the render node {}: {why}", node.display());
    }
    for (word, path) in [("--virglrenderer", &words.library), ("--render-server", &words.server)] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            bail!("Cannot use {word} {}: there is no such file", path.display());
        }
    }
    let spec = Spec {
        library: words.library.clone(),
        server: words.server.clone(),
        node: words.node.clone(),
        shaders: None,
        sandbox: guest.sandbox,
        memory: words.memory.unwrap_or(guest.memory.saturating_add(DRIVER)),
        log: "warn".to_owned(),
    };
    let kinds = [Kind::Gl, Kind::Vk].into_iter().filter(|kind| words.wants(*kind));
    let findings: Vec<Finding> = kinds.map(|kind| cache::recall_or_ask(kind, &spec)).collect();
    if let Some(path) = &words.library
        && findings.iter().all(|finding| finding.probe.version.is_none())
    {
        bail!("Cannot use --virglrenderer {}: {}", path.display(), why_not(&findings, words.capsets[0]));
    }
    let capsets = offered(words, &findings);
    if let Some(missing) =
        words.capsets.iter().find(|id| words.named && !capsets.iter().any(|capset| capset.id == **id))
    {
        bail!("Cannot offer --capsets {missing}: {}", why_not(&findings, *missing));
    }
    let window = if capsets.iter().any(|capset| capset.maps) { words.window } else { 0 };
    let report = Report::new(&host, &findings, &capsets, window);
    let server = findings.iter().find_map(|finding| finding.server.clone());
    let offer = (!capsets.is_empty()).then(|| Offer {
        spec: Spec { server: spec.server.clone().or(server), log: guest.log, ..spec },
        capsets,
        window,
    });
    Ok(Found { offer, report })
}

fn offered(words: &ThreeD, findings: &[Finding]) -> Vec<Capset> {
    let found =
        |id: CapsetId| findings.iter().flat_map(|finding| &finding.probe.capsets).find(move |capset| capset.id == id);
    let offered = words.capsets.iter().filter_map(|id| found(*id));
    offered
        .map(|capset| Capset {
            id: capset.id,
            version: capset.version,
            bytes: Arc::from(capset.bytes.as_slice()),
            rings: capset.rings,
            maps: maps(capset.id),
        })
        .collect()
}

/// Why a kind of 3D is not there, as far as anybody said.
fn why_not(findings: &[Finding], capset: CapsetId) -> String {
    let finding = findings.iter().find(|finding| Some(finding.probe.kind) == Kind::of(capset));
    let missing = finding.into_iter().flat_map(|finding| &finding.probe.missing);
    let reasons: Vec<_> = missing.map(|missing| missing.why.as_str()).collect();
    if reasons.is_empty() { "this host's library does not have it".to_owned() } else { reasons.join("; ") }
}

/// What `--print-capabilities` says: as the vhost-user convention has it and, when asked for, what was found.
pub fn print(options: &Options) -> Result<()> {
    let mut features = Vec::new();
    if Virgl::load(options.virglrenderer.as_deref()).is_ok() {
        features.push("virgl");
    }
    if !host::render_nodes().is_empty() {
        features.push("render-node");
    }
    let mut said = json!({ "type": "gpu", "features": features });
    if options.verbose {
        let mut asked = options.clone();
        asked.virgl |= asked.renderer.is_none();
        let words =
            ThreeD::judge(&asked)?.context("--verbose tells of --renderer virgl, and another renderer is named")?;
        // What is missing is what is asked for here.
        let words = ThreeD { named: false, ..words };
        let guest = Guest {
            memory: options.memory.map_or(MEMORY_3D, |bytes| bytes.0),
            sandbox: options.sandbox.unwrap_or(SandboxMode::On),
            log: String::new(),
        };
        let found = find(&words, guest)?;
        found.report.lines.iter().for_each(|line| eprintln!("{line}"));
        said["beamsplit"] = found.report.json;
    }
    println!("{said:#}");
    Ok(())
}

/// What `/v1/stats` says of an offer, besides the lives of its processes.
pub fn describe(offer: &Offer) -> Map<String, Value> {
    let names = offer.capsets.iter().map(|capset| json!(capset.id.to_string())).collect();
    Map::from_iter([("capsets".to_owned(), names), ("window".to_owned(), json!(offer.window))])
}
