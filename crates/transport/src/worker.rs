//! The gpu thread: waits on kicks, on the device's own descriptors and on a control thread; pops, executes, signals.
//!
//! No command changes threads. A kick costs one epoll_wait: its eventfd is watched for edges and never read.

mod change;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use device::{Incidents, VirtioDevice, guest_log};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::engine::{Engine, coarse_clock};
use crate::interrupt::Interrupt;
use crate::sigbus;

pub use change::{Change, Done, Gone, Worker, apply};

/// A way to the driver that a control thread changes.
pub trait Wired: Interrupt {
    /// What there is to change.
    type Change: Send + Debug;
    /// Another way from now on.
    fn change(&mut self, change: Self::Change);
    /// The front-end is gone: nobody is told anything any more.
    fn reset(&mut self);
    /// Readable when the device is to be polled, after [`look`](Self::look). Asked once; the same for its life.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// The descriptor was readable.
    fn look(&mut self) {}
}

/// Events that are taken in one wait.
const EVENTS: usize = 16;
/// Changes that wait before the control thread waits for them: their descriptors stay open meanwhile.
const BACKLOG: usize = 64;
/// What fits the timeout of an old epoll_wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Panics of our own that the thread survives: after each, its rings are stopped until they are set up again.
const FAILURES: usize = 3;
/// What an event is of; a smaller number is a queue's kick.
const WAKE: u64 = u64::MAX;
const DEVICE: u64 = u64::MAX - 1;
const INTERRUPT: u64 = u64::MAX - 2;

/// The control thread's side.
#[derive(Debug)]
pub struct Link<C> {
    /// `None` once the gpu thread has ended.
    changes: Mutex<Option<VecDeque<Change<C>>>>,
    /// Ends the batch that is being served, so that changes are seen after its current command.
    attention: Arc<AtomicBool>,
    wake: OwnedFd,
    /// Readable once the gpu thread has ended.
    ended: OwnedFd,
}

impl<C> Link<C> {
    fn changes(&self) -> MutexGuard<'_, Option<VecDeque<Change<C>>>> {
        self.changes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Readable once the gpu thread has ended.
    pub fn ended(&self) -> &OwnedFd {
        &self.ended
    }

    fn next(&self) -> Option<Change<C>> {
        self.changes().as_mut()?.pop_front()
    }

    /// Ends the gpu thread.
    pub fn quit(&self) {
        self.push(Change::Quit);
    }

    /// Returns how many changes wait. One that nobody will carry out is dropped, and its sender with it.
    fn push(&self, change: Change<C>) -> usize {
        let mut guard = self.changes();
        let Some(changes) = guard.as_mut() else { return 0 };
        // Many accesses are one piece of news, wherever it waits: what was accessed is looked at only then. So a guest cannot
        // fill the backlog with them.
        let same = match change {
            Change::ConfigAccessed => changes.iter().any(|change| matches!(change, Change::ConfigAccessed)),
            Change::Look => changes.iter().any(|change| matches!(change, Change::Look)),
            _ => false,
        };
        if !same {
            changes.push_back(change);
        }
        let waiting = changes.len();
        drop(guard);
        if !self.attention.swap(true, Ordering::SeqCst) {
            // A full counter wakes as well.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        waiting
    }
}

impl<C> Worker<C> for Arc<Link<C>> {
    fn change(&mut self, change: Change<C>) -> Result<(), Gone> {
        if self.push(change) < BACKLOG { Ok(()) } else { self.settle() }
    }

    fn settle(&mut self) -> Result<(), Gone> {
        let (sender, settled) = channel();
        self.push(Change::Settled(sender));
        settled.recv().map_err(|_| Gone)
    }

    fn stop_ring(&mut self, queue: u16) -> Result<u16, Gone> {
        let (sender, stopped) = channel();
        self.push(Change::Stop(queue, sender));
        stopped.recv().map_err(|_| Gone)
    }
}

/// How one turn of the gpu thread ended.
enum Turn {
    Done { more: bool },
    Quit,
}

/// All that the gpu thread owns.
pub struct GpuThread<I: Wired> {
    engine: Engine<I>,
    epoll: OwnedFd,
    link: Arc<Link<I::Change>>,
    kicks: Vec<Option<OwnedFd>>,
    stops: Vec<(u16, Sender<u16>)>,
    stats: Option<Arc<dyn Incidents>>,
    /// Faults that were counted.
    faults: u64,
}

impl<I: Wired> GpuThread<I> {
    /// Opens what the thread waits on.
    pub fn new(device: Box<dyn VirtioDevice>, interrupt: I, stats: Option<Arc<dyn Incidents>>) -> Result<Self, Errno> {
        let queues = device.queue_sizes().len();
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        if let Some(fd) = interrupt.descriptor() {
            epoll::add(&epoll, fd, EventData::new_u64(INTERRUPT), EventFlags::IN)?;
        }
        let mut engine = Engine::new(device, interrupt, coarse_clock);
        if let Some(stats) = &stats {
            engine.count_in(stats.clone());
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let link = Arc::new(Link {
            changes: Mutex::new(Some(VecDeque::new())),
            attention: engine.attention(),
            wake: eventfd(0, flags)?,
            ended: eventfd(0, flags)?,
        });
        epoll::add(&epoll, &link.wake, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        for fd in engine.device().poll_fds() {
            epoll::add(&epoll, fd, EventData::new_u64(DEVICE), EventFlags::IN)?;
        }
        let kicks = std::iter::repeat_with(|| None).take(queues).collect();
        Ok(Self { engine, epoll, link, kicks, stops: Vec::new(), stats, faults: 0 })
    }

    /// What the control thread holds.
    pub fn link(&self) -> Arc<Link<I::Change>> {
        self.link.clone()
    }

    /// Serves until told to quit.
    pub fn run(mut self) {
        let _ended = Ended(self.link.clone());
        let mut more = false;
        let mut failures = 0;
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn(more))) {
                Ok(Ok(Turn::Done { more: left })) => more = left,
                Ok(Ok(Turn::Quit)) => return,
                Ok(Err(error)) => return tracing::error!("The device's thread cannot wait: {error}"),
                Err(_) if failures < FAILURES => {
                    failures += 1;
                    more = false;
                    self.engine.fail();
                    // What was asked meanwhile is still to be done.
                    self.link.attention.store(true, Ordering::SeqCst);
                }
                Err(_) => return,
            }
        }
    }

