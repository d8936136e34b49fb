//! Processes: started when there is work, listened to, and taken leave of.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use device::guest_log;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::arbiter::Grant;
use super::host::{Process, printable};
use super::lives::Departure;
use super::wire::Request;
use super::{ARBITER, CHILDREN, Context, Ended, Isolated, KINDS, Resource, at};
use crate::library::Kind;

/// How long a process may have nothing before it is ended.
pub const IDLE: Duration = Duration::from_secs(10);
/// How often a process is listened to before others have their turn.
const ROUNDS: usize = 4;

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Gl => "OpenGL",
        Kind::Vk => "Vulkan",
    }
}

impl Isolated {
    /// The process of a kind, started if there is none.
    pub(super) fn started(&mut self, kind: Kind) -> Option<&mut Process> {
        let slot = at(kind);
        if self.processes[slot].is_none() {
            self.processes[slot] = self.start(kind, Instant::now());
        }
        self.processes[slot].as_mut()
    }

    fn start(&mut self, kind: Kind, now: Instant) -> Option<Process> {
        let (guest, what) = (&self.options.name, title(kind));
        let slot = at(kind);
        if self.is_held() {
            self.options.stats.renderer_refused.add(1);
            return None;
        }
        if !self.starts[slot].permit(now) {
            self.options.stats.renderer_refused.add(1);
            let most = self.options.restarts;
            guest_log!(
                warn,
                "Guest {guest}: the {what} renderer was started again {most} times within a minute, no more"
            );
            return None;
        }
        self.lives += 1;
        let started = Process::start(kind, self.lives, self.options.patience, &mut *self.children);
        let process = started.and_then(|process| {
            for (fd, data) in process.fds().into_iter().zip([slot * 2, slot * 2 + 1]) {
                epoll::add(&self.epoll, fd, EventData::new_u64(data as u64), EventFlags::IN)?;
            }
            Ok(process)
        });
        match process {
            Ok(mut process) => {
                self.options.stats.renderer_starts.add(1);
                guest_log!(info, "Guest {guest}: the {what} renderer starts");
                process.set_gate(self.granted == Grant::Gated);
                Some(process)
            }
            Err(error) => {
                self.options.stats.renderer_refused.add(1);
                guest_log!(error, "Guest {guest}: the {what} renderer cannot be started: {error}");
                None
            }
        }
    }

    /// Does all that can be done now.
    pub(super) fn attend(&mut self, now: Instant) {
        self.again = false;
        if self.lives == 0 && self.arbiter.is_none() {
            return;
        }
        let mut room = [MaybeUninit::uninit(); 8];
        // Without an answer, what there is to see is seen the next time.
        let ready = epoll::wait(&self.epoll, &mut room, Some(&Timespec::default()));
        for event in ready.map_or(&[][..], |(events, _)| &*events) {
            let data = event.data.u64();
            if data == CHILDREN {
                self.bury(now);
            } else if data == ARBITER {
                self.arbiter.iter_mut().for_each(|arbiter| arbiter.poll());
            } else if let Some(process) = self.processes.get_mut((data / 2) as usize).and_then(Option::as_mut) {
                match data % 2 {
                    0 => process.receive(),
                    _ => {
                        process.stop_bell();
                        self.wakes.heard += 1;
                    }
                }
            }
        }
        self.obey(now);
        for kind in KINDS {
            self.serve(kind, now);
        }
        self.report();
        for departure in self.departures.overdue(now) {
            match departure {
                Departure::Kill(id) => self.children.kill(id),
                Departure::Say(obituary) => guest_log!(warn, "{obituary}"),
            }
        }
    }

    fn serve(&mut self, kind: Kind, now: Instant) {
        let Some(process) = &mut self.processes[at(kind)] else { return };
        let mut answers = std::mem::take(&mut self.answers);
        let mut asleep = false;
        for _ in 0..ROUNDS {
            process.take_events(&mut answers);
            process.flush();
            asleep = process.sleep();
            if asleep {
                break;
            }
        }
        process.announce();
        self.again |= !asleep;
        if process.is_blocked() != process.watched {
            process.watched = process.is_blocked();
            let room = if process.watched { EventFlags::OUT } else { EventFlags::empty() };
            let data = EventData::new_u64(at(kind) as u64 * 2);
            let _ = epoll::modify(&self.epoll, process.fds()[0], data, EventFlags::IN | room);
        }
        self.options.stats.renderer_lies.add(process.new_lies());
        let verdict = process.verdict(self.clock.theirs(now));
        for answer in answers.drain(..) {
            self.finish(answer);
        }
        self.answers = answers;
        if let Some(how) = verdict {
            self.lose(kind, &how, now);
            return;
        }
        let Some(process) = &mut self.processes[at(kind)] else { return };
        match process.is_at_rest() {
            true if now.saturating_duration_since(*process.idle.get_or_insert(now)) >= IDLE => self.dismiss(kind, now),
            true => {}
            false => process.idle = None,
        }
    }

    /// Takes a process out, and answers what it has not.
    fn remove(&mut self, kind: Kind) -> Option<Process> {
        let mut process = self.processes[at(kind)].take()?;
        for fd in process.fds() {
            let _ = epoll::delete(&self.epoll, fd);
        }
        self.wakes.rang += process.rang;
        self.done = self.done.wrapping_add(process.done());
        self.last = process.last().or(self.last);
        for answer in process.give_up() {
            self.finish(answer);
        }
        // What it held for a guest that has not mapped it is of no use any more.
        let lost = |resource: &&mut Resource| resource.home.life == process.life;
        self.resources.values_mut().filter(lost).for_each(|resource| resource.mapping = None);
        Some(process)
    }

    /// A process is of no use any more.
    pub(super) fn lose(&mut self, kind: Kind, how: &str, now: Instant) {
        let last = self.processes[at(kind)].as_ref().and_then(Process::last);
        let last = last.map(|(command, context)| match self.contexts.get(&context) {
            Some(Context { name, .. }) => format!("{command} of context {} \"{}\"", context.0, printable(name)),
            None => command.to_owned(),
        });
        let Some(process) = self.remove(kind) else { return };
        self.options.stats.renderer_deaths.add(1);
        let (guest, what, last) = (&self.options.name, title(kind), last.unwrap_or("nothing".into()));
        let (used, most) = self.starts[at(kind)].used();
        let obituary =
            format!("Guest {guest}: the {what} renderer {how}; last command: {last}; {used} of {most} restarts used");
        self.children.kill(process.id);
        self.departures.ended(process.id, now, obituary);
        self.bury(now);
    }

    /// A process has nothing to do.
    pub(super) fn dismiss(&mut self, kind: Kind, now: Instant) {
        let Some(mut process) = self.remove(kind) else { return };
        process.tell(Request::Quit);
        process.announce();
        self.departures.asked(process.id, now);
    }

    /// Takes note of those that have ended.
    fn bury(&mut self, now: Instant) {
        for Ended { id, how } in self.children.ended() {
            if let Some(obituary) = self.departures.gone(id, &how) {
                if let Some(obituary) = obituary {
                    guest_log!(warn, "{obituary}");
                }
                continue;
            }
            let of = |kind: &Kind| self.processes[at(*kind)].as_ref().is_some_and(|process| process.id == id);
            if let Some(kind) = KINDS.into_iter().find(of) {
                // What it told until then counts.
                self.serve(kind, now);
                self.lose(kind, "died", now);
                if let Some(Some(obituary)) = self.departures.gone(id, &how) {
                    guest_log!(warn, "{obituary}");
                }
            }
        }
    }
}
