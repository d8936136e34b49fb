//! Who has which part of a GPU's memory.
//!
//! A part is given before a device is started and taken back after its process is gone: until then it may hold the memory. So
//! what a type says it has is had by one vGPU at a time, unless the type says itself that it may be given twice.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::gpu::{Gpu, GpuId};
use crate::machine::Refusal;
use crate::profile::Type;
use crate::value::Bytes;

/// One who has a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Who.
    pub uuid: Uuid,
    /// What people call it, where whoever tells of it knows.
    pub name: Option<String>,
    /// Of which type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many bytes.
    pub memory: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uuid)?;
        if let Some(name) = &self.name {
            write!(f, " '{name}'")?;
        }
        write!(f, " ({}, {})", self.kind, Bytes(self.memory))
    }
}

/// How a GPU is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes there are to give.
    pub capacity: u64,
    /// Bytes that are given. More than there are, where a type says so, or where the GPU has become smaller.
    pub used: u64,
    /// For whom the whole GPU was taken, if it was.
    pub taken: Option<String>,
    /// To whom, the largest part first.
    pub holders: Vec<Holder>,
}

impl Usage {
    /// Bytes that are left.
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }
}

/// What of each GPU is given to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    gpus: BTreeMap<GpuId, Account>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    capacity: u64,
    /// The sum of `parts`.
    used: u64,
    taken: Option<String>,
    parts: BTreeMap<Uuid, Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    kind: String,
    memory: u64,
}

impl Partition {
    /// Of these GPUs, nobody has anything yet.
    pub fn new(gpus: &[Gpu]) -> Partition {
        let mut partition = Partition::default();
        partition.set_gpus(gpus);
        partition
    }

    /// These are the GPUs from now on. Who has a part keeps it, also of one that is not among them.
    pub fn set_gpus(&mut self, gpus: &[Gpu]) {
        for account in self.gpus.values_mut() {
            account.capacity = 0;
        }
        for gpu in gpus {
            self.gpus.entry(gpu.id.clone()).or_default().capacity = gpu.memory;
        }
        self.gpus.retain(|id, account| {
            account.taken.is_some() || !account.parts.is_empty() || gpus.iter().any(|gpu| gpu.id == *id)
        });
    }

    /// Whether one more of this type could be started now.
    pub fn check(&self, kind: &Type) -> Result<(), Refusal> {
        let account = self.gpus.get(&kind.gpu);
        let account = account.ok_or_else(|| no_gpu(&kind.gpu))?;
        if let Some(by) = &account.taken {
            return Err(Refusal::Conflict(taken(&kind.gpu, by)));
        }
        if let Some(max) = kind.max_instances {
            let mut holders = account.holders();
            holders.retain(|holder| holder.kind == kind.name);
            if holders.len() >= max as usize {
                return Err(Refusal::NoInstance { kind: kind.name.clone(), max, holders });
            }
        }
        let free = account.capacity.saturating_sub(account.used);
        if kind.memory > free && !kind.overcommit {
            let holders = account.holders();
            return Err(Refusal::NoCapacity { gpu: kind.gpu.clone(), wanted: kind.memory, free, holders });
        }
        Ok(())
    }

    /// Gives a part. Nobody has two.
    pub fn reserve(&mut self, uuid: Uuid, kind: &Type) -> Result<(), Refusal> {
        if self.holds(uuid) {
            return Err(Refusal::Conflict(format!("{uuid} has a part of a GPU already")));
        }
        self.check(kind)?;
        self.adopt(uuid, kind);
        Ok(())
    }

    /// Writes down what is so: somebody has a part, whether there was room for it or not. Who has one already keeps that.
    pub fn adopt(&mut self, uuid: Uuid, kind: &Type) {
        if self.holds(uuid) {
            return;
        }
        let account = self.gpus.entry(kind.gpu.clone()).or_default();
        account.used = account.used.saturating_add(kind.memory);
        account.parts.insert(uuid, Part { kind: kind.name.clone(), memory: kind.memory });
    }

