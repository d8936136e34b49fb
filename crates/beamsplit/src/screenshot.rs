//! `beamsplit screenshot`: what a head shows, as a PNG file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::client::{self, Manager};
use crate::output;
use crate::verbs::{Usage, at};

/// Save what a virtual machine shows as a PNG file.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// A device's control socket (beamsplit device --control-socket PATH), in the place of VGPU.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The head.
    #[arg(long, value_name = "N", default_value_t = 0)]
    head: u32,
    /// A vGPU of the manager's (its UUID, the beginning of it, or its name), and where to; `-` is the standard output.
    #[arg(value_names = ["VGPU", "FILE"], num_args = 1..=2, required = true)]
    words: Vec<OsString>,
    #[command(flatten)]
    manager: Manager,
}

/// Asks first: a file that is there stays as it is when there is no picture.
pub fn run(words: &Words) -> Result<()> {
    let query = format!("/screenshot?head={}", words.head);
    let (png, file) = match (&words.socket, &words.words[..]) {
        (Some(socket), [file]) => (client::get(socket, &format!("/v1{query}"))?, file),
        (None, [vgpu, file]) => {
            let vgpu = vgpu.to_str().context("No vGPU has a name that is not text")?;
            let vgpu = crate::verbs::vgpu(vgpu).map_err(|why| Usage(format!("'{vgpu}': {why}")))?;
            (words.manager.bytes("GET", &at(&vgpu, &query), None)?, file)
        }
        (Some(_), _) => {
            return Err(Usage("--socket names the device: leave out VGPU, and name the FILE alone".into()).into());
        }
        (None, _) => return Err(Usage("Name the vGPU and the FILE, or a device's --socket and the FILE".into()).into()),
    };
    let file = Path::new(file);
    if file.as_os_str() == "-" {
        return output::write(&png);
    }
    std::fs::write(file, png).with_context(|| format!("Cannot write {}", file.display()))
}
