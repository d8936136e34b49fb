//! A whole session: connect, negotiate, share memory, start the rings, talk, stop.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::command::{Command, Reply};
use super::driver::Driver;
use super::error::{Doing, Error, Result};
use super::memory::{Memory, USER_OFFSET};
use super::message::{Channel, protocol_feature, request};
use super::options::{Kind, Options, feature};
use super::ring::Queue;
use super::vmm_display::VmmDisplay;

/// The VMM and the guest's driver in one.
#[derive(Debug)]
pub struct FrontEnd {
    options: Options,
    channel: Channel,
    memory: Arc<Memory>,
    queues: Vec<Queue>,
    offered: u64,
    acknowledged: u64,
    protocol_features: u64,
    backend_requests: Option<Channel>,
}

impl FrontEnd {
    /// Connects to a listening device; nothing is said yet.
    pub fn connect(path: &Path, options: Options) -> Result<Self> {
        let channel = Channel::connect(path, options.patience)?;
        Self::over(channel, options)
    }

    /// Uses a socket whose other end the device has, as libvirt gives it by `--fd`.
    pub fn over(channel: Channel, options: Options) -> Result<Self> {
        let memory = Arc::new(Memory::new(&options.memory)?);
        let make = |index| Queue::new(index, options.queue_size, memory.clone(), options.wait);
        let queues = (0..options.queues).map(make).collect::<Result<_>>()?;
        let (offered, acknowledged, protocol_features) = (0, 0, 0);
        let backend_requests = None;
        Ok(Self { options, channel, memory, queues, offered, acknowledged, protocol_features, backend_requests })
    }

    /// Connects and does all that QEMU does up to DRIVER_OK. For [`Kind::Gpu`] the display comes along: serve it, or spawn
    /// it on a thread.
    pub fn ready(path: &Path, options: Options) -> Result<(Self, Option<VmmDisplay>)> {
        let mut front_end = Self::connect(path, options)?;
        front_end.negotiate()?;
        let display = front_end.start()?;
        Ok((front_end, display))
    }

    /// What a VMM says when it makes the device: features, protocol features, owner, and the back-end's own channel.
    pub fn negotiate(&mut self) -> Result<()> {
        self.offered = self.channel.ask(request::GET_FEATURES, &[], &[])?.u64()?;
        if self.offered & feature::PROTOCOL_FEATURES == 0 {
            return Err(Error::Lacks("vhost-user protocol features (bit 30)".into()));
        }
        let offered = self.channel.ask(request::GET_PROTOCOL_FEATURES, &[], &[])?.u64()?;
        self.protocol_features = offered & self.options.protocol_features;
        self.tell(request::SET_PROTOCOL_FEATURES, &self.protocol_features.to_ne_bytes())?;
        if self.has(protocol_feature::MQ) {
            let most = self.channel.ask(request::GET_QUEUE_NUM, &[], &[])?.u64()?;
            if most < u64::from(self.options.queues) {
                return Err(Error::Lacks(format!("{} queues: it has {most}", self.options.queues)));
            }
        }
        if self.has(protocol_feature::CONFIGURE_MEM_SLOTS) {
            self.channel.ask(request::GET_MAX_MEM_SLOTS, &[], &[])?.u64()?;
        }
        if self.has(protocol_feature::BACKEND_REQ) {
            self.give_backend_channel()?;
        }
        self.channel.send(request::SET_OWNER, 0, &[], &[])?;
        self.offered = self.channel.ask(request::GET_FEATURES, &[], &[])?.u64()?;
        self.acknowledged = self.offered & self.options.features | self.options.forced_features;
        Ok(())
    }

    /// What a VMM says at DRIVER_OK: side socket, features, memory, rings.
    pub fn start(&mut self) -> Result<Option<VmmDisplay>> {
        let display = match self.options.kind {
            Kind::Gpu => Some(self.give_side_socket()?),
            Kind::Generic => None,
        };
        self.set_features()?;
        self.share_memory()?;
        for index in 0..self.queues.len() {
            self.start_queue(index, 0)?;
        }
        self.enable_queues(true)?;
        Ok(display)
    }

    /// What QMP `stop` says: rings are disabled and their bases asked for, which are returned.
    pub fn stop(&mut self) -> Result<Vec<u16>> {
        self.enable_queues(false)?;
        (0..self.queues.len()).map(|index| self.stop_queue(index)).collect()
    }

