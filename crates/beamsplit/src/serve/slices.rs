//! The thread that gives out time: it measures what devices use, asks [`manager::schedule`] whose turn it is, and stops and
//! continues their processes.
//!
//! It has no async runtime and waits for nobody but the processes that it stops, for at most the preempt timeout. Each GPU has a
//! schedule of its own. Where nobody draws it wakes up once a second to see whether somebody does; a device with a seam to us
//! (its `arbiter.sock`) rings instead. A process that stays behind us ([`super::guard`]) lets everybody go on should we die.

mod client;
#[cfg(test)]
mod tests;
pub mod tool;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::processes::{Identity, MOST, Processes};
use manager::gpu::Timed;
use manager::profile::{Priority, Promise};
use manager::schedule::{self, Account, Act, Grips, Held, Policy, Schedule, Share};
use manager::{GpuId, Uuid};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::Serialize;

use super::guard::Guard;
use client::Client;

/// How often processes are looked for while nobody draws, and while somebody does.
const SELDOM: Duration = Duration::from_secs(1);
const OFTEN: Duration = Duration::from_millis(250);
/// How often what everybody had is written down for others to read.
const TOLD: Duration = Duration::from_millis(100);
/// How long the thread waits for those that it has just told to stop: others' turns end meanwhile.
const AT_REST: Duration = Duration::from_millis(20);
/// Looks without a pause in between, should a schedule want so many. Stops one that never comes to rest.
const LOOKS: u32 = 64;

/// Who is told that a vGPU is held, and why.
pub type OnHeld = Box<dyn Fn(Uuid, Held) + Send>;

/// How it is done.
pub struct Options {
    /// How each GPU's time is given out, unless a type promises more.
    pub schedule: schedule::Options,
    /// Who is told of vGPUs that are held.
    pub on_held: OnHeld,
    /// The machine's processes.
    pub processes: Processes,
    /// Leaves a process behind that lets all go on when we die.
    pub guarded: bool,
}

impl Default for Options {
    fn default() -> Self {
        let schedule = schedule::Options::default();
        Options { schedule, on_held: Box::new(|_, _| {}), processes: Processes::default(), guarded: true }
    }
}

/// A device whose time is given out.
#[derive(Debug, Clone)]
pub struct Device {
    /// Whose time.
    pub gpu: GpuId,
    /// Its process.
    pub process: Identity,
    /// Its part beside others.
    pub weight: u32,
    /// Who goes first.
    pub priority: Priority,
    /// What its type promises. One promise makes all slots of the GPU kept ones.
    pub promise: Promise,
    /// Where the time that it uses is read.
    pub timed: Timed,
    /// Its seam to us.
    pub arbiter: Option<PathBuf>,
    /// Whether all that it draws passes its device, which can hold it back: OpenGL does, Vulkan's own rings do not.
    pub gate: bool,
    /// Its control group, if it was given to us.
    pub cgroup: Option<PathBuf>,
}

/// What a vGPU had.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Slice {
    /// `absent`, `idle`, `waiting`, `running` or `held`.
    pub doing: &'static str,
    /// Nanoseconds that its processes used.
    pub used: u64,
    /// Nanoseconds for which it had work and was not its turn.
    pub waited: u64,
    /// Its turns.
    pub slices: u64,
    /// Turns that ended late.
    pub overruns: u64,
    /// Times that it ran although it was stopped.
    pub escapes: u64,
    /// Stops of its processes.
    pub stops: u64,
    /// Times that new work of its was held back.
    pub gates: u64,
    /// Nanoseconds that stopping it takes.
    pub stop_time: u64,
    /// Nanoseconds from the order to stop it until the next one went on.
    pub switch_time: u64,
    /// Times that its device told that what was waited for is so.
    pub rings: u64,
    /// Nanoseconds that it is ahead of its share.
    pub debt: u64,
    /// `cpu` or `drm-fdinfo`: where that was read.
    pub measured: &'static str,
    /// `SIGSTOP` or `cgroup.freeze`.
    pub stopped_by: &'static str,
    /// Why it is held.
    pub held: Option<String>,
}

