//! A machine that is not there: clients that want to run, stops that take a while, and somebody who looks late.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Account, Act, Grips, Measured, Options, Schedule, Share};
use crate::profile::Priority;

pub fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub const BOTH: Grips = Grips { gate: true, freeze: true };
pub const FREEZE: Grips = Grips { gate: false, freeze: true };

/// What a client wants.
#[derive(Debug, Clone, Copy)]
pub enum Habit {
    /// Always to run, on so many threads.
    Busy { threads: u32 },
    /// So much work, then a pause, and again.
    Bursts { work: Duration, pause: Duration },
    /// Batches that end only when they are done, one after the other.
    Batches { length: Duration },
    /// Nothing.
    Still,
    /// Nothing until that moment.
    Later { begins: Duration },
}

#[derive(Debug, Clone)]
pub struct Client {
    pub habit: Habit,
    pub alive: bool,
    /// Whether its device says that it has work, and what is done.
    pub talks: bool,
    /// It uses time and gets nothing done.
    pub stuck: bool,
    pub used: Duration,
    /// When its stop is over, if one is ordered.
    stop: Option<Duration>,
    pub gated: bool,
    /// What is left of its work or batch, and since when it has it; when the next comes.
    left: Duration,
    arrived: Duration,
    next: Duration,
    /// How long it took to get each piece of work done, the work itself left out.
    pub delays: Vec<Duration>,
    done: u64,
    /// Longest time that it wanted to run and did not.
    pub longest_wait: Duration,
    waits: Duration,
}

impl Client {
    fn wants(&self, now: Duration) -> bool {
        self.alive
            && match self.habit {
                Habit::Busy { .. } => !self.gated || !self.left.is_zero(),
                Habit::Still => false,
                Habit::Later { begins } => now >= begins,
                Habit::Bursts { .. } | Habit::Batches { .. } => !self.left.is_zero(),
            }
    }

    /// It would run if it were let: also one whose next batch is held back.
    fn longs(&self, now: Duration) -> bool {
        self.wants(now) || (self.alive && self.gated && !matches!(self.habit, Habit::Still))
    }

    fn runs(&self, now: Duration) -> bool {
        self.wants(now) && self.stop.is_none_or(|stop| now < stop)
    }
}

/// Numbers that look random and are the same each time.
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

/// How long stops take, and looks are late.
#[derive(Debug, Clone, Copy)]
pub enum Delays {
    /// As they were measured with SIGSTOP on a machine with other work: about 100 us, some milliseconds one time in a hundred.
    Measured,
    /// Always this, and no look is late.
    Exact(Duration),
    /// As measured, but one of four takes this long: what draws is in the kernel.
    Stuck(Duration),
}

#[derive(Debug)]
pub struct Machine {
    pub schedule: Schedule<u32>,
    pub clients: BTreeMap<u32, Client>,
    pub now: Duration,
    next: Option<Duration>,
    delays: Delays,
    pub chance: Chance,
    step: Duration,
    cores: u32,
    /// Moments at which two ran that were both known to have work.
    pub together: Duration,
    /// Time in which nobody ran.
    pub unused: Duration,
    pub acts: u64,
    pub looks: u64,
    /// Nobody looks until then.
    pub blind_until: Duration,
    pub held: Vec<u32>,
}

impl Machine {
    pub fn new(options: Options) -> Self {
        Machine {
            schedule: Schedule::new(options),
            clients: BTreeMap::new(),
            now: Duration::ZERO,
            next: Some(Duration::ZERO),
            delays: Delays::Measured,
            chance: Chance(1),
            step: us(50),
            cores: 2,
            together: Duration::ZERO,
            unused: Duration::ZERO,
            acts: 0,
            looks: 0,
            blind_until: Duration::ZERO,
            held: Vec::new(),
        }
    }

    pub fn delays(mut self, delays: Delays) -> Self {
        self.delays = delays;
        self
    }

    pub fn step(mut self, step: Duration) -> Self {
        self.step = step;
        self
    }

    pub fn chance(mut self, seed: u64) -> Self {
        self.chance = Chance(seed);
        self
    }

    pub fn add(&mut self, weight: u32, habit: Habit) -> u32 {
        self.add_as(Share { weight, priority: Priority::Normal, grips: FREEZE }, habit)
    }

    pub fn add_as(&mut self, share: Share, habit: Habit) -> u32 {
        let key = self.clients.keys().last().map_or(0, |last| last + 1);
        let client = Client {
            habit,
            alive: true,
            talks: false,
            stuck: false,
            used: Duration::ZERO,
            stop: None,
            gated: false,
            left: Duration::ZERO,
            arrived: Duration::ZERO,
            next: self.now,
            delays: Vec::new(),
            done: 0,
            longest_wait: Duration::ZERO,
            waits: Duration::ZERO,
        };
        self.clients.insert(key, client);
        self.schedule.add(key, share);
        self.next = Some(self.now);
        key
    }

    pub fn client(&mut self, key: u32) -> &mut Client {
        self.clients.get_mut(&key).expect("a client")
    }

    /// A process that ends, or another that begins in its place.
    pub fn set_alive(&mut self, key: u32, alive: bool) {
        let client = self.client(key);
        client.alive = alive;
        client.stop = None;
        client.left = Duration::ZERO;
        // Somebody notices.
        self.next = Some(self.now);
    }

    /// Lets a stopped one go on, without a word.
    pub fn let_go(&mut self, key: u32) {
        self.client(key).stop = None;
    }

    pub fn release(&mut self, key: u32) {
        assert!(self.schedule.release(key));
        self.next = Some(self.now);
    }

