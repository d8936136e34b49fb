//! The thread that owns the machine: it hears events one at a time, and carries out what follows from each.
//!
//! What must be on the disk before anything else happens is written here; what takes time (a device that starts, one that
//! ends) is watched elsewhere ([`super::watch`]) and comes back as an event.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::processes::{Identity, Processes};
use manager::machine::{Ending, Outcome, Status};
use manager::profile::Catalogue;
use manager::record::{Process, Record};
use manager::{Action, Event, Grant, Machine, State, Uuid, schedule};
use tokio::sync::watch;
use viewer::Right;

use super::config::Config;
use super::desk::{Desk, Failure, Order};
use super::device::{ARBITER, Devices, Waiting};
use super::slices::{self, Slices};
use super::store::Store;
use super::watch::{self as watching, Watch};
use super::{cgroup, fuse, record};

/// What the thread owns.
pub struct Keeper {
    /// All vGPUs.
    pub machine: Machine,
    /// What the manager was told about itself.
    pub config: Config,
    /// The folders of devices.
    pub devices: Devices,
    store: Store,
    config_folder: PathBuf,
    boot_id: String,
    cgroup: Option<PathBuf>,
    slices: slices::Handle,
    watches: HashMap<Uuid, Watch>,
    /// Processes that wait for the word until they are written down.
    waiting: HashMap<Uuid, Waiting>,
    /// What the machine has still to hear, in order.
    news: VecDeque<Event>,
    began: Instant,
    orders: Receiver<Order>,
    desk: Desk,
    changed: watch::Sender<u64>,
    runtime: tokio::runtime::Handle,
}

/// What a keeper is made of.
pub struct Parts {
    /// What the host offers.
    pub catalogue: Catalogue,
    /// What the manager was told about itself.
    pub config: Config,
    /// Where that is.
    pub config_folder: PathBuf,
    /// The folders of devices.
    pub devices: Devices,
    /// The control group for devices, where there is one.
    pub cgroup: Option<PathBuf>,
    /// Where devices are watched.
    pub runtime: tokio::runtime::Handle,
}

/// Nobody may be there who asks: who reads the journal is to see what did not come up, and what is no more.
fn log_failure(status: &Status) {
    if let State::Failed { why } = &status.state {
        tracing::warn!("{} ({}): {why}", status.uuid, status.name.as_deref().unwrap_or("no name"));
    }
}

/// Starts the thread that does. What it holds, the machine hears of.
fn give_out_time(schedule: schedule::Options, desk: Desk) -> Result<slices::Handle> {
    let on_held = move |uuid, held| desk.happened(Event::Hung { uuid, held });
    let options = slices::Options { schedule, on_held: Box::new(on_held), ..Default::default() };
    Slices::start(options).context("Cannot give out time")
}

/// Whose turn it is: that of those who order something, or that of the machine, whose time has come.
#[derive(Debug, Default)]
struct Turn {
    /// The machine was the last to have its own.
    ticked: bool,
}

impl Turn {
    /// The next order; `Timeout` when so much time has passed. However many order things without a pause, what is due is done in
    /// between, and they are heard whatever is due.
    fn next(&mut self, orders: &Receiver<Order>, left: Option<Duration>) -> Result<Order, RecvTimeoutError> {
        self.ticked = !self.ticked && left == Some(Duration::ZERO);
        match left {
            _ if self.ticked => Err(RecvTimeoutError::Timeout),
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(left) => orders.recv_timeout(left),
        }
    }
}

impl Keeper {
    /// Reads what was defined.
    pub fn new(parts: Parts) -> Result<(Self, Desk)> {
        let Parts { catalogue, config, config_folder, devices, cgroup, runtime } = parts;
        let cannot = || format!("Cannot use {}", config_folder.display());
        let store = Store::open(&config_folder).with_context(cannot)?;
        let boot_id = Processes::default().boot_id().context("Cannot find out which boot this is")?;
        let (sender, orders) = channel();
        let (changed, changes) = watch::channel(0);
        let desk = Desk::new(sender, changes);
        let slices = give_out_time(config.schedule, desk.clone())?;
        let keeper = Keeper {
            machine: Machine::new(catalogue),
            config,
            devices,
            store,
            config_folder,
            boot_id,
            cgroup,
            slices,
            watches: HashMap::new(),
            waiting: HashMap::new(),
            news: VecDeque::new(),
            began: Instant::now(),
            orders,
            desk: desk.clone(),
            changed,
            runtime,
        };
        Ok((keeper, desk))
    }

