//! One front-end: each message becomes a call of the function, and an answer.
//!
//! It knows no thread and no socket, so that tests and fuzzing can feed it anything.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::guest_log;
use rustix::io::Errno;
use thiserror::Error;

use super::capabilities::{self, Peer};
use super::function::{
    IrqAction, IrqData, IrqInfo, IrqSet, PciFunction, Refusal, Refused, RegionInfo, Window, irq, region,
};
use super::wire::{
    self, Access, HEADER_BYTES, Header, Kind, MAX_DATA, Message, Request, Writes, command, put_info, put_irq_info,
    put_region_info,
};
use crate::worker::Gone;

/// Flags of a region.
mod region_flag {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const MMAP: u32 = 4;
}

/// Flags of a SET_IRQS.
mod irq_flag {
    pub const NONE: u32 = 1;
    pub const BOOL: u32 = 1 << 1;
    pub const EVENTFD: u32 = 1 << 2;
    pub const MASK: u32 = 1 << 3;
    pub const UNMASK: u32 = 1 << 4;
    pub const TRIGGER: u32 = 1 << 5;
    pub const DATA: u32 = NONE | BOOL | EVENTFD;
}

const fn invalid(why: &'static str) -> Refusal {
    Refusal { errno: Errno::INVAL, why }
}