enum Order {
    Add(Uuid, Box<Device>),
    Remove(Uuid),
    Hold(Uuid, String),
    Release(Uuid),
    End,
}

/// The thread.
pub struct Slices;

/// The way to the thread. When it is dropped all go on, and the thread ends.
pub struct Handle {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
    told: Arc<Mutex<BTreeMap<Uuid, Slice>>>,
    thread: Option<JoinHandle<()>>,
}

impl Slices {
    /// Starts the thread.
    pub fn start(options: Options) -> Result<Handle> {
        let (orders, received) = channel();
        let bell =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("Cannot make an eventfd")?);
        let told = Arc::new(Mutex::new(BTreeMap::new()));
        let guard = if options.guarded { Some(Guard::start().context("Cannot start the guard")?) } else { None };
        let mut turner = Turner {
            options,
            guard,
            received,
            bell: bell.clone(),
            told: told.clone(),
            gpus: BTreeMap::new(),
            begin: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("slices".to_owned());
        let thread = thread.spawn(move || turner.run()).context("Cannot start a thread")?;
        Ok(Handle { orders, bell, told, thread: Some(thread) })
    }
}

impl Handle {
    /// Gives time to a device from now on.
    pub fn add(&self, uuid: Uuid, device: Device) {
        self.order(Order::Add(uuid, Box::new(device)));
    }

    /// Lets it go on and forgets it.
    pub fn remove(&self, uuid: Uuid) {
        self.order(Order::Remove(uuid));
    }

    /// Stops it until it is released: it was held before we came.
    pub fn hold(&self, uuid: Uuid, why: String) {
        self.order(Order::Hold(uuid, why));
    }

    /// Lets one that is held go on.
    pub fn release(&self, uuid: Uuid) {
        self.order(Order::Release(uuid));
    }

    /// What each had, not older than the last tenth of a second in which anybody drew.
    pub fn snapshot(&self) -> BTreeMap<Uuid, Slice> {
        self.told.lock().map(|told| told.clone()).unwrap_or_default()
    }

    fn order(&self, order: Order) {
        // It ends only with us.
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A GPU and those that share it.
struct Gpu {
    schedule: Schedule<Uuid>,
    clients: BTreeMap<Uuid, Client>,
    next: Option<Duration>,
    /// Whose turn ended, and when: nobody runs since.
    ended: Option<(Uuid, Instant)>,
}

/// What the thread has.
struct Turner {
    options: Options,
    guard: Option<Guard>,
    received: Receiver<Order>,
    bell: Arc<OwnedFd>,
    told: Arc<Mutex<BTreeMap<Uuid, Slice>>>,
    gpus: BTreeMap<GpuId, Gpu>,
    begin: Instant,
}

impl Turner {
    fn run(&mut self) {
        go_first();
        let mut told = Duration::ZERO;
        loop {
            self.wait();
            if !self.obey() {
                break;
            }
            let now = self.begin.elapsed();
            let on_held = &self.options.on_held;
            self.gpus.values_mut().for_each(|gpu| gpu.look(self.begin, on_held));
            self.gpus.values_mut().for_each(|gpu| gpu.listen(self.begin.elapsed()));
            if now >= told + TOLD || self.next().is_none() {
                self.tell();
                told = now;
            }
        }
        let clients = self.gpus.values_mut().flat_map(|gpu| gpu.clients.values_mut());
        clients.for_each(Client::let_go);
        self.guard = None;
    }

    /// When something is due.
    fn next(&self) -> Option<Duration> {
        let gpus = self.gpus.values().filter(|gpu| !gpu.clients.is_empty());
        gpus.flat_map(|gpu| [gpu.next, Some(gpu.next_find()), gpu.listens()]).flatten().min()
    }

    /// Waits until then, or until somebody has something to say.
    fn wait(&self) {
        let timeout = self.next().map(|next| next.saturating_sub(self.begin.elapsed()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&*self.bell, PollFlags::IN)];
        let clients = self.gpus.values().flat_map(|gpu| gpu.clients.values());
        fds.extend(clients.filter_map(Client::bell).map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)));
        // Interrupted or not: what is due is looked at next.
        let _ = poll(&mut fds, timeout.as_ref());
        if !fds[0].revents().is_empty() {
            let _ = rustix::io::read(self.bell.as_fd(), &mut [0; 8]);
        }
    }

