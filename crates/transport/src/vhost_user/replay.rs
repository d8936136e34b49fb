//! A front-end made of bytes, for fuzzing: messages in any order and shape, carried out without threads or sockets.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use device::VirtioDevice;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::channel::Message;
use super::control::{Control, Identity};
use super::eventfd::{Eventfds, Wire};
use super::message::{HEADER_BYTES, Header, code};
use crate::engine::Engine;
use crate::worker::{Change, Gone, Worker, apply};

/// Length of the file that stands for guest memory.
const MEMORY: usize = 1 << 20;
/// Batches that are served after each message.
const BATCHES: usize = 4;

/// Feeds `bytes` to a connection of `device`, message by message: one byte that says how many descriptors come along, the
/// header, the payload. The bytes are guest memory as well, from its start on. Returns how many messages were obeyed
/// before the connection would have ended.
pub fn replay(device: Box<dyn VirtioDevice>, bytes: &[u8]) -> usize {
    let Some(memory) = memory(bytes) else { return 0 };
    let identity = Identity::of(&*device);
    let queues = identity.queues;
    let Ok(interrupt) = Eventfds::new(queues, identity.shared.clone()) else { return 0 };
    let worker = Inline { engine: Engine::new(device, interrupt, || 0), now: Instant::now(), queues };
    let mut ignore = drop;
    let mut control = Control::new(&identity, worker, &mut ignore);
    let mut rest = bytes;
    let mut obeyed = 0;
    while let Some((message, next)) = message(rest, &memory) {
        rest = next;
        if control.handle(message).is_err() {
            break;
        }
        obeyed += 1;
    }
    obeyed
}

fn memory(bytes: &[u8]) -> Option<OwnedFd> {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&fd, MEMORY as u64).ok()?;
    rustix::io::write(&fd, &bytes[..bytes.len().min(MEMORY)]).ok()?;
    Some(fd)
}

fn message<'a>(bytes: &'a [u8], memory: &OwnedFd) -> Option<(Message, &'a [u8])> {
    let (&count, rest) = bytes.split_first()?;
    let (head, rest) = rest.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::parse(head).ok()?;
    let (payload, rest) = rest.split_at_checked(header.size)?;
    let fd = || match header.request {
        code::SET_MEM_TABLE | code::ADD_MEM_REG => memory.try_clone().ok(),
        _ => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
    };
    let fds = (0..count % 12).filter_map(|_| fd()).collect();
    Some((Message { header, payload: payload.to_vec(), fds }, rest))
}

/// The gpu thread's part, done by the caller.
struct Inline {
    engine: Engine<Eventfds>,
    now: Instant,
    queues: usize,
}

impl Inline {
    fn serve(&mut self) {
        for queue in 0..self.queues {
            self.engine.kick(queue as u16);
        }
        for _ in 0..BATCHES {
            if !self.engine.run(self.now) {
                break;
            }
        }
        self.now += Duration::from_millis(10);
    }
}

impl Worker<Wire> for Inline {
    fn change(&mut self, change: Change<Wire>) -> Result<(), Gone> {
        // What is left has to do with threads and epoll only.
        apply(&mut self.engine, change, self.now);
        self.serve();
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Gone> {
        self.serve();
        Ok(())
    }

    fn stop_ring(&mut self, queue: u16) -> Result<u16, Gone> {
        self.engine.stop_ring(queue, self.now);
        loop {
            if let Some(stopped) = self.engine.take_stopped().find(|stopped| stopped.queue == queue) {
                return Ok(stopped.base);
            }
            self.now = self.engine.deadline().ok_or(Gone)?.max(self.now);
            self.engine.run(self.now);
        }
    }
}
