//! The GPU as a virtio device: bytes become a command, its reply becomes bytes, and no event ends the process.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::reply::DisplayOne;
use protocol::{Command, Header, Reply, ReplyError, feature};

use super::told::Told;
use super::{Execution, Gpu, MODES_WAIT};
use crate::display::{DisplayEvent, Head, Modes};
use crate::guest_log;
use crate::input::Desktop;
use crate::memory::Memory;
use crate::render::Rendered;
use crate::stats::Kind;
use crate::virtio::{Answer, Completion, ConfigSpace, Outbox, Request, Start, Ticket, VirtioDevice};

/// The queue of all commands but the pointer's (virtio 1.3, section 5.7.2).
pub const CONTROL_QUEUE: u16 = 0;
/// The queue of the pointer's commands.
pub const CURSOR_QUEUE: u16 = 1;

/// As QEMU's own device has it for its control queue, for both, since the cost is the guest's.
const QUEUE_SIZE: u16 = 1024;

/// So many panics in this time, and the queues stop: a guest that found a bug may not retry it for ever.
const PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

impl VirtioDevice for Gpu {
    fn device_id(&self) -> u32 {
        16
    }

    fn queue_sizes(&self) -> &[u16] {
        if self.is_virtio() { &[QUEUE_SIZE; 2] } else { &[] }
    }

    fn features(&self) -> u64 {
        if !self.is_virtio() {
            return 0;
        }
        let three_d = match &self.three_d {
            Some(three_d) if !three_d.renderer.capsets().is_empty() => feature::VIRGL | feature::CONTEXT_INIT,
            _ => 0,
        };
        feature::EDID | feature::RESOURCE_UUID | feature::RESOURCE_BLOB | three_d
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.config.clone()
    }

    fn start(&mut self, features: u64, start: Start) {
        self.features = features;
        self.runs = true;
        self.settle_twins();
        if start == Start::Fresh {
            self.config.clear_events();
            self.resources.mark_stale();
            self.undecided = !self.resources.is_empty() || self.scanouts.pointer.is_some();
            if let Some(three_d) = &mut self.three_d {
                three_d.contexts.mark_stale();
                three_d.window.take_all_away();
                self.undecided |= !three_d.contexts.is_empty();
            }
            if !self.undecided {
                self.told = Told::default();
            }
        }
    }

    fn catch_up(&mut self, memory: &Memory) {
        if catch_unwind(AssertUnwindSafe(|| self.catch_up_with_all(memory))).is_err() {
            self.stats.panics.add(1);
        }
    }

    fn stop(&mut self) {
        self.runs = false;
        if catch_unwind(AssertUnwindSafe(|| self.enter_boot())).is_err() {
            self.stats.panics.add(1);
        }
    }

    fn reset(&mut self) {
        self.order.take_all();
        self.order.forget_rooms();
        self.replies.clear();
        self.undecided = false;
        self.runs = false;
        self.features = 0;
        self.config.clear_events();
        self.told = Told::default();
        self.tell_driver = false;
        if catch_unwind(AssertUnwindSafe(|| {
            self.forget_guest();
            if let Some(three_d) = &mut self.three_d {
                three_d.timelines.take_all();
                three_d.window.forget();
                three_d.renderer.submit_all();
            }
            self.display.reset();
            self.reset_boot();
        }))
        .is_err()
        {
            self.stats.panics.add(1);
        }
        self.publish_memory();
    }

    fn request(&mut self, memory: &Memory, queue: u16, request: Request<'_>, reply: &mut Vec<u8>) -> Answer {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve(memory, queue, &request, reply)));
        outcome.unwrap_or_else(|panic| {
            if self.recover(panic.as_ref(), Instant::now()) {
                return Answer::Broken;
            }
            reply.clear();
            let (header, _) = Command::decode(request.bytes);
            encode(&Reply::Error(ReplyError::Unspec), &header, request.writable, reply);
            Answer::Done
        })
    }

    fn is_full(&self, queue: u16) -> bool {
        queue == CONTROL_QUEUE && self.is_crowded()
    }

