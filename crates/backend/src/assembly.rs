//! The only place that puts renderer, display, device and transport together.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use device::gpu::{Gpu, GpuOptions};
use device::{Display, Renderer, Stats};
use display::{GpuSocketSender, NoDisplay, VhostUserGpu};
use serde_json::json;
use transport::vhost_user::{Endpoint, Options, Server};

use crate::config::Config;
use crate::control::Sections;
use crate::control::mailbox::Inbox;
use crate::launcher::Link;
use crate::preflight::folder_of;
use crate::sandbox::Grant;
use crate::values::RendererKind;
use crate::vgpu::Vgpu;

/// A device that is ready to be served: nothing was read from a guest yet and no thread started.
pub fn server(config: &Config, endpoint: Endpoint, stats: Arc<Stats>, inbox: Option<Inbox>) -> Result<Server> {
    let (display, vmm) = displays(config, &stats)?;
    let options = GpuOptions { heads: config.heads.clone(), edid: config.edid.clone(), memory: config.memory };
    let gpu = Gpu::new(options, renderer(config.renderer)?, display, stats.clone());
    let options = Options { on_gpu_socket: on_gpu_socket(vmm), stats: Some(stats), ..Options::default() };
    Server::prepare(endpoint, Box::new(Vgpu::new(gpu, inbox)), options).context("Cannot serve the VMM")
}

fn renderer(kind: RendererKind) -> Result<Box<dyn Renderer>> {
    match kind {
        RendererKind::Soft => Ok(Box::new(renderer::Soft::new())),
        RendererKind::Null => Ok(Box::new(renderer::Null)),
        RendererKind::Virgl => bail!("The renderer virgl is not built yet"),
    }
}

fn displays(config: &Config, stats: &Arc<Stats>) -> Result<(Box<dyn Display>, Option<GpuSocketSender>)> {
    if config.sinks.vmm {
        let vmm = VhostUserGpu::new(stats.clone()).context("Cannot prepare for the VMM's window")?;
        let sender = vmm.socket_sender();
        return Ok((Box::new(vmm), Some(sender)));
    }
    Ok((Box::new(NoDisplay), None))
}

/// What a device does with files after it locked itself in.
pub fn grants(config: &Config) -> Vec<Grant> {
    let capture = config.sinks.capture.as_deref().map(|file| Grant::replace_files(&folder_of(file)));
    let executable = std::env::current_exe().ok().map(|file| Grant::name_functions(&file));
    capture.into_iter().chain(executable).collect()
}

/// What `/v1/stats` says of the parts: the device's counters, and the viewer where there is one.
pub fn sections(stats: Arc<Stats>, mut link: Option<Link>) -> Sections {
    Box::new(move || {
        let mut sections = serde_json::Map::new();
        sections.insert("device".to_owned(), json!(stats.snapshot()));
        if let Some(link) = &mut link {
            sections.insert("viewer".to_owned(), json!(link.status()));
        }
        sections
    })
}

/// Where the transport puts the side sockets of a VMM that shows the picture itself; without such a display they are
/// closed, and the VMM shows nothing.
fn on_gpu_socket(vmm: Option<GpuSocketSender>) -> Box<dyn FnMut(OwnedFd) + Send> {
    match vmm {
        Some(sender) => Box::new(move |socket| sender.send(socket)),
        None => Box::new(drop),
    }
}
