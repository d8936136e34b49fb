//! What is fair: virtual time, how long a slice is, and who is next.

use std::fmt::Debug;
use std::time::Duration;

use super::client::{Client, SCALE, State};
use super::{Account, Grips, Mode, Policy, Quantum, Schedule};
use crate::profile::Priority;

/// No slice is shorter, but where the quantum is: below that, stopping costs as much as running.
const SHORTEST: Duration = Duration::from_micros(500);
/// The time in which everybody has a turn, but for long quanta.
const WINDOW: Duration = Duration::from_millis(100);
/// Quanta that a window has at least.
const QUANTA: u32 = 6;
/// Windows of its own share that a client can be ahead.
pub const DEBT: u32 = 10;
/// Slices are so many times as long as stopping takes, where there is room for that in a window.
const WORTH: u32 = 28;

/// After so long everybody has a turn, whoever is still coming to rest, and whatever it owes: drivers of guests give up what shows no
/// sign of life for a few seconds (docs/vgpus.md, "Pauses"). Not those that are held.
pub const LIFE: Duration = Duration::from_secs(1);
/// The shortest turn of one that has waited for that long: long enough to get a processor.
const SIGN: Duration = Duration::from_millis(4);

/// Who has the next turn.
pub enum Next<K> {
    /// This client, for so long.
    Client(K, Duration),
    /// Nobody, for so long.
    Nobody(Duration),
}

impl<K: Copy + Ord + Debug> Schedule<K> {
    pub(super) fn quantum(&self) -> Duration {
        match self.options.quantum {
            Quantum::Fixed(quantum) => quantum,
            Quantum::Fine => {
                let clients = self.clients.values().filter(|client| client.is_there()).count();
                Duration::from_millis(if clients <= 8 { 2 } else { 1 }).max(self.stop * 10)
            }
        }
    }

    pub(super) fn window(&self) -> Duration {
        WINDOW.max(self.quantum() * QUANTA)
    }

    pub(super) fn weight(&self, client: &Client) -> i128 {
        match self.options.policy {
            Policy::EqualShare => 1,
            _ => client.share.weight.max(1).into(),
        }
    }

    /// Those that time is shared between.
    fn sharing(&self) -> impl Iterator<Item = &Client> {
        let keeps = self.options.policy.keeps_slots();
        self.clients.values().filter(move |client| if keeps { client.is_there() } else { client.wants() })
    }

    fn weights(&self) -> i128 {
        self.sharing().map(|client| self.weight(client)).sum()
    }

    /// Weight that nobody who is there has.
    pub(super) fn spare(&self) -> i128 {
        match self.options.policy {
            Policy::FixedShare => (i128::from(self.options.capacity) - self.weights()).max(0),
            _ => 0,
        }
    }

    /// The average virtual time.
    pub(super) fn average(&self) -> i128 {
        let spare = self.spare();
        let weights = self.weights() + spare;
        if weights == spare {
            return self.average;
        }
        // Relative to one of them: sums stay small.
        let around = self.average;
        let sum: i128 = self.sharing().map(|client| (client.charged - around) * self.weight(client)).sum();
        around + (sum + (self.reserve - around) * spare).div_euclid(weights)
    }

    /// How long a client of that weight runs at a time. All together need a third of a window, so that a second has
    /// rounds enough to be shared evenly; more where stopping takes long.
    pub(super) fn slice(&self, weight: i128) -> Duration {
        let spare = self.spare();
        let weights = (self.weights() + spare).max(weight).max(1);
        let count = self.sharing().count() as u32 + u32::from(spare > 0);
        let (window, stops) = (self.window(), self.stop * count);
        // Somebody who is late would be next before the round is over: two slices of the window are left for that.
        let longest = (window * count / (count + 2)).max(window / 3);
        let round = (stops * WORTH).clamp(window / 3, longest).saturating_sub(stops).max(window / 4);
        let part = (round.as_nanos() as i128 * weight / weights) as u64;
        let quantum = self.quantum();
        Duration::from_nanos(part).max(SHORTEST).min(quantum)
    }

    /// Virtual time of a time at a weight.
    pub(super) fn at_weight(time: Duration, weight: i128) -> i128 {
        time.as_nanos() as i128 * SCALE / weight
    }

    /// The furthest that anybody can be ahead: [`DEBT`] windows of its share.
    pub(super) fn furthest(&self) -> i128 {
        Self::at_weight(self.window() * DEBT, (self.weights() + self.spare()).max(1))
    }

