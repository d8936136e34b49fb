//! The control side of a connection: each message becomes changes for the gpu thread, and an answer.
//!
//! It knows no thread and no socket, so that tests and fuzzing can feed it anything.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::{ConfigSpace, Front, VirtioDevice};
use thiserror::Error;

use super::channel::Message;
use super::dialect::{Dialect, shared_memory_regions, shmem_config};
use super::eventfd::Wire;
use super::exports::Shared;
use super::memory::{MAX_REGIONS, MapError, SharedMemory};
use super::message::{MessageError, RegionDescription, Request, RingAddresses, reply};
use crate::feature;
use crate::ring::{Layout, MAX_SIZE};
use crate::worker::{Change, Gone, Worker};

/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Bits of the protocol features. Never among them: LOG_SHMFD (1), without which QEMU refuses to migrate a device whose
/// state it would lose; RESET_DEVICE (13), so that a guest that wakes up finds its picture; 21, which other programs took
/// for SHMEM and in QEMU means something else.
pub(super) mod protocol_feature {
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// We share no objects with other devices: what a [fence](crate::vhost_user::dialect::fence) says is about none.
    pub const SHARED_OBJECT: u64 = 1 << 18;
    pub const SHMEM: u64 = 1 << 22;
    /// crosvm's, before there was the one above.
    pub const SHARED_MEMORY_REGIONS: u64 = 1 << 31;
}

/// How often a front-end hears that a region of ours is no memory.
const MOST_REFUSED: usize = 4096;

/// Why a message was not obeyed.
#[derive(Debug, Error)]
pub enum Refusal {
    /// It is not a message that we know.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A queue that the device does not have.
    #[error("Queue {0} does not exist")]
    Queue(u32),
    /// A ring's size or base that is no 16-bit number.
    #[error("Queue {0} cannot have {1} entries or start there")]
    Ring(u32, u32),
    /// Memory that cannot be had.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// The gpu thread is gone, and with it the device.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// What the device is, for the control thread.
pub struct Identity {
    /// Device-specific features.
    pub features: u64,
    /// Number of queues.
    pub queues: usize,
    /// The configuration space.
    pub config: Arc<dyn ConfigSpace>,
    /// Length of each region of shared memory, by its number.
    pub shared_memory: Vec<u64>,
    /// What the gpu thread knows of it, too.
    pub shared: Arc<Shared>,
}

impl Identity {
    /// Asks the device.
    pub fn of(device: &dyn VirtioDevice) -> Self {
        Self {
            features: device.features(),
            queues: device.queue_sizes().len(),
            config: device.config(),
            shared_memory: device.shared_memory(),
            shared: Arc::default(),
        }
    }
}

/// How a request was carried out.
enum Obeyed {
    /// It has a reply by its nature.
    Answered(Vec<u8>),
    /// The gpu thread was told and will do it.
    Handed,
    /// All of it.
    Done,
    /// It is noted, but better refused: memory of ours that the front-end has mapped.
    Unwanted(RegionDescription),
}

/// One connection.
pub struct Control<'a, W> {
    identity: &'a Identity,
    worker: W,
    on_gpu_socket: &'a mut (dyn FnMut(OwnedFd) + Send),
    protocol_features: u64,
    /// Whether the front-end asked for the regions of shared memory. QEMU negotiates them for every device, and asks only
    /// where it maps them; it does so before its guest starts.
    asked_regions: bool,
    memory: SharedMemory,
    /// Regions of our own that were refused.
    refused: usize,
    rings: Vec<RingSettings>,
}

/// What a front-end said of a ring so far.
#[derive(Clone, Debug, Default)]
struct RingSettings {
    size: Option<u16>,
    addresses: Option<RingAddresses>,
    /// Where it is to go on, until it starts.
    base: Option<u16>,
    started: bool,
    /// What the gpu thread was told last.
    layout: Option<Option<Layout>>,
}

impl<'a, W: Worker<Wire>> Control<'a, W> {
    /// A connection on which nothing was said.
    pub fn new(identity: &'a Identity, worker: W, on_gpu_socket: &'a mut (dyn FnMut(OwnedFd) + Send)) -> Self {
        let control = Self {
            identity,
            worker,
            on_gpu_socket,
            protocol_features: 0,
            asked_regions: false,
            memory: SharedMemory::new(identity.shared.clone()),
            refused: 0,
            rings: vec![RingSettings::default(); identity.queues],
        };
        control.tell_front();
        control
    }