    pub fn account(&self, key: u32) -> Account {
        self.schedule.account(key).expect("a client")
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let stopped = self.clients.values().any(|client| client.stop == Some(self.now));
            if (stopped || self.next.is_some_and(|next| next <= self.now)) && self.now >= self.blind_until {
                self.look();
            }
            self.pass();
        }
    }

    fn look(&mut self) {
        self.looks += 1;
        let now = self.now;
        let measure = |(key, client): (&u32, &Client)| {
            let measured = Measured {
                alive: client.alive,
                used: client.used,
                stopped: client.stop.is_some_and(|stop| stop <= now),
                runnable: client.runs(now),
                pending: client.talks.then(|| client.wants(now)),
                progress: client.talks.then_some(client.done),
            };
            (*key, measured)
        };
        let measured: Vec<_> = self.clients.iter().map(measure).collect();
        let step = self.schedule.tick(now, &measured);
        self.acts += step.acts.len() as u64;
        for act in step.acts {
            match act {
                Act::Freeze(key) | Act::Hold(key) => {
                    let takes = self.stop_takes();
                    self.client(key).stop = Some(now + takes);
                    if act == Act::Hold(key) {
                        self.held.push(key);
                    }
                }
                Act::Thaw(key) => self.client(key).stop = None,
                Act::Gate(key) => self.client(key).gated = true,
                Act::Open(key) => self.client(key).gated = false,
            }
        }
        assert!(step.next.is_none_or(|next| next > now), "It wants to look again at once");
        let late = self.lateness();
        self.next = step.next.map(|next| self.on_step(next + late));
    }

    /// The first moment of this machine that is not before that.
    fn on_step(&self, moment: Duration) -> Duration {
        let step = self.step.as_nanos();
        Duration::from_nanos((moment.as_nanos().div_ceil(step) * step) as u64)
    }

    fn stop_takes(&mut self) -> Duration {
        let takes = match self.delays {
            Delays::Exact(takes) => takes,
            Delays::Stuck(takes) if self.chance.next(4) == 0 => takes,
            _ if self.chance.next(100) == 0 => us(500 + self.chance.next(3500)),
            _ => us(60 + self.chance.next(80)),
        };
        self.on_step(takes).max(self.step)
    }

    fn lateness(&mut self) -> Duration {
        match self.delays {
            Delays::Exact(_) => Duration::ZERO,
            _ if self.chance.next(500) == 0 => us(self.chance.next(3000)),
            _ => us(self.chance.next(100)),
        }
    }

    /// A step passes.
    fn pass(&mut self) {
        let (now, step) = (self.now, self.step);
        for client in self.clients.values_mut().filter(|client| client.alive && client.left.is_zero()) {
            match client.habit {
                Habit::Bursts { work, .. } if client.next <= now => {
                    (client.left, client.arrived) = (work, now);
                }
                Habit::Batches { length } if !client.gated => client.left = length,
                _ => {}
            }
        }
        let threads = |client: &Client| if let Habit::Busy { threads } = client.habit { threads } else { 1 };
        let running: Vec<u32> =
            self.clients.iter().filter(|(_, client)| client.runs(now)).map(|(key, _)| *key).collect();
        let wanted: u32 = running.iter().map(|key| threads(&self.clients[key])).sum();
        let scale = if wanted > self.cores { f64::from(self.cores) / f64::from(wanted) } else { 1.0 };
        let turns = running.iter().filter(|key| self.schedule.clients[key].is_running());
        if turns.count() > 1 {
            self.together += step;
        }
        if running.is_empty() {
            self.unused += step;
        }
        for (key, client) in &mut self.clients {
            if !client.longs(now) {
                client.waits = Duration::ZERO;
            } else if !running.contains(key) {
                client.waits += step;
                client.longest_wait = client.longest_wait.max(client.waits);
            } else {
                client.waits = Duration::ZERO;
                let used = step.mul_f64(f64::from(threads(client)) * scale);
                client.used += used;
                if !client.stuck && matches!(client.habit, Habit::Busy { .. } | Habit::Later { .. }) {
                    client.done += 1;
                }
                if !client.left.is_zero() {
                    client.left = client.left.saturating_sub(used);
                    if let (true, Habit::Bursts { work, pause }) = (client.left.is_zero(), client.habit) {
                        client.next = now + step + pause;
                        client.delays.push((now + step - client.arrived).saturating_sub(work));
                    }
                    client.done += u64::from(client.left.is_zero());
                }
            }
        }
        self.now += step;
    }

    /// Counts waits from now on.
    pub fn forget_waits(&mut self) {
        self.clients.values_mut().for_each(|client| (client.waits, client.longest_wait) = Default::default());
    }

    pub fn used(&self) -> Vec<Duration> {
        self.clients.values().map(|client| client.used).collect()
    }

    /// What each used in the next `time`, in seconds.
    pub fn uses(&mut self, time: Duration) -> Vec<f64> {
        let before = self.used();
        self.run(time);
        self.used().iter().zip(before).map(|(after, before)| (*after - before).as_secs_f64()).collect()
    }
}

/// Jain's index: 1 when all are the same, 1/N when one has all.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    sum * sum / (squares * shares.len() as f64)
}

/// The largest distance of a share from what it should be, as a part of that.
pub fn worst(shares: &[f64], weights: &[u32]) -> f64 {
    let (sum, all) = (shares.iter().sum::<f64>(), f64::from(weights.iter().sum::<u32>()));
    let distance = |(share, weight): (&f64, &u32)| ((share / sum) / (f64::from(*weight) / all) - 1.0).abs();
    shares.iter().zip(weights).map(distance).fold(0.0, f64::max)
}

/// The value that 99 of 100 do not exceed.
pub fn p99(delays: &[Duration]) -> Duration {
    let mut sorted = delays.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * 99 / 100]
}
