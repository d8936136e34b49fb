//! Who runs when: time slices of one GPU.
//!
//! A [`Schedule`] is told what each client used as somebody measured it ([`Measured`]), and says who is to be stopped and who
//! may go on ([`Act`]), and when it wants to look again. It knows no process and no clock.
//!
//! Clients are picked by virtual time, which is the time used divided by the weight: of those that are not ahead of the average,
//! the one of the highest priority goes first, then the one whose slice would end earliest. So priority decides who is next and
//! weight decides how much. Who used more than its share waits until the others have caught up, and runs for a moment in each
//! window all the same.
//!
//! No client needs to say that it has work: Venus takes it from memory that it shares with its guest. One that does nothing is
//! left running and its clock is watched; when the clock advances it is charged, stopped and waits for its turn like all others.
//! Where a slot is kept for one that idles, everybody is stopped outside of the own slot, so that this is not needed.

mod client;
mod fair;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use crate::profile::Priority;
pub use crate::record::Held;
use client::{Client, State};

/// What is promised to whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// By weight among those that have work. What one does not use, others do.
    #[default]
    BestEffort,
    /// The same for all whose 3D is in use, whatever their weights. Each keeps its slot while it idles.
    EqualShare,
    /// By weight out of [`Options::capacity`], whoever else is there. Each keeps its slot while it idles, and what nobody was
    /// promised is used by nobody.
    FixedShare,
}

impl Policy {
    /// Whether time that a client does not use is lost.
    pub fn keeps_slots(self) -> bool {
        self != Policy::BestEffort
    }
}

/// How a slice ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// At the end of a batch: nothing new is begun, what is under way goes on, and an overrun is charged. After
    /// [`Options::preempt_timeout`] it is stopped, if it can be.
    Batch,
    /// At the end of the slice.
    #[default]
    Strict,
}

/// The longest slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantum {
    /// 1 to 30 ms: see [`Quantum::milliseconds`].
    Fixed(Duration),
    /// 2 ms for up to 8 clients, 1 ms for more; longer where stopping one takes more than a tenth of that.
    Fine,
}

/// A quantum that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("A quantum of {0} ms; it is 1 to 30")]
pub struct NoQuantum(u32);

impl Quantum {
    /// One of so many milliseconds, 1 to 30.
    pub fn milliseconds(count: u32) -> Result<Quantum, NoQuantum> {
        match count {
            1..=30 => Ok(Quantum::Fixed(Duration::from_millis(count.into()))),
            _ => Err(NoQuantum(count)),
        }
    }
}

/// How time is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What is promised.
    pub policy: Policy,
    /// How a slice ends.
    pub mode: Mode,
    /// The longest slice.
    pub quantum: Quantum,
    /// How long the next one waits for one that does not stop.
    pub preempt_timeout: Duration,
    /// A client that has work and gets nothing done is held after so much time of its own slices.
    pub hang_timeout: Duration,
    /// The weights of a full GPU, for [`Policy::FixedShare`]. If those that are there weigh more, it is what they weigh.
    pub capacity: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policy: Policy::default(),
            mode: Mode::default(),
            quantum: Quantum::Fixed(Duration::from_millis(16)),
            preempt_timeout: Duration::from_millis(16),
            hang_timeout: Duration::from_secs(10),
            capacity: 0,
        }
    }
}

/// How a client can be kept from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grips {
    /// Its submits can be held back.
    pub gate: bool,
    /// Its processes can be stopped.
    pub freeze: bool,
}

/// A client's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Beside others, 1 to 1000; 0 counts as 1.
    pub weight: u32,
    /// Who goes first of those that are due.
    pub priority: Priority,
    /// What can be done about it.
    pub grips: Grips,
}

/// What is known of a client at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// A process that draws for it is there.
    pub alive: bool,
    /// Time that its processes used so far, all in all; never falls.
    pub used: Duration,
    /// All its processes are stopped.
    pub stopped: bool,
    /// A thread of it runs or waits for a processor. Matters only while it uses little: on a busy machine that is no sign of
    /// having nothing to do.
    pub runnable: bool,
    /// Whether it has work, if somebody can tell.
    pub pending: Option<bool>,
    /// A number that is another one after each piece of work that was done, if somebody can tell.
    pub progress: Option<u64>,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act<K> {
    /// Stop all its processes; look again as soon as they are.
    Freeze(K),
    /// Let them go on.
    Thaw(K),
    /// Begin nothing new for it.
    Gate(K),
    /// Take its work again.
    Open(K),
    /// Stop all its processes, and answer its guest with errors until it is released.
    Hold(K),
}

