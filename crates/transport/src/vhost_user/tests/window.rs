//! Memory of the host in the guest's window: a front-end that answers early, late, wrong or never, and stops meanwhile.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use device::Front as Abilities;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::fstat;
use rustix::io::ioctl_fionread;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::super::message::code;
use super::front::{Front, MEMORY, Served, USER, memfd, pair, region, single};

const MAP: u32 = code::BACKEND_SHMEM_MAP;
const UNMAP: u32 = code::BACKEND_SHMEM_UNMAP;
const FENCE: u32 = code::BACKEND_SHARED_OBJECT_REMOVE;
pub const LEN: u64 = 0x10000;
const NEED_REPLY: u32 = 8;
const BITS: u64 = 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 15 | 1 << 18 | 1 << 22;

/// The front-end's end of the back-end's channel.
pub struct Channel {
    pub socket: UnixStream,
    /// Whether a fence is behind each map.
    pub fenced: bool,
}

/// One request of the back-end.
#[derive(Debug)]
pub struct Asked {
    pub request: u32,
    pub flags: u32,
    pub words: Vec<u64>,
    pub fd: Option<OwnedFd>,
}

impl Asked {
    fn is(&self, request: u32, at: u64) -> bool {
        let words = [1, 0, at, LEN, u64::from(request == MAP)];
        self.request == request && self.flags == 1 | NEED_REPLY && self.words == words
    }
}

impl Channel {
    pub fn open(front: &Front) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(front.acknowledged(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]), 0);
        Self { socket: ours, fenced: true }
    }

    /// The next message, waited for, and the fence behind it.
    pub fn next(&self) -> Asked {
        let next = self.take(RecvFlags::empty()).unwrap();
        if self.fenced && next.request == MAP {
            let fence = self.take(RecvFlags::empty()).unwrap();
            assert!(fence.request == FENCE && fence.flags == 1 | NEED_REPLY && fence.words.len() == 2, "{fence:?}");
        }
        next
    }

    /// Whether nothing has come.
    pub fn is_quiet(&self) -> bool {
        self.take(RecvFlags::DONTWAIT).is_none()
    }

    fn take(&self, flags: RecvFlags) -> Option<Asked> {
        let mut head = [0; 12];
        let fd = self.fill(&mut head, flags)?;
        let words: Vec<u32> = head.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        let mut payload = vec![0; words[2] as usize];
        if !payload.is_empty() {
            self.fill(&mut payload, RecvFlags::empty()).unwrap();
        }
        let payload = payload.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
        Some(Asked { request: words[0], flags: words[1], words: payload, fd })
    }

    /// All of `bytes`; a descriptor comes with the first one.
    fn fill(&self, bytes: &mut [u8], mut flags: RecvFlags) -> Option<Option<OwnedFd>> {
        let (mut done, mut fd) = (0, None);
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let rest = &mut [IoSliceMut::new(&mut bytes[done..])];
            let count = recvmsg(&self.socket, rest, &mut control, flags).ok()?.bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    assert_eq!(done, 0);
                    fd = fds.next();
                }
            }
            if count == 0 {
                return None;
            }
            done += count;
            flags = RecvFlags::empty();
        }
        Some(fd)
    }

    /// Answers a request, and the fence behind it: there is no such object.
    pub fn answer(&self, request: u32, code: u64) {
        self.say(request, 5, &code.to_ne_bytes());
        if self.fenced && request == MAP {
            self.fence();
        }
    }

    fn fence(&self) {
        self.say(FENCE, 5, &1u64.to_ne_bytes());
    }

    pub fn say(&self, request: u32, flags: u32, payload: &[u8]) {
        let head = [request, flags, payload.len() as u32];
        let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).chain(payload.iter().copied()).collect();
        // It may have hung up.
        let _ = (&self.socket).write_all(&bytes);
    }
}

fn ready(served: &Served) -> (Front, Channel) {
    let mut front = Front::connect(served);
    front.accept(BITS);
    front.ask(code::GET_SHMEM_CONFIG, &[]);
    let channel = Channel::open(&front);
    front.set_up();
    start(&front);
    (front, channel)
}