    /// Obeys a message and returns the reply to send, if it has one. A message that is refused but acknowledged keeps the
    /// connection; after an error it has to end.
    pub fn handle(&mut self, message: Message) -> Result<Option<Vec<u8>>, Refusal> {
        let Message { header, payload, fds } = message;
        let acknowledge = header.need_reply && self.protocol_features & protocol_feature::REPLY_ACK != 0;
        let parsed = Request::parse(header.request, &payload, fds.len()).map_err(Refusal::from);
        let answered = parsed.and_then(|request| self.obey(request, fds));
        let code = match answered {
            Ok(Obeyed::Answered(payload)) => return Ok(Some(reply(header.request, &payload))),
            Ok(_) if !acknowledge => return Ok(None),
            Ok(Obeyed::Handed) => {
                // An acknowledged message is in force.
                self.worker.settle()?;
                0u64
            }
            Ok(Obeyed::Done) => 0,
            Ok(Obeyed::Unwanted(region)) => self.refuse(region)?.into(),
            Err(refusal) if !acknowledge || matches!(refusal, Refusal::Gone(_)) => return Err(refusal),
            Err(refusal) => {
                device::guest_log!(warn, "Front-end was refused: {refusal}");
                1
            }
        };
        Ok(Some(reply(header.request, &code.to_ne_bytes())))
    }

    /// Carries a request out.
    fn obey(&mut self, request: Request<'_>, mut fds: Vec<OwnedFd>) -> Result<Obeyed, Refusal> {
        let word = |word: u64| Ok(Obeyed::Answered(word.to_ne_bytes().to_vec()));
        match request {
            Request::GetFeatures => return word(self.features()),
            Request::SetFeatures(features) => self.set_features(features)?,
            // The second one is not used any more, and may mean nothing.
            Request::SetOwner | Request::ResetOwner => {}
            Request::SetMemTable(regions) => {
                let table = self.memory.replace(regions, fds)?;
                self.set_memory(table)?;
                if self.memory.has_ours() {
                    self.tell_returned()?;
                }
            }
            Request::AddMemReg(region) => {
                let fd = fds.pop().ok_or(MessageError::Fds { request: super::message::code::ADD_MEM_REG, fds: 0 })?;
                match self.memory.add(region, fd)? {
                    Some(table) => self.set_memory(table)?,
                    None => {
                        self.tell_returned()?;
                        return Ok(Obeyed::Unwanted(region));
                    }
                }
            }
            Request::RemMemReg(region) => match self.memory.remove(region)? {
                Some(table) => self.set_memory(table)?,
                None => return Ok(Obeyed::Done),
            },
            Request::GetMaxMemSlots => return word(MAX_REGIONS as u64),
            Request::SetVringNum { queue, size } => {
                let narrow = u16::try_from(size).ok().filter(|size| *size <= MAX_SIZE);
                self.ring(queue)?.size = Some(narrow.ok_or(Refusal::Ring(queue, size))?);
                self.start(queue as u16)?;
            }
            Request::SetVringAddr { queue, addresses } => {
                self.ring(queue)?.addresses = Some(addresses);
                self.start(queue as u16)?;
            }
            Request::SetVringBase { queue, base } => {
                let narrow = u16::try_from(base).map_err(|_| Refusal::Ring(queue, base))?;
                self.ring(queue)?.base = Some(narrow);
                self.start(queue as u16)?;
            }
            Request::GetVringBase { queue } => {
                // Before the gpu thread hears of it: a front-end that stops must not be asked for anything.
                self.identity.shared.set_running(false);
                let base = self.stop(queue)?;
                return Ok(Obeyed::Answered([queue.to_ne_bytes(), u32::from(base).to_ne_bytes()].concat()));
            }
            Request::SetVringKick { queue } => {
                self.ring(queue)?.started = true;
                self.worker.change(Change::Kick(queue as u16, fds.pop()))?;
                self.start(queue as u16)?;
            }
            Request::SetVringCall { queue } => {
                self.ring(queue)?;
                self.worker.change(Change::Interrupt(Wire::Call(queue as u16, fds.pop())))?;
            }
            Request::SetVringErr { queue } => {
                self.ring(queue)?;
                self.worker.change(Change::Interrupt(Wire::Error(queue as u16, fds.pop())))?;
            }
            Request::SetVringEnable { queue, enable } => {
                self.identity.shared.set_running(enable);
                self.ring(queue)?;
                self.worker.change(Change::Enable(queue as u16, enable))?;
            }
            Request::GetProtocolFeatures => return word(self.offered_protocol_features()),
            Request::SetProtocolFeatures(features) => {
                self.protocol_features = features & self.offered_protocol_features();
                self.identity.shared.set_dialect(self.dialect());
                self.tell_front();
            }
            Request::GetQueueNum => return word(self.identity.queues as u64),
            Request::SetBackendReqFd => self.worker.change(Change::Interrupt(Wire::Channel(fds.pop())))?,
            Request::GetConfig { offset, size, flags } => {
                let mut answer: Vec<u8> = [offset, size, flags].iter().flat_map(|word| word.to_ne_bytes()).collect();
                let head = answer.len();
                answer.resize(head + size as usize, 0);
                self.tell_front();
                self.identity.config.read(offset.into(), &mut answer[head..]);
                self.worker.change(Change::ConfigAccessed)?;
                return Ok(Obeyed::Answered(answer));
            }
            Request::SetConfig { offset, bytes } => {
                self.identity.config.write(offset.into(), bytes);
                self.worker.change(Change::ConfigAccessed)?;
            }
            Request::GpuSetSocket => {
                if let Some(socket) = fds.pop() {
                    (self.on_gpu_socket)(socket);
                }
                // A front-end with a display of its own looks for changes by itself and refuses to be told.
                self.worker.change(Change::Interrupt(Wire::Channel(None)))?;
            }
            Request::GetShmemConfig => return Ok(Obeyed::Answered(self.tell_regions(shmem_config))),
            Request::GetSharedMemoryRegions => return Ok(Obeyed::Answered(self.tell_regions(shared_memory_regions))),
        }
        Ok(Obeyed::Handed)
    }

