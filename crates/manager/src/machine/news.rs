//! What becomes of processes, of what was to be written, and of time.

use std::time::Duration;

use uuid::Uuid;

use crate::machine::entry::{Entry, Origin, Pending, Phase, Then};
use crate::machine::{Action, Ending, KILL_PATIENCE, Machine, RESTARTS, START_PATIENCE, STEADY};
use crate::record::{Held, Process};

/// How long to wait before the next try.
pub(super) fn pause(crashes: u32) -> Duration {
    Duration::from_secs(1 << crashes.saturating_sub(1).min(RESTARTS))
}

impl Machine {
    pub(super) fn saved(&mut self, uuid: Uuid, todo: &mut Vec<Action>) {
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        match entry.pending.take() {
            Some(Pending::Start) => todo.extend(entry.grant.clone().map(Action::Spawn)),
            Some(Pending::Removal) => {
                entry.origin = Origin::Transient;
                if matches!(entry.phase, Phase::Rest | Phase::Failed { .. }) {
                    self.drop_entry(uuid, todo);
                }
            }
            // A note that nothing waits for, or what is so already.
            Some(Pending::Creation | Pending::Definition { .. }) | None => {}
        }
    }

    pub(super) fn not_saved(&mut self, uuid: Uuid, why: &str, todo: &mut Vec<Action>) {
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        match entry.pending.take() {
            Some(Pending::Creation | Pending::Definition { before: None }) => {
                self.vgpus.remove(&uuid);
            }
            Some(Pending::Definition { before: Some((definition, origin)) }) => {
                entry.definition = definition;
                entry.origin = origin;
            }
            Some(Pending::Start) => self.crashed(uuid, format!("It could not be written down: {why}"), todo),
            Some(Pending::Removal) | None => {}
        }
    }

    pub(super) fn spawned(&mut self, uuid: Uuid, process: Process, todo: &mut Vec<Action>) {
        match self.vgpus.get_mut(&uuid).map(|entry| &mut entry.phase) {
            Some(Phase::Starting { process: known @ None, .. }) => {
                *known = Some(process);
                self.note(uuid, todo);
            }
            // It was stopped before anybody knew its process.
            Some(Phase::Stopping { process: known @ None, .. }) => {
                *known = Some(process);
                self.note(uuid, todo);
                todo.push(Action::Terminate(uuid));
            }
            // Nobody asked for it.
            Some(Phase::Rest | Phase::Failed { .. }) | None => todo.push(Action::Kill(uuid)),
            // Said twice.
            Some(_) => {}
        }
    }

    pub(super) fn spawn_failed(&mut self, uuid: Uuid, why: String, todo: &mut Vec<Action>) {
        match self.vgpus.get(&uuid).map(|entry| &entry.phase) {
            Some(Phase::Starting { process: None, .. }) => {
                self.crashed(uuid, format!("Its device could not be started: {why}"), todo);
            }
            Some(Phase::Stopping { process: None, .. }) => self.ended(uuid, todo),
            _ => {}
        }
    }

    pub(super) fn ready(&mut self, uuid: Uuid) {
        let since = self.now;
        if let Some(entry) = self.vgpus.get_mut(&uuid)
            && let Phase::Starting { process: Some(process), .. } = &entry.phase
        {
            entry.phase = Phase::Running { process: process.clone(), since };
            entry.proven = true;
        }
    }

    pub(super) fn exited(&mut self, uuid: Uuid, pid: Option<u32>, how: &Ending, todo: &mut Vec<Action>) {
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        // That of another process of the same vGPU, which is over.
        if pid.is_some() && pid != entry.process().map(|process| process.pid) {
            return;
        }
        match &entry.phase {
            Phase::Rest | Phase::Failed { .. } => {}
            Phase::Starting { .. } => self.crashed(uuid, format!("Its device {how}, before it answered"), todo),
            Phase::Running { since, .. } | Phase::Held { since, .. } => {
                if self.now.saturating_sub(*since) >= STEADY {
                    entry.crashes = 0;
                }
                self.crashed(uuid, format!("Its device {how}"), todo);
            }
            Phase::Stopping { .. } => self.ended(uuid, todo),
        }
    }

