//! What a control thread tells the gpu thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use device::Memory;

use super::Wired;
use crate::engine::Engine;
use crate::ring::Layout;

/// One change, carried out between two commands. `C` is what the transport has to tell its own interrupts.
#[derive(Debug)]
pub enum Change<C> {
    /// The features that the driver accepted.
    Features(u64),
    /// Another table of guest memory.
    Memory(Arc<Memory>),
    /// The ring of a queue is set up and runs; see [`Engine::start_ring`].
    Start {
        /// Its queue.
        queue: u16,
        /// Where it lies; `None` when that is not in guest memory.
        layout: Option<Layout>,
        /// Where it goes on.
        base: Option<u16>,
    },
    /// Whether chains of a ring are popped.
    Enable(u16, bool),
    /// The eventfd by which the driver kicks a queue.
    Kick(u16, Option<OwnedFd>),
    /// The way to the driver is another one.
    Interrupt(C),
    /// The ring is to stop; the answer, where it would go on, comes when it is at rest.
    Stop(u16, Sender<u16>),
    /// The configuration was read or written.
    ConfigAccessed,
    /// Registers of the device's own were written: it is to look at them.
    Look,
    /// The driver reset the device; see [`Engine::halt`].
    Halt(Done),
    /// The driver reset one queue; see [`Engine::drop_ring`].
    DropRing(u16, Done),
    /// The front-end is gone.
    Reset,
    /// All changes before this one are in force.
    Settled(Sender<()>),
    /// The gpu thread is to end.
    Quit,
}

/// Counts what the gpu thread carried out, for a control thread that must not wait.
#[derive(Clone, Debug, Default)]
pub struct Done(Arc<AtomicU64>);

impl Done {
    /// How many changes were carried out that hold a clone of this.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// The gpu thread, as a control thread sees it.
pub trait Worker<C> {
    /// Has a change carried out after those before it.
    fn change(&mut self, change: Change<C>) -> Result<(), Gone>;
    /// Returns when all changes are in force.
    fn settle(&mut self) -> Result<(), Gone>;
    /// Stops a ring and returns where it would go on, once it is at rest.
    fn stop_ring(&mut self, queue: u16) -> Result<u16, Gone>;
}

/// The gpu thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The device's thread has ended")]
pub struct Gone;

/// Carries out what concerns the device and its interrupts; kicks, stops and the thread's end are up to the caller.
pub fn apply<I: Wired>(engine: &mut Engine<I>, change: Change<I::Change>, now: Instant) -> Option<Change<I::Change>> {
    match change {
        Change::Features(features) => engine.set_features(features),
        Change::Memory(memory) => engine.set_memory(memory),
        Change::Start { queue, layout, base } => engine.start_ring(queue, layout, base),
        Change::Enable(queue, enabled) => engine.enable_ring(queue, enabled),
        Change::Interrupt(change) => engine.interrupt().change(change),
        Change::ConfigAccessed => engine.config_accessed(now),
        // The device is polled after the changes.
        Change::Look => {}
        Change::Halt(done) => {
            engine.halt();
            done.add();
        }
        Change::DropRing(queue, done) => {
            engine.drop_ring(queue);
            done.add();
        }
        Change::Reset => {
            engine.reset(now);
            engine.interrupt().reset();
            return Some(Change::Reset);
        }
        Change::Kick(..) | Change::Stop(..) | Change::Settled(_) | Change::Quit => return Some(change),
    }
    None
}
