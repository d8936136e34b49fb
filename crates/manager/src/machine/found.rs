//! What there is when the machine begins, and what is read again later.

use uuid::Uuid;

use crate::grant::Grant;
use crate::machine::entry::{Entry, Origin, Phase, Then};
use crate::machine::news::pause;
use crate::machine::{Action, Machine, START_PATIENCE, STOP_PATIENCE};
use crate::profile::Catalogue;
use crate::record::{Goal, Process, Record};
use crate::vgpu::Definition;

impl Machine {
    /// A file says what a vGPU is. What runs goes on with what it was given.
    pub(super) fn loaded(&mut self, uuid: Uuid, definition: Result<Definition, String>) {
        let judged = definition.and_then(|definition| {
            if definition.uuid != uuid {
                return Err(format!("The file is named after {uuid}, and says uuid = \"{}\"", definition.uuid));
            }
            definition.check().map(|()| definition)
        });
        let entry = self.vgpus.entry(uuid).or_insert_with(|| Entry::new(None, Origin::Persistent));
        match judged {
            Ok(definition) => {
                entry.definition = Some(definition);
                entry.origin = Origin::Persistent;
            }
            Err(why) => {
                // One that has something must be known by what it was given.
                entry.definition = entry.grant.as_ref().map(|grant| grant.definition.clone());
                entry.origin = Origin::Broken(why);
            }
        }
    }

    /// The file is gone, removed by hand. What runs goes on.
    pub(super) fn unloaded(&mut self, uuid: Uuid, todo: &mut Vec<Action>) {
        let Some(entry) = self.vgpus.get_mut(&uuid).filter(|entry| !entry.is_transient()) else {
            return;
        };
        if matches!(entry.phase, Phase::Rest | Phase::Failed { .. }) {
            self.drop_entry(uuid, todo);
        } else {
            entry.origin = Origin::Transient;
        }
    }

    /// A device is alive: what it has is written down, whether it fits or not.
    pub(super) fn adopted(&mut self, record: Record, process: Process, ready: bool, todo: &mut Vec<Action>) {
        let uuid = record.uuid();
        let new = || Entry::new(Some(record.definition.clone()), Origin::Transient);
        let entry = self.vgpus.entry(uuid).or_insert_with(new);
        if !matches!(entry.phase, Phase::Rest) {
            return;
        }
        entry.definition.get_or_insert_with(|| record.definition.clone());
        entry.crashes = record.crashes;
        entry.proven = ready || record.crashes > 0;
        if let Some(profile) = record.profile.clone() {
            self.partition.adopt(uuid, &profile);
            entry.grant = Some(Grant { definition: record.definition.clone(), profile });
        }
        let known = record.process.as_ref() == Some(&process);
        let now = self.now;
        let stopping = |process, then| Phase::Stopping { process: Some(process), until: now + STOP_PATIENCE, then };
        entry.phase = match (record.goal, record.held) {
            (Goal::Rest | Goal::Stop, _) => {
                todo.push(Action::Terminate(uuid));
                stopping(process, Then::Rest)
            }
            // It was given nothing, so nobody asked for it.
            (Goal::Run, _) if entry.grant.is_none() => {
                todo.push(Action::Terminate(uuid));
                stopping(process, Then::Rest)
            }
            (Goal::Run, Some(held)) => {
                todo.push(Action::Hold(uuid));
                Phase::Held { process, since: now, held }
            }
            (Goal::Run, None) if ready => Phase::Running { process, since: now },
            (Goal::Run, None) => Phase::Starting { process: Some(process), until: now + START_PATIENCE },
        };
        if !known {
            self.note(uuid, todo);
        }
    }

    /// Everything that was found has been said. Those that are alive have their parts; then those whose end nobody saw, which had
    /// one too; then those that come up with the host.
    pub(super) fn begin(&mut self, autostart: bool, todo: &mut Vec<Action>) {
        if self.begun {
            return;
        }
        self.begun = true;
        for (record, why) in std::mem::take(&mut self.lost) {
            self.mourn(record, why, todo);
        }
        if !autostart {
            return;
        }
        let auto = |entry: &Entry| entry.is_auto() && matches!(entry.phase, Phase::Rest);
        let auto: Vec<Uuid> = self.vgpus.iter().filter(|(_, entry)| auto(entry)).map(|(uuid, _)| *uuid).collect();
        for uuid in auto {
            if let Err(refusal) = self.launch(uuid, todo) {
                self.fail(uuid, refusal.to_string(), todo);
            }
        }
    }

    /// A record without a process: it ended while no manager watched, or never ran.
    fn mourn(&mut self, record: Record, why: String, todo: &mut Vec<Action>) {
        let uuid = record.uuid();
        let new = || Entry::new(Some(record.definition.clone()), Origin::Transient);
        let entry = self.vgpus.entry(uuid).or_insert_with(new);
        if !matches!(entry.phase, Phase::Rest) {
            return;
        }
        entry.crashes = record.crashes;
        match record.goal {
            Goal::Stop => self.finish(uuid, todo),
            Goal::Run => self.mourn_running(record, why, todo),
            Goal::Rest => match record.failed {
                Some(why) => entry.phase = Phase::Failed { why, retry: None },
                // A transient one that was not started yet.
                None if entry.is_transient() => {}
                None => todo.push(Action::Cleanup(uuid)),
            },
        }
    }

    /// It was to run. Its part is kept for it, as if somebody had seen its end.
    fn mourn_running(&mut self, record: Record, why: String, todo: &mut Vec<Action>) {
        let uuid = record.uuid();
        let Some(profile) = record.profile else {
            return self.fail(uuid, why, todo);
        };
        if let Err(refusal) = self.partition.reserve(uuid, &profile) {
            return self.fail(uuid, format!("{why}; {refusal}"), todo);
        }
        let now = self.now;
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        entry.grant = Some(Grant { definition: record.definition, profile });
        entry.proven = record.process.is_some() || record.crashes > 0;
        match (record.process, record.failed) {
            (Some(_), _) => self.crashed(uuid, why, todo),
            // It was waiting for another try.
            (None, Some(failed)) => {
                entry.phase = Phase::Failed { why: failed, retry: Some(now + pause(record.crashes)) };
            }
            // It was about to be started.
            (None, None) => {
                if let Err(refusal) = self.launch(uuid, todo) {
                    self.fail(uuid, refusal.to_string(), todo);
                }
            }
        }
    }

    /// Other GPUs or types from now on.
    pub(super) fn reload(&mut self, catalogue: Catalogue) {
        self.partition.set_gpus(&catalogue.gpus);
        self.gpus = catalogue.gpus;
        self.types = catalogue.types;
    }
}
