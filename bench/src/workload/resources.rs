//! Resources: made, backed, and let go.

use super::{Budget, Finding, Prepared, Rig};
use crate::error::{Error, Result};
use crate::frontend::command;
use crate::timing::sample;

/// Commands in flight.
const DEPTH: u32 = 64;
/// Pages of guest memory that back one resource.
const ENTRIES: u64 = 4096;

/// Create and unref, 64 commands in flight.
pub fn create_unref(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    create_unref_from(rig, budget, 1)
}

/// The same beside 50 resources that stay.
pub fn among_few(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    keep(rig, 50)?;
    create_unref_from(rig, budget, 1_000_000)
}

/// The same beside 50,000.
pub fn among_many(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    keep(rig, budget.many)?;
    create_unref_from(rig, budget, 1_000_000)
}

fn create_unref_from(rig: &mut Rig, budget: &Budget, first: u32) -> Result<Finding> {
    let mut chains = Vec::new();
    for resource in first..first + DEPTH / 2 {
        chains.push(rig.chain(0, &command::create_2d(resource, command::FORMAT_B8G8R8X8, 64, 64), 24)?);
        chains.push(rig.chain(0, &command::unref(resource), 24)?);
    }
    let finding = rig.timed(|rig| sample(budget.time, DEPTH, || rig.round(0, &chains)))?;
    all_ok(rig, &chains)?;
    Ok(finding)
}

/// Makes resources of 8x8 that stay.
fn keep(rig: &mut Rig, count: u32) -> Result<()> {
    let mut chains = Vec::new();
    for _ in 0..DEPTH {
        chains.push(rig.chain(0, &command::create_2d(0, command::FORMAT_B8G8R8X8, 8, 8), 24)?);
    }
    let numbers: Vec<u32> = (1..=count).collect();
    for numbers in numbers.chunks(DEPTH as usize) {
        for (chain, number) in chains.iter().zip(numbers) {
            rig.guest.memory().write(chain.request + 24, &number.to_le_bytes())?;
        }
        rig.round(0, &chains[..numbers.len()])?;
        all_ok(rig, &chains[..numbers.len()])?;
    }
    // Their descriptors are needed by what follows.
    for chain in chains {
        rig.guest.queue(0)?.recycle(chain.head);
    }
    Ok(())
}

/// Create, attach 4096 scattered pages, detach, unref; the four commands go out together.
pub fn attach(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let memory = rig.guest.memory().clone();
    let pages = memory.allocate(2 * ENTRIES * 4096, 4096)?;
    // Every second page, in an order that no two neighbours share, as the memory of a guest that has run for a while.
    let entries: Vec<_> = (0..ENTRIES).map(|at| (pages + (at * 1009 % ENTRIES) * 8192, 4096)).collect();
    let cycle = [
        command::create_2d(1, command::FORMAT_B8G8R8X8, 2048, 2048),
        command::attach_backing(1, &entries),
        command::detach_backing(1),
        command::unref(1),
    ];
    let chains = cycle.iter().map(|command| rig.chain(0, command, 24)).collect::<Result<Vec<_>>>()?;
    let finding = rig.timed(|rig| sample(budget.time, 1, || rig.round(0, &chains)))?;
    all_ok(rig, &chains)?;
    Ok(finding)
}

fn all_ok(rig: &Rig, chains: &[Prepared]) -> Result<()> {
    for chain in chains {
        let kind = rig.answer(chain)?;
        if kind != command::RESP_OK_NODATA {
            return Err(Error::NotDone(format!("It answered {kind:#x}")));
        }
    }
    Ok(())
}
