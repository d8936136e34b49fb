//! One client.

use std::time::Duration;

use super::fair::LIFE;
use super::{Account, Act, Doing, Held, Mode, Share};

/// Virtual time of a nanosecond at weight 1: finer than what a weight of 1000 divides.
pub const SCALE: i128 = 1 << 20;

/// What is true of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has no process.
    Absent,
    /// It does nothing and may.
    Idle,
    /// It has work, may run and it is not its turn: for the length of one look.
    Ready,
    /// It has work, may not run, and does not.
    Waiting,
    /// It is its turn.
    Running {
        until: Duration,
    },
    /// It may begin nothing new; not done yet.
    Draining,
    /// It is to be stopped, and is not yet.
    Stopping,
    Held(Held),
}

/// A client with all that is remembered of it.
#[derive(Debug, Clone)]
pub struct Client {
    pub share: Share,
    pub state: State,
    /// Since when it is in this state.
    pub since: Duration,
    /// Since when it has work and is not its turn.
    pub waits_since: Duration,
    /// Virtual time.
    pub charged: i128,
    /// What it had used at the last look, and when that was.
    pub seen: Option<Duration>,
    pub looked: Duration,
    /// Used since it was last judged, and when that was; how often it did nothing since then.
    pub recent: Duration,
    pub judged: Duration,
    pub quiet: u32,
    /// What was last ordered.
    pub frozen: bool,
    pub gated: bool,
    /// What it had got done, and for how long it ran without getting on.
    pub progress: Option<u64>,
    pub stuck: Duration,
    pub used: Duration,
    pub waited: Duration,
    pub slices: u64,
    pub overruns: u64,
    pub escapes: u64,
    pub stop: Duration,
}

impl Client {
    pub fn new(share: Share, average: i128) -> Self {
        Client {
            share,
            state: State::Absent,
            since: Duration::ZERO,
            waits_since: Duration::ZERO,
            charged: average,
            seen: None,
            looked: Duration::ZERO,
            recent: Duration::ZERO,
            judged: Duration::ZERO,
            quiet: 0,
            frozen: false,
            gated: false,
            progress: None,
            stuck: Duration::ZERO,
            used: Duration::ZERO,
            waited: Duration::ZERO,
            slices: 0,
            overruns: 0,
            escapes: 0,
            stop: Duration::ZERO,
        }
    }

    pub fn enter(&mut self, state: State, now: Duration) {
        if !self.wants() || matches!(self.state, State::Running { .. }) {
            self.waits_since = now;
        }
        self.state = state;
        self.since = now;
        self.recent = Duration::ZERO;
        self.judged = now;
        self.quiet = 0;
    }

    /// It has work, as far as is known.
    pub fn wants(&self) -> bool {
        !matches!(self.state, State::Absent | State::Idle | State::Held(_))
    }

    /// It has a process that is not held.
    pub fn is_there(&self) -> bool {
        !matches!(self.state, State::Absent | State::Held(_))
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// It could be picked. Also when it does not come to rest for long: what of it has stands still meanwhile.
    pub fn is_candidate(&self, now: Duration) -> bool {
        match self.state {
            State::Ready | State::Waiting => true,
            State::Stopping => self.waited(now) >= LIFE,
            _ => false,
        }
    }

    /// For how long it has had work and it was not its turn, if it has and is not.
    pub fn waited(&self, now: Duration) -> Duration {
        now.saturating_sub(self.waits_since)
    }

    /// Whether nobody else may run yet because it is not known to have stopped. With a `handover` another one may from the
    /// moment on in which this one is told to; but not a third.
    pub fn blocks(&self, now: Duration, timeout: Duration, handover: bool) -> bool {
        match self.state {
            State::Stopping if handover && self.since == now => false,
            State::Draining | State::Stopping => now < self.since + timeout,
            _ => false,
        }
    }

    /// Takes the turn from it.
    pub fn stop<K>(&mut self, key: K, mode: Mode, now: Duration, acts: &mut Vec<Act<K>>) {
        if mode == Mode::Batch && self.share.grips.gate {
            self.gated = true;
            acts.push(Act::Gate(key));
            self.enter(State::Draining, now);
        } else {
            self.freeze(key, now, acts);
        }
    }

    /// Stops it, if it can be stopped; else it is charged for what it does, which is all that can be done.
    pub fn freeze<K>(&mut self, key: K, now: Duration, acts: &mut Vec<Act<K>>) {
        if self.share.grips.freeze {
            self.frozen = true;
            acts.push(Act::Freeze(key));
            self.enter(State::Stopping, now);
        } else {
            self.enter(State::Waiting, now);
        }
    }

    /// Lets it go on.
    pub fn go<K: Copy>(&mut self, key: K, acts: &mut Vec<Act<K>>) {
        if std::mem::take(&mut self.frozen) {
            acts.push(Act::Thaw(key));
        }
        if std::mem::take(&mut self.gated) {
            acts.push(Act::Open(key));
        }
    }

    pub fn hold(&mut self, why: Held, now: Duration) {
        self.frozen = self.share.grips.freeze;
        self.enter(State::Held(why), now);
    }

    pub fn release(&mut self, now: Duration) -> bool {
        let was_held = matches!(self.state, State::Held(_));
        if was_held {
            self.stuck = Duration::ZERO;
            self.enter(State::Waiting, now);
        }
        was_held
    }

    pub fn account(&self, debt: Duration) -> Account {
        let doing = match &self.state {
            State::Absent => Doing::Absent,
            State::Idle => Doing::Idle,
            State::Running { .. } => Doing::Running,
            State::Held(_) => Doing::Held,
            _ => Doing::Waiting,
        };
        let held = if let State::Held(held) = &self.state { Some(held.clone()) } else { None };
        Account {
            doing,
            used: self.used,
            waited: self.waited,
            slices: self.slices,
            overruns: self.overruns,
            escapes: self.escapes,
            stop_time: self.stop,
            debt,
            held,
        }
    }
}