pub fn start(front: &Front) {
    front.enable(0, true);
    front.enable(1, true);
}

/// A stop and a start, as QEMU does both.
pub fn pause(front: &Front) {
    front.enable(0, false);
    front.enable(1, false);
    front.stop(0);
    front.stop(1);
}

pub fn resume(front: &Front) {
    front.send(code::SET_FEATURES, 0, &front.features.to_ne_bytes(), &[]);
    for queue in 0..2 {
        let base = front.stop(queue);
        front.start(queue, base);
    }
    start(front);
}

pub fn same_file(one: &impl AsFd, other: &impl AsFd) -> bool {
    let name = |file: &dyn Fn() -> rustix::fs::Stat| (file().st_dev, file().st_ino);
    name(&|| fstat(one).unwrap()) == name(&|| fstat(other).unwrap())
}

/// Where the VMM has put what it mapped at `at`.
fn shown(at: u64) -> Vec<u8> {
    single((1 << 40) + at, LEN, USER + (1 << 40) + at, 0)
}

#[test]
fn shared_memory_is_bit_22_or_crosvm_s_and_never_21() {
    let served = Served::showing();
    let front = Front::connect(&served);
    let protocol = front.ask_word(code::GET_PROTOCOL_FEATURES);
    let bits: Vec<u32> = (0..64).filter(|bit| protocol >> bit & 1 == 1).collect();
    assert_eq!(bits, [0, 3, 5, 9, 10, 15, 18, 22, 31]);
    let regions = front.ask(code::GET_SHMEM_CONFIG, &[]);
    assert_eq!(regions.len(), 8 + 8 * 256);
    assert_eq!((regions[0], &regions[16..24]), (2, &(1u64 << 30).to_ne_bytes()[..]));
}

#[test]
fn what_the_device_shows_is_mapped_and_unmapped_in_its_order() {
    let served = Served::showing();
    let (_front, channel) = ready(&served);
    let file = served.seen.map(1, 0, LEN);
    served.seen.map(2, LEN, LEN);
    served.seen.unmap(3, 0, LEN);
    let first = channel.next();
    assert!(first.is(MAP, 0), "{first:?}");
    assert!(same_file(&first.fd.unwrap(), &file));
    channel.answer(MAP, 0);
    assert!(channel.next().is(MAP, LEN));
    channel.answer(MAP, 22);
    let third = channel.next();
    assert!(third.is(UNMAP, 0) && third.fd.is_none(), "{third:?}");
    channel.answer(UNMAP, 0);
    assert_eq!(served.seen.wait_mapped(3), [(1, true), (2, false), (3, true)]);
}

/// QEMU 11.1 answers before its guest sees it.
#[test]
fn what_was_mapped_is_told_when_it_came_back_or_the_fence_behind_it_is_answered() {
    let served = Served::showing();
    let (mut front, channel) = ready(&served);
    let mut due = 0;
    for index in 0..40 {
        served.seen.map(index, index * LEN, LEN);
        let fd = channel.next().fd.unwrap();
        // It does one thing after the other: this is of what came before.
        (0..std::mem::take(&mut due)).for_each(|_| channel.fence());
        let returns = |front: &Front| {
            assert_eq!(front.acknowledged(code::ADD_MEM_REG, &shown(index * LEN), &[fd.as_fd()]), 1);
        };
        let nothing = |front: &mut Front| {
            assert_eq!(front.request(0, b"e", 1), b"e");
            assert_eq!(served.seen.lock().mapped, [], "{index}");
        };
        match index % 4 {
            0 => {
                channel.say(MAP, 5, &[0; 8]);
                nothing(&mut front);
                returns(&front);
                due = 1;
            }
            1 => {
                returns(&front);
                nothing(&mut front);
                channel.say(MAP, 5, &[0; 8]);
                due = 1;
            }
            2 => {
                channel.say(MAP, 5, &[0; 8]);
                nothing(&mut front);
                channel.fence();
            }
            // It could not.
            _ => {
                channel.say(MAP, 5, &1u64.to_ne_bytes());
                due = 1;
            }
        }
        assert_eq!(served.seen.wait_mapped(1), [(index, index % 4 != 3)]);
    }
    // A stop meanwhile: it is undone.
    served.seen.map(40, 40 * LEN, LEN);
    channel.next();
    (0..due).for_each(|_| channel.fence());
    channel.say(MAP, 5, &[0; 8]);
    pause(&front);
    assert_eq!(served.seen.wait_mapped(1), [(40, false)]);
    channel.fence();
    resume(&front);
    assert!(channel.next().is(UNMAP, 40 * LEN));
    // Without another word from the guest's memory, the fence counts.
    channel.answer(UNMAP, 0);
    served.seen.map(41, 40 * LEN, LEN);
    channel.next();
    channel.answer(MAP, 0);
    assert_eq!(served.seen.wait_mapped(1), [(41, true)]);
}

