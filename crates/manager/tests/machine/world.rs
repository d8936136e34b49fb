//! A host as values: what is on its disk, which devices run. It does what the machine says, and can die before and after each thing
//! that it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use manager::gpu::Timed;
use manager::machine::{Ending, Outcome, Status};
use manager::profile::Catalogue;
use manager::record::{Process, Record};
use manager::{Action, Definition, Event, Gpu, GpuId, Machine, Refusal, State, Uuid};

/// Bytes of the GPU of these tests.
pub const MEMORY: u64 = 4 << 30;

const TYPES: &str = "
    [[type]]
    name = 'small'
    memory = '512M'
    [[type]]
    name = 'large'
    memory = '2G'
    [[type]]
    name = 'pair'
    memory = '16M'
    max-instances = 2
    [[type]]
    name = 'shared'
    memory = '1G'
    overcommit = true
    max-instances = 3
";

/// The names of the types.
pub const KINDS: [&str; 4] = ["small", "large", "pair", "shared"];

pub fn catalogue(memory: u64) -> Catalogue {
    let gpu = Gpu {
        id: GpuId::software(),
        name: "the processor".to_owned(),
        memory,
        node: None,
        capsets: Vec::new(),
        software: true,
        timed: Timed::Processor,
    };
    Catalogue::parse(TYPES, &[gpu]).unwrap()
}

pub fn uuid(number: u32) -> Uuid {
    Uuid::from_u128(0x4b1c_2a60_7a35_4c5c_9c0a_0000_0000_0000 | u128::from(number))
}

pub fn definition(number: u32, kind: &str) -> Definition {
    Definition::new(uuid(number), kind)
}

/// A device's process.
#[derive(Debug, Clone)]
pub struct Device {
    pub uuid: Uuid,
    pub ready: bool,
    /// It was asked to end.
    pub leaving: bool,
}

#[derive(Debug, Clone)]
pub struct World {
    pub machine: Machine,
    /// Definition files.
    pub files: BTreeMap<Uuid, String>,
    /// `record.json` of each folder.
    pub records: BTreeMap<Uuid, String>,
    pub devices: BTreeMap<u32, Device>,
    pub now: Duration,
    pub disk_full: bool,
    pub spawns_fail: bool,
    /// Devices do not even mind being killed.
    pub stuck: bool,
    /// How many more things are done before the manager dies.
    pub fuse: Option<u32>,
    /// Whether something could not be written since this was looked at.
    pub unwritten: bool,
    pub deaths: u32,
    /// The definitions that somebody was told are written down.
    pub promised: BTreeMap<Uuid, Definition>,
    pub held: BTreeSet<Uuid>,
    memory: u64,
    next_pid: u32,
}

impl World {
    pub fn new(memory: u64) -> World {
        let mut world = World {
            machine: Machine::new(catalogue(memory)),
            files: BTreeMap::new(),
            records: BTreeMap::new(),
            devices: BTreeMap::new(),
            now: Duration::from_secs(1),
            disk_full: false,
            spawns_fail: false,
            stuck: false,
            fuse: None,
            unwritten: false,
            deaths: 0,
            promised: BTreeMap::new(),
            held: BTreeSet::new(),
            memory,
            next_pid: 100,
        };
        world.tell(Event::Begin { autostart: true });
        world
    }

    /// Has an event happen and all that follows. `None` when the manager died over it; another one is there then.
    pub fn tell(&mut self, event: Event) -> Option<Result<Outcome, Refusal>> {
        self.unwritten = false;
        let (before, after) = self.promise(&event);
        let (reply, lived) = self.step(event);
        let subject = before.0;
        if !lived {
            self.deaths += 1;
            self.start_manager();
            // Whoever asked was not answered: either way is right.
            let there = self.files.get(&subject).map(|text| Definition::parse(text).unwrap());
            assert!(there == before.1 || there == after, "{subject} is neither as it was nor as it was to be");
            self.keep(subject, there);
            return None;
        }
        let written = reply.is_ok() && !self.unwritten;
        self.keep(subject, if written { after } else { before.1 });
        Some(reply)
    }

    /// Which definition this event is about, what is promised of it, and what will be.
    fn promise(&self, event: &Event) -> ((Uuid, Option<Definition>), Option<Definition>) {
        match event {
            Event::Define { definition } | Event::Modify { definition } => {
                let uuid = definition.uuid;
                ((uuid, self.promised.get(&uuid).cloned()), Some(definition.clone()))
            }
            Event::Undefine { uuid } => ((*uuid, self.promised.get(uuid).cloned()), None),
            _ => {
                let uuid = Uuid::nil();
                ((uuid, None), None)
            }
        }
    }

