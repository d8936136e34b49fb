//! The life of every vGPU: events in, actions out.
//!
//! ```text
//!            create, define                     Spawned, Ready
//!   (nothing) ──────────▶ defined ── start ──▶ starting ──────▶ running ◀── start ── held
//!       ▲                  ▲  ▲                   │  ▲             │  └──── Hung ────▶ │
//!       │ undefine;        │  │ stop         ended│  │ after a     │ ended by itself   │
//!       │ a transient one  │  └── failed ◀────────┴──┼─ while ─────┴───────────────────┤
//!       │ that ended       │        └───────────────┘                                 │
//!       └──────────────────┴───── stopping ◀──── stop, or no answer in time ──────────┘
//! ```
//!
//! What every event means in every state is decided in three files: `found` (what there is when the machine begins), `commands`
//! (what people want) and `news` (what becomes of processes, and of time).

mod commands;
mod entry;
mod found;
mod news;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::gpu::Gpu;
use crate::partition::Partition;
use crate::profile::{Catalogue, Offer, Types};
use crate::record::Record;
use crate::vgpu::{self, Definition};

use entry::Entry;
pub use words::{Action, Ending, Event, Outcome, Refusal, Status, Step};

/// How long a device may take until it answers.
pub const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to end before it is killed.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often one that was killed and is still there is killed again.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a device that ended by itself must have run so that it counts as the first time.
pub const STEADY: Duration = Duration::from_secs(60);
/// How often one that ends by itself is started again. The pauses before it are 1, 2, 4, 8 and 16 seconds.
pub const RESTARTS: u32 = 5;

/// All vGPUs of a host.
///
/// It is made with [`Machine::new`], told what was found (`Loaded`, `Adopted`, `Lost`) and then `Begin`; from there on it hears what happens.
#[derive(Debug, Clone)]
pub struct Machine {
    now: Duration,
    gpus: Vec<Gpu>,
    types: Types,
    partition: Partition,
    vgpus: BTreeMap<Uuid, Entry>,
    /// Those whose end nobody saw, until it begins.
    lost: Vec<(Record, String)>,
    begun: bool,
}

impl Machine {
    /// No vGPU yet.
    pub fn new(catalogue: Catalogue) -> Machine {
        let Catalogue { gpus, types } = catalogue;
        Machine {
            now: Duration::ZERO,
            partition: Partition::new(&gpus),
            gpus,
            types,
            vgpus: BTreeMap::new(),
            lost: Vec::new(),
            begun: false,
        }
    }

    /// What follows from `event`, which happens at `now`. Moments are counted from any one moment and never go back.
    pub fn step(&mut self, now: Duration, event: Event) -> Step {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        let reply = self.decide(event, &mut actions);
        Step { reply, actions }
    }

    fn decide(&mut self, event: Event, todo: &mut Vec<Action>) -> Result<Outcome, Refusal> {
        match event {
            Event::Loaded { uuid, definition } => self.loaded(uuid, definition),
            Event::Unloaded { uuid } => self.unloaded(uuid, todo),
            Event::Adopted { record, process, ready } => self.adopted(record, process, ready, todo),
            Event::Lost { record, why } => self.lost.push((record, why)),
            Event::Begin { autostart } => self.begin(autostart, todo),
            Event::Reload { catalogue } => self.reload(catalogue),
            Event::Saved { uuid } => self.saved(uuid, todo),
            Event::NotSaved { uuid, why } => self.not_saved(uuid, &why, todo),
            Event::Spawned { uuid, process } => self.spawned(uuid, process, todo),
            Event::SpawnFailed { uuid, why } => self.spawn_failed(uuid, why, todo),
            Event::Ready { uuid } => self.ready(uuid),
            Event::Exited { uuid, pid, how } => self.exited(uuid, pid, &how, todo),
            Event::Hung { uuid, held } => self.hung(uuid, held, todo),
            Event::Tick => self.tick(todo),
            command if !self.begun => {
                let _ = command;
                return Err(Refusal::Busy("The manager is still looking what there is".to_owned()));
            }
            Event::Create { definition, start } => return self.create(definition, start, todo),
            Event::Define { definition } => return self.define(definition, todo),
            Event::Modify { definition } => return self.modify(definition, todo),
            Event::Undefine { uuid } => return self.undefine(uuid, todo),
            Event::Start { uuid } => return self.start(uuid, todo),
            Event::Stop { uuid } => return self.stop(uuid, todo),
            Event::Take { gpu, by } => {
                let taken = self.partition.take(&gpu, &by).map_err(|refusal| self.with_names(refusal));
                return taken.map(Outcome::from);
            }
            Event::Give { gpu } => return self.partition.give(&gpu).map(Outcome::from),
        }
        Ok(Outcome::Unchanged)
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    /// When a `Tick` is due, if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        self.vgpus.values().filter_map(Entry::deadline).min()
    }

    /// One vGPU.
    pub fn status(&self, uuid: Uuid) -> Option<Status> {
        self.vgpus.get(&uuid).map(|entry| self.describe(uuid, entry))
    }

    /// All of them, by UUID.
    pub fn list(&self) -> impl Iterator<Item = Status> {
        self.vgpus.iter().map(|(uuid, entry)| self.describe(*uuid, entry))
    }

    fn describe(&self, uuid: Uuid, entry: &Entry) -> Status {
        let mut status = entry.status(uuid, self.now);
        // What is wrong is told before somebody starts it.
        if status.problem.is_none()
            && let Some(definition) = &entry.definition
        {
            status.problem = self.resolve(definition).err().map(|refusal| refusal.to_string());
        }
        status
    }

    /// What is written down, or would be, of one vGPU.
    pub fn definition(&self, uuid: Uuid) -> Option<&Definition> {
        self.vgpus.get(&uuid)?.definition.as_ref()
    }

    /// The one that `word` names: a UUID, or the name of one vGPU.
    pub fn find(&self, word: &str) -> Result<Uuid, Refusal> {
        if let Ok(uuid) = vgpu::parse_uuid(word) {
            return if self.vgpus.contains_key(&uuid) { Ok(uuid) } else { Err(Refusal::NotFound(word.to_owned())) };
        }
        let mut named = self.vgpus.iter().filter(|(_, entry)| entry.name() == Some(word)).map(|(uuid, _)| *uuid);
        match (named.next(), named.next()) {
            (Some(uuid), None) => Ok(uuid),
            (None, _) => Err(Refusal::NotFound(word.to_owned())),
            (Some(one), Some(other)) => {
                Err(Refusal::Conflict(format!("'{word}' is the name of {one} and of {other}: say which by UUID")))
            }
        }
    }

    /// The same refusal, with what people call those who have what was wanted.
    pub(crate) fn with_names(&self, mut refusal: Refusal) -> Refusal {
        if let Refusal::NoCapacity { holders, .. }
        | Refusal::NoInstance { holders, .. }
        | Refusal::InUse { holders, .. } = &mut refusal
        {
            for holder in holders {
                holder.name = self.vgpus.get(&holder.uuid).and_then(Entry::name).map(str::to_owned);
            }
        }
        refusal
    }

    /// The GPUs.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// What they offer.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// The same, with how much of it is left and what of it is advice.
    pub fn offers(&self) -> impl Iterator<Item = Offer> {
        self.types.iter().map(|kind| Offer::of(kind, &self.gpus, &self.types, &self.partition))
    }

    /// Who has what of the GPUs.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }
}
