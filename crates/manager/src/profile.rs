//! Types: the shapes of vGPU that GPUs offer.

pub(crate) mod defaults;
pub(crate) mod display;
mod file;
mod promise;

use serde::{Deserialize, Serialize};

use crate::document::FileError;
use crate::gpu::{Gpu, GpuId};
use crate::partition::Partition;
use crate::value::{Capset, Mode};

pub use promise::{Advice, Matter};

/// What one that draws little may draw with nevertheless.
const LEAST_DRAWN: u64 = 256 << 20;
/// What libraries and drivers take for themselves in a process for 3D.
const LIBRARIES: u64 = 512 << 20;
/// So many processes for 3D may take all that each of them may: one for OpenGL, one for Vulkan. A guest with more shares it among them.
const FULL_RENDERERS: u64 = 2;
/// What Vulkan's may have beyond that.
const RESERVED: u64 = 1 << 30;
/// What the device itself takes beside images, and who shows them to people.
const PROGRAMS: u64 = 256 << 20;

/// A shape of vGPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Type {
    /// What people ask for.
    pub name: String,
    /// Who offers it.
    pub gpu: GpuId,
    /// Bytes of the GPU's memory that a vGPU has for itself.
    pub memory: u64,
    /// Bytes that each process for its 3D may take for itself, where that is not as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renderer_memory: Option<u64>,
    /// Its heads, with the mode that each begins with.
    pub heads: Vec<Mode>,
    /// Its share of time beside others of the same GPU, 1 to 1000.
    pub weight: u32,
    /// Whether it goes before others.
    pub priority: Priority,
    /// The kinds of 3D that its guest is offered; none: 2D only.
    pub capsets: Vec<Capset>,
    /// Who makes its pixels.
    pub renderer: Renderer,
    /// Who shows them: the words of `--display`.
    pub display: Vec<String>,
    /// Whether what draws 3D is a process of its own: without, there is no grip on its time.
    pub isolate: bool,
    /// Whether a VMM is served a keyboard and pointer, where somebody can look who would type.
    pub input: bool,
    /// The most vGPUs of this type at a time.
    pub max_instances: Option<u32>,
    /// Whether one is started even when the memory is given away already.
    pub overcommit: bool,
    /// How far its share of time is promised.
    pub share: Promise,
}

/// Who goes before whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Runs when nobody else wants to.
    Low,
    /// As most do.
    #[default]
    Normal,
    /// Goes first.
    High,
}

/// Who makes the pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Renderer {
    /// 2D, in memory.
    #[default]
    Soft,
    /// 2D as by `soft`, 3D by the host's libvirglrenderer.
    Virgl,
}

/// How far a share of time is promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// It is what the others leave, by weight.
    #[default]
    Advisory,
    /// The slot is its own, also while it is idle; a batch that overruns is charged for.
    FixedShare,
    /// The same, and a batch that overruns is stopped at the end of its slice.
    Strict,
}

impl Type {
    /// What each process for its 3D may take for itself: as much as the vGPU has, and what libraries and drivers need.
    pub fn renderer_memory(&self) -> u64 {
        self.renderer_memory.unwrap_or(self.memory.max(LEAST_DRAWN).saturating_add(LIBRARIES))
    }

    /// What all processes of a device together may have, for a control group to hold.
    pub fn most_memory(&self) -> u64 {
        let drawn = self.renderer_memory().saturating_add(RESERVED).saturating_mul(FULL_RENDERERS);
        let drawn = if self.draws_3d() { drawn } else { 0 };
        self.memory.saturating_add(PROGRAMS).saturating_add(drawn)
    }

    /// Whether its guest is offered 3D.
    pub fn draws_3d(&self) -> bool {
        !self.capsets.is_empty()
    }
}

/// The types of a host, and the GPUs that they are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The GPUs, with what the file of types says of their memory.
    pub gpus: Vec<Gpu>,
    /// What they offer.
    pub types: Types,
}

impl Catalogue {
    /// What these GPUs can offer without anybody having said anything.
    pub fn defaults(gpus: &[Gpu]) -> Catalogue {
        Catalogue { gpus: gpus.to_vec(), types: Types::collect(defaults::types(gpus), gpus) }
    }

    /// Reads the file of types, on a host with these GPUs.
    pub fn parse(text: &str, gpus: &[Gpu]) -> Result<Catalogue, FileError> {
        file::parse(text, gpus)
    }
}

/// All types of a host, in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Types(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: Type,
    /// Why there can be none of it on this host as it is.
    barred: Option<String>,
}

impl Types {
    fn collect(kinds: Vec<Type>, gpus: &[Gpu]) -> Types {
        let entry = |kind: Type| Entry { barred: promise::barred(&kind, gpus), kind };
        Types(kinds.into_iter().map(entry).collect())
    }

    /// The type of this name.
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.entry(name).map(|entry| &entry.kind)
    }

    /// Why there can be none of it on this host as it is, whoever else has how much.
    pub fn barred(&self, name: &str) -> Option<&str> {
        self.entry(name)?.barred.as_deref()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.0.iter().map(|entry| &entry.kind)
    }

    /// How many more of it could be started now.
    pub fn available(&self, kind: &Type, partition: &Partition) -> u32 {
        if self.barred(&kind.name).is_some() { 0 } else { partition.available(kind) }
    }

    /// The text of a file of types that has these: where the defaults are to become one's own.
    pub fn print(&self) -> String {
        file::print(self.iter())
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.kind.name == name)
    }
}

/// A type as it is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The type.
    #[serde(flatten)]
    pub kind: Type,
    /// How many more could be started now.
    pub available: u32,
    /// Why there can be none, where that is for another reason than that others have them.
    pub barred: Option<String>,
    /// What of it is not held whatever happens.
    pub advisory: Vec<Advice>,
}

impl Offer {
    pub(crate) fn of(kind: &Type, gpus: &[Gpu], types: &Types, partition: &Partition) -> Offer {
        let taken = partition.usage(&kind.gpu).and_then(|usage| usage.taken);
        Offer {
            available: types.available(kind, partition),
            barred: taken
                .map(|by| format!("{} is taken for {by}", kind.gpu))
                .or(types.barred(&kind.name).map(str::to_owned)),
            advisory: promise::advisory(kind, gpus.iter().find(|gpu| gpu.id == kind.gpu)),
            kind: kind.clone(),
        }
    }
}