    /// What QMP `cont` says: features again, the rings go on where they stood, and a new side socket.
    pub fn resume(&mut self, bases: &[u16]) -> Result<Option<VmmDisplay>> {
        let display = match self.options.kind {
            Kind::Gpu => Some(self.give_side_socket()?),
            Kind::Generic => None,
        };
        self.set_features()?;
        self.share_memory()?;
        for (index, &base) in bases.iter().enumerate() {
            self.start_queue(index, base)?;
        }
        self.enable_queues(true)?;
        Ok(display)
    }

    // The steps of these.

    /// SET_FEATURES with what was acknowledged.
    pub fn set_features(&mut self) -> Result<()> {
        let features = self.acknowledged | feature::PROTOCOL_FEATURES;
        self.tell(request::SET_FEATURES, &features.to_ne_bytes())?;
        for queue in &mut self.queues {
            queue.set_event_idx(self.acknowledged & feature::EVENT_IDX != 0);
        }
        Ok(())
    }

    /// SET_MEM_TABLE, or ADD_MEM_REG for each region when the device has slots.
    pub fn share_memory(&self) -> Result<()> {
        if self.has(protocol_feature::CONFIGURE_MEM_SLOTS) {
            for region in self.memory.regions() {
                let payload = [[0; 8].as_slice(), &region.describe()].concat();
                self.tell_with(request::ADD_MEM_REG, &payload, &[region.fd()])?;
            }
            return Ok(());
        }
        let regions = self.memory.regions();
        let mut payload = (regions.len() as u64).to_ne_bytes().to_vec();
        payload.extend(regions.iter().flat_map(super::memory::Region::describe));
        let fds: Vec<_> = regions.iter().map(super::memory::Region::fd).collect();
        self.tell_with(request::SET_MEM_TABLE, &payload, &fds)
    }

    /// REM_MEM_REG for each region, if the device has slots.
    pub fn unshare_memory(&self) -> Result<()> {
        for region in self.memory.regions() {
            let payload = [[0; 8].as_slice(), &region.describe()].concat();
            self.tell(request::REM_MEM_REG, &payload)?;
        }
        Ok(())
    }

    /// Tells the device all about a ring but does not enable it.
    pub fn start_queue(&self, index: usize, base: u16) -> Result<()> {
        let queue = self.queues.get(index).ok_or(Error::Order("There is no such queue"))?;
        let number = index as u32;
        let state = |value: u32| [number.to_ne_bytes(), value.to_ne_bytes()].concat();
        self.tell(request::SET_VRING_NUM, &state(u32::from(queue.size())))?;
        self.tell(request::SET_VRING_BASE, &state(u32::from(base)))?;
        let layout = queue.layout();
        let mut addresses = state(0);
        for address in [layout.descriptors, layout.used, layout.available] {
            addresses.extend((address + USER_OFFSET).to_ne_bytes());
        }
        addresses.extend(0u64.to_ne_bytes());
        self.tell(request::SET_VRING_ADDR, &addresses)?;
        let number = (index as u64).to_ne_bytes();
        let [kick, call, error] = queue.eventfds();
        self.tell_with(request::SET_VRING_ERR, &number, &[error])?;
        self.tell_with(request::SET_VRING_KICK, &number, &[kick])?;
        self.tell_with(request::SET_VRING_CALL, &number, &[call])
    }

    /// GET_VRING_BASE: stops the ring and returns where it stood.
    pub fn stop_queue(&self, index: usize) -> Result<u16> {
        let payload = [(index as u32).to_ne_bytes(), 0u32.to_ne_bytes()].concat();
        let reply = self.channel.ask(request::GET_VRING_BASE, &payload, &[])?;
        match reply.payload.get(4..6) {
            Some(&[low, high]) => Ok(u16::from_ne_bytes([low, high])),
            _ => Err(Error::Protocol("GET_VRING_BASE without a base".into())),
        }
    }

    /// SET_VRING_ENABLE for all rings.
    pub fn enable_queues(&self, on: bool) -> Result<()> {
        for index in 0..self.queues.len() as u32 {
            let payload = [index.to_ne_bytes(), u32::from(on).to_ne_bytes()].concat();
            self.tell(request::SET_VRING_ENABLE, &payload)?;
        }
        Ok(())
    }