    fn obey(&mut self) -> bool {
        while let Ok(order) = self.received.try_recv() {
            match order {
                Order::Add(uuid, device) => self.add(uuid, *device),
                Order::Remove(uuid) => self.remove(uuid),
                Order::Hold(uuid, why) => {
                    if let Some(gpu) = self.gpu_of(uuid) {
                        gpu.schedule.hold(uuid, Held { why, last: None });
                        gpu.act(&[Act::Hold(uuid)], &|_, _| {});
                    }
                }
                Order::Release(uuid) => {
                    if let Some(gpu) = self.gpu_of(uuid) {
                        gpu.schedule.release(uuid);
                        gpu.clients.get(&uuid).into_iter().for_each(Client::released);
                        gpu.next = Some(Duration::ZERO);
                    }
                }
                Order::End => return false,
            }
        }
        true
    }

    fn gpu_of(&mut self, uuid: Uuid) -> Option<&mut Gpu> {
        self.gpus.values_mut().find(|gpu| gpu.clients.contains_key(&uuid))
    }

    fn add(&mut self, uuid: Uuid, device: Device) {
        self.remove(uuid);
        let Some(client) = Client::new(&self.options.processes, &device) else {
            tracing::debug!("{uuid}: its device is gone already");
            return;
        };
        if let Some(guard) = &mut self.guard {
            guard.watch(device.process, client.group());
        }
        let options = self.options.schedule;
        let gpu = self.gpus.entry(device.gpu.clone()).or_insert_with(|| Gpu {
            schedule: Schedule::new(options),
            clients: BTreeMap::new(),
            next: None,
            ended: None,
        });
        let grips = Grips { gate: device.gate && device.arbiter.is_some(), freeze: true };
        let share = Share { weight: device.weight, priority: device.priority, grips };
        gpu.clients.insert(uuid, client);
        gpu.schedule.add(uuid, share);
        gpu.keep_promises(options);
        gpu.next = Some(Duration::ZERO);
    }

    fn remove(&mut self, uuid: Uuid) {
        let options = self.options.schedule;
        if let Some(gpu) = self.gpu_of(uuid) {
            gpu.schedule.remove(uuid);
            if let Some(mut client) = gpu.clients.remove(&uuid) {
                client.let_go();
            }
            gpu.keep_promises(options);
            gpu.next = Some(Duration::ZERO);
        }
        if let Ok(mut told) = self.told.lock() {
            told.remove(&uuid);
        }
    }

    fn tell(&self) {
        let each = self.gpus.values().flat_map(|gpu| {
            gpu.schedule.accounts().filter_map(|(uuid, account)| Some((uuid, gpu.clients.get(&uuid)?.slice(&account))))
        });
        let each = each.collect();
        if let Ok(mut told) = self.told.lock() {
            *told = each;
        }
    }
}

impl Gpu {
    /// A slot is kept where one was promised to anybody.
    fn keep_promises(&mut self, options: schedule::Options) {
        let promised = self.clients.values().any(|client| client.promise != Promise::Advisory);
        let policy = if promised && options.policy == Policy::BestEffort { Policy::FixedShare } else { options.policy };
        self.schedule.set_policy(policy);
    }

    fn next_find(&self) -> Duration {
        self.clients.values().map(|client| client.found).min().unwrap_or_default() + self.pause()
    }

    fn pause(&self) -> Duration {
        if self.clients.values().any(Client::is_alive) { OFTEN } else { SELDOM }
    }

    /// Has devices ring for what somebody acts on, and for nothing else.
    fn listen(&mut self, now: Duration) {
        for (uuid, client) in &mut self.clients {
            client.listen(self.schedule.awaits(*uuid), now);
        }
    }

    /// When one that has rung may ring again, or one need not ring.
    fn listens(&self) -> Option<Duration> {
        self.clients.values().filter_map(Client::listens).min()
    }