    /// Takes back what it has, if it has something.
    pub fn release(&mut self, uuid: Uuid) {
        for account in self.gpus.values_mut() {
            if account.parts.remove(&uuid).is_some() {
                // Summed up again, since the sum of what was adopted may have met its end.
                account.used = account.parts.values().fold(0, |sum, part| sum.saturating_add(part.memory));
            }
        }
    }

    /// Whether it has a part of any GPU.
    pub fn holds(&self, uuid: Uuid) -> bool {
        self.gpus.values().any(|account| account.parts.contains_key(&uuid))
    }

    /// Takes a whole GPU away from vGPUs: none may have a part of it.
    pub fn take(&mut self, gpu: &GpuId, by: &str) -> Result<bool, Refusal> {
        let account = self.gpus.get_mut(gpu).ok_or_else(|| no_gpu(gpu))?;
        match &account.taken {
            Some(other) if other == by => return Ok(false),
            Some(other) => return Err(Refusal::Conflict(taken(gpu, other))),
            None => {}
        }
        if !account.parts.is_empty() {
            let holders = account.holders();
            return Err(Refusal::InUse { gpu: gpu.clone(), holders });
        }
        account.taken = Some(by.to_owned());
        Ok(true)
    }

    /// Gives it back. Whether it was taken.
    pub fn give(&mut self, gpu: &GpuId) -> Result<bool, Refusal> {
        let account = self.gpus.get_mut(gpu).ok_or_else(|| no_gpu(gpu))?;
        Ok(account.taken.take().is_some())
    }

    /// How many more of this type could be started now, one after the other.
    pub fn available(&self, kind: &Type) -> u32 {
        let Some(account) = self.gpus.get(&kind.gpu).filter(|account| account.taken.is_none()) else {
            return 0;
        };
        let free = account.capacity.saturating_sub(account.used);
        let by_memory = if kind.overcommit { u64::MAX } else { free.checked_div(kind.memory).unwrap_or(0) };
        let by_count = kind.max_instances.map_or(u64::MAX, |max| {
            let there = account.parts.values().filter(|part| part.kind == kind.name).count();
            u64::from(max).saturating_sub(there as u64)
        });
        u32::try_from(by_memory.min(by_count)).unwrap_or(u32::MAX)
    }

    /// How this GPU is divided.
    pub fn usage(&self, gpu: &GpuId) -> Option<Usage> {
        let account = self.gpus.get(gpu)?;
        let Account { capacity, used, ref taken, .. } = *account;
        Some(Usage { capacity, used, taken: taken.clone(), holders: account.holders() })
    }
}

impl Account {
    fn holders(&self) -> Vec<Holder> {
        let holder = |(uuid, part): (&Uuid, &Part)| Holder {
            uuid: *uuid,
            name: None,
            kind: part.kind.clone(),
            memory: part.memory,
        };
        let mut holders: Vec<Holder> = self.parts.iter().map(holder).collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.memory));
        holders
    }
}

fn no_gpu(gpu: &GpuId) -> Refusal {
    Refusal::Conflict(format!("This host has no GPU {gpu}"))
}