/// Each change of its memory makes QEMU tell of all that it has, that of an unmap too, which it answered before.
#[test]
fn what_comes_back_of_what_came_before_is_not_what_was_mapped() {
    let served = Served::showing();
    let (mut front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    let fd = channel.next().fd.unwrap();
    channel.answer(MAP, 0);
    served.seen.map(2, LEN, LEN);
    channel.next();
    channel.answer(MAP, 0);
    served.seen.wait_mapped(2);
    served.seen.unmap(3, LEN, LEN);
    channel.next();
    channel.answer(UNMAP, 0);
    served.seen.map(4, LEN, LEN);
    wait_readable(&channel.socket);
    // It has not taken the first byte yet.
    assert_eq!(front.acknowledged(code::ADD_MEM_REG, &shown(0), &[fd.as_fd()]), 1);
    assert_eq!(front.request(0, b"e", 1), b"e");
    channel.next();
    channel.say(MAP, 5, &[0; 8]);
    assert_eq!(front.request(0, b"e", 1), b"e");
    assert_eq!(served.seen.wait_mapped(1), [(3, true)]);
    assert_eq!(front.request(0, b"e", 1), b"e");
    assert_eq!(served.seen.lock().mapped, [], "the guest would write where nothing is yet");
    assert_eq!(front.acknowledged(code::ADD_MEM_REG, &shown(0), &[fd.as_fd()]), 1);
    assert_eq!(served.seen.wait_mapped(1), [(4, true)]);
}

/// QEMU 11.1 crashes at a start when it was told yes and unmapped the region since; it cannot start when it is told no.
#[test]
fn what_is_shown_comes_back_as_memory_and_is_none() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    let tables = served.seen.lock().tables.clone();
    let file = served.seen.map(1, 0, LEN);
    let fd = channel.next().fd.unwrap();
    let add = |front: &Front| front.acknowledged(code::ADD_MEM_REG, &shown(0), &[fd.as_fd()]);
    // The front-end waits for this before it answers; and no command that is running keeps it waiting.
    let busy = served.seen.lock();
    assert_eq!([add(&front), add(&front)], [1, 1]);
    drop(busy);
    channel.answer(MAP, 0);
    assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
    pause(&front);
    assert_eq!(add(&front), 0);
    resume(&front);
    // A whole table with it is the table without it.
    let regions = [region(0, MEMORY, USER, 0), region(1 << 40, LEN, USER + (1 << 40), 0)].concat();
    let table = [&2u64.to_ne_bytes()[..], &regions].concat();
    assert_eq!(front.acknowledged(code::SET_MEM_TABLE, &table, &[front.fd.as_fd(), fd.as_fd()]), 0);
    served.seen.unmap(2, 0, LEN);
    channel.next();
    let busy = served.seen.lock();
    assert_eq!(front.acknowledged(code::REM_MEM_REG, &shown(0), &[]), 0);
    drop(busy);
    channel.answer(UNMAP, 0);
    assert_eq!(served.seen.wait_mapped(1), [(2, true)]);
    assert_eq!(served.seen.lock().tables, [&tables[..], &[1]].concat(), "only the table that replaced another");
    // It is not shown any more: now it would be the guest's.
    assert_eq!(front.acknowledged(code::ADD_MEM_REG, &shown(0), &[file.as_fd()]), 0);
    assert_eq!(served.seen.lock().tables.last(), Some(&2));
}

