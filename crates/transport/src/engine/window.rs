//! The device's requests for its shared memory regions, and what became of them.

use std::time::Instant;

use device::Ticket;

use super::{Engine, guarded};
use crate::interrupt::Interrupt;
use crate::window::ticket;

impl<I: Interrupt> Engine<I> {
    /// Hands on what the outbox asks for.
    pub(super) fn ask_window(&mut self) {
        let Self { outbox, interrupt, answers, .. } = self;
        if outbox.window.is_empty() {
            return;
        }
        match interrupt.mapper() {
            Some(mapper) => outbox.window.drain(..).for_each(|request| mapper.ask(request)),
            None => answers.extend(outbox.window.drain(..).map(|request| (ticket(&request), false))),
        }
    }

    /// Tells the device what became of its requests. Returns whether there was anything to tell.
    pub(super) fn poll_window(&mut self, now: Instant) -> bool {
        let Self { interrupt, answers, .. } = self;
        if let Some(mapper) = interrupt.mapper() {
            mapper.poll(now, answers);
            self.window_deadline = mapper.deadline();
        }
        if self.answers.is_empty() {
            return false;
        }
        let mut answers = std::mem::take(&mut self.answers);
        for (ticket, done) in answers.drain(..) {
            self.tell_mapped(ticket, done, now);
        }
        // An empty list with room for the next ones. What a device that panicked had asked is told next time.
        answers.append(&mut self.answers);
        self.answers = answers;
        true
    }

    fn tell_mapped(&mut self, ticket: Ticket, done: bool, now: Instant) {
        if guarded(&mut *self.device, |device| device.mapped(ticket, done)).is_none() {
            self.panicked(now);
        }
    }

    /// The device is about to forget all that it asked for.
    pub(super) fn clear_window(&mut self) {
        let Self { interrupt, answers, outbox, device, .. } = self;
        answers.extend(outbox.window.drain(..).map(|request| (ticket(&request), false)));
        if let Some(mapper) = interrupt.mapper() {
            mapper.clear(answers);
        }
        self.window_deadline = None;
        for (ticket, done) in answers.drain(..) {
            // Whether it panics or not, it is reset next.
            guarded(&mut **device, |device| device.mapped(ticket, done));
        }
    }
}
