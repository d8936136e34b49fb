//! What is said to the machine and what it says.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::gpu::GpuId;
use crate::grant::Grant;
use crate::partition::Holder;
use crate::profile::Catalogue;
use crate::record::{Held, Process, Record};
use crate::value::Bytes;
use crate::vgpu::{Definition, Start, State};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    // Before the machine begins, what was found.
    /// A definition file was read, or could not be: at the start, and when files are read again.
    Loaded {
        /// As the file is named.
        uuid: Uuid,
        /// What it says, or why nobody knows.
        definition: Result<Definition, String>,
    },
    /// The file of this vGPU is not there any more.
    Unloaded {
        /// Whose.
        uuid: Uuid,
    },
    /// A device was found alive that a manager before this one started.
    Adopted {
        /// What was written down of it.
        record: Record,
        /// The process that was found.
        process: Process,
        /// Whether it answers on its control socket already.
        ready: bool,
    },
    /// A record was found, and no process to it. Records of another boot are not said: whoever finds one removes it.
    Lost {
        /// The record.
        record: Record,
        /// What is known of its end.
        why: String,
    },
    /// All of it was said: what is to run is started.
    Begin {
        /// Whether this is the first time since the host came up: `start = "auto"` is for then.
        autostart: bool,
    },
    /// Other GPUs or types from now on. What runs keeps what it was given.
    Reload {
        /// Both.
        catalogue: Catalogue,
    },

    // What people want.
    /// A vGPU that nothing is written down of.
    Create {
        /// What it is.
        definition: Definition,
        /// Whether it is started at once. When that is refused, it is not there either.
        start: bool,
    },
    /// A vGPU that is written down. Of a transient one: it is written down from now on.
    Define {
        /// What it is.
        definition: Definition,
    },
    /// Another definition in the place of the one that is written down; it counts from the next start.
    Modify {
        /// What it is to be.
        definition: Definition,
    },
    /// Nothing is written down any more. What runs goes on until it is stopped.
    Undefine {
        /// Which.
        uuid: Uuid,
    },
    /// It is to run. Releases one that is held.
    Start {
        /// Which.
        uuid: Uuid,
    },
    /// It is to end.
    Stop {
        /// Which.
        uuid: Uuid,
    },
    /// A GPU is taken for passthrough: it offers nothing until it is given back.
    Take {
        /// Which.
        gpu: GpuId,
        /// For whom.
        by: String,
    },
    /// .. and it offers its types again.
    Give {
        /// Which.
        gpu: GpuId,
    },

    // Answers.
    /// A [`Action::Save`], [`Action::Forget`] or [`Action::Note`] was done and is on the disk.
    Saved {
        /// Of which.
        uuid: Uuid,
    },
    /// .. was not done, and the disk is as before.
    NotSaved {
        /// Of which.
        uuid: Uuid,
        /// For people.
        why: String,
    },
    /// The device's process exists.
    Spawned {
        /// Of which.
        uuid: Uuid,
        /// The process.
        process: Process,
    },
    /// It does not, and never did.
    SpawnFailed {
        /// Of which.
        uuid: Uuid,
        /// For people.
        why: String,
    },
    /// The device answers on its control socket.
    Ready {
        /// Of which.
        uuid: Uuid,
    },
    /// The device's process and all below it are gone.
    Exited {
        /// Of which.
        uuid: Uuid,
        /// The process; `None` answers a [`Action::Terminate`] or [`Action::Kill`] where there is none.
        pid: Option<u32>,
        /// How it ended.
        how: Ending,
    },
    /// Work of this vGPU did not finish in time.
    Hung {
        /// Of which.
        uuid: Uuid,
        /// What and when.
        held: Held,
    },
    /// Nothing but time.
    Tick,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It is gone and nobody saw how.
    Unseen,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "ended with exit code {code}"),
            Ending::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Ending::Unseen => f.write_str("ended, and nobody saw how"),
        }
    }
}

