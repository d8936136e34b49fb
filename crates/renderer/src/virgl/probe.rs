//! Finds out by use what a guest may be offered: the library says yes to things that fail later, and has bytes for capability
//! sets that it cannot serve.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use device::{Capset, HostBlob, Ticket};
use protocol::{CapsetId, ContextId, Rect, ReplyError, Resource3d, ResourceId};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::ffi::{Started, look_at_vulkan};
use super::renderer::Renderer;
use super::{Config, StartError, Virgl, rules, stream};
use crate::library::{Kind, Library, Sink};

/// Where a capability set of virgl2 has the driver's name, and how long it may be.
const DRIVER_NAME: (usize, usize) = (696, 64);
/// How long a fence may take: shaders are compiled meanwhile.
const FENCE: Duration = Duration::from_secs(10);
/// Names of what is made on trial.
const CONTEXT: ContextId = ContextId(1);
const RESOURCE: ResourceId = ResourceId(1);
/// Side of the picture that is drawn, in pixels.
const SIDE: u32 = 16;

/// What was found. It can be kept: nothing of it changes until library, driver or node do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Of which kind.
    pub kind: Kind,
    /// The library's version, as far as it tells, when it could be loaded.
    pub version: Option<String>,
    /// The library's file.
    pub path: Option<PathBuf>,
    /// Functions of newer versions that it has not.
    pub lacks: Vec<String>,
    /// What works.
    pub capsets: Vec<ProbedCapset>,
    /// Who draws, as the driver names itself.
    pub drivers: Vec<String>,
    /// What does not work, and why.
    pub missing: Vec<Missing>,
}

/// A capability set that works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedCapset {
    /// Which.
    pub id: CapsetId,
    /// Its newest version.
    pub version: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many timelines for fences a context of it has.
    pub rings: u8,
    /// Whether it needs memory of the host to be mapped into the guest.
    pub maps: bool,
}

impl From<&ProbedCapset> for Capset {
    fn from(probed: &ProbedCapset) -> Self {
        let ProbedCapset { id, version, bytes, rings, maps } = probed;
        Self { id: *id, version: *version, bytes: bytes.as_slice().into(), rings: *rings, maps: *maps }
    }
}

/// Something that does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl Probe {
    fn lacks(&mut self, what: impl ToString, why: impl ToString) {
        self.missing.push(Missing { what: what.to_string(), why: why.to_string() });
    }
}