    /// The process that was stopping is gone.
    fn ended(&mut self, uuid: Uuid, todo: &mut Vec<Action>) {
        match self.vgpus.get(&uuid).map(|entry| &entry.phase) {
            Some(Phase::Stopping { then: Then::Fail(why), .. }) => self.crashed(uuid, why.clone(), todo),
            _ => self.finish(uuid, todo),
        }
    }

    pub(super) fn hung(&mut self, uuid: Uuid, held: Held, todo: &mut Vec<Action>) {
        if let Some(entry) = self.vgpus.get_mut(&uuid)
            && let Phase::Running { process, since } = &entry.phase
        {
            entry.phase = Phase::Held { process: process.clone(), since: *since, held };
            todo.push(Action::Hold(uuid));
            self.note(uuid, todo);
        }
    }

    pub(super) fn tick(&mut self, todo: &mut Vec<Action>) {
        let now = self.now;
        let due = |entry: &Entry| entry.deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<Uuid> = self.vgpus.iter().filter(|(_, entry)| due(entry)).map(|(uuid, _)| *uuid).collect();
        for uuid in due {
            self.overdue(uuid, todo);
        }
    }

    fn overdue(&mut self, uuid: Uuid, todo: &mut Vec<Action>) {
        let again = self.now + KILL_PATIENCE;
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        match &mut entry.phase {
            Phase::Starting { process, .. } => {
                let why = format!("Its device did not answer within {} s", START_PATIENCE.as_secs());
                let process = process.take();
                entry.phase = Phase::Stopping { process, until: again, then: Then::Fail(why) };
                todo.push(Action::Kill(uuid));
            }
            // A process that cannot be killed keeps its memory, and so its part.
            Phase::Stopping { until, .. } => {
                *until = again;
                todo.push(Action::Kill(uuid));
            }
            Phase::Failed { .. } => {
                if let Err(refusal) = self.launch(uuid, todo) {
                    self.fail(uuid, format!("It could not be started again: {refusal}"), todo);
                }
            }
            Phase::Rest | Phase::Running { .. } | Phase::Held { .. } => {}
        }
    }

    /// It ended and was not to. It is started again after a pause, if it ever worked or comes up with the host, but not for ever.
    pub(super) fn crashed(&mut self, uuid: Uuid, why: String, todo: &mut Vec<Action>) {
        let now = self.now;
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        entry.crashes = entry.crashes.saturating_add(1);
        if !(entry.proven || entry.is_auto()) {
            return self.fail(uuid, why, todo);
        }
        if entry.crashes > RESTARTS {
            let why = format!("{why}; so it went {} times, and it is not tried again", entry.crashes);
            return self.fail(uuid, why, todo);
        }
        entry.phase = Phase::Failed { why, retry: Some(now + pause(entry.crashes)) };
        todo.push(Action::Sweep(uuid));
        self.note(uuid, todo);
    }

    /// It does not run, and will not by itself. Its part goes back.
    pub(super) fn fail(&mut self, uuid: Uuid, why: String, todo: &mut Vec<Action>) {
        self.partition.release(uuid);
        if let Some(entry) = self.vgpus.get_mut(&uuid) {
            entry.grant = None;
            entry.pending = None;
            entry.phase = Phase::Failed { why, retry: None };
            todo.push(Action::Sweep(uuid));
            self.note(uuid, todo);
        }
    }

    /// It ended as it was to: it is as before its start, and one that nothing is written down of is gone.
    pub(super) fn finish(&mut self, uuid: Uuid, todo: &mut Vec<Action>) {
        let Some(entry) = self.vgpus.get_mut(&uuid) else {
            return;
        };
        if entry.is_transient() {
            return self.drop_entry(uuid, todo);
        }
        entry.grant = None;
        entry.phase = Phase::Rest;
        entry.crashes = 0;
        entry.proven = false;
        if matches!(entry.origin, Origin::Broken(_)) {
            entry.definition = None;
        }
        self.partition.release(uuid);
        todo.push(Action::Cleanup(uuid));
    }
}