/// Each no is a line in the front-end's log.
#[test]
fn a_front_end_is_not_refused_for_ever() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    let fd = channel.next().fd.unwrap();
    let add = || front.acknowledged(code::ADD_MEM_REG, &shown(0), &[fd.as_fd()]);
    assert_eq!((0..4096).map(|_| add()).sum::<u64>(), 4096);
    assert_eq!(add(), 0);
    assert_eq!(front.acknowledged(code::REM_MEM_REG, &shown(0), &[]), 0);
}

/// QEMU 11.1 crashes on a request that it finds once it has stopped the device.
#[test]
fn nothing_is_sent_once_a_stop_began() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    channel.next();
    channel.answer(MAP, 0);
    served.seen.wait_mapped(1);
    front.enable(0, false);
    served.seen.map(2, LEN, LEN);
    served.seen.unmap(3, 0, LEN);
    assert_eq!(served.seen.wait_mapped(2), [(2, false), (3, false)]);
    front.enable(1, false);
    assert_eq!([front.stop(0), front.stop(1)], [0, 0]);
    assert!(channel.is_quiet());
    // What is to be taken away is, before anything else.
    resume(&front);
    served.seen.map(4, 0, LEN);
    let first = channel.next();
    assert!(first.is(UNMAP, 0), "{first:?}");
    channel.answer(UNMAP, 0);
    assert!(channel.next().is(MAP, 0));
    channel.answer(MAP, 0);
    assert_eq!(served.seen.wait_mapped(1), [(4, true)]);
}

#[test]
fn a_stop_does_not_wait_for_answers_and_what_succeeds_late_is_undone() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    for (request, code) in [(MAP, 0), (MAP, 1)] {
        served.seen.map(1, 0, LEN);
        channel.next();
        pause(&front);
        assert_eq!(served.seen.wait_mapped(1), [(1, false)]);
        channel.answer(request, code);
        resume(&front);
        // The device believes that nothing is there.
        served.seen.map(2, 0, LEN);
        if code == 0 {
            assert!(channel.next().is(UNMAP, 0));
            channel.answer(UNMAP, 0);
        }
        assert!(channel.next().is(MAP, 0));
        channel.answer(MAP, 0);
        assert_eq!(served.seen.wait_mapped(1), [(2, true)]);
        served.seen.unmap(3, 0, LEN);
        channel.next();
        channel.answer(UNMAP, 0);
        assert_eq!(served.seen.wait_mapped(1), [(3, true)]);
    }
    assert!(channel.is_quiet());
}

#[test]
fn nothing_is_asked_where_the_late_answer_is_still_to_come() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    channel.next();
    pause(&front);
    resume(&front);
    served.seen.wait_mapped(1);
    served.seen.map(2, LEN / 2, LEN);
    // It has been looked at when this is answered.
    front.enable(0, true);
    assert!(channel.is_quiet());
    channel.answer(MAP, 0);
    assert!(channel.next().is(UNMAP, 0));
    channel.answer(UNMAP, 0);
    assert!(channel.next().is(MAP, LEN / 2));
}

pub fn wait_readable(socket: &UnixStream) {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
}