    fn poll(&mut self, memory: &Memory, now: Instant, out: &mut Outbox) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.advance(memory, now, out))) {
            out.broken |= self.recover(panic.as_ref(), now);
        }
        out.config_changed |= std::mem::take(&mut self.tell_driver);
        // A front-end that began to stop must not be asked for anything.
        if let Some(three_d) = self.three_d.as_mut().filter(|_| self.runs) {
            three_d.window.requests(&mut out.window);
        }
        self.give_replies(out);
        self.publish_memory();
    }

    fn abandon(&mut self, out: &mut Outbox) {
        if let Some(three_d) = &mut self.three_d {
            three_d.window.abandon();
            three_d.twins.abandon();
            three_d.views.abandon();
        }
        for (ticket, header, undo) in self.order.take_all() {
            let undone = catch_unwind(AssertUnwindSafe(|| {
                self.give_up(ticket, undo);
            }));
            if let Err(panic) = undone {
                out.broken |= self.recover(panic.as_ref(), Instant::now());
            }
            self.replies.push((ticket, header, Reply::Error(ReplyError::Unspec)));
        }
        self.give_up_timelines();
        self.give_replies(out);
    }

    fn shared_memory(&self) -> Vec<u64> {
        match &self.three_d {
            Some(three_d) if three_d.window.size() > 0 => vec![0, three_d.window.size()],
            _ => Vec::new(),
        }
    }

    fn memory(&mut self, memory: &Memory) {
        if let Some(three_d) = &mut self.three_d {
            three_d.renderer.memory(memory);
        }
    }

    fn mapped(&mut self, ticket: Ticket, ok: bool) {
        self.take_mapped(ticket, ok);
    }

    fn config_accessed(&mut self) {
        self.display.refresh_modes();
        if !self.config.is_display_event_raised() {
            self.repeat_news();
        }
    }

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        let three_d = self.three_d.as_ref().and_then(|three_d| three_d.renderer.poll_fd());
        self.renderer.poll_fd().into_iter().chain(self.display.poll_fd()).chain(three_d).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.order.modes_deadline, self.display.deadline(), self.boot_deadline()];
        let three_d = self.three_d.as_ref().map(|three_d| [three_d.renderer.deadline(), three_d.window.deadline()]);
        deadlines.into_iter().chain(three_d.into_iter().flatten()).flatten().min()
    }
}

impl Gpu {
    fn serve(&mut self, memory: &Memory, queue: u16, request: &Request<'_>, out: &mut Vec<u8>) -> Answer {
        self.stats.commands.add(1);
        let (header, command) = Command::decode(request.bytes);
        let command = match command {
            _ if request.carried > request.bytes.len() as u64 => Err(ReplyError::OutOfMemory),
            Ok(command) if command.is_cursor() != (queue == CURSOR_QUEUE) => Err(ReplyError::Unspec),
            Ok(command) => Ok(command),
            Err(error) => {
                guest_log!(debug, "{error}");
                Err(error.into())
            }
        };
        match self.admit(memory, header, command) {
            Execution::Done(reply) => {
                self.stats.errors.add(u64::from(reply.is_error()));
                encode(&reply, &header, request.writable, out);
                Answer::Done
            }
            Execution::Later(ticket) => {
                self.order.set_room(ticket, request.writable);
                self.stats.parked.add(1);
                Answer::Later(ticket)
            }
        }
    }

    /// Takes in what the renderer and the display have to say.
    fn advance(&mut self, memory: &Memory, now: Instant, out: &mut Outbox) {
        let mut rendered = std::mem::take(&mut self.rendered);
        self.renderer.poll(&mut rendered);
        for Rendered { ticket, result } in rendered.drain(..) {
            // An answer that nobody waits for: a second one, or one to a request that was abandoned.
            let Some(done) = self.order.finish(ticket) else { continue };
            self.go_on(ticket, done, result);
        }
        if self.three_d.is_some() {
            self.advance_3d(memory, now, &mut rendered);
        }
        self.rendered = rendered;

        if std::mem::take(&mut self.unseen) {
            self.show_all(memory);
        }
        let mut events = std::mem::take(&mut self.events);
        self.display.poll(now, &mut events);
        for event in events.drain(..) {
            self.take_in(memory, event, out);
        }
        self.events = events;
        self.poll_boot(memory, now);

        if !self.order.is_idle() {
            self.advance_waiting(memory, now);
        }
        if let Some(three_d) = &mut self.three_d {
            three_d.renderer.submit_all();
        }
    }

    /// Takes in what the 3D renderer has to say, and what was waited for too long.
    fn advance_3d(&mut self, memory: &Memory, now: Instant, rendered: &mut Vec<Rendered>) {
        let Some(three_d) = &mut self.three_d else { return };
        three_d.renderer.poll(now, rendered);
        let mut late = Vec::new();
        three_d.window.pass(now, &mut late);
        for Rendered { ticket, result } in rendered.drain(..) {
            if let Some(done) = self.order.finish(ticket) {
                self.go_on(ticket, done, result);
            } else if !self.three_d.as_mut().is_some_and(|it| it.timelines.retired(ticket, &mut self.replies))
                && !self.finish_twin(memory, ticket, result)
            {
                self.finish_read(memory, ticket, result);
            }
        }
        for (ticket, reply) in late {
            self.complete(ticket, reply);
        }
        self.catch_up_twins(memory);
        self.show_made_blobs(memory);
    }

