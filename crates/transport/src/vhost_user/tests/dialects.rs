//! Memory of the host in the guest's window, for front-ends that are not QEMU: crosvm as it is, and as it was.
//!
//! crosvm maps while it handles a request, keeps its mappings when its guest is reset, and ends its VM after a request that it
//! does not know or cannot carry out.

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use device::Front as Abilities;
use rustix::io::ioctl_fionread;

use super::super::message::code;
use super::front::{Front, Served, memfd, pair};
use super::window::{Asked, Channel, LEN, same_file, wait_readable};

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crosvm {
    /// Since August 2026: words of the specification.
    Plain,
    /// July 2024 to December 2025.
    Early,
}

use Crosvm::{Early, Plain};

impl Crosvm {
    /// The protocol features that it acknowledges.
    fn features(self) -> u64 {
        match self {
            Plain => 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 22,
            Early => 1 | 1 << 5 | 1 << 9 | 1 << 31,
        }
    }

    fn map(self) -> u32 {
        if self == Plain { 9 } else { 1000 }
    }

    fn unmap(self) -> u32 {
        if self == Plain { 10 } else { 1001 }
    }

    fn is_map(self, asked: &Asked, at: u64) -> bool {
        let words = match self {
            Plain => vec![1, 0, at, LEN, 1],
            // Readable, writable; region 1.
            Early => vec![u64::from_ne_bytes([3, 1, 0, 0, 0, 0, 0, 0]), at, 0, LEN],
        };
        asked.request == self.map() && asked.flags == self.flags() && asked.words == words
    }

    fn is_unmap(self, asked: &Asked, at: u64) -> bool {
        let words = if self == Plain { vec![1, 0, at, LEN, 0] } else { vec![1, at, LEN] };
        asked.request == self.unmap() && asked.flags == self.flags() && asked.words == words
    }

    /// It answers requests of its own words in any case.
    fn flags(self) -> u32 {
        if self == Plain { 1 | 8 } else { 1 }
    }

    /// Connected as it does it: it asks for the regions while it makes the guest's card. Memory comes in one table, and no
    /// message of the rings is acknowledged.
    fn ready(self, served: &Served) -> (Front, Channel) {
        let mut front = Front::connect(served);
        front.send(code::SET_OWNER, 0, &[], &[]);
        front.accept(self.features());
        let (ours, theirs) = UnixStream::pair().unwrap();
        front.send(code::SET_BACKEND_REQ_FD, 0, &[], &[theirs.as_fd()]);
        self.regions(&front);
        front.set_up();
        enable(&mut front);
        (front, Channel { socket: ours, fenced: false })
    }

    fn regions(self, front: &Front) -> Vec<u8> {
        front.ask(if self == Plain { code::GET_SHMEM_CONFIG } else { code::GET_SHARED_MEMORY_REGIONS }, &[])
    }
}

/// In force when this returns: a request went all the way.
fn enable(front: &mut Front) {
    for queue in 0..2 {
        front.send(code::SET_VRING_ENABLE, 0, &pair(queue, 1), &[]);
    }
    assert_eq!(front.request(0, b"e", 1), b"e");
}

/// As it stops its guest, and the device when that is reset.
fn pause(front: &Front) -> [u32; 2] {
    [0, 1].map(|queue| {
        front.send(code::SET_VRING_ENABLE, 0, &pair(queue, 0), &[]);
        front.stop(queue)
    })
}

fn resume(front: &mut Front, bases: [u32; 2]) {
    front.share_memory();
    front.start(0, bases[0]);
    front.start(1, bases[1]);
    enable(front);
}

#[test]
fn crosvm_hears_of_one_region_the_window() {
    let served = Served::showing();
    let words = |bytes: &[u8]| -> Vec<u64> {
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
    };
    let (front, _channel) = Early.ready(&served);
    assert_eq!(words(&Early.regions(&front)), [1, 1, 1 << 30]);
    assert!(served.seen.lock().front.maps);
    drop(front);
    let (front, _channel) = Plain.ready(&served);
    let config = words(&Plain.regions(&front));
    let regions: Vec<_> = config[1..].iter().enumerate().filter(|(_, len)| **len > 0).collect();
    assert_eq!(regions, [(1, &(1 << 30))]);
}

