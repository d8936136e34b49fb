//! What the control thread tells the gpu thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use device::Memory;

use super::eventfd::Eventfds;
use crate::engine::Engine;
use crate::ring::Layout;

/// One change, carried out between two commands.
#[derive(Debug)]
pub enum Change {
    /// SET_FEATURES.
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
    /// SET_VRING_ENABLE.
    Enable(u16, bool),
    /// SET_VRING_KICK.
    Kick(u16, Option<OwnedFd>),
    /// SET_VRING_CALL.
    Call(u16, Option<OwnedFd>),
    /// SET_VRING_ERR.
    Error(u16, Option<OwnedFd>),
    /// SET_BACKEND_REQ_FD, or a reason not to use it.
    Channel(Option<OwnedFd>),
    /// GET_VRING_BASE; the answer comes when the ring is at rest.
    Stop(u16, Sender<u16>),
    /// The configuration was read or written.
    ConfigAccessed,
    /// The front-end is gone.
    Reset,
    /// All changes before this one are in force.
    Settled(Sender<()>),
    /// The gpu thread is to end.
    Quit,
}

/// The gpu thread, as the control thread sees it.
pub trait Worker {
    /// Has a change carried out after those before it.
    fn change(&mut self, change: Change) -> Result<(), Gone>;
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
pub(super) fn apply(engine: &mut Engine<Eventfds>, change: Change, now: Instant) -> Option<Change> {
    match change {
        Change::Features(features) => engine.set_features(features),
        Change::Memory(memory) => engine.set_memory(memory),
        Change::Start { queue, layout, base } => engine.start_ring(queue, layout, base),
        Change::Enable(queue, enabled) => engine.enable_ring(queue, enabled),
        Change::Call(queue, fd) => engine.interrupt().set_call(queue, fd),
        Change::Error(queue, fd) => engine.interrupt().set_error(queue, fd),
        Change::Channel(channel) => engine.interrupt().set_channel(channel),
        Change::ConfigAccessed => engine.config_accessed(now),
        Change::Reset => {
            engine.reset(now);
            let queues = engine.device().queue_sizes().len();
            *engine.interrupt() = Eventfds::new(queues);
            return Some(Change::Reset);
        }
        Change::Kick(..) | Change::Stop(..) | Change::Settled(_) | Change::Quit => return Some(change),
    }
    None
}
