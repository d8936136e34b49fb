//! The page that a manager shares with one device.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::Error;

/// Bytes of the page.
const BYTES: usize = 4096;

/// What each side may write begins on a cache line of its own.
mod at {
    /// Of the manager: what is granted.
    pub const GRANT: usize = 0x00;
    /// Even, and another number each time that the two words below have changed; odd while they do.
    pub const CHANGES: usize = 0x04;
    /// Nanoseconds for which processes were stopped, the stop under way left out.
    pub const STOPPED: usize = 0x08;
    /// When the stop under way began (`CLOCK_MONOTONIC`, nanoseconds); 0 is none.
    pub const SINCE: usize = 0x10;
    /// What the device is to ring for: a [`Call`](super::Call) in the lowest two bits, above them a number that is another one
    /// for each ring that is wanted.
    pub const CALL: usize = 0x18;
    /// Of the device: requests that its processes have not done.
    pub const WAITING: usize = 0x80;
    /// Requests that they have done, modulo 2^32.
    pub const DONE: usize = 0x84;
    /// The context of the last command.
    pub const CONTEXT: usize = 0x88;
    /// The command, three words of text.
    pub const COMMAND: [usize; 3] = [0x90, 0x98, 0xa0];
}

/// How often a reader looks again at words that are being changed: their writer needs nanoseconds, unless it was stopped itself.
const LOOKS: usize = 64;

/// What a device's 3D may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Grant {
    /// Whatever it wants; its processes may be stopped from outside all the same.
    #[default]
    Open = 0,
    /// What is under way goes on, nothing new is begun.
    Gated = 1,
    /// It is over: work is answered with errors until the manager says otherwise.
    Held = 2,
}

/// What a device is to ring for, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// Nothing: nobody would act on it.
    #[default]
    Nothing = 0,
    /// Something waits to be done.
    Work = 1,
    /// Its gate is shut, and nothing that it has begun is left to be done.
    Rest = 2,
}

/// A call as it stands in the page. It is answered once: who has rung knows which it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted(u32);

impl Wanted {
    /// Another one than this, for something.
    pub fn next(self, call: Call) -> Wanted {
        Wanted((self.0 | 3).wrapping_add(1) | call as u32)
    }

    /// What for. A number that means nothing means [`Call::Nothing`].
    pub fn call(self) -> Call {
        match self.0 & 3 {
            1 => Call::Work,
            2 => Call::Rest,
            _ => Call::Nothing,
        }
    }
}

/// What a device says of its 3D. Nothing is decided by it that a lie could turn against others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that its processes have not done; while [`Grant::Gated`], of those that they have begun.
    pub waiting: u32,
    /// Requests that they have done, modulo 2^32.
    pub done: u32,
    /// The last command.
    pub command: Name,
    /// Its context.
    pub context: u32,
}

/// The name of a command, as in `SUBMIT_3D`; what is longer than 24 bytes is cut off.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Name([u64; 3]);

impl Name {
    /// As it is written.
    pub fn new(text: &str) -> Name {
        let mut bytes = [0; 24];
        let length = text.len().min(bytes.len());
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        let (words, _) = bytes.as_chunks::<8>();
        Name([words[0], words[1], words[2]].map(u64::from_le_bytes))
    }
}

/// Whatever a device wrote there, it is a word for a log.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.into_iter().flat_map(u64::to_le_bytes).take_while(|byte| *byte != 0);
        let plain = |byte: u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' };
        bytes.map(plain).try_for_each(|letter| fmt::Write::write_char(f, letter))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The mapping.
#[derive(Debug)]
pub struct Page {
    region: MmapRegion,
}

impl Page {
    /// A new one, all zero, whose size nobody changes.
    pub fn new() -> Result<Page, Error> {
        let fd = memfd_create("beamsplit-arbiter", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, BYTES as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Page::map(fd)
    }

    /// One that was passed.
    pub fn map(fd: OwnedFd) -> Result<Page, Error> {
        // The seal is looked at first: afterwards the size stays.
        let seals = fcntl_get_seals(&fd).map_err(|_| Error::Page)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) || fstat(&fd)?.st_size != BYTES as i64 {
            return Err(Error::Page);
        }
        let region = MmapRegion::from_file(FileOffset::new(File::from(fd), 0), BYTES).map_err(|_| Error::Page)?;
        Ok(Page { region })
    }

