//! The front-end against a device of sixty lines, which answers each command with RESP_ERR_UNSPEC and its fence.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bench::frontend::message::{NEED_REPLY, REPLY, request};
use bench::frontend::{Buffer, Channel, Error, FrontEnd, Kind, Options, command, feature, ring};
use rustix::event::{PollFd, PollFlags};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

const PATIENCE: Duration = Duration::from_secs(60);
const OFFERED: u64 =
    feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC | feature::RING_RESET | feature::PROTOCOL_FEATURES;

/// The fake device: one memory region at address 0, one ring that is served.
#[derive(Default)]
struct Fake {
    map: Option<MmapRegion<()>>,
    size: u16,
    /// Descriptors, used ring, available ring.
    addresses: [usize; 3],
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    enabled: bool,
    side: Option<OwnedFd>,
    served: u16,
    /// Closes the socket instead of serving more commands than this.
    dies_after: Option<u16>,
}

impl Fake {
    fn run(mut self, channel: &Channel) {
        loop {
            let socket = channel.socket().as_fd();
            let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN)];
            if let (Some(kick), true) = (&self.kick, self.enabled) {
                fds.push(PollFd::new(kick, PollFlags::IN));
            }
            rustix::event::poll(&mut fds, None).expect("poll");
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready.get(1) == Some(&true) && !self.serve() {
                return;
            }
            if ready[0] && !self.answer(channel) {
                return;
            }
        }
    }

    fn answer(&mut self, channel: &Channel) -> bool {
        let Ok(mut message) = channel.receive() else { return false };
        let word = |at: usize| u64::from_ne_bytes(message.payload[at..at + 8].try_into().expect("word"));
        let first = |message: &bench::frontend::Message| message.payload.first().copied();
        let reply = match message.request {
            request::GET_FEATURES => Some(OFFERED),
            request::GET_PROTOCOL_FEATURES => Some(8),
            request::GET_VRING_BASE => Some(u64::from(message.payload[0]) | u64::from(self.served) << 32),
            request::SET_MEM_TABLE => {
                let file = FileOffset::new(message.fds.remove(0).into(), word(32));
                self.map = Some(MmapRegion::from_file(file, word(16) as usize).expect("map"));
                None
            }
            request::SET_VRING_NUM if first(&message) == Some(0) => {
                self.size = (word(0) >> 32) as u16;
                None
            }
            request::SET_VRING_ADDR if first(&message) == Some(0) => {
                self.addresses = [8, 16, 24].map(|at| (word(at) - bench::frontend::USER_OFFSET) as usize);
                None
            }
            request::SET_VRING_ENABLE if first(&message) == Some(0) => {
                self.enabled = word(0) >> 32 != 0;
                None
            }
            request::SET_VRING_KICK if first(&message) == Some(0) => {
                self.kick = message.fds.pop();
                None
            }
            request::SET_VRING_CALL if first(&message) == Some(0) => {
                self.call = message.fds.pop();
                None
            }
            request::GPU_SET_SOCKET => {
                self.side = message.fds.pop();
                None
            }
            _ => None,
        };
        let reply = reply.or((message.flags & NEED_REPLY != 0).then_some(0));
        reply.is_none_or(|reply| channel.send(message.request, REPLY, &reply.to_ne_bytes(), &[]).is_ok())
    }

    fn serve(&mut self) -> bool {
        let map = self.map.as_ref().expect("memory before kicks").as_volatile_slice();
        let [table, used, available] = self.addresses;
        let size = usize::from(self.size);
        rustix::io::read(self.kick.as_ref().expect("kick"), &mut [0u8; 8]).expect("kick");
        let before = self.served;
        while map.load::<u16>(available + 2, Ordering::Acquire).expect("index") != self.served {
            if self.dies_after.is_some_and(|most| self.served >= most) {
                return false;
            }
            let slot = usize::from(self.served) % size;
            let head: u16 = map.read_obj(available + 4 + 2 * slot).expect("head");
            let length = reply(&map, table, head);
            map.write_obj(u32::from(head), used + 4 + 8 * slot).expect("id");
            map.write_obj(length, used + 8 + 8 * slot).expect("length");
            self.served = self.served.wrapping_add(1);
            map.store(self.served, used + 2, Ordering::Release).expect("used");
        }
        map.store(self.served, used + 4 + 8 * size, Ordering::SeqCst).expect("event");
        let event: u16 = map.load(available + 4 + 2 * size, Ordering::SeqCst).expect("event");
        if self.served.wrapping_sub(event).wrapping_sub(1) < self.served.wrapping_sub(before) {
            rustix::io::write(self.call.as_ref().expect("call"), &1u64.to_ne_bytes()).expect("call");
        }
        true
    }
}