/// Loads and starts the library in this process, which should end soon after, and uses it.
pub fn probe(kind: Kind, path: Option<&Path>, node: Option<OwnedFd>, server: Option<OwnedFd>) -> Probe {
    let (version, path_found, lacks) = (None, None, Vec::new());
    let (capsets, drivers, missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut probe = Probe { kind, version, path: path_found, lacks, capsets, drivers, missing };
    let loaded = match Virgl::load(path) {
        Ok(loaded) => loaded,
        Err(error) => {
            probe.lacks("virglrenderer", error);
            return probe;
        }
    };
    probe.version = Some(loaded.version());
    probe.path = Some(loaded.path().to_path_buf());
    probe.lacks = loaded.lacks().into_iter().map(str::to_owned).collect();
    if kind == Kind::Vk && !vulkan(&mut probe) {
        return probe;
    }
    let (sender, told) = channel();
    let sink = Arc::new(Told(Mutex::new(sender)));
    let mut trial = match loaded.begin(Config { kind, node, server, sink }) {
        Ok(renderer) => Trial { renderer, told, next: 0 },
        Err(error) => {
            let what = if matches!(error, StartError::NoServer) { "render server" } else { "virglrenderer" };
            probe.lacks(what, error);
            return probe;
        }
    };
    let tried: &[CapsetId] = match kind {
        Kind::Gl => &[CapsetId::VIRGL, CapsetId::VIRGL2],
        Kind::Vk => &[CapsetId::VENUS],
    };
    for &id in tried {
        match trial.capset(id) {
            Ok(capset) => probe.capsets.push(capset),
            Err(why) => probe.lacks(id, why),
        }
    }
    let newest = probe.capsets.iter().find(|capset| capset.id == CapsetId::VIRGL2);
    probe.drivers.extend(newest.and_then(|capset| driver(&capset.bytes)));
    probe
}

/// Whether any Vulkan device can be used; the render server finds the same ones.
fn vulkan(probe: &mut Probe) -> bool {
    let devices = match look_at_vulkan() {
        Ok(devices) => devices,
        Err(why) => {
            probe.lacks("Vulkan driver", why);
            return false;
        }
    };
    if devices.is_empty() {
        probe.lacks("Vulkan driver", "no device knows Vulkan 1.1");
    }
    let mut usable = false;
    for device in devices {
        match device.exports {
            Ok(()) => {
                usable = true;
                probe.drivers.push(device.name);
            }
            Err(why) => probe.lacks(format_args!("Memory of {}", device.name), why),
        }
    }
    usable
}

/// The name that GL's driver has for itself.
fn driver(capset: &[u8]) -> Option<String> {
    let (start, len) = DRIVER_NAME;
    let name = capset.get(start..start + len)?;
    let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
    let shown = name.iter().all(|byte| (b' '..=b'~').contains(byte));
    shown.then(|| String::from_utf8_lossy(name).into_owned())
}

/// Fences as they are told.
struct Told(Mutex<Sender<Ticket>>);

impl Sink for Told {
    fn retired(&self, ticket: Ticket) {
        if let Ok(sender) = self.0.lock() {
            let _ = sender.send(ticket);
        }
    }
}

struct Trial {
    renderer: Renderer<Started>,
    told: Receiver<Ticket>,
    next: u64,
}

impl Trial {
    /// A capability set that was used. An error says what failed.
    fn capset(&mut self, id: CapsetId) -> Result<ProbedCapset, String> {
        let (version, bytes) = self.renderer.capset(id).ok_or("the library does not offer it")?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err("the library has nothing but zeros to say of it".to_owned());
        }
        let failed = |what: &'static str| move |error: ReplyError| format!("{what} fails ({error})");
        self.renderer.open(CONTEXT, id, b"probe").map_err(failed("a context"))?;
        let used = match id {
            CapsetId::VENUS => self.memory(),
            _ => self.picture(),
        };
        self.renderer.destroy(RESOURCE);
        self.renderer.close(CONTEXT);
        used?;
        Ok(ProbedCapset { id, version, bytes, rings: rules::rings(id), maps: id == CapsetId::VENUS })
    }

    /// Draws, waits, and looks at what was drawn.
    fn picture(&mut self) -> Result<(), String> {
        let desc = Resource3d {
            target: stream::TEXTURE_2D,
            format: stream::BGRA,
            bind: stream::RENDER_TARGET | stream::SAMPLED,
            width: SIDE,
            height: SIDE,
            depth: 1,
            array_size: 1,
            ..Resource3d::default()
        };
        let failed = |what: &'static str| move |error: ReplyError| format!("{what} fails ({error})");
        self.renderer.create(RESOURCE, &desc).map_err(failed("a picture"))?;
        self.renderer.join(CONTEXT, RESOURCE);
        let mut commands = stream::clear(RESOURCE, 1, [1.0, 0.0, 1.0, 1.0]);
        self.renderer.submit(CONTEXT, &mut commands).map_err(failed("drawing"))?;
        self.fence()?;
        let mut pixels = [0; (SIDE * SIDE * 4) as usize];
        let memory = MmapRegion::<()>::new(pixels.len()).map_err(|error| error.to_string())?;
        let slice = memory.as_volatile_slice();
        let whole = Rect { x: 0, y: 0, width: SIDE, height: SIDE };
        self.renderer.read(RESOURCE, whole, slice, SIDE * 4).map_err(failed("reading a picture"))?;
        slice.read_slice(&mut pixels, 0).map_err(|error| error.to_string())?;
        let drawn = pixels.chunks(4).all(|pixel| pixel == [255, 0, 255, 255]);
        if drawn { Ok(()) } else { Err("what is drawn is not what was to be drawn".to_owned()) }
    }

    /// Makes memory that a guest could map, and waits.
    fn memory(&mut self) -> Result<(), String> {
        let blob = HostBlob { resource: RESOURCE, mem: 2, flags: 1, id: 0, size: 4096 };
        let exported = self.renderer.create_blob(CONTEXT, &blob);
        let exported = exported.map_err(|error| format!("memory for commands fails ({error})"))?;
        exported.ok_or("memory for commands cannot be mapped")?;
        self.fence()
    }

    fn fence(&mut self) -> Result<(), String> {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.renderer.fence(ticket, CONTEXT, 0).map_err(|error| format!("a fence fails ({error})"))?;
        let step = Duration::from_millis(1);
        let mut left = FENCE;
        loop {
            let wait = if self.renderer.poll().is_some() { step } else { left };
            match self.told.recv_timeout(wait) {
                Ok(told) if told == ticket => return Ok(()),
                Ok(_) => {}
                Err(_) => left = left.saturating_sub(wait),
            }
            if left.is_zero() {
                return Err("a fence is never done".to_owned());
            }
        }
    }
}