/// Who has taken a byte does nothing else until the rest has come: no stop can come between them.
#[test]
fn a_request_follows_its_first_byte_when_that_was_taken() {
    let served = Served::showing();
    let (mut front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    wait_readable(&channel.socket);
    assert_eq!(front.request(0, b"e", 1), b"e", "nobody waits for it");
    assert_eq!(ioctl_fionread(&channel.socket).unwrap(), 1);
    assert!(channel.next().is(MAP, 0));
    channel.answer(MAP, 0);
    assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
}

#[test]
fn a_request_that_a_stop_overtakes_is_taken_back() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    for round in 0..3 {
        served.seen.map(1, 0, LEN);
        wait_readable(&channel.socket);
        pause(&front);
        assert_eq!(served.seen.wait_mapped(1), [(1, false)], "{round}");
        let nothing = channel.next();
        assert_eq!((nothing.request, nothing.words.len()), (MAP | 0x100, 0));
        assert!(channel.is_quiet());
        resume(&front);
        served.seen.map(2, 0, LEN);
        assert!(channel.next().is(MAP, 0));
        channel.answer(MAP, 0);
        assert_eq!(served.seen.wait_mapped(1), [(2, true)]);
        served.seen.unmap(3, 0, LEN);
        wait_readable(&channel.socket);
        pause(&front);
        assert_eq!(served.seen.wait_mapped(1), [(3, false)]);
        assert_eq!(channel.next().request, UNMAP | 0x100);
        // It is done all the same, later.
        resume(&front);
        assert!(channel.next().is(UNMAP, 0));
        channel.answer(UNMAP, 0);
    }
    assert!(served.seen.lock().front.maps);
}

#[test]
fn who_hung_up_maps_nothing_for_the_next_driver() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    drop(channel);
    served.seen.map(1, 0, LEN);
    assert_eq!(served.seen.wait_mapped(1), [(1, false)]);
    front.ask(code::GET_CONFIG, &[&[0u32, 4, 0].map(u32::to_ne_bytes).concat()[..], &[0; 4]].concat());
    assert_eq!(served.seen.lock().front, Abilities { maps: false, context_init: true });
}

#[test]
fn an_answer_to_nothing_ends_the_asking_and_nothing_else() {
    type Say = fn(&Channel);
    let wrong: [(&str, Say); 9] = [
        ("to another request", |channel| channel.answer(UNMAP, 0)),
        ("to a request of the front-end's", |channel| channel.answer(code::GET_FEATURES, 0)),
        ("not a reply", |channel| channel.say(MAP, 1, &[0; 8])),
        ("of another version", |channel| channel.say(MAP, 6, &[0; 8])),
        ("too short", |channel| channel.say(MAP, 5, &[0; 20])),
        ("twice", |channel| {
            channel.say(MAP, 5, &[0; 8]);
            channel.say(MAP, 5, &[0; 8]);
        }),
        ("to the fence alone", Channel::fence),
        ("in pieces, and hung up", |channel| {
            (&channel.socket).write_all(&MAP.to_ne_bytes()).unwrap();
            channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
        }),
        ("none, and hung up", |channel| channel.socket.shutdown(std::net::Shutdown::Both).unwrap()),
    ];
    for (name, say) in wrong {
        let served = Served::showing();
        let (mut front, channel) = ready(&served);
        served.seen.map(1, 0, LEN);
        channel.next();
        say(&channel);
        assert_eq!(served.seen.wait_mapped(1), [(1, false)], "{name}");
        // It is known by now, or as soon as it is asked again.
        front.enable(0, true);
        served.seen.map(2, LEN, LEN);
        assert_eq!(served.seen.wait_mapped(1), [(2, false)], "{name}");
        assert_eq!(front.request(0, b"e", 1), b"e", "{name}");
    }
}

#[test]
fn answers_may_come_in_pieces() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    channel.next();
    let answer: Vec<u8> = [MAP, 5, 8, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    for piece in answer.chunks(7) {
        (&channel.socket).write_all(piece).unwrap();
        front.enable(0, true);
    }
    channel.fence();
    assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
}

