//! What people want of the machine.

use uuid::Uuid;

use crate::grant::Grant;
use crate::machine::entry::{Entry, Origin, Pending, Phase, Then};
use crate::machine::{Action, Machine, Outcome, Refusal, START_PATIENCE, STOP_PATIENCE};
use crate::vgpu::Definition;

impl From<bool> for Outcome {
    fn from(changed: bool) -> Outcome {
        if changed { Outcome::Changed } else { Outcome::Unchanged }
    }
}

type Reply = Result<Outcome, Refusal>;

impl Machine {
    pub(super) fn create(&mut self, definition: Definition, start: bool, todo: &mut Vec<Action>) -> Reply {
        let uuid = definition.uuid;
        if let Some(entry) = self.idle(uuid)? {
            if !entry.is_transient() || entry.definition.as_ref() != Some(&definition) {
                return Err(Refusal::Conflict(format!("{uuid} is there already, as something else")));
            }
            return if start { self.start(uuid, todo) } else { Ok(Outcome::Unchanged) };
        }
        self.judge(&definition)?;
        let mut entry = Entry::new(Some(definition), Origin::Transient);
        if start {
            self.vgpus.insert(uuid, entry);
            let reply = self.launch(uuid, todo);
            if reply.is_err() {
                self.vgpus.remove(&uuid);
            }
            return reply.map(|()| Outcome::Changed);
        }
        entry.pending = Some(Pending::Creation);
        todo.extend(entry.record().map(Action::Note));
        self.vgpus.insert(uuid, entry);
        Ok(Outcome::Changed)
    }

    pub(super) fn define(&mut self, definition: Definition, todo: &mut Vec<Action>) -> Reply {
        let uuid = definition.uuid;
        if let Some(entry) = self.idle(uuid)? {
            refuse_broken(uuid, entry)?;
            if entry.origin == Origin::Persistent {
                return if entry.definition.as_ref() == Some(&definition) {
                    Ok(Outcome::Unchanged)
                } else {
                    Err(Refusal::Conflict(format!("{uuid} is defined already, as something else: modify it")))
                };
            }
        }
        self.judge(&definition)?;
        self.write(definition, todo);
        Ok(Outcome::Changed)
    }

    pub(super) fn modify(&mut self, definition: Definition, todo: &mut Vec<Action>) -> Reply {
        let uuid = definition.uuid;
        let entry = self.known(uuid)?;
        refuse_broken(uuid, entry)?;
        if entry.is_transient() {
            return Err(Refusal::Conflict(format!(
                "Nothing is written down of {uuid} that could be modified: define it"
            )));
        }
        if entry.definition.as_ref() == Some(&definition) {
            return Ok(Outcome::Unchanged);
        }
        self.judge(&definition)?;
        self.write(definition, todo);
        Ok(Outcome::Changed)
    }

    /// Has the definition written down; what was before comes back when that cannot be done.
    fn write(&mut self, definition: Definition, todo: &mut Vec<Action>) {
        let before = self.vgpus.get(&definition.uuid).map(|entry| (entry.definition.clone(), entry.origin.clone()));
        let entry = self.vgpus.entry(definition.uuid).or_insert_with(|| Entry::new(None, Origin::Persistent));
        entry.definition = Some(definition.clone());
        entry.origin = Origin::Persistent;
        entry.pending = Some(Pending::Definition { before });
        todo.push(Action::Save(definition));
    }

    pub(super) fn undefine(&mut self, uuid: Uuid, todo: &mut Vec<Action>) -> Reply {
        let entry = self.known(uuid)?;
        if entry.is_transient() {
            if !matches!(entry.phase, Phase::Rest | Phase::Failed { .. }) {
                return Err(Refusal::Conflict(format!(
                    "Nothing is written down of {uuid}: it is gone when it is stopped"
                )));
            }
            self.drop_entry(uuid, todo);
            return Ok(Outcome::Changed);
        }
        self.expect(uuid, Pending::Removal);
        todo.push(Action::Forget(uuid));
        Ok(Outcome::Changed)
    }

    pub(super) fn start(&mut self, uuid: Uuid, todo: &mut Vec<Action>) -> Reply {
        let now = self.now;
        let entry = self.known_mut(uuid)?;
        match &entry.phase {
            Phase::Starting { .. } | Phase::Running { .. } => return Ok(Outcome::Unchanged),
            Phase::Stopping { .. } => {
                return Err(Refusal::Busy(format!("{uuid} is stopping: start it when it has ended")));
            }
            Phase::Held { process, .. } => {
                entry.phase = Phase::Running { process: process.clone(), since: now };
                todo.push(Action::Release(uuid));
                self.note(uuid, todo);
            }
            Phase::Rest | Phase::Failed { .. } => {
                refuse_broken(uuid, entry)?;
                let before = (entry.crashes, entry.proven);
                (entry.crashes, entry.proven) = (0, false);
                if let Err(refusal) = self.launch(uuid, todo) {
                    let entry = self.known_mut(uuid)?;
                    (entry.crashes, entry.proven) = before;
                    return Err(refusal);
                }
            }
        }
        Ok(Outcome::Changed)
    }

