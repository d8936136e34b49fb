//! What this host has, and what it offers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use manager::gpu::Timed;
use manager::profile::Catalogue;
use manager::{Gpu, GpuId};

use super::store;

/// The file of types in the config folder.
const FILE: &str = "types.toml";

/// Looks at the host, and reads the file of types in this folder if there is one.
pub fn find(config: &Path) -> Result<Catalogue> {
    let gpus = [software()];
    let path = config.join(FILE);
    match store::read(&path).with_context(|| format!("Cannot read {}", path.display()))? {
        Some(text) => Catalogue::parse(&text, &gpus).with_context(|| path.display().to_string()),
        None => Ok(Catalogue::defaults(&gpus)),
    }
}

/// The processor: half of the host's memory is for what is drawn with it.
fn software() -> Gpu {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Gpu {
        id: GpuId::software(),
        name: "the processor".to_owned(),
        memory: kibibytes.unwrap_or(0) * 512,
        node: None,
        capsets: Vec::new(),
        software: true,
        timed: Timed::Processor,
    }
}
