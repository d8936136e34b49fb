//! A VMM that writes its own bytes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use device::{Memory, Region};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use vm_memory::{FileOffset, MmapRegion};

/// Commands.
pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_INFO: u16 = 4;
pub const GET_REGION_INFO: u16 = 5;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const DMA_READ: u16 = 11;
pub const DMA_WRITE: u16 = 12;
pub const RESET: u16 = 13;
pub const WRITE_MULTI: u16 = 15;

/// Flags of a header.
pub const REPLY: u32 = 1;
pub const NO_REPLY: u32 = 0x10;
pub const ERROR: u32 = 0x20;

/// How much memory a guest has.
pub const MEMORY: u64 = 0x1000_0000;
/// What QEMU says of itself.
pub const CAPABILITIES: &str = r#"{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}"#;

/// Nothing takes so long, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A message that came.
#[derive(Debug)]
pub struct Message {
    pub id: u16,
    pub command: u16,
    pub flags: u32,
    pub errno: u32,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// How the VMM answers when it is asked for memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// With what is there.
    #[default]
    Honest,
    /// With an error.
    Refusing,
    /// With fewer bytes than were asked for.
    Short,
    /// With more.
    Long,
    /// With another request's number.
    Mistaken,
    /// Not at all.
    Silent,
}

pub struct Vmm {
    pub socket: UnixStream,
    next_id: Cell<u16>,
    pub file: OwnedFd,
    pub memory: Memory,
    /// The eventfd of each interrupt, by kind and vector.
    pub interrupts: BTreeMap<(u32, u32), OwnedFd>,
    pub manner: Cell<Manner>,
    /// Requests of the device for memory that were seen: command, address, count.
    pub asked: RefCell<Vec<(u16, u64, u64)>>,
}

impl Vmm {
    pub fn over(socket: UnixStream) -> Self {
        let file = memfd(MEMORY);
        let mapped = FileOffset::new(file.try_clone().unwrap().into(), 0);
        let mapping = Arc::new(MmapRegion::from_file(mapped, MEMORY as usize).unwrap());
        let region = Region { start: 0, len: MEMORY, mapping, offset: 0, usable: true };
        let memory = Memory::new(vec![region]).unwrap();
        let (next_id, interrupts, manner, asked) = Default::default();
        Self { socket, next_id, file, memory, interrupts, manner, asked }
    }

    // Words.

    /// Whatever bytes; a server that has hung up does not mind.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let mut left = bytes;
        while !left.is_empty() {
            match sendmsg(&self.socket, &[IoSlice::new(left)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => left = &left[sent..],
                Err(_) => return,
            }
            control = SendAncillaryBuffer::default();
        }
    }

    pub fn send(&self, command: u16, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> u16 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        self.send_raw(&message(id, command, flags, payload), fds);
        id
    }