    /// Waits, and does what there is to do.
    fn turn(&mut self, more: bool) -> Result<Turn, Errno> {
        self.wait(more || self.link.attention.load(Ordering::Relaxed))?;
        let now = Instant::now();
        if self.link.attention.swap(false, Ordering::SeqCst) && self.take_changes(now) {
            return Ok(Turn::Quit);
        }
        let more = self.engine.run(now);
        self.answer_stops();
        self.count_faults();
        Ok(Turn::Done { more })
    }

    /// Sleeps until there is something to do; only looks when there is `more`.
    fn wait(&mut self, more: bool) -> Result<(), Errno> {
        let timeout = match self.engine.deadline() {
            _ if more => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
            Some(deadline) => Some(whole_milliseconds(deadline)),
            None => None,
        };
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in events {
            match event.data.u64() {
                WAKE | DEVICE => {}
                INTERRUPT => self.engine.interrupt().look(),
                queue => self.engine.kick(queue as u16),
            }
        }
        Ok(())
    }

    /// Returns whether to quit.
    fn take_changes(&mut self, now: Instant) -> bool {
        while let Some(change) = self.link.next() {
            match apply(&mut self.engine, change, now) {
                None => {}
                Some(Change::Kick(queue, fd)) => self.set_kick(queue, fd),
                Some(Change::Stop(queue, answer)) => {
                    self.stops.push((queue, answer));
                    self.engine.stop_ring(queue, now);
                }
                Some(Change::Settled(sender)) => {
                    // Nobody waits for it any more when this fails.
                    let _ = sender.send(());
                }
                Some(Change::Quit) => return true,
                // A reset, and nothing else is left over.
                Some(_) => {
                    for queue in 0..self.kicks.len() {
                        self.set_kick(queue as u16, None);
                    }
                    self.stops.clear();
                }
            }
        }
        false
    }

    fn answer_stops(&mut self) {
        if self.stops.is_empty() {
            return;
        }
        let stopped: Vec<_> = self.engine.take_stopped().collect();
        for stopped in stopped {
            self.set_kick(stopped.queue, None);
            self.stops.retain(|(queue, answer)| {
                let mine = *queue == stopped.queue;
                if mine {
                    let _ = answer.send(stopped.base);
                }
                !mine
            });
        }
    }

    /// The front-end keeps its copy of an eventfd, so closing ours would not end the watch.
    fn set_kick(&mut self, queue: u16, fd: Option<OwnedFd>) {
        let Some(kick) = self.kicks.get_mut(usize::from(queue)) else { return };
        if let Some(old) = kick.take() {
            let _ = epoll::delete(&self.epoll, &old);
        }
        if let Some(fd) = fd {
            let data = EventData::new_u64(queue.into());
            match epoll::add(&self.epoll, fd.as_fd(), data, EventFlags::IN | EventFlags::ET) {
                Ok(()) => *kick = Some(fd),
                Err(error) => guest_log!(warn, "Kicks of queue {queue} cannot be waited for: {error}"),
            }
        }
    }

    fn count_faults(&mut self) {
        if let Some(stats) = &self.stats
            && self.faults != sigbus::faults_here()
        {
            self.faults = sigbus::faults_here();
            stats.memory_faults(self.faults);
        }
    }
}

/// Rounded up, so that the deadline has passed on waking; a far one is looked at again in an hour.
fn whole_milliseconds(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
    let millis = i64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(0);
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

/// Tells the control thread that the gpu thread has ended, in whatever way.
struct Ended<C>(Arc<Link<C>>);

impl<C> Drop for Ended<C> {
    fn drop(&mut self) {
        // Whoever waits for an answer learns that none will come.
        *self.0.changes() = None;
        let _ = rustix::io::write(&self.0.ended, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests;