    /// Looks at all, does what follows, and looks again for as long as somebody was stopped.
    fn look(&mut self, begin: Instant, on_held: &OnHeld) {
        let mut due = self.next.is_some_and(|next| begin.elapsed() >= next);
        let pause = self.pause();
        for client in self.clients.values_mut() {
            let now = begin.elapsed();
            let rang = client.heard(now);
            if rang || now >= client.found + pause {
                due |= client.find(now) || rang;
            }
        }
        let crowds = self.clients.iter().filter(|(_, client)| client.is_too_many()).map(|(uuid, _)| *uuid);
        for uuid in crowds.collect::<Vec<_>>() {
            if self.schedule.account(uuid).is_some_and(|account| account.held.is_none()) {
                let why = format!(
                    "It has processes that draw and cannot be stopped: more than {MOST}, or more than this manager may hold"
                );
                self.schedule.hold(uuid, Held { why, last: None });
                self.act(&[Act::Hold(uuid)], on_held);
            }
        }
        for _ in 0..LOOKS {
            if !due {
                return;
            }
            let now = begin.elapsed();
            let due_ones = self.clients.iter_mut().filter(|(_, client)| client.is_due(now));
            let measured: Vec<_> = due_ones.map(|(uuid, client)| (*uuid, client.measure(now))).collect();
            let step = self.schedule.tick(begin.elapsed(), &measured);
            self.next = step.next;
            due = self.act(&step.acts, on_held);
        }
    }

    /// Returns whether somebody was stopped.
    fn act(&mut self, acts: &[Act<Uuid>], on_held: &dyn Fn(Uuid, Held)) -> bool {
        let limit = self.schedule.options().preempt_timeout;
        let mut stopping = Vec::new();
        for act in acts {
            let (Act::Freeze(uuid) | Act::Thaw(uuid) | Act::Gate(uuid) | Act::Open(uuid) | Act::Hold(uuid)) = act;
            let Some(client) = self.clients.get_mut(uuid) else { continue };
            match act {
                Act::Freeze(_) => {
                    self.ended = Some((*uuid, Instant::now()));
                    client.freeze();
                    stopping.push(*uuid);
                }
                Act::Thaw(_) => {
                    client.thaw();
                    self.switched(limit);
                }
                Act::Gate(_) => {
                    self.ended = Some((*uuid, Instant::now()));
                    client.gate();
                }
                Act::Open(_) => {
                    client.open();
                    self.switched(limit);
                }
                Act::Hold(_) => {
                    client.grant(arbiter::Grant::Held);
                    client.freeze();
                    stopping.push(*uuid);
                    if let Some(Account { held: Some(Held { why, .. }), .. }) = self.schedule.account(*uuid) {
                        on_held(*uuid, Held { why, last: client.last() });
                    }
                }
            }
        }
        // Waited for when whoever is next has been let go on. One that takes longer is looked at again and again.
        let begin = Instant::now();
        for uuid in &stopping {
            let left = limit.min(AT_REST).saturating_sub(begin.elapsed());
            self.clients.get_mut(uuid).into_iter().for_each(|client| client.finish(left));
        }
        !stopping.is_empty()
    }

    /// Somebody goes on.
    fn switched(&mut self, limit: Duration) {
        let ended = self.ended.take().map(|(uuid, at)| (uuid, at.elapsed()));
        // What took longer was nobody's turn.
        if let Some((uuid, took)) = ended.filter(|(_, took)| *took <= limit)
            && let Some(client) = self.clients.get_mut(&uuid)
        {
            client.switched(took);
        }
    }
}

/// Who gives out time goes before those who use it, as far as this is allowed. Without, slices are less even.
fn go_first() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    // A program of the system's, which says no where it may not.
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &thread]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !command.status().is_ok_and(|status| status.success())
        && rustix::process::setpriority_process(None, -20).is_err()
    {
        tracing::debug!(
            "Time is given out by a thread like any other: {}",
            io::Error::from(io::ErrorKind::PermissionDenied)
        );
    }
}
