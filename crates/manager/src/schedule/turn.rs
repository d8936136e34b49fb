//! One look: charge what was used, see who has work, end a slice, begin another.

use std::fmt::Debug;
use std::time::Duration;

use super::client::{Client, State};
use super::fair::{LIFE, Next};
use super::{Act, Held, Measured, Schedule, Step};

/// One that used less than this part of a time did nothing: a thread that polls now and then is no work.
const IDLE: u32 = 20;
/// A client whose turn it is gives it up after so many looks at which it did nothing.
const QUIET: u32 = 2;
/// What a stopped client may use until it counts as running: clocks of a thread that is just being stopped go on a little.
const LEAK: Duration = Duration::from_micros(500);

impl<K: Copy + Ord + Debug> Schedule<K> {
    /// Looks at all clients. `now` is the time since any fixed moment. A client that is not among the `measured` is as it was.
    pub fn tick(&mut self, now: Duration, measured: &[(K, Measured)]) -> Step<K> {
        let now = now.max(self.now);
        self.now = now;
        let mut acts = Vec::new();
        for (key, measured) in measured {
            // Taken out, so that it can be compared with the others.
            if let Some(mut client) = self.clients.remove(key) {
                self.look(*key, &mut client, measured, now, &mut acts);
                self.clients.insert(*key, client);
            }
        }
        self.bound_debts();
        self.end_slices(now, &mut acts);
        self.begin_slice(now, &mut acts);
        self.stop_the_others(now, &mut acts);
        self.average = self.average();
        Step { acts, next: self.next_look(now) }
    }

    fn look(&mut self, key: K, client: &mut Client, measured: &Measured, now: Duration, acts: &mut Vec<Act<K>>) {
        let used = client.seen.map_or(Duration::ZERO, |seen| measured.used.saturating_sub(seen));
        let elapsed = now.saturating_sub(client.looked);
        let kept = now.saturating_sub(client.looked.max(client.since));
        client.seen = Some(client.seen.map_or(measured.used, |seen| seen.max(measured.used)));
        client.looked = now;
        let others = self.clients.values().any(Client::wants);
        client.charged +=
            Self::at_weight(self.price(client, used, kept, others && !measured.runnable), self.weight(client));
        client.used += used;
        client.recent += used;
        if client.is_candidate(now) || matches!(client.state, State::Draining | State::Stopping) {
            client.waited += elapsed;
        }
        if !measured.alive {
            self.gone(key, client, now, acts);
            return;
        }
        if client.state == State::Absent {
            // What it used until now it used in its first moments, so it counts as idle since then.
            let recent = client.recent;
            client.enter(if self.options.policy.keeps_slots() { State::Ready } else { State::Idle }, now);
            client.recent = recent;
            self.join(client);
        }
        match client.state {
            State::Idle => self.wake(client, measured, now),
            State::Running { .. } => self.watch(key, client, measured, kept, now, acts),
            State::Draining => self.drain(key, client, measured, now, acts),
            State::Stopping if measured.stopped => {
                let took = now.saturating_sub(client.since);
                client.stop = mean(client.stop, took);
                self.stop = mean(self.stop, took);
                client.enter(State::Waiting, now);
            }
            State::Waiting if client.frozen && (!measured.stopped || client.recent > LEAK) => {
                client.escapes += 1;
                client.freeze(key, now, acts);
            }
            // Nothing to do, as it says itself. (Behind a gate it says whether anything is under way.)
            State::Waiting if measured.pending == Some(false) && !client.gated && self.may_idle(client) => {
                client.enter(State::Idle, now);
                client.go(key, acts);
            }
            State::Held(_) if !measured.stopped && client.share.grips.freeze && !client.frozen => {
                client.frozen = true;
                acts.push(Act::Freeze(key));
            }
            _ => {}
        }
    }

    /// Its processes are gone, and what was ordered with them; what its device was told is taken back.
    fn gone(&mut self, key: K, client: &mut Client, now: Duration, acts: &mut Vec<Act<K>>) {
        client.frozen = false;
        client.stuck = Duration::ZERO;
        if matches!(client.state, State::Held(_) | State::Absent) {
            return;
        }
        client.go(key, acts);
        client.enter(State::Absent, now);
    }

