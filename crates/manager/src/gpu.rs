//! GPUs: what a host has that vGPUs are made of.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::value::Capset;

/// Which GPU: `software`, or `pci-0000:03:00.0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuId(pub String);

impl GpuId {
    /// The processor that draws, which every host has.
    pub fn software() -> GpuId {
        GpuId("software".to_owned())
    }

    /// The function at this PCI address, as in `0000:03:00.0`.
    pub fn pci(address: &str) -> GpuId {
        GpuId(format!("pci-{address}"))
    }
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A GPU whose memory and time are given to vGPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Which.
    pub id: GpuId,
    /// What people know it by.
    pub name: String,
    /// Bytes that are given to vGPUs; 0 when nobody knows, and then the file of types must say it.
    pub memory: u64,
    /// The DRM render node that draws; `None` for the processor.
    pub node: Option<PathBuf>,
    /// The kinds of 3D that were found to work on it.
    pub capsets: Vec<Capset>,
    /// Whether it is the processor: then a process that is stopped has stopped the GPU.
    pub software: bool,
    /// How the time that a vGPU used is known.
    pub timed: Timed,
}

/// How the time that a vGPU used is known, always from outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timed {
    /// The processor's clocks of all processes that draw for it.
    Processor,
    /// The kernel's `drm-engine-*` lines in the fdinfo of those that hold the node.
    Fdinfo,
    /// Not at all: no share of time can be held.
    Nothing,
}

/// What can be done to hold a client of a kind of 3D to its share of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grips {
    /// Its work is held back before it reaches the GPU: what passes as submits.
    pub gate: bool,
    /// Its processes are stopped. On the processor this stops the work itself; elsewhere only what would be submitted next.
    pub freeze: bool,
    /// The kernel's driver ranks it.
    pub kernel: bool,
    /// A batch that overruns is stopped in its middle, at the end of the slice.
    pub stops_within: bool,
}

impl Gpu {
    /// The grips on a client of this kind.
    ///
    /// Venus renders from a ring in shared memory that the guest fills without a submit, so it cannot be gated. No driver of a
    /// kernel is asked to rank anybody yet.
    pub fn grips(&self, capset: Capset) -> Grips {
        Grips { gate: capset != Capset::Venus, freeze: true, kernel: false, stops_within: self.software }
    }
}
