//! The only place that puts renderer, display, device and transport together.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use device::gpu::{Gpu, GpuOptions};
use device::vga::{Vga, VgaPort};
use device::{Desktop, Display, InputKind, InputOptions, InputStats, Renderer, Stats};
use display::{Capture, GpuSocketSender, Many, NoDisplay, VhostUserGpu, Viewer, ViewerInput};
use jail::files::Grant;
use serde_json::{Map, Value, json};
use transport::serve::{Endpoint, ServeError};
use transport::vfio_user::pci::Shape;
use transport::vfio_user::rom::Rom;
use transport::{vfio_user, vhost_user};

use crate::card::Card;
use crate::config::Config;
use crate::control::Sections;
use crate::control::mailbox::Inbox;
use crate::drawing::{Drawing, Facts};
use crate::input::word_for;
use crate::launcher::Link;
use crate::preflight::folder_of;
use crate::values::RendererKind;
use crate::vgpu::Vgpu;

/// A part of `--memory`, one in so many bytes, is for pixels that a viewer cannot see where they are.
const VIEWERS_SHARE: u64 = 4;

/// A device and the way by which its VMM reaches it.
pub enum Server {
    /// The rings of a virtio device.
    VhostUser(Box<vhost_user::Server>),
    /// A PCI function.
    VfioUser(Box<vfio_user::Server>),
}

impl Server {
    /// Serves VMMs until told to stop, or one until it hangs up.
    pub fn run(self) -> Result<(), ServeError> {
        match self {
            Server::VhostUser(server) => server.run(),
            Server::VfioUser(server) => server.run(),
        }
    }
}

/// What a server is made of besides its config.
pub struct Parts {
    /// Where the VMM is.
    pub vmm: Endpoint,
    /// What firmware runs to draw, where there is a card for that.
    pub rom: Option<Rom>,
    /// Readable when the device is to end.
    pub stop: OwnedFd,
    /// The counters.
    pub stats: Arc<Stats>,
    /// Who may ask.
    pub inbox: Option<Inbox>,
    /// The device's end of the frames socket, where there is a viewer.
    pub viewer: Option<OwnedFd>,
    /// Where input devices learn where the heads are.
    pub desktop: Arc<Desktop>,
    /// What is offered of 3D, and what draws it.
    pub three_d: Option<Drawing>,
}

/// A device that is ready to be served: nothing was read from a guest yet and no thread started.
pub fn server(config: &Config, parts: Parts) -> Result<Server> {
    let Parts { vmm, rom, stop, stats, inbox, viewer, desktop, three_d } = parts;
    let mut memory = config.memory - config.card.as_ref().map_or(0, Card::boot_memory);
    let mut displays: Vec<Box<dyn Display>> = Vec::new();
    let mut side_sockets = None;
    // The first display owns the modes, and the VMM insists on doing so.
    if config.sinks.vmm {
        let window = VhostUserGpu::new(stats.clone()).context("Cannot prepare for the VMM's window")?;
        side_sockets = Some(window.socket_sender());
        displays.push(Box::new(window));
    }
    if let Some(path) = &config.sinks.capture {
        displays.push(Box::new(Capture::new(path, stats.clone())));
    }
    if let Some(socket) = viewer {
        let sizes: Vec<_> = config.heads.iter().map(|mode| (mode.width, mode.height)).collect();
        let share = memory / VIEWERS_SHARE;
        memory -= share;
        let viewer = Viewer::new(socket, &config.name, &sizes, share, stats.clone());
        displays.push(Box::new(viewer.context("Cannot prepare for viewers")?));
    }
    let options = GpuOptions { heads: config.heads.clone(), edid: config.edid.clone(), memory };
    let gpu = Gpu::new(options, renderer(config.renderer), side_by_side(displays)?, stats.clone());
    let gpu = match three_d {
        Some(three_d) => three_d.join(gpu, config)?,
        None => gpu,
    };
    let (mut gpu, port) = with_boot(gpu, config.card.as_ref())?;
    gpu.lay_out_on(desktop);
    let device = Box::new(Vgpu::new(gpu, inbox));
    let server = match &config.card {
        None => {
            let on_gpu_socket = on_gpu_socket(side_sockets);
            let options =
                vhost_user::Options { on_gpu_socket, stop: Some(stop), stats: Some(stats), ..Default::default() };
            vhost_user::Server::prepare(vmm, device, options).map(|server| Server::VhostUser(Box::new(server)))
        }
        Some(card) => {
            let options = vfio_user::Options { stop: Some(stop), stats: Some(stats), ..Default::default() };
            vfio_user::Server::prepare(vmm, device, card.shape(), port, rom, options)
                .map(|server| Server::VfioUser(Box::new(server)))
        }
    };
    server.context("Cannot serve the VMM")
}