#[test]
fn crosvm_is_asked_in_its_own_words_and_believed() {
    for crosvm in [Plain, Early] {
        let served = Served::showing();
        let (_front, channel) = crosvm.ready(&served);
        let file = served.seen.map(1, 0, LEN);
        let map = channel.next();
        assert!(crosvm.is_map(&map, 0), "{map:?}");
        assert!(same_file(&map.fd.unwrap(), &file));
        channel.answer(crosvm.map(), 0);
        // Nothing of it comes back as memory, and nobody waits for that.
        assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
        served.seen.map(2, LEN, LEN);
        served.seen.unmap(3, 0, LEN);
        assert!(crosvm.is_map(&channel.next(), LEN));
        assert!(channel.is_quiet(), "one at a time");
        channel.answer(crosvm.map(), 0);
        let unmap = channel.next();
        assert!(crosvm.is_unmap(&unmap, 0) && unmap.fd.is_none(), "{unmap:?}");
        channel.answer(crosvm.unmap(), 0);
        assert_eq!(served.seen.wait_mapped(2), [(2, true), (3, true)]);
    }
}

/// Whoever has read the first byte of QEMU's would wait for the rest.
#[test]
fn crosvm_gets_a_request_in_one_piece() {
    for crosvm in [Plain, Early] {
        let served = Served::showing();
        let (_front, channel) = crosvm.ready(&served);
        served.seen.map(1, 0, LEN);
        wait_readable(&channel.socket);
        assert_eq!(ioctl_fionread(&channel.socket).unwrap(), if crosvm == Plain { 52 } else { 44 });
    }
}

/// Its VM would end.
#[test]
fn crosvm_is_never_sent_what_it_does_not_know() {
    for crosvm in [Plain, Early] {
        let served = Served::showing();
        let (mut front, channel) = crosvm.ready(&served);
        for round in 0..3 {
            // It does not read while its guest is stopped.
            served.seen.map(1, 0, LEN);
            wait_readable(&channel.socket);
            let bases = pause(&front);
            assert_eq!(served.seen.wait_mapped(1), [(1, false)], "{round}");
            served.seen.map(2, LEN, LEN);
            assert_eq!(served.seen.wait_mapped(1), [(2, false)], "nothing is sent then");
            resume(&mut front, bases);
            // It goes on where it was; what succeeds late is undone.
            assert!(crosvm.is_map(&channel.next(), 0));
            channel.answer(crosvm.map(), 0);
            assert!(crosvm.is_unmap(&channel.next(), 0));
            channel.answer(crosvm.unmap(), 0);
            served.seen.map(3, 0, LEN);
            assert!(crosvm.is_map(&channel.next(), 0));
            channel.answer(crosvm.map(), 0);
            assert_eq!(served.seen.wait_mapped(1), [(3, true)]);
            served.seen.unmap(4, 0, LEN);
            assert!(crosvm.is_unmap(&channel.next(), 0));
            channel.answer(crosvm.unmap(), 0);
            assert_eq!(served.seen.wait_mapped(1), [(4, true)]);
        }
        assert!(channel.is_quiet());
    }
}

/// Its VM would end.
#[test]
fn crosvm_is_never_to_unmap_what_it_has_not_mapped() {
    for crosvm in [Plain, Early] {
        let served = Served::showing();
        let (mut front, channel) = crosvm.ready(&served);
        // The second map waits behind the first, and is given up with its unmapping behind it.
        served.seen.map(1, 0, LEN);
        assert!(crosvm.is_map(&channel.next(), 0));
        served.seen.map(2, LEN, LEN);
        served.seen.unmap(3, LEN, LEN);
        // Behind what was asked for: seen by the device as a whole.
        assert_eq!(front.request(0, b"e", 1), b"e");
        let bases = pause(&front);
        assert_eq!(served.seen.wait_mapped(3), [(1, false), (2, false), (3, false)]);
        resume(&mut front, bases);
        channel.answer(crosvm.map(), 22);
        served.seen.map(4, 2 * LEN, LEN);
        let next = channel.next();
        assert!(crosvm.is_map(&next, 2 * LEN), "{next:?}");
        // What it would not map is not there either.
        channel.answer(crosvm.map(), 22);
        assert_eq!(served.seen.wait_mapped(1), [(4, false)]);
        served.seen.unmap(5, 2 * LEN, LEN);
        assert_eq!(served.seen.wait_mapped(1), [(5, false)]);
        assert_eq!(front.request(0, b"e", 1), b"e");
        assert!(channel.is_quiet());
    }
}

