//! What is written down of a vGPU that was started, so that a manager that is started anew finds it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::profile::Type;
use crate::vgpu::Definition;

/// The version of [`Record`] that this program writes and reads.
pub const VERSION: u32 = 1;

/// The content of `record.json` in the folder of a vGPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The definition as it was when the vGPU was started.
    pub definition: Definition,
    /// The type as it was then; `None` of one that was never started.
    pub profile: Option<Type>,
    /// The device, once it is known.
    pub process: Option<Process>,
    /// What was to become of it.
    pub goal: Goal,
    /// Why it is held, if it is.
    pub held: Option<Held>,
    /// Why it failed, if it did: for good, or until it is tried again.
    pub failed: Option<String>,
    /// How often it ended by itself since somebody last asked for it.
    pub crashes: u32,
}

impl Record {
    /// Whose it is.
    pub fn uuid(&self) -> Uuid {
        self.definition.uuid
    }
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started: field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` of that boot.
    pub boot_id: String,
}

/// What is to become of a vGPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// It is not to run.
    Rest,
    /// It is to run, and is started again when it ends.
    Run,
    /// It is to end.
    Stop,
}

/// Why a vGPU's work is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// For people.
    pub why: String,
    /// The last command that was under way, when it is known.
    pub last: Option<String>,
}