    /// `None` when the server hung up.
    pub fn receive(&self) -> Option<Message> {
        let mut head = [0; 16];
        let mut fds = Vec::new();
        let mut have = 0;
        while have < head.len() {
            self.wait();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut head[have..])];
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) if received.bytes > 0 => have += received.bytes,
                _ if have == 0 => return None,
                _ => panic!("half a header"),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
        }
        let word = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().unwrap());
        let mut payload = vec![0; (word(4) as usize).checked_sub(16).expect("a size")];
        (&self.socket).read_exact(&mut payload).unwrap();
        let (id, command) = (word(0) as u16, (word(0) >> 16) as u16);
        Some(Message { id, command, flags: word(8), errno: word(12), payload, fds })
    }

    fn wait(&self) {
        let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)).unwrap();
        assert_ne!(ready, 0, "no word from the server");
    }

    /// The reply to a request; the device's own requests before it are answered. `None` when the server hung up.
    pub fn reply(&self, id: u16) -> Option<Message> {
        loop {
            let message = self.receive()?;
            if message.flags & 0xf == REPLY {
                assert_eq!(message.id, id, "the reply to something else: {message:x?}");
                return Some(message);
            }
            self.answer(&message);
        }
    }

    /// Answers whatever the device asks while `done` is not so. Returns false when the server hung up.
    pub fn serve_until(&self, mut done: impl FnMut() -> bool) -> bool {
        let limit = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let mut waits = 0;
        while !done() {
            if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)).unwrap() == 0 {
                waits += 1;
                assert!(waits < 40_000, "it never came");
                continue;
            }
            match self.receive() {
                Some(message) => self.answer(&message),
                None => return false,
            }
        }
        true
    }

    fn answer(&self, message: &Message) {
        assert_eq!(message.flags & 0xf, 0, "a reply to nothing: {message:x?}");
        let [address, count] = [0, 8].map(|at| u64::from_le_bytes(*message.payload[at..].first_chunk().unwrap()));
        self.asked.borrow_mut().push((message.command, address, count));
        assert!(count <= 65536, "QEMU answers no more than 64 KiB");
        let mut id = message.id;
        let mut count = count as usize;
        match self.manner.get() {
            Manner::Honest => {}
            Manner::Silent => return,
            Manner::Refusing => {
                let head = [u32::from(id) | u32::from(message.command) << 16, 16, REPLY | ERROR, 19];
                return self.send_raw(&head.map(u32::to_le_bytes).concat(), &[]);
            }
            Manner::Short => count /= 2,
            Manner::Long => count += 64,
            Manner::Mistaken => id = id.wrapping_add(0x1000),
        }
        let mut payload = message.payload[..16].to_vec();
        match message.command {
            DMA_READ => {
                let at = payload.len();
                payload.resize(at + count, 0);
                if let Some(slice) = self.memory.slice(address, count as u64) {
                    slice.copy_to(&mut payload[at..]);
                }
            }
            DMA_WRITE => {
                let data = &message.payload[16..];
                if let Some(slice) = self.memory.slice(address, data.len() as u64) {
                    slice.copy_from(data);
                }
            }
            command => panic!("the device said {command}"),
        }
        self.send_raw(&self::message(id, message.command, REPLY, &payload), &[]);
    }

    /// Asks and returns the reply's payload, or its error.
    pub fn ask(&self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>, u32> {
        let id = self.send(command, 0, payload, fds);
        let Some(reply) = self.reply(id) else { panic!("the server hung up at {command}") };
        assert_eq!(reply.command, command);
        if reply.flags & ERROR == 0 {
            assert_eq!((reply.flags, reply.errno), (REPLY, 0));
            return Ok(reply.payload);
        }
        assert!(reply.payload.is_empty() && reply.errno != 0, "{reply:x?}");
        Err(reply.errno)
    }

    /// The server hangs up, after whatever words.
    pub fn is_disconnected(&self) -> bool {
        let mut rest = Vec::new();
        self.wait();
        let _ = self.socket.set_read_timeout(Some(PATIENCE));
        !matches!((&self.socket).read_to_end(&mut rest), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    // What a VMM says.

    pub fn version(&self) -> Vec<u8> {
        let payload = [&[0; 4], CAPABILITIES.as_bytes(), &[0]].concat();
        self.ask(VERSION, &payload, &[]).unwrap()
    }

    pub fn map(&self, iova: u64, size: u64, writable: bool, offset: Option<u64>) -> Result<(), u32> {
        let file = offset.map(|_| self.file.as_fd());
        let flags = if writable { 3 } else { 1 };
        self.ask(DMA_MAP, &map(flags, offset.unwrap_or(0), iova, size), file.as_slice()).map(|reply| {
            assert!(reply.is_empty() || reply.len() == 32);
        })
    }

    pub fn unmap(&self, iova: u64, size: u64) -> Result<(), u32> {
        let payload = unmap(0, iova, size);
        self.ask(DMA_UNMAP, &payload, &[]).map(|reply| assert_eq!(reply, payload))
    }

    pub fn info(&self) -> Result<Vec<u32>, u32> {
        self.ask(GET_INFO, &words(&[16, 0, 0, 0]), &[]).map(|reply| to_words(&reply))
    }

    /// Flags and size.
    pub fn region(&self, index: u32) -> (u32, u64) {
        let id = self.send(GET_REGION_INFO, 0, &[words(&[32, 0, index, 0]), vec![0; 16]].concat(), &[]);
        let reply = self.reply(id).unwrap();
        assert_eq!((reply.flags, reply.payload.len()), (REPLY, 32), "region {index}");
        let words = to_words(&reply.payload);
        assert_eq!((words[0], words[2]), (32, index));
        assert_eq!(reply.fds.len(), usize::from(words[1] & 4 != 0));
        (words[1], u64::from(words[4]) | u64::from(words[5]) << 32)
    }

    /// Flags and count.
    pub fn irq(&self, index: u32) -> (u32, u32) {
        let words = to_words(&self.ask(GET_IRQ_INFO, &words(&[16, 0, index, 0]), &[]).unwrap());
        assert_eq!((words.len(), words[0], words[2]), (4, 16, index));
        (words[1], words[3])
    }

    /// With so many new eventfds.
    pub fn set_irqs(&mut self, flags: u32, index: u32, start: u32, count: u32, fds: u32) -> Result<(), u32> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let new: Vec<OwnedFd> = (0..fds).map(|_| event()).collect();
        let borrowed: Vec<_> = new.iter().map(AsFd::as_fd).collect();
        let reply = self.ask(SET_IRQS, &words(&[20, flags, index, start, count]), &borrowed)?;
        assert!(reply.is_empty());
        drop(borrowed);
        if flags == 0x24 {
            self.interrupts.extend(new.into_iter().zip(start..).map(|(fd, vector)| ((index, vector), fd)));
        }
        Ok(())
    }

    pub fn read(&self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let head = access(region, offset, count);
        let reply = self.ask(REGION_READ, &head, &[]).unwrap();
        assert_eq!(reply[..16], head);
        assert_eq!(reply.len(), 16 + count as usize);
        reply[16..].to_vec()
    }

    pub fn read_word(&self, region: u32, offset: u64, width: u32) -> u64 {
        let bytes = self.read(region, offset, width);
        bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    pub fn write(&self, region: u32, offset: u64, bytes: &[u8]) {
        let head = access(region, offset, bytes.len() as u32);
        assert_eq!(self.ask(REGION_WRITE, &[&head, bytes].concat(), &[]).unwrap(), head);
    }

    pub fn write_word(&self, region: u32, offset: u64, width: u32, value: u64) {
        self.write(region, offset, &value.to_le_bytes()[..width as usize]);
    }

    /// A write without a reply.
    pub fn post(&self, region: u32, offset: u64, bytes: &[u8]) {
        let head = access(region, offset, bytes.len() as u32);
        self.send(REGION_WRITE, NO_REPLY, &[&head, bytes].concat(), &[]);
    }

    pub fn reset(&self) {
        assert!(self.ask(RESET, &[], &[]).unwrap().is_empty());
    }

    /// Sleeps until there is an interrupt. Returns how many there were since the last call.
    pub fn wait_interrupt(&self, index: u32, vector: u32) -> u64 {
        let fd = self.interrupts.get(&(index, vector)).expect("an eventfd");
        assert!(self.serve_until(|| {
            let limit = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap() == 1
        }));
        self.interrupts(index, vector)
    }

    /// Interrupts since the last call.
    pub fn interrupts(&self, index: u32, vector: u32) -> u64 {
        let mut counter = [0; 8];
        match rustix::io::read(self.interrupts.get(&(index, vector)).expect("an eventfd"), &mut counter) {
            Ok(_) => u64::from_ne_bytes(counter),
            Err(_) => 0,
        }
    }

    // The guest's memory.

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.slice(address, bytes.len() as u64).unwrap().copy_from(bytes);
    }

    pub fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.slice(address, len as u64).unwrap().copy_to(&mut bytes);
        bytes
    }
}

pub fn memfd(len: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

pub fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let head = [u32::from(id) | u32::from(command) << 16, 16 + payload.len() as u32, flags, 0];
    [&head.map(u32::to_le_bytes).concat(), payload].concat()
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn to_words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(*word.first_chunk().unwrap())).collect()
}

pub fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// DMA_MAP's payload.
pub fn map(flags: u32, offset: u64, iova: u64, size: u64) -> Vec<u8> {
    [words(&[32, flags]), longs(&[offset, iova, size])].concat()
}

/// DMA_UNMAP's payload.
pub fn unmap(flags: u32, iova: u64, size: u64) -> Vec<u8> {
    [words(&[24, flags]), longs(&[iova, size])].concat()
}

/// The head of a region access.
pub fn access(region: u32, offset: u64, count: u32) -> Vec<u8> {
    [longs(&[offset]), words(&[region, count])].concat()
}