#[test]
fn as_much_is_shown_as_the_vmm_has_slots_for() {
    const COUNT: u64 = 500;
    let served = Served::showing();
    let (front, channel) = ready(&served);
    assert_eq!(front.ask_word(code::GET_MAX_MEM_SLOTS), 512);
    let file = Arc::new(File::from(memfd(LEN)));
    for index in 0..COUNT {
        served.seen.map_file(index, index * LEN, LEN, file.clone());
    }
    front.enable(0, true);
    for index in 0..COUNT {
        let asked = channel.next();
        assert!(asked.is(MAP, index * LEN), "{asked:?}");
        let fd = asked.fd.unwrap();
        assert_eq!(front.acknowledged(code::ADD_MEM_REG, &shown(index * LEN), &[fd.as_fd()]), 1);
        channel.answer(MAP, 0);
    }
    let answers = served.seen.wait_mapped(COUNT as usize);
    assert!(answers.iter().enumerate().all(|(index, answer)| *answer == (index as u64, true)));
    assert_eq!(served.seen.lock().tables.iter().max(), Some(&1));
}

#[test]
fn news_of_the_configuration_go_between_requests() {
    let served = Served::showing();
    let (_front, channel) = ready(&served);
    served.seen.map(1, 0, LEN);
    assert!(channel.next().is(MAP, 0));
    served.seen.lock().config_changed = true;
    served.seen.wake();
    assert_eq!(channel.next().request, code::BACKEND_CONFIG_CHANGE);
    channel.answer(MAP, 0);
    assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
}

#[test]
fn a_device_knows_what_its_front_end_can_do() {
    let served = Served::showing();
    let front = Front::connect(&served);
    let nothing = Abilities { maps: false, context_init: false };
    for missing in [3, 5, 22] {
        front.accept(BITS & !(1 << missing));
        front.ask(code::GET_SHMEM_CONFIG, &[]);
        assert_eq!(served.seen.lock().front, nothing, "without {missing}");
    }
    drop(front);
    // QEMU's vhost-user-gpu: it negotiates what it does not use.
    let front = Front::connect(&served);
    front.accept(BITS);
    front.ask(code::GET_CONFIG, &[&[0u32, 4, 0].map(u32::to_ne_bytes).concat()[..], &[0; 4]].concat());
    assert_eq!(served.seen.lock().front, nothing);
    front.ask(code::GET_SHMEM_CONFIG, &[]);
    assert_eq!(served.seen.lock().front, Abilities { maps: true, context_init: true });
    drop(front);
    let (_front, _channel) = ready(&served);
    assert!(served.seen.lock().front.maps);
}

#[test]
fn who_cannot_be_asked_is_not() {
    let served = Served::showing();
    let mut front = Front::ready(&served);
    served.seen.map(1, 0, LEN);
    served.seen.unmap(2, 0, LEN);
    assert_eq!(served.seen.wait_mapped(2), [(1, false), (2, false)], "no channel");
    front.ask(code::GET_SHMEM_CONFIG, &[]);
    let channel = Channel::open(&front);
    served.seen.map(3, 0, LEN);
    assert_eq!(served.seen.wait_mapped(1), [(3, false)], "not negotiated");
    assert!(channel.is_quiet());
    assert_eq!(front.request(0, b"e", 1), b"e");
}

#[test]
fn the_next_front_end_has_nothing_of_the_last() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    let file = served.seen.map(1, 0, LEN);
    channel.next();
    channel.answer(MAP, 0);
    served.seen.wait_mapped(1);
    served.seen.map(2, LEN, LEN);
    channel.next();
    drop(front);
    assert_eq!(served.seen.wait_mapped(1), [(2, false)]);
    let (front, next) = ready(&served);
    assert_eq!(front.acknowledged(code::ADD_MEM_REG, &shown(0), &[file.as_fd()]), 0);
    assert_eq!(served.seen.lock().tables.last(), Some(&2), "a file like any other");
    assert!(next.is_quiet());
    served.seen.map(3, 0, LEN);
    assert!(next.next().is(MAP, 0));
}

/// GET_VRING_BASE alone is a stop as well.
#[test]
fn a_stop_without_disabling_is_one() {
    let served = Served::showing();
    let (front, channel) = ready(&served);
    front.ask(code::GET_VRING_BASE, &pair(1, 0));
    served.seen.map(1, 0, LEN);
    assert_eq!(served.seen.wait_mapped(1), [(1, false)]);
    assert!(channel.is_quiet());
}