/// What a front-end that does not speak our protocol is told before it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("It does not speak vfio-user: {0}")]
pub struct Foreign(&'static str);

/// What comes of a message.
#[derive(Debug)]
pub enum Reaction<'a> {
    /// An answer, with the file that belongs to it.
    Reply(&'a [u8], Option<Arc<File>>),
    /// Nobody wants to hear.
    Silent,
    /// An answer, the last one.
    End(&'a [u8], Foreign),
}

/// One front-end.
pub struct Session<'f, F> {
    function: &'f mut F,
    regions: [RegionInfo; region::COUNT],
    irqs: [IrqInfo; irq::COUNT],
    /// What the front-end said of itself, once it did.
    peer: Option<Peer>,
    /// The answer, kept so that none needs memory of its own.
    reply: Vec<u8>,
}

impl<'f, F: PciFunction> Session<'f, F> {
    /// A front-end that has said nothing.
    pub fn new(function: &'f mut F) -> Self {
        let regions = std::array::from_fn(|index| function.region(index));
        let irqs = std::array::from_fn(|index| function.irq(index));
        Self { function, regions, irqs, peer: None, reply: Vec::new() }
    }

    /// What the front-end said of itself; `None` before it did.
    pub fn peer(&self) -> Option<Peer> {
        self.peer
    }

    /// The function.
    pub fn function(&mut self) -> &mut F {
        self.function
    }

    /// Obeys a message. An error ends everything.
    pub fn handle(&mut self, message: Message<'_>) -> Result<Reaction<'_>, Gone> {
        let Message { header, payload, fds } = message;
        let Kind::Request { no_reply } = header.kind else {
            // What was asked of the front-end is somebody else's.
            return Ok(Reaction::Silent);
        };
        self.reply.clear();
        self.reply.resize(HEADER_BYTES, 0);
        let was_foreign = self.peer.is_none();
        let (kind, file) = match self.obey(header.command, payload, fds) {
            Ok(file) => (Kind::Reply, file),
            Err(Refused::Gone(gone)) => return Err(gone),
            Err(Refused::Refusal(refusal)) => {
                guest_log!(warn, "Front-end was refused command {}: {}", header.command, refusal.why);
                self.reply.truncate(HEADER_BYTES);
                let kind = Kind::Error(refusal.errno.raw_os_error().cast_unsigned());
                if was_foreign {
                    return Ok(Reaction::End(self.finish(header, kind), Foreign(refusal.why)));
                }
                (kind, None)
            }
        };
        if no_reply {
            return Ok(Reaction::Silent);
        }
        Ok(Reaction::Reply(self.finish(header, kind), file))
    }

    fn finish(&mut self, header: Header, kind: Kind) -> &[u8] {
        let size = self.reply.len() - HEADER_BYTES;
        self.reply[..HEADER_BYTES].copy_from_slice(&Header { size, kind, ..header }.to_bytes());
        &self.reply
    }

    /// Carries a command out and appends its answer to the reply; returns the file that goes with it.
    fn obey(&mut self, code: u16, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Option<Arc<File>>, Refused> {
        if self.peer.is_none() && code != command::VERSION {
            return Err(invalid("its first message is not VERSION").into());
        }
        match Request::parse(code, payload)? {
            Request::Version { major, capabilities, .. } => self.version(major, capabilities)?,
            Request::DmaMap(window) => self.map(window, fds)?,
            Request::DmaUnmap(range) => {
                self.function.unmap(range)?;
                self.reply.extend(payload);
            }
            Request::GetInfo => {
                self.function.ready()?;
                put_info(&mut self.reply, region::COUNT, irq::COUNT);
            }
            Request::GetRegionInfo { room, index } => return Ok(self.region_info(room, index)?),
            Request::GetIrqInfo { index } => {
                let info = self.irqs.get(index as usize).ok_or(invalid("no such kind of interrupt"))?;
                put_irq_info(&mut self.reply, info.flags, index, info.count);
            }
            Request::SetIrqs { flags, index, start, count, data } => {
                let set = self.irq_set(flags, index, start..start.saturating_add(count), data, fds)?;
                self.function.set_irqs(set)?;
            }
            Request::RegionRead(access) => self.read(access)?,
            Request::RegionWrite(access, data) => {
                self.write(access, data)?;
                access.encode(&mut self.reply);
            }
            Request::Reset => self.function.reset()?,
            Request::WriteMulti(writes) => self.write_all(writes)?,
        }
        Ok(None)
    }

    fn version(&mut self, major: u16, capabilities: &[u8]) -> Result<(), Refusal> {
        if self.peer.is_some() {
            return Err(invalid("a second VERSION"));
        }
        if major != 0 {
            return Err(invalid("another major version than 0"));
        }
        self.peer = Some(capabilities::parse(capabilities).ok_or(invalid("its capabilities are not JSON"))?);
        // Version 0.0: a front-end of a newer minor version speaks it too.
        self.reply.extend([0; 4]);
        self.reply.extend(capabilities::OURS.to_bytes_with_nul());
        Ok(())
    }

    fn map(&mut self, window: Window, mut fds: Vec<OwnedFd>) -> Result<(), Refused> {
        let file = fds.pop();
        if !fds.is_empty() {
            return Err(invalid("a window with several files").into());
        }
        self.function.map(window, file)
    }

    fn region_info(&mut self, room: u32, index: u32) -> Result<Option<Arc<File>>, Refusal> {
        let info = self.regions.get(index as usize).ok_or(invalid("no such region"))?;
        let mut flags = 0;
        for (there, flag) in [
            (info.readable, region_flag::READ),
            (info.writable, region_flag::WRITE),
            (info.mapping.is_some(), region_flag::MMAP),
        ] {
            flags |= if there { flag } else { 0 };
        }
        let areas = info.mapping.as_ref().map_or(&[][..], |mapping| &mapping.areas);
        put_region_info(&mut self.reply, room, flags, index, info.size, areas);
        Ok(info.mapping.as_ref().map(|mapping| mapping.file.clone()))
    }

    fn irq_set(
        &self,
        flags: u32,
        index: u32,
        vectors: std::ops::Range<u32>,
        data: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<IrqSet, Refusal> {
        let info = self.irqs.get(index as usize).ok_or(invalid("no such kind of interrupt"))?;
        let (start, count) = (vectors.start, vectors.end - vectors.start);
        if vectors.end > info.count {
            return Err(invalid("vectors beyond the last one"));
        }
        let action = match flags & !irq_flag::DATA {
            irq_flag::MASK => IrqAction::Mask,
            irq_flag::UNMASK => IrqAction::Unmask,
            irq_flag::TRIGGER => IrqAction::Trigger,
            _ => return Err(invalid("not one action")),
        };
        let by = match flags & irq_flag::DATA {
            irq_flag::BOOL => return Err(Refusal { errno: Errno::NOTSUP, why: "interrupts by a row of bytes" }),
            irq_flag::NONE if fds.is_empty() => IrqData::None,
            irq_flag::EVENTFD if fds.is_empty() || fds.len() == count as usize => IrqData::Eventfds(fds),
            irq_flag::NONE | irq_flag::EVENTFD => return Err(invalid("eventfds and vectors differ in number")),
            _ => return Err(invalid("not one kind of data")),
        };
        if !data.is_empty() {
            return Err(invalid("bytes that mean nothing"));
        }
        Ok(IrqSet { index: index as usize, start, count, action, data: by })
    }

    /// The region of an access that lies inside it, and what of it the guest may do.
    fn place(&self, access: Access) -> Result<(usize, &RegionInfo), Refusal> {
        let index = access.region as usize;
        let info = self.regions.get(index).ok_or(invalid("no such region"))?;
        let end = access.offset.checked_add(access.count.into());
        if access.count == 0 || access.count as usize > MAX_DATA || end.is_none_or(|end| end > info.size) {
            return Err(invalid("an access that is not inside its region"));
        }
        Ok((index, info))
    }

    fn read(&mut self, access: Access) -> Result<(), Refused> {
        let (index, info) = self.place(access)?;
        let readable = info.readable;
        access.encode(&mut self.reply);
        let head = self.reply.len();
        self.reply.resize(head + access.count as usize, 0);
        if readable {
            self.function.read(index, access.offset, &mut self.reply[head..])?;
        }
        Ok(())
    }

    /// What cannot be written is left as it is: a guest may try.
    fn write(&mut self, access: Access, data: &[u8]) -> Result<(), Refused> {
        let (index, info) = self.place(access)?;
        if info.writable {
            self.function.write(index, access.offset, data)?;
        }
        Ok(())
    }

    fn write_all(&mut self, writes: Writes<'_>) -> Result<(), Refused> {
        let mut done = 0u64;
        for (access, data) in writes {
            let data = data.get(..access.count as usize).ok_or(invalid("a small write that is large"))?;
            self.write(access, data)?;
            done += 1;
        }
        self.reply.extend(done.to_le_bytes());
        Ok(())
    }
}

/// A session in the words of the wire: for whoever has no socket either.
impl<F: PciFunction> Session<'_, F> {
    /// Parses and obeys one whole message without descriptors.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Reaction<'_>>, Gone> {
        let Some((header, payload)) = bytes.split_first_chunk() else { return Ok(None) };
        match wire::Header::parse(header) {
            Ok(header) if header.size == payload.len() => {
                self.handle(Message { header, payload, fds: Vec::new() }).map(Some)
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
