//! A world in which everything succeeds at once: what becomes of commands is seen before they are given.

use std::collections::VecDeque;

use crate::machine::{Action, Ending, Event, Machine, Outcome, Refusal};
use crate::record::Process;

/// Has an event happen, and all that follows from it where nothing fails.
pub(crate) fn settle(machine: &mut Machine, event: Event) -> Result<Outcome, Refusal> {
    let now = machine.now();
    let step = machine.step(now, event);
    let mut todo = VecDeque::from(step.actions);
    while let Some(action) = todo.pop_front() {
        for event in answers(action) {
            // The disk answers before anything else happens; what follows from an answer comes before what came later.
            for action in machine.step(now, event).actions.into_iter().rev() {
                todo.push_front(action);
            }
        }
    }
    step.reply
}

fn answers(action: Action) -> Vec<Event> {
    match action {
        Action::Save(definition) => vec![Event::Saved { uuid: definition.uuid }],
        Action::Forget(uuid) => vec![Event::Saved { uuid }],
        Action::Note(record) => vec![Event::Saved { uuid: record.uuid() }],
        Action::Spawn(grant) => {
            let (uuid, process) = (grant.uuid(), Process { pid: 0, start_time: 0, boot_id: String::new() });
            vec![Event::Spawned { uuid, process }, Event::Ready { uuid }]
        }
        Action::Terminate(uuid) | Action::Kill(uuid) => vec![Event::Exited { uuid, pid: None, how: Ending::Code(0) }],
        Action::Hold(_) | Action::Release(_) | Action::Sweep(_) | Action::Cleanup(_) => Vec::new(),
    }
}