    fn features(&self) -> u64 {
        self.identity.features | feature::TRANSPORT | PROTOCOL_FEATURES
    }

    fn offered_protocol_features(&self) -> u64 {
        use protocol_feature::*;
        let shared = self.identity.shared_memory.iter().any(|len| *len > 0);
        let shared = if shared { SHMEM | SHARED_MEMORY_REGIONS | BACKEND_SEND_FD | SHARED_OBJECT } else { 0 };
        MQ | REPLY_ACK | BACKEND_REQ | CONFIG | CONFIGURE_MEM_SLOTS | shared
    }

    /// How the front-end can be asked to map memory, if it can be.
    fn dialect(&self) -> Option<Dialect> {
        Dialect::of(self.protocol_features).filter(|_| self.asked_regions)
    }

    fn tell_regions(&mut self, tell: fn(&[u64]) -> Vec<u8>) -> Vec<u8> {
        self.asked_regions = true;
        self.identity.shared.set_dialect(self.dialect());
        self.tell_front();
        tell(&self.identity.shared_memory)
    }

    /// Who maps nothing may be QEMU's vhost-user-gpu, which does not let its guest know of kinds of contexts.
    fn tell_front(&self) {
        // The gpu thread may have given it up: kinds of contexts stay.
        let asked = self.dialect().is_some();
        let maps = asked && self.identity.shared.maps();
        self.identity.config.front(Front { maps, context_init: asked });
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        self.worker.change(Change::Features(features & self.features() & !PROTOCOL_FEATURES))?;
        // Who does not know SET_VRING_ENABLE wants its rings enabled.
        if features & PROTOCOL_FEATURES == 0 {
            for queue in 0..self.identity.queues as u16 {
                self.worker.change(Change::Enable(queue, true))?;
            }
        }
        Ok(())
    }

    /// The front-end may take memory away as soon as it is answered: so the gpu thread holds the new table by then.
    fn set_memory(&mut self, table: Arc<device::Memory>) -> Result<(), Refusal> {
        self.worker.change(Change::Memory(table))?;
        for queue in 0..self.rings.len() {
            if self.rings[queue].started && self.rings[queue].layout != Some(self.layout(queue)) {
                self.start(queue as u16)?;
            }
        }
        Ok(self.worker.settle()?)
    }

    /// The gpu thread waits for it before it tells the device that something is mapped.
    fn tell_returned(&mut self) -> Result<(), Gone> {
        self.identity.shared.set_returned();
        self.worker.change(Change::Look)
    }

    /// Whether to say no to a region of our own. QEMU 11.1 unmaps it when its guest is reset, after it stopped the device; if
    /// it had been told yes, it crashes at the next start, when it wants to tell us. A no is one line in QEMU's log, now and
    /// at each change of its memory until the region is gone: a guest gets so many of them. At a start it has to be a yes.
    fn refuse(&mut self, region: RegionDescription) -> Result<bool, Refusal> {
        if self.refused >= MOST_REFUSED || !self.identity.shared.runs() {
            return Ok(false);
        }
        self.refused += 1;
        self.memory.remove(region)?;
        Ok(true)
    }

    fn ring(&mut self, queue: u32) -> Result<&mut RingSettings, Refusal> {
        let index = usize::try_from(queue).ok();
        index.and_then(|index| self.rings.get_mut(index)).ok_or(Refusal::Queue(queue))
    }

    /// Starts a ring of which everything is known, or starts it anew when something changed.
    fn start(&mut self, queue: u16) -> Result<(), Refusal> {
        let layout = self.layout(queue.into());
        let ring = &mut self.rings[usize::from(queue)];
        if !ring.started || ring.size.is_none() || ring.addresses.is_none() {
            return Ok(());
        }
        ring.layout = Some(layout);
        let base = ring.base.take();
        Ok(self.worker.change(Change::Start { queue, layout, base })?)
    }

    /// Where the ring lies in guest memory; `None` when it does not.
    fn layout(&self, queue: usize) -> Option<Layout> {
        let RingSettings { size, addresses, .. } = self.rings[queue];
        let addresses = addresses?;
        Some(Layout {
            size: size?,
            descriptors: self.memory.translate(addresses.descriptors)?,
            available: self.memory.translate(addresses.available)?,
            used: self.memory.translate(addresses.used)?,
        })
    }

    fn stop(&mut self, queue: u32) -> Result<u16, Refusal> {
        let ring = self.ring(queue)?;
        let started = std::mem::take(&mut ring.started);
        let base = match started {
            true => self.worker.stop_ring(queue as u16)?,
            false => ring.base.unwrap_or(0),
        };
        // Without another word it goes on there.
        self.ring(queue)?.base = Some(base);
        Ok(base)
    }
}
