//! What a guest has by commands, by kind, and the limit of all of it.
//!
//! All that a command makes is charged before it is made, wherever it will be: in this process or in that of a 3D renderer. There is
//! one limit, so a guest has no more by taking some of each kind. What nobody can count, as it is said in streams that only a library
//! understands, is bounded by the limits of that library's process.

use std::sync::Arc;

use protocol::ReplyError;

use crate::stats::{Kind, Stats};

/// Bytes of each kind that is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost([u64; Kind::CHARGED.len()]);

impl Cost {
    /// So many bytes of a kind, one of those that are charged.
    pub fn of(kind: Kind, bytes: u64) -> Self {
        let mut cost = Self::default();
        cost.0[kind as usize] = bytes;
        cost
    }

    pub fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|kind| self.0[kind].saturating_add(other.0[kind])))
    }

    pub fn minus(self, other: Self) -> Self {
        // More than there is was never charged.
        debug_assert!(self.0.iter().zip(&other.0).all(|(all, part)| all >= part), "{self:?} has no {other:?}");
        Self(std::array::from_fn(|kind| self.0[kind].saturating_sub(other.0[kind])))
    }

    /// All kinds together.
    pub fn bytes(&self) -> u64 {
        self.0.iter().fold(0, |all, bytes| all.saturating_add(*bytes))
    }
}

/// What is charged, and how much may be.
#[derive(Debug)]
pub(super) struct Ledger {
    limit: u64,
    used: Cost,
    stats: Arc<Stats>,
}

impl Ledger {
    /// With room for so many bytes.
    pub fn new(limit: u64, stats: Arc<Stats>) -> Self {
        Self { limit, used: Cost::default(), stats }
    }

    /// Bytes that may be charged.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that are.
    pub fn used(&self) -> u64 {
        self.used.bytes()
    }

    /// Whether so much can be charged.
    pub fn has_room(&self, cost: Cost) -> bool {
        self.used.plus(cost).bytes() <= self.limit
    }

    /// Charges it, if there is room.
    pub fn charge(&mut self, cost: Cost) -> Result<(), ReplyError> {
        self.exchange(Cost::default(), cost)
    }

    /// Gives back what was charged.
    pub fn credit(&mut self, cost: Cost) {
        self.used = self.used.minus(cost);
        self.publish();
    }

    /// Charges another cost instead of one that was, if there is room.
    pub fn exchange(&mut self, earlier: Cost, cost: Cost) -> Result<(), ReplyError> {
        let used = self.used.minus(earlier).plus(cost);
        // What takes less than before is never refused.
        if used.bytes() > self.limit && used.bytes() > self.used() {
            return Err(ReplyError::OutOfMemory);
        }
        self.used = used;
        self.publish();
        Ok(())
    }

    /// Nothing is charged any more.
    pub fn clear(&mut self) {
        self.used = Cost::default();
        self.publish();
    }

    fn publish(&self) {
        for (kind, bytes) in Kind::CHARGED.into_iter().zip(self.used.0) {
            self.stats.memory.set(kind, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 1000;

    fn any_cost() -> impl Strategy<Value = Cost> {
        let bytes = prop_oneof![8 => 0u64..400, 1 => Just(LIMIT), 1 => Just(u64::MAX), 1 => any::<u64>()];
        prop::array::uniform7(prop_oneof![3 => Just(0), 1 => bytes]).prop_map(Cost)
    }

    proptest! {
        #[test]
        fn what_is_charged_is_the_sum_of_what_is_there_and_never_over_the_limit(
            steps in prop::collection::vec((any_cost(), any::<u8>()), 1..60),
        ) {
            let stats = Arc::new(Stats::default());
            let mut ledger = Ledger::new(LIMIT, stats.clone());
            let mut there: Vec<Cost> = Vec::new();
            for (cost, what) in steps {
                match (what % 3, there.len()) {
                    (0, 1..) => {
                        let gone = there.swap_remove(usize::from(what) % there.len());
                        ledger.credit(gone);
                    }
                    (1, 1..) => {
                        let at = usize::from(what) % there.len();
                        if ledger.exchange(there[at], cost).is_ok() {
                            there[at] = cost;
                        }
                    }
                    _ => {
                        prop_assert_eq!(ledger.has_room(cost), ledger.charge(cost).is_ok());
                        let all = there.iter().fold(cost, |all, one| all.plus(*one));
                        if all.bytes() <= LIMIT {
                            there.push(cost);
                        }
                    }
                }
                let all = there.iter().fold(Cost::default(), |all, one| all.plus(*one));
                prop_assert_eq!(ledger.used, all);
                prop_assert!(ledger.used() <= LIMIT);
                prop_assert_eq!(Kind::CHARGED.map(|kind| stats.memory.get(kind)), all.0);
                prop_assert_eq!(stats.charged_bytes(), all.bytes());
            }
            there.into_iter().for_each(|cost| ledger.credit(cost));
            prop_assert_eq!(ledger.used, Cost::default());
        }
    }
}