    /// Tells the machine what is there: definitions, then devices that a manager before this one started.
    pub fn begin(&mut self, autostart: bool) -> Result<()> {
        self.devices.tidy();
        for (uuid, definition) in self.definitions()? {
            self.tell(Event::Loaded { uuid, definition });
        }
        for uuid in self.devices.found().context("Cannot look for devices")? {
            self.look_after(uuid);
        }
        self.tell(Event::Begin { autostart });
        self.machine.list().for_each(|status| log_failure(&status));
        Ok(())
    }

    fn definitions(&self) -> Result<Vec<super::store::Found>> {
        let ignored = |name: &str| tracing::warn!("Not a vGPU's file, so it is left alone: {name}");
        self.store.load(ignored).with_context(|| format!("Cannot read {}", self.config_folder.display()))
    }

    /// What became of the device whose folder was found.
    fn look_after(&mut self, uuid: Uuid) {
        let folder = self.devices.folder(uuid);
        let record = match record::read(&folder, uuid) {
            Ok(Some(record)) => record,
            // A log is kept as long as its vGPU is.
            Ok(None) if self.machine.status(uuid).is_some() => return,
            Ok(None) => return self.devices.remove(uuid),
            Err(error) => {
                // Nobody knows what runs there, so nothing of it is touched.
                tracing::error!("{uuid}: {error}; {} is left alone", folder.display());
                return;
            }
        };
        let Some(process) = record.process.clone() else {
            // The process that it was written for waits for a word that nobody will say, and ends.
            return self.tell(Event::Lost { record, why: "the manager ended before it was started".to_owned() });
        };
        if process.boot_id != self.boot_id {
            return self.devices.remove(uuid);
        }
        // A number that is none names nobody, who is gone.
        let identity = Identity { pid: i32::try_from(process.pid).unwrap_or(0), start_time: process.start_time };
        match Processes::default().hold(identity) {
            Ok(Some(pidfd)) => {
                let ready = watching::answers_now(&self.runtime, &folder, identity);
                self.watch(uuid, identity, pidfd);
                tracing::info!("{uuid}: adopted process {}", identity.pid);
                self.tell(Event::Adopted { record, process, ready });
            }
            held => {
                if let Err(error) = held {
                    tracing::error!("{uuid}: Cannot hold process {}, so it is ended: {error}", identity.pid);
                }
                if watching::is_nothing_left(Processes::default(), uuid, identity) {
                    return self.tell(Event::Lost { record, why: "its process ended while no manager ran".to_owned() });
                }
                // What it started is there still, and its part is its own until that is gone.
                let watch = Watch::start_rest(&self.runtime, self.desk.clone(), uuid, identity);
                self.watches.insert(uuid, watch);
                self.tell(Event::Adopted { record, process, ready: true });
            }
        }
    }