/// The outcome of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<K> {
    /// What is to be done.
    pub acts: Vec<Act<K>>,
    /// When to look again at the latest; earlier if anything happened. `None`: when anything happened.
    pub next: Option<Duration>,
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// No process draws for it.
    Absent,
    /// Nothing.
    Idle,
    /// It has work and is not its turn.
    Waiting,
    /// It is its turn.
    Running,
    /// Nothing, until it is released.
    Held,
}

/// What is worth being told of a client at once; all else is seen at the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// That it has work.
    Work,
    /// That it is done with what it had begun before its gate was shut.
    Rest,
}

/// What a client had so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What it is doing.
    pub doing: Doing,
    /// Time that its processes used.
    pub used: Duration,
    /// Time for which it had work and was not its turn.
    pub waited: Duration,
    /// Turns that it had.
    pub slices: u64,
    /// Turns that ended more than half a quantum late.
    pub overruns: u64,
    /// Times that it ran although it was stopped.
    pub escapes: u64,
    /// How long stopping it takes.
    pub stop_time: Duration,
    /// How far it is ahead of its share, as time of its own.
    pub debt: Duration,
    /// Why it is held.
    pub held: Option<Held>,
}

/// Clients of one GPU and whose turn it is.
#[derive(Debug)]
pub struct Schedule<K> {
    options: Options,
    clients: BTreeMap<K, Client>,
    /// The average virtual time when somebody last had work.
    average: i128,
    /// Virtual time of what nobody was promised, and until when it is its turn.
    reserve: i128,
    reserved_until: Duration,
    /// Mean time that stopping takes.
    stop: Duration,
    now: Duration,
}

impl<K: Copy + Ord + Debug> Schedule<K> {
    /// One without clients.
    pub fn new(options: Options) -> Self {
        Schedule {
            options,
            clients: BTreeMap::new(),
            average: 0,
            reserve: 0,
            reserved_until: Duration::ZERO,
            stop: Duration::ZERO,
            now: Duration::ZERO,
        }
    }

    /// As it was made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Adds a client. What it used before the first look is not charged.
    pub fn add(&mut self, key: K, share: Share) {
        self.clients.insert(key, Client::new(share, self.average));
    }

    /// Removes it. Its processes are to go on, whatever was said before.
    pub fn remove(&mut self, key: K) -> Option<Account> {
        let account = self.account(key);
        self.clients.remove(&key).and(account)
    }

    /// Holds it, as [`Act::Hold`] does when it hangs. Returns whether it is there.
    pub fn hold(&mut self, key: K, why: Held) -> bool {
        let now = self.now;
        self.clients.get_mut(&key).map(|client| client.hold(why, now)).is_some()
    }

    /// Promises something else from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.options.policy = policy;
    }

    /// Lets one that is held go on. Returns whether it was.
    pub fn release(&mut self, key: K) -> bool {
        let Some(mut client) = self.clients.remove(&key) else { return false };
        let was_held = client.release(self.now);
        if was_held {
            self.join(&mut client);
        }
        self.clients.insert(key, client);
        was_held
    }

    /// What is waited for of a client: somebody acts on that alone.
    pub fn awaits(&self, key: K) -> News {
        match self.clients.get(&key).map(|client| &client.state) {
            Some(State::Absent | State::Idle) => News::Work,
            Some(State::Draining) => News::Rest,
            _ => News::None,
        }
    }

    /// What it had so far.
    pub fn account(&self, key: K) -> Option<Account> {
        self.clients.get(&key).map(|client| self.account_of(client))
    }

    /// What each had so far.
    pub fn accounts(&self) -> impl Iterator<Item = (K, Account)> {
        self.clients.iter().map(|(key, client)| (*key, self.account_of(client)))
    }
}