    fn keep(&mut self, uuid: Uuid, definition: Option<Definition>) {
        match definition {
            Some(definition) => self.promised.insert(uuid, definition),
            None => self.promised.remove(&uuid),
        };
    }

    /// Whether the manager lived through it.
    fn step(&mut self, event: Event) -> (Result<Outcome, Refusal>, bool) {
        let step = self.machine.step(self.now, event);
        let mut todo = VecDeque::from(step.actions);
        while let Some(action) = todo.pop_front() {
            if self.dies() {
                return (step.reply, false);
            }
            let answer = self.carry_out(action);
            if self.dies() {
                return (step.reply, false);
            }
            if let Some(event) = answer {
                let follows = self.machine.step(self.now, event).actions;
                follows.into_iter().rev().for_each(|action| todo.push_front(action));
            }
        }
        (step.reply, true)
    }

    fn dies(&mut self) -> bool {
        match &mut self.fuse {
            Some(0) => {
                self.fuse = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Save(definition) => {
                let uuid = definition.uuid;
                Some(self.write(uuid, |world| drop(world.files.insert(uuid, definition.print()))))
            }
            Action::Forget(uuid) => Some(self.write(uuid, |world| drop(world.files.remove(&uuid)))),
            Action::Note(record) => {
                let uuid = record.uuid();
                let text = serde_json::to_string(&record).unwrap();
                Some(self.write(uuid, |world| drop(world.records.insert(uuid, text))))
            }
            Action::Spawn(grant) => {
                let uuid = grant.uuid();
                assert!(self.records.contains_key(&uuid), "A device would be started that no record knows");
                if self.spawns_fail {
                    return Some(Event::SpawnFailed { uuid, why: "No such program".to_owned() });
                }
                assert_eq!(self.device_of(uuid), None, "A second device for {uuid}");
                self.next_pid += 1;
                self.devices.insert(self.next_pid, Device { uuid, ready: false, leaving: false });
                Some(Event::Spawned { uuid, process: process(self.next_pid) })
            }
            Action::Terminate(uuid) => match self.device_of(uuid) {
                Some(pid) => {
                    self.devices.get_mut(&pid).unwrap().leaving = true;
                    None
                }
                None => Some(Event::Exited { uuid, pid: None, how: Ending::Unseen }),
            },
            Action::Kill(uuid) => match self.device_of(uuid) {
                Some(_) if self.stuck => None,
                Some(pid) => {
                    self.devices.remove(&pid);
                    self.held.remove(&uuid);
                    Some(Event::Exited { uuid, pid: Some(pid), how: Ending::Signal(9) })
                }
                None => Some(Event::Exited { uuid, pid: None, how: Ending::Unseen }),
            },
            Action::Hold(uuid) => {
                self.held.insert(uuid);
                None
            }
            Action::Release(uuid) => {
                self.held.remove(&uuid);
                None
            }
            Action::Sweep(_) => None,
            Action::Cleanup(uuid) => {
                assert_eq!(self.device_of(uuid), None, "The folder of a device that runs would be removed");
                self.records.remove(&uuid);
                None
            }
        }
    }

    fn write(&mut self, uuid: Uuid, change: impl FnOnce(&mut World)) -> Event {
        if self.disk_full {
            self.unwritten = true;
            return Event::NotSaved { uuid, why: "No space left on device".to_owned() };
        }
        change(self);
        Event::Saved { uuid }
    }

    pub fn device_of(&self, uuid: Uuid) -> Option<u32> {
        let mut of = self.devices.iter().filter(|(_, device)| device.uuid == uuid).map(|(pid, _)| *pid);
        let first = of.next();
        assert_eq!(of.next(), None, "Two devices of {uuid}");
        first
    }

    /// The manager dies between two events, and another is started.
    pub fn restart(&mut self) {
        self.deaths += 1;
        self.start_manager();
    }

    /// As often as it dies over that.
    fn start_manager(&mut self) {
        while !self.try_start_manager() {
            self.deaths += 1;
        }
    }

    fn try_start_manager(&mut self) -> bool {
        self.machine = Machine::new(catalogue(self.memory));
        // Whom the manager held is let go of when it dies.
        self.held.clear();
        for (uuid, text) in self.files.clone() {
            let definition = Definition::parse(&text).map_err(|error| error.to_string());
            if !self.step(Event::Loaded { uuid, definition }).1 {
                return false;
            }
        }
        for (uuid, text) in self.records.clone() {
            let record: Record = serde_json::from_str(&text).unwrap();
            let event = match self.device_of(uuid) {
                Some(pid) => Event::Adopted { record, process: process(pid), ready: self.devices[&pid].ready },
                None => Event::Lost { record, why: "It ended while no manager watched".to_owned() },
            };
            if !self.step(event).1 {
                return false;
            }
        }
        let strangers = self.devices.values().filter(|device| !self.records.contains_key(&device.uuid));
        assert_eq!(strangers.count(), 0, "Devices that no record knows");
        self.step(Event::Begin { autostart: false }).1
    }

    /// A device answers.
    pub fn answer(&mut self, uuid: Uuid) {
        if let Some(pid) = self.device_of(uuid) {
            self.devices.get_mut(&pid).unwrap().ready = true;
            self.tell(Event::Ready { uuid });
        }
    }

    /// A device ends by itself.
    pub fn end(&mut self, uuid: Uuid, how: Ending) {
        if let Some(pid) = self.device_of(uuid) {
            self.devices.remove(&pid);
            self.held.remove(&uuid);
            self.tell(Event::Exited { uuid, pid: Some(pid), how });
        }
    }

    /// Devices that were asked to end do.
    pub fn leave(&mut self) {
        let leaving = self.devices.values().filter(|device| device.leaving).map(|device| device.uuid);
        for uuid in leaving.collect::<Vec<_>>() {
            self.end(uuid, Ending::Code(0));
        }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now += by;
        if self.machine.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.tell(Event::Tick);
        }
    }