#[test]
fn crosvm_that_answers_what_it_was_not_asked_is_not_asked_again() {
    type Say = fn(&Channel, Crosvm);
    let wrong: [(&str, Say); 7] = [
        ("to the other request", |channel, crosvm| channel.answer(crosvm.unmap(), 0)),
        ("in the other dialect", |channel, crosvm| channel.answer(if crosvm == Plain { 1000 } else { 9 }, 0)),
        ("not a reply", |channel, crosvm| channel.say(crosvm.map(), 1, &[0; 8])),
        ("too long", |channel, crosvm| channel.say(crosvm.map(), 5, &[0; 16])),
        ("twice", |channel, crosvm| {
            channel.answer(crosvm.map(), 1);
            channel.answer(crosvm.map(), 1);
        }),
        ("in pieces, and hung up", |channel, crosvm| {
            (&channel.socket).write_all(&crosvm.map().to_ne_bytes()).unwrap();
            channel.socket.shutdown(Shutdown::Both).unwrap();
        }),
        ("none, and hung up", |channel, _| channel.socket.shutdown(Shutdown::Both).unwrap()),
    ];
    for crosvm in [Plain, Early] {
        for (name, say) in wrong {
            let served = Served::showing();
            let (mut front, channel) = crosvm.ready(&served);
            served.seen.map(1, 0, LEN);
            channel.next();
            say(&channel, crosvm);
            assert_eq!(served.seen.wait_mapped(1), [(1, false)], "{crosvm:?}: {name}");
            // It is known by now, or as soon as it is asked again.
            assert_eq!(front.request(0, b"e", 1), b"e", "{crosvm:?}: {name}");
            served.seen.map(2, LEN, LEN);
            assert_eq!(served.seen.wait_mapped(1), [(2, false)], "{crosvm:?}: {name}");
            front.ask(code::GET_CONFIG, &[&[0u32, 4, 0].map(u32::to_ne_bytes).concat()[..], &[0; 4]].concat());
            let front = served.seen.lock().front;
            assert_eq!(front, Abilities { maps: false, context_init: true }, "{crosvm:?}: {name}");
        }
    }
}

#[test]
fn crosvm_that_goes_leaves_nothing_to_the_next_front_end() {
    let served = Served::showing();
    for crosvm in [Plain, Early, Plain] {
        let (front, channel) = crosvm.ready(&served);
        served.seen.map(1, 0, LEN);
        assert!(crosvm.is_map(&channel.next(), 0));
        channel.answer(crosvm.map(), 0);
        assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
        served.seen.map(2, LEN, LEN);
        assert!(crosvm.is_map(&channel.next(), LEN));
        drop((front, channel));
        assert_eq!(served.seen.wait_mapped(1), [(2, false)]);
    }
}

#[test]
fn as_much_is_shown_as_the_device_asks_for() {
    const COUNT: u64 = 2000;
    for crosvm in [Plain, Early] {
        let served = Served::showing();
        let (_front, channel) = crosvm.ready(&served);
        let file = Arc::new(File::from(memfd(LEN)));
        for index in 0..COUNT {
            served.seen.map_file(index, index * LEN, LEN, file.clone());
        }
        for index in 0..COUNT {
            let asked = channel.next();
            assert!(crosvm.is_map(&asked, index * LEN), "{asked:?}");
            channel.answer(crosvm.map(), 0);
        }
        let answers = served.seen.wait_mapped(COUNT as usize);
        assert!(answers.iter().enumerate().all(|(index, answer)| *answer == (index as u64, true)));
    }
}

/// It may change its mind about its features at any time: an answer is one to what was sent.
#[test]
fn an_answer_is_in_the_words_of_its_request() {
    let served = Served::showing();
    let (mut front, channel) = Early.ready(&served);
    served.seen.map(1, 0, LEN);
    assert!(Early.is_map(&channel.next(), 0));
    front.accept(Plain.features());
    assert_eq!(front.request(0, b"e", 1), b"e");
    channel.answer(Early.map(), 0);
    assert_eq!(served.seen.wait_mapped(1), [(1, true)]);
    served.seen.map(2, LEN, LEN);
    assert!(Plain.is_map(&channel.next(), LEN));
    channel.answer(Plain.map(), 0);
    assert_eq!(served.seen.wait_mapped(1), [(2, true)]);
}