fn taken(gpu: &GpuId, by: &str) -> String {
    format!("{gpu} is taken for {by}, and makes no vGPUs until it is given back")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gpu, kind, uuid};

    #[test]
    fn memory_is_given_until_there_is_none_and_the_refusal_names_who_has_it() {
        let mut partition = Partition::new(&[gpu("software", 3 << 30)]);
        let (small, large) = (kind("small", "software", 1 << 30), kind("large", "software", 2 << 30));
        partition.reserve(uuid(1), &large).unwrap();
        assert_eq!((partition.available(&small), partition.available(&large)), (1, 0));
        partition.reserve(uuid(2), &small).unwrap();
        let refusal = partition.reserve(uuid(3), &small).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!("software has 0 left and 1G are needed: held by {} (large, 2G), {} (small, 1G)", uuid(1), uuid(2))
        );
        partition.release(uuid(1));
        assert_eq!((partition.available(&small), partition.available(&large)), (2, 1));
    }

    #[test]
    fn nobody_has_two_parts_and_what_is_released_twice_is_released_once() {
        let mut partition = Partition::new(&[gpu("software", 4 << 30)]);
        let one = kind("one", "software", 1 << 30);
        partition.reserve(uuid(1), &one).unwrap();
        assert_eq!(partition.reserve(uuid(1), &one).unwrap_err().code(), "conflict");
        partition.adopt(uuid(1), &one);
        partition.release(uuid(1));
        partition.release(uuid(1));
        assert_eq!(partition.usage(&one.gpu).unwrap().free(), 4 << 30);
    }

    #[test]
    fn a_type_with_a_greatest_number_has_no_more() {
        let mut partition = Partition::new(&[gpu("software", 4 << 30)]);
        let few = Type { max_instances: Some(2), ..kind("few", "software", 1 << 20) };
        for number in 1..=2 {
            partition.reserve(uuid(number), &few).unwrap();
        }
        assert_eq!(partition.available(&few), 0);
        let refusal = partition.reserve(uuid(3), &few).unwrap_err();
        assert_eq!(refusal.code(), "no-capacity");
        assert!(refusal.to_string().contains(&uuid(2).to_string()), "{refusal}");
    }

    #[test]
    fn only_a_type_that_says_so_is_given_more_than_there_is_and_the_others_get_less() {
        let mut partition = Partition::new(&[gpu("software", 1 << 30)]);
        let twice = Type { overcommit: true, max_instances: Some(3), ..kind("twice", "software", 1 << 30) };
        let once = kind("once", "software", 1 << 30);
        for number in 1..=3 {
            partition.reserve(uuid(number), &twice).unwrap();
        }
        assert_eq!((partition.available(&twice), partition.available(&once)), (0, 0));
        assert_eq!(partition.reserve(uuid(4), &once).unwrap_err().code(), "no-capacity");
        let usage = partition.usage(&once.gpu).unwrap();
        assert_eq!((usage.used, usage.free()), (3 << 30, 0));
    }

    #[test]
    fn what_runs_already_is_counted_though_there_is_no_room_and_nothing_new_is_given() {
        let mut partition = Partition::new(&[gpu("software", 2 << 30)]);
        let one = kind("one", "software", 1 << 30);
        partition.reserve(uuid(1), &one).unwrap();
        partition.set_gpus(&[gpu("software", 1 << 29)]);
        partition.adopt(uuid(2), &one);
        assert_eq!(partition.usage(&one.gpu).unwrap().used, 2 << 30);
        assert_eq!(partition.available(&one), 0);
    }

    #[test]
    fn a_gpu_that_went_away_keeps_its_holders_and_offers_nothing() {
        let mut partition = Partition::new(&[gpu("pci-0000:03:00.0", 1 << 30)]);
        let one = kind("one", "pci-0000:03:00.0", 1 << 20);
        partition.reserve(uuid(1), &one).unwrap();
        partition.set_gpus(&[]);
        assert_eq!(partition.available(&one), 0);
        assert_eq!(partition.usage(&one.gpu).unwrap().holders.len(), 1);
        partition.release(uuid(1));
        partition.set_gpus(&[]);
        assert_eq!(partition.usage(&one.gpu), None);
    }

    #[test]
    fn a_gpu_that_is_taken_offers_nothing_and_one_in_use_is_not_taken() {
        let mut partition = Partition::new(&[gpu("software", 1 << 30)]);
        let one = kind("one", "software", 1 << 20);
        partition.reserve(uuid(1), &one).unwrap();
        let refusal = partition.take(&one.gpu, "vm7").unwrap_err();
        assert!(refusal.to_string().contains(&uuid(1).to_string()), "{refusal}");
        partition.release(uuid(1));
        assert_eq!(partition.take(&one.gpu, "vm7"), Ok(true));
        assert_eq!(partition.take(&one.gpu, "vm7"), Ok(false));
        assert_eq!(partition.take(&one.gpu, "vm8").unwrap_err().code(), "conflict");
        assert_eq!(partition.available(&one), 0);
        assert!(partition.reserve(uuid(1), &one).unwrap_err().to_string().contains("vm7"));
        assert_eq!(partition.give(&one.gpu), Ok(true));
        assert_eq!(partition.give(&one.gpu), Ok(false));
        partition.reserve(uuid(1), &one).unwrap();
    }
}
