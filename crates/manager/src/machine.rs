//! The life of every vGPU: events in, actions out.

mod words;

use std::time::Duration;

use uuid::Uuid;

use crate::gpu::Gpu;
use crate::partition::Partition;
use crate::profile::Types;

pub use words::{Action, Ending, Event, Outcome, Refusal, Status, Step};

/// All vGPUs of a host.
///
/// It is made with [`Machine::new`], told what was found (`Loaded`, `Adopted`, `Lost`) and then `Begin`; from there on it hears what happens.
#[derive(Debug, Clone)]
pub struct Machine {
    gpus: Vec<Gpu>,
    types: Types,
    partition: Partition,
}

impl Machine {
    /// No vGPU yet.
    pub fn new(gpus: Vec<Gpu>, types: Types) -> Machine {
        Machine { gpus, types, partition: Partition::default() }
    }

    /// What follows from `event`, which happens at `now`. Moments are counted from any one moment and never go back.
    pub fn step(&mut self, now: Duration, event: Event) -> Step {
        let _ = (now, event);
        Step { reply: Ok(Outcome::Unchanged), actions: Vec::new() }
    }

    /// When a `Tick` is due, if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    /// One vGPU.
    pub fn status(&self, uuid: Uuid) -> Option<Status> {
        let _ = uuid;
        None
    }

    /// All of them, by UUID.
    pub fn list(&self) -> impl Iterator<Item = Status> {
        std::iter::empty()
    }

    /// The one that `word` names: a UUID, or the name of one vGPU.
    pub fn find(&self, word: &str) -> Result<Uuid, Refusal> {
        Err(Refusal::NotFound(word.to_owned()))
    }

    /// The GPUs.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// What they offer.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// Who has what of them.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }
}
