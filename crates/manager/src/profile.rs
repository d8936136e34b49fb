//! Types: the shapes of vGPU that GPUs offer.

use serde::{Deserialize, Serialize};

use crate::gpu::{Gpu, GpuId};
use crate::partition::Partition;
use crate::value::{Capset, Mode};

/// A shape of vGPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Type {
    /// What people ask for.
    pub name: String,
    /// Who offers it.
    pub gpu: GpuId,
    /// Bytes of the GPU's memory that a vGPU has for itself.
    pub memory: u64,
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
    /// Whether what draws 3D is a process of its own. It always is.
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

/// All types of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Types(Vec<Type>);

impl Types {
    /// What each GPU can offer without anybody having said anything.
    pub fn defaults(gpus: &[Gpu]) -> Types {
        let _ = gpus;
        Types::default()
    }

    /// The type of this name.
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.0.iter().find(|kind| kind.name == name)
    }

    /// All of them, in the order in which they are shown.
    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.0.iter()
    }

    /// How many more of it could be started now.
    pub fn available(kind: &Type, partition: &Partition) -> u32 {
        partition.available(kind)
    }
}