    pub(super) fn account_of(&self, client: &Client) -> Account {
        let ahead = (client.charged - self.average()).max(0) * self.weight(client) / SCALE;
        client.account(Duration::from_nanos(ahead.try_into().unwrap_or(u64::MAX)))
    }

    /// Who is next, if anybody wants to be.
    pub(super) fn next(&self, now: Duration) -> Option<Next<K>> {
        let average = self.average();
        let candidates = || self.clients.iter().filter(|(_, client)| client.is_candidate(now));
        // Nobody waits for longer than a window, whatever it owes.
        let longest = self.sharing().map(|client| self.slice(self.weight(client)) * 3 / 2).max().unwrap_or_default();
        let patience = self.window().saturating_sub(longest.min(self.quantum()) + self.stop * 2);
        let late = |client: &Client| {
            client.waited(now) >= if self.can_end(client) { patience } else { (patience * DEBT).min(LIFE) }
        };
        let latest = candidates().filter(|(_, client)| late(client)).max_by_key(|(_, client)| client.waited(now));
        if let Some((key, client)) = latest {
            let slice = self.slice(self.weight(client));
            let slice = if client.charged <= average { slice } else { slice.min(SHORTEST) };
            let least = if client.waited(now) >= LIFE { SIGN.min(self.quantum()) } else { Duration::ZERO };
            return Some(Next::Client(*key, slice.max(least)));
        }
        let deadline = |client: &Client| {
            let weight = self.weight(client);
            client.charged + Self::at_weight(self.slice(weight), weight)
        };
        // Not ahead of the others; who leads by priority; whose slice ends first; who has waited longest.
        let order = |client: &Client| {
            let ahead = client.charged > average;
            let behind = if ahead { client.charged } else { 0 };
            (ahead, behind, std::cmp::Reverse(client.share.priority), deadline(client), client.waits_since)
        };
        let best = candidates().min_by_key(|(_, client)| order(client));
        let spare = self.spare();
        if spare > 0 && (best.is_some() || self.clients.values().any(Client::is_there)) {
            let slice = self.slice(spare);
            let ends = self.reserve + Self::at_weight(slice, spare);
            let first = best.is_none_or(|(_, client)| (client.charged > average, deadline(client)) > (false, ends));
            if self.reserve <= average && first {
                return Some(Next::Nobody(slice));
            }
        }
        best.map(|(key, client)| Next::Client(*key, self.turn(client, average)))
    }

    /// How long a client's turn is: a slice where all get on evenly, longer or shorter by what it is more or less behind than it
    /// would be then, so that all are even after it.
    fn turn(&self, client: &Client, average: i128) -> Duration {
        let weight = self.weight(client);
        let slice = self.slice(weight);
        let part = weight as f64 / (self.weights() + self.spare()).max(1) as f64;
        let behind = (average - client.charged).max(0) * weight / SCALE;
        let behind = Duration::from_nanos(behind.try_into().unwrap_or(u64::MAX)).min(slice);
        ((slice / 2).mul_f64(1.0 + part) + behind).min(self.quantum()).max(SHORTEST.min(slice))
    }

    /// Whether a slice of its ends when it is to. Where it does not, each would make the debt larger that it is in.
    fn can_end(&self, client: &Client) -> bool {
        let Grips { gate, freeze } = client.share.grips;
        freeze && !(gate && self.options.mode == Mode::Batch)
    }

    /// Whether somebody waits who goes before one of this priority.
    pub(super) fn leads(&self, priority: Priority) -> bool {
        let average = self.average();
        let waits = |client: &&Client| client.state == State::Waiting && client.charged <= average;
        self.clients.values().filter(waits).any(|client| client.share.priority > priority)
    }

    /// Time that counts for a client: what it used, and, while it keeps others from running, half of the time that it does,
    /// or all of it where that time is its own. (Half: one that waits for a guest
    /// between two frames has its use of it.)
    pub(super) fn price(&self, client: &Client, used: Duration, kept: Duration, in_the_way: bool) -> Duration {
        if !client.is_running() {
            used
        } else if self.options.policy.keeps_slots() {
            used.max(kept)
        } else if in_the_way {
            used.max(kept / 2)
        } else {
            used
        }
    }

    /// How often clients are looked at while they compete.
    pub(super) fn pace(&self) -> Duration {
        (self.quantum() / 16).clamp(Duration::from_micros(250), Duration::from_millis(1))
    }
}
