//! Between a process and its device: passes on what each says to the other, but for the lies.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use renderer::isolated::wire::{self, FromChild, Request, at, decode};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::lies::{Active, Lie, Next};

/// Descriptors that one message may have.
const FDS: usize = 4;
/// How long we sleep when there is nothing to pass on: nobody wakes us.
const PAUSE: Duration = Duration::from_micros(300);

/// One end of what goes between a process and its device.
pub struct Side {
    /// The rings and the arena.
    pub memory: MmapRegion,
    /// Both bells: a ring too many is heard and means nothing.
    pub bells: Vec<OwnedFd>,
    /// The socket.
    pub socket: OwnedFd,
}

impl Side {
    /// One of the words of [`at`].
    pub fn word(&self, at: usize) -> &AtomicU32 {
        self.memory.get_atomic_ref(at).expect("The words lie inside the memory")
    }

    /// A part of the memory.
    pub fn bytes(&self, at: usize, len: usize) -> VolatileSlice<'_> {
        self.memory.get_slice(at, len).expect("The rings lie inside the memory")
    }

    /// Wakes who sleeps at this end.
    pub fn ring(&self) {
        for bell in &self.bells {
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Says something, whatever becomes of it.
    pub fn say(&self, message: &FromChild, fds: &[BorrowedFd<'_>]) {
        let mut bytes = [0; wire::MESSAGE_BYTES];
        if let Ok(bytes) = postcard::to_slice(message, &mut bytes) {
            let _ = send(&self.socket, bytes, fds);
        }
    }
}

/// What is between.
pub struct Relay {
    device: Side,
    child: Side,
    /// Requests passed on, events taken from the process, events put in for the device: since the beginning.
    requests: u32,
    taken: u32,
    told: u32,
    /// Contexts whose names are lies.
    armed: HashMap<u32, Lie>,
    active: Option<Active>,
}

impl Relay {
    pub fn new(device: Side, child: Side) -> Self {
        let (requests, taken, told) = (0, 0, 0);
        Self { device, child, requests, taken, told, armed: HashMap::new(), active: None }
    }

    /// Until either end is gone.
    pub fn run(mut self) {
        // We look all the time, so the device need not wake anybody.
        while let Ok(Next::GoOn) = self.turn() {
            thread::sleep(PAUSE);
        }
        // Whoever goes on lying does so without us: it is ended from outside.
        let ends = std::mem::take(&mut self.active).is_none_or(|active| active.lie.hangs_up());
        if ends {
            drop(self);
        } else {
            std::mem::forget(self);
        }
    }

    fn turn(&mut self) -> Result<Next> {
        if let Next::Stop = self.pass_requests()? {
            return Ok(Next::Stop);
        }
        self.pass_room();
        self.pass_events()?;
        Ok(Next::GoOn)
    }

    fn pass_requests(&mut self) -> Result<Next> {
        let tail = self.device.word(at::REQUESTS_TAIL).load(Ordering::Acquire);
        // What a request needs was said before it was put in.
        while let Some((bytes, fds)) = receive(&self.device.socket)? {
            send(&self.child.socket, &bytes, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
        }
        let before = self.requests;
        while self.requests != tail {
            let slot = at::REQUESTS + (self.requests % wire::REQUESTS) as usize * wire::REQUEST_BYTES;
            let mut words = wire::RequestWords::default();
            self.device.bytes(slot, wire::REQUEST_BYTES).copy_to(bytemuck::bytes_of_mut(&mut words));
            let request = decode(&words).context("Not a request")?.1;
            let mut payload = vec![0; request.payload().map_or(0, |span| span.len as usize)];
            if let Some(span) = request.payload().filter(|span| span.len > 0) {
                let place = (at::ARENA + span.offset as usize, span.len as usize);
                self.device.bytes(place.0, place.1).copy_to(payload.as_mut_slice());
                self.child.bytes(place.0, place.1).copy_from(payload.as_slice());
            }
            self.child.bytes(slot, wire::REQUEST_BYTES).copy_from(bytemuck::bytes_of(&words));
            self.requests = self.requests.wrapping_add(1);
            if let Next::Stop = self.notice(&request, &payload) {
                return Ok(Next::Stop);
            }
        }
        if self.requests != before {
            self.child.word(at::REQUESTS_TAIL).store(self.requests, Ordering::Release);
            self.child.ring();
        }
        Ok(Next::GoOn)
    }

    /// Who opens a context whose name is a lie is lied for from its first command on.
    fn notice(&mut self, request: &Request, payload: &[u8]) -> Next {
        match *request {
            Request::Open { context, .. } => {
                if let Some(lie) = Lie::named(payload) {
                    self.armed.insert(context.0, lie);
                }
            }
            Request::Close { context } => {
                self.armed.remove(&context.0);
                if let Some(mut active) = self.active.take_if(|active| active.context == context.0) {
                    let events = active.left();
                    self.tell(&events);
                }
            }
            Request::Submit { context, .. } | Request::CreateBlob { context, .. } => {
                if let (None, Some(lie)) = (&self.active, self.armed.get(&context.0)) {
                    eprintln!("lying renderer: {lie:?}");
                    self.active = Some(Active::new(*lie, context.0));
                    if lie.is_the_last() {
                        // That this one was taken is true.
                        self.device.word(at::REQUESTS_HEAD).store(self.requests, Ordering::SeqCst);
                    }
                    return lie.begin(&self.device, self.told);
                }
            }
            _ => {}
        }
        Next::GoOn
    }

    /// The device may have what the process has taken.
    fn pass_room(&self) {
        let head = self.child.word(at::REQUESTS_HEAD).load(Ordering::Acquire);
        let known = self.device.word(at::REQUESTS_HEAD).swap(head, Ordering::AcqRel);
        if head != known && self.device.word(at::DEVICE_WAITS).swap(0, Ordering::SeqCst) != 0 {
            self.device.ring();
        }
    }

    fn pass_events(&mut self) -> Result<()> {
        let tail = self.child.word(at::EVENTS_TAIL).load(Ordering::Acquire);
        while let Some((mut bytes, mut fds)) = receive(&self.child.socket)? {
            if let Some(active) = &mut self.active
                && !fds.is_empty()
            {
                active.offer(&mut bytes, &mut fds)?;
            }
            if !bytes.is_empty() {
                send(&self.device.socket, &bytes, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
            }
        }
        let mut events = Vec::new();
        while self.taken != tail {
            let slot = at::EVENTS + (self.taken % wire::EVENTS) as usize * wire::EVENT_BYTES;
            let mut words = [0u64; 2];
            self.child.bytes(slot, wire::EVENT_BYTES).copy_to(bytemuck::bytes_of_mut(&mut words));
            self.taken = self.taken.wrapping_add(1);
            events.push(words);
        }
        self.child.word(at::EVENTS_HEAD).store(self.taken, Ordering::Release);
        let events = match &mut self.active {
            Some(active) => active.events(events),
            None => events,
        };
        self.tell(&events);
        Ok(())
    }

    /// Puts in events for the device, as far as there is room.
    fn tell(&mut self, events: &[[u64; 2]]) {
        for words in events {
            if self.told.wrapping_sub(self.device.word(at::EVENTS_HEAD).load(Ordering::Acquire)) >= wire::EVENTS {
                break;
            }
            let slot = at::EVENTS + (self.told % wire::EVENTS) as usize * wire::EVENT_BYTES;
            self.device.bytes(slot, wire::EVENT_BYTES).copy_from(bytemuck::bytes_of(words));
            self.told = self.told.wrapping_add(1);
            self.device.word(at::EVENTS_TAIL).store(self.told, Ordering::Release);
        }
        if !events.is_empty() && self.device.word(at::DEVICE_SLEEPS).swap(0, Ordering::SeqCst) != 0 {
            self.device.ring();
        }
    }
}

/// A message as it came, with its files; none when there is none yet.
fn receive(socket: &OwnedFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; wire::MESSAGE_BYTES];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let len = match recvmsg(socket, &mut parts, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    anyhow::ensure!(len > 0, "The other end is gone");
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    bytes.truncate(len);
    Ok(Some((bytes, fds)))
}

/// Sends a message with files.
pub fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