    fn advance_waiting(&mut self, memory: &Memory, now: Instant) {
        if self.order.is_waiting_for_modes() {
            let deadline = *self.order.modes_deadline.get_or_insert(now + MODES_WAIT);
            if self.display.modes() != Modes::Pending || now >= deadline {
                self.run_waiting_for_modes();
            }
        }
        self.run_waiting(memory);
    }

    /// Nobody waits for fences any more: what is done is answered so.
    fn give_up_timelines(&mut self) {
        if let Some(three_d) = &mut self.three_d {
            self.replies.append(&mut three_d.timelines.take_all());
        }
    }

    /// Says what memory there is that is not charged.
    fn publish_memory(&self) {
        self.stats.memory.set(Kind::Waiting, self.order.waiting_bytes() as u64);
        if let Some(boot) = &self.boot {
            self.stats.memory.set(Kind::Boot, boot.bytes());
        }
    }

    /// Hands out what became of parked commands.
    fn give_replies(&mut self, out: &mut Outbox) {
        for (ticket, header, reply) in self.replies.drain(..) {
            self.stats.errors.add(u64::from(reply.is_error()));
            let mut bytes = Vec::new();
            encode(&reply, &header, self.order.take_room(ticket), &mut bytes);
            out.completions.push(Completion { ticket, reply: bytes });
        }
    }

    fn take_in(&mut self, memory: &Memory, event: DisplayEvent, out: &mut Outbox) {
        match event {
            DisplayEvent::ModesChanged { notify } => {
                self.lay_out();
                if notify {
                    self.told.all_changed();
                    self.config.raise_display_event();
                    out.config_changed = true;
                }
            }
            DisplayEvent::Resize { scanout, width, height } => {
                out.config_changed |= self.resize(scanout, width, height);
            }
            DisplayEvent::Ready { scanout, damage } => self.supply(memory, scanout, damage),
            DisplayEvent::Forgot => self.show_all(memory),
        }
    }

    /// Asks the guest for a head of another size. Returns whether the driver is to be told; `false` also when the VMM
    /// owns the modes.
    pub fn resize(&mut self, scanout: protocol::ScanoutId, width: u32, height: u32) -> bool {
        let resized = self.display.modes() == Modes::Device && self.heads.resize(scanout, width, height);
        if resized {
            self.lay_out();
            self.told.changed(scanout);
            self.config.raise_display_event();
        }
        resized
    }

    /// Has the driver ask again when what it was answered is not true any more.
    pub(super) fn repeat_news(&mut self) {
        if self.told.take_old() {
            self.config.raise_display_event();
            self.tell_driver = true;
        }
    }

    /// Tells a desktop where the heads are, now and whenever one of them changes.
    pub fn lay_out_on(&mut self, desktop: Arc<Desktop>) {
        self.desktop = Some(desktop);
        self.lay_out();
    }

    pub(super) fn lay_out(&self) {
        let boot = self.lay_out_boot();
        let Some(desktop) = &self.desktop else { return };
        if let Some(rect) = boot {
            desktop.set(&[Head { enabled: true, rect }]);
        } else {
            let heads = self.heads.info(self.display.as_ref()).into_iter();
            desktop.set(&heads.map(|DisplayOne { rect, enabled }| Head { enabled, rect }).collect::<Vec<_>>());
        }
    }

    /// The modes that a guest is asked to set, where the device owns the modes.
    pub fn modes(&self) -> Vec<protocol::edid::Mode> {
        self.heads.modes().collect()
    }

    /// After a panic nothing that the guest made can be trusted: it is dropped, as by a reset, and what was parked is
    /// answered with an error. Returns whether there were too many.
    fn recover(&mut self, panic: &(dyn Any + Send), now: Instant) -> bool {
        self.stats.panics.add(1);
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        guest_log!(error, "Caught a panic, dropping the guest's resources: {message}");
        self.panics.retain(|panic| now.saturating_duration_since(*panic) < PANIC_WINDOW);
        self.panics.push(now);
        for (ticket, header, _) in self.order.take_all() {
            self.replies.push((ticket, header, Reply::Error(ReplyError::Unspec)));
        }
        self.give_up_timelines();
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            self.forget_guest();
            self.forget_boot();
        }));
        dropped.is_err() || self.panics.len() >= PANICS
    }
}

/// A reply that does not fit is an error, and one without room for a header is left out.
fn encode(reply: &Reply, header: &Header, room: u64, out: &mut Vec<u8>) {
    reply.encode(header, out);
    if out.len() as u64 > room && out.len() > Header::SIZE {
        out.clear();
        Reply::Error(ReplyError::InvalidParameter).encode(header, out);
    }
    if out.len() as u64 > room {
        out.clear();
    }
}