    /// One that has work again is at most one slice behind the others, and at most the furthest ahead.
    pub(super) fn join(&self, client: &mut Client) {
        let weight = self.weight(client);
        let (average, slice) = (self.average(), Self::at_weight(self.slice(weight), weight));
        client.charged = client.charged.clamp(average - slice, average + self.furthest());
    }

    /// It did nothing so far, and is not stopped.
    fn wake(&self, client: &mut Client, measured: &Measured, now: Duration) {
        if self.works(client, measured, now) == Some(true) {
            self.join(client);
            client.enter(State::Ready, now);
        }
    }

    /// Whether one that says that it has no work may go on before its turn. (One that owes something would gain by lying.)
    fn may_idle(&self, client: &Client) -> bool {
        !self.options.policy.keeps_slots() && client.charged <= self.average()
    }

    /// Whether it works; nothing while it is too early to say.
    fn works(&self, client: &mut Client, measured: &Measured, now: Duration) -> Option<bool> {
        if measured.pending == Some(true) || (client.is_running() && measured.runnable) {
            return Some(true);
        }
        let passed = now.saturating_sub(client.judged);
        if passed < self.pace() / 2 && client.recent <= LEAK {
            return None;
        }
        let others = 2 * self.clients.len() as u32;
        let works = client.recent * IDLE.max(others) > passed;
        client.recent = Duration::ZERO;
        client.judged = now;
        Some(works)
    }

    /// It is its turn: does it use it, does it get on?
    fn watch(
        &mut self,
        key: K,
        client: &mut Client,
        measured: &Measured,
        kept: Duration,
        now: Duration,
        acts: &mut Vec<Act<K>>,
    ) {
        let moved = measured.progress.is_none() || measured.progress != client.progress;
        client.progress = measured.progress;
        client.stuck = if moved || measured.pending != Some(true) { Duration::ZERO } else { client.stuck + kept };
        if client.stuck >= self.options.hang_timeout {
            let why = format!("Nothing was done in {:.1} s of its own time", client.stuck.as_secs_f64());
            acts.push(Act::Hold(key));
            client.hold(Held { why, last: None }, now);
            return;
        }
        if self.options.policy.keeps_slots() {
            return;
        }
        match self.works(client, measured, now) {
            Some(true) => client.quiet = 0,
            Some(false) => client.quiet += if measured.pending == Some(false) { QUIET } else { 1 },
            None => {}
        }
        if client.quiet >= QUIET {
            client.enter(State::Idle, now);
        }
    }

    /// It may begin nothing new: is it done?
    fn drain(&mut self, key: K, client: &mut Client, measured: &Measured, now: Duration, acts: &mut Vec<Act<K>>) {
        if measured.pending == Some(false) || self.works(client, measured, now) == Some(false) {
            client.enter(State::Waiting, now);
        } else if now >= client.since + self.options.preempt_timeout {
            client.overruns += 1;
            client.freeze(key, now, acts);
        }
    }

    /// Nobody is further ahead than [`furthest`](Self::furthest).
    fn bound_debts(&mut self) {
        let most = self.average() + self.furthest();
        self.clients.values_mut().filter(|client| client.wants()).for_each(|client| {
            client.charged = client.charged.min(most);
        });
    }

    fn end_slices(&mut self, now: Duration, acts: &mut Vec<Act<K>>) {
        let Some((&key, client)) = self.clients.iter().find(|(_, client)| client.is_running()) else { return };
        let State::Running { until } = client.state else { return };
        if now < until && !self.leads(client.share.priority) {
            return;
        }
        let late = now > until + self.quantum() / 2;
        let next_slice = self.slice(self.weight(client));
        let again = self.again(key, now);
        let competes = self.clients.iter().any(|(other, client)| *other != key && client.is_candidate(now))
            || (self.options.policy.keeps_slots() && (self.spare() > 0 || self.others_are_there(key)));
        let mode = self.options.mode;
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.overruns += u64::from(late && competes);
        match again {
            _ if !competes => client.state = State::Running { until: now + next_slice },
            Some(slice) => {
                client.state = State::Running { until: now + slice };
                client.slices += 1;
            }
            None => client.stop(key, mode, now, acts),
        }
    }