    /// Serves orders until the last is that to end.
    pub fn run(mut self) {
        let mut turn = Turn::default();
        loop {
            let left = self.machine.deadline().map(|deadline| deadline.saturating_sub(self.began.elapsed()));
            let order = turn.next(&self.orders, left);
            match order {
                Ok(Order::Command(event, answer)) => {
                    let done = self.command(event);
                    // Who asked may have gone.
                    let _ = answer.send(done);
                }
                Ok(Order::Happened(event)) => self.tell(event),
                Ok(Order::Look(look)) => {
                    look(&self);
                    continue;
                }
                Ok(Order::Change(change)) => change(&mut self),
                Err(RecvTimeoutError::Timeout) => self.tell(Event::Tick),
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Reads all files again.
    pub fn reload(&mut self, catalogue: Catalogue, config: Config) -> Result<()> {
        self.config = config;
        self.tell(Event::Reload { catalogue });
        let found = self.definitions()?;
        let known: Vec<Uuid> =
            self.machine.list().filter(|status| status.persistent).map(|status| status.uuid).collect();
        for uuid in known.into_iter().filter(|uuid| !found.iter().any(|(there, _)| there == uuid)) {
            self.tell(Event::Unloaded { uuid });
        }
        for (uuid, definition) in found {
            self.tell(Event::Loaded { uuid, definition });
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        match &event {
            Event::Ready { uuid } => self.devices.share(*uuid, self.config.group),
            Event::Exited { uuid, .. } => {
                self.slices.remove(*uuid);
                // Its descriptor goes too. Another process of the same vGPU is watched by another.
                if self.watches.get(uuid).is_some_and(Watch::is_over) {
                    self.watches.remove(uuid);
                }
            }
            _ => {}
        }
        let ready = if let Event::Ready { uuid } = &event { Some(*uuid) } else { None };
        let ended = if let Event::Exited { uuid, .. } = &event { Some(*uuid) } else { None };
        if let Err(error) = self.command(event) {
            tracing::warn!("{error}");
        }
        if let Some(status) = ended.and_then(|uuid| self.machine.status(uuid)) {
            log_failure(&status);
        }
        if let Some(uuid) = ready {
            self.give_time(uuid);
        }
    }

    /// Gives time to a device that answers, if its guest can use any. One that has time already keeps what it has.
    fn give_time(&self, uuid: Uuid) {
        let Some(Status { grant: Some(Grant { profile, .. }), state, .. }) = self.machine.status(uuid) else { return };
        let gpu = self.machine.gpus().iter().find(|gpu| gpu.id == profile.gpu);
        let (Some(gpu), Some(identity), true) = (gpu, self.process_of(uuid), profile.draws_3d()) else { return };
        let device = slices::Device {
            gpu: profile.gpu,
            process: identity,
            weight: profile.weight,
            priority: profile.priority,
            promise: profile.share,
            timed: gpu.timed,
            gate: profile.capsets.iter().all(|capset| gpu.grips(*capset).gate),
            arbiter: Some(self.devices.folder(uuid).join(ARBITER)),
            cgroup: self.cgroup.as_deref().map(|groups| cgroup::of(groups, uuid)).filter(|group| group.exists()),
        };
        self.slices.add(uuid, device);
        if matches!(state, State::Held { .. }) {
            self.slices.hold(uuid, self.why_held(uuid));
        }
    }

    fn why_held(&self, uuid: Uuid) -> String {
        match self.machine.status(uuid).map(|status| status.state) {
            Some(State::Held { why, .. }) => why,
            _ => String::new(),
        }
    }

    /// What each had of its GPU's time.
    pub fn time(&self) -> BTreeMap<Uuid, slices::Slice> {
        self.slices.snapshot()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// One event, and all that follows from it at once.
    pub fn command(&mut self, event: Event) -> Result<Outcome, Failure> {
        let step = self.machine.step(self.now(), event);
        let mut not_saved = self.carry_out(step.actions);
        while let Some(event) = self.news.pop_front() {
            let spawned = if let Event::Spawned { uuid, .. } = &event { Some(*uuid) } else { None };
            let step = self.machine.step(self.now(), event);
            let failed = self.carry_out(step.actions);
            if let Some(uuid) = spawned {
                self.let_go_on(uuid, failed.is_none());
            }
            not_saved = not_saved.or(failed);
        }
        let outcome = step.reply?;
        not_saved.map_or(Ok(outcome), |why| Err(Failure::NotSaved(why)))
    }

    /// Carries out actions in their order. What could not be written down is returned.
    fn carry_out(&mut self, actions: Vec<Action>) -> Option<String> {
        let mut not_saved = None;
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            fuse::moment();
            let done = self.act(action);
            fuse::moment();
            let Some((uuid, written)) = done else { continue };
            let answer = match written {
                Ok(()) => Event::Saved { uuid },
                Err(why) => {
                    tracing::error!("{uuid}: {why}");
                    not_saved = Some(why.clone());
                    Event::NotSaved { uuid, why }
                }
            };
            // Before the machine hears anything else, and before the rest is done.
            let more = self.machine.step(self.now(), answer).actions;
            for action in more.into_iter().rev() {
                actions.push_front(action);
            }
        }
        not_saved
    }

    /// Carries out one. What writes something down says whether it did.
    fn act(&mut self, action: Action) -> Option<(Uuid, Result<(), String>)> {
        match action {
            Action::Save(definition) => {
                let done = self.store.save(&definition);
                return Some((definition.uuid, done.map_err(|error| format!("its definition was not saved: {error}"))));
            }
            Action::Forget(uuid) => {
                let done = self.store.forget(uuid);
                return Some((uuid, done.map_err(|error| format!("its definition was not removed: {error}"))));
            }
            Action::Note(record) => {
                let done = self.note(&record);
                return Some((record.uuid(), done.map_err(|error| format!("its record was not written: {error}"))));
            }
            Action::Spawn(grant) => self.spawn(&grant),
            Action::Terminate(uuid) => self.end(uuid, Watch::terminate),
            Action::Kill(uuid) => self.end(uuid, Watch::kill),
            Action::Hold(uuid) => self.slices.hold(uuid, self.why_held(uuid)),
            Action::Release(uuid) => self.slices.release(uuid),
            Action::Sweep(uuid) => {
                self.devices.sweep(uuid);
                self.leave_cgroup(uuid);
            }
            Action::Cleanup(uuid) => {
                self.devices.remove(uuid);
                self.leave_cgroup(uuid);
                if self.machine.status(uuid).is_none() {
                    self.devices.forget(uuid);
                }
            }
        }
        None
    }

    fn leave_cgroup(&self, uuid: Uuid) {
        if let Some(groups) = &self.cgroup {
            cgroup::remove(groups, uuid);
        }
    }

    fn note(&self, record: &Record) -> std::io::Result<()> {
        let folder = self.devices.make(record.uuid())?;
        record::write(record, &folder)
    }

    fn spawn(&mut self, grant: &Grant) {
        let uuid = grant.definition.uuid;
        let gpu = self.machine.gpus().iter().find(|gpu| gpu.id == grant.profile.gpu);
        let cgroup = self.cgroup.as_deref().and_then(|groups| cgroup::make(groups, uuid));
        if let Some(group) = &cgroup {
            cgroup::bound(group, &grant.profile);
        }
        let spawned = self.devices.spawn(grant, gpu, &self.config, cgroup.as_deref());
        let event = match spawned.and_then(|waiting| self.hold(uuid, waiting)) {
            Ok(identity) => {
                let (pid, start_time) = (identity.pid.cast_unsigned(), identity.start_time);
                Event::Spawned { uuid, process: Process { pid, start_time, boot_id: self.boot_id.clone() } }
            }
            Err(error) => Event::SpawnFailed { uuid, why: format!("{error:#}") },
        };
        self.news.push_back(event);
    }

    fn hold(&mut self, uuid: Uuid, waiting: Waiting) -> Result<Identity> {
        let identity = waiting.identity().context("Its process was gone at once")?;
        let pidfd = Processes::default().hold(identity).context("Cannot hold its process")?;
        let pidfd = pidfd.context("Its process was gone at once")?;
        self.waiting.insert(uuid, waiting);
        self.watch(uuid, identity, pidfd);
        Ok(identity)
    }

    fn watch(&mut self, uuid: Uuid, identity: Identity, pidfd: std::os::fd::OwnedFd) {
        let folder = self.devices.folder(uuid);
        let watch = Watch::start(&self.runtime, self.desk.clone(), uuid, identity, pidfd, folder);
        self.watches.insert(uuid, watch);
    }

    /// Says the word to a process that is written down, or lets it end.
    fn let_go_on(&mut self, uuid: Uuid, written: bool) {
        let Some(waiting) = self.waiting.remove(&uuid) else { return };
        if written && let Err(error) = waiting.go() {
            // Its end is watched.
            tracing::warn!("{uuid}: The process that was to become its device is gone: {error}");
        }
        fuse::moment();
    }

    fn end(&mut self, uuid: Uuid, end: fn(&Watch)) {
        // One that is not let go on yet does not know what a signal is for: it ends with its pipe.
        self.waiting.remove(&uuid);
        match self.watches.get(&uuid).filter(|watch| !watch.is_over()) {
            Some(watch) => end(watch),
            None => self.news.push_back(Event::Exited { uuid, pid: None, how: Ending::Unseen }),
        }
    }

    /// The address of its web page, where it has one.
    pub fn console_of(&self, uuid: Uuid) -> Option<&str> {
        self.watches.get(&uuid).and_then(Watch::console)
    }

    /// What opens its console for one who has this right, where it takes anything.
    pub fn key_of(&self, uuid: Uuid, right: Right) -> Option<&str> {
        self.watches.get(&uuid)?.key(right)
    }

    /// Those whose devices are there.
    pub fn running(&self) -> Vec<Uuid> {
        self.watches.keys().copied().collect()
    }

    /// The process of a started device.
    pub fn process_of(&self, uuid: Uuid) -> Option<Identity> {
        self.watches.get(&uuid)?.process()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_done_however_many_have_orders_and_they_are_heard_whatever_is_due() {
        let (sender, orders) = channel();
        (0..3).for_each(|_| sender.send(Order::End).unwrap());
        let mut turn = Turn::default();
        let mut ordered = |left| match turn.next(&orders, left) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, RecvTimeoutError::Timeout);
                false
            }
        };
        let due = Some(Duration::ZERO);
        assert_eq!([(); 4].map(|()| ordered(due)), [false, true, false, true]);
        assert!(ordered(Some(Duration::MAX)));
        assert_eq!([(); 3].map(|()| ordered(due)), [false; 3]);
        assert!(!ordered(Some(Duration::from_millis(1))));
    }
}
