//! One vGPU in the machine.

use std::time::Duration;

use uuid::Uuid;

use crate::grant::Grant;
use crate::machine::words::Status;
use crate::record::{Goal, Held, Process, Record, VERSION};
use crate::vgpu::{Definition, Start, State};

/// What the machine knows of a vGPU.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What it is; `None` while its file cannot be read and it does not run.
    pub definition: Option<Definition>,
    pub origin: Origin,
    pub phase: Phase,
    /// What it was given. Whenever there is one, the partition has a part for it.
    pub grant: Option<Grant>,
    /// What waits until the disk has answered.
    pub pending: Option<Pending>,
    /// How often it ended by itself since somebody last asked for it.
    pub crashes: u32,
    /// Whether it ever answered since then: one that never did is not started again by itself.
    pub proven: bool,
}

/// Where its definition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// In a file.
    Persistent,
    /// In a file that cannot be read, for this reason, and is not touched.
    Broken(String),
    /// Nowhere but here.
    Transient,
}

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Rest,
    /// Nothing runs. With a moment, it is started again then, and keeps its part until then.
    Failed {
        why: String,
        retry: Option<Duration>,
    },
    Starting {
        process: Option<Process>,
        until: Duration,
    },
    Running {
        process: Process,
        since: Duration,
    },
    Held {
        process: Process,
        since: Duration,
        held: Held,
    },
    /// It was asked to end, or killed.
    Stopping {
        process: Option<Process>,
        /// When it is killed next.
        until: Duration,
        then: Then,
    },
}

/// What a vGPU is once its process has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// As it was before it was started.
    Rest,
    /// Failed, for this reason.
    Fail(String),
}

/// What waits until the disk has answered.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    /// That it is there at all.
    Creation,
    /// Another definition; what was before comes back when it cannot be written.
    Definition { before: Option<(Option<Definition>, Origin)> },
    /// That its file is removed.
    Removal,
    /// Its start.
    Start,
}

impl Entry {
    pub fn new(definition: Option<Definition>, origin: Origin) -> Entry {
        Entry { definition, origin, phase: Phase::Rest, grant: None, pending: None, crashes: 0, proven: false }
    }

    pub fn is_transient(&self) -> bool {
        self.origin == Origin::Transient
    }

    pub fn name(&self) -> Option<&str> {
        self.definition.as_ref()?.name.as_deref()
    }

    /// Whether it comes up with the host.
    pub fn is_auto(&self) -> bool {
        self.origin == Origin::Persistent && self.definition.as_ref().is_some_and(|words| words.start == Start::Auto)
    }

    pub fn process(&self) -> Option<&Process> {
        match &self.phase {
            Phase::Rest | Phase::Failed { .. } => None,
            Phase::Starting { process, .. } | Phase::Stopping { process, .. } => process.as_ref(),
            Phase::Running { process, .. } | Phase::Held { process, .. } => Some(process),
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Rest | Phase::Running { .. } | Phase::Held { .. } => None,
            Phase::Failed { retry, .. } => *retry,
            Phase::Starting { until, .. } | Phase::Stopping { until, .. } => Some(*until),
        }
    }

    /// What is to be written down of it in `record.json`.
    pub fn record(&self) -> Option<Record> {
        let (goal, failed) = match &self.phase {
            Phase::Rest => (Goal::Rest, None),
            Phase::Failed { why, retry: None } => (Goal::Rest, Some(why.clone())),
            Phase::Failed { why, retry: Some(_) } => (Goal::Run, Some(why.clone())),
            Phase::Stopping { then: Then::Rest, .. } => (Goal::Stop, None),
            _ => (Goal::Run, None),
        };
        let held = match &self.phase {
            Phase::Held { held, .. } => Some(held.clone()),
            _ => None,
        };
        let given = self.grant.as_ref().map(|grant| &grant.definition);
        Some(Record {
            version: VERSION,
            definition: given.or(self.definition.as_ref())?.clone(),
            profile: self.grant.as_ref().map(|grant| grant.profile.clone()),
            process: self.process().cloned(),
            goal,
            held,
            failed,
            crashes: self.crashes,
        })
    }

    pub fn status(&self, uuid: Uuid, now: Duration) -> Status {
        let broken = match &self.origin {
            Origin::Broken(why) => Some(why.clone()),
            _ => None,
        };
        let state = match (&self.phase, &broken) {
            (Phase::Rest, Some(why)) => State::Failed { why: why.clone() },
            (Phase::Rest, None) => State::Defined,
            (Phase::Failed { why, .. }, _) => State::Failed { why: why.clone() },
            (Phase::Starting { .. }, _) => State::Starting,
            (Phase::Running { .. }, _) => State::Running,
            (Phase::Held { held, .. }, _) => State::Held { why: held.why.clone(), last: held.last.clone() },
            (Phase::Stopping { .. }, _) => State::Stopping,
        };
        let retry = match self.phase {
            Phase::Failed { retry, .. } => retry,
            _ => None,
        };
        Status {
            uuid,
            name: self.name().map(str::to_owned),
            kind: self.definition.as_ref().map(|definition| definition.kind.clone()),
            problem: broken.filter(|_| !matches!(self.phase, Phase::Rest)),
            state,
            persistent: !self.is_transient(),
            start: self.definition.as_ref().map_or(Start::Manual, |definition| definition.start),
            grant: self.grant.clone(),
            process: self.process().cloned(),
            crashes: self.crashes,
            retry_ms: retry.map(|at| u64::try_from(at.saturating_sub(now).as_millis()).unwrap_or(u64::MAX)),
        }
    }
}