    /// GPU_SET_SOCKET with a new socket pair; the VMM's end is returned.
    pub fn give_side_socket(&self) -> Result<VmmDisplay> {
        let (device, vmm) = UnixStream::pair().doing("make a socket pair")?;
        self.channel.send(request::GPU_SET_SOCKET, 0, &[], &[device.as_fd()])?;
        Ok(VmmDisplay::new(vmm, self.options.display.clone()))
    }

    fn give_backend_channel(&mut self) -> Result<()> {
        let (device, vmm) = UnixStream::pair().doing("make a socket pair")?;
        self.tell_with(request::SET_BACKEND_REQ_FD, &[], &[device.as_fd()])?;
        self.backend_requests = Some(Channel::new(vmm, self.options.patience)?);
        Ok(())
    }

    /// GET_CONFIG.
    pub fn read_config(&self, offset: u32, length: u32) -> Result<Vec<u8>> {
        let mut payload: Vec<u8> = [offset, length, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        payload.resize(12 + length as usize, 0);
        let reply = self.channel.ask(request::GET_CONFIG, &payload, &[])?;
        Ok(reply.payload.get(12..).unwrap_or_default().to_vec())
    }

    /// SET_CONFIG.
    pub fn write_config(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        let head = [offset, bytes.len() as u32, 0];
        let payload: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).chain(bytes.iter().copied()).collect();
        self.tell(request::SET_CONFIG, &payload)
    }

    // Commands.

    /// Sends a command on the control queue and waits for its answer.
    pub fn command(&mut self, command: &Command) -> Result<Reply> {
        Driver::command(self, command)
    }

    /// Sends a command on the cursor queue, whose chains have no writable part, and waits until it is given back.
    pub fn cursor(&mut self, command: &Command) -> Result<Reply> {
        self.exchange(1, command.as_bytes(), 0)
    }

    /// Sends any bytes as one readable buffer, followed by one writable buffer of `capacity` bytes, on any queue.
    pub fn exchange(&mut self, queue: usize, readable: &[u8], capacity: u32) -> Result<Reply> {
        self.exchange_shaped(queue, &[readable], &[capacity])
    }

    /// Sends any bytes in any number of readable and writable buffers.
    pub fn exchange_shaped(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Result<Reply> {
        let memory = self.memory.clone();
        let indirect = self.options.indirect && self.acknowledged & feature::INDIRECT_DESC != 0;
        self.queue(queue)?.exchange(&memory, readable, writable, indirect)
    }

    /// A ring: 0 is the control queue, 1 the cursor queue.
    pub fn queue(&mut self, index: usize) -> Result<&mut Queue> {
        self.queues.get_mut(index).ok_or(Error::Order("There is no such queue"))
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The socket, to say anything else.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The channel on which the device sends its own requests, if it was negotiated.
    pub fn backend_requests(&self) -> Option<&Channel> {
        self.backend_requests.as_ref()
    }

    /// Virtio features that the device offers.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Virtio features that the front-end acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Is this protocol feature in force?
    pub fn has(&self, protocol_feature: u64) -> bool {
        self.protocol_features & protocol_feature != 0
    }

    /// Sends a request that has no answer by nature; waits for its acknowledgement where that was negotiated.
    pub fn tell(&self, request: u32, payload: &[u8]) -> Result<()> {
        self.tell_with(request, payload, &[])
    }

    fn tell_with(&self, request: u32, payload: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
        // The protocol features themselves are told before REPLY_ACK is in force.
        if !self.has(protocol_feature::REPLY_ACK) || request == request::SET_PROTOCOL_FEATURES {
            return self.channel.send(request, 0, payload, fds);
        }
        match self.channel.acknowledge(request, payload, fds)? {
            0 => Ok(()),
            code => Err(Error::Protocol(format!("request {request} was refused with {code}"))),
        }
    }
}

impl Driver for FrontEnd {
    fn memory(&self) -> &Arc<Memory> {
        self.memory()
    }

    fn queue(&mut self, index: usize) -> Result<&mut Queue> {
        self.queue(index)
    }

    fn exchange(&mut self, queue: usize, readable: &[u8], capacity: u32) -> Result<Reply> {
        self.exchange(queue, readable, capacity)
    }
}
