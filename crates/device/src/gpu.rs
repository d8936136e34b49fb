//! The GPU: one match over the commands of virtio 1.3, section 5.7.6, and the tables they work on.

mod blobs;
mod boot;
mod config;
mod contexts;
mod desc;
mod gates;
mod heads;
mod ledger;
mod order;
mod reads;
mod resources;
mod scanouts;
mod served;
mod shown;
mod sizes;
mod state;
mod three_d;
mod timelines;
mod told;
mod twins;
mod views;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::edid::Mode;
use protocol::{Command, Header, Reply, ReplyError, ResourceId};

pub use config::GpuConfigSpace;
pub use scanouts::Capture;
pub use served::{CONTROL_QUEUE, CURSOR_QUEUE};
pub use state::{RestoreError, State};
pub use views::Guard;

use crate::caps;
use crate::display::{Display, DisplayEvent};
use crate::input::Desktop;
use crate::memory::Memory;
use crate::render::{Rendered, Renderer};
use crate::stats::Stats;
use crate::three_d::{ThreeD, Way};
use crate::virtio::Ticket;
use boot::Boot;
use heads::Heads;
use order::{Order, UnderWay};
use resources::Resources;
use shown::Scanouts;
use three_d::Rendering;
use told::Told;

/// How long a guest that asks for its modes waits for a VMM that does not answer.
const MODES_WAIT: Duration = Duration::from_secs(1);

/// What a GPU is made of.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// The heads, at most sixteen, as they are until a display resizes them.
    pub heads: Vec<Mode>,
    /// The EDID of the first head instead of one of our own.
    pub edid: Option<protocol::edid::Edid>,
    /// Bytes that all a guest makes by commands may take together, of whatever kind: see [`stats::Kind`](crate::stats::Kind).
    pub memory: u64,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { heads: vec![Mode { width: 1280, height: 800, refresh: 60 }], edid: None, memory: 256 << 20 }
    }
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Its reply.
    Done(Reply),
    /// The ticket under which its reply will come.
    Later(Ticket),
}

/// A virtio-gpu.
pub struct Gpu {
    renderer: Box<dyn Renderer>,
    three_d: Option<Box<Rendering>>,
    display: Box<dyn Display>,
    config: Arc<GpuConfigSpace>,
    stats: Arc<Stats>,
    features: u64,
    /// Between a start and the stop that follows.
    runs: bool,
    heads: Heads,
    told: Told,
    /// The driver is to ask for the heads again.
    tell_driver: bool,
    resources: Resources,
    scanouts: Scanouts,
    order: Order,
    /// Whether resources of an earlier driver are kept until the next one shows which it is.
    undecided: bool,
    panics: Vec<Instant>,
    /// Replies of parked commands that the transport does not have yet.
    replies: Vec<(Ticket, Header, Reply)>,
    /// Whether the display was not told yet what the heads show: a state was restored.
    unseen: bool,
    /// Who is to know where the heads are.
    desktop: Option<Arc<Desktop>>,
    /// The screen before a driver.
    boot: Option<Boot>,
    // Kept between polls so that an idle one allocates nothing.
    rendered: Vec<Rendered>,
    events: Vec<DisplayEvent>,
}