    pub(super) fn stop(&mut self, uuid: Uuid, todo: &mut Vec<Action>) -> Reply {
        let until = self.now + STOP_PATIENCE;
        let entry = self.known_mut(uuid)?;
        match &mut entry.phase {
            Phase::Rest if entry.origin == Origin::Transient => self.drop_entry(uuid, todo),
            Phase::Rest => return Ok(Outcome::Unchanged),
            // Whoever stops it has seen that it failed.
            Phase::Failed { .. } => self.finish(uuid, todo),
            Phase::Stopping { then: Then::Rest, .. } => return Ok(Outcome::Unchanged),
            Phase::Stopping { then, .. } => {
                *then = Then::Rest;
                self.note(uuid, todo);
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Held { .. } => {
                let process = entry.process().cloned();
                entry.phase = Phase::Stopping { process, until, then: Then::Rest };
                self.note(uuid, todo);
                todo.push(Action::Terminate(uuid));
            }
        }
        Ok(Outcome::Changed)
    }

    /// Gives it its part and has it started. A refusal changes nothing.
    pub(super) fn launch(&mut self, uuid: Uuid, todo: &mut Vec<Action>) -> Result<(), Refusal> {
        let entry = self.vgpus.get(&uuid).ok_or_else(|| unknown(uuid))?;
        let definition = entry.definition.as_ref().ok_or_else(|| unknown(uuid))?;
        let grant = self.resolve(definition)?;
        if let Some(why) = self.types.barred(&definition.kind) {
            return Err(Refusal::Conflict(format!("Type '{}': {why}", definition.kind)));
        }
        // What it kept for another try may be less than what it wants now.
        let before = entry.grant.as_ref().map(|grant| grant.profile.clone());
        self.partition.release(uuid);
        if let Err(refusal) = self.partition.reserve(uuid, &grant.profile) {
            if let Some(profile) = before {
                self.partition.adopt(uuid, &profile);
            }
            return Err(self.with_names(refusal));
        }
        let until = self.now + START_PATIENCE;
        if let Some(entry) = self.vgpus.get_mut(&uuid) {
            entry.grant = Some(grant);
            entry.phase = Phase::Starting { process: None, until };
            entry.pending = Some(Pending::Start);
            todo.extend(entry.record().map(Action::Note));
        }
        Ok(())
    }

    pub(super) fn resolve(&self, definition: &Definition) -> Result<Grant, Refusal> {
        Grant::resolve(definition, &self.types)
    }

    /// Refuses a definition that means nothing here, or that takes the name of another.
    fn judge(&self, definition: &Definition) -> Result<(), Refusal> {
        self.resolve(definition)?;
        let Some(name) = &definition.name else {
            return Ok(());
        };
        let other = |(uuid, entry): &(&Uuid, &Entry)| **uuid != definition.uuid && entry.name() == Some(name);
        match self.vgpus.iter().find(other) {
            Some((other, _)) => Err(Refusal::Conflict(format!("'{name}' is the name of {other} already"))),
            None => Ok(()),
        }
    }

    /// The entry, if there is one; refused while the disk has not answered about it.
    fn idle(&self, uuid: Uuid) -> Result<Option<&Entry>, Refusal> {
        match self.vgpus.get(&uuid) {
            Some(Entry { pending: Some(_), .. }) => Err(Refusal::Busy(format!("{uuid} is being written down"))),
            entry => Ok(entry),
        }
    }

    fn known(&self, uuid: Uuid) -> Result<&Entry, Refusal> {
        self.idle(uuid)?.ok_or_else(|| unknown(uuid))
    }

    fn known_mut(&mut self, uuid: Uuid) -> Result<&mut Entry, Refusal> {
        self.known(uuid)?;
        self.vgpus.get_mut(&uuid).ok_or_else(|| unknown(uuid))
    }

    fn expect(&mut self, uuid: Uuid, pending: Pending) {
        if let Some(entry) = self.vgpus.get_mut(&uuid) {
            entry.pending = Some(pending);
        }
    }

    /// It is not there any more, and nothing of it.
    pub(super) fn drop_entry(&mut self, uuid: Uuid, todo: &mut Vec<Action>) {
        self.partition.release(uuid);
        self.vgpus.remove(&uuid);
        todo.push(Action::Cleanup(uuid));
    }

    /// Has its record written.
    pub(super) fn note(&self, uuid: Uuid, todo: &mut Vec<Action>) {
        todo.extend(self.vgpus.get(&uuid).and_then(Entry::record).map(Action::Note));
    }
}

fn unknown(uuid: Uuid) -> Refusal {
    Refusal::NotFound(uuid.to_string())
}

fn refuse_broken(uuid: Uuid, entry: &Entry) -> Result<(), Refusal> {
    match &entry.origin {
        Origin::Broken(why) => {
            Err(Refusal::Conflict(format!("The definition file of {uuid} cannot be read and is left as it is: {why}")))
        }
        _ => Ok(()),
    }
}