/// Something that has to be done. Actions are carried out in the order in which they come.
///
/// `Save`, `Forget` and `Note` are carried out at once, and answered by `Saved` or `NotSaved` before the machine hears anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the definition file, whole or not at all.
    Save(Definition),
    /// Remove the definition file.
    Forget(Uuid),
    /// Write `record.json`, whole or not at all.
    Note(Record),
    /// Start a device. Answered by `Spawned` or `SpawnFailed`, then by `Ready` or `Exited`.
    Spawn(Grant),
    /// Ask its device to end. Answered by `Exited`, at once when there is no process.
    Terminate(Uuid),
    /// Kill its device and all below it. Answered by `Exited`, at once when there is no process.
    Kill(Uuid),
    /// From now on what its guest draws is refused. Not answered.
    Hold(Uuid),
    /// .. is drawn again. Not answered.
    Release(Uuid),
    /// Remove the sockets and the config file of a device that has ended; its log and record stay. Not answered.
    Sweep(Uuid),
    /// Remove the whole folder of a vGPU. Not answered.
    Cleanup(Uuid),
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Something is done about it.
    Changed,
    /// It was so already.
    Unchanged,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// What is said to who asked. Of events that nobody asked for, `Unchanged`.
    pub reply: Result<Outcome, Refusal>,
    /// What is to be done.
    pub actions: Vec<Action>,
}

/// Why a command is not carried out. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such vGPU.
    #[error("There is no vGPU '{0}': beamsplit list shows those that there are")]
    NotFound(String),
    /// It contradicts what there is.
    #[error("{0}")]
    Conflict(String),
    /// The GPU has no room for it.
    #[error("{}", no_capacity(.gpu, .wanted, .free, .holders))]
    NoCapacity {
        /// Which GPU.
        gpu: GpuId,
        /// What would have been needed, in bytes.
        wanted: u64,
        /// What is left, in bytes.
        free: u64,
        /// Who has the rest, the largest first.
        holders: Vec<Holder>,
    },
    /// All of this type that there may be are there.
    #[error("Type '{kind}' allows {max} at a time: held by {}", names(.holders))]
    NoInstance {
        /// The type.
        kind: String,
        /// How many there may be.
        max: u32,
        /// Who they are.
        holders: Vec<Holder>,
    },
    /// vGPUs have parts of a GPU that is wanted whole.
    #[error("{gpu} is in use by {}: stop them first", names(.holders))]
    InUse {
        /// Which GPU.
        gpu: GpuId,
        /// Who they are.
        holders: Vec<Holder>,
    },
    /// It means nothing.
    #[error("{0}")]
    Invalid(String),
    /// Not now: something else is under way with it.
    #[error("{0}")]
    Busy(String),
}

impl Refusal {
    /// The word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NotFound(_) => "not-found",
            Refusal::Conflict(_) | Refusal::InUse { .. } => "conflict",
            Refusal::NoCapacity { .. } | Refusal::NoInstance { .. } => "no-capacity",
            Refusal::Invalid(_) => "invalid",
            Refusal::Busy(_) => "busy",
        }
    }
}

/// How many holders a message names: all of them is a page.
const NAMED: usize = 8;

fn no_capacity(gpu: &GpuId, wanted: &u64, free: &u64, holders: &[Holder]) -> String {
    let held =
        if holders.is_empty() { "nobody has any of it".to_owned() } else { format!("held by {}", names(holders)) };
    format!("{gpu} has {} left and {} are needed: {held}", Bytes(*free), Bytes(*wanted))
}

fn names(holders: &[Holder]) -> String {
    let mut words: Vec<String> = holders.iter().take(NAMED).map(Holder::to_string).collect();
    if holders.len() > NAMED {
        words.push(format!("{} more", holders.len() - NAMED));
    }
    words.join(", ")
}

/// A vGPU as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Which.
    pub uuid: Uuid,
    /// What people call it.
    pub name: Option<String>,
    /// Its type; `None` where its file cannot be read.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: State,
    /// Whether it is written down.
    pub persistent: bool,
    /// Whether it comes up with the host.
    pub start: Start,
    /// What it was given, while it has something.
    pub grant: Option<Grant>,
    /// Its device.
    pub process: Option<Process>,
    /// How often its device ended by itself since somebody last asked for it.
    pub crashes: u32,
    /// In how many milliseconds it is started again.
    pub retry_ms: Option<u64>,
    /// What is wrong with what is written down, while it runs nevertheless.
    pub problem: Option<String>,
}