impl Gpu {
    /// A GPU whose guest has not started yet.
    pub fn new(options: GpuOptions, renderer: Box<dyn Renderer>, display: Box<dyn Display>, stats: Arc<Stats>) -> Self {
        let heads = Heads::new(options.heads, options.edid);
        Self {
            renderer,
            three_d: None,
            display,
            config: Arc::new(GpuConfigSpace::new(heads.len(), &[])),
            features: 0,
            runs: false,
            resources: Resources::new(options.memory, stats.clone()),
            stats,
            heads,
            told: Told::default(),
            tell_driver: false,
            scanouts: Scanouts::default(),
            order: Order::default(),
            undecided: false,
            panics: Vec::new(),
            replies: Vec::new(),
            unseen: false,
            desktop: None,
            boot: None,
            rendered: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Gives it contexts. `window` is the size in bytes of the memory in which it shows blobs of the host to the guest; 0: none.
    pub fn with_three_d(mut self, three_d: Box<dyn ThreeD>, window: u64) -> Self {
        self.config = Arc::new(GpuConfigSpace::new(self.heads.len(), three_d.capsets()));
        self.three_d = Some(Box::new(Rendering::new(three_d, window, &self.stats)));
        self
    }

    /// What this GPU counts.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// How many commands wait for their reply.
    pub fn parked(&self) -> usize {
        self.order.len() + self.three_d.as_ref().map_or(0, |three_d| three_d.timelines.held())
    }

    /// Executes a command, or parks it behind an earlier one that names the same resource or head and is under way.
    pub fn execute(&mut self, memory: &Memory, header: Header, command: Command) -> Execution {
        self.admit(memory, header, Ok(command))
    }

    /// As [`execute`](Self::execute), of what may be no command at all.
    fn admit(&mut self, memory: &Memory, header: Header, command: Result<Command, ReplyError>) -> Execution {
        let ticket = self.order.ticket();
        if self.parked() >= caps::PARKED {
            return Execution::Done(Reply::Error(ReplyError::OutOfMemory));
        }
        let line = self.three_d.is_some().then(|| self.line(&header)).flatten();
        if let (Some(three_d), Some(line)) = (&mut self.three_d, line) {
            three_d.timelines.enter(line, ticket, header);
        }
        self.look_at_gates();
        let gate = command.as_ref().ok().and_then(|command| self.gate(&header, command));
        let execution = match command {
            Ok(command) if let Some(gate) = gate.filter(|_| self.uses_image(&command)) => {
                self.order.wait_to_use(ticket, header, command, gate);
                Execution::Later(ticket)
            }
            Ok(command) if gate.is_some() || !self.order.is_idle() && self.order.must_wait(&header, &command) => {
                self.order.wait(ticket, header, command, gate);
                Execution::Later(ticket)
            }
            Ok(command) => self.run(memory, ticket, header, command),
            Err(error) => Execution::Done(Reply::Error(error)),
        };
        match (execution, line) {
            (Execution::Done(reply), Some(_)) => {
                self.answer(ticket, header, reply);
                let released = self.replies.pop_if(|(last, ..)| *last == ticket);
                released.map_or(Execution::Later(ticket), |(_, _, reply)| Execution::Done(reply))
            }
            (execution, _) => execution,
        }
    }

    /// A command is done. Its reply is given at once, or when it is its turn.
    fn answer(&mut self, ticket: Ticket, header: Header, reply: Reply) {
        match &mut self.three_d {
            Some(three_d) => three_d.timelines.done(ticket, header, reply, &mut self.replies),
            None => self.replies.push((ticket, header, reply)),
        }
    }

    /// A command that was under way is done.
    fn complete(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(done) = self.order.finish(ticket) {
            self.answer(ticket, done.header, reply);
        }
    }

    /// Executes a command that no earlier one stands in the way of.
    fn run(&mut self, memory: &Memory, ticket: Ticket, header: Header, command: Command) -> Execution {
        if self.undecided {
            self.decide(&command);
        }
        let step = match command {
            Command::GetDisplayInfo | Command::GetEdid { .. } if self.heads.are_pending(self.display.as_ref()) => {
                self.order.wait_for_modes(ticket, header, command);
                return Execution::Later(ticket);
            }
            Command::GetDisplayInfo => Step::Reply(self.get_display_info()),
            Command::ResourceCreate2d { resource, format, width, height } => {
                self.create_2d(ticket, resource, format, width, height)
            }
            Command::ResourceUnref { resource } => self.unref(memory, ticket, resource).into(),
            Command::SetScanout { rect, scanout, resource } => self.set_scanout(memory, scanout, resource, rect).into(),
            Command::ResourceFlush { rect, resource } => self.flush(memory, ticket, resource, rect).into(),
            Command::TransferToHost2d { rect, offset, resource } => {
                self.transfer_to_host_2d(memory, ticket, resource, rect, offset)
            }
            Command::ResourceAttachBacking { resource, entries } => {
                self.attach_backing(memory, ticket, resource, entries)
            }
            Command::ResourceDetachBacking { resource } => self.detach_backing(memory, ticket, resource),
            Command::GetCapsetInfo { index } => Step::Reply(self.get_capset_info(index)),
            Command::GetCapset { id, version } => Step::Reply(self.get_capset(id, version)),
            Command::GetEdid { scanout } => Step::Reply(self.get_edid(scanout)),
            Command::ResourceAssignUuid { resource } => Step::Reply(self.assign_uuid(resource)),
            Command::ResourceCreateBlob(blob) => self.create_blob(memory, ticket, &header, blob),
            Command::SetScanoutBlob(blob) => self.set_scanout_blob(memory, ticket, blob).into(),
            Command::UpdateCursor { position, resource, hot_x, hot_y } => {
                self.update_cursor(memory, ticket, position, resource, (hot_x, hot_y)).into()
            }
            Command::MoveCursor { position } => self.move_cursor(position).into(),
            Command::CtxCreate { context_init, name } => self.ctx_create(&header, context_init, name).into(),
            Command::CtxDestroy => self.ctx_destroy(&header).into(),
            Command::CtxAttachResource { resource } => self.ctx_attach(&header, resource).into(),
            Command::CtxDetachResource { resource } => self.ctx_detach(&header, resource).into(),
            Command::ResourceCreate3d { resource, desc } => self.create_3d(ticket, resource, desc).into(),
            Command::TransferToHost3d(transfer) => {
                self.transfer_3d(memory, ticket, &header, Way::ToHost, transfer).into()
            }
            Command::TransferFromHost3d(transfer) => {
                self.transfer_3d(memory, ticket, &header, Way::FromHost, transfer).into()
            }
            Command::Submit3d { bytes } => self.submit_3d(ticket, &header, &bytes).into(),
            Command::ResourceMapBlob { resource, offset } => self.map_blob(ticket, resource, offset).into(),
            Command::ResourceUnmapBlob { resource } => self.unmap_blob(resource).into(),
        };
        match step {
            Step::Reply(reply) => Execution::Done(reply),
            Step::Later(undo, keys) => {
                self.order.under_way(ticket, header, undo, keys);
                Execution::Later(ticket)
            }
        }
    }

    /// Whether the driver accepted a feature.
    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The first command after a fresh start: a new driver asks what there is, one that was suspended goes on with the
    /// resources it had. The messages of a reboot and of a resume are otherwise the same.
    fn decide(&mut self, command: &Command) {
        self.undecided = false;
        let is_new = matches!(
            command,
            Command::GetDisplayInfo
                | Command::GetEdid { .. }
                | Command::GetCapsetInfo { .. }
                | Command::GetCapset { .. }
        );
        if is_new {
            self.told = Told::default();
            self.forget_guest();
        } else {
            // It slept while heads changed, and asks nothing by itself.
            self.repeat_news();
        }
    }

    /// Drops all that the guest made. What it waits for is completed, not dropped.
    fn forget_guest(&mut self) {
        for scanout in self.scanouts.clear() {
            self.display.set_scanout(scanout, None);
        }
        self.hide_cursor();
        self.resources.clear();
        self.renderer.reset();
        if let Some(three_d) = &mut self.three_d {
            three_d.forget_guest();
        }
    }

    fn get_display_info(&mut self) -> Reply {
        self.told.info();
        Reply::DisplayInfo(self.heads.info(self.display.as_ref()))
    }

    fn get_edid(&mut self, scanout: protocol::ScanoutId) -> Reply {
        // Also to a driver that did not accept the feature: Windows' asks all the same.
        self.told.edid(scanout);
        match self.heads.edid(self.display.as_ref(), scanout) {
            Some(edid) => Reply::Edid(edid.to_vec()),
            None => Reply::Error(ReplyError::InvalidScanoutId),
        }
    }

    /// What a renderer did of a command takes effect, or is undone: a command that fails leaves all as it was.
    fn conclude(&mut self, ticket: Ticket, undo: Undo, result: Result<(), ReplyError>) -> Step {
        match (undo, result) {
            (Undo::Transfer { resource, rect }, Ok(())) => self.copied_in(resource, rect),
            (Undo::Blob(resource, created), Ok(())) => self.keep_made(resource, created),
            (Undo::Pointer(resource), Ok(())) => self.take_pointer(ticket, resource),
            (Undo::Pointer(resource), Err(_)) => self.forget_pointer(ticket, resource),
            (Undo::Detach(resource), Ok(())) => return self.detach_further(ticket, resource),
            (Undo::Release(resource), Ok(())) => self.resources.drop_backing(resource),
            (Undo::Unref(resource), _) => {
                self.drop_resource(resource);
                return Step::Reply(Reply::OkNoData);
            }
            (Undo::Release(resource), Err(_)) => {
                self.resources.set_leaving(resource, false);
                self.attach_again(resource);
            }
            (_, Ok(())) | (Undo::Nothing | Undo::Transfer { .. } | Undo::Detach(_), Err(_)) => {}
            (Undo::Rendered(resource, created) | Undo::Blob(resource, created), Err(_)) => {
                self.forget_failed(resource, created);
            }
            (Undo::Pages(resource, attached), Err(_)) => self.forget_pages(resource, attached),
            (Undo::Create(resource), Err(_)) => self.resources.remove(resource),
            (Undo::Attach(resource), Err(_)) => self.forget_backing(resource),
        }
        result.into()
    }

    /// The renderer told of a command that was under way.
    fn go_on(&mut self, ticket: Ticket, UnderWay { header, undo, .. }: UnderWay, result: Result<(), ReplyError>) {
        match self.conclude(ticket, undo, result) {
            Step::Reply(reply) => self.answer(ticket, header, reply),
            Step::Later(undo, resource) => self.order.under_way(ticket, header, undo, resource),
        }
    }

    /// Nobody waits any more for a command that is under way: it fails. What a renderer does of it all the same it does before it
    /// hears that it is undone.
    fn give_up(&mut self, ticket: Ticket, undo: Undo) {
        match undo {
            Undo::Create(resource) => self.renderer.destroy(resource),
            Undo::Attach(resource) => {
                let ticket = self.order.ticket();
                self.renderer.detach(ticket, resource);
            }
            Undo::Detach(resource) => return self.attach_again(resource),
            Undo::Release(resource) | Undo::Unref(resource) => {
                self.attach_again(resource);
                return self.attach_rendered_again(resource);
            }
            _ => {}
        }
        self.conclude(ticket, undo, Err(ReplyError::Unspec));
    }

    /// Parked commands may be executable now.
    fn run_waiting(&mut self, memory: &Memory) {
        loop {
            self.look_at_gates();
            let Some((ticket, header, command)) = self.order.next_runnable() else { return };
            if let Execution::Done(reply) = self.run(memory, ticket, header, command) {
                self.answer(ticket, header, reply);
            }
        }
    }

    /// The modes are known, or were waited for long enough.
    fn run_waiting_for_modes(&mut self) {
        for (ticket, header, command) in self.order.take_waiting_for_modes() {
            let reply = match command {
                Command::GetEdid { scanout } => self.get_edid(scanout),
                _ => self.get_display_info(),
            };
            self.answer(ticket, header, reply);
        }
    }
}

/// How far a command came.
enum Step {
    Reply(Reply),
    /// The renderer goes on with it. Later commands that name the resource wait for it.
    Later(Undo, Option<ResourceId>),
}

impl Step {
    fn error(error: ReplyError) -> Self {
        Step::Reply(Reply::Error(error))
    }
}

impl From<Result<(), ReplyError>> for Step {
    fn from(result: Result<(), ReplyError>) -> Self {
        Step::Reply(result.into())
    }
}

impl From<Result<Step, ReplyError>> for Step {
    fn from(result: Result<Step, ReplyError>) -> Self {
        result.unwrap_or_else(Step::error)
    }
}

/// What was recorded before a renderer was called, to be undone should it fail, or what was left to do should it not.
#[derive(Clone, Copy)]
enum Undo {
    Nothing,
    /// A part of an image is to be counted should it not fail, and its twin written.
    Transfer {
        resource: ResourceId,
        rect: protocol::Rect,
    },
    Create(ResourceId),
    Attach(ResourceId),
    /// The renderer gives pages back. They are kept, and charged, until the last who has them did so.
    Detach(ResourceId),
    /// So does the 3D renderer, who is the last.
    Release(ResourceId),
    /// A resource of the 3D renderer's, made by this command.
    Rendered(ResourceId, Ticket),
    /// A blob of the 3D renderer's, made by this command.
    Blob(ResourceId, Ticket),
    /// The 3D renderer's backing, given by this command.
    Pages(ResourceId, Ticket),
    /// The picture of the pointer is read of this resource.
    Pointer(ResourceId),
    /// The 3D renderer gives back the pages of a resource that goes then.
    Unref(ResourceId),
}