    /// For how long it is the turn of the one that runs again, if it is: nobody is stopped in order to be let go on at once.
    fn again(&mut self, key: K, now: Duration) -> Option<Duration> {
        let client = self.clients.get_mut(&key)?;
        let before =
            (std::mem::replace(&mut client.state, State::Ready), std::mem::replace(&mut client.waits_since, now));
        let next = self.next(now);
        let client = self.clients.get_mut(&key)?;
        (client.state, client.waits_since) = before;
        match next {
            Some(Next::Client(best, slice)) if best == key => Some(slice),
            _ => None,
        }
    }

    fn others_are_there(&self, key: K) -> bool {
        self.clients.iter().any(|(other, client)| *other != key && client.is_there())
    }

    fn begin_slice(&mut self, now: Duration, acts: &mut Vec<Act<K>>) {
        let timeout = self.options.preempt_timeout;
        // Where no slots are kept, nothing is lost while one comes to rest: what it uses meanwhile is charged.
        let handover = !self.options.policy.keeps_slots();
        let starves = |client: &Client| client.is_candidate(now) && client.waited(now) >= LIFE;
        let patient = !self.clients.values().any(starves);
        let taken = |client: &Client| client.is_running() || (patient && client.blocks(now, timeout, handover));
        if now < self.reserved_until || self.clients.values().any(taken) {
            return;
        }
        match self.next(now) {
            Some(Next::Client(key, slice)) => {
                if let Some(client) = self.clients.get_mut(&key) {
                    client.go(key, acts);
                    client.enter(State::Running { until: now + slice }, now);
                    client.slices += 1;
                }
            }
            Some(Next::Nobody(slice)) => {
                self.reserve += Self::at_weight(slice, self.spare().max(1));
                self.reserved_until = now + slice;
            }
            None => {}
        }
        // Nobody was promised that time: it is no debt, and none is paid off with it.
        let average = self.average();
        let most = Self::at_weight(self.window(), self.spare().max(1));
        self.reserve = self.reserve.clamp(average - most, average + most);
    }

    /// Those that have begun to work while it is somebody else's turn.
    fn stop_the_others(&mut self, now: Duration, acts: &mut Vec<Act<K>>) {
        let mode = self.options.mode;
        for (key, client) in self.clients.iter_mut().filter(|(_, client)| client.state == State::Ready) {
            client.stop(*key, mode, now, acts);
        }
    }

    fn next_look(&self, now: Duration) -> Option<Duration> {
        let there = self.clients.values().filter(|client| client.is_there()).count();
        let (pace, window) = (self.pace(), self.window());
        if there == 0 {
            return None;
        }
        let timeout = self.options.preempt_timeout;
        if self.clients.values().any(|client| client.blocks(now, timeout, false)) {
            return Some(now + pace);
        }
        let running = self.clients.values().find_map(|client| match client.state {
            State::Running { until } => Some(until),
            _ => None,
        });
        let wanting = self.clients.values().filter(|client| client.wants()).count();
        Some(if self.options.policy.keeps_slots() {
            let until = running.unwrap_or(now).max(self.reserved_until);
            if there == 1 && self.spare() == 0 { now + window } else { until.clamp(now + pace / 4, now + window) }
        } else if wanting > 1 {
            running.unwrap_or(now + pace).clamp(now + pace / 4, now + pace)
        } else if wanting == 1 && there > 1 {
            now + self.quantum()
        } else {
            now + window
        })
    }
}

/// The mean of what was and what is, which counts for an eighth.
fn mean(before: Duration, now: Duration) -> Duration {
    if before.is_zero() { now } else { (before * 7 + now) / 8 }
}