    /// The page's file.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.region.file_offset().map(|file| file.file().as_fd())
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        self.region.get_atomic_ref(at).expect("The words lie inside the page")
    }

    fn long(&self, at: usize) -> &AtomicU64 {
        self.region.get_atomic_ref(at).expect("The words lie inside the page")
    }

    /// Manager: what is granted from now on.
    pub fn grant(&self, grant: Grant) {
        self.word(at::GRANT).store(grant as u32, Ordering::Release);
    }

    /// Device: what is granted. A number that means nothing means [`Grant::Open`].
    pub fn granted(&self) -> Grant {
        match self.word(at::GRANT).load(Ordering::Acquire) {
            1 => Grant::Gated,
            2 => Grant::Held,
            _ => Grant::Open,
        }
    }

    /// Manager: for how long processes were stopped until now, and since when they are again.
    pub fn tell_stopped(&self, total: Duration, since: Option<Duration>) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let changes = self.word(at::CHANGES);
        // The only writer: what it reads is what it wrote, but for a device that scribbles, which misleads itself.
        let before = changes.load(Ordering::Relaxed) | 1;
        changes.store(before, Ordering::Relaxed);
        fence(Ordering::Release);
        self.long(at::STOPPED).store(nanos(total), Ordering::Relaxed);
        self.long(at::SINCE).store(since.map_or(0, nanos), Ordering::Relaxed);
        changes.store(before.wrapping_add(1), Ordering::Release);
    }

    /// Device: for how long processes were stopped until `now` (`CLOCK_MONOTONIC`). `None`: it is just being told.
    pub fn stopped(&self, now: Duration) -> Option<Duration> {
        let changes = self.word(at::CHANGES);
        for _ in 0..LOOKS {
            let before = changes.load(Ordering::Acquire);
            let total = Duration::from_nanos(self.long(at::STOPPED).load(Ordering::Relaxed));
            let since = self.long(at::SINCE).load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && changes.load(Ordering::Relaxed) == before {
                let current = (since > 0).then(|| now.saturating_sub(Duration::from_nanos(since)));
                return Some(total.saturating_add(current.unwrap_or_default()));
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Manager: what the device is to ring for from now on. Returns whether something waits to be done already: that is no ring.
    ///
    /// Each side writes its own word, then reads the other's, with a fence in between: so at least one of them sees what the
    /// other wrote. Either the device sees the call and rings, or the manager sees the work here and need not wait for the bell.
    pub fn call(&self, wanted: Wanted) -> bool {
        self.word(at::CALL).store(wanted.0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.word(at::WAITING).load(Ordering::Relaxed) > 0
    }

    /// Device: what it is to ring for. After [`report`](Self::report), not before.
    pub fn called(&self) -> Wanted {
        Wanted(self.word(at::CALL).load(Ordering::Relaxed))
    }

    /// Device: how its 3D gets on.
    pub fn report(&self, report: Report) {
        for (at, word) in at::COMMAND.into_iter().zip(report.command.0) {
            self.long(at).store(word, Ordering::Relaxed);
        }
        self.word(at::CONTEXT).store(report.context, Ordering::Relaxed);
        self.word(at::DONE).store(report.done, Ordering::Relaxed);
        self.word(at::WAITING).store(report.waiting, Ordering::Release);
        // See `call`.
        fence(Ordering::SeqCst);
    }

    /// Manager: what the device says. The words may be of different moments.
    pub fn reported(&self) -> Report {
        let waiting = self.word(at::WAITING).load(Ordering::Acquire);
        let [done, context] = [at::DONE, at::CONTEXT].map(|at| self.word(at).load(Ordering::Relaxed));
        let command = Name(at::COMMAND.map(|at| self.long(at).load(Ordering::Relaxed)));
        Report { waiting, done, command, context }
    }
}

/// The clock of the page.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