    /// Time goes on, nothing fails any more, devices do as they are told.
    pub fn settle(&mut self) {
        (self.disk_full, self.spawns_fail, self.stuck, self.fuse) = (false, false, false, None);
        for _ in 0..64 {
            self.leave();
            let silent: Vec<Uuid> =
                self.devices.values().filter(|device| !device.ready).map(|device| device.uuid).collect();
            silent.into_iter().for_each(|uuid| self.answer(uuid));
            let Some(deadline) = self.machine.deadline() else {
                return;
            };
            self.advance(deadline.saturating_sub(self.now));
        }
        panic!("Something is under way for ever: {:#?}", self.machine.list().collect::<Vec<_>>());
    }

    /// What must be true between any two events.
    pub fn check(&self) {
        let statuses: BTreeMap<Uuid, Status> = self.machine.list().map(|status| (status.uuid, status)).collect();
        for (uuid, definition) in &self.promised {
            assert_eq!(self.machine.definition(*uuid), Some(definition), "{uuid} was lost");
            assert_eq!(self.files.get(uuid), Some(&definition.print()), "{uuid} is not on the disk");
            assert!(statuses[uuid].persistent);
        }
        for uuid in self.files.keys() {
            assert!(self.promised.contains_key(uuid), "A file that nobody was told of");
        }
        let usage = self.machine.partition().usage(&GpuId::software()).unwrap();
        let mut firm = 0;
        let mut given = BTreeMap::new();
        for status in statuses.values() {
            let Some(grant) = &status.grant else { continue };
            given.insert(status.uuid, grant.profile.memory);
            if !grant.profile.overcommit {
                firm += grant.profile.memory;
            }
        }
        let holders: BTreeMap<Uuid, u64> = usage.holders.iter().map(|holder| (holder.uuid, holder.memory)).collect();
        assert_eq!(holders, given, "Who has a part is not who was given something");
        assert_eq!(usage.used, holders.values().sum::<u64>());
        assert!(firm <= usage.capacity, "{firm} bytes are given of {}", usage.capacity);
        let mut seen = BTreeSet::new();
        for device in self.devices.values() {
            assert!(seen.insert(device.uuid), "Two devices of {}", device.uuid);
            assert!(
                holders.contains_key(&device.uuid),
                "The memory of {} was given on while its device is there",
                device.uuid
            );
        }
        for status in statuses.values() {
            let pid = status.process.as_ref().map(|process| process.pid);
            match &status.state {
                State::Running | State::Held { .. } => assert_eq!(pid, self.device_of(status.uuid), "{status:?}"),
                State::Starting | State::Stopping => {
                    assert!(self.machine.deadline().is_some(), "{status:?} has no end")
                }
                State::Defined | State::Failed { .. } => assert_eq!(self.device_of(status.uuid), None, "{status:?}"),
            }
            if let State::Held { .. } = status.state {
                assert!(self.held.contains(&status.uuid), "{} draws though it is held", status.uuid);
            }
        }
    }

    /// What people see, without moments.
    pub fn view(&self) -> BTreeMap<Uuid, Status> {
        let timeless = |status: Status| (status.uuid, Status { retry_ms: status.retry_ms.map(|_| 0), ..status });
        self.machine.list().map(timeless).collect()
    }

    pub fn state(&self, number: u32) -> Option<State> {
        self.machine.status(uuid(number)).map(|status| status.state)
    }
}

pub fn process(pid: u32) -> Process {
    Process { pid, start_time: u64::from(pid) * 10, boot_id: "this boot".to_owned() }
}