/// The GPU with the display that its card has for firmware, and the way to that.
fn with_boot(gpu: Gpu, card: Option<&Card>) -> Result<(Gpu, Option<VgaPort>)> {
    let Some(options) = card.and_then(Card::boot_display) else { return Ok((gpu, None)) };
    let (vga, port) = Vga::new(options).context("Cannot make a framebuffer")?;
    Ok((gpu.with_boot(vga), Some(port)))
}

/// An input device that is ready to be served, as a PCI function if it has the shape of one: its viewers will send through
/// `viewer`.
pub fn input_server(
    options: InputOptions,
    vmm: Endpoint,
    shape: Option<Shape>,
    viewer: OwnedFd,
    desktop: Arc<Desktop>,
    stats: Arc<InputStats>,
) -> Result<Server> {
    let name = word_for(options.kind).to_owned();
    let source = ViewerInput::new(viewer).context("Cannot prepare for what viewers type")?;
    let device = Box::new(device::Input::new(options, Box::new(source), desktop, stats.clone()));
    let server = match shape {
        None => {
            let options = vhost_user::Options { stats: Some(stats), name, ..Default::default() };
            vhost_user::Server::prepare(vmm, device, options).map(|server| Server::VhostUser(Box::new(server)))
        }
        Some(shape) => {
            let options = vfio_user::Options { stats: Some(stats), name, ..Default::default() };
            vfio_user::Server::prepare(vmm, device, shape, None, None, options)
                .map(|server| Server::VfioUser(Box::new(server)))
        }
    };
    server.context("Cannot serve the VMM's input device")
}

fn side_by_side(mut displays: Vec<Box<dyn Display>>) -> Result<Box<dyn Display>> {
    Ok(match displays.len() {
        0 => Box::new(NoDisplay),
        1 => displays.remove(0),
        _ => Box::new(Many::new(displays).context("Cannot show on several displays")?),
    })
}

fn renderer(kind: RendererKind) -> Box<dyn Renderer> {
    match kind {
        // What a guest draws in 2D never needs the library.
        RendererKind::Soft | RendererKind::Virgl => Box::new(renderer::Soft::new()),
        RendererKind::Null => Box::new(renderer::Null),
    }
}

/// What a device does with files after it locked itself in.
pub fn grants(config: &Config, three_d: Option<&Drawing>) -> Vec<Grant> {
    let capture = config.sinks.capture.as_deref().map(|file| Grant::replace_files(&folder_of(file)));
    let executable = std::env::current_exe().ok().map(|file| Grant::name_functions(&file));
    capture.into_iter().chain(executable).chain(three_d.into_iter().flat_map(Drawing::files)).collect()
}

/// What `/v1/stats` says of the parts: the counters of the GPU and of the input devices, and the viewer and what draws 3D where
/// there are such.
pub fn sections(
    stats: Arc<Stats>,
    inputs: Vec<(InputKind, Arc<InputStats>)>,
    mut link: Option<Link>,
    three_d: Option<Facts>,
) -> Sections {
    Box::new(move || {
        let mut device = json!(stats.snapshot());
        // All parts of the process share its log.
        device["log_lines_suppressed"] = device::log::suppressed().into();
        let mut sections = Map::from_iter([("device".to_owned(), device)]);
        let inputs = inputs.iter().map(|(kind, stats)| (word_for(*kind).to_owned(), json!(stats.snapshot())));
        sections.extend(inputs);
        sections.extend(traffic(&stats));
        let viewer = link.as_mut().and_then(Link::describe);
        sections.extend(viewer.map(|viewer| ("viewer".to_owned(), viewer)));
        sections.extend(three_d.as_ref().map(|three_d| ("renderer".to_owned(), three_d().into())));
        sections
    })
}

/// What the GPU's commands were and how long they took, and what memory it takes.
fn traffic(stats: &Stats) -> [(String, Value); 5] {
    let counts = |counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
        Value::Object(counts.map(|(name, count)| (name.to_owned(), count.into())).collect())
    };
    [
        ("commands".to_owned(), counts(&mut stats.traffic.commands())),
        ("errors".to_owned(), counts(&mut stats.traffic.errors())),
        ("queue_latency".to_owned(), json!(stats.traffic.queue.times())),
        ("fence_latency".to_owned(), json!(stats.traffic.fence.times())),
        ("memory".to_owned(), counts(&mut stats.memory.by_name())),
    ]
}

/// Where the transport puts the side sockets of a VMM that shows the picture itself. Without such a display nothing is said on
/// them, and the VMM shows nothing; but they stay open: QEMU would read the end of one for ever, and log it each time.
fn on_gpu_socket(vmm: Option<GpuSocketSender>) -> Box<dyn FnMut(OwnedFd) + Send> {
    match vmm {
        Some(sender) => Box::new(move |socket| sender.send(socket)),
        None => {
            let mut silent = None;
            Box::new(move |socket| drop(silent.replace(socket)))
        }
    }
}