/// Follows a chain (or its indirect table) and answers in its first writable descriptor.
fn reply(map: &VolatileSlice<'_>, table: usize, head: u16) -> u32 {
    let (mut table, mut index, mut request) = (table, usize::from(head), Vec::new());
    loop {
        let at = table + 16 * index;
        let address: u64 = map.read_obj(at).expect("address");
        let length: u32 = map.read_obj(at + 8).expect("length");
        let flags: u16 = map.read_obj(at + 12).expect("flags");
        if flags & ring::INDIRECT != 0 {
            (table, index) = (address as usize, 0);
            continue;
        }
        if flags & ring::WRITE != 0 {
            let mut answer = command::Command::new(command::RESP_ERR_UNSPEC).as_bytes().to_vec();
            answer[8..16].copy_from_slice(&request[8..16]);
            map.write_slice(&answer, address as usize).expect("answer");
            return answer.len() as u32;
        }
        let mut piece = vec![0; length as usize];
        map.read_slice(&mut piece, address as usize).expect("request");
        request.extend(piece);
        if flags & ring::NEXT == 0 {
            return 0;
        }
        index = usize::from(map.read_obj::<u16>(at + 14).expect("next"));
    }
}

fn connect(kind: Kind, fake: Fake, change: impl FnOnce(&mut Options)) -> (FrontEnd, JoinHandle<()>) {
    let (device, vmm) = UnixStream::pair().expect("socket pair");
    let device = Channel::new(device, PATIENCE).expect("device's end");
    let thread = std::thread::spawn(move || fake.run(&device));
    let mut options = Options { memory: vec![(0, 16 << 20)], ..Options::new(kind) };
    change(&mut options);
    let channel = Channel::new(vmm, PATIENCE).expect("VMM's end");
    let mut front_end = FrontEnd::over(channel, options).expect("front-end");
    front_end.negotiate().expect("negotiation");
    (front_end, thread)
}

/// Offers one request `count` times, each with room for its answer, and waits for all.
fn batch(guest: &mut FrontEnd, count: u16) -> ring::Signals {
    let memory = guest.memory().clone();
    let mark = memory.mark();
    let area = memory.allocate(4096, 4096).expect("area");
    memory.write(area, command::unref(1).as_bytes()).expect("request");
    let queue = guest.queue(0).expect("queue");
    for _ in 0..count {
        let head = queue.prepare(&[Buffer::Readable(area, 32), Buffer::Writable(area + 64, 24)]).expect("chain");
        queue.offer(head).expect("offer");
    }
    queue.publish().expect("publish");
    queue.wait_until_ready(count).expect("all of them");
    for _ in 0..count {
        let used = queue.take().expect("entry").expect("one of them");
        assert_eq!(used.length, 24);
        queue.recycle(used.id as u16);
    }
    memory.release(mark);
    queue.signals()
}

#[test]
fn commands_are_answered_far_past_the_ring_s_wrap() {
    for indirect in [false, true] {
        let (mut guest, device) = connect(Kind::Generic, Fake::default(), |options| options.indirect = indirect);
        guest.start().expect("start");
        for round in 0..1100 {
            batch(&mut guest, 60);
            let reply = guest.command(&command::get_display_info().fence(round)).expect("reply");
            assert_eq!((reply.kind(), reply.fence(), reply.used_length), (command::RESP_ERR_UNSPEC, round, 24));
        }
        drop(guest);
        device.join().expect("device");
    }
}

#[test]
fn a_request_in_odd_pieces_arrives_whole_and_its_answer_starts_in_the_first_writable_piece() {
    let (mut guest, _device) = connect(Kind::Generic, Fake::default(), |_| ());
    guest.start().expect("start");
    let bytes = command::unref(1).fence(42);
    let (start, end) = bytes.as_bytes().split_at(5);
    let reply = guest.exchange_shaped(0, &[start, end], &[100, 7]).expect("reply");
    assert_eq!((reply.fence(), reply.bytes.len()), (42, 107));
}

#[test]
fn a_batch_costs_one_kick_and_at_most_one_interrupt_with_event_idx() {
    let (mut guest, _device) = connect(Kind::Generic, Fake::default(), |_| ());
    guest.start().expect("start");
    let signals = batch(&mut guest, 64);
    assert_eq!(signals.kicks, 1);
    assert!(signals.interrupts <= 1, "{signals:?}");
}

#[test]
fn a_device_that_dies_ends_the_wait_and_the_next_message() {
    let fake = Fake { dies_after: Some(3), ..Fake::default() };
    let (mut guest, device) = connect(Kind::Generic, fake, |options| {
        options.wait = ring::Wait::Block;
    });
    guest.start().expect("start");
    let abandon = guest.queue(0).expect("queue").abandoner().expect("abandoner");
    std::thread::spawn(move || {
        device.join().expect("device");
        abandon.abandon();
    });
    let answered = (0..10).take_while(|_| guest.command(&command::get_display_info()).is_ok()).count();
    assert_eq!(answered, 3);
    assert!(matches!(guest.read_config(0, 4), Err(Error::HungUp)));
}

#[test]
fn the_side_socket_and_the_stop_and_resume_of_the_gpu_front_end() {
    let (mut guest, _device) = connect(Kind::Gpu, Fake::default(), |_| ());
    assert!(guest.start().expect("start").is_some());
    assert!(guest.command(&command::get_display_info()).is_ok());
    let bases = guest.stop().expect("stop");
    assert_eq!(bases[0], 1);
    assert!(guest.resume(&bases).expect("resume").is_some());
    assert!(guest.command(&command::get_display_info()).is_ok());
}
